"""Exact discrete Gaussian noise on marginals of 8,000 cells: ours against OpenDP's, alternating in one process.

    python experiments/noise_speed.py [--out experiments/results/noise_speed] [--repeats 31] [--seed 0]

OpenDP is no dependency: ``pip install opendp`` first. Both add noise to the same int64 vector; OpenDP takes its bits
from the operating system, ours from a seed or from there. A two-sample chi-square test compares what they drew.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from provenance import signed_table
from scipy.stats import chi2_contingency

from marginal_sdg.privacy.noise import DiscreteGaussian, Source

Counts = npt.NDArray[np.int64]
Noise = Callable[[], Counts]

CELLS = 8000
SIGMAS = (20, 52, 300)
FEWEST = 50  # expected draws of each sampler in a cell of the chi-square test


def opendp_noise(sigma: int) -> Callable[[Counts], Any]:
    """OpenDP's discrete Gaussian mechanism on int64 vectors, as its Python users call it."""
    try:
        dp: Any = import_module("opendp.prelude")
    except ImportError:
        raise SystemExit("noise_speed: needs opendp; install it with: pip install opendp") from None
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64"), size=CELLS), dp.l2_distance(T="f64")
    measure: Callable[[Counts], Any] = dp.m.make_gaussian(*space, scale=float(sigma))
    return measure


def samplers(sigma: int, seed: int) -> dict[str, Noise]:
    """Three ways to add noise to the same vector; each returns (CELLS,) int64, the noise alone."""
    counts: Counts = np.random.default_rng(seed).integers(0, 50, CELLS)
    as_list = counts.tolist()
    noise, theirs = DiscreteGaussian(Fraction(sigma**2)), opendp_noise(sigma)
    seeded, system = Source.seeded(seed), Source.system()
    return {
        "ours, seeded": lambda: (counts + noise.sample(CELLS, seeded)) - counts,
        "ours, system bits": lambda: (counts + noise.sample(CELLS, system)) - counts,
        "OpenDP": lambda: np.array(theirs(as_list), dtype=np.int64) - counts,
    }


def compared(sigma: int, repeats: int, seed: int) -> Iterator[dict[str, object]]:
    """One row per sampler: time per sample (median over the repeats) and agreement with OpenDP."""
    ways = samplers(sigma, seed)
    start = time.perf_counter()
    DiscreteGaussian(Fraction(sigma**2)).sample(1, Source.seeded(seed))
    table_ms = 1e3 * (time.perf_counter() - start)  # once per variance, then kept
    drawn: dict[str, list[Counts]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            noise = way()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
                drawn[name].append(noise)
    theirs = np.array(seconds["OpenDP"])
    for name in ways:
        own = np.array(seconds[name])
        test = "" if name == "OpenDP" else f"{agreement(drawn[name], drawn['OpenDP']):.3f}"
        yield {
            "sigma": sigma,
            "sampler": name,
            "repeats": repeats,
            "ns_per_sample": round(1e9 * float(np.median(own)) / CELLS, 1),
            "times_faster": round(float(np.median(theirs / own)), 1),
            "table_ms": round(table_ms, 2) if name != "OpenDP" else "",
            "sample_sigma": round(float(np.concatenate(drawn[name]).std()), 3),
            "chi2_p": test,
        }


def agreement(first: list[Counts], second: list[Counts]) -> float:
    """P-value of the two-sample chi-square test, neighbouring values pooled until each cell has enough draws."""
    both = [np.concatenate(first), np.concatenate(second)]
    values, counts = np.unique(np.concatenate(both), return_counts=True)
    groups = np.cumsum(counts) // (2 * FEWEST)
    edges = values[np.flatnonzero(np.diff(groups))] + 0.5  # between integers
    table = np.array([np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in both])
    return float(chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)


HEADER = """# Speed of exact discrete Gaussian noise

Noise on one marginal of {cells:,} int64 cells. Both are exact samplers and both hand over what their Python users work
with: ours a numpy array, OpenDP a list (its conversion to an array is inside its time). `times_faster`:
median over the repeats of OpenDP's time over ours in the same repeat. `table_ms`: what the first draw of a new
variance costs us on top, once. `chi2_p`: two-sample chi-square test against OpenDP's draws.

"""


def main() -> None:
    """Time, compare, write the tables."""
    parser = argparse.ArgumentParser(description="Time exact discrete Gaussian noise against OpenDP's.")
    parser.add_argument("--out", type=Path, default=Path("results/noise_speed"))
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [row for sigma in SIGMAS for row in compared(sigma, options.repeats, options.seed)]
    with (options.out / "noise_speed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    head = HEADER.format(cells=CELLS)
    command = f"python experiments/noise_speed.py --repeats {options.repeats} --seed {options.seed}"
    (options.out / "noise_speed.md").write_text(text := signed_table(head, rows, command, "opendp"))
    print(text)


if __name__ == "__main__":
    main()
