"""Budgets refuse bad values by name and convert without ever promising too little privacy."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from marginal_sdg.errors import BudgetError
from marginal_sdg.privacy import Budget, eps_from_rho_delta, rho_from_eps_delta

EPSILONS = [1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e6]
DELTAS = [1e-100, 1e-12, 1e-9, 1e-5, 1e-2, 0.5, 1 - 1e-6]


def test_round_trip_never_exceeds_epsilon_for_a_thousand_random_pairs() -> None:
    rng = np.random.default_rng(0)
    epsilons = 10 ** rng.uniform(-3, 3, size=1_000)
    deltas = 10 ** rng.uniform(-12, math.log10(0.5), size=1_000)
    for epsilon, delta in zip(epsilons.tolist(), deltas.tolist(), strict=True):
        back = eps_from_rho_delta(rho_from_eps_delta(epsilon, delta), delta)
        assert back <= epsilon
        assert back >= epsilon * (1 - 1e-6)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("delta", DELTAS)
def test_extreme_budgets_convert_without_nan_or_overflow(epsilon: float, delta: float) -> None:
    rho = rho_from_eps_delta(epsilon, delta)
    assert 0 < rho < math.inf
    assert eps_from_rho_delta(rho, delta) <= epsilon


@pytest.mark.parametrize("delta", DELTAS)
def test_rho_grows_with_epsilon_and_epsilon_with_rho(delta: float) -> None:
    grid = np.geomspace(1e-3, 1e3, 100).tolist()
    assert (np.diff([rho_from_eps_delta(epsilon, delta) for epsilon in grid]) > 0).all()
    epsilons = np.diff([eps_from_rho_delta(rho, delta) for rho in sorted([*grid, 1.0])])
    assert (epsilons >= 0).all()
    assert epsilons[-1] > 0


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_rho_grows_with_delta(epsilon: float) -> None:
    assert (np.diff([rho_from_eps_delta(epsilon, delta) for delta in np.geomspace(1e-12, 0.5, 100)]) > 0).all()


def test_nothing_spent_is_epsilon_zero() -> None:
    assert eps_from_rho_delta(0.0, 1e-5) == 0.0


def test_delta_alone_can_pay_for_a_small_rho() -> None:
    assert eps_from_rho_delta(1e-9, 0.5) == 0.0


def test_budget_keeps_rho_as_the_exact_rational_of_a_float() -> None:
    budget = Budget(1, 1e-5)
    assert isinstance(budget.rho, Fraction)
    assert budget.rho == Fraction(rho_from_eps_delta(1.0, 1e-5))
    assert budget == Budget(1.0, np.float64(1e-5))


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", None, True, 1e6 + 1, [1.0]])
def test_bad_epsilon_is_named_with_its_value_and_range(value: Any) -> None:
    for call in (lambda: Budget(value, 1e-5), lambda: rho_from_eps_delta(value, 1e-5)):
        with pytest.raises(BudgetError, match=r"epsilon must be a number between 1e-06 and 1e\+06, got ") as error:
            call()
        assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [0, 1, -0.1, 2, math.nan, "1e-5", None, False])
def test_bad_delta_is_named_with_its_value_and_range(value: Any) -> None:
    calls = (
        lambda: Budget(1.0, value),
        lambda: rho_from_eps_delta(1.0, value),
        lambda: eps_from_rho_delta(1.0, value),
    )
    for call in calls:
        with pytest.raises(BudgetError, match=r"delta must be a number between 1e-100 and 0\.999999, got "):
            call()


@pytest.mark.parametrize("value", [-1e-9, 1e9 + 1, math.nan, math.inf, "1", None])
def test_bad_rho_is_named(value: Any) -> None:
    with pytest.raises(BudgetError, match=r"rho must be a number between 0 and 1e\+09, got "):
        eps_from_rho_delta(value, 1e-5)
