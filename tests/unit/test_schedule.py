"""Schedules spend the whole budget and not one unit more, whatever the numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest

from marginal_sdg.backends.variants import VARIANTS, flaim_costs
from marginal_sdg.errors import ConfigError
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.schedule import Annealed, Costs, FixedRounds, plan_schedule

RHO = Budget(1.0, 1e-5).rho


def spend(schedule, costs, stalled=lambda index: False):
    """Walk a schedule and add up what it costs."""
    step = schedule.initial
    spent = costs.initial / (2 * step.variance)
    steps = []
    while (step := schedule.next(step, RHO - spent, stalled(step.index))) is not None:
        spent += costs.rho(step.variance, step.epsilon2, last=step.last)
        steps.append(step)
    return spent, steps


@pytest.mark.parametrize("rounds", [0, 1, 5, 10, 13, 14, 100])
@pytest.mark.parametrize("attributes", [2, 14, 55])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("local_steps", [1, 4])
@pytest.mark.parametrize("sound", [True, False])
def test_fixed_rounds_spend_exactly_everything(rounds, attributes, variant, local_steps, sound):
    costs = flaim_costs(VARIANTS[variant], attributes, local_steps, sound=sound)
    spent, steps = spend(FixedRounds(rounds, costs, RHO, Fraction("0.9")), costs)
    assert spent == RHO
    assert len(steps) == rounds


@pytest.mark.parametrize(
    ("variant", "share", "sigma", "epsilon"),
    [
        ("naive", 0.9, 20.89, 0.0494),
        ("private", 0.9, 52.22, 0.0494),
        ("naive", 0.5, 28.03, 0.1106),
        ("private", 0.5, 70.06, 0.1106),
    ],
)
def test_lemma_4_1_gives_the_papers_noise_on_adult(variant, share, sigma, epsilon):
    costs = flaim_costs(VARIANTS[variant], 14, 1, sound=False)
    step = plan_schedule(10, costs, RHO, share, 1).initial
    assert step.sigma == pytest.approx(sigma, abs=0.005)
    assert float(step.epsilon2) ** 0.5 == pytest.approx(epsilon, abs=5e-5)


@pytest.mark.parametrize(("variant", "rounds"), [("naive", 0), ("random", 10)])
def test_where_nothing_is_selected_the_gaussians_get_everything(variant, rounds):
    costs = flaim_costs(VARIANTS[variant], 14, 1, sound=True)
    step = plan_schedule(rounds, costs, RHO, 0.5, 1).initial
    assert step.variance == Fraction(14 + rounds) / (2 * RHO)
    assert step.epsilon2 == 0


def test_a_census_needs_no_one_way_marginals_later():
    step = plan_schedule(10, flaim_costs(VARIANTS["census"], 14, 1, sound=True), RHO, 0.9, 1).initial
    assert step == plan_schedule(10, flaim_costs(VARIANTS["naive"], 14, 1, sound=True), RHO, 0.9, 1).initial


def test_sound_local_steps_pay_for_the_noisy_marginals_that_steer_them():
    paper = flaim_costs(VARIANTS["naive"], 14, 4, sound=False)
    sound = flaim_costs(VARIANTS["naive"], 14, 4, sound=True)
    assert (paper.gaussians, sound.gaussians) == (4, 7)


@pytest.mark.parametrize("stalled", [lambda i: False, lambda i: True, lambda i: i % 3 == 0])
def test_annealing_ends_with_nothing_left(stalled):
    costs = Costs(14, 1, 1, 1)
    spent, steps = spend(Annealed(224, costs, RHO, Fraction("0.9")), costs, stalled)
    assert spent == RHO
    assert steps[-1].last and not any(step.last for step in steps[:-1])


def test_annealing_halves_sigma_and_doubles_epsilon_when_a_round_stalls():
    schedule = Annealed(224, Costs(14, 1, 1, 1), RHO, Fraction("0.9"))
    first = schedule.next(schedule.initial, RHO, False)
    second = schedule.next(first, RHO, True)
    assert (second.variance, second.epsilon2) == (first.variance / 4, first.epsilon2 * 4)


@pytest.mark.parametrize("rounds", [1, 7, "adaptive"])
def test_rounds_are_numbered_from_nought_and_only_the_last_is_marked(rounds):
    costs = Costs(14, 1, 2, 3)
    spent, steps = spend(plan_schedule(rounds, costs, RHO, 0.9, 5), costs)
    assert spent == RHO
    assert [step.index for step in steps] == list(range(len(steps)))
    assert [step.last for step in steps] == [False] * (len(steps) - 1) + [True]


def test_a_round_costs_its_gaussians_and_selections_and_the_last_one_its_own():
    costs = Costs(initial=14, gaussians=1, last_gaussians=2, selections=3)
    assert costs.rho(Fraction(5), Fraction(8)) == Fraction(1, 10) + 3
    assert costs.rho(Fraction(5), Fraction(8), last=True) == Fraction(2, 10) + 3


def test_annealing_starts_with_the_noise_of_as_many_equal_rounds():
    costs, share = Costs(14, 2, 2, 3), Fraction("0.9")
    assert Annealed(5, costs, RHO, share).initial == FixedRounds(5, costs, RHO, share).initial


def test_annealing_closes_once_two_more_rounds_cannot_be_paid():
    costs = Costs(14, 1, 1, 1)
    schedule = plan_schedule("adaptive", costs, RHO, 0.9, 224)
    assert schedule == Annealed(224, costs, RHO, Fraction("0.9"))
    step = schedule.initial
    two = 2 * costs.rho(step.variance, step.epsilon2)
    assert not schedule.next(step, two, False).last
    assert schedule.next(step, two * Fraction(999, 1000), False).last


@pytest.mark.parametrize(
    ("rounds", "share", "message"),
    [
        (-1, 0.9, "rounds"),
        (1.5, 0.9, "rounds"),
        (True, 0.9, "rounds"),
        ("soon", 0.9, "adaptive"),
        (10, 0.0, "gaussian_share"),
        (10, 1.0, "gaussian_share"),
        (10, float("nan"), "gaussian_share"),
    ],
)
def test_bad_plans_name_the_parameter(rounds, share, message):
    with pytest.raises(ConfigError, match=message):
        plan_schedule(rounds, Costs(1, 1, 1, 1), RHO, share, 1)
