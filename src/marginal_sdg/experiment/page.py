"""The report of a sweep: settings, table, figure, privacy by cell, time, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from marginal_sdg.experiment.config import Config
from marginal_sdg.experiment.grid import cell_values, label, varying
from marginal_sdg.experiment.summary import CellSummary, cell_of, reading_notes, table
from marginal_sdg.experiment.targets import Targets
from marginal_sdg.page import Page
from marginal_sdg.report import ledger_section

WORDING = (
    "zCDP accounting with exact noise on integer counts; semi-honest protocols; research software, no "
    "external review; timing side channels not addressed. Noise in experiments comes from seeds, so "
    "that they can be repeated: never publish such output of real private data."
)


def sweep_page(
    config: Config,
    summaries: Sequence[CellSummary],
    rows: Sequence[Mapping[str, str]],
    events: Iterable[Mapping[str, Any]],
    targets: Targets,
    figure: bytes | None,
) -> Page:
    """``rows``: of runs.csv; ``events``: of events.jsonl, for the ledgers; ``figure``: PNG."""
    page = Page(config.title)
    page.heading("Results").table(*table(summaries)).text(reading_notes(summaries, targets))
    if figure is not None:
        page.image(figure, config.title)
    page.heading("Privacy")
    page.text("One run of each cell. " + WORDING)
    names = varying([summary.cell for summary in summaries])
    ledgers = {event["config_hash"]: event["ledger"] for event in events if event.get("event") == "ledger"}
    first: dict[Any, Mapping[str, str]] = {}
    for row in rows:
        first.setdefault(cell_of(row), row)
    for summary in summaries:
        row = first[summary.cell]
        page.heading(label(summary.cell, names), level=3)
        if row["config_hash"] in ledgers:
            ledger_section(page, ledgers[row["config_hash"]])
        else:
            page.text("No ledger was recorded for this run.")
    page.heading("Time and memory").table(*_times(summaries, names))
    page.heading("Settings")
    page.table(["cell", "settings"], [[label(s.cell, names), _settings(s)] for s in summaries])
    versions = sorted({f"version {row['version']}, commit {row['git_commit'] or 'unknown'}" for row in rows})
    page.heading("Run it again").text("Made by " + "; ".join(versions) + ". Save this as config.yaml and run:")
    page.code("python experiments/run.py --config config.yaml")
    return page.code(config.to_yaml())


def _times(summaries: Sequence[CellSummary], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    lines = []
    for summary in summaries:
        estimates = [summary.estimates.get(name) for name in ("seconds_total", "peak_rss_mb")]
        shown = [f"{e.mean:.3g}" if e else "" for e in estimates]
        sent = summary.estimates.get("client_sent_paper_bytes")
        lines.append([label(summary.cell, names), *shown, f"{sent.mean / 1e6:.3g}" if sent else ""])
    return ["cell", "seconds a run", "peak memory, MB", "sent by a client, MB as in the paper"], lines


def _settings(summary: CellSummary) -> str:
    return ", ".join(f"{name} = {value}" for name, value in cell_values(summary.cell).items())
