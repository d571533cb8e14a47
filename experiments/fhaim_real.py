"""The line that synthetic data is measured against: classifiers trained on the real records, on ten random splits.

    python experiments/fhaim_real.py [--seeds 10] [--out experiments/results/fhaim_accuracy]

Same classifier and share of test rows as in ``fhaim_accuracy.yaml``. Writes ``real.csv`` and ``real.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import signed_table

from marginal_sdg.datasets import load_dataset, split
from marginal_sdg.metrics import classifier_scores

DATA = ("diabetes_pima", "breast_cancer", "compas_mpcsdg")


def measure(dataset: str, seeds: int) -> dict[str, Any]:
    """Mean and deviation over splits of one data set."""
    data = load_dataset(dataset)
    assert data.target is not None
    scores = np.array([classifier_scores(*split(data.table(), 0.9, seed), data.target) for seed in range(seeds)])
    auc, accuracy = (f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(scores.mean(0), scores.std(0, ddof=1), strict=True))
    return {"dataset": dataset, "splits": seeds, "AUC": auc, "accuracy": accuracy}


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description="Train classifiers on real records.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--out", type=Path, default=Path("results/fhaim_accuracy"))
    options = parser.parse_args()
    rows = [measure(dataset, options.seeds) for dataset in options.data]
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "real.csv", index=False)
    text = signed_table("", rows, f"python experiments/fhaim_real.py --seeds {options.seeds}", "scikit-learn")
    (options.out / "real.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
