"""Noise in parts: what a server that knows its own part still faces, by brute force and by statistics."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from marginal_sdg.errors import BudgetError
from marginal_sdg.privacy import Budget, Ledger, Source
from marginal_sdg.privacy.joint import GUMBEL_BITS, GUMBEL_LIMIT, gumbel, gumbel_unit, part_variance

LARGE = Budget(100.0, 1e-5)


def renyi_curve(part: float, alphas: np.ndarray) -> np.ndarray:
    """D_alpha(P || P shifted by 1) / alpha, P being the law of two discrete Gaussians of variance ``part``."""
    radius = int(60 * math.sqrt(part)) + 60
    x = np.arange(-radius, radius + 1)
    single = np.exp(-(x**2) / (2 * part))
    law = np.convolve(single / single.sum(), single / single.sum())
    centre = slice(radius, -radius)  # beyond it the probabilities underflow
    p, q = law[centre], law[radius - 1 : -radius - 1]
    kept = (p > 1e-290) & (q > 1e-290)
    log = np.log(p[kept]) - np.log(q[kept])
    return np.array([np.log(np.sum(p[kept] * np.exp((a - 1) * log))) / (a - 1) / a for a in alphas])


ALPHAS = np.concatenate([1 + np.geomspace(1e-4, 1, 25), np.linspace(2.5, 12, 20)])


@pytest.mark.parametrize(
    "variance", [Fraction(1), Fraction(3, 2), Fraction(2), Fraction(4), Fraction(30), Fraction(900)]
)
def test_two_unknown_parts_protect_as_much_as_is_charged(variance):
    curve = renyi_curve(float(part_variance(variance, 3)), ALPHAS)
    assert curve.max() <= float(1 / (2 * variance)) * (1 + 1e-7)  # of which the rounding of the sums takes 1e-8


def test_halving_the_variance_would_not_be_enough_where_noise_is_small():
    assert renyi_curve(0.25, ALPHAS).max() > 1 / (2 * 0.5)  # parity shows through


def test_parts_cost_next_to_nothing_more_than_half_the_variance():
    assert part_variance(Fraction(400), 3) == pytest.approx(200, rel=1e-12)
    assert part_variance(Fraction(400), 3) > 200
    assert part_variance(Fraction(400), 1) == 400


def test_noise_too_small_to_split_is_refused_before_it_is_charged():
    ledger = Ledger(LARGE, Source.seeded(0))
    with pytest.raises(BudgetError, match="too small to split between 3"):
        ledger.gaussian_parts([3], Fraction(9, 10), what="test")
    with pytest.raises(BudgetError, match="below the noise's grid"):
        ledger.gumbel_parts(3, Fraction(1, 10**16), sensitivity=1, what="test")
    assert ledger.spent == 0


def test_parts_are_charged_once_and_add_up_to_the_stated_variance():
    ledger = Ledger(LARGE, Source.seeded(1))
    noise = ledger.gaussian_parts([20_000, 5], Fraction(100), per_record=2, what="two tables")
    assert ledger.spent == Fraction(2, 200) and ledger.charges[0].by == "servers"
    assert [[len(table) for table in part] for part in noise.parts] == [[20_000, 5]] * 3
    total = np.sum([part[0] for part in noise.parts], axis=0)
    assert noise.variance == pytest.approx(150)
    assert total.var() == pytest.approx(150, rel=0.05)
    pairs = [np.corrcoef(noise.parts[i][0], noise.parts[j][0])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert max(map(abs, pairs)) < 0.03


def test_every_pair_of_servers_holds_a_complete_gumbel():
    noise = Ledger(LARGE, Source.seeded(2)).gumbel_parts(4000, Fraction(1), sensitivity=1, what="test")
    silent = [not part.any() for part in noise.parts]
    assert sum(silent) == 1
    assert max(np.abs(part).max() for part in noise.parts) < noise.limit == GUMBEL_LIMIT
    dealer = Ledger(LARGE, Source.seeded(2)).gumbel_parts(4, Fraction(1), sensitivity=1, servers=1, what="test")
    assert len(dealer.parts) == 1 and dealer.parts[0].any()


@pytest.mark.stat
def test_the_noise_follows_gumbels_law():
    drawn = gumbel(200_000, Source.seeded(3)) / 2**GUMBEL_BITS
    assert stats.kstest(drawn, stats.gumbel_r.cdf).pvalue > 1e-4
    assert stats.kstest(drawn * 1.02, stats.gumbel_r.cdf).pvalue < 1e-4  # a noise 2% too wide is told apart


@pytest.mark.stat
def test_the_largest_noisy_score_follows_the_exponential_mechanism():
    epsilon, scores = Fraction(1, 2), np.array([0, 3, 1, 7])
    source, winners = Source.seeded(4), np.zeros(4)
    unit = gumbel_unit(epsilon, Fraction(1))
    noise = gumbel(4 * 40_000, source).reshape(-1, 4)
    np.add.at(winners, np.argmax(scores * unit + noise, axis=1), 1)
    weights = np.exp(float(epsilon) * scores / 2)
    assert stats.chisquare(winners, winners.sum() * weights / weights.sum()).pvalue > 1e-4
    wrong = np.exp(1.1 * float(epsilon) * scores / 2)
    assert stats.chisquare(winners, winners.sum() * wrong / wrong.sum()).pvalue < 1e-4


def test_rounding_epsilon_pays_for_eight_steps_of_the_grid():
    epsilon, sensitivity = Fraction(1, 10), Fraction(2)
    unit = gumbel_unit(epsilon, sensitivity)
    grid = Fraction(1, 1 << GUMBEL_BITS)
    assert 2 * sensitivity * unit * grid + 8 * grid <= epsilon < 2 * sensitivity * (unit + 1) * grid + 8 * grid


class Extreme:
    """Bits that no generator would give twice."""

    def __init__(self, word: int) -> None:
        self.word = word

    def words(self, n: int) -> np.ndarray:
        return np.full(n, self.word, dtype=np.uint64)


@pytest.mark.parametrize("word", [0, 2**64 - 1, 2**63, 2**63 - 1, 1])
def test_no_bits_give_noise_beyond_the_stated_limit(word):
    noise = gumbel(3, Extreme(word))
    assert np.abs(noise).max() < GUMBEL_LIMIT


def test_both_tails_use_all_bits():
    high = gumbel(1, Extreme(2**64 - 2))[0] / 2**GUMBEL_BITS
    assert high == pytest.approx(64 * math.log(2), abs=1e-6)  # 1 - U is 2^-64 and a little
    assert gumbel(1, Extreme(2**64 - 1))[0] / 2**GUMBEL_BITS == pytest.approx(129 * math.log(2), abs=1e-6)
    assert gumbel(1, Extreme(0))[0] / 2**GUMBEL_BITS == pytest.approx(-math.log(129 * math.log(2)), abs=1e-6)
