"""FLAIM (KDD 2024), Table 5: how heterogeneous are the clients of each partition?

    python experiments/table5.py [--out experiments/results/table5] [--seeds 10]

The paper reports one partition each. IID and Dirichlet partitions are cheap, so they are drawn once per seed; the
clusters are the ones that ship with the project. Writes ``table5.csv`` and ``table5.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from provenance import markdown_table
from rich.progress import track

from marginal_sdg.datasets import load_dataset, partition, split
from marginal_sdg.metrics import heterogeneity

CLIENTS = 100
SHIPPED_SEED = 571
PARTITIONS = {"IID": "iid", "cluster": "cluster", "Dirichlet 0.1": "dirichlet:0.1", "Dirichlet 0.8": "dirichlet:0.8"}
TARGETS = Path(__file__).parent / "targets" / "flaim_table5_heterogeneity.csv"


def measure(dataset: str, kind: str, seed: int) -> float:
    """Heterogeneity of one partition of the training rows over 100 clients."""
    data = load_dataset(dataset)
    train, _ = split(data.table())
    owner = partition(train, CLIENTS, kind, seed, data.target)
    return heterogeneity([train.take(np.flatnonzero(owner == k)) for k in range(CLIENTS)])


def main() -> None:
    """Measure, compare with the paper, write."""
    parser = argparse.ArgumentParser(description="Rebuild FLAIM's Table 5 for Adult and Magic.")
    parser.add_argument("--out", type=Path, default=Path("results/table5"))
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    published = pd.read_csv(TARGETS, comment="#").set_index("dataset")
    rows = []
    cells = [(dataset, name) for dataset in ("adult", "magic") for name in PARTITIONS]
    for dataset, name in track(cells, "partitions"):
        seeds = [SHIPPED_SEED] if name == "cluster" else list(range(options.seeds))
        values = np.array([measure(dataset, PARTITIONS[name], seed) for seed in seeds])
        paper = float(published.loc[dataset].to_numpy()[list(PARTITIONS).index(name)])
        rows.append(
            {
                "dataset": dataset,
                "partition": name,
                "partitions": len(values),
                "mean": round(float(values.mean()), 4),
                "lowest": round(float(values.min()), 4),
                "highest": round(float(values.max()), 4),
                "paper": paper,
                "ratio": round(float(values.mean()) / paper, 3),
            }
        )
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "table5.csv", index=False)
    text = markdown_table(rows)
    (options.out / "table5.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
