"""Utility: a few fits on Adult with seeds of their own must agree with the committed results of ten other seeds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind_from_stats

from marginal_sdg.experiment.grid import Run
from marginal_sdg.experiment.params import RunParams
from marginal_sdg.experiment.run import run_one
from marginal_sdg.experiment.summary import cell_of

SUMMARY = Path(__file__).parents[2] / "experiments" / "results" / "adult_flaim" / "summary.csv"
SEEDS = (1000, 1001, 1002)
UNLIKELY = 0.001  # how often the means of two samples of one distribution may be this far apart


def committed() -> list[dict[str, str]]:
    """The cells with the sound calibration."""
    with SUMMARY.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["calibration"] == "sound"]


def likeness(values: list[float], mean: float, sd: float, n: int) -> float:
    """Student's p-value for the means of some values and of n others; few as they are, their spread is a guess too."""
    return float(ttest_ind_from_stats(np.mean(values), np.std(values, ddof=1), len(values), mean, sd, n).pvalue)


def test_a_change_of_a_few_per_cent_is_noticed():
    aim = next(row for row in committed() if row["method"] == "AIM")
    mean, sd, n = float(aim["workload_error_mean"]), float(aim["workload_error_sd"]), int(aim["n"])
    spread = np.array([-sd, 0.0, sd])
    assert likeness(list(1.03 * mean + spread), mean, sd, n) < UNLIKELY
    assert likeness(list(mean + spread), mean, sd, n) > UNLIKELY


@pytest.mark.parametrize("row", committed(), ids=lambda row: f"{row['method']} {row['weighting']}".strip())
def test_error_and_likelihood_are_those_of_the_committed_results(row):
    cell = RunParams(**{name: value for name, value in cell_of(row).model_dump().items() if value is not None})
    runs = [run_one(Run(cell.relevant(), seed), lambda event: None) for seed in SEEDS]
    for metric in ("workload_error", "nll"):
        found = [run[metric] for run in runs]
        mean, sd, n = (float(row[f"{metric}_mean"]), float(row[f"{metric}_sd"]), int(row["n"]))
        assert likeness(found, mean, sd, n) > UNLIKELY, (metric, found, mean, sd)
