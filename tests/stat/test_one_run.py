"""The one-run audit: its bound holds, is tight for randomised response, and catches FLAIM with too little noise.

Seeded; statistical tests have a false-alarm rate of 1e-6 where they say nothing else.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binom, norm

from marginal_sdg.experiment.one_run import METHODS, play_one_run
from marginal_sdg.federations import SIZE_SHARE
from marginal_sdg.privacy import Budget
from marginal_sdg.privacy.audit import Skimping, at_least
from marginal_sdg.privacy.one_run import claim_at, epsilon_low, judge_one_run, p_value

LARGE, SMALL = Budget(5.0, 1e-5), Budget(1.0, 1e-2)
CANARIES, MANY = 8_000, 20_000

pytestmark = pytest.mark.stat


class QuarterSigma(Skimping):
    variance_factor = Fraction(1, 16)


# --- the bound ------------------------------------------------------------------------------------


def randomised_response(rng, m, epsilon, delta=0.0, leak="none"):
    """Evidence of the coins that is (epsilon, delta)-private: a leak tells the truth, of all coins or one by one."""
    coins = rng.random(m) < 0.5
    told = coins ^ (rng.random(m) > expit(epsilon))
    leaked = {"none": False, "all": rng.random() < delta, "each": rng.random(m) < delta}[leak]
    return np.where(leaked, 2.0, 1.0) * np.where(np.where(leaked, coins, told), 1, -1), coins


@pytest.mark.parametrize(
    ("epsilon", "delta", "leak"),
    [(0.0, 0.0, "none"), (1.0, 0.0, "none"), (3.0, 0.0, "none"), (1.0, 0.02, "all"), (1.0, 0.02, "each")],
)
@pytest.mark.parametrize("share", [1, 3])
def test_the_bound_exceeds_a_known_epsilon_no_more_often_than_it_says(epsilon, delta, leak, share):
    """400 audits at confidence 0.9, of all canaries and of the surest third: at most a tenth fails, up to chance."""
    rng, m = np.random.default_rng(1), 300
    r = m // share
    needed = bisect_right(range(r + 1), epsilon, key=lambda v: epsilon_low(m, r, v, delta, 0.9))
    fails = 0
    for _ in range(400):
        evidence, coins = randomised_response(rng, m, epsilon, delta, leak)
        surest = np.argsort(-np.abs(evidence), kind="stable")[:r]
        fails += int(((evidence > 0) == coins)[surest].sum()) >= needed
    assert fails <= binom.isf(1e-6, 400, 0.1)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_the_bound_is_tight_for_randomised_response(epsilon):
    m = 20_000
    found = judge_one_run(*randomised_response(np.random.default_rng(2), m, epsilon), Budget(epsilon, 1e-9), [m])
    rate = expit(epsilon)
    error = 1 / math.sqrt(m * rate * (1 - rate))  # of the logit of an observed rate
    assert epsilon - (norm.isf(0.05) + norm.isf(1e-6)) * error < found.epsilon_low <= epsilon


@pytest.mark.parametrize("confidence", [0.9, 0.999])
def test_without_delta_the_bound_is_clopper_pearsons_on_the_share_of_right_guesses(confidence):
    for correct in (0, 37, 60, 99, 100):
        known = max(0.0, float(logit(at_least(correct, 100, confidence))))
        assert epsilon_low(500, 100, correct, 0.0, confidence) == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize(("m", "r", "v"), [(8, 5, 4), (6, 6, 6), (9, 3, 0), (40, 7, 1)])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.0])
def test_the_p_value_is_the_theorems(m, r, v, epsilon):
    rate, delta = expit(epsilon), 0.004

    def chance(low, high):  # low <= W < high, by enumeration
        return sum(math.comb(r, w) * rate**w * (1 - rate) ** (r - w) for w in range(max(low, 0), high))

    term = max(chance(v - i, v) / i for i in range(1, m + 1))
    assert p_value(m, r, v, epsilon, delta) == pytest.approx(min(1.0, chance(v, r + 1) + 2 * m * delta * term))


def test_a_large_delta_hides_a_large_epsilon():
    """With all guesses right: why claims at delta 1e-2 are audited at a smaller delta of the same zCDP."""
    best = {m: epsilon_low(m, m, m, 1e-2, 0.95) for m in (5, 10, 15, 20, 25, 30, 50, 100, 1000, 20_000)}
    assert max(best, key=best.__getitem__) == 25
    assert best[25] < 1.01 and best[1000] < 0.6 and best[20_000] < 0.5
    smaller = claim_at(SMALL, 1e-5)
    assert 1.9 < smaller.epsilon < 2.0
    assert float(smaller.rho) == pytest.approx(float(SMALL.rho), rel=1e-6)


def test_numbers_of_guesses_share_the_error_probability():
    evidence, coins = randomised_response(np.random.default_rng(3), 500, 2.0)
    claim = Budget(2.0, 1e-6)
    single = [judge_one_run(evidence, coins, claim, [r], 1 - 0.1 / 2) for r in (100, 500)]
    both = judge_one_run(evidence, coins, claim, (100, 500), 0.9)
    assert both.epsilon_low == max(one.epsilon_low for one in single)
    assert (both.canaries, both.confidence, both.claimed_epsilon) == (500, 0.9, 2.0)


@pytest.mark.parametrize(
    ("evidence", "coins", "guesses", "match"),
    [
        (np.zeros(3), np.zeros(4), [1], "one coin per score"),
        (np.zeros((2, 2)), np.zeros((2, 2)), [1], "one coin per score"),
        (np.zeros(3), np.zeros(3), [4], "guesses must lie in 1..3"),
        (np.zeros(3), np.zeros(3), [0], "guesses must lie in 1..3"),
        (np.zeros(3), np.zeros(3), [], "guesses must lie in 1..3"),
    ],
)
def test_what_cannot_be_judged_is_refused(evidence, coins, guesses, match):
    with pytest.raises(ValueError, match=match):
        judge_one_run(evidence, coins, LARGE, guesses)


@pytest.mark.parametrize("counts", [(5, 6, 1), (5, 3, 4), (5, 3, -1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="correct <= guesses <= canaries"):
        p_value(*counts, 1.0, 0.0)


# --- FLAIM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(("method", "seen"), list(zip(METHODS, [1.0, 2 / 3], strict=True)))
def test_the_evidence_is_the_log_likelihood_ratio_of_what_the_method_spends(method, seen, rounds):
    """Its mean is mu^2 / 2 with a canary and -mu^2 / 2 without; the odds that a canary is in are its exponential."""
    evidence, coins = play_one_run(method, LARGE, CANARIES, 4, rounds=rounds)
    squared = float(2 * LARGE.rho * (1 - SIZE_SHARE)) * 0.9 * seen  # mu^2: the share of rho that the auditor sees
    spread = norm.isf(1e-6) * math.sqrt(squared / CANARIES)
    assert float((evidence * np.where(coins, 1, -1)).mean()) == pytest.approx(squared / 2, abs=spread)
    chance = expit(evidence)
    for part in np.array_split(np.argsort(evidence), 5):
        error = math.sqrt(float((chance * (1 - chance))[part].sum()))
        assert abs(float((coins - chance)[part].sum())) < norm.isf(1e-7) * error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("budget", "delta"), [(LARGE, 1e-6), (SMALL, 1e-5)])
def test_an_honest_run_is_not_flagged(method, budget, delta):
    """The bounds stay far below the claims, as one-run bounds of Gaussian noise do."""
    for seed in range(3):
        evidence, coins = play_one_run(method, budget, CANARIES, seed)
        assert not judge_one_run(evidence, coins, budget, [CANARIES // 8]).flagged
        found = judge_one_run(evidence, coins, claim_at(budget, delta), [CANARIES // 8])
        assert not found.flagged
        assert found.epsilon_low > 0.3  # the auditor sees something


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("budget", "delta"), [(LARGE, 1e-6), (SMALL, 1e-5)])
def test_a_quarter_of_the_noise_is_caught_in_one_run(method, budget, delta):
    evidence, coins = play_one_run(method, budget, MANY, 5, ledger=QuarterSigma)
    assert judge_one_run(evidence, coins, claim_at(budget, delta), [MANY // 8]).flagged


def test_a_run_is_repeatable_and_its_coins_do_not_depend_on_the_ledger():
    first, second = (play_one_run("NaiveFLAIM", LARGE, 100, 6) for _ in range(2))
    planted = play_one_run("NaiveFLAIM", LARGE, 100, 6, ledger=QuarterSigma)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert np.array_equal(first[1], planted[1]) and not np.array_equal(first[0], planted[0])
