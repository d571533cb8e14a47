"""FHAIM between processes: what it costs, and what becomes of it when something fails.

    python experiments/services.py [--out experiments/results/services]

Server, key holder and two data holders are processes with folders, certificates and ledger files of their own, and
nothing in common but the loopback network, where a relay in front of every service counts the bytes that pass. One run
goes undisturbed; in each of the others one thing happens at one stage, to roles that all keep their sessions on disk
(``--store``) or do not. Writes ``services.csv`` and ``services.md``.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import numpy as np
import pandas as pd
from provenance import markdown_table, signed_table
from rich.progress import track

from marginal_sdg import FHAIM, Domain, Workload
from marginal_sdg.crypto.identity import issue
from marginal_sdg.datasets import load_dataset
from marginal_sdg.encoding import encode
from marginal_sdg.metrics import workload_error
from marginal_sdg.scale.fhaim import plan_for

DATASET, EPSILON, ROUNDS, CAP = "diabetes_pima", 1.0, 4, 1000
TIMEOUT = 20.0  # seconds that a role waits for another
ROLES = {"server": "server", "keyholder": "key-holder", "other": "data-holder-2"}
COMMAND = (sys.executable, "-m", "marginal_sdg.roles")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code, last line of its errors, wall seconds, and the file that it should have written."""

    code: int
    error: str
    seconds: float
    out: Path


@dataclass
class Relay:
    """Passes on what comes in at ``port`` and counts it; ``at``: bytes towards the service that set off ``then``."""

    target: int
    towards: int = 0
    back: int = 0
    at: float = float("inf")
    then: Callable[[], None] = lambda: None
    port: int = field(init=False)
    _ends: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            try:
                service = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # nobody is there
                client.close()
                continue
            self._ends += [client, service]
            Thread(target=self._pass, args=[client, service, True], daemon=True).start()
            Thread(target=self._pass, args=[service, client, False], daemon=True).start()

    def cut(self) -> None:
        """Break all connections."""
        while self._ends:
            with suppress(OSError):
                self._ends.pop().shutdown(socket.SHUT_RDWR)

    def _heard(self, client: socket.socket, data: bytes) -> None:
        self.towards += len(data)
        if self.towards > self.at:
            self.at = float("inf")
            self.then()

    def _pass(self, source: socket.socket, sink: socket.socket, towards: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if towards:
                    self._heard(source, data)
                else:
                    self.back += len(data)
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # closing alone says nothing while the other thread waits for more
            end.close()


def _limited(size: int | None) -> Callable[[], None] | None:
    return None if size is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class Deployment:
    """All roles but the asking one, each with a relay in front. ``kept``: all of them keep their sessions."""

    def __init__(self, folder: Path, stack: ExitStack, *, kept: bool = False) -> None:
        self.folder, self.kept = folder, kept
        issue(folder, [*ROLES.values(), "data-holder-1"])
        dataset = load_dataset(DATASET)
        self.table, self.domain = dataset.table(), dataset.domain
        for place, name in enumerate(("data-holder-1", "data-holder-2")):
            dataset.frame.iloc[place::2].to_csv(folder / name / "table.csv", index=False)
            self.domain.save(folder / name / "domain.yaml")
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.asking: subprocess.Popen[str] | None = None
        self.relays: dict[str, Relay] = {}
        for role in ROLES:
            self.start(role)
        stack.callback(self.end)

    def end(self) -> None:
        """No process is left."""
        for role in ROLES:
            self.kill(role)

    def start(self, role: str, limit: int | None = None) -> None:
        """A role as a process; ``limit``: bytes that any file it writes may have, as on a full disk."""
        own = self.folder / ROLES[role]
        command = [*COMMAND, role, "--listen", "127.0.0.1:0", "--identity", str(own), "--timeout", str(TIMEOUT)]
        if role == "other":
            command[3] = "holder"
            command += [*self._table(own), *self._budget(own)]
        if self.kept:
            command += ["--store", str(own / "store")]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=(own / "log").open("a"),
            text=True,
            preexec_fn=_limited(limit),
        )
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        self.processes[role] = process
        if role in self.relays:
            self.relays[role].target = port
        else:
            self.relays[role] = Relay(port)

    def _table(self, own: Path) -> list[str]:
        return ["--csv", str(own / "table.csv"), "--domain", str(own / "domain.yaml")]

    def _budget(self, own: Path) -> list[str]:
        total = ["--total-epsilon", str(2 * EPSILON)]
        return ["--epsilon", str(EPSILON), "--ledger", str(own / "ledger.json"), *total]

    def kill(self, role: str) -> None:
        """kill -9."""
        self.processes[role].kill()
        self.processes[role].wait()

    def restart(self, *roles: str) -> None:
        """kill -9, and start again."""
        for role in roles:
            self.kill(role)
        for role in roles:
            self.start(role)

    def forget(self, role: str) -> None:
        """Start again, with nothing in its folder."""
        self.kill(role)
        shutil.rmtree(self.folder / ROLES[role] / "store")
        self.start(role)

    def pause(self, role: str, seconds: float) -> None:
        """Let the process stand still for so long."""
        self.processes[role].send_signal(signal.SIGSTOP)
        Timer(seconds, lambda: self.processes[role].send_signal(signal.SIGCONT)).start()

    def ask(
        self,
        on_line: Callable[[str], None] = lambda line: None,
        identity: str | None = "data-holder-1",
        limit: int | None = None,
        more: Sequence[str] = (),
    ) -> Outcome:
        """The asking holder as a process, until it ends. ``more``: of its options."""
        own, where = self.folder / "data-holder-1", {r: f"127.0.0.1:{relay.port}" for r, relay in self.relays.items()}
        out = own / "synthetic.csv"
        out.unlink(missing_ok=True)
        command = [
            *COMMAND,
            "holder",
            *self._table(own),
            *self._budget(own),
            "--out",
            str(out),
            "--rounds",
            str(ROUNDS),
        ]
        command += ["--max-records", str(CAP), "--timeout", str(TIMEOUT)]
        command += ["--server", where["server"], "--keyholder", where["keyholder"], "--others", where["other"]]
        command += ["--identity", str(self.folder / identity)] if identity else []
        command += ["--store", str(own / "store")] if self.kept else []
        command += more
        start = time.monotonic()
        self.asking = process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_limited(limit)
        )
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            on_line(line)
        error = process.stderr.read().strip()
        process.wait()
        return Outcome(process.returncode, error.splitlines()[-1] if error else "", time.monotonic() - start, out)

    def kill_asking(self) -> None:
        """kill -9 of the asking holder."""
        assert self.asking is not None
        self.asking.kill()

    def booked(self) -> str:
        """Sessions in both ledger files."""
        return f"{self.spent('data-holder-1')}, {self.spent('data-holder-2')}"

    def spent(self, holder: str) -> int:
        """Sessions that are booked in a data holder's ledger file."""
        path = self.folder / holder / "ledger.json"
        return len(json.loads(path.read_text())["runs"]) if path.exists() else 0


# -- what can happen ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """``strike`` sets it up and runs the asking holder; ``mend`` is what an operator does before asking again.

    ``kept``: whether all roles keep their sessions.
    """

    what: str
    stage: str
    strike: Callable[[Deployment], Outcome]
    mend: Callable[[Deployment], None] = lambda deployment: None
    kept: bool = False


def at_upload(act: Callable[[Deployment], None], sent: float = 60e6) -> Callable[[Deployment], Outcome]:
    """Act when so many bytes have reached the server: 60 MB are the keys, and a third of the uploads."""

    def strike(deployment: Deployment) -> Outcome:
        relay = deployment.relays["server"]
        relay.at, relay.then = sent, lambda: act(deployment)
        return again(deployment.ask)

    return strike


def at_round(act: Callable[[Deployment], None]) -> Callable[[Deployment], Outcome]:
    """Act when the first round is over."""
    return at_lines("round 1 of", act)


def at_lines(said: str, act: Callable[[Deployment], None], more: Sequence[str] = ()) -> Callable[[Deployment], Outcome]:
    """Act whenever the asking holder says that."""

    def strike(deployment: Deployment) -> Outcome:
        return deployment.ask(lambda line: act(deployment) if said in line else None, more=more)

    return strike


def started_again(said: str, act: Callable[[Deployment], None], *more: str) -> Callable[[Deployment], Outcome]:
    """Act whenever the asking holder says that for the first time, and start it again where it is killed by that."""

    def strike(deployment: Deployment) -> Outcome:
        heard: set[str] = set()

        def on_line(line: str) -> None:
            if said in line and line not in heard:
                heard.add(line)
                act(deployment)

        return again(lambda: deployment.ask(on_line, more=more))

    return strike


def again(ask: Callable[[], Outcome]) -> Outcome:
    """The asking holder, as often as it is killed; seconds of all."""
    start = time.monotonic()
    while (outcome := ask()).code == -signal.SIGKILL:
        pass
    return replace(outcome, seconds=time.monotonic() - start)


def faults() -> Iterator[Fault]:
    """All of them."""
    yield Fault("nothing", "", lambda deployment: deployment.ask())
    for role in ROLES:

        def kill(deployment: Deployment, role: str = role) -> None:
            deployment.kill(role)

        def restart(deployment: Deployment, role: str = role) -> None:
            deployment.start(role)

        yield Fault(f"kill -9 of the {_named(role)}", "upload", at_upload(kill), restart)
        yield Fault(f"kill -9 of the {_named(role)}", "round 1", at_round(kill), restart)
    yield Fault("kill -9 of the asking data holder", "round 1", at_round(Deployment.kill_asking))
    yield Fault("the other data holder stands still for 5 s", "round 1", at_round(lambda d: d.pause("other", 5.0)))
    still = 2 * TIMEOUT
    yield Fault(f"the server stands still for {still:.0f} s", "round 1", at_round(lambda d: d.pause("server", still)))
    yield Fault("no room for the other data holder's ledger file", "start", full_ledger, lambda d: d.restart("other"))
    yield Fault("no room for the synthetic table", "end", lambda deployment: deployment.ask(limit=4096))
    yield Fault("a certificate of another authority", "start", foreign)
    yield Fault("no certificate", "start", lambda deployment: deployment.ask(identity=None))
    yield Fault(
        "the key holder's certificate, stolen", "start", lambda deployment: deployment.ask(identity="key-holder")
    )
    yield Fault("an upload of an earlier session, replayed", "upload", replay)
    yield from restarts()


def restarts() -> Iterator[Fault]:
    """What happens to roles that keep their sessions."""

    def fault(
        what: str,
        stage: str,
        strike: Callable[[Deployment], Outcome],
        mend: Callable[[Deployment], None] = lambda deployment: None,
    ) -> Fault:
        return Fault(what, stage, strike, mend, kept=True)

    def both(deployment: Deployment) -> None:
        deployment.restart("server", "keyholder")

    def late(deployment: Deployment) -> None:
        deployment.kill("server")
        Timer(TIMEOUT / 4, lambda: deployment.start("server")).start()

    def all_of_them(deployment: Deployment) -> None:
        deployment.kill_asking()
        deployment.restart(*ROLES)

    yield fault("nothing", "", lambda deployment: deployment.ask())
    for role in ROLES:

        def restart(deployment: Deployment, role: str = role) -> None:
            deployment.restart(role)

        sent = 90e6 if role == "other" else 60e6  # of its own upload, half
        yield fault(f"{_named(role)} restarted", "upload", at_upload(restart, sent))
        yield fault(f"{_named(role)} restarted", "round 1", at_round(restart))
    yield fault("server and key holder restarted", "every round", at_lines("round ", both))
    yield fault("asking data holder restarted", "upload", at_upload(Deployment.kill_asking))
    yield fault("asking data holder restarted", "the other's upload", at_upload(Deployment.kill_asking, 90e6))
    yield fault("asking data holder restarted", "round 1", started_again("round 1 of", Deployment.kill_asking))
    yield fault("asking data holder restarted", "every round", started_again("round ", Deployment.kill_asking))
    yield fault("all roles restarted", "every round", started_again("round ", all_of_them))
    yield fault("all roles restarted, half a key", "every round", started_again("round ", all_of_them, "--threshold"))
    yield fault(f"server restarted after {TIMEOUT / 4:.0f} s", "round 1", at_round(late))
    yield fault("connections to the server cut", "round 1", at_round(lambda d: d.relays["server"].cut()))
    still, gone = 1.25 * TIMEOUT, 1.5 * TIMEOUT
    yield fault(f"the server stands still for {still:.0f} s", "round 1", at_round(lambda d: d.pause("server", still)))
    yield fault("kill -9 of the server", "round 1", at_round(lambda d: d.kill("server")), lambda d: d.start("server"))
    yield fault("kill -9 of the asking data holder", "round 1", at_round(Deployment.kill_asking))
    yield fault(f"asking data holder restarted after {gone:.0f} s", "round 1", late_asking)
    yield fault("asking data holder restarted with another table", "round 1", other_table, restored_table)
    yield fault("asking data holder restarted with a copy of its folder", "round 1", copied)
    yield fault("no room for the synthetic table", "end", lambda d: d.ask(more=["--out", "/dev/full"]))
    yield fault("no room for the asking data holder's folder", "upload", lambda d: d.ask(limit=1_000_000))
    yield fault("server restarted without its folder", "round 1", at_round(lambda d: d.forget("server")))
    yield fault(
        "key holder of half a key restarted",
        "round 1",
        at_lines("round 1 of", lambda d: d.restart("keyholder"), ["--threshold"]),
    )
    yield fault("no room for the server's folder", "upload", full_store, lambda d: d.restart("server"))


def _named(role: str) -> str:
    return {"server": "server", "keyholder": "key holder", "other": "other data holder"}[role]


def late_asking(deployment: Deployment) -> Outcome:
    """The asking data holder is killed, and started again when the others no longer keep the session."""
    at_round(Deployment.kill_asking)(deployment)
    time.sleep(1.5 * TIMEOUT)
    return deployment.ask()


def other_table(deployment: Deployment) -> Outcome:
    """The asking data holder is killed, and started again with a record less."""
    at_round(Deployment.kill_asking)(deployment)
    table = deployment.folder / "data-holder-1" / "table.csv"
    shutil.copy(table, table.with_suffix(".whole"))
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    return deployment.ask()


def restored_table(deployment: Deployment) -> None:
    """The table as it was."""
    table = deployment.folder / "data-holder-1" / "table.csv"
    table.with_suffix(".whole").replace(table)


def copied(deployment: Deployment) -> Outcome:
    """The asking data holder is killed, and started again in a copy of its folder."""
    at_round(Deployment.kill_asking)(deployment)
    own = deployment.folder / "data-holder-1"
    shutil.copytree(own / "store", own / "copy")
    return deployment.ask(more=["--store", str(own / "copy")])


def full_ledger(deployment: Deployment) -> Outcome:
    """The other data holder may write no file above 200 bytes."""
    deployment.kill("other")
    deployment.start("other", limit=200)
    return deployment.ask()


def full_store(deployment: Deployment) -> Outcome:
    """The server may write no file above 30 MB."""
    deployment.kill("server")
    deployment.start("server", limit=30_000_000)
    return deployment.ask()


def foreign(deployment: Deployment) -> Outcome:
    """An identity of the right name, made by somebody else."""
    issue(deployment.folder / "elsewhere", ["data-holder-1"])
    return deployment.ask(identity="elsewhere/data-holder-1")


def replay(deployment: Deployment) -> Outcome:
    """A certified data holder that sends the server what another session's key has encrypted."""
    from marginal_sdg.crypto.channel import Channel
    from marginal_sdg.crypto.fhe.holder import DataHolder
    from marginal_sdg.crypto.fhe.parties import KEY_HOLDER, SERVER, Step, Terms
    from marginal_sdg.crypto.fhe.plan import choose_layout
    from marginal_sdg.crypto.fhe.profile import choose_profile
    from marginal_sdg.crypto.identity import Identity
    from marginal_sdg.errors import ProtocolError

    start, identity = time.monotonic(), Identity.load(deployment.folder / "data-holder-1")
    layout = choose_layout(choose_profile(CAP), deployment.domain.shape, [(0,), (1,), (0, 1)], dense=True)
    terms, codes = Terms(layout, 10, False).pack(), deployment.table.codes.astype(int)

    def connect(role: str, name: str) -> Channel:
        return Channel.connect(f"127.0.0.1:{deployment.relays[name].port}", role, TIMEOUT, identity)

    def send(upload: list[bytes]) -> list[bytes]:
        """Open a session and send an upload, a fresh one if it is empty."""
        with connect(KEY_HOLDER, "keyholder") as keyholder, connect(SERVER, "server") as server:
            public, evaluation, _ = keyholder.ask(Step.OPEN, [terms])
            server.ask(Step.OPEN, [terms, public, evaluation])
            upload = upload or [
                (1).to_bytes(4, "little"),
                *DataHolder(layout, public, CAP).upload_records(codes),
            ]
            server.ask(Step.UPLOAD, upload)
        return upload

    earlier = send([])
    try:
        send(earlier)
    except ProtocolError as refused:
        return Outcome(1, str(refused), time.monotonic() - start, Path())
    return Outcome(0, "", time.monotonic() - start, Path())


def lived_through(fault: Fault) -> tuple[dict[str, Any], Deployment]:
    """A row: how the run ended, what is booked, and whether the same command works afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        deployment = Deployment(folder, stack, kept=fault.kept)
        first = fault.strike(deployment)
        row = {
            "fault": fault.what,
            "stage": fault.stage,
            "sessions kept": "yes" if fault.kept else "no",
            "outcome": _told(first, folder),
            "s": round(first.seconds, 1),
            "error": f"{_error(first, deployment):.3f}" if first.code == 0 and first.out.is_file() else "",
            "MB into the server": round(deployment.relays["server"].towards / 1e6, 1),
            "booked by each holder": deployment.booked(),
            "asked again": "",
            "s ": "",
            "booked then": "",
        }
        if first.code or not (fault.kept or fault.what == "nothing"):
            fault.mend(deployment)
            second = deployment.ask()
            row |= {"asked again": _told(second, folder), "s ": round(second.seconds, 1)}
            row["booked then"] = deployment.booked()
        return row, deployment


def _error(outcome: Outcome, deployment: Deployment) -> float:
    synthetic = encode(pd.read_csv(outcome.out), deployment.domain)
    return workload_error(deployment.table, synthetic, _workload(deployment.domain))


def _told(outcome: Outcome, folder: Path) -> str:
    return "synthetic table" if outcome.code == 0 else outcome.error.replace(f"{folder}/", "") or "killed"


def _workload(domain: Domain) -> Workload:
    return Workload(domain, tuple(combinations(domain.names, 2)))


def traffic(deployment: Deployment) -> list[dict[str, Any]]:
    """What passed in front of each service, against what the plan says."""
    profile, plan = plan_for(_workload(deployment.domain), CAP)
    measured = (len(deployment.domain) + ROUNDS) * plan.measured_outputs * profile.output_bytes
    keys = plan.evaluation_key_bytes + plan.ciphertext_bytes  # of a public key
    crossed = plan.crossed_ciphertexts * plan.ciphertext_bytes
    predicted = {
        "into the server": (deployment.relays["server"].towards, keys + plan.upload_bytes + crossed + 2 * measured),
        "out of the other data holder": (deployment.relays["other"].back, plan.upload_bytes / 2 + measured),
        "out of the key holder": (deployment.relays["keyholder"].back, keys + crossed),
    }
    return [
        {
            "bytes": name,
            "MB by the formula": f"{formula / 1e6:.2f}",
            "MB on the wire": f"{seen / 1e6:.2f}",
            "ratio": f"{seen / formula:.3f}",
        }
        for name, (seen, formula) in predicted.items()
    ]


def simulated() -> list[float]:
    """Errors of the same fit in one process in the clear."""
    dataset = load_dataset(DATASET)
    parts = [dataset.frame.iloc[place::2] for place in range(2)]
    errors = []
    for seed in range(10):
        fhaim = FHAIM(dataset.domain, epsilon=EPSILON, rounds=ROUNDS, max_records=CAP, seed=seed).fit(parts)
        synthetic = encode(fhaim.sample(), dataset.domain)
        errors.append(workload_error(dataset.table(), synthetic, _workload(dataset.domain)))
    return errors


HEAD = """FHAIM on {dataset} (epsilon {epsilon:g}, {rounds} rounds) between processes: two data holders with half of the
records each, a server, a key holder, and this script, whose relays count what passes. All connections are gRPC with
certificates at both ends; no role reads another's folder. Bytes of a run that nothing happens to; selections are left
out of the formulas.

"""
TOLD = """
Faults. A session is booked in a holder's ledger file before the first noise is drawn, and stays booked. `asked again`:
the same command, once what was killed has been started again. Seconds are wall time, with the start of the asking
process, on a machine with other work; roles wait {timeout:.0f} s for each other. Error: mean L1 distance of all 2-way
marginals; of ten fits in one process in the clear {mean:.3f} ± {sd:.3f}. Sessions kept: all roles have `--store`;
`restarted` is kill -9 and a start.

"""


def text(rows: list[dict[str, Any]], bytes_passed: list[dict[str, Any]]) -> str:
    """Both tables, signed."""
    errors = simulated()
    head = HEAD.format(dataset=DATASET, epsilon=EPSILON, rounds=ROUNDS) + markdown_table(bytes_passed)
    told = TOLD.format(timeout=TIMEOUT, mean=np.mean(errors), sd=np.std(errors, ddof=1))
    return head + signed_table(told, rows, "python experiments/services.py")


def main() -> None:
    """One deployment per fault."""
    parser = argparse.ArgumentParser(description="Disturb FHAIM's processes, and see what becomes of a run.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "services")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    bytes_passed: list[dict[str, Any]] = []
    for fault in track(list(faults()), "faults"):
        row, deployment = lived_through(fault)
        if not rows:  # nothing happens
            bytes_passed = traffic(deployment)
        rows.append(row)
        pd.DataFrame(rows).to_csv(out / "services.csv", index=False)
    (out / "services.md").write_text(text(rows, bytes_passed), encoding="utf-8")


if __name__ == "__main__":
    main()
