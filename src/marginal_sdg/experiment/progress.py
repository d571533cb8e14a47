"""What a person sees while a sweep runs: live bars on a terminal, one plain line per run elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from marginal_sdg.experiment.grid import Run, label


class Display(Protocol):
    """Told of everything that happens in a sweep."""

    def event(self, run: Run, event: Mapping[str, Any]) -> None:
        """A round was played, or a run began."""
        ...

    def done(self, run: Run, row: Mapping[str, Any]) -> None:
        """A run finished."""
        ...

    def failed(self, run: Run, error: str) -> None:
        """A run failed."""
        ...

    def close(self) -> None:
        """No more news."""
        ...


def display(total: int, finished: int, names: Sequence[str], folder: Path) -> Display:
    """The display that fits standard output; ``finished`` runs of ``total`` were there before."""
    console = Console()
    kind = Bars if console.is_terminal else Lines
    reused = f", {finished} done before" if finished else ""
    say(console, f"{total} runs{reused}; results in {folder}/")
    return kind(console, total, finished, names)


class Lines:
    """One line per finished run."""

    def __init__(self, console: Console, total: int, finished: int, names: Sequence[str]) -> None:
        self._console, self._total, self._finished, self._names = console, total, finished, names

    def event(self, run: Run, event: Mapping[str, Any]) -> None:
        """Rounds are too many for a log."""

    def done(self, run: Run, row: Mapping[str, Any]) -> None:
        """Say what came out."""
        self._finished += 1
        say(self._console, f"[{self._finished}/{self._total}] {_result(run, self._names, row)}")

    def failed(self, run: Run, error: str) -> None:
        """Say what went wrong, in one line."""
        say(Console(stderr=True), f"FAILED {_name(run, self._names)}: {error}")

    def close(self) -> None:
        """Nothing to tidy up."""


def say(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is: no wrapping, no markup, no colours by guess."""
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


class Bars:
    """A bar for the sweep and one for each run under way: round, chosen clique, rho spent, time left."""

    def __init__(self, console: Console, total: int, finished: int, names: Sequence[str]) -> None:
        self._names = names
        self._progress = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            transient=True,
        )
        self._progress.start()
        self._sweep = self._progress.add_task("runs", total=total, completed=finished, note="")
        self._tasks: dict[Run, TaskID] = {}

    def event(self, run: Run, event: Mapping[str, Any]) -> None:
        """Move a run's bar."""
        if run not in self._tasks:
            self._tasks[run] = self._progress.add_task(_name(run, self._names), total=None, note="preparing data")
        if event.get("event") == "round":
            picked = event.get("selected") or []
            more = f" and {len(picked) - 1} more" if len(picked) > 1 else ""
            note = f"rho {event.get('rho_spent', 0):.4f}  " + ("+".join(picked[0]) + more if picked else "")
            self._progress.update(
                self._tasks[run], completed=event.get("round"), total=event.get("rounds"), note=note[:70]
            )
        elif event.get("event") not in ("begin", "ledger"):
            self._progress.update(self._tasks[run], note=str(event.get("event")))

    def done(self, run: Run, row: Mapping[str, Any]) -> None:
        """Say what came out and take the bar away."""
        self._end(run)
        say(self._progress.console, _result(run, self._names, row))

    def failed(self, run: Run, error: str) -> None:
        """Say what went wrong and take the bar away."""
        self._end(run)
        say(self._progress.console, f"FAILED {_name(run, self._names)}: {error}", style="red")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def _end(self, run: Run) -> None:
        self._progress.advance(self._sweep)
        if run in self._tasks:
            self._progress.remove_task(self._tasks.pop(run))


def show_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A table on standard output, never cut; a narrow terminal gets it without the intervals."""
    console = Console()
    columns = list(zip(header, *lines, strict=True))
    if console.is_terminal and _width(columns) > console.width:
        columns = [column for column in columns if column[0] != "95% interval"]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, *cells in columns:
        numbers = all(cell[:1].isdigit() or not cell for cell in cells)
        grid.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for line in list(zip(*columns, strict=True))[1:]:
        grid.add_row(*line)
    Console(width=max(console.width, _width(columns))).print(grid, highlight=False)


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns)


def _name(run: Run, names: Sequence[str]) -> str:
    return f"{label(run.params, names)}, seed {run.seed}"


def _result(run: Run, names: Sequence[str], row: Mapping[str, Any]) -> str:
    parts = [
        f"{word} {row[key]:.4g}{unit}"
        for key, word, unit in (
            ("workload_error", "error", ""),
            ("nll", "NLL", ""),
            ("auc", "AUC", ""),
            ("seconds_total", "in", " s"),
        )
        if isinstance(row.get(key), float)
    ]
    return f"{_name(run, names)}: {' '.join(parts)}"
