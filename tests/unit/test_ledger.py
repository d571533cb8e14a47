"""The ledger charges first, draws second, never overspends, and keeps its books through a restart."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from marginal_sdg.errors import BudgetError, DataError
from marginal_sdg.privacy import Budget, Charge, DiscreteGaussian, Ledger, Source
from marginal_sdg.privacy import ledger as module

BUDGET = Budget(1.0, 1e-5)


class Broken(Source):
    """A source that fails when anything is drawn."""

    def __init__(self) -> None:
        super().__init__(None)

    def words(self, n: int) -> np.ndarray:
        raise RuntimeError("drawn")


def ledger(seed: int = 0, budget: Budget = BUDGET) -> Ledger:
    return Ledger(budget, Source.seeded(seed))


def counts(*shape: int) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


# --- paying ---------------------------------------------------------------------------------------


def test_charges_follow_the_two_formulas() -> None:
    assert Charge("m", "gaussian", Fraction(50), 1).rho == Fraction(1, 100)
    assert Charge("m", "gaussian", Fraction(50), 7).rho == Fraction(7, 100)
    assert Charge("s", "exponential", Fraction(1, 9), 1).rho == Fraction(1, 72)
    assert Charge("s", "exponential", Fraction(1, 9), 3).rho == Fraction(3, 72)


def test_budget_can_be_exhausted_exactly_and_not_by_one_unit_more() -> None:
    books = ledger()
    books.gaussian([counts(2)], 1 / (2 * BUDGET.rho), what="everything")
    assert books.spent == BUDGET.rho
    assert books.remaining == 0
    with pytest.raises(BudgetError, match=r"one unit more: needs rho 1e-30 but 0 of 0\.03\d+ is left; raise"):
        books.charge(Charge("one unit more", "exponential", 8 * Fraction(1, 10**30), 1))


@pytest.mark.parametrize("rounds", [1, 5, 10, 13, 14, 100])
@pytest.mark.parametrize("attributes", [2, 14, 55])
@pytest.mark.parametrize("local_steps", [1, 4])
def test_fixed_rounds_spend_rho_to_the_last_digit(rounds: int, attributes: int, local_steps: int) -> None:
    # FLAIM Lemma 4.1: nine tenths to T s + d Gaussians, one tenth to T s selections.
    books = ledger()
    share, steps = Fraction(9, 10), rounds * local_steps
    variance = (steps + attributes) / (2 * share * BUDGET.rho)
    epsilon2 = 8 * (1 - share) * BUDGET.rho / steps
    books.gaussian([counts(3)] * attributes, variance, per_record=attributes, what="one-way")
    for step in range(steps):
        assert books.select([np.array([0.0, 1.0])], epsilon2, sensitivity=1, what=f"select {step}") in (
            [0],
            [1],
        )
        books.gaussian([counts(3)], variance, what=f"measure {step}")
    assert books.spent == BUDGET.rho
    assert math.isfinite(books.epsilon())
    assert books.epsilon() <= BUDGET.epsilon


@pytest.mark.parametrize(
    "release",
    [
        lambda books: books.gaussian([counts(3)], Fraction(1), what="too much"),
        lambda books: books.select([np.zeros(3)], Fraction(9), sensitivity=1, what="too much"),
    ],
    ids=["gaussian", "select"],
)
def test_overspending_is_refused_before_anything_is_drawn_or_recorded(
    release: Callable[[Ledger], Any],
) -> None:
    books = Ledger(BUDGET, Broken())
    with pytest.raises(BudgetError, match="too much"):
        release(books)
    assert books.charges == ()
    assert books.spent == 0


@pytest.mark.parametrize(
    "release",
    [
        lambda books: books.gaussian([counts(3)], Fraction(10**4), what="release"),
        lambda books: books.select([np.zeros(3)], Fraction(1, 100), sensitivity=1, what="release"),
    ],
    ids=["gaussian", "select"],
)
def test_a_release_that_fails_while_drawing_stays_charged(release: Callable[[Ledger], Any]) -> None:
    books = Ledger(BUDGET, Broken())
    with pytest.raises(RuntimeError, match="drawn"):
        release(books)
    assert [charge.what for charge in books.charges] == ["release"]


def test_epsilon_is_reported_for_what_is_spent() -> None:
    books = ledger()
    assert books.epsilon() == 0
    books.charge(Charge("half", "gaussian", 1 / BUDGET.rho, 1))
    half = books.epsilon()
    books.charge(Charge("half", "gaussian", 1 / BUDGET.rho, 1))
    assert 0 < half < books.epsilon() <= BUDGET.epsilon
    assert books.epsilon() == pytest.approx(BUDGET.epsilon, rel=1e-9)


# --- measuring ------------------------------------------------------------------------------------


def test_gaussian_adds_one_draw_per_cell_in_order_and_leaves_the_tables_alone() -> None:
    tables = [counts(2, 3), counts(4), counts(1, 0), np.array(7)]
    before = copy.deepcopy(tables)
    noisy = ledger(5).gaussian(tables, Fraction(2500), per_record=4, what="measure")
    drawn = DiscreteGaussian(Fraction(2500)).sample(11, Source.seeded(5))
    assert (
        np.concatenate([table.ravel() for table in noisy]).tolist()
        == (np.concatenate([table.ravel() for table in tables]) + drawn).tolist()
    )
    assert [table.shape for table in noisy] == [table.shape for table in tables]
    assert all(table.dtype == np.int64 for table in noisy)
    assert all((a == b).all() for a, b in zip(tables, before, strict=True))


def test_an_empty_round_is_still_charged() -> None:
    books = ledger()
    assert books.gaussian([], Fraction(100), what="nobody") == []
    assert books.select([], Fraction(1, 100), sensitivity=1, what="nobody") == []
    assert [charge.by for charge in books.charges] == ["curator", "curator"]


@pytest.mark.parametrize(
    "table", [np.zeros(3), np.zeros(3, np.int32), np.zeros(3, bool), [0, 1], np.float64(2)], ids=repr
)
def test_gaussian_takes_int64_tables_only(table: Any) -> None:
    books = ledger()
    with pytest.raises(DataError, match="measure: tables must be int64 counts, got"):
        books.gaussian([counts(2), table], Fraction(100), what="measure")
    assert books.charges == ()


@pytest.mark.parametrize("variance", [0, Fraction(-1), 100.0, None])
def test_bad_variance_is_named(variance: Any) -> None:
    with pytest.raises(BudgetError, match="variance must be a positive Fraction"):
        ledger().gaussian([counts(2)], variance, what="measure")


def test_variance_without_a_sampler_is_refused_uncharged() -> None:
    books = ledger()
    with pytest.raises(BudgetError, match="is above"):
        books.gaussian([counts(2)], Fraction(10**12), what="measure")
    assert books.charges == ()


@pytest.mark.parametrize("per_record", [0, -1, 1.0, None])
def test_bad_multiplicity_is_named(per_record: Any) -> None:
    with pytest.raises(BudgetError, match="per_record must be a positive integer"):
        ledger().gaussian([counts(2)], Fraction(100), per_record=per_record, what="measure")


@pytest.mark.parametrize(("table", "kind"), [(np.zeros(3, np.int32), "int32"), ([0, 1], "list")])
def test_a_table_of_the_wrong_kind_is_named(table: Any, kind: str) -> None:
    with pytest.raises(DataError, match=f"int64 counts, got {kind}; convert"):
        ledger().gaussian([table], Fraction(100), what="measure")


def test_charge_refuses_an_unknown_mechanism() -> None:
    with pytest.raises(BudgetError, match="mechanism must be 'gaussian', 'exponential' or 'renyi', got 'laplace'"):
        Charge("x", "laplace", Fraction(1), 1)  # type: ignore[arg-type]


# --- selecting ------------------------------------------------------------------------------------


def test_select_draws_once_per_vector_and_pays_once_per_record() -> None:
    books = ledger(budget=Budget(100.0, 1e-5))
    scores = [np.array([0.0, 1e6]), np.array([1e6, 0.0, 0.0]), np.array([5.0])]
    assert books.select(scores, Fraction(1, 4), sensitivity=1.0, per_record=2, what="select") == [1, 0, 0]
    assert books.spent == Fraction(2, 32)


@pytest.mark.parametrize("epsilon2", [Fraction(2), Fraction(1, 3), Fraction(4), Fraction(10**-9), BUDGET.rho])
@pytest.mark.parametrize("sensitivity", [1, 2.0, 0.1, 1e-3, 12345.678])
def test_log_weights_never_differ_by_more_than_epsilon_pays_for(
    monkeypatch: pytest.MonkeyPatch, epsilon2: Fraction, sensitivity: float
) -> None:
    # The worst neighbours: a score that moves by the sensitivity, also where floats are coarse.
    seen: list[np.ndarray] = []
    monkeypatch.setattr(module, "exact_choice", lambda weights, source: seen.append(weights) or 0)
    books = Ledger(None, Source.seeded(0), private=False)
    starts = np.array([0.0, 1 / 3, -7.1, 1e5 + 0.1, 2.0**30 - 0.7]) * sensitivity
    books.select([starts, starts + sensitivity], epsilon2, sensitivity=sensitivity, what="select")
    for low, high, start in zip(*seen, starts, strict=True):
        moved = Fraction(start + sensitivity) - Fraction(start)  # rounded to within 2^-23 of the sensitivity
        assert abs(moved / Fraction(sensitivity) - 1) < Fraction(1, 2**22)
        paid = (Fraction(high) - Fraction(low)) * 2
        assert paid**2 <= epsilon2
        assert paid**2 >= epsilon2 * (1 - Fraction(1, 2**17))


def test_absurdly_large_scores_are_cut_where_floats_lose_the_sensitivity() -> None:
    scores = np.array([1e300, 2.0**31, -1e300])
    chosen = {ledger(seed).select([scores], Fraction(1, 100), sensitivity=1, what="s")[0] for seed in range(40)}
    assert chosen == {0, 1}


def test_weights_are_computed_in_double_precision_from_scores_cut_on_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(module, "exact_choice", lambda weights, source: seen.append(weights) or 0)
    scores = np.array([-1e30, -(2.0**31), 0.1, 2.0**31, 1e30], dtype=np.float32)
    ledger().select([scores], Fraction(1, 100), sensitivity=1, what="s")
    assert seen[0].dtype == np.float64
    assert seen[0][0] == seen[0][1] == -seen[0][3] == -seen[0][4]


@pytest.mark.parametrize("exponent", [-40, -9, 0, 9, 40])
@pytest.mark.parametrize("digits", [1, 2, Fraction(1, 3)])
def test_roots_are_rounded_down_and_right_to_sixty_bits(exponent: int, digits: Fraction) -> None:
    square = digits * Fraction(10) ** exponent
    assert square * (1 - Fraction(1, 2**58)) <= module._root_below(square) ** 2 <= square


@pytest.mark.parametrize("value", [Fraction(n, d) for n in range(1, 8) for d in (1, 3, 7, 10, 2**60)])
def test_floats_below_and_above_are_the_nearest_ones_on_their_side(value: Fraction) -> None:
    below, above = module._below(value), module._above(value)
    assert Fraction(below) <= value < Fraction(math.nextafter(below, math.inf))
    assert Fraction(math.nextafter(above, -math.inf)) < value <= Fraction(above)


@pytest.mark.parametrize("scores", [[], [math.nan], [1.0, math.inf], [-math.inf], [[1.0, 2.0]], 3.0])
def test_scores_must_be_finite_vectors(scores: Any) -> None:
    books = ledger()
    with pytest.raises(DataError, match="select: scores must be non-empty vectors of finite numbers"):
        books.select([np.array(scores)], Fraction(1, 100), sensitivity=1, what="select")
    assert books.charges == ()


@pytest.mark.parametrize("sensitivity", [0, -1.0, math.inf, math.nan, True])
def test_bad_sensitivity_is_named(sensitivity: Any) -> None:
    with pytest.raises(BudgetError, match="sensitivity must be a positive number, got"):
        ledger().select([np.zeros(2)], Fraction(1, 100), sensitivity=sensitivity, what="select")


@pytest.mark.parametrize("epsilon2", [0, Fraction(-1), 0.5])
def test_bad_epsilon2_is_named(epsilon2: Any) -> None:
    with pytest.raises(BudgetError, match="epsilon2 must be a positive Fraction"):
        ledger().select([np.zeros(2)], epsilon2, sensitivity=1, what="select")


# --- groups and shared ledgers --------------------------------------------------------------------


def test_a_group_of_k_records_pays_k_squared_for_every_release() -> None:
    books = Ledger(Budget(10.0, 1e-5), Source.seeded(0), group=3)
    books.gaussian([counts(2)], Fraction(900), what="measure")
    books.select([np.zeros(2)], Fraction(1, 100), sensitivity=1, per_record=2, what="select")
    assert [charge.group for charge in books.charges] == [3, 3]
    assert [charge.rho for charge in books.charges] == [Fraction(9, 1800), Fraction(18, 800)]
    assert books.allowance == books.remaining / 9
    assert books.adjacency == "add or remove up to 3 records of one person"
    state = books.to_dict()
    assert state["adjacency"] == books.adjacency
    assert Ledger.from_dict(state, Source.seeded(1)).allowance == books.allowance


@pytest.mark.parametrize("group", [0, -1, True, 1.0, None])
def test_bad_group_is_named(group: Any) -> None:
    with pytest.raises(BudgetError, match="records_per_person must be a positive integer, got"):
        Ledger(BUDGET, Source.seeded(0), group=group)
    with pytest.raises(BudgetError, match="group must be a positive integer, got"):
        Charge("x", "gaussian", Fraction(1), 1, group=group)


def test_charges_and_caveats_of_a_child_reach_its_parent() -> None:
    parent = Ledger(BUDGET, Source.system())
    child = Ledger(Budget(0.5, 1e-5), Source.system(), parent=parent)
    child.gaussian([counts(2)], Fraction(10**4), what="measure")
    child.warn("paper calibration: a")
    assert parent.charges == child.charges != ()
    assert parent.spent == child.spent
    assert parent.caveats == child.caveats == ("paper calibration: a",)


def test_a_charge_that_the_parent_refuses_is_recorded_by_neither() -> None:
    parent = Ledger(BUDGET, Source.seeded(0))
    child = Ledger(None, Broken(), parent=parent)
    with pytest.raises(BudgetError, match="too much"):
        child.gaussian([counts(2)], Fraction(1), what="too much")
    assert parent.charges == child.charges == ()
    assert parent.spent == child.spent == 0


def test_a_child_may_take_all_that_its_parent_has_left_and_not_more() -> None:
    parent = ledger()
    assert Ledger(BUDGET, Source.seeded(1), parent=parent).remaining == parent.remaining
    parent.charge(Charge("tiny", "exponential", Fraction(1, 10**30), 1))
    with pytest.raises(BudgetError, match=r"may spend rho 0\.03055\d+ but 0\.03055\d+ is left in the shared ledger"):
        Ledger(BUDGET, Source.seeded(1), parent=parent)
    parent.charge(Charge("rest", "gaussian", 1 / (2 * parent.remaining), 1))
    Ledger(None, Source.seeded(1), parent=parent)
    Ledger(BUDGET, Source.seeded(1), parent=Ledger(None, Source.seeded(0)))


def test_parent_and_child_must_protect_equal_groups() -> None:
    with pytest.raises(BudgetError, match="is 2 here, 1 in the shared ledger; make them equal"):
        Ledger(Budget(0.1, 1e-5), Source.seeded(0), group=2, parent=ledger())


# --- what a reader sees ---------------------------------------------------------------------------


def test_caveats_say_what_voids_the_guarantee() -> None:
    assert Ledger(BUDGET, Source.system()).caveats == ()
    assert any(text.startswith("simulation") for text in ledger().caveats)
    for books in (Ledger(None, Source.system()), Ledger(BUDGET, Source.system(), private=False)):
        assert any(text.startswith("NOT PRIVATE") for text in books.caveats)
        assert not books.private
        assert books.epsilon() == math.inf


def test_each_kind_of_ledger_has_its_own_caveat() -> None:
    simulation = "simulation: the noise comes from a seed, not from the operating system"
    outside = "NOT PRIVATE: exact values are used outside the ledger"
    assert ledger().caveats == (simulation,)
    assert Ledger(None, Source.system()).caveats == ("NOT PRIVATE: the ledger has no budget",)
    assert Ledger(BUDGET, Source.seeded(0), private=False).caveats == (outside, simulation)
    assert ledger().private


def test_warnings_are_kept_once_in_order() -> None:
    books = Ledger(BUDGET, Source.system())
    for text in ("paper calibration: a", "b", "paper calibration: a"):
        books.warn(text)
    assert books.caveats == ("paper calibration: a", "b")


def test_without_a_budget_there_is_no_limit() -> None:
    books = Ledger(None, Source.seeded(0), private=False)
    books.gaussian([counts(2)], Fraction(1, 10**6), what="measure")
    with pytest.raises(BudgetError, match="this ledger has none"):
        _ = books.remaining
    assert books.spent == 500_000
    assert books.to_frame()["share"].isna().all()


def test_frame_lists_every_charge_with_its_running_share() -> None:
    books = ledger()
    books.gaussian([counts(2)], 1 / BUDGET.rho, what="one-way", by="server")
    books.select([np.zeros(2)], 2 * BUDGET.rho, sensitivity=1, per_record=2, what="select", by="client")
    frame = books.to_frame()
    assert list(frame) == ["what", "mechanism", "sigma", "epsilon", "per_record", "rho", "share", "by"]
    assert frame["what"].tolist() == ["one-way", "select"]
    assert frame["mechanism"].tolist() == ["gaussian", "exponential"]
    assert frame["sigma"][0] ** -2 == pytest.approx(float(BUDGET.rho))
    assert frame["epsilon"][1] ** 2 == pytest.approx(2 * float(BUDGET.rho))
    assert frame["sigma"].isna().tolist() == [False, True]
    assert frame["epsilon"].isna().tolist() == [True, False]
    assert frame["per_record"].tolist() == [1, 2]
    assert frame["rho"].tolist() == [float(charge.rho) for charge in books.charges]
    assert frame["share"].tolist() == [0.5, 1.0]
    assert frame["by"].tolist() == ["server", "client"]
    assert list(ledger().to_frame()) == list(frame)


def test_html_shows_the_books_and_escapes_names() -> None:
    books = ledger()
    books.charge(Charge("<script>", "gaussian", Fraction(1000), 1))
    books.warn("NOT PRIVATE: <b>")
    page = books._repr_html_()
    assert "add or remove one record" in page
    assert "&lt;script&gt;" in page
    assert "NOT PRIVATE: &lt;b&gt;" in page
    assert "<script>" not in page


def test_repr_says_what_is_spent_of_what() -> None:
    books = ledger()
    books.charge(Charge("a", "gaussian", Fraction(100), 1))
    assert repr(books) == f"Ledger(rho 0.005 of {float(BUDGET.rho):.6g}, 1 charges)"
    assert repr(Ledger(None, Source.system())) == "Ledger(rho 0 no budget, 0 charges)"


def test_html_is_the_repr_the_caveats_and_a_table_without_row_numbers_or_nan() -> None:
    books = Ledger(BUDGET, Source.seeded(0), private=False)
    books.charge(Charge("a", "gaussian", Fraction(10**5, 9), 1))
    page = books._repr_html_()
    assert f'<p>{books!r}; adjacency: add or remove one record</p><ul><li class="bad">NOT PRIVATE' in page
    assert '</li><li class="warn">simulation' in page
    share = f"{float(Fraction(9, 200_000) / BUDGET.rho):.4g}"
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert cells == ["a", "gaussian", "105.4", "", "1", "4.5e-05", share, "curator"]


# --- restart --------------------------------------------------------------------------------------


def spent_ledger() -> Ledger:
    books = ledger()
    books.gaussian([counts(2)], 1 / BUDGET.rho, what="one-way")
    books.select([np.zeros(2)], BUDGET.rho, sensitivity=1, what="select", by="client")
    books.warn("paper calibration: a")
    return books


def test_a_resumed_ledger_keeps_its_spending_exactly() -> None:
    books = spent_ledger()
    resumed = Ledger.from_dict(json.loads(json.dumps(books.to_dict())), Source.system())
    assert resumed.charges == books.charges
    assert resumed.spent == books.spent
    assert resumed.budget == books.budget
    assert resumed.caveats == books.caveats
    resumed.charge(Charge("rest", "gaussian", 1 / (2 * resumed.remaining), 1))
    assert resumed.remaining == 0


@pytest.mark.parametrize("books", [Ledger(None, Source.seeded(0)), Ledger(BUDGET, Source.seeded(0), private=False)])
def test_a_resumed_oracle_ledger_stays_not_private(books: Ledger) -> None:
    resumed = Ledger.from_dict(books.to_dict(), Source.system())
    assert not resumed.private
    assert resumed.caveats == books.caveats


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("charges"),
        lambda state: state.update(budget={"epsilon": -1, "delta": 0.1}),
        lambda state: state.update(budget={"epsilon": 1.0}),
        lambda state: state["charges"][0].update(parameter="1/0"),
        lambda state: state["charges"][0].update(parameter="many"),
        lambda state: state["charges"][0].update(mechanism="laplace"),
        lambda state: state["charges"][0].pop("what"),
    ],
)
def test_a_damaged_file_is_refused(damage: Callable[[dict[str, Any]], Any]) -> None:
    state = spent_ledger().to_dict()
    damage(state)
    with pytest.raises(BudgetError, match="saved ledger is damaged"):
        Ledger.from_dict(state, Source.seeded(0))


def test_a_file_that_overspends_is_refused() -> None:
    state = spent_ledger().to_dict()
    state["charges"] *= 3
    with pytest.raises(BudgetError, match="is left"):
        Ledger.from_dict(state, Source.seeded(0))
