"""FHAIM's COMP on CKKS slots, as its paper describes it, against the exact COMP of this library, in one run.

    python experiments/fhaim_ckks.py [--dataset diabetes_pima] [--cells 12] [--out experiments/results/fhaim_ckks]

Counts all 1- and 2-way marginals. CPU seconds of the server, from the bytes of the encrypted table to encrypted
marginals; cell-by-cell versions count a random sample of cells, extrapolated to the whole table. Everything that is
counted is decrypted and compared. Writes ``comp.csv``, ``rounds.csv`` and ``fhaim_ckks.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from provenance import signed_table
from rich.progress import track

from marginal_sdg import Table, Workload
from marginal_sdg.backends.ckks_vault import CkksVault
from marginal_sdg.backends.distance import Distance
from marginal_sdg.backends.vault import Ballot
from marginal_sdg.crypto.ckks.compute import Cells
from marginal_sdg.crypto.ckks.holder import DataHolder as SlotHolder
from marginal_sdg.crypto.ckks.keyholder import KeyHolder as SlotKeyHolder
from marginal_sdg.crypto.ckks.layout import Layout
from marginal_sdg.crypto.ckks.profile import Comp, Profile, Score, choose_profile
from marginal_sdg.crypto.ckks.public import Public, load_evaluation_keys
from marginal_sdg.crypto.ckks.server import Server as SlotServer
from marginal_sdg.crypto.fhe.holder import DataHolder
from marginal_sdg.crypto.fhe.keyholder import KeyHolder
from marginal_sdg.crypto.fhe.keys import WholeKey
from marginal_sdg.crypto.fhe.plan import choose_layout
from marginal_sdg.crypto.fhe.profile import choose_profile as choose_exact_profile
from marginal_sdg.crypto.fhe.server import Server
from marginal_sdg.crypto.fhe.wire import Kind
from marginal_sdg.datasets import load_dataset
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy.noise import Source

Result = TypeVar("Result")
Row = dict[str, Any]

SCORES: tuple[Score, ...] = ("l1_poly", "l2_squared")
COMPS: tuple[Comp, ...] = ("plain", "lazy", "packed")
VERSIONS = [choose_profile(comp, score) for comp in COMPS for score in SCORES]
# Counts and cannot score: one level, the smallest ring of all.
VERSIONS.insert(4, Profile("lazy", "l2_squared", 4096, 1, "BV", scale_bits=45))


def exact(table: Table, workload: Workload, repeats: int) -> Row:
    """BGV with coefficient packing, on the whole table: the median of several runs."""
    cliques = [tuple(map(table.domain.index, clique)) for clique in workload.closure]
    layout = choose_layout(choose_exact_profile(len(table)), table.domain.shape, cliques, dense=True)
    keyholder = KeyHolder(WholeKey(layout), 1000)
    holder = DataHolder(layout, keyholder.public_key, len(table))
    upload, frames = _timed(lambda: list(holder.upload_records(table.codes.astype(np.int64))))
    runs = []
    for _ in range(repeats):
        server = Server(layout, keyholder.public_key, keyholder.evaluation_keys, bytes(32))
        runs.append(_timed(partial(_comp, server, frames))[0])
    messages, halves = server.share()
    modulus = layout.profile.plaintext
    errors = [
        abs((mine + its) % modulus - contingency(table, clique)).max()
        for mine, its, clique in zip(halves, keyholder.share(messages), workload.closure, strict=True)
    ]
    cells = sum(map(layout.size, range(len(cliques))))
    seconds = float(np.median(runs))
    return {
        "COMP": "BGV, exact",
        "with levels for": "",
        "ring": layout.profile.ring,
        "modulus bits": layout.profile.modulus_bits,
        "cells counted": cells,
        "ms per cell": 1000 * seconds / cells,
        "whole table s": seconds,
        "holder s": upload,
        "upload MB": sum(map(len, frames)) / 1e6,
        "key MB": len(keyholder.evaluation_keys) / 1e6,
        "largest error": float(max(errors)),
    }


def slots(table: Table, workload: Workload, profile: Profile, sample: int) -> Row:
    """CKKS: whole marginals at once on the whole table, or a sample of cells one by one."""
    cliques = tuple(tuple(map(table.domain.index, clique)) for clique in workload.closure)
    layout = Layout(profile, table.domain.shape, cliques, len(table))
    keyholder = SlotKeyHolder(layout, 1000)
    holder = SlotHolder(layout, keyholder.public_key)
    upload, frames = _timed(lambda: list(holder.upload_records(table.codes.astype(np.int64))))
    cells = sum(map(layout.size, range(len(cliques))))
    if layout.packed:
        counted = cells
        server = SlotServer(layout, keyholder.public_key, keyholder.evaluation_keys, bytes(32))
        seconds, _ = _timed(partial(_comp, server, frames))
        error = 0
        for candidate, clique in enumerate(workload.closure):
            noise = holder.count_noise(candidate, np.zeros(layout.size(candidate), dtype=np.int64))
            found = keyholder.measurement(candidate, server.measure(candidate, noise))
            error = max(error, int(abs(found - contingency(table, clique)).max()))
        largest = f"{error} after rounding"
    else:
        counted = sample
        public = Public.load(layout, keyholder.public_key)
        load_evaluation_keys(public, keyholder.evaluation_keys)
        loading, cell = _timed(lambda: _loaded(public, frames))
        chosen = _sample(layout, sample)
        counting, counts = _timed(lambda: [cell.count(*columns) for columns in chosen])
        seconds = loading + counting / sample * cells
        truth = [(table.codes[:, a] == i) & (table.codes[:, b] == j) for (a, i), (b, j) in chosen]
        decrypted = [public.context.Decrypt(keyholder._secret, count) for count in counts]
        largest = f"{max(abs(d.GetRealPackedValue()[0] - t.sum()) for d, t in zip(decrypted, truth, strict=True)):.1e}"
    return {
        "COMP": f"CKKS, {profile.comp}",
        "with levels for": profile.score if profile.depth > 1 else "counts only",
        "ring": layout.profile.ring,
        "modulus bits": layout.profile.modulus_bits,
        "cells counted": counted,
        "ms per cell": 1000 * seconds / cells,
        "whole table s": seconds,
        "holder s": upload,
        "upload MB": sum(map(len, frames)) / 1e6,
        "key MB": len(keyholder.evaluation_keys) / 1e6,
        "largest error": largest,
    }


def rounds(table: Table, workload: Workload, score: Score, release: str, count: int) -> Row:
    """Seconds of all three roles for the rest: keys once, and a selection among all candidates and a measurement."""
    vault = CkksVault(
        table,
        workload,
        Source.seeded(0).key,
        max_records=len(table),
        measurements=2 * count + 1,
        score=score,
        release=release,
    )
    cliques = workload.closure
    flat = tuple(np.full(table.domain.size(q), len(table) // table.domain.size(q)) for q in cliques)
    ones, zeros = np.ones(len(cliques), dtype=np.int64), np.zeros(len(cliques), dtype=np.int64)
    ballot = Ballot(cliques, flat, ones, zeros, Distance(score, len(table)))
    vault.select(ballot, [zeros], 0)  # packs the candidates, which later rounds need not
    first, vault.seconds["select"] = vault.seconds["select"], 0.0
    for _ in range(count):
        winner = cliques[vault.select(ballot, [zeros], 0)]
        vault.measure([winner], [[np.zeros(table.domain.size(winner), dtype=np.int64)]])
    return {
        "score": score,
        "release": release,
        "keys s": round(vault.seconds["keys"], 2),
        "first select ms": round(1000 * first),
        "select ms": round(1000 * vault.seconds["select"] / count),
        "measure ms": round(1000 * vault.seconds["measure"] / count),
        "select MB": round(vault.traffic["select"] / (count + 1) / 1e6, 2),
        "measure MB": round(vault.traffic["measure"] / count / 1e6, 2),
    }


def _comp(server: Server | SlotServer, frames: list[bytes]) -> None:
    server.receive(frames)
    server.compute()


def _loaded(public: Public, frames: list[bytes]) -> Cells:
    cells, columns = Cells(public), public.layout.columns
    for start in range(0, len(frames), len(columns)):
        opened = [public.open(frame, Kind.RECORDS, 0)[1] for frame in frames[start : start + len(columns)]]
        cells.add(dict(zip(columns, opened, strict=True)))
    return cells


def _sample(layout: Layout, count: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Cells of 2-way marginals, all equally likely."""
    pairs = list(combinations(range(len(layout.shape)), 2))
    cells = [((a, i), (b, j)) for a, b in pairs for i in range(layout.shape[a]) for j in range(layout.shape[b])]
    return [cells[k] for k in np.random.default_rng(0).choice(len(cells), count, replace=False)]


def _timed(task: Callable[[], Result]) -> tuple[float, Result]:
    start = time.process_time()
    done = task()
    return time.process_time() - start, done


def _rounded(row: Row, reference: float) -> Row:
    row["times BGV"] = row["ms per cell"] / reference
    digits = {"ms per cell": 3, "whole table s": 2, "holder s": 2, "upload MB": 0, "key MB": 0, "times BGV": 1}
    return {name: round(value, digits[name]) if name in digits else value for name, value in row.items()}


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description="Time FHAIM's COMP on CKKS slots and under BGV.")
    parser.add_argument("--dataset", default="diabetes_pima")
    parser.add_argument("--cells", type=int, default=12, help="sample of the cell-by-cell versions (lazy: four times)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/fhaim_ckks"))
    options = parser.parse_args()
    table = load_dataset(options.dataset).table()
    workload = Workload(table.domain, tuple(combinations(table.domain.names, 2)))
    rows = [
        slots(table, workload, profile, options.cells * (1 if profile.comp == "plain" else 4))
        for profile in track(VERSIONS, "COMP on slots")
    ]
    rows.append(exact(table, workload, options.repeats))
    rows = [_rounded(row, rows[-1]["ms per cell"]) for row in rows]
    later = [rounds(table, workload, s, r, options.repeats) for s in SCORES for r in ("scores", "index")]
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "comp.csv", index=False)
    pd.DataFrame(later).to_csv(options.out / "rounds.csv", index=False)
    command = f"python experiments/fhaim_ckks.py --dataset {options.dataset} --cells {options.cells}"
    head = f"{options.dataset}: {len(table)} records, {len(table.domain)} attributes; CPU seconds\n\n"
    text = signed_table(head, rows, command, "openfhe") + "\n" + signed_table("", later, command, "openfhe")
    (options.out / "fhaim_ckks.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
