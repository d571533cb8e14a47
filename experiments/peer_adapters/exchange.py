"""What an adapter and ``peers.py`` hand to each other: files in one folder. Needs NumPy only, in any environment.

In: ``codes.npy``, (n, d) int32, and ``task.json``, the public facts. Out: ``synthetic.npy``, codes of the same columns,
and ``facts.json``, what the fit took. Importing the peer is not counted; fitting and sampling are, on one core.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[Any]  # integers, (records, columns)


@dataclass(frozen=True)
class Task:
    """What is public.

    ``sizes``: column j has codes 0..size-1. ``rho``: the zCDP that epsilon and delta pay for, by our conversion.
    ``options``: further arguments of the peer's AIM.
    """

    names: list[str]
    sizes: list[int]
    epsilon: float
    delta: float
    rho: float
    ways: int
    workload: list[list[str]]
    seed: int
    memory_mb: int
    options: dict[str, Any]


def answer(package: str, synthesise: Callable[[Task, Codes], Codes]) -> None:
    """Read the task from the folder in the command line, run ``synthesise(task, codes)``, write what came of it."""
    folder = Path(sys.argv[1])
    task = Task(**json.loads((folder / "task.json").read_text()))
    codes = np.load(folder / "codes.npy")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_DATA, (task.memory_mb * 2**20, -1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wall, cpu = time.perf_counter(), _cpu_seconds()
        synthetic = synthesise(task, codes)
        wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
    np.save(folder / "synthetic.npy", synthetic.astype(np.int32))
    facts = {
        "version": version(package),
        "cpu_seconds": round(cpu, 3),
        "wall_seconds": round(wall, 3),
        "peak_mb": _peak_mb(),
        "warnings": "; ".join(sorted({str(warning.message).splitlines()[0] for warning in caught})),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def _peak_mb() -> float:
    """Of this process since it has been Python: a child's ``ru_maxrss`` starts with its parent's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10, 1)


def _cpu_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)
