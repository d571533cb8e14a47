"""Put the committed results into the README: ``python experiments/tables.py``.

A table stands in README.md between ``<!-- NAME -->`` and ``<!-- /NAME -->``, where NAME is a folder of results.
"""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"


def adult_flaim() -> str:
    """Table 2's Adult column: published, paper calibration and sound calibration side by side."""
    with (RESULTS / "adult_flaim" / "summary.csv").open(encoding="utf-8") as file:
        cells = {(_label(row), row["calibration"]): row for row in csv.DictReader(file)}
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


def _label(row: dict[str, str]) -> str:
    weighting = {"equal": ", equal weights", "records": ", weighted by records"}.get(row.get("weighting", ""), "")
    return row["method"] + weighting


def _pair(row: dict[str, str]) -> str:
    error = f"{float(row['workload_error_mean']):.3f} ± {float(row['workload_error_sd']):.3f}"
    return f"{error} / {float(row['nll_mean']):.2f} ± {float(row['nll_sd']):.2f}"


def main() -> None:
    """Replace every table."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, table in (("adult_flaim", adult_flaim()),):
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, mark, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n{table}\n{mark}{after}"
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
