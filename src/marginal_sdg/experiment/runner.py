"""The command line of an experiment, and the sweep behind it."""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from marginal_sdg import __version__
from marginal_sdg.errors import ConfigError, MarginalSDGError
from marginal_sdg.experiment.cluster import LOCAL, DoAll, check_backend, workforce
from marginal_sdg.experiment.config import Config, find_config, load_config
from marginal_sdg.experiment.grid import Run, cells, expand, varying
from marginal_sdg.experiment.outputs import write_outputs
from marginal_sdg.experiment.pool import Work
from marginal_sdg.experiment.progress import display, say, show_table
from marginal_sdg.experiment.store import Store, write_atomically
from marginal_sdg.experiment.summary import summarise, table
from marginal_sdg.experiment.targets import Targets, load_targets

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Sweep:
    """A checked config, its runs, and the folder that they go to."""

    config: Config
    runs: tuple[Run, ...]
    targets: Targets
    folder: Path


def main(argv: Sequence[str] | None = None, *, root: Path | None = None, work: Work | None = None) -> int:
    """Run a sweep and return the exit code: 0 done, 1 a run failed, 2 bad input, 130 interrupted.

    ``root`` holds ``configs/`` and ``experiments/targets/``; ``work`` does one run (the real one by default).
    """
    root = Path.cwd() if root is None else root
    try:
        options = _parser().parse_args(argv)
        sweep = _sweep(options, root)
        if options.dry_run:
            return _dry_run(sweep, options.workers)
        with workforce(options.backend, options.workers) as do_all, Store(sweep.folder) as store:
            return _run(sweep, store, do_all, work or _real_work, root)
    except MarginalSDGError as error:
        say(Console(stderr=True), f"error: {' '.join(str(error).split())}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say(Console(stderr=True), "interrupted: finished runs are kept, the same call goes on from there")
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and no usage text: bad input is bad input, wherever it comes from."""
        raise ConfigError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="run.py",
        description="Run an experiment: all combinations of a config's values, each with all seeds.",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a path, or a name in configs/")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a key; a list is a sweep: --set epsilon=[1,5]; may be repeated",
    )
    parser.add_argument(
        "--profile",
        choices=("paper", "quick"),
        default="paper",
        help="quick: fewer seeds and points, as the config says",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: results/<config name>/")
    parser.add_argument(
        "--workers", type=int, metavar="N", default=os.cpu_count() or 1, help="processes; 0 runs in this one"
    )
    parser.add_argument(
        "--backend",
        default=LOCAL,
        metavar="WHERE",
        help="local (default), dask or ray; a running cluster by its address: dask:tcp://host:8786, ray:host:6379",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on where an earlier call stopped; what happens anyway"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, read no data, write nothing")
    return parser


def _sweep(options: argparse.Namespace, root: Path) -> Sweep:
    """Everything that can be wrong with the input is found here, before anything is read or written."""
    if not 0 <= options.workers <= 1024:
        raise ConfigError(f"--workers {options.workers} is not allowed; give a whole number from 0 to 1024")
    check_backend(options.backend, options.workers)
    quick = options.profile == "quick"
    config = load_config(find_config(options.config, root / "configs"), options.overrides, quick=quick)
    folder: Path = options.out or Path("results") / (config.name + ("-quick" if quick else ""))
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; give a folder")
    targets = load_targets(config.paper, root / "experiments" / "targets")
    return Sweep(config, expand(config), targets, folder)


def _dry_run(sweep: Sweep, workers: int) -> int:
    from marginal_sdg.experiment.plan import show_plan

    show_plan(sweep.config, cells(sweep.config), sweep.targets, workers)
    return DONE


def _run(sweep: Sweep, store: Store, do_all: DoAll, work: Work, root: Path) -> int:
    finished = store.finished()
    waiting = [run for run in sweep.runs if run.config_hash not in finished]
    stamp = {"version": __version__, "git_commit": git_commit(root)}
    _warn_of_other_versions(store, stamp)
    write_atomically(sweep.folder / "config.yaml", sweep.config.to_yaml())
    names = varying(cells(sweep.config))
    shown = display(len(sweep.runs), len(sweep.runs) - len(waiting), names, sweep.folder)
    failures: list[Run] = []

    def on_message(run: Run, kind: str, payload: dict[str, Any]) -> None:
        mark = {"config_hash": run.config_hash, "seed": run.seed}
        if kind == "event":
            store.add_event(mark | payload)
            shown.event(run, payload)
        elif kind == "done":
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            store.add_row(payload | mark | stamp | {"finished_at": now})
            shown.done(run, payload)
        else:
            failures.append(run)
            store.add_event(mark | {"event": "failed"} | payload)
            shown.failed(run, payload["error"])

    try:
        do_all(waiting, work, on_message)
    finally:
        shown.close()
    rows = store.rows()
    if rows:
        write_outputs(sweep.config, sweep.folder, rows, sweep.targets)
        show_table(*table(summarise(rows, sweep.targets)))
        say(Console(), f"report: {sweep.folder / 'report.html'}")
    if failures:
        count = f"{len(failures)} of {len(waiting)} runs failed"
        say(
            Console(stderr=True),
            f"error: {count}; reasons are above and in {store.events}; the same call retries",
        )
    return FAILED if failures else DONE


def _real_work(run: Run, emit: Any) -> dict[str, Any]:
    from marginal_sdg.experiment.run import run_one

    return run_one(run, emit)


def git_commit(root: Path) -> str:
    """The checked-out commit, "-dirty" with local changes to the code in ``src``; empty outside a repository."""

    def git(*words: str) -> str:
        call = ["git", "-C", str(root), *words]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--", "src") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _warn_of_other_versions(store: Store, stamp: dict[str, str]) -> None:
    others = {row["git_commit"] for row in store.rows()} - {stamp["git_commit"]}
    if others:
        text = f"note: {store.runs} has runs of other code ({', '.join(sorted(others))}); they are not repeated"
        say(Console(stderr=True), text + ", give another --out for a fresh start")


if __name__ == "__main__":
    sys.exit(main())
