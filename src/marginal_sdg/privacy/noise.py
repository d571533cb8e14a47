"""Exact samplers for private releases, and the sources of random bits that feed them.

Both samplers invert a distribution function against a uniform number U that is read bit by bit. The value
is settled as soon as the bits read so far say on which side of every boundary U lies; when they do not,
more bits of the *same* U are read and the boundaries are computed more finely. So the output has exactly
the stated distribution, given uniform bits. All boundaries are integers with proven lower and upper bounds;
the one use of floating point (`exact_choice`) decides only where a proven error bound leaves no doubt.

Running time depends on the drawn value in rare cases; timing side channels are not addressed.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from ..errors import BudgetError

if TYPE_CHECKING:
    from ..crypto.prg import Stream

Words = npt.NDArray[np.uint64]
Boundaries = tuple[list[int], list[int]]

LARGEST_VARIANCE = 1 << 34  # sigma 131,072: a table of some 1.2 million boundaries, 20 MB
_WORD = 64


class Source:
    """Where random bits come from: the operating system, a key of it, or a seed (reproducible, for simulation only)."""

    def __init__(self, seeds: np.random.SeedSequence | None, keyed: Stream | None = None) -> None:
        self._seeds = seeds
        self._bits = None if seeds is None else np.random.PCG64(seeds)
        self._keyed = keyed

    @classmethod
    def seeded(cls, seed: int | np.random.SeedSequence | None = None) -> Source:
        """Reproducible bits for experiments; never for a real release. None takes a fresh seed."""
        if isinstance(seed, np.random.SeedSequence):
            return cls(seed)
        if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
            raise BudgetError(f"seed must be a non-negative integer or a SeedSequence, got {seed!r}")
        return cls(np.random.SeedSequence(seed))

    @classmethod
    def system(cls) -> Source:
        """Bits from the operating system, for real releases; there is no seed to give."""
        return cls(None)

    @classmethod
    def keyed(cls, key: bytes) -> Source:
        """Bits of AES-256 under 32 secret bytes, which come from the operating system and are used for nothing else.

        For a release that a process goes on with after another: the same key gives the same bits.
        """
        from ..crypto.prg import Stream  # only here: a fit without kept sessions needs no cipher

        return cls(None, Stream(key))

    @property
    def secure(self) -> bool:
        """Whether the bits come from the operating system, or from AES under a key that does."""
        return self._seeds is None

    @property
    def seed(self) -> tuple[int, tuple[int, ...]] | None:
        """The whole number that it was made from, and its place among those made from it; None of a secure one."""
        if self._seeds is None:
            return None
        if not isinstance(self._seeds.entropy, int | np.integer):
            raise BudgetError("seed: must be a whole number where others draw the noise, not several")
        return int(self._seeds.entropy), tuple(map(int, self._seeds.spawn_key))

    def words(self, n: int) -> Words:
        """(n,) uint64 of independent uniform bits."""
        if self._bits is not None:
            return self._bits.random_raw(n)
        return np.frombuffer(os.urandom(8 * n), dtype=np.uint64) if self._keyed is None else self._keyed.draw(n)

    def key(self) -> bytes:
        """32 bytes for a cryptographic protocol between parties."""
        return self.words(4).tobytes()

    def spawn(self, n: int) -> list[Source]:
        """Make n independent sources of the same kind, e.g. one per client."""
        if self._seeds is not None:
            return [Source(seeds) for seeds in self._seeds.spawn(n)]
        return [Source(None) if self._keyed is None else Source.keyed(self.key()) for _ in range(n)]

    def generator(self) -> np.random.Generator:
        """Make a new numpy generator for post-processing (sampling rows, ties), never for private noise."""
        if self._seeds is None:
            return np.random.default_rng(int.from_bytes(self.key(), "little"))
        return np.random.default_rng(self._seeds.spawn(1)[0])


@dataclass(frozen=True)
class DiscreteGaussian:
    """Noise on the integers with P(x) proportional to exp(-x^2 / (2 variance)), drawn exactly.

    Independent draws added to integer counts of L2 sensitivity D are D^2 / (2 variance)-zCDP.
    Source: Canonne, Kamath, Steinke 2020, Definition 1 and Theorem 4, and its form for vectors.
    """

    variance: Fraction
    prefix_bits: int = field(default=63, repr=False)  # read at first; tests lower it to force ties

    def __post_init__(self) -> None:
        if not isinstance(self.variance, int | Fraction) or self.variance <= 0:
            raise BudgetError(f"variance must be a positive Fraction, got {self.variance!r}")
        if self.variance > LARGEST_VARIANCE:
            raise BudgetError(
                f"variance {float(self.variance):.6g} is above {LARGEST_VARIANCE} (sigma 131072): "
                "raise epsilon or ask for fewer releases"
            )
        object.__setattr__(self, "variance", Fraction(self.variance))

    def sample(self, shape: int | tuple[int, ...], source: Source) -> npt.NDArray[np.int64]:
        """Independent draws of the given shape, int64."""
        low, high = _gaussian_table(self.variance, self.prefix_bits)
        words = source.words(math.prod(shape) if isinstance(shape, tuple) else shape)
        prefix = words >> np.uint64(_WORD - self.prefix_bits)
        size = np.searchsorted(high, prefix, side="right").astype(np.int64, copy=False)
        for i in np.flatnonzero(low[size] <= prefix):  # undecided: about table size / 2^63 of all draws
            size[i] = _invert(int(prefix[i]), self.prefix_bits, self._boundaries, source)
        return cast("npt.NDArray[np.int64]", np.where(words & np.uint64(1), -size, size).reshape(shape))

    def _boundaries(self, bits: int) -> Boundaries:
        return _gaussian_boundaries(self.variance, bits)


def exact_choice(log_weights: npt.ArrayLike, source: Source) -> int:
    """Draw index i with probability exp(log_weights[i]) / sum, the floats taken as exact real numbers.

    Parameters
    ----------
    log_weights : (n,) float64, natural logarithms; -inf is weight 0.

    Notes
    -----
    Let W >= 1 be the true sum of the weights over the largest one, u = 2^-53, and np.exp right to 16 u (it
    claims better than 4 u). A computed weight w is off by at most 16 u w + u (|d| exp(-|d|) < 1 covers the
    rounded difference d), a running sum by n u W more, U W by two roundings: together below (4 n + 40) u W on
    the two sides of a comparison. The slack taken is (8 n + 512) u W; within it the same bits of U are used
    again, against `_choice_boundaries`.
    """
    weights = np.asarray(log_weights, dtype=np.float64)
    top = weights.max() if weights.ndim == 1 and weights.size else math.nan
    if not -math.inf < top < math.inf:
        raise BudgetError("log_weights must be a non-empty vector below +inf, without NaN, not all -inf")
    with np.errstate(over="ignore", under="ignore"):
        sums = np.exp(weights - top).cumsum()
    word = int(source.words(1)[0])
    total = float(sums[-1])
    position = word * 2.0**-_WORD * total
    slack = total * (weights.size + 64) * 2.0**-50
    i = int(sums.searchsorted(position, side="right"))
    if i < weights.size and position + slack < sums[i] and (i == 0 or sums[i - 1] <= position - slack):
        return i
    return _choose_slowly(weights, word, _WORD, source)


def _choose_slowly(log_weights: npt.NDArray[np.float64], prefix: int, bits: int, source: Source) -> int:
    candidates = np.flatnonzero(log_weights > -np.inf)
    exact = [Fraction(value) for value in log_weights[candidates].tolist()]
    return int(candidates[_invert(prefix, bits, lambda more: _choice_boundaries(exact, more), source)])


def _invert(prefix: int, bits: int, boundaries: Callable[[int], Boundaries], source: Source) -> int:
    """Find the first i with U < F(i), where U starts with the given bits and goes on in the source.

    ``boundaries(bits)`` gives integers low[i] <= 2^bits F(i) <= high[i]. All of U's continuations lie at or
    above F(i-1) once high[i-1] <= prefix, and below F(i) once prefix + 1 <= low[i].
    """
    while True:
        low, high = boundaries(bits)
        i = bisect_right(high, prefix)
        if prefix < low[i]:
            return i
        prefix = prefix << _WORD | int(source.words(1)[0])
        bits += _WORD


@lru_cache(maxsize=16)  # 300 MB at the very most, 0.7 MB at sigma 300
def _gaussian_table(variance: Fraction, bits: int) -> tuple[Words, Words]:
    low, high = _gaussian_boundaries(variance, bits)
    return np.array(low, dtype=np.uint64), np.array(high, dtype=np.uint64)


def _gaussian_boundaries(variance: Fraction, bits: int) -> Boundaries:
    """Bounds of 2^bits P(|X| <= k) for k = 0, 1, ... up to the first whose upper bound is 2^bits.

    Fixed point with ``scale`` bits, every operation rounded down. With w(k) = exp(-k^2 / 2v),
    w(k+1) = w(k) r(k) and r(k+1) = r(k) q; all are at most 1. In units of 2^-scale: q and r(0) fall short by
    less than 3, so r(k) by at most 4k + 3, w(k) by at most 2k(k+1), and w(0) + 2 w(1) + ... + 2 w(k) by at
    most 2 (k+1)^3. What lies beyond k is at most 2 (v/k) w(k), by comparison with the integral.
    """
    scale = bits + 96
    one = 1 << scale
    ratio, step = _exp_below(-1 / (2 * variance), scale), _exp_below(-1 / variance, scale)
    weight, sums, k = one, [one], 0
    while True:
        weight, ratio, k = weight * ratio >> scale, ratio * step >> scale, k + 1
        sums.append(sums[-1] + 2 * weight)
        tail = 2 * math.ceil(variance / k) * (weight + 2 * k * (k + 1))
        if tail << (bits + 16) <= sums[-1]:
            break
    error = 2 * (k + 1) ** 3
    low, high = _bracket(sums, error, sums[-1] + error + tail, bits)
    end = 1 + next(i for i, bound in enumerate(high) if bound >> bits)
    return low[:end], [*high[: end - 1], 1 << bits]


def _choice_boundaries(log_weights: list[Fraction], bits: int) -> Boundaries:
    """Bounds of 2^bits P(i <= k); each weight falls short by less than 3 units of 2^-scale."""
    scale, top = bits + 64, max(log_weights)
    sums = list(accumulate(_exp_below(value - top, scale) for value in log_weights))
    error = 3 * len(sums)
    return _bracket(sums, error, sums[-1] + error, bits)


def _bracket(sums: list[int], error: int, largest_total: int, bits: int) -> Boundaries:
    """Divide running sums, each up to ``error`` too small, by a total from sums[-1] to largest_total."""
    low = [(value << bits) // largest_total for value in sums]
    high = [-((-(value + error) << bits) // sums[-1]) for value in sums]
    return low, high


def _exp_below(x: Fraction, bits: int) -> int:
    """Give an integer q >= 0 with q <= 2^bits exp(x) < q + 3, for x <= 0.

    ``decimal`` rounds exp correctly, and rounding the argument moves exp(x) by less than half a unit in the
    last place of 1 (|x| exp(x) < 1/2). With 20 spare digits the product is right to 1e-15 before it is cut.
    """
    context = Context(prec=bits * 7 // 23 + 20, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation])
    value = context.exp(context.divide(Decimal(x.numerator), Decimal(x.denominator)))
    return max(int(context.multiply(value, Decimal(1 << bits))) - 1, 0)
