"""Write what is derived from runs.csv: summaries, figure, report. It can be done again at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from marginal_sdg.experiment.config import Config
from marginal_sdg.experiment.page import sweep_page
from marginal_sdg.experiment.store import read_events, write_atomically
from marginal_sdg.experiment.summary import summarise, to_csv, to_markdown
from marginal_sdg.experiment.targets import Targets


def write_outputs(config: Config, folder: Path, rows: Sequence[Mapping[str, str]], targets: Targets) -> None:
    """summary.csv, summary.md, the figure as PNG and PDF, report.html; each file replaced in one step."""
    summaries = summarise(rows, targets)
    write_atomically(folder / "summary.csv", to_csv(summaries))
    write_atomically(folder / "summary.md", to_markdown(config.title, summaries, targets))
    figure: bytes | None = None
    try:
        from marginal_sdg.experiment.figure import draw

        drawn = draw(config.title, summaries, config.figure)
    except ModuleNotFoundError:  # matplotlib is an extra
        drawn = {}
    for kind, content in drawn.items():
        write_atomically(folder / f"{config.name}.{kind}", content)
        figure = drawn["png"]
    page = sweep_page(config, summaries, rows, read_events(folder / "events.jsonl"), targets, figure)
    write_atomically(folder / "report.html", page.html())
