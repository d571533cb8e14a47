"""FLAIM (KDD 2024), Table 3: what DistAIM costs its clients, and what it gains, against AugFLAIM (Private).

    python experiments/run.py --config table3.yaml --out experiments/results/table3
    python experiments/run.py --config table3_others.yaml --out experiments/results/table3_others   # needs their files
    python experiments/table3.py [--results experiments/results/table3 experiments/results/table3_others]

``uploads.csv``: the paper's own formula for DistAIM's clients, on all seven data sets; it needs only their domains.
``table3.csv``: both methods, each at the number of rounds with its lowest error, under three accountings.
Both also as Markdown in ``table3.md``, all in the first of the folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from provenance import markdown_table

from marginal_sdg import Domain, Workload
from marginal_sdg.backends.pool import paper_upload_bytes
from marginal_sdg.crypto.traffic import ACCOUNTINGS
from marginal_sdg.datasets.files import shipped_folder

TARGETS = Path(__file__).parent / "targets" / "flaim_table3_overhead.csv"
FOLDERS = [Path(__file__).parent / "results" / name for name in ("table3", "table3_others")]
DISTAIM, FLAIM = "DistAIM", "AugFLAIM (Private)"


def uploads(published: pd.DataFrame) -> list[dict[str, Any]]:
    """Megabytes that a DistAIM client sends once, by the paper's formula, against the paper's numbers."""
    rows = []
    for dataset, paper in published["distaim_mb"].items():
        workload = Workload.random(Domain.load(shipped_folder() / "domains" / f"{dataset}.yaml"))
        size = paper_upload_bytes(workload) / 1e6
        rows.append(
            {
                "dataset": dataset,
                "cells of the closure": int(workload.cells.sum()),
                "MB, formula": round(size, 2),
                "MB, paper": paper,
                "ratio": round(size / paper, 3),
            }
        )
    return rows


def best_rounds(summary: pd.DataFrame, published: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per data set, calibration and weighting of DistAIM: both methods at their best T."""
    rows = []
    for (dataset, calibration), cells in summary.groupby(["dataset", "calibration"], sort=False):
        flaim = _best(cells[cells["method"] == FLAIM])
        for weighting in ("equal", "records"):
            dist = _best(cells[(cells["method"] == DISTAIM) & (cells["weighting"] == weighting)])
            row: dict[str, Any] = {
                "dataset": dataset,
                "calibration": calibration,
                "weighting of DistAIM": weighting,
                "T (DistAIM, FLAIM)": f"{dist['rounds']}, {flaim['rounds']}",
                "seeds": int(flaim["n"]),
                "error": _pair(dist, flaim, "workload_error_mean", "{:.3f}"),
                "paper": f"{published.at[dataset, 'err_improvement_pct']:+.0f}%",
                "NLL": _pair(dist, flaim, "nll_mean", "{:.2f}"),
                "paper ": f"{published.at[dataset, 'nll_improvement_pct']:+.0f}%",
            }
            for accounting in ACCOUNTINGS:
                column = f"client_sent_{accounting}_bytes_mean"
                sent = [cell[column] / 1e6 for cell in (dist, flaim)]
                row[f"MB sent, {accounting}"] = f"{sent[0]:.3g}, {sent[1]:.3g} ({sent[0] / sent[1]:,.0f}x)"
            rows.append(row)
    return rows


def _best(cells: pd.DataFrame) -> Any:
    return cells.loc[cells["workload_error_mean"].idxmin()]


def _pair(dist: Any, flaim: Any, column: str, form: str) -> str:
    gain = 100 * (1 - dist[column] / flaim[column])
    return f"{form.format(dist[column])}, {form.format(flaim[column])} ({gain:+.0f}%)"


def rebuild(folders: Sequence[Path], out: Path) -> str:
    """Read the runs, compare with the paper, write; the text."""
    published = pd.read_csv(TARGETS, comment="#").set_index("dataset")
    formula = uploads(published)
    summary = pd.concat([pd.read_csv(folder / "summary.csv") for folder in folders])
    compared = best_rounds(summary, published)
    pd.DataFrame(formula).to_csv(out / "uploads.csv", index=False)
    pd.DataFrame(compared).to_csv(out / "table3.csv", index=False)
    text = (
        "Upload of a DistAIM client by the paper's formula (8-byte words, six times the cells of the closure):\n\n"
        + markdown_table(formula)
        + "\nDistAIM, AugFLAIM (Private), each at its best T; in brackets how much lower DistAIM's value is (beside\n"
        "it, in the paper), or how many times more its clients send:\n\n" + markdown_table(compared)
    )
    (out / "table3.md").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    """Into the first of the folders."""
    parser = argparse.ArgumentParser(description="Rebuild FLAIM's Table 3 from the runs of both configs.")
    parser.add_argument("--results", nargs="+", type=Path, default=FOLDERS)
    folders = parser.parse_args().results
    print(rebuild(folders, folders[0]))


if __name__ == "__main__":
    main()
