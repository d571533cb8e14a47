"""The auditor: honest mechanisms pass, planted faults do not, and its own statistics are what they claim to be.

Fast tests judge at a false-alarm rate of 1e-6 and are seeded. The slow ones are the games of ``experiments/audit.py``
on whole mechanisms, at its confidence.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import expit, ndtr
from scipy.stats import binom, binomtest, norm

from marginal_sdg.backends.sum_noise import SumNoise
from marginal_sdg.experiment.canary import METHODS, Game, TellsTotal, skewed_scores
from marginal_sdg.experiment.sum_game import SumGame
from marginal_sdg.privacy import Budget, DiscreteGaussian, Ledger, Source
from marginal_sdg.privacy.audit import (
    Skimping,
    at_least,
    choice_evidence,
    claimed_mu,
    count_evidence,
    epsilon_of,
    judge,
    play_measure,
    play_select,
    power,
)

SURE = 1 - 1e-6
LARGE, SMALL = Budget(5.0, 1e-5), Budget(1.0, 1e-2)

pytestmark = pytest.mark.stat


class HalfVariance(Skimping):
    variance_factor = Fraction(1, 2)


class QuarterVariance(Skimping):
    variance_factor = Fraction(1, 4)


class DoubleEpsilon(Skimping):
    epsilon_factor = 2


# --- the ledger's mechanisms ----------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "runs"), [(LARGE, 800), (SMALL, 800)], ids=str)
@pytest.mark.parametrize("game", [play_measure, play_select])
def test_an_honest_ledger_is_as_private_as_it_claims_and_no_more(game, budget, runs):
    found = judge(*game(Ledger, budget, runs, seed=1), budget, SURE)
    assert not found.flagged
    spread = 2 / math.sqrt(runs)  # above the standard error of mu, sqrt(2 / runs) and a little more
    assert abs(found.mu - found.claimed_mu) < norm.isf(1e-6) * spread


@pytest.mark.parametrize(
    ("game", "ledger", "budget", "runs", "ratio"),
    [
        (play_measure, HalfVariance, LARGE, 2000, math.sqrt(2)),
        (play_measure, QuarterVariance, LARGE, 600, 2.0),
        (play_select, DoubleEpsilon, LARGE, 600, 2.0),
        pytest.param(play_measure, QuarterVariance, SMALL, 3000, 2.0, marks=pytest.mark.slow),
        pytest.param(play_select, DoubleEpsilon, SMALL, 3000, 2.0, marks=pytest.mark.slow),
    ],
)
def test_a_planted_fault_is_caught(game, ledger, budget, runs, ratio):
    claimed = claimed_mu(budget)
    assert power(ratio * claimed, claimed, runs, SURE) > 0.999
    found = judge(*game(ledger, budget, runs, seed=2), budget, SURE)
    assert found.flagged
    assert abs(found.mu - ratio * claimed) < 0.3 * claimed


@pytest.mark.parametrize(("sound", "flagged"), [(True, False), (False, True)])
def test_the_papers_normalisation_of_scores_is_caught_where_a_canary_can_show_it(sound, flagged):
    """Scaled to the exact number of records, scores move by almost 2 where 1 is charged: mu is 1.9 times too large."""
    (without, present), claimed = skewed_scores(sound=sound)
    assert np.abs(present - without).max() == pytest.approx(1.0 if sound else 2.0)
    scores = {"scores": (without, present), "sensitivity": claimed}
    assert judge(*play_select(Ledger, LARGE, 800, seed=3, **scores), LARGE, SURE).flagged is flagged


@pytest.mark.parametrize("fault", [HalfVariance, DoubleEpsilon])
def test_a_faulty_ledger_charges_as_an_honest_one(fault):
    """So it is the noise that gives it away."""
    ledgers = [kind(LARGE, Source.seeded(0)) for kind in (Ledger, fault)]
    for ledger in ledgers:
        ledger.gaussian([np.zeros(3, dtype=np.int64)], Fraction(50), what="x")
        ledger.select([np.zeros(3)], Fraction(1, 50), sensitivity=1.0, what="y")
    assert ledgers[0].charges == ledgers[1].charges


# --- whole mechanisms -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_honest_mechanism_is_not_flagged(method):
    without, present = Game(method, LARGE, rounds=1).play(40, seed=4)
    for k in range(2):
        assert not judge(without[:, k], present[:, k], LARGE, SURE).flagged
    assert judge(without[:, 0], present[:, 0], LARGE).mu > 0.2  # the auditor sees something: 1 is expected


@pytest.mark.parametrize("game", [{"curator": TellsTotal}, {"calibration": "paper"}], ids=["planted", "paper"])
def test_an_exact_number_of_records_is_caught(game):
    without, present = Game("AIM", LARGE, rounds=1, **game).play(60, seed=5)
    assert judge(without[:, 1], present[:, 1], LARGE, SURE).flagged


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_honest_mechanisms_spend_their_budget_and_no_more(method):
    """Measurements get nine tenths of rho, and this canary hardly shows in selections."""
    without, present = Game(method, LARGE, rounds=3).play(1000, seed=6)
    found = judge(without[:, 0], present[:, 0], LARGE)
    assert not found.flagged
    assert abs(found.mu - math.sqrt(0.9) * found.claimed_mu) < 0.25


@pytest.mark.slow
def test_aim_at_the_setting_of_a_published_audit():
    """mu 0.43 of 0.4548 claimed."""
    without, present = Game("AIM", SMALL, rounds=3).play(2000, seed=7)
    found = judge(without[:, 0], present[:, 0], SMALL)
    assert not found.flagged
    assert abs(found.mu - 0.4314) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize(("ledger", "runs"), [(HalfVariance, 1500), (QuarterVariance, 300)])
@pytest.mark.parametrize("method", METHODS)
def test_too_little_noise_is_caught_in_whole_mechanisms(method, ledger, runs):
    without, present = Game(method, LARGE, rounds=3, ledger=ledger).play(runs, seed=8)
    assert judge(without[:, 0], present[:, 0], LARGE).flagged


# --- sums with the clients' noise -----------------------------------------------------------------


class CountsAll(SumNoise):
    def honest(self, cohort, paid):
        return cohort


@pytest.mark.parametrize(("clients", "colluding", "share"), [(9, 2, 4 / 6), (3, 1, 1 / 2)])
def test_a_server_with_all_that_may_collude_sees_what_was_paid_for_and_others_less(clients, colluding, share):
    runs = 800
    without, present = SumGame(LARGE, clients=clients, colluding=colluding).play(runs, seed=12)
    for column, ratio in enumerate((math.sqrt(share), 1.0)):
        found = judge(without[:, column], present[:, column], LARGE, SURE)
        assert not found.flagged
        assert abs(found.mu - ratio * found.claimed_mu) < norm.isf(1e-6) * 2 / math.sqrt(runs)


@pytest.mark.parametrize(
    ("fault", "runs", "ratio"),
    [
        ({"without": True}, 300, 2.0),
        pytest.param({"anew": True}, 2500, math.sqrt(2), marks=pytest.mark.slow),
        pytest.param({"noise": CountsAll}, 2500, 1.44, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_sum_with_too_little_noise_against_colluding_clients_is_caught(fault, runs, ratio):
    claimed = claimed_mu(LARGE)
    assert power(ratio * claimed, claimed, runs, SURE) > 0.999
    without, present = SumGame(LARGE, **fault).play(runs, seed=13)
    found = judge(without[:, 1], present[:, 1], LARGE, SURE)
    assert found.flagged
    assert abs(found.mu - ratio * claimed) < 0.3 * claimed


def test_a_whole_fit_with_the_clients_noise_is_not_flagged():
    without, present = Game("AugFLAIM (Private)", LARGE, rounds=1, noise=SumNoise).play(40, seed=14)
    found = judge(without[:, 0], present[:, 0], LARGE, SURE)
    assert not found.flagged and judge(without[:, 0], present[:, 0], LARGE).mu > 0.2


# --- the auditor's statistics ---------------------------------------------------------------------


def test_count_evidence_is_the_ratio_of_the_discrete_gaussian():
    variance = Fraction(7, 2)
    drawn = DiscreteGaussian(variance).sample(50, Source.seeded(9))
    for x in drawn.tolist():
        exact = (x**2 - (x - 1) ** 2) / (2 * float(variance))
        assert count_evidence(x, float(variance)) == pytest.approx(exact)


def test_choice_evidence_is_the_ratio_of_the_exponential_mechanism():
    scores = np.array([0.0, 3.0, -1.0]), np.array([1.0, 2.0, -1.0])
    weights = [np.exp(1.5 * vector / 4) for vector in scores]
    ratio = (weights[1] / weights[1].sum()) / (weights[0] / weights[0].sum())
    for choice in range(3):
        assert choice_evidence(*scores, choice, 2.25, 2.0) == pytest.approx(math.log(ratio[choice]))


@pytest.mark.parametrize("confidence", [0.9, 0.999, SURE])
def test_the_bound_on_a_probability_is_clopper_pearsons(confidence):
    for successes in (0, 1, 37, 99, 100):
        known = binomtest(successes, 100, alternative="greater").proportion_ci(confidence, "exact").low
        assert at_least(successes, 100, confidence) == pytest.approx(known, abs=1e-12)


def test_power_is_the_share_of_simulated_audits_that_flag():
    rng = np.random.default_rng(10)
    mu, claimed, runs = 1.408, claimed_mu(LARGE), 300
    flags = 0
    for _ in range(400):
        without, present = rng.normal(0, 1, runs), rng.normal(mu, 1, runs)
        flags += judge(without, present, LARGE).mu_low > claimed
    expected = power(mu, claimed, runs)
    assert 0.2 < expected < 0.9
    assert binomtest(flags, 400, expected).pvalue > 1e-6


def test_bounds_hold_as_often_as_they_say():
    """Audits of a true Gaussian curve at confidence 0.9: both bounds fail in at most a tenth of them, up to chance."""
    rng, mu, delta = np.random.default_rng(11), 1.0, 1e-3
    budget = Budget(epsilon_of(mu, delta), delta)
    found = [judge(rng.normal(0, 1, 200), rng.normal(mu, 1, 200), budget, 0.9) for _ in range(400)]
    most = binom.isf(1e-6, 400, 0.1)
    assert sum(audit.mu_low > mu for audit in found) <= most
    assert sum(audit.epsilon_low > budget.epsilon for audit in found) <= most
    assert np.mean([audit.mu for audit in found]) == pytest.approx(mu, abs=0.05)


@pytest.mark.parametrize(("mu", "delta", "epsilon"), [(1.0, 1e-5, 4.37718), (0.5, 1e-5, 1.9931), (1.0, 1e-2, 2.3178)])
def test_epsilon_of_a_gaussian_curve(mu, delta, epsilon):
    found = epsilon_of(mu, delta)
    assert found == pytest.approx(epsilon, abs=1e-4)
    reached = ndtr(-found / mu + mu / 2) - math.exp(found) * ndtr(-found / mu - mu / 2)
    assert reached == pytest.approx(delta, rel=1e-6)


def test_scores_that_say_nothing_show_nothing():
    nothing = np.zeros(500)
    found = judge(nothing, nothing, LARGE)
    assert (found.mu, found.mu_low, found.epsilon_low) == (0.0, 0.0, 0.0)
    backwards = judge(np.ones(500), np.zeros(500), LARGE)
    assert (backwards.mu_low, backwards.epsilon_low) == (0.0, 0.0)


def test_scores_that_say_all_show_what_the_number_of_runs_allows():
    found = judge(np.zeros(1000), np.full(1000, np.inf), LARGE)
    assert found.mu == math.inf
    assert found.mu_low > 3 and found.epsilon_low > 4 and found.flagged


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((2, 2), (2, 2)), ((1,), (1,))])
def test_scores_that_do_not_pair_are_refused(shapes):
    with pytest.raises(ValueError, match="equally long"):
        judge(np.zeros(shapes[0]), np.zeros(shapes[1]), LARGE)


@pytest.mark.parametrize("draws", [1, 5, 20])
@pytest.mark.parametrize(("share", "excess"), [(0.0, 0.0), (0.3, 0.0025), (0.5, 0.0025), (0.9, 0.0003)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_the_claimed_gaussian_curve_covers_measurements_with_the_worst_selections(draws, share, excess, shift):
    """``judge`` compares with mu = sqrt(2 rho), which is exact for Gaussians and nearly so where selections join them.

    P(score with > score without) + P(tie) / 2 in closed form, of ``draws`` selections between two candidates and one
    Gaussian that split rho; ``excess`` is far below what an audit of a few thousand runs resolves.
    """
    for rho in (0.001, 0.01, 0.1, 0.5, 2.0):
        epsilon = math.sqrt(8 * rho * (1 - share) / draws)
        variance = 2 * rho * share  # of the Gaussian's log-likelihood ratio
        p, q = expit(shift - epsilon / 2), expit(shift + epsilon / 2)
        wins = np.arange(draws + 1)
        joint = binom.pmf(wins, draws, p)[:, None] * binom.pmf(wins, draws, q)
        gain, loss = math.log(q / p), math.log((1 - q) / (1 - p))
        difference = (wins[None, :] - wins[:, None]) * (gain - loss)
        if variance:
            ahead = ndtr((difference + variance) / math.sqrt(2 * variance))
        else:
            ahead = np.where(difference == 0, 0.5, difference > 0)
        assert float((joint * ahead).sum()) <= ndtr(math.sqrt(rho)) + excess + 1e-12
