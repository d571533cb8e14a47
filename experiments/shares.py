"""DistAIM on secret shares: CPU time, bytes, rounds of a large selection, and of whole fits on Adult against the clear.

    python experiments/shares.py [--repeats 7] [--out experiments/results/shares]

Everything runs in one process, where the three servers take turns; times are CPU seconds of it. Writes ``shares.csv``
and ``shares.md``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import signed_table
from rich.progress import track

from marginal_sdg import DistAIM, Domain, Table, Workload
from marginal_sdg.backends.ideal_pool import IdealPool
from marginal_sdg.backends.pool import Ballot, select_cost
from marginal_sdg.backends.share_pool import SharePool
from marginal_sdg.datasets import load_dataset, partition, split
from marginal_sdg.marginals import Layout
from marginal_sdg.privacy.noise import Source

QUERIES, SIDE, RECORDS = 64, 20, 1_000_000  # 64 marginals of 20 x 20 x 20 = 8,000 cells


def selection(repeats: int, share: float) -> dict[str, Any]:
    """One selection among 64 marginals with 8,000 cells; the model expects records in that share of the cells."""
    rng = np.random.default_rng(0)
    domain = Domain.from_shape({f"a{j}": SIDE for j in range(9)})
    table = Table(domain, (SIDE * rng.random((RECORDS, 9)) ** 2).astype(np.int32))
    cliques = tuple(itertools.islice(itertools.combinations(domain.names, 3), QUERIES))
    workload = Workload(domain, cliques)
    shared, ideal = SharePool([table], workload, Source.seeded(1).key), IdealPool([table], workload)
    for pool in (shared, ideal):
        pool.join([0])
        pool.prepare(cliques)
    layout = Layout(domain, cliques)
    cells = int(layout.offsets[-1])
    expected = rng.integers(1, 500, cells) * (rng.random(cells) < share)
    weights, penalties = rng.integers(2**10, 2**20, QUERIES), rng.integers(0, 2**30, QUERIES)
    ballot = Ballot(layout, expected, weights, penalties, most=RECORDS)
    seconds, equal = [], True
    before = [(t.payload_bytes, t.rounds) for t in shared.transcripts]
    for _ in range(repeats):
        parts = [rng.integers(-(2**29), 2**29, QUERIES) for _ in range(3)]
        seconds.append(_timed(partial(shared.select, ballot, parts)))
        equal &= shared.select(ballot, parts) == ideal.select(ballot, parts)
    after = [(t.payload_bytes, t.rounds) for t in shared.transcripts]
    sent = [(b[0] - a[0]) // (2 * repeats) for a, b in zip(before, after, strict=True)]
    cost = select_cost(ballot)
    return {
        "what": f"select, {cells:,} cells, {share:.0%} compared",
        "best CPU s": round(min(seconds), 3),
        "median CPU s": round(float(np.median(seconds)), 3),
        "MB sent by a server": f"{min(sent) / 1e6:.2f} to {max(sent) / 1e6:.2f}",
        "rounds": (after[0][1] - before[0][1]) // (2 * repeats),
        "bytes as by formula": tuple(sent) == cost.payload,
        "same as in the clear": equal,
    }


def fits(repeats: int, calibration: str) -> dict[str, Any]:
    """DistAIM on Adult, 100 clients in clusters, 10 rounds, epsilon 1: both engines, alternating, same seeds."""
    data = load_dataset("adult")
    train, _ = split(data.table())
    owner = partition(train, 100, "cluster", 571, data.target)
    clients = [train.take(np.flatnonzero(owner == k)) for k in range(100)]
    workload = Workload.random(train.domain)
    seconds: dict[str, list[float]] = {"ideal": [], "shares": []}
    equal = True
    for seed in track(range(repeats), f"fits, {calibration} calibration"):
        released = []
        for engine, times in seconds.items():
            method = DistAIM(train.domain, workload=workload, calibration=calibration, engine=engine, seed=seed)
            times.append(_timed(partial(_fit_and_sample, method, clients, len(train))))
            released.append([(m.clique, m.counts.tolist()) for m in method.measurements_])
        equal &= released[0] == released[1]
    ratios = np.divide(seconds["shares"], seconds["ideal"])
    return {
        "what": f"fit and sample, Adult, {calibration} calibration",
        "best CPU s": f"{min(seconds['shares']):.2f}; in the clear {min(seconds['ideal']):.2f}",
        "median CPU s": f"{np.median(seconds['shares']):.2f}; in the clear {np.median(seconds['ideal']):.2f}",
        "median ratio": round(float(np.median(ratios)), 2),
        "same as in the clear": equal,
    }


def _fit_and_sample(method: DistAIM, clients: list[Table], rows: int) -> None:
    method.fit(clients).sample_table(rows, seed=0)


def _timed(task: Callable[[], object]) -> float:
    start = time.process_time()
    task()
    return time.process_time() - start


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description="Time DistAIM on secret shares.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("results/shares"))
    options = parser.parse_args()
    fits(1, "sound")  # warm up
    rows = [selection(options.repeats, 1.0), selection(options.repeats, 0.3)]
    rows += [fits(options.repeats, calibration) for calibration in ("sound", "paper")]
    table = pd.DataFrame(rows).fillna("")
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "shares.csv", index=False)
    command = f"python experiments/shares.py --repeats {options.repeats}"
    text = signed_table("", table.to_dict("records"), command, "cryptography")
    (options.out / "shares.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
