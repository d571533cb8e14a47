"""Audit FLAIM with one run each: canaries in or out by a coin, an auditor who guesses, honest and with planted faults.

    python experiments/one_run.py [--config experiments/one_run.yaml] [--out experiments/results/audit]

Writes ``one_run.csv`` and ``one_run.md``. About a minute on one core.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from provenance import signed_table
from pydantic import Field
from rich.progress import track
from settings import BudgetSettings, Settings, load_settings, one_line_errors

from marginal_sdg.experiment.one_run import METHODS, play_one_run
from marginal_sdg.privacy.audit import Skimping
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.one_run import CONFIDENCE, claim_at, judge_one_run

CONFIG = Path(__file__).with_suffix(".yaml")


class OneRunBudget(BudgetSettings):
    """``smaller_delta``: at which every run is judged as well."""

    smaller_delta: float = Field(gt=0, lt=1)


class OneRunSettings(Settings):
    """Of this script: see one_run.yaml."""

    seed: int = Field(ge=0)
    canaries: int = Field(ge=1, le=10_000_000)
    shares: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    budgets: tuple[OneRunBudget, ...] = Field(min_length=1)


class HalfSigma(Skimping):
    """Fault: sigma / 2."""

    variance_factor = Fraction(1, 4)


class QuarterSigma(Skimping):
    """Fault: sigma / 4."""

    variance_factor = Fraction(1, 16)


FAULTS: dict[str, type[Ledger]] = {"none": Ledger, "sigma / 2": HalfSigma, "sigma / 4": QuarterSigma}


def audited(
    method: str, budget: Budget, smaller: float, fault: str, guesses: Sequence[int], canaries: int, seed: int
) -> list[dict[str, object]]:
    """Play one run and judge it at both deltas: rows of the table."""
    start = time.perf_counter()
    evidence, coins = play_one_run(method, budget, canaries, seed, ledger=FAULTS[fault])
    seconds = round(time.perf_counter() - start, 1)
    rows: list[dict[str, object]] = []
    for claim in (budget, claim_at(budget, smaller)):
        found = judge_one_run(evidence, coins, claim, guesses)
        rows.append(
            {
                "method": method,
                "budget": f"({budget.epsilon:g}, {budget.delta:g})",
                "fault": fault,
                "judged_at_delta": found.delta,
                "canaries": found.canaries,
                "guesses": found.guesses,
                "correct": found.correct,
                "epsilon_low": round(found.epsilon_low, 3),
                "claimed_epsilon": round(found.claimed_epsilon, 3),
                "flagged": found.flagged,
                "seconds": seconds,
            }
        )
    return rows


def all_rows(given: OneRunSettings) -> Iterator[dict[str, object]]:
    """Every setting, method and fault."""
    guesses = [given.canaries // share for share in given.shares]
    cases = [(setting, method, fault) for setting in given.budgets for method in METHODS for fault in FAULTS]
    for number, (setting, method, fault) in enumerate(track(cases, "runs")):
        seed = given.seed * 1000 + number
        yield from audited(method, setting.budget, setting.smaller_delta, fault, guesses, given.canaries, seed)


HEADER = """# Privacy audit with one run

One run per method, budget and fault; each of its canaries is a record that is in or out by a fair coin (Steinke, Nasr,
Jagielski 2023). The auditor sees every released marginal, guesses the coins it is surest about and abstains on the
others. `epsilon_low` is a {confidence:.0%} lower bound on epsilon at the delta it is judged at; three numbers of
guesses, fixed before the run, share the error probability; the line has the one that shows most.

The claim at the smaller delta follows from the zCDP that the budget buys. It is audited because the bound's delta term
grows with the number of canaries: at delta 1e-2 an auditor who is always right would be left with 0 here, and with no
more than 1.01 at the best number of canaries (25). In AugFLAIM a third of the measurements is of an attribute that
tells nothing about single canaries.

No line with fault "none" may be flagged. The bound is far from tight for Gaussian noise (honest lines reach half of
their claim at most), so a fault has to be large to be flagged; `audit.md` finds smaller ones, with thousands of runs.

"""


def main() -> None:
    """Play all runs, write the tables."""
    parser = argparse.ArgumentParser(description="Audit FLAIM's privacy claims with one run each.")
    parser.add_argument("--config", type=Path, default=CONFIG, help="budgets, canaries, guesses and seed")
    parser.add_argument("--out", type=Path, default=Path("results/audit"))
    options = parser.parse_args()
    given = load_settings(options.config, OneRunSettings)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = list(all_rows(given))
    with (options.out / "one_run.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    head = HEADER.format(confidence=CONFIDENCE)
    command = f"python experiments/one_run.py --config {options.config.name}"
    (options.out / "one_run.md").write_text(text := signed_table(head, rows, command))
    print(text)


if __name__ == "__main__":
    one_line_errors(main)
