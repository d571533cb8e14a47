"""A file that adds up what several runs, in different processes, spend on one table.

A run reserves its whole budget before it touches the table. What is reserved stays spent, whatever becomes of the run:
killed and started again, it reserves again, unless it goes on in a session that it has kept. The file is replaced in
one step and under a lock, so a reader or a crash never meets half of it, and two runs at once cannot both take what is
enough for one.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..durable import locked, replace_file
from ..errors import BudgetError
from .budget import Budget
from .ledger import Charge, Ledger
from .noise import Source

_FORMAT = "marginal_sdg.ledger/1"


@dataclass(frozen=True)
class LedgerFile:
    """The budget of one table, in a JSON file at ``path``.

    Parameters
    ----------
    path: the file; it is created by the first reservation.
    total: what all runs together may spend; needed for the first run, and later only compared.
    group: how many records the protected person may have; the same for all runs.
    """

    path: Path
    total: Budget | None = None
    group: int = 1

    def reserve(self, budget: Budget, what: str, session: str = "") -> None:
        """Record that ``budget`` is spent, durably; once for each ``session``, a name that is never given again.

        Raises
        ------
        BudgetError: the total would be exceeded (nothing is recorded), or the file is damaged or of other terms.
        """
        with self._locked():
            state = self._read()
            booked = [Fraction(run["rho"]) for run in state["runs"] if session and run.get("session") == session]
            if booked == [budget.rho]:
                return
            if booked:
                raise BudgetError(
                    f"{self.path}: {what} is booked with another budget; go on with the one it began with"
                )
            limit = Budget(**state["total"]).rho
            spent = sum((Fraction(run["rho"]) for run in state["runs"]), Fraction(0))
            if spent + budget.rho > limit:
                raise BudgetError(
                    f"{self.path}: this run needs rho {float(budget.rho):.6g}, but {float(limit - spent):.6g} of "
                    f"{float(limit):.6g} is left for this table; lower epsilon"
                )
            state["runs"].append(
                {
                    "at": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
                    "what": what,
                    "epsilon": budget.epsilon,
                    "delta": budget.delta,
                    "rho": str(budget.rho),
                    **({"session": session} if session else {}),
                }
            )
            replace_file(self.path, [json.dumps(state, indent=1).encode()])

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            if self.total is None:
                raise BudgetError(f"{self.path}: does not exist yet; say what all runs may spend (--total-epsilon)")
            return {"format": _FORMAT, "total": vars(self.total), "records_per_person": self.group, "runs": []}
        try:
            state: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            if state["format"] != _FORMAT:
                raise BudgetError(f"{self.path}: is of format {state['format']!r}, this version reads {_FORMAT!r}")
            total, group = Budget(**state["total"]), int(state["records_per_person"])
            if any(Fraction(run["rho"]) < 0 for run in state["runs"]):
                raise ValueError("a negative cost")
        except BudgetError:
            raise
        except (OSError, KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError):
            raise BudgetError(f"{self.path}: cannot be read as a ledger file; restore it from a copy") from None
        if self.total is not None and self.total != total:
            raise BudgetError(
                f"{self.path}: all runs may spend epsilon {total.epsilon:g}, delta {total.delta:g}, as its first run "
                f"said, not {self.total.epsilon:g}, {self.total.delta:g}; drop --total-epsilon"
            )
        if group != self.group:
            raise BudgetError(f"{self.path}: protects people with {group} records, not {self.group}; make them equal")
        return state

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with locked(self.path):
                yield
        except OSError as error:
            raise BudgetError(f"{self.path}: cannot be written ({error.strerror})") from None


class FiledLedger(Ledger):
    """What a fit takes as ``ledger=`` to be booked in a file: at its first charge, before anything is drawn.

    ``session``: the name of a session that outlives its process, and is booked once however often it is gone on with.
    """

    def __init__(self, file: LedgerFile, budget: Budget, what: str, session: str = "") -> None:
        super().__init__(budget, Source.system(), group=file.group)
        self.session = session
        self._file, self._what = file, what

    def charge(self, charge: Charge) -> None:
        """Reserve the whole budget in the file, once; then as any ledger."""
        if not self.charges:
            assert self.budget is not None
            self._file.reserve(self.budget, self._what, self.session)
        super().charge(charge)
