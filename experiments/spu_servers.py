"""DistAIM in processes on SPU, on Magic and Adult: the same releases as in the clear, seconds, bytes.

    python experiments/spu_servers.py --server-python PYTHON [--rounds 10] [--out experiments/results/spu]

PYTHON is that of an environment with the extra ``spu``. Three servers and 20 clients are processes with mutual TLS, and
share this machine's cores. Seconds are by the wall clock, so they are upper bounds. Bytes are those that the servers,
and in them SPU, count, against ``crypto/spu/cost.py``. Writes ``spu.csv`` and ``spu.md``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from provenance import signed_table

from marginal_sdg import DistAIM, Table, Workload, load_dataset
from marginal_sdg.backends import spu_pool
from marginal_sdg.backends.pool import Ballot, select_cost
from marginal_sdg.crypto.spu import cost
from marginal_sdg.crypto.spu.questions import COORDINATOR, Step
from marginal_sdg.crypto.upload import RECEIVERS
from marginal_sdg.datasets import partition, split
from marginal_sdg.domain import Clique, Domain
from marginal_sdg.encoding import decode
from marginal_sdg.marginals import Counts, Layout
from marginal_sdg.metrics import workload_error
from marginal_sdg.spu.launch import launch, launch_clients

CLIENTS, SEED = 20, 1


class Metered(spu_pool.SpuPool):
    """Notes of every question: seconds, bytes that all servers sent, and by the formula."""

    def __init__(self, *arguments: Any) -> None:
        self.notes: dict[Step, list[tuple[float, float, int]]] = {step: [] for step in Step}
        self.compared: list[int] = []
        self.ours: list[float] = []
        self._formula = 0
        super().__init__(*arguments)

    def select(self, ballot: Ballot, *arguments: Any) -> int:
        """Metered."""
        self.compared.append(len(ballot.compared))
        self.ours.append(float(sum(select_cost(ballot).payload)))
        self._formula = cost.select(len(ballot.weights), len(ballot.compared))
        return super().select(ballot, *arguments)

    def measure(self, cliques: Sequence[Clique], *arguments: Any) -> list[Counts]:
        """Metered."""
        self._formula = cost.measure(sum(map(self._workload.domain.size, cliques)))
        return super().measure(cliques, *arguments)

    def _admit(self, clients: Sequence[int], layout: Layout, *, joins: bool) -> None:
        self._formula = cost.admit(int(layout.offsets[-1]))
        super()._admit(clients, layout, joins=joins)

    def _all(self, step: Step, question: list[bytes]) -> list[list[bytes]]:
        before, start = self._sent, time.perf_counter()
        answers = super()._all(step, question)
        self.notes[step].append((time.perf_counter() - start, self._sent - before, self._formula))
        return answers

    @property
    def _sent(self) -> int:
        return int(self.traffic.of("wire", "server", "sent").sum())


def compare(name: str, rounds: int, python: str) -> dict[str, Any]:
    """One data set: a fit in the clear, and one with the same seed between processes."""
    data = load_dataset(name)
    train, _ = split(data.table())
    owner = partition(train, CLIENTS, "iid", target=data.target)
    clients = [train.take(np.flatnonzero(owner == client)) for client in range(CLIENTS)]
    workload = Workload.random(train.domain)
    common: dict[str, Any] = {"workload": workload, "rounds": rounds, "participation": 0.5, "seed": SEED}
    ideal = DistAIM(train.domain, **common).fit(clients)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(launch(home, python, ["--simulate"]))
        where = [server.address for server in servers]
        frames = [decode(client, np.random.default_rng(0)) for client in clients]
        asked = stack.enter_context(launch_clients(home, frames, data.domain, where[:RECEIVERS], ["--simulate"]))
        asking = {"servers": where, "identity": home / COORDINATOR}
        spu, pool, seconds = fitted(data.domain, [client.address for client in asked], **common, **asking)
    notes = {step: np.array(pool.notes[step]) for step in (Step.ADMIT, Step.SELECT, Step.MEASURE)}
    errors = [workload_error(train, _sample(fit, len(train)), workload) for fit in (ideal, spu)]
    ratios = {f"{step.name.lower()}, bytes over formula": _ratio(noted) for step, noted in notes.items()}
    return {
        "data": name,
        "error in the clear": round(errors[0], 4),
        "error on SPU": round(errors[1], 4),
        "same releases": _releases(ideal) == _releases(spu),
        "s to start a session": round(pool.notes[Step.OPEN][0][0], 1),
        "s per select": _spread(notes[Step.SELECT][:, 0]),
        "s per measure": _spread(notes[Step.MEASURE][:, 0]),
        "s of the fit": round(seconds, 1),
        "cells compared": f"{min(pool.compared):,} to {max(pool.compared):,}",
        "MB a server sent per select": round(float(np.mean(notes[Step.SELECT][:, 1])) / 3e6, 2),
        "by our own protocol's formula": round(float(np.mean(pool.ours)) / 3e6, 2),
        **ratios,
        "MB a client sent": round(spu.communication_["client_sent_wire_bytes"] / 1e6, 2),
    }


def fitted(domain: Domain, clients: list[str], **terms: Any) -> tuple[DistAIM, Metered, float]:
    """A fit, its pool, and how long it took."""
    pools: list[Metered] = []

    def metered(*arguments: Any) -> Metered:
        pools.append(Metered(*arguments))
        return pools[0]

    start = time.perf_counter()
    with patch.object(spu_pool, "SpuPool", metered):
        spu = DistAIM(domain, engine="spu", **terms).fit(clients)
    return spu, pools[0], time.perf_counter() - start


def _ratio(notes: Counts) -> str:
    ratios = notes[:, 1] / notes[:, 2]
    return f"{ratios.min():.4f} to {ratios.max():.4f}"


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
        rows.append(compare(name, options.rounds, options.server_python))
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "spu.csv", index=False)
    turned = [{"": name} | {row["data"]: row[name] for row in rows} for name in list(rows[0])[1:]]
    command = f"python experiments/spu_servers.py --server-python PYTHON --rounds {options.rounds}"
    text = signed_table("", turned, command) + "\nThe servers: Python 3.10, spu 0.9.5, numpy 1.26.\n"
    (options.out / "spu.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
