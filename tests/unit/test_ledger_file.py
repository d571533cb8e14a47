"""The ledger file: exact addition over runs, refusals that record nothing, and damaged files."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from marginal_sdg.errors import BudgetError
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger_file import FiledLedger, LedgerFile

ONE = Budget(1.0, 1e-5)


def spent(path: Path) -> Fraction:
    return sum((Fraction(run["rho"]) for run in json.loads(path.read_text())["runs"]), Fraction(0))


def test_reservations_add_up_exactly_to_the_total_and_not_beyond(tmp_path):
    path = tmp_path / "l.json"
    LedgerFile(path, ONE).reserve(ONE, "all of it")
    assert spent(path) == ONE.rho
    before = path.read_bytes()
    with pytest.raises(BudgetError, match=r"but 0 of 0\.0305566 is left for this table"):
        LedgerFile(path).reserve(Budget(1e-3, 1e-5), "a little more")
    assert path.read_bytes() == before


def test_the_file_is_written_at_the_first_charge_before_noise_is_drawn(tmp_path, monkeypatch):
    path = tmp_path / "l.json"
    ledger = FiledLedger(LedgerFile(path, ONE), ONE, "a fit")
    assert not path.exists()

    def no_noise(*_: object) -> None:
        assert spent(path) == ONE.rho
        raise KeyboardInterrupt

    monkeypatch.setattr(type(ledger.source), "words", no_noise)
    with pytest.raises(KeyboardInterrupt):
        ledger.gaussian([np.zeros(3, dtype=np.int64)], Fraction(50), what="a marginal")
    assert spent(path) == ONE.rho


def test_a_session_that_is_gone_on_with_is_booked_once(tmp_path):
    path = tmp_path / "l.json"
    total, half = Budget(1.9, 1e-5), Budget(0.5, 1e-5)

    def charge(session, budget=ONE):
        ledger = FiledLedger(LedgerFile(path, total), budget, "a fit", session)
        ledger.gaussian([np.zeros(3, dtype=np.int64)], 1 / (2 * budget.rho), what="a marginal")
        return ledger

    assert charge("one").spent == charge("one").spent == ONE.rho
    assert spent(path) == ONE.rho
    charge("two")
    with pytest.raises(BudgetError, match="a fit is booked with another budget; go on with the one it began with"):
        charge("one", half)
    charge("", half), charge("", half)  # of no session
    assert spent(path) == 2 * ONE.rho + 2 * half.rho
    before = path.read_bytes()
    with pytest.raises(BudgetError, match="is left for this table"):
        charge("three")
    charge("two")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: "{", "cannot be read as a ledger file; restore it from a copy"),
        (lambda state: "[]", "cannot be read as a ledger file"),
        (lambda state: json.dumps(state | {"format": "other/9"}), "is of format 'other/9'"),
        (lambda state: json.dumps(state | {"runs": [{"rho": "-1"}]}), "cannot be read as a ledger file"),
        (lambda state: json.dumps(state | {"runs": [{"rho": "1/0"}]}), "cannot be read as a ledger file"),
        (lambda state: json.dumps(state | {"records_per_person": 3}), "protects people with 3 records, not 1"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_left_alone(tmp_path, damage, message):
    path = tmp_path / "l.json"
    LedgerFile(path, Budget(9.0, 1e-5)).reserve(ONE, "a fit")
    path.write_text(damage(json.loads(path.read_text())))
    before = path.read_bytes()
    with pytest.raises(BudgetError) as caught:
        LedgerFile(path).reserve(ONE, "another")
    assert message in str(caught.value)
    assert path.read_bytes() == before


def test_the_total_is_said_once_and_cannot_be_changed(tmp_path):
    path = tmp_path / "l.json"
    with pytest.raises(BudgetError, match="does not exist yet"):
        LedgerFile(path).reserve(ONE, "a fit")
    LedgerFile(path, Budget(2.0, 1e-5)).reserve(ONE, "a fit")
    with pytest.raises(BudgetError, match="all runs may spend epsilon 2, delta 1e-05"):
        LedgerFile(path, Budget(3.0, 1e-5)).reserve(ONE, "a fit")
    with pytest.raises(BudgetError, match="cannot be written"):
        LedgerFile(tmp_path / "none" / "l.json", ONE).reserve(ONE, "a fit")
