"""One command per mode: everything in processes of its own on this machine, Adult to a synthetic table, and its error.

    python experiments/deployments.py [--spu-python PATH] [--flower-python PATH] [--out experiments/results/deployments]

FHAIM with two data holders; DistAIM with three servers on SPU and 20 clients, where a Python with the extra spu is
given; FLAIM with ten SuperNodes of Flower, where one with the extra flower is. Each is held against the same method in
one process. Writes ``deployments.csv`` (a row per mode; modes that are not run keep theirs) and ``deployments.md``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import signed_table
from rich.progress import track

from marginal_sdg import FHAIM, FLAIM, DistAIM, Workload, load_dataset
from marginal_sdg.datasets import partition
from marginal_sdg.encoding import encode
from marginal_sdg.metrics import workload_error

SEEDS = 5
ADULT = load_dataset("adult")


@dataclass(frozen=True)
class Mode:
    """``command`` follows the interpreter; ``simulate`` fits in this process with a seed and samples."""

    name: str
    command: list[str]
    ways: int
    simulate: Callable[[int], pd.DataFrame]
    python: str = sys.executable


def fhaim(seed: int) -> pd.DataFrame:
    """Two holders of every other record."""
    parts = [ADULT.frame.iloc[place::2] for place in range(2)]
    return FHAIM(ADULT.domain, rounds=10, max_records=50_000, seed=seed).fit(parts).sample()


def distaim(seed: int) -> pd.DataFrame:
    """Twenty clients, records dealt out at random."""
    table = ADULT.table()
    owner = partition(table, 20, "iid", target=ADULT.target)
    clients = [table.take((owner == client).nonzero()[0]) for client in range(20)]
    return DistAIM(ADULT.domain, rounds=10, participation=0.5, seed=seed).fit(clients).sample()


def flaim(seed: int) -> pd.DataFrame:
    """Ten clients with every tenth record."""
    clients = [ADULT.frame.iloc[place::10] for place in range(10)]
    terms: dict[str, Any] = {"variant": "census", "rounds": 2, "participation": 0.6, "noise": "clients"}
    return FLAIM(ADULT.domain, seed=seed, **terms).fit(clients).sample()


def modes(spu: str | None, flower: str | None) -> Iterator[Mode]:
    """Those that can run."""
    command = ["-m", "marginal_sdg.roles", "demo", "--dataset", "adult", "--holders", "2", "--upload", "marginals"]
    yield Mode("FHAIM, 2 data holders", [*command, "--max-records", "50000", "--rounds", "10"], 2, fhaim)
    if spu:
        command = ["-m", "marginal_sdg.spu", "demo", "--dataset", "adult", "--clients", "20", "--server-python", spu]
        yield Mode("DistAIM, 3 servers on SPU, 20 clients", command, 3, distaim)
    if flower:
        command = ["-m", "marginal_sdg.flower", "demo", "--deployment", "--clients", "10", "--rounds", "2"]
        yield Mode("FLAIM, 10 SuperNodes of Flower", command, 3, flaim, flower)


def tried(mode: Mode) -> dict[str, Any]:
    """A row: how long it took, and its error against that in one process."""
    workload = Workload.random(ADULT.domain, ways=mode.ways)
    table = ADULT.table()

    def error(frame: pd.DataFrame) -> float:
        return workload_error(table, encode(frame, ADULT.domain), workload)

    with tempfile.TemporaryDirectory() as folder:
        out, start = Path(folder) / "synthetic.csv", time.monotonic()
        subprocess.run([mode.python, *mode.command, "--out", str(out)], check=True)
        seconds, deployed = time.monotonic() - start, error(pd.read_csv(out))
    errors = [error(mode.simulate(seed)) for seed in range(SEEDS)]
    shown = [word for word in mode.command if "/" not in word]
    return {
        "mode": mode.name,
        "command": "python " + " ".join(shown) + (" PATH" if len(shown) < len(mode.command) else ""),
        "wall s": round(seconds),
        "error": f"{deployed:.3f}",
        "in one process": f"{np.mean(errors):.3f} ± {np.std(errors, ddof=1):.3f}",
    }


HEAD = """Adult at epsilon 1: every party a process with a folder of its own; one command brings them up and ends them.
Error: mean L1 distance of the 64 random 3-way marginals of the benchmark (FHAIM: of 2-way ones), once, against five
fits of the same method in one process. Wall seconds, with start and end, on a machine with other work.

"""


def main() -> None:
    """Run the modes whose environments are given."""
    parser = argparse.ArgumentParser(description="Bring up every mode on this machine.")
    parser.add_argument("--spu-python", help="of an environment with the extra spu")
    parser.add_argument("--flower-python", help="of an environment with the extra flower")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "deployments")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "deployments.csv"
    known = pd.read_csv(path).to_dict("records") if path.exists() else []
    rows: dict[str, Any] = {row["mode"]: row for row in known}
    for mode in track(list(modes(options.spu_python, options.flower_python)), "modes"):
        rows[mode.name] = tried(mode)
        pd.DataFrame(rows.values()).to_csv(path, index=False)
    text = signed_table(HEAD, list(rows.values()), "python experiments/deployments.py")
    (options.out / "deployments.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
