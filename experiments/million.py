"""A million records from, and through, the model of Adult; and the seconds of single FLAIM runs.

    python experiments/million.py [--out experiments/results/million]

Each figure is the best and the median of five repetitions in one process, CPU and wall seconds.
Writes ``million.csv`` and ``million.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from provenance import machine, markdown_table

from marginal_sdg import AIM, FLAIM
from marginal_sdg.datasets import load_dataset, partition, split

ROWS = 1_000_000
REPEATS = 5


def timed(work: Callable[[int], object]) -> dict[str, float]:
    """CPU and wall seconds of ``work(repetition)``."""
    wall, cpu = [], []
    for repetition in range(REPEATS):
        start, start_cpu = time.perf_counter(), time.process_time()
        work(repetition)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    best, middle = min(cpu), float(np.median(cpu))
    return {"cpu_best": best, "cpu_median": middle, "wall_best": min(wall), "wall_median": float(np.median(wall))}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Time a million records, and single runs.")
    parser.add_argument("--out", type=Path, default=Path("results/million"))
    out = parser.parse_args().out
    adult = load_dataset("adult")
    train, _ = split(adult.table())
    owner = partition(train, 100, "cluster", 571, adult.target)
    clients = [train.take(np.flatnonzero(owner == k)) for k in range(100)]
    model = AIM(adult.domain, seed=0).fit(train).model_
    drawn = model.sample(ROWS, np.random.default_rng(0))
    works: dict[str, Callable[[int], object]] = {
        "sample 1,000,000 records": lambda seed: model.sample(ROWS, np.random.default_rng(seed)),
        "sample 1,000,000 independent records": lambda seed: model.sample(
            ROWS, np.random.default_rng(seed), rounded=False
        ),
        "log-likelihood of 1,000,000 records": lambda seed: model.log_likelihood(drawn),
        "AIM on Adult, T = 10": lambda seed: AIM(adult.domain, seed=seed).fit(train),
        "FLAIM (Private), 100 clients, s = 1": lambda seed: FLAIM(adult.domain, seed=seed).fit(clients),
        "FLAIM (Private), 100 clients, s = 4": lambda seed: FLAIM(adult.domain, seed=seed, local_steps=4).fit(clients),
    }
    table = pd.DataFrame([{"what": name, **timed(work)} for name, work in works.items()]).round(3)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "million.csv", index=False)
    text = f"Seconds, {REPEATS} repetitions. {machine()}.\n\n" + markdown_table(table.to_dict("records"))
    (out / "million.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
