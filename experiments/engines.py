"""The same mechanism with our engine and with private-pgm: seconds, memory and error, in cold processes.

    python experiments/engines.py [--out experiments/results/engines] [--seeds 5] [--patient 3]

AIM on the train rows of Adult, epsilon 1, ten rounds, the paper's calibration, 64 random 3-way marginals. Every fit
runs in a process of its own, engines alternating, so that both see the machine in the same state. Writes
``engines.csv`` (a row per fit, appended as it ends; a stopped run goes on where it was) and ``engines.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import machine
from rich.progress import track

from marginal_sdg import AIM
from marginal_sdg.datasets import load_dataset, split
from marginal_sdg.generators import mbi as private_pgm
from marginal_sdg.marginals import contingency
from marginal_sdg.metrics import nll, workload_error
from marginal_sdg.workload import Workload

ENGINES = ("pgm", "mbi")
PATIENT = "mbi-1000"  # mbi with 1,000 iterations in every round, not only at the end
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
QUANTITIES = {
    "fit_seconds": "`fit`, wall seconds",
    "fit_cpu_seconds": "`fit`, CPU seconds",
    "process_seconds": "whole process, wall seconds",
    "process_cpu_seconds": "whole process, CPU seconds",
    "peak_mb": "whole process, peak memory, MB",
    "added_mb": "memory that `fit` added to the peak, MB",
    "error_sample": "workload error of a sample of N rows",
    "error_model": "workload error of the model itself",
    "nll_test": "NLL of the test rows, nats",
}


def in_new_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run ``script --child START arguments`` in a cold process and return the JSON object that it prints.

    Raises ``RuntimeError`` with the last line of its errors where it fails.
    """
    environment = {**os.environ, **ONE_THREAD}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, script, "--child", repr(time.time()), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def peak_mb() -> float:
    """The most memory that this process has held so far (resident)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def used_since(start: float) -> dict[str, float]:
    """What this process has used since the parent launched it at ``start``."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "process_seconds": round(time.time() - start, 3),
        "process_cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "peak_mb": peak_mb(),
    }


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one row to a CSV file, with a header where the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)


def fit_once(engine: str, seed: int, start: float) -> dict[str, Any]:
    """One cold fit and its metrics. Time and memory are taken before the metrics, after imports and reading."""
    compiling = 0.0
    name = engine.removesuffix("-1000")
    if name == "mbi":
        import jax
        import mbi  # noqa: F401  (importing is not fitting)

        if engine == PATIENT:
            private_pgm.ITERATIONS = private_pgm.FINAL_ITERATIONS

        def listen(event: str, duration_secs: float, **_: str | int) -> None:
            nonlocal compiling
            compiling += duration_secs if event == "/jax/core/compile/backend_compile_duration" else 0.0

        jax.monitoring.register_event_duration_secs_listener(listen)
    data = load_dataset("adult")
    train, test = split(data.table())
    workload = Workload.random(data.domain, 64)
    aim = AIM(data.domain, epsilon=1.0, calibration="paper", workload=workload, generator=name, seed=seed)
    before, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
    aim.fit(train)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    used = used_since(start)
    distances = [
        float(np.abs(aim.model_.probabilities(clique) - contingency(train, clique) / len(train)).sum())
        for clique in workload.cliques
    ]
    return {
        "fit_seconds": round(wall, 4),
        "fit_cpu_seconds": round(cpu, 4),
        "generate_seconds": round(aim.timings_["generate"], 4),
        "compile_seconds": round(compiling, 2),
        **used,
        "added_mb": round(used["peak_mb"] - before, 1),
        "error_sample": round(workload_error(train, aim.sample_table(len(train), seed=seed), workload), 6),
        "error_model": round(float(np.mean(distances)), 6),
        "nll_test": round(nll(aim.model_, test), 5),
        "nll_train": round(nll(aim.model_, train), 5),
        "model_cells": aim.model_.cells,
    }


def summarise(rows: pd.DataFrame) -> str:
    """Medians per engine, and private-pgm's value divided by ours, seed by seed."""
    by_engine = rows[rows["engine"] != PATIENT].pivot(index="seed", columns="engine").dropna()
    load = "/".join(f"{value:.1f}" for value in rows["load"].quantile([0, 0.5, 1]))
    lines = [
        f"AIM on Adult's train rows, epsilon 1, T = 10, calibration `paper`, {len(by_engine)} seeds, cold processes,",
        f"alternating. {machine('jax', 'mbi')}. Load before a fit, min/median/max: {load}.",
        "",
        "| | pgm, median | mbi, median | mbi / pgm by seed: min / median / max |",
        "| --- | ---: | ---: | ---: |",
    ]
    for column, label in QUANTITIES.items():
        ours, theirs = by_engine[column]["pgm"], by_engine[column]["mbi"]
        low, middle, high = (theirs / ours).quantile([0, 0.5, 1])
        form = ".1f" if middle > 5 else ".3f"
        ratio = " / ".join(f"{value:{form}}" for value in (low, middle, high))
        lines.append(f"| {label} | {ours.median():.4g} | {theirs.median():.4g} | {ratio} |")
    compiled = (by_engine["compile_seconds"]["mbi"] / by_engine["fit_seconds"]["mbi"]).median()
    means = by_engine[["error_sample", "error_model", "nll_test"]].mean()
    excess = {name: means[name, "pgm"] / means[name, "mbi"] - 1 for name in ("error_sample", "error_model", "nll_test")}
    pairs = by_engine["error_sample"]["pgm"] - by_engine["error_sample"]["mbi"]
    error = pairs.std(ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else float("nan")
    lines += [
        "",
        f"JAX compiles for {compiled:.0%} of mbi's `fit` (wall, median): a new set of cliques is a new program.",
        "Whole process: from launch to the end of `fit`, with imports and reading the table. One BLAS thread each;",
        "XLA's own threads are not limited.",
        "",
        f"Means over seeds, ours against mbi: error of a sample {excess['error_sample']:+.2%} (difference "
        f"{pairs.mean():+.5f} ± {error:.5f} s.e.), error of the model {excess['error_model']:+.2%}, "
        f"NLL {excess['nll_test']:+.2%}.",
        "",
    ]
    patient = rows[rows["engine"] == PATIENT].set_index("seed")
    if len(patient):
        same = rows[rows["engine"] == "pgm"].set_index("seed").loc[patient.index]
        lines += [
            "mbi's 100 iterations a round leave its early models short of their optimum, and so its selections suffer.",
            f"With 1,000 in every round ({len(patient)} seeds): `fit` {patient['fit_cpu_seconds'].median():.0f} CPU "
            f"seconds ({(patient['fit_cpu_seconds'] / same['fit_cpu_seconds']).median():.0f} times ours), error of a "
            f"sample {patient['error_sample'].mean():.4f}, ours {same['error_sample'].mean():.4f} "
            f"({same['error_sample'].mean() / patient['error_sample'].mean() - 1:+.2%}); NLL "
            f"{patient['nll_test'].mean():.3f}, ours {same['nll_test'].mean():.3f}.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Fit by turns, write every row at once, summarise."""
    parser = argparse.ArgumentParser(description="Compare our engine with private-pgm.")
    parser.add_argument("--out", type=Path, default=Path("results/engines"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--patient", type=int, default=0, help="seeds of mbi with 1,000 iterations in every round")
    parser.add_argument("--child", nargs=3, metavar=("START", "ENGINE", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        start, engine, seed = options.child
        print(json.dumps(fit_once(engine, int(seed), float(start))))
        return
    path = options.out / "engines.csv"
    done = set(pd.read_csv(path)[["engine", "seed"]].itertuples(index=False, name=None)) if path.exists() else set()
    plan = [(engine, seed) for seed in range(options.seeds) for engine in ENGINES[:: 1 if seed % 2 else -1]]
    plan += [(PATIENT, seed) for seed in range(options.patient)]
    for engine, seed in track([cell for cell in plan if cell not in done], "fits"):
        load = round(os.getloadavg()[0], 2)
        append(path, {"engine": engine, "seed": seed, "load": load, **in_new_process(__file__, engine, str(seed))})
        _report(options.out)
    print(_report(options.out))


def _report(folder: Path) -> str:
    rows = pd.read_csv(folder / "engines.csv")
    text = summarise(rows) if set(rows["engine"]) >= set(ENGINES) else ""
    (folder / "engines.md").write_text(text)
    return text


if __name__ == "__main__":
    main()
