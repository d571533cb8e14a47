"""What FHAIM costs on ciphertexts: CPU seconds of all roles together, bytes, memory, by data set and kind of upload.

    python experiments/fhaim_runtime.py [--rounds 50] [--data diabetes_pima ...] [--out results/fhaim_runtime]

All 1- and 2-way marginals, score "l2", epsilon 1, small models (fitting them is not what is timed here). Every fit is
compared with the same fit in the clear. One process per row, one thread. CPU seconds depend on what else the machine
does: a fixed batch of OpenFHE's products, timed before and after each fit, says how fast it was. Writes
``fhaim_runtime.csv`` and ``fhaim_runtime.md``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
from provenance import signed_table
from rich.progress import track

from marginal_sdg import FHAIM, Workload, load_dataset

MODEL_MB = 2.0
CAPS = {"diabetes_pima": 1_000, "breast_cancer": 500, "compas_mpcsdg": 8_000, "adult32": 48_842}  # public


def thousand_products() -> float:
    """CPU seconds of 1,000 products of two ciphertexts in OpenFHE, each added to a sum; estimated from 300."""
    from marginal_sdg.crypto.fhe.profile import choose_profile

    context = choose_profile(48_842).context()
    one = context.MakeCoefPackedPlaintext([1], 1, 0)
    factor = context.Encrypt(context.KeyGen().publicKey, one)
    total = context.EvalMultNoRelin(factor, factor)
    start = time.process_time()
    for _ in range(300):
        context.EvalAddInPlace(total, context.EvalMultNoRelin(factor, factor))
    return (time.process_time() - start) / 0.3


def measure(dataset: str, upload: str, rounds: int) -> dict[str, Any]:
    """Fit on ciphertexts and in the clear; a row of the table."""
    from marginal_sdg.backends.sealed import SealedVault

    table = load_dataset(dataset).table()
    cap = CAPS[dataset]
    workload = Workload.random(table.domain, 10**6, 2)
    vaults: list[SealedVault] = []

    class Watched(SealedVault):
        def __init__(self, *arguments: Any, **terms: Any) -> None:
            super().__init__(*arguments, **terms)
            vaults.append(self)

    parameters: dict[str, Any] = {"workload": workload, "max_records": cap, "rounds": rounds, "upload": upload}
    parameters |= {"max_model_mb": MODEL_MB, "seed": 0}
    clear = FHAIM(table.domain, **parameters).fit(table)
    before = thousand_products()
    wall, cpu = time.perf_counter(), time.process_time()
    with patch("marginal_sdg.backends.sealed.SealedVault", Watched):
        sealed = FHAIM(table.domain, **parameters, engine="bgv").fit(table)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    products = (before + thousand_products()) / 2
    released = [[(m.clique, m.counts.tolist()) for m in fitted.measurements_] for fitted in (clear, sealed)]
    (vault,) = vaults
    seconds = vault.seconds
    return {
        "data": dataset,
        "rows": len(table),
        "candidates": len(workload.closure),
        "cells": int(workload.cells.sum()),
        "upload": upload,
        **{f"{phase}, s": round(value, 2) for phase, value in seconds.items()},
        "crypto, s": round(sum(seconds.values()), 2),
        "model, s": round(cpu - sum(seconds.values()), 2),
        "wall, s": round(wall, 1),
        "1,000 products, s": round(products, 2),
        "upload, MB": round(vault.traffic["upload"] / 1e6, 1),
        "keys, MB": round(vault.traffic["keys"] / 1e6, 1),
        "a round, MB": round((vault.traffic["select"] + vault.traffic["measure"]) / rounds / 1e6, 2),
        "peak, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "same as in the clear": released[0] == released[1],
    }


def main() -> None:
    """Measure every data set in a process of its own, write."""
    parser = argparse.ArgumentParser(description="Time FHAIM on ciphertexts.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--data", nargs="+", choices=CAPS, default=["diabetes_pima", "breast_cancer"])
    parser.add_argument("--out", type=Path, default=Path("results/fhaim_runtime"))
    parser.add_argument("--one", nargs=2, metavar=("DATA", "UPLOAD"), help="measure one row and print it as JSON")
    options = parser.parse_args()
    if options.one:
        dataset, upload = options.one
        print(json.dumps(measure(dataset, upload, options.rounds)))
        return
    rows = []
    for dataset, upload in track([(d, u) for d in options.data for u in ("records", "marginals")], "fits"):
        command = [sys.executable, __file__, "--rounds", str(options.rounds), "--one", dataset, upload]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(found.splitlines()[-1]))
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "fhaim_runtime.csv", index=False)
    command_line = f"python experiments/fhaim_runtime.py --rounds {options.rounds} --data {' '.join(options.data)}"
    head = (
        f"CPU seconds of all roles, {options.rounds} rounds, one thread; `crypto`: the sum of the phases before it; "
        "`1,000 products`: CPU seconds of OpenFHE for a fixed task, before and after the fit.\n\n"
    )
    text = signed_table(head, rows, command_line, "openfhe", "cryptography")
    (options.out / "fhaim_runtime.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
