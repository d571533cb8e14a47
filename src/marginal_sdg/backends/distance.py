"""How far a marginal is from the model's: FHAIM's four scores, each in exact integers, with its true sensitivity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from marginal_sdg.errors import ConfigError
from marginal_sdg.marginals import Counts
from marginal_sdg.privacy.joint import GUMBEL_BITS
from marginal_sdg.scores import NOISE_PENALTY

NAMES = ("l2", "l2_squared", "l1_exact", "l1_poly")

_FRACTIONS = {"l2": 6, "l2_squared": 0, "l1_exact": 0, "l1_poly": 12}
_GRIDS = {"l2_squared": 40, "l1_poly": 32}  # a squared record is worth little; steps of the polynomial are small
_NODES = 64  # of the Gauss-Hermite quadrature


@dataclass(frozen=True)
class Distance:
    """The distance of integer counts M to public ones w, rounded to ``fraction`` binary places.

    ==========  ====================================  ============================================================
    name        of the differences d = M - w          changes by, at most, with a record (``sensitivity``)
    ==========  ====================================  ============================================================
    l2          sqrt(sum of d^2), rounded down        1
    l2_squared  sum of d^2                            2 records + 1, as no |d| exceeds the cap
    l1_exact    sum of abs(d)                         1
    l1_poly     sum of p(d), each rounded             the largest step of the rounded p within the cap
    ==========  ====================================  ============================================================

    p is the polynomial of degree 10 of ``crypto.ckks.polynomial``. Its largest step is found by looking at all of them.
    ``records``: the public cap that the holder keeps to, and that no count of w exceeds. ``approximate``: p comes
    unrounded and with errors below a step, as CKKS has it, so that 2^(1 - fraction) more is claimed.
    """

    name: str
    records: int
    approximate: bool = False

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(f"score: must be one of {', '.join(NAMES)}, got {self.name!r}")

    @property
    def fraction(self) -> int:
        """Binary places of a distance: it counts steps of 2^-fraction."""
        return _FRACTIONS[self.name]

    @property
    def grid(self) -> int:
        """Binary places of the noise that goes with it."""
        return _GRIDS.get(self.name, GUMBEL_BITS)

    @property
    def is_square(self) -> bool:
        """Whether it is computed from the sum of squares alone."""
        return self.name in ("l2", "l2_squared")

    @cached_property
    def sensitivity(self) -> float:
        """How much one record more or less changes it, in records (of "l2_squared" in squared records)."""
        if self.name == "l2_squared":
            return 2.0 * self.records + 1
        if self.name == "l1_poly":
            largest = abs(np.diff(self.steps)).max() + 2 * self.approximate
            return float(largest / 2.0**self.fraction)
        return 1.0

    @cached_property
    def steps(self) -> Counts:
        """(records + 1,) the polynomial at d = 0, 1, ... records in steps of 2^-fraction; it is even."""
        from marginal_sdg.crypto.ckks.polynomial import absolute

        exact = absolute()(np.arange(self.records + 1, dtype=np.float64), self.records)
        steps: Counts = np.rint(exact * 2.0**self.fraction).astype(np.int64)
        return steps

    def of_square(self, square: int) -> int:
        """From the sum of squares, where that decides it."""
        return math.isqrt(square << 2 * self.fraction) if self.name == "l2" else square

    def of(self, differences: Counts) -> int:
        """Of (cells,) integer differences, none beyond the cap, in steps of 2^-fraction."""
        if self.is_square:
            return self.of_square(int(differences @ differences))
        magnitudes = abs(differences)
        return int((self.steps[magnitudes] if self.name == "l1_poly" else magnitudes).sum())

    def noise(self, sigma: float, cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What measuring with that noise per cell leaves, for tables of (Q,) cells: expected, l2 its root mean square.

        In records (squared: of the paper's Theorem D.2).
        """
        if self.name == "l2":
            return sigma * np.sqrt(cells)
        if self.name == "l2_squared":
            return sigma**2 * cells
        return (NOISE_PENALTY * sigma if self.name == "l1_exact" else self._expected(sigma)) * cells

    def _expected(self, sigma: float) -> float:
        """Of the polynomial at a Gaussian of that sigma, cut at the cap."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        places = np.rint(np.minimum(abs(sigma * nodes), self.records)).astype(np.int64)
        return float(weights @ self.steps[places]) / math.sqrt(2 * math.pi) / float(2**self.fraction)
