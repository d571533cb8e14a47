"""Utility: a few fits on Adult with seeds of their own must agree with the committed results of ten other seeds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from marginal_sdg.experiment.grid import Run
from marginal_sdg.experiment.params import RunParams
from marginal_sdg.experiment.run import run_one
from marginal_sdg.experiment.summary import cell_of

SUMMARY = Path(__file__).parents[2] / "experiments" / "results" / "adult_flaim" / "summary.csv"
SEEDS = (1000, 1001, 1002)
LIMIT = 3.0  # standard errors of the difference of two means


def committed() -> list[dict[str, str]]:
    """The cells with the sound calibration."""
    with SUMMARY.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["calibration"] == "sound"]


def distance(values: list[float], mean: float, sd: float, n: int) -> float:
    """How many standard errors the mean of some values lies from the mean of n others."""
    return abs(float(np.mean(values)) - mean) / (sd * (1 / len(values) + 1 / n) ** 0.5)


def test_a_change_of_a_few_per_cent_is_noticed():
    aim = next(row for row in committed() if row["method"] == "AIM")
    mean, sd, n = float(aim["workload_error_mean"]), float(aim["workload_error_sd"]), int(aim["n"])
    assert distance([1.03 * mean] * 3, mean, sd, n) > LIMIT
    assert distance([mean + sd, mean - sd, mean], mean, sd, n) < LIMIT


@pytest.mark.parametrize("row", committed(), ids=lambda row: f"{row['method']} {row['weighting']}".strip())
def test_error_and_likelihood_are_those_of_the_committed_results(row):
    cell = RunParams(**{name: value for name, value in cell_of(row).model_dump().items() if value is not None})
    runs = [run_one(Run(cell.relevant(), seed), lambda event: None) for seed in SEEDS]
    for metric in ("workload_error", "nll"):
        found = [run[metric] for run in runs]
        mean, sd, n = (float(row[f"{metric}_mean"]), float(row[f"{metric}_sd"]), int(row["n"]))
        assert distance(found, mean, sd, n) < LIMIT, (metric, found, mean, sd)
