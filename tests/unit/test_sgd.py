"""DP-SGD's cost, against another library, and how the ledger pays for what zCDP cannot say."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from marginal_sdg.errors import BudgetError
from marginal_sdg.privacy import Budget, Charge, Ledger, Source, eps_from_rho_delta
from marginal_sdg.privacy.sgd import ORDERS, SgdPlan, SgdRandomness, best_order

BUDGET = Budget(5.0, 1e-5)
PACES = [(Fraction(128, 43958), 6868), (Fraction(29, 100), 50), (Fraction(1), 20)]  # the paper's two, and no sampling


def event(plan: SgdPlan) -> SelfComposedDpEvent:
    step = PoissonSampledDpEvent(float(plan.rate), GaussianDpEvent(plan.multiplier))
    return SelfComposedDpEvent(step, plan.steps)


@pytest.mark.parametrize(("rate", "steps"), PACES)
def test_divergence_agrees_with_dp_accounting(rate: Fraction, steps: int) -> None:
    plan = SgdPlan(1.3, rate, steps)
    for order in (2, 3, 5, 8, 16, 32):
        other = RdpAccountant([order]).compose(event(plan))._rdp[0]
        assert plan.rho(order) * order == pytest.approx(other, rel=0.01)
    for order in (2.5, 3.5, 4.7):  # interpolated from above
        other = RdpAccountant([order]).compose(event(plan))._rdp[0]
        assert other * (1 - 1e-9) <= plan.rho(order) * order <= other * 1.25


@pytest.mark.parametrize(("rate", "steps"), PACES)
def test_calibrated_noise_costs_the_budget_by_dp_accounting_and_no_more(rate: Fraction, steps: int) -> None:
    order = best_order(BUDGET, Fraction(1), rate, steps)
    plan = SgdPlan.within(BUDGET.rho_at(order), rate, steps, (order,))
    by_moments = RdpAccountant(ORDERS).compose(event(plan)).get_epsilon(BUDGET.delta)
    assert BUDGET.epsilon * 0.98 <= by_moments <= BUDGET.epsilon
    if steps < 100:  # the tight value, minutes for many steps
        assert PLDAccountant().compose(event(plan)).get_epsilon(BUDGET.delta) <= BUDGET.epsilon


@pytest.mark.parametrize("factor", [2 / 3, 1 / 2])
def test_too_little_noise_is_seen(factor: float) -> None:
    rate, steps = PACES[0]
    order = best_order(BUDGET, Fraction(1), rate, steps)
    plan = SgdPlan.within(BUDGET.rho_at(order), rate, steps, (order,))
    weak = SgdPlan(plan.multiplier * factor, rate, steps)
    assert RdpAccountant(ORDERS).compose(event(weak)).get_epsilon(BUDGET.delta) > BUDGET.epsilon * 1.2


def test_an_impossible_budget_is_refused_in_one_line() -> None:
    with pytest.raises(BudgetError, match="no noise is enough"):
        SgdPlan.within(Fraction(1, 10**14), Fraction(1), 1000, (2.0,))


# --- the ledger ----------------------------------------------------------------------------------


def test_epsilon_at_an_order_inverts_rho_and_never_beats_the_best_order() -> None:
    for order in (3.0, 5.0, 20.0):
        rho = BUDGET.rho_at(order)
        assert BUDGET.epsilon_at(float(rho), order) == pytest.approx(BUDGET.epsilon, rel=1e-9)
        assert BUDGET.epsilon_at(float(rho), order) <= BUDGET.epsilon
        assert rho < BUDGET.rho
        assert BUDGET.epsilon_at(0.01, order) > eps_from_rho_delta(0.01, BUDGET.delta)
    assert BUDGET.rho_at(BUDGET.order) == pytest.approx(BUDGET.rho, rel=1e-9)
    with pytest.raises(BudgetError, match=r"order 1\.01 gives no epsilon of 5"):
        BUDGET.rho_at(1.01)


def test_ledger_pays_for_sgd_beside_zcdp_and_refuses_what_is_left_no_more() -> None:
    books = Ledger(BUDGET, Source.seeded(0), order=4.0)
    limit = books.remaining
    books.charge(Charge("counts", "gaussian", 5 / limit, 1))
    plan = SgdPlan.within(books.remaining, *PACES[1], books.orders)
    SgdRandomness(plan, books, Source.seeded(1), what="training", by="curator")
    assert 0.999 * limit < books.spent <= limit
    assert BUDGET.epsilon * 0.999 < books.epsilon() <= BUDGET.epsilon
    assert any("floating point" in caveat for caveat in books.caveats)
    assert books.to_frame()["mechanism"].tolist() == ["gaussian", "renyi"]
    with pytest.raises(BudgetError, match="more training: needs rho"):
        SgdRandomness(plan, books, Source.seeded(1), what="more training", by="curator")


def test_a_shared_ledger_is_charged_at_its_own_order() -> None:
    shared = Ledger(Budget(8.0, 1e-6), Source.seeded(0))
    books = Ledger(BUDGET, Source.seeded(1), parent=shared)
    assert books.orders == (BUDGET.order, shared.orders[0])
    plan = SgdPlan.within(books.remaining, *PACES[0], books.orders)
    SgdRandomness(plan, books, Source.seeded(2), what="training", by="curator")
    assert float(shared.spent) >= max(plan.rho(order) for order in books.orders)
    # the two libraries agree that what the shared ledger says covers it
    assert RdpAccountant(ORDERS).compose(event(plan)).get_epsilon(1e-6) <= shared.epsilon()


def test_a_cost_known_at_other_orders_is_refused() -> None:
    books = Ledger(BUDGET, Source.seeded(0))
    with pytest.raises(BudgetError, match="known at other orders"):
        books.charge(Charge("training", "renyi", Fraction(1, 100), 1, orders=(4.0,)))
    with pytest.raises(BudgetError, match="orders: a 'renyi' charge needs them"):
        Charge("training", "renyi", Fraction(1, 100), 1)
    assert books.spent == 0


def test_a_saved_ledger_keeps_its_order() -> None:
    books = Ledger(BUDGET, Source.seeded(0), order=4.0)
    books.charge(Charge("training", "renyi", Fraction(1, 100), 1, orders=(4.0, 9.0)))
    again = Ledger.from_dict(json.loads(json.dumps(books.to_dict())), Source.seeded(1))
    assert (again.charges, again.orders, again.remaining) == (books.charges, books.orders, books.remaining)
    assert again.epsilon() == books.epsilon()


# --- randomness ----------------------------------------------------------------------------------


def randomness(rate: Fraction, seed: int = 0) -> SgdRandomness:
    books = Ledger(Budget(1000.0, 1e-5), Source.seeded(seed))
    return SgdRandomness(SgdPlan(50.0, rate, 100), books, Source.seeded(seed), what="x", by="curator")


@pytest.mark.stat
def test_batches_are_poisson_samples_at_the_rate() -> None:
    """Each record joins with the rate, independently of steps and of the other records: 5 sigma."""
    drawn, records, steps = randomness(Fraction(1, 20)), 2000, 200
    members = np.zeros((steps, records), dtype=bool)
    for step in range(steps):
        members[step, drawn.batch(records)] = True
    deviation = (0.05 * 0.95 / members.size) ** 0.5

    def fits(rate: float) -> bool:
        return bool(abs(members.mean() - rate) < 5 * deviation)

    assert fits(0.05)
    assert not fits(0.05 * 2 / 3) and not fits(0.05 * 3 / 2)
    sizes = members.sum(axis=1)  # a fixed batch size would have no variance
    assert 0.6 < sizes.var() / (records * 0.05 * 0.95) < 1.5
    assert abs(np.corrcoef(members[:-1].ravel(), members[1:].ravel())[0, 1]) < 5 / members.size**0.5


def test_batches_at_the_ends_of_the_range() -> None:
    assert randomness(Fraction(1)).batch(50).tolist() == list(range(50))
    assert randomness(Fraction(1, 2)).batch(0).size == 0


@pytest.mark.stat
def test_noise_is_standard_gaussian() -> None:
    """Kolmogorov-Smirnov at 1e-6; two thirds and three halves of the deviation are rejected."""
    from scipy.stats import kstest

    from marginal_sdg.privacy.sgd import gaussian_of

    noise = np.asarray(gaussian_of(randomness(Fraction(1, 2)).noise_bits(200_001)), dtype=np.float64)
    assert noise.shape == (200_001,)
    assert kstest(noise, "norm").pvalue > 1e-6
    for wrong in (2 / 3, 3 / 2):
        assert kstest(noise * wrong, "norm").pvalue < 1e-6
    assert 4 < np.abs(noise).max() < 5.5


def test_a_seed_repeats_and_the_operating_system_does_not() -> None:
    first, second = randomness(Fraction(1, 2)), randomness(Fraction(1, 2))
    assert first.batch(100).tolist() == second.batch(100).tolist()
    assert first.noise_bits(10).tolist() == second.noise_bits(10).tolist() != first.noise_bits(10).tolist()
    books = Ledger(Budget(1000.0, 1e-5), Source.system())
    plan = SgdPlan(50.0, Fraction(1, 2), 100)
    secure = [SgdRandomness(plan, books, Source.system(), what="x", by="curator") for _ in range(2)]
    assert secure[0].noise_bits(10).tolist() != secure[1].noise_bits(10).tolist()
