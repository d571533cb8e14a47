"""What a ledger promised, spent and warned about, for reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marginal_sdg.page import Page
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source

_HEADER = ["what", "mechanism", "noise", "per record", "rho", "of budget", "by"]


@dataclass(frozen=True)
class Spending:
    """A ledger's account. Without a promise, ``epsilon`` to ``epsilon_spent`` are None.

    ``charges``: rows of ``Ledger.to_frame``, with None for what a charge does not have.
    """

    private: bool
    adjacency: str
    group: int
    epsilon: float | None
    delta: float | None
    rho: float | None
    rho_spent: float
    epsilon_spent: float | None
    caveats: tuple[str, ...]
    charges: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, ledger: Mapping[str, Any]) -> Spending:
        """``ledger``: as ``Ledger.to_dict`` gives it."""
        restored = Ledger.from_dict(ledger, Source.seeded(0))  # for reading only: nothing is drawn from it
        budget = restored.budget if restored.private else None
        rows = restored.to_frame().to_dict("records")
        return cls(
            budget is not None,
            restored.adjacency,
            restored.group,
            None if budget is None else budget.epsilon,
            None if budget is None else budget.delta,
            None if budget is None else float(budget.rho),
            float(restored.spent),
            None if budget is None else restored.epsilon(),
            tuple(ledger["caveats"]),
            tuple({str(key): None if value != value else value for key, value in row.items()} for row in rows),
        )

    @property
    def void(self) -> bool:
        """Whether a caveat says that the promise does not hold as it stands."""
        return not self.private or any(text.startswith(("NOT PRIVATE", "paper")) for text in self.caveats)

    @property
    def best_guess(self) -> float | None:
        """The best chance to tell, at even odds, whether a record is in: (e^eps + delta) / (e^eps + 1).

        Source: the trade-off of (epsilon, delta)-DP, Kairouz, Oh, Viswanath 2015, theorem 2.1.
        """
        if self.epsilon is None or self.delta is None:
            return None
        odds = math.exp(-self.epsilon)
        return min((1 + self.delta * odds) / (1 + odds), 1.0)

    def write(self, page: Page) -> Page:
        """Promise, caveats and all charges."""
        if self.private:
            page.text(
                f"Promised: ({self.epsilon:g}, {self.delta:g})-differential privacy; adjacency: {self.adjacency}. "
                f"Spent: rho {self.rho_spent:.6g} of {self.rho:.6g} (zCDP), epsilon {self.epsilon_spent:.4g} at that "
                f"delta, in {len(self.charges)} charges."
            )
        page.caveats(self.caveats)
        rows = [
            [
                *(charge[name] for name in ("what", "mechanism")),
                _noise(charge),
                charge["per_record"],
                f"{charge['rho']:.4g}",
                "" if charge["share"] is None else f"{charge['share']:.1%}",
                charge["by"],
            ]
            for charge in self.charges
        ]
        inner = Page("").table(_HEADER, rows, "Noise and cost of every release; 'of budget' is cumulative.")
        return page.details(f"All {len(rows)} charges, oldest first", inner)


def ledger_section(page: Page, ledger: Mapping[str, Any]) -> Page:
    """The account of a saved ledger, on a page."""
    return Spending.of(ledger).write(page)


def _noise(charge: Mapping[str, Any]) -> str:
    names = {"gaussian": ("sigma", "sigma"), "exponential": ("epsilon", "eps")}
    if charge["mechanism"] not in names:
        return ""
    column, name = names[charge["mechanism"]]
    return f"{name} {charge[column]:.4g}"
