"""``python -m marginal_sdg.spu``: one server, or everything on this machine.

A server makes fresh keys for every session, has one at a time, and ends it at the first error with one line. The demo's
process plays all clients and the coordinator, which runs the loop, pays the ledger and deals the noise, a part for each
server. Exit code 0: done, 1: a server failed, 2: bad input.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from marginal_sdg.crypto import answering
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.identity import KEY, Identity, certified, issue
from marginal_sdg.crypto.rss import SERVERS
from marginal_sdg.crypto.spu.engine import library
from marginal_sdg.crypto.spu.questions import COORDINATOR, role
from marginal_sdg.crypto.stream import Service, address
from marginal_sdg.errors import ConfigError
from marginal_sdg.processes import run, say, told_by, wait
from marginal_sdg.spu.launch import launch
from marginal_sdg.spu.session import Place, Session


def serve(place: Place, where: str, timeout: float, tell: Callable[[str], None], identity: Identity | None) -> Service:
    """Answer one coordinator after the other, until the service is closed. ``tell`` gets a line for every session."""

    def play(channel: Channel) -> None:
        with closing(Session(place, gone=lambda: channel.interrupted)) as session:
            channel.serve(session.ask)

    return answering.serve(role(place.rank), COORDINATOR, play, where, timeout, tell, identity)


def _serve(options: argparse.Namespace) -> None:
    if not 0 <= options.rank < SERVERS:
        raise ConfigError(f"rank: must be 0, 1 or 2, got {options.rank}")
    identity = Identity.given(options.identity)
    links = [address(link, authenticated=identity is not None) for link in options.links.split(",")]
    if len(set(links)) != SERVERS or len(links) != SERVERS:
        raise ConfigError(f"links: needs three different host:port, of servers 0, 1 and 2, got {options.links!r}")
    library()
    options.folder.mkdir(parents=True, exist_ok=True)
    own = None if options.identity is None else options.identity.resolve()
    place, name = Place(options.rank, links, options.folder.resolve(), own, options.link_timeout), role(options.rank)
    wait(serve(place, options.listen, options.timeout, told_by(name), identity), name, options.listen)


def _certify(options: argparse.Namespace) -> None:
    issue(options.out, [*(certified(role(rank)) for rank in range(SERVERS)), COORDINATOR])
    say("certificates", f"{options.out}: a folder for each; give each to its owner alone, and keep {KEY} offline")


def _demonstrate(options: argparse.Namespace) -> None:
    """Three servers in processes and folders of their own, and one fit that asks them."""
    from marginal_sdg.datasets import load_dataset, partition
    from marginal_sdg.federations import DistAIM

    if not options.out.resolve().parent.is_dir():
        raise ConfigError(f"out: {options.out} cannot be written; give the name of a file in a folder that exists")
    start = time.perf_counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing outlives this
    data = load_dataset(options.dataset)
    table = data.table()
    owner = partition(table, options.clients, "iid", target=data.target)
    clients = [table.take((owner == client).nonzero()[0]) for client in range(options.clients)]
    with (
        tempfile.TemporaryDirectory() as folder,
        launch(Path(folder), options.server_python) as servers,
    ):
        for rank, server in enumerate(servers):
            say(role(rank), f"process {server.process.pid} at {server.address}")
        distaim = DistAIM(
            data.domain,
            epsilon=options.epsilon,
            rounds=options.rounds,
            participation=options.participation,
            workload=options.workload,
            engine="spu",
            servers=[server.address for server in servers],
            identity=Path(folder) / COORDINATOR,
            timeout=options.timeout,
            seed=options.seed,
            on_event=_tell,
        ).fit(clients)
        synthetic = distaim.sample()
    synthetic.to_csv(options.out, index=False)
    sent = distaim.communication_
    say(COORDINATOR, f"spent epsilon {distaim.ledger.epsilon():.4g} on {len(distaim.ledger.charges)} releases")
    for party in ("client", "server"):
        say(COORDINATOR, f"each {party} sent {sent[f'{party}_sent_wire_bytes'] / 1e6:.1f} MB")
    say(COORDINATOR, f"{len(synthetic)} synthetic rows in {options.out}, {time.perf_counter() - start:.1f} s")


def _tell(event: Mapping[str, Any]) -> None:
    if event["event"] == "round":
        chosen = ", ".join(" x ".join(clique) for clique in event["selected"])
        say(COORDINATOR, f"round {event['round']} of {event['rounds']}: {chosen}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m marginal_sdg.spu", description="DistAIM on SPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("server", help="be one of the three servers")
    server.add_argument("--rank", type=int, required=True, help="0, 1 or 2")
    server.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="for the coordinator and clients")
    server.add_argument("--links", required=True, metavar="HOST:PORT,HOST:PORT,HOST:PORT", help="between the servers")
    server.add_argument("--folder", type=Path, default=Path(), help="for SPU's log")
    server.add_argument("--identity", type=Path, metavar="FOLDER", help="see certificates")
    server.add_argument("--link-timeout", type=float, default=120.0, help="seconds to wait for the other servers")
    server.set_defaults(run=_serve)
    demo = commands.add_parser("demo", help="start three servers, and fit a benchmark data set")
    demo.add_argument("--dataset", default="adult", help="a benchmark data set by name")
    demo.add_argument("--clients", type=int, default=20)
    demo.add_argument("--epsilon", type=float, default=1.0)
    demo.add_argument("--rounds", type=int, default=10)
    demo.add_argument("--participation", type=float, default=0.5)
    demo.add_argument("--workload", type=int, default=64, help="random 3-way marginals")
    demo.add_argument("--seed", type=int, help="for experiments that repeat, not for a release")
    demo.add_argument("--server-python", default=sys.executable, help="the Python of an environment that has SPU")
    demo.add_argument("--out", type=Path, default=Path("synthetic.csv"))
    demo.set_defaults(run=_demonstrate)
    for command in (server, demo):
        command.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for a message")
    certificates = commands.add_parser("certificates", help="make an identity for each server and the coordinator")
    certificates.add_argument("--out", type=Path, default=Path("identities"))
    certificates.set_defaults(run=_certify)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    run(_parser(), arguments)


if __name__ == "__main__":
    main()
