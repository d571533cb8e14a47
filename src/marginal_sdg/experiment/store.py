"""The folder of a sweep: one row per finished run, one line per event, never a half of either.

A line is written with one ``write`` to a file opened for appending, then synced. A process killed in
between can leave one torn last line; opening the store removes it. A lock that the kernel drops with its
process keeps two sweeps out of one folder. The last cell of a row is its checksum, so that a row that was damaged or
edited later is refused when it is read; rows of versions before checksums have none and are taken as they are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from marginal_sdg.backends.vault import EncryptionCosts
from marginal_sdg.crypto.traffic import COLUMNS as TRAFFIC
from marginal_sdg.errors import ConfigError
from marginal_sdg.experiment.params import NAMES

# The contract with readers of runs.csv: these columns, in this order, first.
CONTRACT = (
    *(
        "config_hash",
        "dataset",
        "method",
        "calibration",
        "epsilon",
        "delta",
        "rounds",
        "local_steps",
        "clients",
    ),
    *("participation", "partition", "gaussian_share", "seed", "workload_error", "nll", "auc", "train_rows"),
    *("rho_spent", "sigma", *TRAFFIC, "seconds_total"),
    *("seconds_select", "seconds_measure", "seconds_generate", "peak_rss_mb", "version", "git_commit"),
)
COLUMNS = (
    *CONTRACT,
    *(name for name in NAMES if name not in CONTRACT),
    *("nll_kde", "accuracy", "test_rows", "synthetic_rows", "rounds_done"),
    *(column.name for column in fields(EncryptionCosts)),
    *("privacy", "finished_at"),
)

CHECKSUM = "checksum"  # the last column of the file; readers check it and never see it


class Store:
    """Results of a sweep in ``folder``; use as a context manager, which holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs.csv"
        self.events = folder / "events.jsonl"
        self._lock: int | None = None

    def __enter__(self) -> Store:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            drop_torn_line(self.events)
            drop_torn_line(self.runs)
            self._match_columns()
        except BaseException:
            self._drop_lock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop_lock()

    def rows(self) -> list[dict[str, str]]:
        """All finished runs, as text, in the order in which they finished."""
        return list(read_rows(self.runs))

    def finished(self) -> frozenset[str]:
        """Hashes of the finished runs."""
        return frozenset(row["config_hash"] for row in self.rows())

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Append one finished run: on disk, whole, when this returns."""
        unknown = sorted(set(row) - set(COLUMNS))
        if unknown:
            raise KeyError(f"columns that runs.csv does not have: {', '.join(unknown)}")
        _append(self.runs, _signed_line([_cell(row.get(name)) for name in COLUMNS]))

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Append one event as a line of JSON."""
        _append(self.events, json.dumps(event, default=str) + "\n", sync=False)

    def _match_columns(self) -> None:
        """Start runs.csv, or add the columns that it lacks because an earlier version wrote it."""
        lines = [_csv_line((*COLUMNS, CHECKSUM))]
        for row, checked in _checked_rows(self.runs):
            values = [row.get(name) or "" for name in COLUMNS]
            lines.append(_signed_line(values) if checked else _csv_line([*values, ""]))
        text = "".join(lines)
        if not self.runs.exists() or self.runs.read_text(encoding="utf-8") != text:
            write_atomically(self.runs, text)

    def _take_lock(self) -> None:
        import fcntl

        self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._drop_lock()
            message = f"{self.folder}: another sweep is writing here; wait for it or give another --out"
            raise ConfigError(message) from None

    def _drop_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)  # closing releases it
        self._lock = None


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a runs.csv, by column. Raises ConfigError if the file is not one, or a row not what was written."""
    return (row for row, _ in _checked_rows(path))


def _checked_rows(path: Path) -> Iterator[tuple[dict[str, str], bool]]:
    """Rows, each with whether it had a checksum, which then is right."""
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            names, *lines = list(csv.reader(file)) or [[]]
    except csv.Error:
        raise ConfigError(f"{path}: is damaged, it is not CSV; restore the file") from None
    if "config_hash" not in names or not set(names) <= {*COLUMNS, CHECKSUM}:
        raise ConfigError(f"{path}: the columns are not those of this version; give another --out")
    for number, values in enumerate(lines, 2):  # a cell never spans lines
        where = f"{path} line {number}"
        if len(values) != len(names):
            raise ConfigError(f"{where}: has {len(values)} of {len(names)} values; delete that line")
        row = dict(zip(names, values, strict=True))
        given = row.pop(CHECKSUM, "")
        if given and given != _checksum(names, values):
            raise ConfigError(f"{where}: is damaged, its checksum is wrong; restore the file or delete that line")
        yield row, bool(given)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Whole events of an events.jsonl; a line that is not JSON is passed over (it says nothing)."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event


def drop_torn_line(path: Path) -> None:
    """Cut what follows the last line end: a line that a killed process did not finish."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)
            os.fsync(file.fileno())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by a new one in one step: readers see the old or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _append(path: Path, line: str, *, sync: bool = True) -> None:
    data = line.encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(handle, data) != len(data):
            raise OSError(f"{path}: the disk is full")
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)


def _signed_line(values: Sequence[str]) -> str:
    return _csv_line([*values, _checksum(COLUMNS, values)])


def _checksum(names: Sequence[str], values: Sequence[str]) -> str:
    """64 bits of SHA-256 over the names and texts of a row's cells: against accidents, not against forgers."""
    cells = [(name, value) for name, value in zip(names, values, strict=True) if name != CHECKSUM]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def _csv_line(values: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _cell(value: Any) -> str:
    """A value as text on one line; empty where it does not apply."""
    if value is None or value != value:  # NaN: nothing was measured
        return ""
    return " ".join((value if isinstance(value, str) else str(value)).split())
