"""Finished runs to one line per grid cell: mean, sd, n, a bootstrap interval, and the paper beside it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marginal_sdg.crypto.traffic import COLUMNS as TRAFFIC
from marginal_sdg.experiment.grid import varying
from marginal_sdg.experiment.params import METHODS, NAMES, RunParams
from marginal_sdg.experiment.targets import METRICS, Targets

RESAMPLES = 10_000
MEASURED = (
    *METRICS,
    *("rho_spent", "sigma", "seconds_total", "peak_rss_mb"),
    *(name for name in TRAFFIC if name.startswith("client")),
)


@dataclass(frozen=True)
class Estimate:
    """Mean over ``n`` runs; sample standard deviation and 95% interval are None where they do not exist."""

    mean: float
    sd: float | None
    n: int
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """``values``: one per run, at least one. The interval: a seeded percentile bootstrap of the mean."""
        array = np.asarray(values, dtype=float)
        if len(array) < 2 or not np.isfinite(array).all():
            return cls(float(array.mean()), None, len(array), None, None)
        picks = np.random.default_rng(0).integers(len(array), size=(RESAMPLES, len(array)))
        low, high = np.quantile(array[picks].mean(axis=1), [0.025, 0.975])
        return cls(float(array.mean()), float(array.std(ddof=1)), len(array), float(low), float(high))


@dataclass(frozen=True)
class CellSummary:
    """One grid cell: what was measured, by column of runs.csv, and what the paper reports."""

    cell: RunParams
    privacy: str
    n: int
    estimates: Mapping[str, Estimate]
    paper: Mapping[str, float]
    values: Mapping[str, tuple[float, ...]]

    def ratio(self, metric: str) -> float | None:
        """Mean over the paper's value."""
        if metric not in self.paper or metric not in self.estimates:
            return None
        return self.estimates[metric].mean / self.paper[metric]


def summarise(rows: Iterable[Mapping[str, str]], targets: Targets) -> list[CellSummary]:
    """Group rows of runs.csv by everything except the seed, in the order of first appearance by name."""
    groups: dict[RunParams, list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault(cell_of(row), []).append(row)
    summaries = []
    for cell, members in groups.items():
        values = {}
        for name in MEASURED:
            numbers = tuple(float(row[name]) for row in members if row.get(name))
            if numbers:
                values[name] = numbers
        estimates = {name: Estimate.of(numbers) for name, numbers in values.items()}
        privacy = members[0].get("privacy") or ""
        summaries.append(CellSummary(cell, privacy, len(members), estimates, targets.of(cell), values))
    return sorted(summaries, key=lambda summary: _order(summary.cell))


def cell_of(row: Mapping[str, str]) -> RunParams:
    """The grid cell of a row of runs.csv."""
    return RunParams.model_construct(**{name: _value(row.get(name) or "") for name in NAMES})


def _value(text: str) -> Any:
    if text in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _order(cell: RunParams) -> list[tuple[bool, float, str]]:
    """Numbers by size, names by alphabet, methods as listed, what does not apply first."""
    keys = []
    for name in (*(name for name in NAMES if name != "method"), "method"):
        value = getattr(cell, name)
        if name == "method" and value in METHODS:
            value = METHODS.index(value)
        number = 0.0 if value is None or isinstance(value, str) else float(value)
        keys.append((value is not None, number, value if isinstance(value, str) else ""))
    return keys


def to_csv(summaries: Sequence[CellSummary]) -> str:
    """All cells with all columns, full precision, for programs."""
    parts = ("mean", "sd", "ci_low", "ci_high")
    header = [*NAMES, "privacy", "n"]
    for name in MEASURED:
        header += [f"{name}_{part}" for part in parts]
        header += [f"{name}_paper", f"{name}_ratio"] if name in METRICS else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for summary in summaries:
        line: list[Any] = [getattr(summary.cell, name) for name in NAMES]
        line += [summary.privacy, summary.n]
        for name in MEASURED:
            found = summary.estimates.get(name)
            line += [found.mean, found.sd, found.low, found.high] if found else [None] * 4
            line += [summary.paper.get(name), summary.ratio(name)] if name in METRICS else []
        writer.writerow(["" if value is None else value for value in line])
    return text.getvalue()


HEADINGS = {"workload_error": "error", "nll": "NLL", "nll_kde": "density NLL", "auc": "AUC", "accuracy": "accuracy"}


def table(summaries: Sequence[CellSummary]) -> tuple[list[str], list[list[str]]]:
    """The comparison table for people: settings that vary, metrics beside the paper's, seconds, privacy."""
    names = [name for name in varying([summary.cell for summary in summaries]) if name != "method"]
    names = ["method", *names]
    metrics = [name for name in METRICS if any(name in summary.estimates for summary in summaries)]
    columns: dict[tuple[str, str], list[str]] = {}
    for name in names:
        columns[name, ""] = [_shown(getattr(summary.cell, name)) for summary in summaries]
    columns["runs", ""] = [str(summary.n) for summary in summaries]
    for metric in metrics:
        estimates = [summary.estimates.get(metric) for summary in summaries]
        columns[HEADINGS[metric], metric] = [_mean_sd(estimate) for estimate in estimates]
        columns["95% interval", metric] = [_interval(estimate) for estimate in estimates]
        columns["paper", metric] = [_number(summary.paper.get(metric)) for summary in summaries]
        columns["ratio", metric] = [_number(summary.ratio(metric), 2) for summary in summaries]
    seconds = [summary.estimates.get("seconds_total") for summary in summaries]
    columns["seconds", ""] = [_number(estimate.mean if estimate else None) for estimate in seconds]
    columns["private?", ""] = [summary.privacy for summary in summaries]
    filled = {key: column for key, column in columns.items() if any(column)}
    return [heading for heading, _ in filled], [list(line) for line in zip(*filled.values(), strict=True)]


def to_markdown(title: str, summaries: Sequence[CellSummary], targets: Targets) -> str:
    """The comparison table and how to read it."""
    header, lines = table(summaries)
    rule = ["---" if index < header.index("runs") else "---:" for index in range(len(header))]
    rows = ["| " + " | ".join(row) + " |" for row in (header, rule, *lines)]
    return f"# {title}\n\n" + "\n".join(rows) + "\n\n" + reading_notes(summaries, targets) + "\n"


def reading_notes(summaries: Sequence[CellSummary], targets: Targets) -> str:
    """What the columns mean, in a few sentences."""
    text = (
        "Values are mean ± sample standard deviation over runs; the interval is a 95% bootstrap interval of "
        "the mean. Error: mean L1 distance of normalised marginals over the workload, synthetic rows against "
        "training rows. NLL: mean negative log-likelihood of held-out rows under the model, nats."
    )
    if any("nll_kde" in summary.estimates for summary in summaries):
        text += (
            " Density NLL: of a Gaussian kernel estimate on generated rows, as CTGAN's paper values are; it has other "
            "units than NLL and cannot be compared with it."
        )
    if targets.name:
        text += f" Paper: {targets.name}, shown where the settings are the paper's; ratio: ours over the paper's."
    return text


def _mean_sd(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return _number(estimate.mean) + (f" ± {_number(estimate.sd)}" if estimate.sd is not None else "")


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.low is None:
        return ""
    return f"{_number(estimate.low)} to {_number(estimate.high)}"


def _number(value: float | None, digits: int | None = None) -> str:
    """Enough digits to compare with a paper: three decimals below 10, fewer above."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    places = digits if digits is not None else (3 if abs(value) < 10 else 2 if abs(value) < 100 else 1)
    return f"{value:.{places}f}"


def _shown(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:g}"
