"""Rebuild the tables of the FLAIM paper, and the README's, from the committed runs: ``python experiments/tables.py``.

``results/tables/`` gets every table as CSV (a row per value), Markdown and LaTeX: ours, the paper's, and the ratio.
README.md has some, and the comparison with other packages, each between ``<!-- NAME -->`` and ``<!-- /NAME -->``.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import peers
from provenance import markdown_table
from settings import load_settings

from marginal_sdg.experiment.store import read_rows
from marginal_sdg.experiment.summary import summarise
from marginal_sdg.experiment.targets import load_targets

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
SHORT = {"workload_error": "error", "nll": "NLL", "nll_kde": "NLL of the density estimate"}


@dataclass(frozen=True)
class Artefact:
    """A table of the paper: folders of runs that fill it, the published numbers, and what it shows of every run."""

    name: str
    folders: tuple[str, ...]
    targets: str
    metrics: tuple[str, ...]


TABLES = (
    Artefact(
        "table1",
        ("table1", "table1_one_way", "table1_ctgan", "table1_ctgan_others"),
        "flaim_table1_nll",
        ("nll", "nll_kde"),
    ),
    Artefact("table2", ("table2",), "flaim_table2", ("workload_error", "nll")),
)


def values(artefact: Artefact) -> pd.DataFrame:
    """One row per cell and metric: dataset, method, calibration, metric, runs, mean, sd, paper, ratio."""
    targets = load_targets(artefact.targets, ROOT / "experiments" / "targets")
    files = [RESULTS / folder / "runs.csv" for folder in artefact.folders]
    rows = [row for file in files if file.is_file() for row in read_rows(file)]
    lines = [
        {
            "dataset": summary.cell.dataset,
            "method": named(summary.cell.method, summary.cell.weighting, summary.cell.rounds),
            "calibration": summary.cell.calibration or "",
            "metric": metric,
            "runs": summary.n,
            "mean": summary.estimates[metric].mean,
            "sd": summary.estimates[metric].sd,
            "paper": summary.paper.get(metric),
            "ratio": summary.ratio(metric),
        }
        for summary in summarise(rows, targets)
        for metric in artefact.metrics
        if metric in summary.estimates
    ]
    return pd.DataFrame(lines)


def named(method: str, weighting: str | None, rounds: int | str = "") -> str:
    """The method with what tells its rows of a table apart."""
    notes = {"equal": "equal weights", "records": "weighted by records"}
    return ", ".join(filter(None, [method, notes.get(weighting or "", ""), "no rounds" if rounds == 0 else ""]))


def wide(long: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Methods down, data sets across: "0.43 ± 0.02 (0.43)", with the paper's value in brackets."""
    long = long.assign(
        text=[_cell(*line) for line in zip(long["mean"], long["sd"], long["paper"], strict=True)],
        metric=long["metric"].map(SHORT),
    )
    keys = ["method", "calibration", "metric"]
    datasets = list(dict.fromkeys(long["dataset"]))
    grid = long.pivot(index=keys, columns="dataset", values="text").reindex(columns=datasets).fillna("")
    order = long[keys].drop_duplicates().apply(tuple, axis=1)
    return [*keys, *datasets], [[*key, *grid.loc[key]] for key in order]


def _cell(mean: float, sd: float | None, paper: float | None) -> str:
    digits = 3 if abs(mean) < 3 else 2
    spread = "" if pd.isna(sd) else f" ± {sd:.{digits}f}"
    published = "" if pd.isna(paper) else f" ({paper:g})"
    return f"{mean:.{digits}f}{spread}{published}"


def to_latex(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The same table for a paper: needs booktabs."""
    rows = [" & ".join(line).replace("±", r"$\pm$").replace("%", r"\%") + r" \\" for line in (header, *lines)]
    body = "\n".join([r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"])
    return rf"\begin{{tabular}}{{{'l' * len(header)}}}" + f"\n{body}\n" + r"\end{tabular}" + "\n"


def rebuild(folder: Path) -> list[str]:
    """Write every table that has runs; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    for artefact in TABLES:
        long = values(artefact)
        if long.empty:
            continue
        header, lines = wide(long)
        long.to_csv(folder / f"{artefact.name}.csv", index=False)
        rows = [dict(zip(header, line, strict=True)) for line in lines]
        (folder / f"{artefact.name}.md").write_text(markdown_table(rows), encoding="utf-8")
        (folder / f"{artefact.name}.tex").write_text(to_latex(header, lines), encoding="utf-8")
        done.append(artefact.name)
    return done


def census() -> str:
    """Ours against the private federated methods of Table 2, sound calibration: error and NLL of every data set."""
    long = values(TABLES[1])
    methods = ["DistAIM, weighted by records", "AugFLAIM (Private)", "AugFLAIM (Census)"]
    sound = long[(long["calibration"] == "sound") & long["method"].isin(methods)]
    lines = ["| error / NLL | runs | " + " | ".join(methods) + " |", "| --- " * (len(methods) + 2) + "|"]
    for dataset, rows in sound.groupby("dataset", sort=False):
        grid = rows.pivot(index="method", columns="metric", values="mean")
        pairs = [f"{grid.loc[m, 'workload_error']:.3f} / {grid.loc[m, 'nll']:.2f}" for m in methods]
        lines.append(f"| {dataset} | {rows['runs'].min()} | " + " | ".join(pairs) + " |")
    return "\n".join(lines)


def adult_flaim() -> str:
    """Table 2's Adult column: published, paper calibration and sound calibration side by side."""
    with (RESULTS / "adult_flaim" / "summary.csv").open(encoding="utf-8") as file:
        cells = {(named(row["method"], row["weighting"]), row["calibration"]): row for row in csv.DictReader(file)}
    lines = [
        "| | paper: error / NLL | `calibration: paper` | `calibration: sound` | private? |",
        "| --- | --- | --- | --- | --- |",
    ]
    for method in dict.fromkeys(method for method, _ in cells):
        paper, sound = cells[method, "paper"], cells[method, "sound"]
        published = f"{float(paper['workload_error_paper']):.2f} / {float(paper['nll_paper']):.2f}"
        private = "no" if sound["privacy"] == "NOT PRIVATE" else "with `sound`"
        lines.append(f"| {method} | {published} | {_pair(paper)} | {_pair(sound)} | {private} |")
    return "\n".join(lines)


def _pair(row: dict[str, str]) -> str:
    error = f"{float(row['workload_error_mean']):.3f} ± {float(row['workload_error_sd']):.3f}"
    return f"{error} / {float(row['nll_mean']):.2f} ± {float(row['nll_sd']):.2f}"


def in_readme() -> dict[str, str]:
    """README's tables by name."""
    packages = peers.overview(RESULTS, load_settings(peers.CONFIG, peers.PeersSettings))
    return {"adult_flaim": adult_flaim(), "census": census(), "peers": packages}


def main() -> None:
    """Rebuild all tables and replace those in the README."""
    print("tables:", ", ".join(rebuild(RESULTS / "tables")))
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, table in in_readme().items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, mark, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n{table}\n{mark}{after}"
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
