"""The Flower apps: a ServerApp that runs FLAIM's loop, and a ClientApp for a client with its own table.

``flwr run`` finds them by the ``pyproject.toml`` that ``python -m marginal_sdg.flower app`` writes. Its run config has
FLAIM's parameters and the files for the domain and the synthetic table. The config that a SuperNode is started with has
the client's ``table`` and ``domain``, and its own ``epsilon``, ``delta`` and ``least`` if it has limits. A simulated
client, which has no config, finds ``table.csv`` and ``domain.yaml`` in ``folder``/number.

All noise comes from the operating system, so no run repeats another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, MarginalSDGError, ProtocolError
from marginal_sdg.federations import FLAIM
from marginal_sdg.flower import quiet
from marginal_sdg.flower.messages import Fields
from marginal_sdg.flower.node import Node
from marginal_sdg.flower.remote_clients import RemoteFederation
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.noise import Source
from marginal_sdg.table_files import read_table

quiet()  # before Flower is imported

from flwr.app import ConfigRecord, Context, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402

_RECORD = "marginal_sdg"
PARAMETERS = (
    "epsilon",
    "delta",
    "rounds",
    "participation",
    "variant",
    "workload",
    "records_per_person",
    "max_model_mb",
)

server = ServerApp()
client = ClientApp()


class FlowerWire:
    """Flower's grid, with its nodes numbered from 0 by their ids."""

    def __init__(self, grid: Grid, clients: int, timeout: float) -> None:
        self._grid = grid
        self._timeout = timeout
        self._nodes = self._met(clients)
        self._numbers = {node: k for k, node in enumerate(self._nodes)}

    def _met(self, clients: int) -> list[int]:
        end = time.monotonic() + self._timeout
        while len(nodes := sorted(self._grid.get_node_ids())) < clients:
            if time.monotonic() > end:
                raise ProtocolError(
                    f"clients: {len(nodes)} of {clients} are there after {self._timeout:g} s; start the rest"
                )
            time.sleep(0.5)
        return nodes[:clients]

    def __len__(self) -> int:
        return len(self._nodes)

    def ask(self, questions: Mapping[int, Fields]) -> dict[int, Fields]:
        """Who does not answer within the timeout, or whose app fails, is missing."""
        sent = [
            Message(RecordDict({_RECORD: ConfigRecord(dict(fields))}), self._nodes[k], "query")
            for k, fields in questions.items()
        ]
        replies = self._grid.send_and_receive(sent, timeout=self._timeout)
        return {
            self._numbers[reply.metadata.src_node_id]: dict(reply.content.config_records[_RECORD])
            for reply in replies
            if not reply.has_error()
        }


@server.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run FLAIM and write the synthetic table; an error is one line and ends the run."""
    try:
        _synthesise(grid, context.run_config)
    except MarginalSDGError as error:
        sys.stderr.write(f"server: {error}\n")
        raise SystemExit(1) from None


def _synthesise(grid: Grid, config: Mapping[str, Any]) -> None:
    missing = [name for name in (*PARAMETERS, "domain", "clients", "least", "timeout", "out") if name not in config]
    if missing:
        raise ConfigError(
            f"{missing[0]}: is missing in the app's config; write it anew with python -m marginal_sdg.flower app"
        )
    terms: dict[str, Any] = {name: config[name] for name in PARAMETERS}
    flaim = FLAIM(Domain.load(config["domain"]), secagg="masks", on_event=_tell, **terms)
    flaim.check()
    wire = FlowerWire(grid, int(config["clients"]), float(config["timeout"]))
    flaim.fit(RemoteFederation(wire, int(config["least"])))
    synthetic = flaim.sample()
    synthetic.to_csv(config["out"], index=False)
    received = flaim.communication_["client_received_wire_bytes"] / 1e3
    sent = flaim.communication_["client_sent_wire_bytes"] / 1e3
    _say(f"spent epsilon {flaim.ledger.epsilon():.4g} on {len(flaim.ledger.charges)} releases")
    _say(f"a client sent {sent:.0f} kB and received {received:.0f} kB")
    _say(f"{len(synthetic)} synthetic rows in {config['out']}")


def _tell(event: Mapping[str, Any]) -> None:
    if event["event"] == "round":
        chosen = ", ".join(" x ".join(clique) for clique in event["selected"])
        _say(f"round {event['round']} of {event['rounds']}: {chosen}")


def _say(text: str) -> None:
    sys.stdout.write(f"server: {text}\n")
    sys.stdout.flush()


@client.query()  # type: ignore[untyped-decorator]
def query(message: Message, context: Context) -> Message:
    """Answer one question. Flower keeps the client's state, on the client's side, between two of them."""
    kept = context.state.config_records
    state = dict(kept[_RECORD]) if _RECORD in kept else {}
    try:
        node = _node(context.node_config, context.run_config, state)
        answer = node.answer(dict(message.content.config_records[_RECORD]))
    except (MarginalSDGError, OSError) as error:
        answer = {"error": str(error)}
    kept[_RECORD] = ConfigRecord(state)
    return Message(RecordDict({_RECORD: ConfigRecord(answer)}), reply_to=message)


def _node(config: Mapping[str, Any], run: Mapping[str, Any], state: dict[str, Any]) -> Node:
    files = dict(config)
    if "table" not in config and "partition-id" in config:
        home = Path(run["folder"]) / str(config["partition-id"])
        files = {"table": str(home / "table.csv"), "domain": str(home / "domain.yaml")}
    for name in ("table", "domain"):
        if name not in files:
            raise ConfigError(f"{name}: is missing in the node's config; start flower-supernode with --node-config")
    agreed = {name: config.get(name, run[name]) for name in ("epsilon", "delta", "least")}
    limit = Budget(float(agreed["epsilon"]), float(agreed["delta"]))
    return Node(_table(files["table"], files["domain"]), limit, int(agreed["least"]), Source.system(), state)


@lru_cache(maxsize=16)
def _table(table: str, domain: str) -> Table:
    return read_table(Path(table), Domain.load(domain))
