"""A table larger than memory: Parquet files are counted in one pass, and AIM is fitted to them.

    python experiments/stored.py [--rows 100000000] [--folder FOLDER] [--out experiments/results/stored]

Made-up records of 15 columns (10 with labels, 3 of integers, 2 of floats) in files of 10,000,000 rows at most, which
stay in ``--folder`` if it is given. The workload is 64 random 3-way marginals. One of them is counted while the records
are made, and compared. Writes ``stored.csv`` and ``stored.md``.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from provenance import signed_table
from rich.progress import track

from marginal_sdg import AIM, Attribute, Domain, StoredTable, Workload
from marginal_sdg.marginals import Counts

LABELS = (2, 5, 16, 7, 15, 6, 5, 41, 2, 9)  # per column
FILE, CHUNK = 10_000_000, 500_000  # rows

DOMAIN = Domain(
    (
        *(Attribute(f"c{j}", categories=tuple(f"value {k}" for k in range(n))) for j, n in enumerate(LABELS)),
        Attribute("age", lower=0, upper=100, bins=20, integer=True),
        Attribute("hours", lower=0, upper=100, bins=25, integer=True),
        Attribute("year", lower=1950, upper=2025, bins=25, integer=True),
        Attribute("income", lower=0.0, upper=1e6, bins=32),
        Attribute("score", lower=0.0, upper=1.0, bins=10),
    )
)
CHECKED = ("c2", "c3", "c7")


def records(rng: np.random.Generator, rows: int) -> tuple[pa.Table, Counts]:
    """Records whose columns depend on one hidden number each, and their counts in the cells of ``CHECKED``."""
    hidden = rng.random(rows)
    codes = [(n * (0.6 * hidden + 0.4 * rng.random(rows)) ** 2).astype(np.int8) for n in LABELS]
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(code), pa.array(DOMAIN[f"c{j}"].categories))
        for j, code in enumerate(codes)
    ]
    columns += [
        pa.array((100 * (hidden + rng.random(rows)) / 2).astype(np.int16)),
        pa.array(rng.integers(0, 101, rows, dtype=np.int16)),
        pa.array(rng.integers(1950, 2026, rows, dtype=np.int16)),
        pa.array((1e6 * hidden**4 * rng.random(rows)).astype(np.float32)),
        pa.array(rng.random(rows, dtype=np.float32)),
    ]
    checked = [codes[int(name[1:])].astype(np.int64) for name in CHECKED]
    cells = np.ravel_multi_index(checked, [DOMAIN[name].size for name in CHECKED])
    return pa.Table.from_arrays(columns, names=list(DOMAIN.names)), np.bincount(cells, minlength=DOMAIN.size(CHECKED))


def make(folder: Path, rows: int) -> Counts:
    """Write the files; the counts of ``CHECKED``."""
    rng = np.random.default_rng(0)
    total = np.zeros(DOMAIN.size(CHECKED), dtype=np.int64)
    schema = records(np.random.default_rng(0), 1)[0].schema
    for first in track(range(0, rows, FILE), "making files"):
        with pq.ParquetWriter(folder / f"part{first // FILE:04d}.parquet", schema) as writer:
            for start in range(first, min(first + FILE, rows), CHUNK):
                table, counts = records(rng, min(CHUNK, rows - start))
                writer.write_table(table)
                total += counts
    return total


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """Make, count, fit."""
    expected = make(folder, rows)
    table = StoredTable(folder, DOMAIN)
    workload = Workload.random(DOMAIN)
    start, start_cpu = time.perf_counter(), time.process_time()
    tally = table.count([*workload.cliques, CHECKED])
    counted, counted_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    exact = bool((tally.contingency(CHECKED) == expected).all()) and len(tally) == rows
    start, start_cpu = time.perf_counter(), time.process_time()
    AIM(DOMAIN, workload=workload, seed=0).fit(table).sample_table(1_000_000, seed=0)
    return {
        "rows": f"{rows:,}",
        "columns": len(DOMAIN),
        "files, GB": round(sum(file.stat().st_size for file in table.files) / 1e9, 2),
        "marginals": len(workload.cliques) + 1,
        "cells": int(workload.cells.sum()),
        "count, wall s": round(counted, 1),
        "count, CPU s": round(counted_cpu, 1),
        "AIM and 1,000,000 rows, wall s": round(time.perf_counter() - start, 1),
        "AIM, CPU s": round(time.process_time() - start_cpu, 1),
        "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "counts exact": exact,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Count and synthesise a table larger than memory.")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path, help="for the files; default: a temporary one")
    parser.add_argument("--out", type=Path, default=Path("results/stored"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame([measure(folder, options.rows)])
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "stored.csv", index=False)
    command = f"python experiments/stored.py --rows {options.rows}"
    text = signed_table("", table.to_dict("records"), command, "pyarrow")
    (options.out / "stored.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
