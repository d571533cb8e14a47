"""The samplers have the stated distributions, and the tests are sharp enough to notice a wrong scale.

Every test has a false-alarm rate of at most 1e-6; draws are seeded, so a pass stays a pass.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from marginal_sdg.privacy import Budget, DiscreteGaussian, Ledger, Source

ALPHA = 1e-6
DRAWS = 60_000
SIGMAS = [Fraction(1, 2), Fraction(1), Fraction(10), Fraction(300)]

pytestmark = pytest.mark.stat


def gaussian_p_value(drawn: np.ndarray, sigma: Fraction) -> float:
    """Chi-square of draws against the discrete Gaussian; neighbouring values are pooled to >= 20 expected."""
    reach = math.ceil(12 * sigma) + 2
    values = np.arange(-reach, reach + 1)
    weights = np.exp(-(values**2) / (2 * float(sigma) ** 2))
    expected = len(drawn) * weights / weights.sum()
    observed = np.bincount(np.clip(drawn, -reach, reach) + reach, minlength=len(values))
    bins = np.minimum(np.cumsum(expected) // max(20, len(drawn) / 200), (len(drawn) - 20) // 20).astype(int)
    _, bins = np.unique(bins, return_inverse=True)
    expected, observed = np.bincount(bins, expected), np.bincount(bins, observed)
    if expected[-1] < 20:  # the last pool may be a remainder
        expected = np.append(expected[:-2], expected[-2:].sum())
        observed = np.append(observed[:-2], observed[-2:].sum())
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_gaussian_passes_chi_square(sigma: Fraction) -> None:
    drawn = DiscreteGaussian(sigma**2).sample(DRAWS, Source.seeded(101))
    assert gaussian_p_value(drawn, sigma) > ALPHA


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("factor", [Fraction(2, 3), Fraction(3, 2)])
def test_chi_square_rejects_a_wrong_sigma(sigma: Fraction, factor: Fraction) -> None:
    drawn = DiscreteGaussian((factor * sigma) ** 2).sample(DRAWS, Source.seeded(102))
    assert gaussian_p_value(drawn, sigma) < ALPHA


@pytest.mark.parametrize(("sigma", "draws"), [(Fraction(1, 2), 20_000), (Fraction(1), 20_000), (Fraction(10), 1_000)])
def test_gaussian_with_constant_ties_passes_chi_square(sigma: Fraction, draws: int) -> None:
    # An eight-bit prefix leaves many draws undecided at first, so this runs the refinement in bulk.
    drawn = DiscreteGaussian(sigma**2, prefix_bits=8).sample(draws, Source.seeded(103))
    assert gaussian_p_value(drawn, sigma) > ALPHA


def test_gaussian_of_the_operating_system_passes_chi_square() -> None:
    drawn = DiscreteGaussian(Fraction(100)).sample(DRAWS, Source.system())
    assert gaussian_p_value(drawn, Fraction(10)) > ALPHA


def test_gaussian_approaches_the_continuous_one() -> None:
    drawn = DiscreteGaussian(Fraction(300**2)).sample(DRAWS, Source.seeded(104))
    spread = Source.seeded(105).generator().uniform(-0.5, 0.5, size=DRAWS)  # undoes the grid
    assert stats.kstest((drawn + spread) / 300, "norm").pvalue > ALPHA


def test_neighbouring_draws_are_uncorrelated() -> None:
    drawn = DiscreteGaussian(Fraction(100)).sample(DRAWS, Source.seeded(106)) / 10
    bound = stats.norm.isf(ALPHA / 8) / math.sqrt(DRAWS)
    for series in (drawn, np.abs(drawn) - np.abs(drawn).mean()):
        for lag in (1, 2):
            assert abs(np.mean(series[lag:] * series[:-lag])) < bound


# --- exponential mechanism, through the ledger ----------------------------------------------------

SCORES = np.array([0.0, 1.0, 2.0, 3.5, 5.0, 5.5, 6.0, 8.0, 9.0, 10.0])
EPSILON, SENSITIVITY = 1.0, 2.0


def choice_p_value(epsilon: float, assumed: float = EPSILON) -> float:
    """Chi-square of 10,000 selections made with ``epsilon`` against the mechanism with the assumed one."""
    ledger = Ledger(Budget(1000.0, 1e-5), Source.seeded(107))
    chosen = ledger.select([SCORES] * 10_000, Fraction(epsilon**2), sensitivity=SENSITIVITY, what="choice")
    weights = np.exp(assumed * SCORES / (2 * SENSITIVITY))
    expected = 10_000 * weights / weights.sum()
    return float(stats.chisquare(np.bincount(chosen, minlength=len(SCORES)), expected).pvalue)


def test_selection_passes_chi_square() -> None:
    assert choice_p_value(EPSILON) > ALPHA


@pytest.mark.parametrize("factor", [2.0, 0.5, math.sqrt(2), math.sqrt(0.5)])
def test_chi_square_rejects_a_wrong_epsilon(factor: float) -> None:
    assert choice_p_value(factor * EPSILON) < ALPHA
