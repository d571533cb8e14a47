"""For all budgets and all sequences of charges: conversions are sound, and the ledger adds up exactly."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from marginal_sdg.errors import BudgetError
from marginal_sdg.privacy import Budget, Charge, Ledger, Source, eps_from_rho_delta, rho_from_eps_delta

epsilons = st.floats(1e-3, 1e3)
deltas = st.floats(1e-12, 0.5)
charges = st.builds(
    Charge,
    what=st.just("release"),
    mechanism=st.sampled_from(["gaussian", "exponential"]),
    parameter=st.fractions(Fraction(1, 1000), 1000),
    per_record=st.integers(1, 20),
)


@given(epsilons, deltas)
@settings(max_examples=200, deadline=None)
def test_spending_rho_never_costs_more_than_epsilon(epsilon: float, delta: float) -> None:
    assert eps_from_rho_delta(rho_from_eps_delta(epsilon, delta), delta) <= epsilon


@given(st.tuples(epsilons, epsilons), deltas)
@settings(max_examples=200, deadline=None)
def test_more_epsilon_never_buys_less_rho(pair: tuple[float, float], delta: float) -> None:
    low, high = sorted(pair)
    slack = 1 + 1e-10  # neighbouring floats may be ordered by rounding
    assert rho_from_eps_delta(low, delta) <= rho_from_eps_delta(high, delta) * slack


@given(epsilons, st.tuples(deltas, deltas))
@settings(max_examples=200, deadline=None)
def test_a_smaller_delta_never_costs_less_epsilon(rho: float, pair: tuple[float, float]) -> None:
    low, high = sorted(pair)
    assert eps_from_rho_delta(rho, low) * (1 + 1e-10) >= eps_from_rho_delta(rho, high)


@given(st.lists(charges, max_size=30))
@settings(max_examples=100, deadline=None)
def test_ledger_spends_the_sum_of_accepted_charges_and_never_more_than_rho(wanted: list[Charge]) -> None:
    budget = Budget(5.0, 1e-5)
    ledger = Ledger(budget, Source.seeded(0))
    for charge in wanted:
        before = ledger.charges, ledger.spent
        fits = charge.rho <= ledger.remaining
        try:
            ledger.charge(charge)
        except BudgetError:
            assert not fits
            assert (ledger.charges, ledger.spent) == before
        else:
            assert fits
            assert ledger.charges == (*before[0], charge)
    assert ledger.spent == sum((charge.rho for charge in ledger.charges), Fraction(0)) <= budget.rho
    assert ledger.spent + ledger.remaining == budget.rho
    assert Ledger.from_dict(ledger.to_dict(), Source.seeded(1)).charges == ledger.charges


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_split_of_the_budget_exhausts_it_exactly(shares: list[int]) -> None:
    ledger = Ledger(Budget(1.0, 1e-9), Source.seeded(0))
    rho = ledger.remaining
    for share in shares:
        ledger.charge(Charge("part", "gaussian", sum(shares) / (2 * share * rho), 1))
    assert ledger.remaining == 0
