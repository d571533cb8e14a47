"""Audit the privacy claims: canary games against the ledger, AIM and FLAIM, honest and with planted faults.

    python experiments/audit.py [--only NAME] [--config experiments/audit.yaml] [--out experiments/results/audit]

Honest mechanisms must not be flagged; planted faults show what the auditor would have seen. About an hour on one core.
Every finished row is on disk at once (``audit.csv``); ``audit.md`` is written at the end. A row's seed is its place, so
those of some games can be made anew by themselves.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from provenance import signed_table
from pydantic import Field
from rich.progress import track
from settings import BudgetSettings, Settings, load_settings, one_line_errors

from marginal_sdg.backends.sum_noise import SumNoise
from marginal_sdg.experiment.canary import METHODS, STAYING, Game, TellsTotal, skewed_scores
from marginal_sdg.experiment.sum_game import SumGame
from marginal_sdg.federations import SIZE_SHARE
from marginal_sdg.privacy.audit import (
    CONFIDENCE,
    Skimping,
    claimed_mu,
    epsilon_of,
    judge,
    play_measure,
    play_select,
    power,
)
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.joint import part_variance
from marginal_sdg.privacy.ledger import Counts, Ledger

Key = tuple[str, str, str]
Scores = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

CONFIG = Path(__file__).with_suffix(".yaml")
SHARE = 0.9  # of rho that goes to Gaussians, the estimators' default
FEDERATED = float(SIZE_SHARE) + (1 - float(SIZE_SHARE)) * SHARE  # noisy sizes are Gaussians as well


class AuditBudget(BudgetSettings):
    """``runs``: in each of the two worlds; ``sums``: of those that are one sum with the clients' noise."""

    runs: int = Field(ge=2, le=1_000_000)
    sums: int = Field(ge=2, le=1_000_000)


class AuditSettings(Settings):
    """Of this script: see audit.yaml."""

    seed: int = Field(ge=0)
    budgets: tuple[AuditBudget, ...] = Field(min_length=1)


class HalfVariance(Skimping):
    """Fault: sigma / sqrt 2."""

    variance_factor = Fraction(1, 2)


class QuarterVariance(Skimping):
    """Fault: sigma / 2."""

    variance_factor = Fraction(1, 4)


class DoubleEpsilon(Skimping):
    """Fault: selections with twice the epsilon."""

    epsilon_factor = 2


class AllStay(SumNoise):
    """Fault: parts are as small as if nobody ever left."""

    def honest(self, cohort: int, paid: Fraction) -> int:
        """Of all who do not collude."""
        return cohort - self.colluding


class AllHonest(SumNoise):
    """Fault: the parts of clients that collude are counted, too."""

    def honest(self, cohort: int, paid: Fraction) -> int:
        """Of all that must stay."""
        return self.needed(cohort)


class AllStayHonest(SumNoise):
    """Fault: both; the noise that is paid for is just split among the cohort."""

    def honest(self, cohort: int, paid: Fraction) -> int:
        """Of all."""
        return cohort


class OneLess(SumNoise):
    """Fault: a sum is opened though one client more has left than parts are sized for."""

    def needed(self, cohort: int) -> int:
        """One less."""
        return super().needed(cohort) - 1

    def honest(self, cohort: int, paid: Fraction) -> int:
        """As it should be."""
        return SumNoise(self.colluding, self.least).honest(cohort, paid)


class Silent(Ledger):
    """Fault: charges, and adds nothing."""

    def gaussian(self, tables: Sequence[Counts], variance: Fraction, **terms: object) -> list[Counts]:
        """The tables as they are."""
        super().gaussian([], variance, **terms)  # type: ignore[arg-type]
        return list(tables)


@dataclass(frozen=True)
class Case:
    """One line of the table. ``ratio``: the true mu over the claimed one; ``bound``: whether it is only a bound.

    ``column``: of the scores, the auditor's who is meant; without, it is whichever sees more.
    """

    target: str
    fault: str
    budget: Budget
    runs: int
    ratio: float
    play: Callable[[int, int], Scores]
    bound: bool = False
    column: int | None = None

    @property
    def key(self) -> Key:
        """What tells its row from others."""
        return (self.target, self.fault or "none", str(self.budget.epsilon))


def cases(budgets: Sequence[AuditBudget]) -> Iterator[Case]:
    """Everything that is audited; the cheap games first."""
    for setting in budgets:
        budget, runs = setting.budget, setting.runs
        for fault, ledger, ratio in (
            ("", Ledger, 1.0),
            ("sigma / sqrt 2", HalfVariance, math.sqrt(2)),
            ("sigma / 2", QuarterVariance, 2.0),
        ):
            yield Case("Measure", fault, budget, runs, ratio, _measure(ledger, budget))
        for fault, ledger, ratio in (("", Ledger, 1.0), ("epsilon x 2", DoubleEpsilon, 2.0)):
            yield Case("Select", fault, budget, runs, ratio, _select(ledger, budget))
        for fault, sound, ratio in (("", True, 1.0), ("paper's normalisation", False, 1.9)):
            yield Case("Select, AIM's scores", fault, budget, runs, ratio, _scored(budget, sound=sound))
    for setting in reversed(budgets):
        budget, runs = setting.budget, setting.runs
        for method in METHODS:
            ratio = math.sqrt(SHARE if method == "AIM" else FEDERATED)
            yield Case(method, "", budget, runs, ratio, Game(method, budget).play)
    budget, runs = budgets[-1].budget, budgets[-1].runs
    for method in METHODS:
        share = SHARE if method == "AIM" else FEDERATED
        worst = math.sqrt(share + 4 * (1 - share))  # if the canary moved the scores as much as any record can
        faults = [
            ("sigma / sqrt 2", Game(method, budget, ledger=HalfVariance), math.sqrt(2 * share), False),
            ("sigma / 2", Game(method, budget, ledger=QuarterVariance), math.sqrt(4 * share), False),
            ("epsilon x 2", Game(method, budget, ledger=DoubleEpsilon), worst, True),
            ("calibration: paper", Game(method, budget, calibration="paper"), math.inf, False),
        ]
        if method == "AIM":
            faults += [
                ("exact total", Game("AIM", budget, curator=TellsTotal), math.inf, False),
                ("calibration: paper, total hidden", Game("AIM", budget, calibration="paper"), worst, True),
            ]
        for fault, game, ratio, bound in faults:
            yield Case(method, fault, budget, runs, ratio, game.play, bound, 0 if fault.endswith("hidden") else None)
    yield from _sums(budgets)
    yield from _fits(budgets)


def _sums(budgets: Sequence[AuditBudget]) -> Iterator[Case]:
    """Sums with the clients' noise, each in the eyes of everybody, and of the server with clients that collude."""
    last = budgets[-1].budget
    games = [
        (SumGame(setting.budget, clients=n, colluding=c), "", setting.sums)
        for setting in reversed(budgets)
        for n, c in ((9, 2), (3, 1))
    ]
    games += [
        (game, fault, budgets[-1].sums)
        for fault, game in (
            ("sized as if all stay", SumGame(last, noise=AllStay)),
            ("colluding parts counted", SumGame(last, noise=AllHonest)),
            ("both", SumGame(last, noise=AllStayHonest)),
            ("one client adds nothing", SumGame(last, second=Silent)),
            ("opened with one client less", SumGame(last, noise=OneLess)),
            ("made again with new parts, paid once", SumGame(last, anew=True)),
            ("made again without one client", SumGame(last, without=True)),
        )
    ]
    for game, fault, runs in games:
        play = cache(game.play)
        for column, who in enumerate(("everybody", f"server and {game.colluding}")):
            target = f"Sum, {game.clients} clients, fewest stay: {who}"
            yield Case(target, fault, game.budget, runs, _ratio(game, column), _same(play, column), column=column)


def _fits(budgets: Sequence[AuditBudget]) -> Iterator[Case]:
    """Whole fits with the clients' noise, in the eyes of the server and a client that colludes with it."""
    for setting, fault, noise, parts in (
        *((setting, "", SumNoise, 1) for setting in reversed(budgets)),
        (budgets[-1], "colluding parts counted", AllHonest, STAYING),
    ):
        ratio = math.sqrt(float(SIZE_SHARE) + (1 - float(SIZE_SHARE)) * SHARE * parts)
        play = Game("AugFLAIM (Private)", setting.budget, noise=noise).play
        target = "AugFLAIM (Private), 3 clients, fewest stay: server and 1"
        yield Case(target, fault, setting.budget, setting.runs, ratio, play)


def _same(play: Callable[[int, int], Scores], later: int) -> Callable[[int, int], Scores]:
    """A game whose runs are those of a line so many places before."""
    return lambda runs, seed: play(runs, seed - later)


def _ratio(game: SumGame, column: int) -> float:
    """The true mu over the claimed one: by the parts that are between the auditor and the canary."""
    noise = game.noise(game.colluding, game.colluding + 1)
    unknown = noise.needed(game.clients) - (game.second is Silent) - (game.colluding if column else 0)
    part = part_variance(game.paid, noise.honest(game.clients, game.paid) + 1)
    return math.sqrt((2 if game.anew else 1) * game.paid / (part * (1 if game.without else unknown)))


def _measure(ledger: type[Ledger], budget: Budget) -> Callable[[int, int], Scores]:
    return lambda runs, seed: play_measure(ledger, budget, runs, seed)


def _select(ledger: type[Ledger], budget: Budget) -> Callable[[int, int], Scores]:
    return lambda runs, seed: play_select(ledger, budget, runs, seed)


def _scored(budget: Budget, *, sound: bool) -> Callable[[int, int], Scores]:
    scores, sensitivity = skewed_scores(sound=sound)
    return lambda runs, seed: play_select(Ledger, budget, runs, seed, scores=scores, sensitivity=sensitivity)


def audited(case: Case, seed: int) -> dict[str, object]:
    """Play one case and judge it: a row of the table."""
    start = time.perf_counter()
    without, present = case.play(case.runs, seed)
    if without.ndim == 1:
        without, present = without[:, None], present[:, None]
    verdicts = [judge(without[:, k], present[:, k], case.budget) for k in range(without.shape[1])]
    if case.column is not None:
        verdicts = [verdicts[case.column]]
    best = max(verdicts, key=lambda verdict: verdict.mu_low)
    claimed = claimed_mu(case.budget)
    return {
        "target": case.target,
        "fault": case.fault or "none",
        "epsilon": case.budget.epsilon,
        "delta": case.budget.delta,
        "runs_per_world": case.runs,
        "mu_claimed": round(claimed, 4),
        "mu_true": ("<= " if case.bound else "") + f"{case.ratio * claimed:.4f}",
        "mu_estimate": round(best.mu, 4),
        "mu_error": round(standard_error(best.mu, case.runs), 4),
        "mu_low": round(best.mu_low, 4),
        "epsilon_low": round(best.epsilon_low, 4),
        "epsilon_from_mu_low": round(epsilon_of(best.mu_low, case.budget.delta), 4),
        "flagged": any(verdict.flagged for verdict in verdicts),
        "power": ("<= " if case.bound else "") + f"{power(case.ratio * claimed, claimed, case.runs):.4f}",
        "seconds": round(time.perf_counter() - start, 1),
    }


def standard_error(mu: float, runs: int) -> float:
    """Of the point estimate, for Gaussian scores; nothing to say where the worlds are told apart without fail."""
    return math.sqrt((2 + mu**2 / 4) / runs) if math.isfinite(mu) else math.nan


HEADER = """# Privacy audit

White-box canary games: {confidence:.1%} lower bounds, each from independent runs with and without one record. `mu` is
the Gaussian trade-off, claimed sqrt(2 rho); `mu_low` and `epsilon_low` (Clopper-Pearson at delta) are lower bounds,
`mu_estimate` with its standard error `mu_error` is the point estimate, `epsilon_from_mu_low` what `mu_low` means at
delta if the trade-off is Gaussian. Of whole mechanisms the auditor watches the releases and the published total; the
line shows the higher `mu_low` of the two.

Sums with the clients' noise are audited when as many have left as may, in the eyes of everybody who sees the release,
and of the server together with so many clients as may collude; both lines are of the same runs. In whole fits of three
clients with such noise, one leaves every sum, one colludes, and the third has the canary.

`mu_true` is known from the construction: measurements get {share:.0%} of rho (for FLAIM after {size:.0%} for sizes),
and a canary in empty cells moves all scores alike, so it is hardly seen in selections. `power`: the probability that
`mu_low` exceeds the claim at `mu_true`.

No line with fault "none" may be flagged. Where a fault is not flagged, its power says why.

"""


def read(path: Path) -> dict[Key, dict[str, object]]:
    """The rows that there are."""
    with path.open(newline="") as file:
        return {(row["target"], row["fault"], row["epsilon"]): dict(row) for row in csv.DictReader(file)}


def main() -> None:
    """Play all games, write the tables."""
    parser = argparse.ArgumentParser(description="Audit the privacy claims with canary games.")
    parser.add_argument("--only", help="games that have this in their name; the other rows stay as they are")
    parser.add_argument("--config", type=Path, default=CONFIG, help="budgets, runs and seed")
    parser.add_argument("--out", type=Path, default=Path("results/audit"))
    options = parser.parse_args()
    given = load_settings(options.config, AuditSettings)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "audit.csv"
    rows = read(path) if options.only else {}
    numbered = list(enumerate(cases(given.budgets)))
    order = [case.key for _, case in numbered]
    for number, case in track([(n, c) for n, c in numbered if (options.only or "") in c.target], "games"):
        rows[case.key] = audited(case, given.seed * 1000 + number)
        rows = {key: rows[key] for key in order if key in rows}
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[case.key]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows.values())
    head = HEADER.format(confidence=CONFIDENCE, share=SHARE, size=float(SIZE_SHARE))
    command = "python experiments/audit.py" + ("" if options.config == CONFIG else f" --config {options.config}")
    (options.out / "audit.md").write_text(text := signed_table(head, list(rows.values()), command))
    print(text)


if __name__ == "__main__":
    one_line_errors(main)
