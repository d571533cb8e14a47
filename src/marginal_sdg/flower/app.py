"""The Flower apps: a ServerApp that runs FLAIM's loop, and a ClientApp for a client with its own table.

``flwr run`` finds them by the ``pyproject.toml`` that ``python -m marginal_sdg.flower app`` writes. Its run config has
FLAIM's parameters and the files for the domain and the synthetic table. The config that a SuperNode is started with has
the client's ``table`` and ``domain``, and its own ``epsilon``, ``delta``, ``least`` and ``colluding`` if it has limits.
A simulated client, which has no config, finds ``table.csv`` and ``domain.yaml`` in ``folder``/number.

The clients add all noise, from the operating system's randomness. What a client has spent and answered is in its
``ledger``, by default a file beside its table, and what the server has been answered in a journal beside the synthetic
table. So a run that has ended early goes on when it is run again, and one that is done is not paid for twice.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, MarginalSDGError, ProtocolError
from marginal_sdg.federations import FLAIM
from marginal_sdg.flower import quiet
from marginal_sdg.flower.journal import Journal
from marginal_sdg.flower.kept import kept
from marginal_sdg.flower.messages import WHO, Fields, take
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
    "colluding",
)

server = ServerApp()
client = ClientApp()


class FlowerWire:
    """Flower's grid, with its nodes numbered from 0 by their ids, or as they were when the fit was begun."""

    def __init__(self, grid: Grid, clients: int, timeout: float, journal: Journal) -> None:
        self._grid = grid
        self._clients = clients
        self._timeout = timeout
        self._fit = journal.fit
        nodes = self._met(needed=1 if journal.resumed else clients)
        self._nodes: dict[int, int] = {}
        if journal.found:
            self._nodes = self._who(nodes)
        if not journal.resumed:
            free = [k for k in range(clients) if k not in self._nodes]
            others = [node for node in nodes if node not in self._nodes.values()]
            self._nodes.update(zip(free, others, strict=False))

    def _who(self, nodes: Iterable[int]) -> dict[int, int]:
        """Those of some nodes that were enrolled, by the numbers that they had."""
        said = self._sent({node: {"kind": WHO, "fit": self._fit} for node in nodes})
        numbers = {take(answer, "client", int): node for node, answer in said.items() if "client" in answer}
        return {k: node for k, node in numbers.items() if 0 <= k < self._clients}

    def _met(self, needed: int) -> list[int]:
        end = time.monotonic() + self._timeout
        while len(nodes := sorted(self._grid.get_node_ids())) < self._clients:
            if time.monotonic() > end and len(nodes) < needed:
                raise ProtocolError(
                    f"clients: {len(nodes)} of {self._clients} are there after {self._timeout:g} s; start the rest"
                )
            if time.monotonic() > end:
                break
            time.sleep(0.5)
        return nodes

    def __len__(self) -> int:
        return self._clients

    def ask(self, questions: Mapping[int, Fields]) -> dict[int, Fields]:
        """Who does not answer within the timeout, or whose app fails, is missing; who is back is known again."""
        there = set(self._grid.get_node_ids())
        strangers = there - set(self._nodes.values())
        if strangers and not there >= set(self._nodes.values()):
            self._nodes |= self._who(strangers)
        answers = self._sent({self._nodes[k]: fields for k, fields in questions.items() if k in self._nodes})
        return {k: answers[node] for k, node in self._nodes.items() if node in answers}

    def _sent(self, questions: Mapping[int, Fields]) -> dict[int, Fields]:
        sent = [
            Message(RecordDict({_RECORD: ConfigRecord(dict(fields))}), node, "query")
            for node, fields in questions.items()
        ]
        replies = self._grid.send_and_receive(sent, timeout=self._timeout)
        return {
            reply.metadata.src_node_id: dict(reply.content.config_records[_RECORD])
            for reply in replies
            if not reply.has_error()
        }


@server.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run FLAIM and write the synthetic table; an error is one line, and Flower's own report of it ends the run."""
    try:
        _synthesise(grid, context.run_config)
    except MarginalSDGError as error:
        _say(str(error))
        raise  # at a SystemExit, Flower would send neither its log nor that the run has failed


def _synthesise(grid: Grid, config: Mapping[str, Any]) -> None:
    missing = [
        name for name in (*PARAMETERS, "domain", "clients", "least", "timeout", "patience", "out") if name not in config
    ]
    if missing:
        raise ConfigError(
            f"{missing[0]}: is missing in the app's config; write it anew with python -m marginal_sdg.flower app"
        )
    terms: dict[str, Any] = {name: config[name] for name in PARAMETERS}
    domain, clients, least = Domain.load(config["domain"]), int(config["clients"]), int(config["least"])
    flaim = FLAIM(domain, secagg="masks", noise="clients", on_event=_tell, **terms)
    flaim.check()
    about = {**terms, "domain": domain.to_dict(), "clients": clients, "least": least}
    journal = Journal(Path(f"{config['out']}.journal"), about)
    if journal.resumed:
        _say(f"goes on after {journal.resumed} answered questions")
    wire = FlowerWire(grid, clients, float(config["timeout"]), journal)
    flaim.fit(RemoteFederation(wire, least, journal, float(config["patience"])))
    journal.keep()
    synthetic = flaim.sample()
    synthetic.to_csv(config["out"], index=False)
    received, sent = (flaim.communication_[f"client_{done}_wire_bytes"] for done in ("received", "sent"))
    _say(f"spent epsilon {flaim.ledger.epsilon():.4g} on {len(flaim.ledger.charges)} releases")
    _say(f"a client sent {sent:,.0f} bytes and received {received:,.0f}")
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
    """Answer one question; the client's ledger is on disk before the answer leaves."""
    try:
        files = _files(context.node_config, context.run_config)
        with kept(Path(files["ledger"])) as state:
            node = _node(files, context.node_config, context.run_config, state)
            answer = node.answer(dict(message.content.config_records[_RECORD]))
    except (MarginalSDGError, OSError) as error:
        answer = {"error": str(error)}
    return Message(RecordDict({_RECORD: ConfigRecord(answer)}), reply_to=message)


def _files(config: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, str]:
    files = {name: str(config[name]) for name in ("table", "domain", "ledger") if name in config}
    if "table" not in config and "partition-id" in config:
        home = Path(run["folder"]) / str(config["partition-id"])
        files = {"table": str(home / "table.csv"), "domain": str(home / "domain.yaml")}
    for name in ("table", "domain"):
        if name not in files:
            raise ConfigError(f"{name}: is missing in the node's config; start flower-supernode with --node-config")
    return {"ledger": f"{files['table']}.ledger", **files}


def _node(files: Mapping[str, str], config: Mapping[str, Any], run: Mapping[str, Any], state: dict[str, Any]) -> Node:
    agreed = {name: config.get(name, run[name]) for name in ("epsilon", "delta", "least", "colluding")}
    limit = Budget(float(agreed["epsilon"]), float(agreed["delta"]))
    table, least, colluding = _table(files["table"], files["domain"]), int(agreed["least"]), int(agreed["colluding"])
    return Node(table, limit, least, Source.system(), state, colluding)


@lru_cache(maxsize=16)
def _table(table: str, domain: str) -> Table:
    return read_table(Path(table), Domain.load(domain))
