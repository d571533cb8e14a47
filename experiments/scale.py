"""Every party's bytes and CPU seconds, predicted and measured at sizes that run here; then far beyond them.

    python experiments/scale.py [--repeats 5] [--out experiments/results/scale]

``--constants`` prints those of ``marginal_sdg/scale/timing.py``, from the smaller of two sizes; the larger one checks
them. Bytes are those that a fit counted, against the formulas for what it did. Writes ``scale.csv`` and ``scale.md``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from provenance import machine, markdown_table

from marginal_sdg import FHAIM, FLAIM, DistAIM, Domain, Table, Workload, load_dataset
from marginal_sdg.backends.federated import FederatedBackend
from marginal_sdg.backends.pool import Ballot, select_cost
from marginal_sdg.backends.share_pool import SharePool
from marginal_sdg.crypto.graph import Graph, topology
from marginal_sdg.crypto.masking import MaskingClient, MaskingServer
from marginal_sdg.crypto.upload import RECEIVERS, Desk, Sender
from marginal_sdg.datasets.files import shipped_folder
from marginal_sdg.marginals import Answers, Layout
from marginal_sdg.privacy.noise import Source
from marginal_sdg.scale import distaim, fhaim, flaim, plan_parties, timing
from marginal_sdg.scale.party import amount_of

ADULT = Domain.load(shipped_folder() / "domains" / "adult.yaml")
RING = 8
GIVEN: dict[str, Any] = {
    "participation": 0.1,
    "rounds": 10,
    "max_model_mb": 80.0,
    "epsilon": 1.0,
    "delta": 1e-5,
}
SENT = "client_sent_wire_bytes"
Numbers = tuple[str, float, float]  # what, predicted, measured


def made_up(domain: Domain, rows: int) -> Table:
    """Skewed, independent columns."""
    rng = np.random.default_rng(0)
    return Table(domain, np.stack([(n * rng.random(rows) ** 2).astype(np.int32) for n in domain.shape], axis=1))


def timed(task: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """CPU seconds of a call, and its result."""
    start = time.process_time()
    result = task(*arguments)
    return time.process_time() - start, result


def settle() -> None:
    """Free a large array, after which glibc keeps what is freed: so a party that has been at work for a while finds
    its memory, whose first use costs more than sharing or adding what is put there."""
    np.ones(31 * 2**20, dtype=np.uint8)


def least(task: Callable[[], Any], repeats: int) -> float:
    """Least CPU seconds of a call."""
    return min(timed(task)[0] for _ in range(repeats))


# -- seconds ---------------------------------------------------------------------------------------------------


def counting(rows: int, repeats: int) -> float:
    """CPU seconds of one FLAIM client that scores all candidates of Adult."""
    table, workload = made_up(ADULT, rows), Workload.random(ADULT)
    layout = Layout(ADULT, workload.closure)
    distribution = np.concatenate([np.full(n, 1 / n) for n in layout.sizes])
    return least(lambda: Answers(layout, [table]).l1_distances(distribution, [float(rows)]), repeats)


def masking(cohort: int, cells: int, repeats: int) -> tuple[float, float]:
    """CPU seconds of one client in a secure sum, and of the server for each of its clients."""
    results = [_masked_sum(cohort, cells) for _ in range(repeats)]
    return min(client for client, _ in results), min(server for _, server in results)


def _masked_sum(cohort: int, cells: int) -> tuple[float, float]:
    keys = Source.seeded(0).key
    graph = Graph.draw(range(cohort), keys())
    server = MaskingServer(graph, cells, RING)
    vector = {0: np.ones(cells, dtype=np.int64)}
    clients = {u: MaskingClient(u, vector, cells, RING, graph.threshold, keys()) for u in range(cohort)}
    spent = {"clients": 0.0, "server": 0.0}

    def by(party: str, task: Callable[..., Any], *arguments: Any) -> Any:
        seconds, result = timed(task, *arguments)
        spent[party] += seconds
        return result

    keys_of = by("server", server.relay_keys, {u: by("clients", client.advertise) for u, client in clients.items()})
    sealed = {u: by("clients", clients[u].share, message) for u, message in keys_of.items()}
    for u, message in by("server", server.relay_shares, sealed).items():
        by("server", server.add, by("clients", clients[u].mask, message))
    answers = [by("clients", clients[u].unmask, m) for u, m in by("server", server.survivors).items()]
    assert (by("server", server.unmask, answers) == cohort * vector[0]).all()
    return spent["clients"] / cohort, spent["server"] / cohort


def uploading(cells: int, repeats: int) -> tuple[float, float]:
    """CPU seconds of a DistAIM client that shares its answers, and of the busier of the servers that receive them."""
    found = [_upload(cells) for _ in range(repeats)]
    return min(client for client, _ in found), min(server for _, server in found)


def _upload(cells: int) -> tuple[float, float]:
    keys = Source.seeded(0).key
    links = [keys() for _ in range(RECEIVERS)]
    client, messages = timed(Sender(0, links, keys).messages, 1, np.ones(cells, dtype=np.uint64))
    servers = []
    for rank, message in enumerate(messages):
        desk, total = Desk(rank, [links[rank]]), np.ones(cells, dtype=np.uint64)
        taking, payload = timed(desk.take, 0, 1, cells, message)
        servers.append(taking + timed(desk.add, payload, total)[0])
    return client, max(servers)


def selecting(cells: int, repeats: int) -> tuple[float, int]:
    """CPU seconds of one of three servers in a selection among 64 marginals, and the bytes that it sends."""
    side = round((cells / 64) ** (1 / 3))
    domain = Domain.from_shape({f"a{j}": side for j in range(9)})
    cliques = tuple(itertools.islice(itertools.combinations(domain.names, 3), 64))
    pool = SharePool([made_up(domain, 10_000)], Workload(domain, cliques), Source.seeded(1).key)
    pool.join([0])
    pool.prepare(cliques)
    layout = Layout(domain, cliques)
    rng = np.random.default_rng(0)
    expected = rng.integers(1, 500, int(layout.offsets[-1]))
    ballot = Ballot(layout, expected, rng.integers(2**10, 2**20, 64), rng.integers(0, 2**30, 64), most=10_000)
    parts = [rng.integers(-(2**29), 2**29, 64) for _ in range(3)]
    return least(lambda: pool.select(ballot, parts), repeats) / 3, max(select_cost(ballot).wire)


SMALL, LARGE = 0, 1
ROWS = (2_000, 10_000)
COHORTS, LENGTHS = (34, 100), (50_000, 100_000)
CELLS = (250_000, 1_000_000)
SELECTED = (64 * 10**3, 64 * 20**3)


def constants(repeats: int) -> dict[str, float]:
    """What ``timing.py`` should say here, from the smaller sizes."""
    candidates = len(Workload.random(ADULT).closure)
    degree, threshold = topology(COHORTS[SMALL])
    few, many = (masking(COHORTS[SMALL], cells, repeats) for cells in (8, LENGTHS[SMALL]))
    share, receive = uploading(CELLS[SMALL], repeats)
    seconds, sent = selecting(SELECTED[SMALL], repeats)
    return {
        "COUNT": counting(ROWS[SMALL], repeats) / ROWS[SMALL] / candidates,
        "MASK": (many[0] - few[0]) / (RING * LENGTHS[SMALL]) / (degree + 1),
        "NEIGHBOUR": few[0] / degree,
        "UNMASK": few[1] / threshold,
        "SHARE": share / CELLS[SMALL],
        "RECEIVE": receive / CELLS[SMALL],
        "COMPARE": seconds / sent,
    }


def checked_seconds(repeats: int) -> list[Numbers]:
    """Predictions at the larger sizes, none of which the constants come from."""
    candidates = len(Workload.random(ADULT).closure)
    degree, threshold = topology(COHORTS[LARGE])
    payload = RING * LENGTHS[LARGE]
    client, server = masking(COHORTS[LARGE], LENGTHS[LARGE], repeats)
    share, receive = uploading(CELLS[LARGE], repeats)
    select, sent = selecting(SELECTED[LARGE], repeats)
    masked = timing.MASK * payload * (degree + 1) + timing.NEIGHBOUR * degree
    return [
        (f"FLAIM client: score {candidates} candidates, {ROWS[LARGE]:,} rows",
         timing.COUNT * ROWS[LARGE] * candidates, counting(ROWS[LARGE], repeats)),
        (f"FLAIM client: secure sum, cohort {COHORTS[LARGE]}, {LENGTHS[LARGE]:,} cells", masked, client),
        ("FLAIM server: the same, a client", timing.MASK * payload + timing.UNMASK * threshold, server),
        (f"DistAIM client: share {CELLS[LARGE]:,} cells", timing.SHARE * CELLS[LARGE], share),
        ("DistAIM server: receive them", timing.RECEIVE * CELLS[LARGE], receive),
        (f"DistAIM server: select, {SELECTED[LARGE]:,} cells", timing.COMPARE * sent, select),
    ]  # fmt: skip


def _compared(what: str, unit: str, predicted: float, measured: float) -> dict[str, Any]:
    return {
        "what": what,
        "unit": unit,
        "predicted": f"{predicted:.4g}" if unit == "CPU s" else f"{predicted:,.0f}",
        "measured": f"{measured:.4g}" if unit == "CPU s" else f"{measured:,.0f}",
        "predicted / measured": f"{predicted / measured:.4g}",
    }


# -- bytes -----------------------------------------------------------------------------------------------------


def federated(clients: int, secagg: str) -> list[Numbers]:
    """FLAIM (Private) on Adult's domain: what a client sends and receives, by formula and counted."""
    workload = Workload.random(ADULT)
    models: list[int] = []
    rounds: list[tuple[int, int]] = []
    select, measure = FederatedBackend.select, FederatedBackend.measure

    def watching(backend: Any, state: Any, step: Any, ledger: Any) -> Any:
        models.append(state.model.cells)
        return select(backend, state, step, ledger)

    def measuring(backend: Any, selection: Any, step: Any, ledger: Any) -> Any:
        one_way = () if step.last else workload.one_way
        cliques = [*selection.picks, *one_way]
        rounds.append((len(selection.picks), sum(ADULT.size(clique) + 2 for clique in cliques)))
        return measure(backend, selection, step, ledger)

    table = made_up(ADULT, 100 * clients)
    tables = [table.take(np.arange(k, len(table), clients)) for k in range(clients)]
    terms: dict[str, Any] = {"participation": 1.0, "rounds": 3}
    method = FLAIM(ADULT, workload=workload, **terms, secagg=secagg, seed=0)
    with patch.object(FederatedBackend, "select", watching), patch.object(FederatedBackend, "measure", measuring):
        sent = method.fit(tables).communication_
    wire = flaim.size_message()
    for clique in workload.one_way:
        wire += flaim.secure_sum(clients, ADULT.size(clique) + 2)
    for model, (picked, cells) in zip(models, rounds, strict=True):
        wire += flaim.a_round(clients, len(workload.closure), picked, cells, model)
    most = plan_parties("flaim", workload, clients=clients, rows=100 * clients, **(GIVEN | terms)).load("client")
    return [
        (f"FLAIM client sends, {clients} clients, {secagg}: at most, before the run", most.sent, sent[SENT]),
        (f"FLAIM client sends, {clients} clients, {secagg}", wire.sent, sent[SENT]),
        (f"FLAIM client receives, {clients} clients, {secagg}", wire.received, sent["client_received_wire_bytes"]),
    ]


def shared(clients: int) -> list[Numbers]:
    """DistAIM: what a client uploads, by formula for what was asked for, and counted on shares."""
    workload = Workload.random(ADULT)
    table = made_up(ADULT, 100 * clients)
    asked: list[int] = []
    collect = SharePool._collect

    def collecting(pool: Any, members: Any, layout: Layout) -> Any:
        asked.append(int(layout.offsets[-1]))
        return collect(pool, members, layout)

    tables = [table.take(np.arange(k, len(table), clients)) for k in range(clients)]
    method = DistAIM(ADULT, workload=workload, participation=1.0, rounds=3, engine="shares", seed=0)
    with patch.object(SharePool, "_collect", collecting):
        sent = method.fit(tables).communication_
    return [(f"DistAIM client sends, {clients} clients", sum(map(distaim.upload, asked)), sent[SENT])]


def sealed(repeats: int) -> tuple[list[Numbers], list[Numbers]]:
    """FHAIM on breast cancer, the holder's records encrypted: bytes, and the least CPU seconds; needs OpenFHE."""
    if find_spec("openfhe") is None:
        print("FHAIM is left out: OpenFHE is not installed")
        return [], []
    table = load_dataset("breast_cancer").table()
    workload = Workload.random(table.domain, 10**6, 2)
    terms: dict[str, Any] = {"workload": workload, "max_records": 500, "rounds": 1, "max_model_mb": 1.0, "seed": 0}
    fits = [FHAIM(table.domain, engine="bgv", **terms).fit(table) for _ in range(repeats)]
    costs = [fit.encryption_ for fit in fits if fit.encryption_ is not None]
    _, plan = fhaim.plan_for(workload, 500)
    working = plan.compute_seconds + plan.share_seconds
    sizes: list[Numbers] = [
        ("FHAIM holder: upload of 500 records", plan.upload_bytes, costs[0].upload_bytes),
        ("FHAIM key holder: evaluation keys", plan.evaluation_key_bytes, costs[0].eval_key_bytes),
    ]
    seconds: list[Numbers] = [
        ("FHAIM holder: encrypt 500 records", plan.holder_seconds, min(c.seconds_encrypt for c in costs)),
        ("FHAIM server, key holder: before the first round", working, min(c.seconds_compute for c in costs)),
    ]
    return sizes, seconds


# -- beyond ----------------------------------------------------------------------------------------------------

BEYOND = ((100, 1_000_000), (10_000, 10**8), (10**6, 10**10))


def beyond(mechanism: str, clients: int, rows: int) -> tuple[list[dict[str, Any]], str]:
    """Loads of all parties, at most, and the first bottleneck."""
    workload = Workload.random(ADULT, ways=2 if mechanism == "fhaim" else 3)
    found = plan_parties(mechanism, workload, clients=clients, rows=rows, **GIVEN)
    lines = [
        {
            "mechanism": mechanism,
            "clients": f"{clients:,}",
            "rows": f"{rows:,}",
            "party": load.party,
            "sends": amount_of(load.sent),
            "receives": amount_of(load.received),
            "memory": amount_of(load.memory),
            "CPU s": f"{load.seconds:,.3g}",
        }
        for load in found.loads
    ]
    return lines, f"* {mechanism}, {clients:,} clients, {rows:,} rows: {found.bottleneck}."


def main() -> None:
    """Measure, compare, extrapolate, write."""
    parser = argparse.ArgumentParser(description="Hold predictions of cost against measurements.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/scale"))
    parser.add_argument("--constants", action="store_true", help="print the constants of this machine, and end")
    options = parser.parse_args()
    settle()
    if options.constants:
        for name, value in constants(options.repeats).items():
            print(f"{name} = {value:.2e}")
        return
    sizes, seconds = sealed(3)
    sizes = [*federated(10, "masks"), *federated(40, "ideal"), *shared(10), *sizes]
    rows = [_compared(what, "bytes", *numbers) for what, *numbers in sizes]
    rows += [_compared(what, "CPU s", *numbers) for what, *numbers in [*checked_seconds(options.repeats), *seconds]]
    plans = [beyond(mechanism, *size) for mechanism in ("flaim", "distaim", "fhaim") for size in BEYOND]
    text = (
        HEAD
        + markdown_table(rows)
        + BETWEEN
        + markdown_table([line for lines, _ in plans for line in lines])
        + "\n**First bottleneck**, with a day of time, 10 Mbit/s, one core and 4 GB for a client, 10 Gbit/s, 32 cores\n"
        "and 256 GB for a server:\n\n"
        + "\n".join(sentence for _, sentence in plans)
        + f"\n\n    python experiments/scale.py --repeats {options.repeats}\n\n{machine('cryptography', 'openfhe')}\n"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "scale.csv", index=False)
    (options.out / "scale.md").write_text(text, encoding="utf-8")
    print(text)


HEAD = """\
Predictions of `marginal-sdg plan` against measurements. Bytes: the formulas, for the cliques that were picked and the
models that were sent, against what whole fits counted. Seconds: the constants of `marginal_sdg/scale/timing.py`, from
smaller sizes (`--constants`), against the least of several repeats; they depend on how busy the machine is. FHAIM's are
those of `crypto/fhe/plan.py`. `at most`: what the plan says before it is known what will be picked; with few rows,
small marginals are. Memory is that of the vectors that a party holds, counted, not measured.

"""

BETWEEN = """
Beyond: Adult's domain, its 64 random marginals (3-way; 2-way for FHAIM), 10 rounds, participation 0.1, models of up to
80 MB. At most: everybody picks another of the largest candidates, and the model is as large as it may be. Without
fitting the model; FHAIM without its garbled circuits. For FHAIM, `clients` are data holders.

"""


if __name__ == "__main__":
    main()
