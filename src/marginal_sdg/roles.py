"""FHAIM's roles as processes: key holder and server as services, and a data holder that asks them.

    python -m marginal_sdg.roles certificates --out identities
    python -m marginal_sdg.roles keyholder --listen 0.0.0.0:7102 --identity identities/key-holder
    python -m marginal_sdg.roles server --listen 0.0.0.0:7101 --identity identities/server
    python -m marginal_sdg.roles holder --dataset diabetes_pima --server there:7101 --keyholder elsewhere:7102 \\
        --identity identities/data-holder-1 --epsilon 1 --out synthetic.csv
    python -m marginal_sdg.roles demo --dataset diabetes_pima --epsilon 1 --out synthetic.csv    # starts the three

Connections are gRPC's, encrypted and authenticated at both ends by certificates of one authority; on one machine they
may go without. The data holder runs the loop, whose model is public: it alone has the table, pays the ledger and makes
the noise. A service makes fresh secrets for every session, has one at a time, and ends it at the first error with one
line. Exit code 0: done, 1: a role failed, 2: bad input.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, TextIO

from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.fhe.library import openfhe
from marginal_sdg.crypto.fhe.parties import KEY_HOLDER, SERVER, KeyParty, Party, ServerParty
from marginal_sdg.crypto.identity import KEY, Identity, certified, issue
from marginal_sdg.crypto.stream import Service, Stream
from marginal_sdg.errors import MarginalSDGError, ProtocolError
from marginal_sdg.privacy.noise import Source

HOLDER = "data holder"
SERVICES = {"server": SERVER, "keyholder": KEY_HOLDER}
PARTIES: dict[str, Callable[[Callable[[], bytes]], Party]] = {SERVER: ServerParty, KEY_HOLDER: KeyParty}
_PYTHON = (sys.executable, "-m", "marginal_sdg.roles")


def serve(
    role: str, where: str, timeout: float, tell: Callable[[str], None], identity: Identity | None = None
) -> Service:
    """Answer one data holder after the other, until the service is closed. ``tell`` gets a line for every session."""
    make, turn = PARTIES[role], Lock()

    def session(stream: Stream) -> None:
        with turn:
            channel = Channel(stream, HOLDER, timeout)
            try:
                _admit(stream.peer, identity)
                channel.greet(role)
                party = make(Source.system().key)
                party.partner = channel.ask_back
                channel.serve(party.ask)
                tell("session done")
            except MarginalSDGError as error:
                tell(f"session ended: {error}")
                channel.fail(error)

    return Service(where, session, identity)


def _admit(peer: str, identity: Identity | None) -> None:
    """Only data holders ask."""
    if identity is not None and not peer.startswith(certified(HOLDER)):
        raise ProtocolError(f"{peer}: its certificate is none of a data holder, and only these have questions here")


def _listen(options: argparse.Namespace) -> None:
    openfhe()
    role = SERVICES[options.role]
    service = serve(
        role, options.listen, options.timeout, lambda text: _say(role, text, sys.stderr), _identity(options)
    )
    try:
        _say(role, f"process {os.getpid()}, listening on {options.listen.rpartition(':')[0]}:{service.port}")
        service.wait()
    finally:
        service.close()


def _identity(options: argparse.Namespace) -> Identity | None:
    return None if options.identity is None else Identity.load(options.identity)


def _certify(options: argparse.Namespace) -> None:
    names = (certified(role) for role in (SERVER, KEY_HOLDER))
    holders = [f"{certified(HOLDER)}-{number}" for number in range(1, options.holders + 1)]
    issue(options.out, [*names, *holders])
    _say(
        "certificates", f"{options.out}: one folder for each role; give each to its role alone, and keep {KEY} offline"
    )


def _hold(options: argparse.Namespace) -> None:
    """Synthesise as the data holder."""
    import pandas as pd

    from marginal_sdg.datasets import load_dataset
    from marginal_sdg.domain import Domain
    from marginal_sdg.fhaim import FHAIM

    if options.dataset:
        dataset = load_dataset(options.dataset)
        frame, domain = dataset.frame, dataset.domain
    else:
        frame, domain = pd.read_csv(options.csv), Domain.load(options.domain)
    _say(HOLDER, f"process {os.getpid()}, epsilon {options.epsilon:g}, {options.rounds} rounds")
    start = time.perf_counter()
    fhaim = FHAIM(
        domain,
        epsilon=options.epsilon,
        rounds=options.rounds,
        max_records=options.max_records,
        upload=options.upload,
        threshold=options.threshold,
        engine="bgv",
        server=options.server,
        keyholder=options.keyholder,
        identity=options.identity,
        timeout=options.timeout,
        seed=options.seed,
        on_event=_tell,
    ).fit(frame)
    synthetic = fhaim.sample()
    synthetic.to_csv(options.out, index=False)
    spent, size = fhaim.ledger.epsilon(), sum(fhaim.communication_.values()) / 1e6
    _say(HOLDER, f"spent epsilon {spent:.4g} on {len(fhaim.ledger.charges)} releases; messages of {size:.0f} MB")
    _say(HOLDER, f"{len(synthetic)} synthetic rows in {options.out}, {time.perf_counter() - start:.1f} s")


def _tell(event: Mapping[str, Any]) -> None:
    if event["event"] == "round":
        chosen = ", ".join(" x ".join(clique) for clique in event["selected"])
        _say(HOLDER, f"round {event['round']} of {event['rounds']}: {chosen}")


def _demonstrate(options: argparse.Namespace) -> None:
    """Three processes: two services on free ports, and the data holder with all other arguments."""
    start = time.perf_counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        issue(folder, map(certified, (SERVER, KEY_HOLDER, HOLDER)))
        command = [*_PYTHON, "holder", *options.arguments[1:], "--identity", str(folder / certified(HOLDER))]
        started = [
            (name, stack.enter_context(_service(name, options.timeout, folder / certified(role))))
            for name, role in SERVICES.items()
        ]
        for name, process in started:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            if not greeting:
                raise ProtocolError(f"{name}: did not start")
            sys.stdout.write(greeting)
            command += [f"--{name}", greeting.split()[-1]]
        sys.stdout.flush()
        code = subprocess.run(command).returncode
    if code:
        raise SystemExit(code)
    _say("all three", f"{time.perf_counter() - start:.1f} s with their start")


@contextmanager
def _service(name: str, timeout: float, identity: Path) -> Iterator[subprocess.Popen[str]]:
    """A service in a process of its own."""
    command = [*_PYTHON, name, "--listen", "127.0.0.1:0", "--timeout", str(timeout), "--identity", str(identity)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def _say(role: str, text: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stdout
    stream.write(f"{role}: {text}\n")
    stream.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m marginal_sdg.roles", description="FHAIM in three processes.")
    roles = parser.add_subparsers(dest="role", required=True)
    for name, port in (("keyholder", 7102), ("server", 7101)):
        service = roles.add_parser(name, help=f"answer data holders as the {SERVICES[name]}")
        service.add_argument("--listen", default=f"127.0.0.1:{port}", metavar="HOST:PORT")
        service.set_defaults(run=_listen)
    holder = roles.add_parser("holder", help="synthesise a table that only this process has")
    demo = roles.add_parser("demo", help="start all three, on free ports")
    holder.add_argument("--server", default="127.0.0.1:7101", metavar="HOST:PORT")
    holder.add_argument("--keyholder", default="127.0.0.1:7102", metavar="HOST:PORT")
    holder.set_defaults(run=_hold)
    demo.set_defaults(run=_demonstrate)
    for command in (holder, demo):
        table = command.add_mutually_exclusive_group(required=True)
        table.add_argument("--dataset", help="a benchmark data set by name")
        table.add_argument("--csv", type=Path, help="a table of your own, with --domain")
        command.add_argument("--domain", type=Path, help="the declared columns of --csv, as YAML or JSON")
        command.add_argument("--epsilon", type=float, default=1.0)
        command.add_argument("--rounds", type=int, default=20)
        command.add_argument("--max-records", type=int, default=1000, help="public cap on the number of records")
        command.add_argument("--upload", choices=("records", "marginals"), default="records")
        command.add_argument("--threshold", action="store_true", help="keep a half of the secret key here")
        command.add_argument("--seed", type=int, help="for experiments that repeat, not for a release")
        command.add_argument("--out", type=Path, default=Path("synthetic.csv"))
    for command in roles.choices.values():
        command.add_argument("--identity", type=Path, metavar="FOLDER", help="certificate and key, see certificates")
        command.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for a message")
    certificates = roles.add_parser("certificates", help="make an identity for every role")
    certificates.add_argument("--out", type=Path, default=Path("identities"))
    certificates.add_argument("--holders", type=int, default=1, help="number of data holders")
    certificates.set_defaults(run=_certify)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one role, or all."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(given, argparse.Namespace(arguments=given))
    if getattr(options, "csv", None) and not options.domain:
        parser.error("--csv needs --domain, the declared columns")
    try:
        options.run(options)
    except (MarginalSDGError, OSError) as error:
        sys.stderr.write(f"{options.role}: {error}\n")
        raise SystemExit(1 if isinstance(error, ProtocolError) else 2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
