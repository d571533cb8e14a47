"""What the FLAIM paper says of its figures, held against the committed runs: ``python experiments/statements.py``.

Every statement is a rule on mean errors, written before the runs were looked at (figures 2, 3e, 3f: after);
``results/statements.md`` has the verdicts with the numbers behind them. A word like "matches" is 15%, "almost matches"
10%; rules say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from provenance import markdown_table
from tables import RESULTS

from marginal_sdg.experiment.store import read_rows
from marginal_sdg.experiment.summary import summarise
from marginal_sdg.experiment.targets import Targets

AIM, DIST, NAIVE = "AIM", "DistAIM", "NaiveFLAIM"
ORACLE, PRIVATE = "AugFLAIM (Oracle)", "AugFLAIM (Private)"
FEDERATED = (DIST, NAIVE, ORACLE, PRIVATE)
FLAIMS = (NAIVE, ORACLE, PRIVATE)
PROXY, COMBINED = "FLAIM (proxy only)", "FLAIM (oracle + combine)"
SHORT, LONG = "{}, s = 1", "{}, s = 4"
ANNEALED = "adaptive"

Place = float | str
Errors = dict[str, dict[Place, float]]  # mean error (figure 3f: AUC) by method and place on the figure's axis
Rule = Callable[[Errors], bool]


@dataclass(frozen=True)
class Statement:
    """``said`` in the text about ``figure``; ``rule`` is what that means here; ``holds`` decides."""

    figure: str
    said: str
    rule: str
    holds: Rule
    shown: tuple[str, ...]


def below(first: str, second: str, factor: float = 1.0, where: Callable[[float], bool] = lambda x: True) -> Rule:
    """The error of the first is below ``factor`` times the second's wherever both are, and ``where`` holds."""

    def rule(errors: Errors) -> bool:
        places = [(x, error) for x, error in numbers(errors[first]) if where(x)]
        return bool(places) and all(error < factor * at(errors, second, x) for x, error in places)

    return rule


def at(errors: Errors, method: str, x: Place) -> float:
    """The error at a place; for a method without places (a level across the figure), its only error."""
    places = errors[method]
    return places[x] if x in places else places[""]


def numbers(places: dict[Place, float]) -> Iterable[tuple[float, float]]:
    """Places that are numbers, in order."""
    return sorted((x, error) for x, error in places.items() if isinstance(x, float))


def ends(errors: Errors, method: str) -> tuple[float, float]:
    """The errors at the smallest and at the largest number."""
    line = list(numbers(errors[method]))
    return line[0][1], line[-1][1]


def best(errors: Errors, method: str) -> tuple[float, float]:
    """(error, place) of the lowest error among numbers."""
    return min((error, x) for x, error in numbers(errors[method]))


STATEMENTS = (
    Statement("figure1", "AIM is better than DistAIM", "at every skew", below(AIM, DIST), (AIM, DIST)),
    Statement(
        "figure1",
        "NaiveFLAIM is far worse under heterogeneity",
        "more than 1.5 times DistAIM at the smallest beta",
        lambda e: ends(e, NAIVE)[0] > 1.5 * ends(e, DIST)[0],
        (NAIVE, DIST),
    ),
    Statement(
        "figure1",
        "AugFLAIM (Private) closes the gap to DistAIM at large skew",
        "within 15% at the smallest beta",
        lambda e: ends(e, PRIVATE)[0] < 1.15 * ends(e, DIST)[0],
        (PRIVATE, DIST),
    ),
    *(
        Statement(
            figure,
            "filtering and combining 1-way marginals results in the best workload error",
            "with either term, below NaiveFLAIM and both terms alone at 10 rounds",
            lambda e: all(
                at(e, better, 10.0) < at(e, other, 10.0)
                for better in (COMBINED, PRIVATE)
                for other in (NAIVE, PROXY, ORACLE)
            ),
            (NAIVE, PROXY, ORACLE, COMBINED, PRIVATE),
        )
        for figure in ("figure2a", "figure2b", "figure2c")
    ),
    Statement("figure3a", "a clear gap between DistAIM and AIM", "at every epsilon", below(AIM, DIST), (AIM, DIST)),
    Statement(
        "figure3a",
        "naively federating AIM is worst, even for large epsilon",
        "above every other method at every epsilon",
        lambda e: all(below(other, NAIVE)(e) for other in (AIM, DIST, ORACLE, PRIVATE)),
        (NAIVE, ORACLE),
    ),
    Statement(
        "figure3a",
        "augmenting the scores helps, particularly for epsilon above 1",
        "both below NaiveFLAIM for every epsilon above 1",
        lambda e: all(below(aug, NAIVE, where=lambda x: x > 1)(e) for aug in (ORACLE, PRIVATE)),
        (NAIVE, ORACLE, PRIVATE),
    ),
    Statement(
        "figure3a",
        "AugFLAIM (Private) matches or improves on DistAIM for larger epsilon",
        "below 1.15 times DistAIM for every epsilon from 8",
        below(PRIVATE, DIST, 1.15, lambda x: x >= 8),
        (PRIVATE, DIST),
    ),
    Statement(
        "figure3a",
        "AugFLAIM (Private) has lower error than AugFLAIM (Oracle)",
        "at every epsilon",
        below(PRIVATE, ORACLE),
        (PRIVATE, ORACLE),
    ),
    Statement(
        "figure3b",
        "DistAIM's error falls as T grows",
        "lower at 64 rounds than at 8, and there than at 2",
        lambda e: e[DIST][64.0] < e[DIST][8.0] < e[DIST][2.0],
        (DIST,),
    ),
    Statement(
        "figure3b",
        "FLAIM's error usually grows when T is large",
        "at the largest T above the best T, for all three",
        lambda e: all(ends(e, method)[1] > best(e, method)[0] for method in (NAIVE, ORACLE, PRIVATE)),
        (NAIVE, ORACLE, PRIVATE),
    ),
    Statement(
        "figure3b",
        "AugFLAIM (Private) matches DistAIM unless T is very large",
        "below 1.15 times DistAIM up to 32 rounds",
        below(PRIVATE, DIST, 1.15, lambda x: x <= 32),
        (PRIVATE, DIST),
    ),
    Statement(
        "figure3b",
        "at most 30 rounds are best for AugFLAIM",
        "the lowest error is at 32 rounds or fewer, for both",
        lambda e: all(best(e, method)[1] <= 32 for method in (ORACLE, PRIVATE)),
        (ORACLE, PRIVATE),
    ),
    Statement(
        "figure3b",
        "annealing is good for AIM and poor for all federated methods",
        "within 5% of the best T for AIM, more than 5% above it for the others",
        lambda e: (
            e[AIM][ANNEALED] < 1.05 * best(e, AIM)[0]
            and all(e[method][ANNEALED] > 1.05 * best(e, method)[0] for method in FEDERATED)
        ),
        (AIM, *FEDERATED),
    ),
    Statement(
        "figure3c",
        "DistAIM almost matches AIM from p = 0.5",
        "within 10% at the largest p",
        lambda e: ends(e, DIST)[1] < 1.1 * at(e, AIM, ""),
        (AIM, DIST),
    ),
    Statement(
        "figure3c",
        "AugFLAIM (Private) matches DistAIM except when p is large",
        "below 1.15 times DistAIM up to p = 0.2",
        below(PRIVATE, DIST, 1.15, lambda x: x <= 0.2),
        (PRIVATE, DIST),
    ),
    Statement(
        "figure3c",
        "both AugFLAIM variants improve with participation",
        "lower at the largest p than at the smallest",
        lambda e: all(ends(e, method)[1] < ends(e, method)[0] for method in (ORACLE, PRIVATE)),
        (ORACLE, PRIVATE),
    ),
    Statement(
        "figure3d",
        "all federated methods struggle when the skew is large",
        "higher at the smallest beta than at the largest, for all",
        lambda e: all(ends(e, method)[0] > ends(e, method)[1] for method in FEDERATED),
        FEDERATED,
    ),
    Statement(
        "figure3d",
        "NaiveFLAIM is worst as skew decreases",
        "above all others from beta = 0.1",
        lambda e: all(below(other, NAIVE, where=lambda x: x >= 0.1)(e) for other in (DIST, ORACLE, PRIVATE)),
        FEDERATED,
    ),
    Statement(
        "figure3d",
        "AugFLAIM (Private) is close to DistAIM",
        "below 1.15 times DistAIM from beta = 0.1",
        below(PRIVATE, DIST, 1.15, lambda x: x >= 0.1),
        (PRIVATE, DIST),
    ),
    Statement(
        "figure3e",
        "with four local steps errors are not significantly different for small T",
        "within 15% of one step's at the smallest T, for all three",
        lambda e: all(abs(ends(e, LONG.format(m))[0] / ends(e, SHORT.format(m))[0] - 1) < 0.15 for m in FLAIMS),
        tuple(line.format(m) for m in FLAIMS for line in (SHORT, LONG)),
    ),
    Statement(
        "figure3e",
        "as T grows, the error increases for methods with four local steps",
        "at the largest T above the best T, and above one step's at the largest T, for all three",
        lambda e: all(
            ends(e, LONG.format(m))[1] > max(best(e, LONG.format(m))[0], ends(e, SHORT.format(m))[1]) for m in FLAIMS
        ),
        tuple(LONG.format(m) for m in FLAIMS),
    ),
    Statement(
        "figure3f",
        "more local steps can give better AUC after fewer rounds",
        "higher with four than with one at the smallest T, for all three",
        lambda e: all(ends(e, LONG.format(m))[0] > ends(e, SHORT.format(m))[0] for m in FLAIMS),
        tuple(line.format(m) for m in FLAIMS for line in (SHORT, LONG)),
    ),
    Statement(
        "figure3f",
        "with four local steps AugFLAIM (Private) matches DistAIM's AUC",
        "its highest AUC is above 0.97 times DistAIM's highest",
        lambda e: max(e[LONG.format(PRIVATE)].values()) > 0.97 * max(e[DIST].values()),
        (LONG.format(PRIVATE), DIST),
    ),
)


@dataclass(frozen=True)
class Source:
    """The folder of a figure's runs, its axis, what it shows; whether lines are told apart by local steps."""

    folder: str
    axis: str
    metric: str = "workload_error"
    local_steps: bool = False
    dataset: str | None = None  # of several in the folder


SOURCES = {
    "figure1": Source("figure1", "feature_skew"),
    "figure2a": Source("figure2", "rounds", dataset="adult"),
    "figure2b": Source("figure2", "rounds", dataset="credit"),
    "figure2c": Source("figure2", "rounds", dataset="covtype"),
    "figure3a": Source("figure3a", "epsilon"),
    "figure3b": Source("figure3b", "rounds"),
    "figure3c": Source("figure3c", "participation"),
    "figure3d": Source("figure3d", "partition"),
    "figure3e": Source("figure3ef", "rounds", local_steps=True),
    "figure3f": Source("figure3ef", "rounds", "auc", local_steps=True),
}


def errors_of(figure: str) -> Errors:
    """Mean errors of a figure's runs; empty without runs."""
    source = SOURCES[figure]
    file = RESULTS / source.folder / "runs.csv"
    found: Errors = {}
    for summary in summarise(read_rows(file), Targets()) if file.is_file() else ():
        if source.dataset not in (None, summary.cell.dataset):
            continue
        value = getattr(summary.cell, source.axis)
        if isinstance(value, str) and value.startswith("dirichlet:"):
            value = value.removeprefix("dirichlet:")
        place: Place = "" if value is None else value if value == ANNEALED else float(value)
        steps = summary.cell.local_steps if source.local_steps else None
        line = f"{summary.cell.method}, s = {steps}" if steps else summary.cell.method
        found.setdefault(line, {})[place] = summary.estimates[source.metric].mean
    return found


def verdicts() -> list[dict[str, str]]:
    """One row per statement whose figure has runs."""
    rows = []
    found = {figure: errors_of(figure) for figure in SOURCES}
    for statement in STATEMENTS:
        errors = found[statement.figure]
        if not errors:
            continue
        shown = "; ".join(f"{method} {_line(errors[method])}" for method in statement.shown)
        rows.append(
            {
                "figure": statement.figure,
                "the paper says": statement.said,
                "rule": statement.rule,
                "confirmed": "yes" if statement.holds(errors) else "**no**",
                "mean errors": shown,
            }
        )
    return rows


def _line(places: dict[Place, float]) -> str:
    named = [f"{x:g}: {error:.3f}" for x, error in numbers(places)]
    return ", ".join(named + [f"{x or 'everywhere'}: {e:.3f}" for x, e in places.items() if isinstance(x, str)])


def main() -> None:
    """Write the verdicts."""
    text = "Rules and numbers: `python experiments/statements.py`.\n\n" + markdown_table(verdicts())
    (RESULTS / "statements.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
