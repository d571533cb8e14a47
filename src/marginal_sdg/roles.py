"""FHAIM's roles as processes: key holder and server as services, and a data holder that asks them.

    python -m marginal_sdg.roles certificates --holders 2 --out identities
    python -m marginal_sdg.roles keyholder --listen 0.0.0.0:7102 --identity identities/key-holder
    python -m marginal_sdg.roles server --listen 0.0.0.0:7101 --identity identities/server
    python -m marginal_sdg.roles holder --csv two.csv --domain d.yaml --listen 0.0.0.0:7103 \\
        --identity identities/data-holder-2                  # another data holder, which waits to be asked
    python -m marginal_sdg.roles holder --csv one.csv --domain d.yaml --server a:7101 --keyholder b:7102 \\
        --others c:7103 --identity identities/data-holder-1 --out synthetic.csv
    python -m marginal_sdg.roles demo --dataset diabetes_pima --holders 2 --out synthetic.csv    # starts all

Connections are gRPC's, encrypted and authenticated at both ends by certificates of one authority; on one machine they
may go without. The first data holder runs the loop, whose model is public. Every data holder has its own table, pays
from its own ledger and makes its part of the noise. A service makes fresh secrets for every session, has one at a time,
and ends it at the first error with one line. With ``--store``, a role keeps the session in a folder of its own, and can
be killed and started again in the middle of it, by the same command (see :mod:`marginal_sdg.crypto.kept`, and for the
data holder that asks :mod:`marginal_sdg.crypto.notes`). Exit code 0: done, 1: a role failed, 2: bad input.
"""

from __future__ import annotations

import argparse
import hmac
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marginal_sdg.crypto import answering
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.counters import Counters
from marginal_sdg.crypto.fhe.library import openfhe
from marginal_sdg.crypto.fhe.parties import (
    HOLDER,
    KEY_HOLDER,
    SERVER,
    KeyParty,
    Party,
    ServerParty,
    Step,
    unsigned,
)
from marginal_sdg.crypto.identity import KEY, Identity, certified, issue
from marginal_sdg.crypto.kept import Fleeting, Make, Memory, Session, Store
from marginal_sdg.crypto.notes import Notes
from marginal_sdg.crypto.stream import Service
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import encode
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.ledger_file import FiledLedger, LedgerFile
from marginal_sdg.privacy.noise import Source
from marginal_sdg.processes import run, say, told_by, wait

if TYPE_CHECKING:
    import pandas as pd

SERVICES = {"server": SERVER, "keyholder": KEY_HOLDER}
_PYTHON = (sys.executable, "-m", "marginal_sdg.roles")


def party(role: str, memory: Memory, identity: Identity | None = None) -> Party:
    """A server or a key holder with the secrets of a session."""
    sign = unsigned if identity is None else identity.sign
    return ServerParty(memory.keys, sign) if role == SERVER else KeyParty(memory.keys, sign, memory.remember)


def serve(
    role: str,
    make: Make,
    where: str,
    timeout: float,
    tell: Callable[[str], None],
    identity: Identity | None = None,
    store: Path | None = None,
    metrics: int | None = None,
) -> Service:
    """Answer one data holder after the other, until the service is closed. ``tell`` gets a line for every session.

    ``store``: the folder in which a session outlives its connection, and this process; ``metrics``: a port of this
    machine to read :class:`~marginal_sdg.crypto.counters.Counters` at.
    """
    keys = Source.system().key
    session: Session = Fleeting(keys).session if store is None else Store(store, keys, timeout).session
    if metrics is not None:
        counters = Counters({step.value: step.name.lower() for step in Step})
        session = counters.counted(session)
        tell(f"metrics at http://127.0.0.1:{counters.listen(metrics).server_port}/metrics")

    def play(channel: Channel) -> None:
        with session(channel, make) as ask:
            channel.serve(ask)

    return answering.serve(role, HOLDER, play, where, timeout, tell, identity)


def _listen(options: argparse.Namespace) -> None:
    """As server or key holder."""
    role, identity = SERVICES[options.command], Identity.given(options.identity)
    _wait(options, role, lambda memory: party(role, memory, identity), identity, options.metrics)


def _wait(options: argparse.Namespace, role: str, make: Make, identity: Identity | None, *more: Any) -> None:
    openfhe()
    service = serve(role, make, options.listen, options.timeout, told_by(role), identity, options.store, *more)
    wait(service, role, options.listen)


def _certify(options: argparse.Namespace) -> None:
    names = (certified(role) for role in (SERVER, KEY_HOLDER))
    holders = [f"{certified(HOLDER)}-{number}" for number in range(1, options.holders + 1)]
    issue(options.out, [*names, *holders])
    say("certificates", f"{options.out}: one folder for each role; give each to its role alone, and keep {KEY} offline")


def _hold(options: argparse.Namespace) -> None:
    """As a data holder: the one that asks, or with ``--listen`` one that is asked."""
    if options.listen:
        identity = Identity.given(options.identity)
        _wait(options, HOLDER, _other_holder(options, identity), identity)
    else:
        _synthesise(options)


def _records(options: argparse.Namespace) -> tuple[pd.DataFrame, Domain]:
    import pandas as pd

    from marginal_sdg.datasets import load_dataset

    if options.dataset:
        dataset = load_dataset(options.dataset)
        return dataset.frame, dataset.domain
    if options.domain is None:
        raise ConfigError("--csv needs --domain, the declared columns")
    return pd.read_csv(options.csv), Domain.load(options.domain)


def _other_holder(options: argparse.Namespace, identity: Identity | None) -> Make:
    """All its sessions together spend ``--total-epsilon``; with ``--ledger``, all that use this file."""
    from marginal_sdg.backends.other_holder import OtherHolder

    frame, domain = _records(options)
    table = encode(frame, domain)
    limit, total = Budget(options.epsilon, options.delta), _total(options)
    accounts: dict[int, Ledger] = {}
    if options.store and not options.ledger:
        raise ConfigError("--store needs --ledger, a file that knows whether a session has been paid for")

    def account(session: str, budget: Budget, group: int) -> Ledger:
        if options.ledger:
            return FiledLedger(LedgerFile(options.ledger, total, group), budget, "session", session)
        if accounts and group not in accounts:
            raise ProtocolError(f"group: this data holder has protected people with {min(accounts)} records so far")
        return accounts.setdefault(group, Ledger(total, Source.system(), group=group))

    def make(memory: Memory) -> OtherHolder:
        digest = hmac.digest(memory.keys(), table.codes.astype("int64").tobytes(), "sha256")
        if memory.remember("table", lambda: digest) != digest:
            raise ProtocolError("table: is not the one that the session began with; start another")
        of_session = partial(account, memory.keys().hex())
        return OtherHolder(table, limit, of_session, Source.keyed(memory.keys()), identity)

    return make


def _total(options: argparse.Namespace) -> Budget:
    return Budget(options.total_epsilon or options.epsilon, options.delta)


def _synthesise(options: argparse.Namespace) -> None:
    frame, domain = _records(options)
    account = None
    if options.ledger:
        file = LedgerFile(options.ledger, _total(options))
        account = FiledLedger(file, Budget(options.epsilon, options.delta), "synthesis")
    with ExitStack() as stack:
        notes = stack.enter_context(Notes(options.store)) if options.store else None
        kept = f", with what is in {options.store}" if notes and notes.found else ""
        say(HOLDER, f"process {os.getpid()}, epsilon {options.epsilon:g}, {options.rounds} rounds{kept}")
        _fit(options, frame, domain, account, notes)


def _fit(
    options: argparse.Namespace, frame: pd.DataFrame, domain: Domain, account: Ledger | None, notes: Notes | None
) -> None:
    """The synthetic table; with notes, they are kept until it is written."""
    from marginal_sdg.fhaim import FHAIM

    start = time.perf_counter()
    fhaim = FHAIM(
        domain,
        epsilon=options.epsilon,
        delta=options.delta,
        rounds=options.rounds,
        max_records=options.max_records,
        upload=options.upload,
        split=options.split,
        threshold=options.threshold,
        engine="bgv",
        server=options.server,
        keyholder=options.keyholder,
        others=options.others,
        identity=options.identity,
        timeout=options.timeout,
        seed=options.seed,
        on_event=_tell,
    ).fit(frame, ledger=account, notes=notes)
    synthetic = fhaim.sample()
    synthetic.to_csv(options.out, index=False)
    spent, size = fhaim.ledger.epsilon(), sum(fhaim.communication_.values()) / 1e6
    say(HOLDER, f"spent epsilon {spent:.4g} on {len(fhaim.ledger.charges)} releases; messages of {size:.0f} MB")
    say(HOLDER, f"{len(synthetic)} synthetic rows in {options.out}, {time.perf_counter() - start:.1f} s")


def _tell(event: Mapping[str, Any]) -> None:
    if event["event"] == "round":
        chosen = ", ".join(" x ".join(clique) for clique in event["selected"])
        say(HOLDER, f"round {event['round']} of {event['rounds']}: {chosen}")


def _demonstrate(options: argparse.Namespace) -> None:
    """Every role as a process with a folder of its own, on free ports; nothing is shared but the network."""
    start = time.perf_counter()
    frame, domain = _records(options)
    holders = [f"{certified(HOLDER)}-{number}" for number in range(1, options.holders + 1)]
    common = ["--timeout", str(options.timeout)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        issue(folder, [*map(certified, SERVICES.values()), *holders])
        for place, name in enumerate(holders):
            part, declared = frame.iloc[place :: options.holders], domain
            if options.split == "columns":
                part = frame[list(domain)[place :: options.holders]]
                declared = domain.project(part.columns) if place else domain
            part.to_csv(folder / name / "table.csv", index=False)
            declared.save(folder / name / "domain.yaml")

        def arguments(name: str) -> list[str]:
            own = folder / name
            table = ["--csv", str(own / "table.csv"), "--domain", str(own / "domain.yaml")] if name in holders else []
            return [*table, "--identity", str(own), *common]

        where = {
            name: stack.enter_context(_service([name, *arguments(certified(role))])) for name, role in SERVICES.items()
        }
        budget = ["--epsilon", str(options.epsilon), "--delta", str(options.delta)]
        others = [stack.enter_context(_service(["holder", *arguments(name), *budget])) for name in holders[1:]]
        asked = [
            "--server",
            where["server"],
            "--keyholder",
            where["keyholder"],
            *(("--others", *others) if others else ()),
        ]
        chosen = [
            "--rounds",
            str(options.rounds),
            "--max-records",
            str(options.max_records),
            "--upload",
            options.upload,
            "--split",
            options.split,
        ]
        chosen += ["--threshold"] * options.threshold + ["--seed", str(options.seed)] * (options.seed is not None)
        command = [*_PYTHON, "holder", *arguments(holders[0]), *budget, *asked, *chosen, "--out", str(options.out)]
        code = subprocess.run(command).returncode
    if code:
        raise SystemExit(code)
    say("all roles", f"{time.perf_counter() - start:.1f} s with their start")


@contextmanager
def _service(arguments: Sequence[str]) -> Iterator[str]:
    """A service in a process of its own; its address."""
    command = [*_PYTHON, *arguments, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            if not greeting:
                raise ProtocolError(f"{arguments[0]}: did not start")
            sys.stdout.write(greeting)
            sys.stdout.flush()
            yield greeting.split()[-1]
        finally:
            process.terminate()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m marginal_sdg.roles", description="FHAIM in processes of its roles."
    )
    roles = parser.add_subparsers(dest="command", required=True)
    for name, port in (("keyholder", 7102), ("server", 7101)):
        service = roles.add_parser(name, help=f"answer data holders as the {SERVICES[name]}")
        service.add_argument("--listen", default=f"127.0.0.1:{port}", metavar="HOST:PORT")
        service.add_argument("--metrics", type=int, metavar="PORT", help="counters for Prometheus, on this machine")
        service.set_defaults(run=_listen)
    holder = roles.add_parser("holder", help="a data holder: it alone has its table")
    holder.add_argument("--server", default="127.0.0.1:7101", metavar="HOST:PORT")
    holder.add_argument("--keyholder", default="127.0.0.1:7102", metavar="HOST:PORT")
    holder.add_argument(
        "--others", nargs="+", default=(), metavar="HOST:PORT", help="data holders of other records or columns"
    )
    holder.add_argument("--listen", metavar="HOST:PORT", help="be one of these others, and wait to be asked")
    holder.add_argument("--ledger", type=Path, help="file that adds up what all runs spend on this table")
    holder.add_argument("--total-epsilon", type=float, help="what they may spend (default --epsilon)")
    holder.set_defaults(run=_hold)
    demo = roles.add_parser("demo", help="start all, on free ports of this machine")
    demo.add_argument("--holders", type=int, default=1, help="number of data holders")
    demo.set_defaults(run=_demonstrate)
    for command in (holder, demo):
        table = command.add_mutually_exclusive_group(required=True)
        table.add_argument("--dataset", help="a benchmark data set by name")
        table.add_argument("--csv", type=Path, help="a table of your own, with --domain")
        command.add_argument("--domain", type=Path, help="the declared columns of --csv, as YAML or JSON")
        command.add_argument("--epsilon", type=float, default=1.0)
        command.add_argument("--delta", type=float, default=1e-5)
        command.add_argument("--rounds", type=int, default=20)
        command.add_argument("--max-records", type=int, default=1000, help="public cap on the number of all records")
        command.add_argument("--upload", choices=("records", "marginals"), default="records")
        command.add_argument("--split", choices=("rows", "columns"), default="rows", help="what other holders have")
        command.add_argument("--threshold", action="store_true", help="keep a half of the secret key here")
        command.add_argument("--seed", type=int, help="for experiments that repeat, not for a release")
        command.add_argument("--out", type=Path, default=Path("synthetic.csv"))
    for command in roles.choices.values():
        command.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for a message")
    for name in (*SERVICES, "holder"):
        roles.choices[name].add_argument("--identity", type=Path, metavar="FOLDER", help="see certificates")
        roles.choices[name].add_argument("--store", type=Path, metavar="FOLDER", help="go on in it when started again")
    certificates = roles.add_parser("certificates", help="make an identity for every role")
    certificates.add_argument("--out", type=Path, default=Path("identities"))
    certificates.add_argument("--holders", type=int, default=1, help="number of data holders")
    certificates.set_defaults(run=_certify)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one role, or all."""
    run(_parser(), arguments)


if __name__ == "__main__":
    main()
