"""DP-SGD: what it costs, and its two kinds of randomness, Poisson batches and Gaussian noise.

A step adds up clipped per-example gradients over a batch in which every record is with probability ``rate``,
independently, and adds Gaussian noise. Its Renyi divergence is small at low orders only, which zCDP cannot say; so it
is charged to the ledger at the ledger's own orders. Source: Abadi et al. 2016; Mironov, Talwar, Zhang 2019, by way of
the package autodp.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..crypto.prg import Stream
from ..errors import BudgetError
from .budget import Budget
from .ledger import Charge, Ledger
from .noise import Source

if TYPE_CHECKING:
    import jax

ORDERS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0, 25.0, 32.0, 48.0, 64.0)
FLOATING_POINT = "noise in floating point: single-precision Gaussian noise on gradients, cut at 5.4 sigma"
_LARGEST_MULTIPLIER = 1e5
_WORD = 1 << 32


@dataclass(frozen=True)
class SgdPlan:
    """``steps`` steps on batches of Poisson ``rate``, noise standard deviation ``multiplier`` clipping norms."""

    multiplier: float
    rate: Fraction
    steps: int

    def rho(self, order: float) -> float:
        """Renyi divergence at ``order`` over that order, for adding or removing one record."""
        return self.steps * _renyi(self.multiplier, float(self.rate), order) / order

    @classmethod
    def within(cls, rho: Fraction, rate: Fraction, steps: int, orders: tuple[float, ...]) -> SgdPlan:
        """The least noise (to 1e-4) that costs at most ``rho`` at all of the ``orders``. BudgetError if none does."""

        def affordable(multiplier: float) -> bool:
            plan = cls(multiplier, rate, steps)
            return all(plan.rho(order) <= rho * (1 - Fraction(1, 10**9)) for order in orders)

        return cls(_least(affordable), rate, steps)


@lru_cache(maxsize=64)
def best_order(budget: Budget, share: Fraction, rate: Fraction, steps: int) -> float:
    """The order at which DP-SGD with ``share`` of the budget needs least noise; the rest is for zCDP releases.

    To be asked with public guesses of ``rate`` and ``steps``: a wrong guess costs accuracy, never privacy.
    """
    limits = {}
    for order in ORDERS:
        try:
            limits[order] = share * budget.rho_at(order)
        except BudgetError:
            continue

    def slack(multiplier: float) -> dict[float, float]:
        plan = SgdPlan(multiplier, rate, steps)
        return {order: float(limit) - plan.rho(order) for order, limit in limits.items()}

    if not limits:  # a tiny epsilon: zCDP's own order is large and as good
        return budget.order
    try:
        least = slack(_least(lambda multiplier: max(slack(multiplier).values()) >= 0))
    except BudgetError:
        return budget.order
    return max(least, key=lambda order: least[order])


def _least(affordable: Callable[[float], bool]) -> float:
    """Smallest noise multiplier that ``affordable`` accepts, rounded up by less than 1e-4 of itself."""
    high = 1.0
    while not affordable(high):
        high *= 2
        if high > _LARGEST_MULTIPLIER:
            raise BudgetError("DP-SGD: no noise is enough for this budget; raise epsilon or take fewer steps")
    low = high / 2
    while high > 1 / 16 and affordable(low):
        low, high = low / 2, low
    while high > low * (1 + 1e-4):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if affordable(middle) else (middle, high)
    return high


def _renyi(multiplier: float, rate: float, order: float) -> float:
    """Renyi divergence of one Poisson-sampled Gaussian step; between whole orders by convexity, from above."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # autodp's sources make Python warn
        from autodp import rdp_acct, rdp_bank
    if rate >= 1 or order > 256:  # above, autodp approximates; sampling never costs more than not sampling
        return order / (2 * multiplier**2)
    account = rdp_acct.anaRDPacct(m=4)
    account.compose_poisson_subsampled_mechanisms(lambda a: rdp_bank.RDP_gaussian({"sigma": multiplier}, a), rate)
    account.build_zeroth_oracle()
    return float(account.evalRDP(order))


class SgdRandomness:
    """Batches and noise of one training run, paid for in the ledger when made.

    Bits come from AES in counter mode under keys of ``source``: of the operating system in a real release.
    """

    def __init__(self, plan: SgdPlan, ledger: Ledger, source: Source, *, what: str, by: str) -> None:
        orders = ledger.orders
        rho = Fraction(max(plan.rho(order) for order in orders)) * (1 + Fraction(1, 10**12))
        ledger.charge(Charge(what, "renyi", rho, 1, by, orders=orders))
        ledger.warn(FLOATING_POINT)
        self.plan = plan
        self._batches, self._noise = (Stream(part.key()) for part in source.spawn(2))
        self._threshold = np.uint64(math.floor(plan.rate * _WORD))

    def batch(self, records: int) -> npt.NDArray[np.int64]:
        """Positions of the records in this step's batch: each independently with probability ``rate``."""
        return np.flatnonzero(self._bits(self._batches, records) < self._threshold)

    def noise_bits(self, size: int) -> npt.NDArray[np.uint32]:
        """Bits for :func:`gaussian_of`: (size,) uint32."""
        return self._bits(self._noise, size)

    @staticmethod
    def _bits(stream: Stream, size: int) -> npt.NDArray[np.uint32]:
        return stream.draw((size + 1) // 2).view(np.uint32)[:size]


def gaussian_of(bits: jax.Array) -> jax.Array:
    """Standard Gaussians from uniform 32-bit words, by inversion of 24 of their bits: (n,) float32."""
    import jax
    import jax.numpy as jnp

    signed = (bits >> 8).astype(jnp.int32) - (1 << 23)
    return jnp.sqrt(2.0) * jax.lax.erf_inv((signed.astype(jnp.float32) + 0.5) * 2.0**-23)
