"""DistAIM in three server processes on SPU, on Magic and Adult: the same releases as in the clear, seconds, bytes.

    python experiments/spu_servers.py --server-python PYTHON [--rounds 10] [--out experiments/results/spu]

PYTHON is that of an environment with the extra ``spu``. 20 clients, epsilon 1, mutual TLS everywhere; the servers
share this machine's cores. Seconds are by the wall clock, so they are upper bounds. Writes ``spu.csv`` and ``spu.md``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from provenance import signed_table

from marginal_sdg import DistAIM, Table, Workload, load_dataset
from marginal_sdg.backends import spu_pool
from marginal_sdg.backends.pool import Ballot, measure_cost, select_cost
from marginal_sdg.crypto.spu.questions import COORDINATOR
from marginal_sdg.datasets import partition, split
from marginal_sdg.domain import Clique
from marginal_sdg.marginals import Counts
from marginal_sdg.metrics import workload_error
from marginal_sdg.spu.launch import launch

CLIENTS, SEED = 20, 1


class Metered(spu_pool.SpuPool):
    """Notes of every selection and measurement: seconds, bytes that a server sent on average, and by our formulas."""

    def __init__(self, *arguments: Any) -> None:
        self.notes: dict[str, list[tuple[float, float, float]]] = {"select": [], "measure": []}
        self.compared: list[int] = []
        start = time.perf_counter()
        super().__init__(*arguments)
        self.start = time.perf_counter() - start

    def select(self, ballot: Ballot, parts: Sequence[Counts]) -> int:
        """Metered."""
        self.compared.append(len(ballot.compared))
        formula = float(np.mean(select_cost(ballot).payload))
        place: int = self._noted("select", formula, super().select, ballot, parts)
        return place

    def measure(self, cliques: Sequence[Clique], parts: Sequence[Sequence[Counts]]) -> list[Counts]:
        """Metered."""
        formula = float(np.mean(measure_cost(sum(map(self._workload.domain.size, cliques))).payload))
        counts: list[Counts] = self._noted("measure", formula, super().measure, cliques, parts)
        return counts

    def _noted(self, name: str, formula: float, operation: Callable[..., Any], *arguments: Any) -> Any:
        before, start = self._sent, time.perf_counter()
        result = operation(*arguments)
        self.notes[name].append((time.perf_counter() - start, self._sent - before, formula))
        return result

    @property
    def _sent(self) -> float:
        return float(self.traffic.of("wire", "server", "sent").mean())


def compare(name: str, rounds: int, **where: Any) -> dict[str, Any]:
    """One data set: a fit in the clear, and one with the same seed on SPU."""
    data = load_dataset(name)
    train, _ = split(data.table())
    owner = partition(train, CLIENTS, "iid", target=data.target)
    clients = [train.take(np.flatnonzero(owner == client)) for client in range(CLIENTS)]
    workload = Workload.random(train.domain)
    common: dict[str, Any] = {"workload": workload, "rounds": rounds, "participation": 0.5, "seed": SEED}
    ideal = DistAIM(train.domain, **common).fit(clients)
    pools: list[Metered] = []

    def metered(*arguments: Any) -> Metered:
        pools.append(Metered(*arguments))
        return pools[0]

    start = time.perf_counter()
    with patch.object(spu_pool, "SpuPool", metered):
        spu = DistAIM(train.domain, engine="spu", **where, **common).fit(clients)
    seconds = time.perf_counter() - start
    (pool,) = pools
    select, measure = (np.array(pool.notes[name]) for name in ("select", "measure"))
    errors = [workload_error(train, _sample(fit, len(train)), workload) for fit in (ideal, spu)]
    return {
        "data": name,
        "error in the clear": round(errors[0], 4),
        "error on SPU": round(errors[1], 4),
        "same releases": _releases(ideal) == _releases(spu),
        "s to start a session": round(pool.start, 1),
        "s per select": _spread(select[:, 0]),
        "s per measure": _spread(measure[:, 0]),
        "s of the fit": round(seconds, 1),
        "cells compared": f"{min(pool.compared):,} to {max(pool.compared):,}",
        "MB a server sent per select": round(float(np.mean(select[:, 1])) / 1e6, 2),
        "by our own protocol's formula": round(float(np.mean(select[:, 2])) / 1e6, 2),
        "measure, bytes over formula": round(float(measure[:, 1].sum() / measure[:, 2].sum()), 4),
        "MB a client sent": round(spu.communication_["client_sent_wire_bytes"] / 1e6, 2),
    }


def _sample(fit: DistAIM, rows: int) -> Table:
    return fit.sample_table(rows, seed=0)


def _releases(fit: DistAIM) -> list[Any]:
    return [(m.clique, m.counts.tolist(), m.sigma, m.records) for m in fit.measurements_]


def _spread(seconds: Counts) -> str:
    return f"{np.median(seconds):.2f} ({seconds.min():.2f} to {seconds.max():.2f})"


def main() -> None:
    """Compare, write."""
    parser = argparse.ArgumentParser(description="DistAIM on SPU against the clear.")
    parser.add_argument("--server-python", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("results/spu"))
    options = parser.parse_args()
    rows = []
    for name in ("magic", "adult"):
        with tempfile.TemporaryDirectory() as folder, launch(Path(folder), options.server_python) as servers:
            where = {"servers": [server.address for server in servers], "identity": Path(folder) / COORDINATOR}
            rows.append(compare(name, options.rounds, **where))
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "spu.csv", index=False)
    turned = [{"": name} | {row["data"]: row[name] for row in rows} for name in list(rows[0])[1:]]
    command = f"python experiments/spu_servers.py --server-python PYTHON --rounds {options.rounds}"
    text = signed_table("", turned, command) + "\nThe servers: Python 3.10, spu 0.9.5, numpy 1.26.\n"
    (options.out / "spu.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
