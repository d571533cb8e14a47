"""Predictions for many parties: bytes by the formulas are those that fits count, and a plan is never below them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marginal_sdg import FHAIM, FLAIM, DistAIM, Domain, Table, Workload
from marginal_sdg.backends.federated import FederatedBackend
from marginal_sdg.backends.share_pool import SharePool
from marginal_sdg.cli import main
from marginal_sdg.errors import ConfigError
from marginal_sdg.scale import distaim, flaim, plan_parties
from marginal_sdg.scale.party import Load, Prediction, amount_of

DOMAIN = Domain.from_shape({"a": 3, "b": 4, "c": 2, "d": 5})
WORKLOAD = Workload.random(DOMAIN, 4)
CLIENTS, ROWS = 6, 300
GIVEN: dict[str, Any] = {"participation": 1.0, "rounds": 3, "max_model_mb": 1.0, "epsilon": 3.0, "delta": 1e-5}


def tables() -> list[Table]:
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, n, ROWS) for n in DOMAIN.shape], axis=1).astype(np.int32)
    return [Table(DOMAIN, codes[k::CLIENTS]) for k in range(CLIENTS)]


@pytest.mark.parametrize("secagg", ["ideal", "masks"])
def test_the_bytes_of_flaim_are_those_of_a_fit(monkeypatch: pytest.MonkeyPatch, secagg: str) -> None:
    models: list[int] = []
    summed: list[tuple[int, int]] = []
    select, measure = FederatedBackend.select, FederatedBackend.measure

    def selecting(backend: Any, state: Any, step: Any, ledger: Any) -> Any:
        models.append(state.model.cells)
        return select(backend, state, step, ledger)

    def measuring(backend: Any, selection: Any, step: Any, ledger: Any) -> Any:
        cliques = [*selection.picks, *(() if step.last else WORKLOAD.one_way)]
        summed.append((len(selection.picks), sum(DOMAIN.size(clique) + 2 for clique in cliques)))
        return measure(backend, selection, step, ledger)

    monkeypatch.setattr(FederatedBackend, "select", selecting)
    monkeypatch.setattr(FederatedBackend, "measure", measuring)
    counted = FLAIM(DOMAIN, workload=WORKLOAD, secagg=secagg, seed=1, **GIVEN).fit(tables()).communication_
    wire = flaim.size_message()
    for (name,) in WORKLOAD.one_way:
        wire += flaim.secure_sum(CLIENTS, DOMAIN.size((name,)) + 2)
    for model, (picked, cells) in zip(models, summed, strict=True):
        wire += flaim.a_round(CLIENTS, len(WORKLOAD.closure), picked, cells, model)
    assert wire == flaim.Wire(counted["client_sent_wire_bytes"], counted["client_received_wire_bytes"])

    found = plan_parties("flaim", WORKLOAD, clients=CLIENTS, rows=ROWS, **GIVEN)
    client, server = found.loads
    assert wire.sent <= client.sent and wire.received <= client.received
    assert server.received == pytest.approx(CLIENTS * client.sent) and server.sent == CLIENTS * client.received


def test_the_bytes_of_distaim_are_those_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    collect = SharePool._collect

    def collecting(pool: Any, members: Any, layout: Any) -> Any:
        asked.append(int(layout.offsets[-1]))
        return collect(pool, members, layout)

    monkeypatch.setattr(SharePool, "_collect", collecting)
    terms = {name: value for name, value in GIVEN.items() if name != "max_model_mb"}
    counted = DistAIM(DOMAIN, workload=WORKLOAD, engine="shares", seed=1, **terms).fit(tables()).communication_
    assert sum(map(distaim.upload, asked)) == counted["client_sent_wire_bytes"]
    found = plan_parties("distaim", WORKLOAD, clients=CLIENTS, rows=ROWS, **GIVEN)
    servers = [load for load in found.loads if load.party.startswith("server")]
    assert counted["client_sent_wire_bytes"] <= found.load("client").sent
    assert counted["server_sent_wire_bytes"] <= max(load.sent for load in servers)
    assert sum(load.received for load in servers) >= 3 * counted["server_received_wire_bytes"]


def test_the_upload_of_fhaim_is_that_of_a_fit_within_a_hundredth() -> None:
    pytest.importorskip("openfhe", reason="openfhe is not installed: pip install 'marginal-sdg[fhe]'")
    workload = Workload.random(DOMAIN, 4, 2)
    terms: dict[str, Any] = {"max_records": ROWS, "rounds": 1, "workload": workload, "engine": "bgv", "seed": 0}
    costs = FHAIM(DOMAIN, **terms).fit(Table(DOMAIN, tables()[0].codes)).encryption_
    assert costs is not None
    holder, server, keyholder = plan_parties("fhaim", workload, clients=1, rows=ROWS, **(GIVEN | {"rounds": 1})).loads
    outputs = server.sent
    assert costs.upload_bytes == pytest.approx(holder.sent - outputs, rel=0.01)
    assert costs.eval_key_bytes == pytest.approx(keyholder.sent, rel=0.01)


def test_rows_and_clients_move_what_they_should() -> None:
    def loads(mechanism: str, clients: float, rows: float) -> dict[str, Load]:
        workload = Workload.random(DOMAIN, 4, 2)
        found = plan_parties(
            mechanism, workload, clients=int(clients), rows=int(rows), **(GIVEN | {"participation": 0.1})
        )
        return {load.party: load for load in found.loads}

    few, many = loads("flaim", 1e4, 1e6), loads("flaim", 1e4, 1e8)
    assert few["client"].sent == many["client"].sent and few["client"].seconds < many["client"].seconds
    more = loads("flaim", 1e6, 1e8)
    assert more["server"].received > 90 * few["server"].received
    few, many = loads("distaim", 1e4, 1e6), loads("distaim", 1e6, 1e8)
    assert few["client"] == Load(**(vars(many["client"]) | {"count": 10_000}))
    assert many["server 1 (shares)"].received > 50 * few["server 1 (shares)"].received
    few, many = loads("fhaim", 1, 5e4), loads("fhaim", 1, 5e6)
    assert many["server"].received > 80 * few["server"].received  # both with 18 MB of keys
    assert many["key holder"] == few["key holder"]


def test_the_bottleneck_is_the_largest_strain_and_walls_come_first() -> None:
    client = Load("client", 10, sent=1e6, received=0, memory=2**30, seconds=1, small=True)
    server = Load("server", 1, sent=0, received=2.16e14, memory=0, seconds=1)
    found = Prediction((client, server))
    assert found.bottleneck == "the transfer of the server: 216 TB, 2 times what its line carries in a day"
    assert Prediction((client,)).bottleneck == "the memory of the client: 1.07 GB, 0.25 times its memory"
    assert Prediction((client, server), ("a wall",)).bottleneck == "a wall"
    busy = Load("server", 1, sent=0, received=0, memory=0, seconds=32 * 86_400 * 3)
    assert Prediction((client, busy)).bottleneck.endswith("8.29e+06 CPU seconds, 3 times what its cores do in a day")
    assert [amount_of(size) for size in (5, 1.5e3, 2e16)] == ["5 B", "1.5 kB", "20 PB"]


def test_what_no_machine_helps_with_is_told() -> None:
    pairs = Workload.random(DOMAIN, 4, 2)
    assert "exact up to 50,000" in plan_parties("fhaim", pairs, clients=1, rows=10**6, **GIVEN).bottleneck
    assert "64 bits" in plan_parties("distaim", pairs, clients=1, rows=10**14, **GIVEN).bottleneck


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds: a plan for many parties needs at least 1, got 0"),
        ({"participation": 0.0}, "participation: must be above 0 and at most 1, got 0.0"),
        ({"rows": 5}, "rows: 5 are fewer than the 6 clients; give each at least one"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_parties("flaim", WORKLOAD, **({"clients": CLIENTS, "rows": ROWS} | GIVEN | change))


def test_the_command_prints_every_party(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    domain = tmp_path / "d.yaml"
    domain.write_text("a: {categories: [x, y]}\nb: {categories: [u, v, w]}\nc: {categories: [p, q]}\n")
    for mechanism, party in (("flaim", "server"), ("distaim", "server 2"), ("fhaim", "key holder")):
        call = ["plan", str(domain), "--mechanism", mechanism, "--workload", "2"]
        assert main([*call, "--clients", "1e4", "--rows", "1e8"]) == 0
        printed = capsys.readouterr().out
        assert "each of 10,000" in printed and party in printed and "first bottleneck: the " in printed
    for more, message in (
        (["--mechanism", "aim", "--clients", "3"], "are for flaim, distaim, fhaim; aim has one table"),
        (["--mechanism", "flaim", "--impossible", "a == x"], "--impossible is for mechanisms with one table"),
        (["--mechanism", "flaim", "--rounds", "adaptive"], "--rounds adaptive is not known in advance"),
        (["--mechanism", "flaim", "--rows", "1.5"], "'1.5' is not a whole number from 1 to 1e15"),
        (["--mechanism", "flaim", "--rows", "many"], "'many' is not a whole number from 1 to 1e15"),
        (["--mechanism", "fhaim", "--workload", "a,b,c"], "FHAIM counts 1- and 2-way marginals"),
    ):
        assert main(["plan", str(domain), *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
