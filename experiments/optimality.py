"""How far from the optimum does the final fit stop? Twenty random sets of measurements on four data sets.

    python experiments/optimality.py [--out experiments/results/optimality] [--sets 5]

Every set holds all 1-way marginals of a workload and 5 to 15 random cliques of its closure, with rounded Gaussian
noise of a random sigma each. The fit minimises the dual D(theta) of ``generators/pgm.py``. Its primal is

    P(p) = N KL(p || uniform) + sum_i h_i*(y_i - N m_i(p)),    h*(u) = u t - h(t) with u = h'(t),

where m(p) are the marginals of p and h is the dual's penalty. P(p) + D(theta) - D(0) >= 0, with equality at the
optimum only. So the sum bounds the error of both losses without trusting any solver: it certifies the reference, the
same fit with a very small limit. Writes ``optimality.csv`` (rows of a set at once) and ``optimality.md``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pandas as pd
from engines import append
from provenance import machine
from rich.progress import track

from marginal_sdg.datasets import load_dataset
from marginal_sdg.encoding import Table
from marginal_sdg.generators import pgm
from marginal_sdg.graphical.calibration import Calibrated
from marginal_sdg.marginals import contingency
from marginal_sdg.release import Measurement
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]

DATASETS = ("adult", "magic", "covtype", "marketing")
MODEL_MB = 2.0
CERTIFIED = 1e-8  # duality gap of the reference, relative to the primal loss


class Problem(pgm._Problem):
    """The generator's own problem, which remembers itself, the values that it returned and its passes."""

    latest: Problem

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.values: list[float] = []
        self.passes = 0
        Problem.latest = self

    def calibrate(self, theta: Floats) -> Calibrated:
        """One belief-propagation pass, unless ``theta`` is the latest point."""
        self.passes += self._latest is None or self._latest[0] is not theta
        return super().calibrate(theta)

    def evaluate(self, theta: Floats) -> tuple[float, Floats, Floats]:
        """The dual, its gradient and curvature."""
        result = super().evaluate(theta)
        self.values.append(result[0])
        return result

    def dual(self, theta: Floats) -> float:
        """The loss that the fit minimises."""
        return super().evaluate(theta)[0]

    def losses(self, theta: Floats) -> tuple[float, float]:
        """Primal penalised loss P of the model at ``theta``, and its weighted squares sum((N m - y)^2 / sigma^2)."""
        calibrated = self.calibrate(theta)
        residual = self.target - self.total * calibrated.marginals
        slope = residual / (self.ridge * pgm.BEND)
        conjugate = residual * pgm.BEND * np.arcsinh(slope) - self.ridge * pgm.BEND**2 * (np.hypot(1.0, slope) - 1.0)
        log_cells = float(np.log(np.array(self.calibrator.tree.sizes.sizes, dtype=float)).sum())
        entropy = calibrated.log_partition - float(theta @ calibrated.marginals)
        divergence = self.total * (log_cells - entropy)
        return divergence + float(conjugate.sum()), float(((residual / self.sigma) ** 2).sum())

    def distance(self, one: Floats, other: Floats) -> float:
        """Mean over the measured cliques of the L1 distance of two models' marginals."""
        change = np.abs(self.calibrate(one).marginals - self.calibrate(other).marginals)
        return float(change.sum()) / len(self.slices)


def measure(table: Table, seed: int) -> list[Measurement]:
    """All 1-way marginals and some random cliques that keep the junction tree small, with noise."""
    rng = np.random.default_rng(seed)
    workload = Workload.random(table.domain, 64, seed=seed)
    generator = pgm.PGM(table.domain)
    cliques = list(workload.one_way)
    wanted = len(cliques) + int(rng.integers(5, 16))
    larger = [clique for clique in workload.closure if len(clique) > 1]
    for place in rng.permutation(len(larger)):
        if len(cliques) < wanted and 8 * generator.cells([*cliques, larger[place]]) <= MODEL_MB * 2**20:
            cliques.append(larger[place])
    measurements = []
    for clique in cliques:
        sigma = float(np.exp(rng.uniform(np.log(5), np.log(100))))
        exact = contingency(table, clique)
        noise = np.rint(rng.normal(0, sigma, len(exact))).astype(np.int64)
        measurements.append(Measurement(clique, exact + noise, sigma))
    return measurements


def fit(table: Table, measurements: list[Measurement], **settings: Any) -> dict[str, Any]:
    """The final fit with some of the generator's constants changed, its cost and its losses."""
    with mock.patch.multiple(pgm, _Problem=Problem, **settings):
        start = time.process_time()
        model = pgm.PGM(table.domain).fit(measurements, float(len(table)), final=True)
        seconds = time.process_time() - start
    problem, theta = Problem.latest, np.concatenate(list(model.potentials.values()))
    cost = {
        "model_mb": round(8 * model.cells / 2**20, 3),
        "fit_cpu_seconds": round(seconds, 3),
        "passes": problem.passes,
        "steps": int((np.diff(np.minimum.accumulate(problem.values)) < 0).sum()),
    }
    return {"cost": cost, "theta": theta, "dual": problem.dual(theta), "primal": problem.losses(theta)}


def compare(table: Table, seed: int) -> list[dict[str, Any]]:
    """The final fit, as it is and ten times stricter, against a certified optimum: a row each."""
    measurements = measure(table, seed)
    limits = (pgm.FINAL_GAP, pgm.FINAL_GAP / 10)
    fits = [fit(table, measurements, FINAL_GAP=limit) for limit in limits]
    best = fit(table, measurements, FINAL_GAP=CERTIFIED, FINAL_ITERATIONS=50_000)
    problem = Problem.latest
    zero = problem.dual(np.zeros_like(best["theta"]))
    best_primal, best_squares = best["primal"]
    rows = []
    for limit, one in zip(limits, fits, strict=True):
        primal, squares = one["primal"]
        rows.append(
            {
                "limit": limit,
                "cliques": len(measurements),
                "parameters": len(one["theta"]),
                **one["cost"],
                "dual_gap": (one["dual"] - best["dual"]) / (zero - best["dual"]),
                "primal_gap": primal / best_primal - 1,
                "squares_gap": squares / best_squares - 1,
                "distance": problem.distance(one["theta"], best["theta"]),
                "certificate": (best_primal + best["dual"] - zero) / (zero - best["dual"]),
                "best_passes": best["cost"]["passes"],
            }
        )
    return rows


def summarise(rows: pd.DataFrame) -> str:
    """Worst and median gaps per data set, and what a stricter limit would cost."""
    shipped = rows[rows["limit"] == rows["limit"].max()]
    lines = [
        "The final fit of `PGM` against the optimum, on random sets of noisy marginals (all 1-ways of 64 random 3-way",
        "queries and 5 to 15 larger cliques of their closure, junction tree at most 2 MB, sigma log-uniform, 5..100).",
        f"{machine()}.",
        "",
        "* dual gap: (D(fit) - D*) / (D(0) - D*), of the function that is minimised;",
        "* primal gap: P(fit) / P* - 1, with P = N KL(model, uniform) + conjugate of the penalty at the residuals;",
        "* squares gap: the same for sum((model marginal - measurement)^2 / sigma^2) alone, which is only a part of P",
        "  (the fit trades it against entropy, so it may fall on either side);",
        "* distance: L1 distance of the measured marginals, normalised, to the optimum's, mean over cliques;",
        "* certificate: duality gap of the optimum itself, relative to D(0) - D*.",
        "",
        HEADER.format("data"),
        "| --- |" + " ---: |" * 9,
        *(_line(str(name), group) for name, group in shipped.groupby("dataset", sort=False)),
        _line("all", shipped),
        "",
        "The same for stricter limits of the duality gap, all data sets:",
        "",
        HEADER.format("limit"),
        "| --- |" + " ---: |" * 9,
        *(_line(f"{t:g}", rows[rows["limit"] == t]) for t in sorted(set(rows["limit"]), reverse=True)),
        "",
    ]
    return "\n".join(lines)


HEADER = (
    "| {} | dual and primal gap within 0.1 % | CPU s | passes, median (max) | steps | dual gap, median (max) "
    "| primal gap, median (max) | squares gap, median (range) | distance, max | certificate, max |"
)


def _line(name: str, group: pd.DataFrame) -> str:
    numbers = group.drop(columns="dataset")
    median, largest, lowest = numbers.median(), numbers.max(), numbers.min()
    within = int((group[["dual_gap", "primal_gap"]] <= 1e-3).all(axis=1).sum())
    return (
        f"| {name} | {within} of {len(group)} | {median['fit_cpu_seconds']:.2f} "
        f"| {median['passes']:.0f} ({largest['passes']:.0f}) | {median['steps']:.0f} "
        f"| {median['dual_gap']:.1e} ({largest['dual_gap']:.1e}) "
        f"| {median['primal_gap']:.1e} ({largest['primal_gap']:.1e}) "
        f"| {median['squares_gap']:+.1e} ({lowest['squares_gap']:+.1e} .. {largest['squares_gap']:+.1e}) "
        f"| {largest['distance']:.1e} | {largest['certificate']:.1e} |"
    )


def main() -> None:
    """Fit, certify, write every row at once, summarise."""
    parser = argparse.ArgumentParser(description="Measure how close the final fit comes to its optimum.")
    parser.add_argument("--out", type=Path, default=Path("results/optimality"))
    parser.add_argument("--sets", type=int, default=5, help="sets of measurements per data set")
    options = parser.parse_args()
    path = options.out / "optimality.csv"
    done = set(pd.read_csv(path)[["dataset", "seed"]].itertuples(index=False, name=None)) if path.exists() else set()
    for name in track(DATASETS, "data sets"):
        table = load_dataset(name).table()
        for seed in range(options.sets):
            if (name, seed) not in done:
                for row in compare(table, seed):
                    append(path, {"dataset": name, "seed": seed, **row})
    text = summarise(pd.read_csv(path))
    (options.out / "optimality.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
