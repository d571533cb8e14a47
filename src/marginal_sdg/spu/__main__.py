"""``python -m marginal_sdg.spu``: one server, one client, or everything on this machine.

A server has one session at a time. It keeps it in its folder, so that it goes on when the server is started again, and
ends it at the first error with one line. Servers and clients book a session's whole budget in a file, once, before they
draw or share anything for it. The coordinator, here the demo's process, runs the loop: it asks, and sees what all three
servers open. Exit code 0: done, 1: a server failed, 2: bad input.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from marginal_sdg.backends.spu_limits import Limits
from marginal_sdg.crypto import answering
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.identity import KEY, Identity, certified, issue
from marginal_sdg.crypto.rss import SERVERS
from marginal_sdg.crypto.spu.engine import library
from marginal_sdg.crypto.spu.questions import CLIENT, COORDINATOR, client_role, role
from marginal_sdg.crypto.stream import Service, address
from marginal_sdg.crypto.upload import RECEIVERS
from marginal_sdg.durable import alone
from marginal_sdg.errors import ConfigError
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.noise import Source
from marginal_sdg.processes import run, say, told_by, wait
from marginal_sdg.spu.launch import LEDGER, issue_servers, launch, launch_clients
from marginal_sdg.spu.session import LINKS, Place, Reception


def serve(place: Place, where: str, timeout: float, tell: Callable[[str], None], identity: Identity | None) -> Service:
    """Answer coordinators and clients, until the service is closed. ``tell`` gets a line for everyone that has gone."""
    play = Reception(place).play
    return answering.serve(role(place.rank), [COORDINATOR, CLIENT], play, where, timeout, tell, identity, together=True)


def _serve(options: argparse.Namespace) -> None:
    if not 0 <= options.rank < SERVERS:
        raise ConfigError(f"rank: must be 0, 1 or 2, got {options.rank}")
    identity = Identity.given(options.identity)
    if identity is not None:
        Identity.load(options.identity / LINKS)
    links = _addresses("links", options.links, SERVERS, identity)
    library()
    limits = _limits(options)
    own = None if options.identity is None else options.identity.resolve()
    folder, name = options.folder.resolve(), role(options.rank)
    place = Place(options.rank, links, folder, own, options.link_timeout, options.patience, limits)
    try:
        with alone(folder / ".server.lock"):
            wait(serve(place, options.listen, options.timeout, told_by(name), identity), name, options.listen)
    except BlockingIOError:
        raise ConfigError(f"folder: {folder} is another server's, which runs; give each its own") from None


def _be_client(options: argparse.Namespace) -> None:
    """Answer the coordinator, whenever it asks, until the process is ended."""
    import pandas as pd

    from marginal_sdg.backends.spu_client import SpuClient
    from marginal_sdg.domain import Domain
    from marginal_sdg.encoding import encode

    identity, name = Identity.given(options.identity), client_role(options.number)
    servers = _addresses("servers", options.servers, RECEIVERS, identity)
    table = encode(pd.read_csv(options.csv), Domain.load(options.domain))
    key = Source.system().key()
    client = SpuClient(options.number, table, _limits(options), servers, identity, options.timeout, key)

    def play(channel: Channel) -> None:
        channel.serve(client.ask)

    service = answering.serve(name, COORDINATOR, play, options.listen, options.timeout, told_by(name), identity)
    wait(service, name, options.listen)


def _addresses(name: str, text: str, count: int, identity: Identity | None) -> list[str]:
    found = [address(link, authenticated=identity is not None) for link in text.split(",")]
    if len(set(found)) != count or len(found) != count:
        raise ConfigError(f"{name}: needs {count} different host:port, of servers 0 to {count - 1}, got {text!r}")
    return found


def _limits(options: argparse.Namespace) -> Limits:
    options.folder.mkdir(parents=True, exist_ok=True)
    session = Budget(options.epsilon, options.delta)
    total = Budget(options.total_epsilon or options.epsilon, options.delta)
    return Limits(session, total, options.folder.resolve() / LEDGER, options.simulate)


def _certify(options: argparse.Namespace) -> None:
    issue_servers(options.out)
    issue(options.out, [COORDINATOR, *(certified(client_role(number)) for number in range(options.clients))])
    say("certificates", f"{options.out}: a folder for each; give each to its owner alone, and keep {KEY} offline")


def _demonstrate(options: argparse.Namespace) -> None:
    """Three servers and all clients in processes and folders of their own, and one fit that asks them."""
    from marginal_sdg.datasets import load_dataset, partition
    from marginal_sdg.federations import DistAIM

    if not options.out.resolve().parent.is_dir():
        raise ConfigError(f"out: {options.out} cannot be written; give the name of a file in a folder that exists")
    start = time.perf_counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing outlives this
    data = load_dataset(options.dataset)
    owner = partition(data.table(), options.clients, "iid", target=data.target)
    frames = [data.frame.loc[owner == client] for client in range(options.clients)]
    agreed = ["--epsilon", str(options.epsilon)] + ["--simulate"] * (options.seed is not None)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(launch(folder, options.server_python, agreed))
        where = [server.address for server in servers]
        clients = stack.enter_context(launch_clients(folder, frames, data.domain, where[:RECEIVERS], agreed))
        for each in (*servers, *clients):
            say(each.folder.name, f"process {each.process.pid} at {each.address}")
        distaim = DistAIM(
            data.domain,
            epsilon=options.epsilon,
            rounds=options.rounds,
            participation=options.participation,
            workload=options.workload,
            engine="spu",
            servers=where,
            identity=folder / COORDINATOR,
            timeout=options.timeout,
            seed=options.seed,
            on_event=_tell,
        ).fit([client.address for client in clients])
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
    elif event["event"] == "absent":
        say(COORDINATOR, f"goes on without client {event['client']}: {event['why']}", sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m marginal_sdg.spu", description="DistAIM on SPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("server", help="be one of the three servers")
    server.add_argument("--rank", type=int, required=True, help="0, 1 or 2")
    server.add_argument("--links", required=True, metavar="HOST:PORT,HOST:PORT,HOST:PORT", help="between the servers")
    server.add_argument("--link-timeout", type=float, default=120.0, help="seconds to wait for the other servers")
    server.add_argument("--patience", type=float, default=3600.0, help="seconds to keep a session that broke off")
    server.set_defaults(run=_serve)
    client = commands.add_parser("client", help="be a client: it alone has its table")
    client.add_argument("--number", type=int, required=True, help="from 0, as its certificate says")
    client.add_argument("--csv", type=Path, required=True, help="the table")
    client.add_argument("--domain", type=Path, required=True, help="its declared columns, as YAML or JSON")
    client.add_argument("--servers", required=True, metavar="HOST:PORT,HOST:PORT", help="servers 0 and 1")
    client.set_defaults(run=_be_client)
    for command in (server, client):
        command.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="for those who ask")
        command.add_argument("--folder", type=Path, default=Path(), help="for a ledger file; a server's log, session")
        command.add_argument("--identity", type=Path, metavar="FOLDER", help="see certificates")
        command.add_argument("--epsilon", type=float, default=1.0, help="the most that it agrees to in a session")
        command.add_argument("--delta", type=float, default=1e-5)
        command.add_argument("--total-epsilon", type=float, help="what all sessions may spend (default --epsilon)")
        command.add_argument("--simulate", action="store_true", help="for experiments: take noise from a known seed")
    demo = commands.add_parser("demo", help="start three servers and all clients, and fit a benchmark data set")
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
    for command in (server, client, demo):
        command.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for a message")
    certificates = commands.add_parser("certificates", help="make an identity for everyone")
    certificates.add_argument("--out", type=Path, default=Path("identities"))
    certificates.add_argument("--clients", type=int, default=20)
    certificates.set_defaults(run=_certify)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    run(_parser(), arguments)


if __name__ == "__main__":
    main()
