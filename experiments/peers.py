"""AIM of this package and of others on the same table, workload and budget: error, time, memory, and what leaks.

    python experiments/peers.py [--config experiments/peers.yaml] [--out experiments/results/peers] [--cache FOLDER]
    python experiments/peers.py --columns workclass education-num ... --out experiments/results/peers_six

Every peer is installed from the package index into an environment of its own below ``--cache`` (several GB, kept),
which needs uv, and runs in a process of its own, one at a time, by turns. One that cannot be installed, fails or takes
too long is a row that says so. Writes ``peers.csv`` (a row per run, appended as it ends; a stopped sweep goes on where
it was) and ``peers.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import markdown_table, signed_table
from pydantic import Field
from rich.progress import track
from settings import BudgetSettings, Settings, load_settings, one_line_errors

from marginal_sdg.datasets import load_dataset
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, MarginalSDGError
from marginal_sdg.metrics import workload_error
from marginal_sdg.workload import Workload

CONFIG = Path(__file__).with_suffix(".yaml")
ADAPTERS = CONFIG.parent / "peer_adapters"
STOPPED = "stopped"
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "POLARS", "RAYON")}


Options = dict[str, int | float | str]  # arguments of a peer's AIM that are not its defaults


class Peer(Settings):
    """One package: how it is installed and run, and what a reader of its source finds."""

    name: str
    adapter: Path
    requires: tuple[str, ...]
    options: tuple[Options, ...] = Field(min_length=1)
    runs: int = Field(ge=1, le=100)
    told: str
    leaks: str


class PeersSettings(BudgetSettings):
    """Of this script: see peers.yaml."""

    dataset: str
    columns: tuple[str, ...] = Field(min_length=2)
    ways: int = Field(ge=1)
    python: str
    seconds: float = Field(gt=0)
    memory_mb: int = Field(gt=0)
    peers: tuple[Peer, ...] = Field(min_length=1)


class PeerError(Exception):
    """A peer that cannot be installed or run; the message is what its row says."""


@dataclass(frozen=True)
class Run:
    """One line of peers.csv: a peer, what it is told beside its task, and which repetition."""

    peer: Peer
    options: Options
    seed: int

    @property
    def label(self) -> str:
        """The options as a column shows them."""
        return ", ".join(f"{name} {value}" for name, value in self.options.items()) or "defaults"

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells its row apart."""
        return self.peer.name, self.label, self.seed


@dataclass(frozen=True)
class Arena:
    """The task of all peers: the table, the workload, and the files that their adapters read."""

    given: PeersSettings
    table: Table
    workload: Workload

    @classmethod
    def prepare(cls, given: PeersSettings) -> Arena:
        """Take the table's columns and list the workload."""
        everything = load_dataset(given.dataset).table()
        domain = Domain(tuple(everything.domain[name] for name in given.columns))
        table = Table(domain, np.stack([everything.column(name) for name in given.columns], axis=1))
        return cls(given, table, Workload(domain, tuple(combinations(domain.names, given.ways))))

    def hand_over(self, folder: Path, options: Options, seed: int) -> None:
        """Write what an adapter reads."""
        budget, domain = self.given.budget, self.table.domain
        task = {
            "names": domain.names,
            "sizes": domain.shape,
            "epsilon": self.given.epsilon,
            "delta": self.given.delta,
            "rho": float(budget.rho),
            "ways": self.given.ways,
            "workload": self.workload.cliques,
            "seed": seed,
            "memory_mb": self.given.memory_mb,
            "options": options,
        }
        np.save(folder / "codes.npy", self.table.codes)
        (folder / "task.json").write_text(json.dumps(task))

    def judge(self, folder: Path) -> dict[str, Any]:
        """Error and number of the synthetic records, measured by us whatever the peer says."""
        synthetic = Table(self.table.domain, np.load(folder / "synthetic.npy"))
        return {"error": round(workload_error(self.table, synthetic, self.workload), 6), "rows": len(synthetic)}


def environment(peer: Peer, python: str, cache: Path) -> str:
    """The peer's interpreter, installed where it is not yet. Raises PeerError with the installer's last words."""
    if not peer.requires:
        return sys.executable
    name = hashlib.sha256(json.dumps([python, *peer.requires]).encode()).hexdigest()[:12]
    folder = cache / f"{peer.adapter.stem}-{name}"
    interpreter = folder / "bin" / "python"
    if not (folder / "installed").exists():
        _install([_uv(), "venv", "--clear", "--python", python, str(folder)])
        _install([_uv(), "pip", "install", "--python", str(interpreter), *peer.requires])
        (folder / "installed").touch()
    return str(interpreter)


def _uv() -> str:
    local = CONFIG.parents[1] / ".tools" / "bin" / "uv"
    found = shutil.which("uv") or (str(local) if local.exists() else None)
    if found is None:
        raise ConfigError(
            "uv: not found on the PATH, and peers are installed with it; run `make test` once, or install it"
        )
    return found


def _install(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"not installed: {_last_line(done.stderr)}")


def run_once(arena: Arena, run: Run, cache: Path) -> dict[str, Any]:
    """One run in a cold process: its row, whatever happens."""
    peer, load = run.peer, round(os.getloadavg()[0], 2)
    row: dict[str, Any] = {"peer": peer.name, "options": run.label, "run": run.seed, "load": load}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arena.hand_over(folder, run.options, run.seed)
        try:
            interpreter = environment(peer, arena.given.python, cache)
            usage, failure = _supervise([interpreter, str(ADAPTERS / peer.adapter), name], folder, arena.given.seconds)
            row |= usage
            if failure:
                raise PeerError(failure)
            row |= json.loads((folder / "facts.json").read_text()) | arena.judge(folder)
        except PeerError as failed:
            row["failed"] = str(failed)
        except (OSError, ValueError, MarginalSDGError) as wrong:
            row["failed"] = f"no valid answer: {_last_line(str(wrong))}"
    columns = [
        "peer",
        "options",
        "run",
        "version",
        "error",
        "cpu_seconds",
        "wall_seconds",
        "peak_mb",
        "process_cpu_seconds",
    ]
    columns += ["rows", "load", "warnings", "failed"]
    return {column: row.get(column, "") for column in columns}


def _supervise(command: list[str], folder: Path, seconds: float) -> tuple[dict[str, float], str]:
    """Run a command for at most ``seconds``; what the process used, and why it failed, if it did."""
    inherited = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    deadline, stopped = time.monotonic() + seconds, False
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**inherited, **ONE_THREAD, "PYTHONPATH": str(ADAPTERS)},
            start_new_session=True,
        )
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if not stopped and time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                stopped = True
            time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    failure = ""
    if stopped:
        failure = f"{STOPPED} after {seconds:g} s"
    elif process.returncode:
        failure = _last_line((folder / "log").read_text(errors="replace")) or f"exit code {process.returncode}"
    used = {"process_cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3)}
    if stopped:  # an upper bound: never below what this process has; adapters that end say it exactly
        used["peak_mb"] = round(usage.ru_maxrss / 2**10, 1)
    return used, failure


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()[:200]


def plan(given: PeersSettings) -> Iterator[Run]:
    """By turns: the first run of every peer, then the second of those that have one; first options first."""
    for place in range(max(len(peer.options) for peer in given.peers)):
        for seed in range(max(peer.runs for peer in given.peers)):
            for peer in given.peers:
                if place < len(peer.options) and seed < peer.runs:
                    yield Run(peer, peer.options[place], seed)


def summarise(rows: pd.DataFrame, given: PeersSettings) -> list[dict[str, str]]:
    """A line per peer and options; ratios are to the first line's means, and a run that was stopped gives a bound."""
    cells = [(peer.name, Run(peer, options, 0).label) for peer in given.peers for options in peer.options]
    groups = {cell: rows[(rows["peer"] == cell[0]) & (rows["options"] == cell[1])] for cell in cells}
    return [{"peer": c[0], "options": c[1], **_numbers(mine, groups[cells[0]])} for c, mine in groups.items()]


def _numbers(mine: pd.DataFrame, ours: pd.DataFrame) -> dict[str, str]:
    done = mine[mine["failed"].isna()]
    stopped = done.empty and mine["failed"].str.startswith(STOPPED).any()
    bound, cpu = (">", mine["process_cpu_seconds"].max()) if stopped else ("", done["cpu_seconds"].mean())
    error, rows = done["error"].mean(), done["rows"]
    deviation = f" ± {done['error'].std() / len(done) ** 0.5:.4f}" if len(done) > 1 else ""
    numbers = {
        "version": ", ".join(done["version"].unique()),
        "runs": str(len(done)),
        "error": f"{error:.4f}{deviation}" if len(done) else "nan",
        "error / ours": f"{error / ours['error'].mean():.2f}",
        "CPU s": f"{bound}{cpu:.3g}",
        "CPU / ours": f"{bound}{cpu / ours['cpu_seconds'].mean():.3g}",
        "wall s": f"{done['wall_seconds'].mean():.3g}",
        "peak MB": f"{mine['peak_mb'].max():.0f}",
        "rows": f"{rows.min():.0f} to {rows.max():.0f}" if rows.nunique() > 1 else f"{rows.max():.0f}",
        "failed": "; ".join(mine["failed"].dropna().unique()) if len(mine) else "not run yet",
    }
    return {name: "" if value == "nan" else value for name, value in numbers.items()}


def report(rows: pd.DataFrame, given: PeersSettings, head: str) -> str:
    """Numbers and notes as two tables, signed."""
    notes = [{"peer": peer.name, "told": peer.told, "what leaks": peer.leaks} for peer in given.peers]
    return head + markdown_table(summarise(rows, given)) + signed_table("\n", notes, "python experiments/peers.py")


def overview(results: Path, given: PeersSettings) -> str:
    """README's table: the committed rows on six columns and on nine, where somebody has any."""
    tables = [summarise(pd.read_csv(results / folder / "peers.csv"), given) for folder in ("peers_six", "peers")]
    lines = []
    for six, nine in zip(*tables, strict=True):
        shown = [(line["error"] or line["failed"] or "not run", line["CPU / ours"]) for line in (six, nine)]
        if not six["failed"]:
            name = f"{six['peer']}, {six['options']}"
            lines.append(f"| {name} | " + " | ".join(value for pair in shown for value in pair) + " |")
    head = "| AIM | six columns: error | CPU time / ours | nine columns: error | CPU time / ours |"
    return "\n".join([head, "|" + " --- |" * 5, *lines])


HEAD = """AIM of each package on all {rows:,} records of {dataset}, {columns} columns, coded already and with declared
domain: epsilon {epsilon:g}, delta {delta:g}, workload all {count} {ways}-way marginals, other parameters at
each package's defaults but for the options named. Adding or removing one record is protected against by all
of them. Error: mean L1 distance of the workload's normalised marginals, synthetic against real, measured by
us for all, with the standard error of the mean over runs. CPU and wall seconds: fit and sample, without
imports, on one core of a shared machine, in cold processes; peak memory: the whole process. Ratios are to
our mean. `>`: stopped; CPU seconds are then those of the whole process so far.

"""


def heading(arena: Arena) -> str:
    """What was asked of all."""
    given = arena.given
    return HEAD.format(
        rows=len(arena.table),
        columns=len(arena.table.domain),
        count=len(arena.workload.cliques),
        **given.model_dump(include={"dataset", "epsilon", "delta", "ways"}),
    )


def main() -> None:
    """Run what is not in the file yet, write every row at once, summarise."""
    parser = argparse.ArgumentParser(description="Compare AIM with that of other packages.")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--out", type=Path, default=CONFIG.parent / "results" / "peers")
    parser.add_argument("--columns", nargs="+", help="of the data set, instead of those in the settings")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "marginal_sdg" / "peers")
    options = parser.parse_args()
    given = load_settings(options.config, PeersSettings)
    if options.columns:
        given = given.model_copy(update={"columns": tuple(options.columns)})
    arena = Arena.prepare(given)
    path = options.out / "peers.csv"
    known = pd.read_csv(path)[["peer", "options", "run"]] if path.exists() else pd.DataFrame()
    done = set(known.itertuples(index=False, name=None))
    options.out.mkdir(parents=True, exist_ok=True)
    for run in track([run for run in plan(given) if run.key not in done], "runs"):
        row = run_once(arena, run, options.cache)
        pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)
    (options.out / "peers.md").write_text(report(pd.read_csv(path), given, heading(arena)), encoding="utf-8")


if __name__ == "__main__":
    one_line_errors(main)
