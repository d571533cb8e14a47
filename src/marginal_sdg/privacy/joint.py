"""Noise in parts: several servers add one part each, and whoever knows one part still faces all the noise paid for."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ..errors import BudgetError
from .noise import Source

Counts = npt.NDArray[np.int64]

SERVERS = 3
GUMBEL_BITS = 24  # binary places of a score's grid
GUMBEL_LIMIT = 90 << GUMBEL_BITS  # no draw is larger: 128 random bits end before -log(2^-129) = 89.4


@dataclass(frozen=True)
class NoisyCells:
    """What each server adds to the cells of some tables. ``variance``: of all parts together, per cell.

    ``parts`` are those that are drawn here.
    """

    parts: tuple[list[Counts], ...]
    variance: Fraction


@dataclass(frozen=True)
class NoisyScores:
    """What each server adds to the scores of some candidates; the largest sum wins.

    ``unit``: how many steps of the noise's grid a score of 1 counts; ``limit``: no server's noise is larger, ``bound``:
    nor is the sum of all. ``parts`` are those that are drawn here.
    """

    parts: tuple[Counts, ...]
    unit: int
    limit: int
    bound: int


def part_variance(variance: Fraction, servers: int) -> Fraction:
    """Variance of each party's discrete Gaussian, so that those of all others together count as ``variance``.

    One party: a dealer who is trusted with the whole. Several: n = servers - 1 parts of variance v that one of them
    does not know. Their sum is almost a discrete Gaussian of variance n v: moving a cell by 1 costs at most
    (1 / (n v) + tau / 2) / 2 in zCDP with tau = 10 (n - 1) exp(-pi^2 v), which is to be 1 / (2 variance) at most. Cells
    that do not move cost nothing, so the bound does not grow with the table.

    Source: Kairouz, Liu, Steinke 2021, Proposition 14, in one dimension.
    """
    others = servers - 1
    if others <= 1:
        return variance
    # pi^2 v > 14 variance / n log 2 for v >= variance / n
    tau_below = 10 * (others - 1) * Fraction(1, 1 << min(int(14 * variance / others), 256))
    if 2 * variance < others or tau_below * variance >= 1:
        raise BudgetError(
            f"joint noise: variance {float(variance):.3g} is too small to split between {servers}; lower epsilon or "
            "add rounds"
        )
    return 1 / (others * (1 / variance - tau_below / 2))


def gumbel_unit(epsilon: Fraction, sensitivity: Fraction, bits: int = GUMBEL_BITS) -> int:
    """Steps of 2^-bits per unit of score, so that selecting by the largest noisy score has bounded range ``epsilon``.

    Rounded scores are exact multiples of the grid. The noise is off by less than one step, which multiplies any
    candidate's probability by at most exp(+-2 steps), so that epsilon is lowered by 8 steps first.
    """
    unit = int((epsilon * (1 << bits) - 8) / (2 * sensitivity))
    if unit < 1:
        raise BudgetError(f"joint selection: epsilon {float(epsilon):.3g} is below the noise's grid; raise epsilon")
    return unit


def gumbel(candidates: int, source: Source, bits: int = GUMBEL_BITS) -> Counts:
    """(candidates,) independent Gumbel noise in steps of 2^-bits (40 at most), off by less than a step.

    -log(-log U) with U of 128 random bits; near 1 it is computed from 1 - U, which has all its bits as well.
    """
    words = source.words(2 * candidates).reshape(2, candidates)
    upper = words[0] >= np.uint64(1 << 63)
    high, low = (np.where(upper, ~word, word).astype(np.float64) for word in words)
    distance = (high + (low + 0.5) * 2.0**-64) * 2.0**-64  # to the nearer end of the unit interval
    exponential = np.where(upper, -np.log1p(-distance), -np.log(distance))
    steps: Counts = np.rint(-np.log(exponential) * 2.0**bits).astype(np.int64)
    return steps
