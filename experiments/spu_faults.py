"""DistAIM between processes on SPU: what becomes of a fit when something fails.

    python experiments/spu_faults.py --server-python PYTHON [--out experiments/results/spu]

Three servers, ten clients and a coordinator are processes with folders, certificates and ledger files of their own, and
nothing in common but the loopback network. They stay up; one thing happens at one stage of a fit. What is killed is
started again at once, or by an operator before the same fit is asked for once more. PYTHON is that of an environment
with the extra ``spu``. Writes ``faults.csv``, whose rows are not run again, and ``faults.md``.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Timer
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from provenance import signed_table
from rich.progress import track

from marginal_sdg import Budget, DistAIM, Ledger
from marginal_sdg.backends import spu_pool
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.folder import Folder
from marginal_sdg.crypto.identity import Identity, issue
from marginal_sdg.crypto.spu.questions import COORDINATOR, Step, Terms, Upload, pack, role
from marginal_sdg.datasets import load_dataset, partition
from marginal_sdg.errors import MarginalSDGError, ProtocolError
from marginal_sdg.marginals import Layout
from marginal_sdg.privacy import Source
from marginal_sdg.spu.launch import LEDGER, Launched, issue_servers, launch, launch_clients

DATASET, CLIENTS, BUDGET, SEED = "diabetes_pima", 10, Budget(1.0, 1e-5), 1
FIT: dict[str, Any] = {"rounds": 2, "workload": 8, "participation": 0.6, "seed": SEED}
TIMEOUT = 20.0  # seconds that everybody waits for another
PATIENT = ["--link-timeout", str(TIMEOUT), "--patience", "600"]  # servers
AGREED = ["--epsilon", "1", "--total-epsilon", "1000", "--simulate", "--timeout", str(TIMEOUT)]
DATA = load_dataset(DATASET)
PLACES = [
    np.flatnonzero(mask)
    for mask in np.arange(CLIENTS)[:, np.newaxis] == partition(DATA.table(), CLIENTS, "iid", target=DATA.target)
]


class Watched(spu_pool.SpuPool):
    """Tells its stage before all that it asks, and waits."""

    def __init__(self, pipe: Connection, *arguments: Any) -> None:
        self._pipe = pipe
        super().__init__(*arguments)

    def _all(self, step: Step, question: list[bytes]) -> list[list[bytes]]:
        self._stop(step.name.lower())
        return super()._all(step, question)

    def _collect(self, clients: Sequence[int], layout: Layout) -> list[int]:
        self._stop("share")
        return super()._collect(clients, layout)

    def _stop(self, stage: str) -> None:
        self._pipe.send((stage, None if stage == "open" else self._terms.model_dump()))
        self._pipe.recv()


def coordinate(
    pipe: Connection, servers: list[str], clients: list[str], identity: str | None, store: Path | None
) -> None:
    """The coordinator's process: its last message is the outcome."""
    account, absent, releases, error = Ledger(BUDGET, Source.seeded(0)), [], [], ""

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "absent":
            absent.append(f"client {event['client']}: {event['why']}")

    asking: dict[str, Any] = {"servers": servers, "identity": identity, "timeout": TIMEOUT, "store": store}
    asking["on_event"] = tell
    distaim = DistAIM(DATA.domain, engine="spu", epsilon=BUDGET.epsilon, **FIT, **asking)
    try:
        with patch.object(spu_pool, "SpuPool", partial(Watched, pipe)):
            releases = released(distaim.fit(clients, ledger=account))
    except MarginalSDGError as failed:
        error = str(failed)
    pipe.send(Outcome(error, absent, releases, len(account.charges)))


def released(distaim: DistAIM) -> list[Any]:
    """All that is public of a fit."""
    return [(m.clique, m.counts.tolist()) for m in distaim.measurements_]


@dataclass(frozen=True)
class Outcome:
    """How a fit ended: its error, who was left out, what it released, and what the coordinator was charged for."""

    error: str = "killed"
    absent: list[str] = field(default_factory=list)
    releases: list[Any] = field(default_factory=list)
    charges: int = 0
    seconds: float = 0.0
    note: str = ""

    def told(self, calm: list[Any]) -> str:
        """In words."""
        if self.error:
            return self.error + self.note
        same = "the same releases" if self.releases == calm else "a synthetic table"
        left_out = f", without {'; '.join(dict.fromkeys(self.absent))}" if self.absent else ""
        return same + left_out + self.note


Strike = Callable[["Deployment", Terms], str | None]


class Deployment:
    """Everybody but the coordinator."""

    def __init__(self, home: Path, python: str, stack: ExitStack) -> None:
        self.home = home
        servers = stack.enter_context(launch(home, python, [*AGREED, *PATIENT]))
        where, frames = [server.address for server in servers], [DATA.frame.iloc[places] for places in PLACES]
        clients = stack.enter_context(launch_clients(home, frames, DATA.domain, where[:2], AGREED))
        self.parties: dict[str, Launched] = {each.folder.name: each for each in (*servers, *clients)}
        self._processes = {name: each.process for name, each in self.parties.items()}
        stack.callback(self._end)

    def _end(self) -> None:
        for process in self._processes.values():
            process.kill()

    def kill(self, names: Sequence[str]) -> None:
        """kill -9."""
        for name in names:
            self._processes[name].kill()
            self._processes[name].wait()

    def start(self, names: Sequence[str], room: int | None = None, identity: Path | None = None) -> None:
        """Again, at the same address; ``room``: bytes that any file it writes may have, as on a full disk."""
        for name in names:
            party = self.parties[name]
            command = [str(word) for word in party.process.args]  # type: ignore[union-attr]
            command[command.index("--listen") + 1] = party.address
            if identity is not None:
                command[command.index("--identity") + 1] = str(identity)
            limit = None if room is None else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room))
            with (party.folder / "sessions.log").open("a") as log:
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=limit)
            assert process.stdout is not None
            process.stdout.readline()
            self._processes[name] = process

    def pause(self, name: str, seconds: float) -> None:
        """Let the process stand still for so long."""
        process = self._processes[name]
        process.send_signal(signal.SIGSTOP)
        Timer(seconds, lambda: process.send_signal(signal.SIGCONT)).start()

    def booked(self) -> dict[str, int]:
        """Sessions in everybody's ledger file."""
        files = {name: party.folder / LEDGER for name, party in self.parties.items()}
        return {name: len(json.loads(file.read_text())["runs"]) if file.exists() else 0 for name, file in files.items()}

    def fit(
        self,
        at: str = "",
        turn: int = 1,
        strike: Strike | None = None,
        identity: str | None = COORDINATOR,
        store: Path | None = None,
    ) -> Outcome:
        """One fit in a process; at a stage, for the ``turn``-th time, ``strike``, whose answer goes into the note."""
        start, notes, seen = time.monotonic(), "", 0
        addresses = [
            [party.address for name, party in self.parties.items() if name.startswith(kind)]
            for kind in ("server", "client")
        ]
        spawn = get_context("spawn")
        pipe, theirs = spawn.Pipe()
        own = None if identity is None else str(self.home / identity)
        process = spawn.Process(target=coordinate, args=(theirs, *addresses, own, store), daemon=True)
        process.start()
        theirs.close()
        outcome = Outcome()
        try:
            while not isinstance(message := pipe.recv(), Outcome):
                stage, terms = message
                seen += stage == at
                if strike and (stage, seen) == (at, turn):
                    self.coordinator, turn, start = process, 0, time.monotonic()
                    notes = strike(self, Terms.model_validate(terms)) or ""
                pipe.send(None)
            outcome = message
        except (EOFError, OSError):
            pass
        seconds = time.monotonic() - start
        process.join()
        return Outcome(**(vars(outcome) | {"seconds": seconds, "note": notes}))


# -- what can happen ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """``before`` and ``strike`` do it; ``mend`` is what an operator does before asking again.

    ``kept``: the coordinator has a store, so that the second fit is the first one, which goes on.
    """

    what: str
    stage: str
    at: tuple[str, int] = ("", 0)
    strike: Strike | None = None
    before: Callable[[Deployment], None] = lambda deployment: None
    mend: Callable[[Deployment], None] = lambda deployment: None
    identity: str | None = COORDINATOR
    kept: bool = False


STAGES = {"join": ("admit", 1), "select": ("select", 1), "measure": ("measure", 2)}
LOST = ("client-3", "client-7")
SERVER_NAMES = ["server-0", "server-1", "server-2"]


def faults() -> Iterator[Fault]:
    """All of them."""
    yield Fault("nothing", "")
    for names in (["server-0"], ["server-1"], ["server-2"], SERVER_NAMES):
        for stage, at in STAGES.items():
            who = names[0] if len(names) == 1 else "all servers"
            again = partial(_restart, names, 0.1 * (stage == "select"))
            yield Fault(f"{who} killed (-9) and started again", stage, at, again)
    sharing = partial(_restart, ["server-1"], 0.2)
    yield Fault("server-1 killed (-9) and started again", "share", ("share", 1), sharing)
    for stage, at in STAGES.items():
        yield Fault("coordinator killed (-9), run again with its store", stage, at, _kill_coordinator, kept=True)
    yield Fault("coordinator killed (-9), run again without a store", "select", STAGES["select"], _kill_coordinator)
    yield Fault(
        "all servers and the coordinator killed (-9), run again with its store",
        "select",
        STAGES["select"],
        _kill_all,
        mend=partial(Deployment.start, names=SERVER_NAMES),
        kept=True,
    )
    away, back = partial(_kill, "server-1", 0.0), partial(_start, "server-1")
    yield Fault("server-1 killed (-9), and stays away", "select", STAGES["select"], away, mend=back)
    yield Fault("the same, with the coordinator's store", "select", STAGES["select"], away, mend=back, kept=True)
    yield Fault("server-1 killed (-9), back without its session", "select", STAGES["select"], _lose)
    yield Fault("server-1 killed (-9), back with an earlier state", "measure", STAGES["measure"], _put_back)
    lost, back = partial(_kill, "client-3", 0.0), partial(_start, "client-3")
    yield Fault("kill -9 of client-3", "join", ("share", 1), lost, mend=back)
    yield Fault("kill -9 of client-3, which has joined", "further answers", ("share", 3), lost, mend=back)
    for what, some in (("20% of the", LOST), ("all", [f"client-{number}" for number in range(CLIENTS)])):
        gone, back = partial(Deployment.kill, names=some), partial(Deployment.start, names=some)
        yield Fault(f"{what} clients are gone", "start", before=gone, mend=back)
    long = 2 * TIMEOUT
    for name, seconds, stage in (("client-3", 2.0, "share"), ("client-3", long, "share"), ("server-1", long, "select")):
        still, mend = partial(_pause, name, seconds), partial(_renew, name)
        yield Fault(f"{name} stands still for {seconds:g} s", stage, (stage, 1), still, mend=mend)
    for name in ("server-1", "client-3"):
        renew = partial(_renew, name)
        yield Fault(f"no room for {name}'s ledger file", "start", before=partial(_renew, name, room=200), mend=renew)
    for name in ("server-2", "client-3"):
        before, renew = partial(_foreign, name), partial(_renew, name)
        yield Fault(f"{name}'s certificate is of another authority", "start", before=before, mend=renew)
    foreign = "elsewhere/coordinator"
    yield Fault(
        "the coordinator's certificate is of another authority",
        "start",
        before=lambda d: issue(d.home / "elsewhere", [COORDINATOR]),
        identity=foreign,
    )
    yield Fault("the coordinator has no certificate", "start", identity=None)
    yield Fault("a client's certificate asks as the coordinator", "start", identity="client-3")
    replays: dict[str, dict[str, Any]] = {
        "once more": {},
        "of another session": {"session": "earlier"},
        "in client-8's name": {"client": 8},
    }
    for what, changed in replays.items():
        yield Fault(f"an upload of client-3 to server-1 {what}", "join", ("admit", 1), partial(_replay, changed))


def _kill(name: str, after: float, deployment: Deployment, _: Terms) -> None:
    if after:
        Timer(after, lambda: deployment.kill([name])).start()
    else:
        deployment.kill([name])


def _kill_coordinator(deployment: Deployment, _: Terms) -> None:
    deployment.coordinator.kill()


def _start(name: str, deployment: Deployment) -> None:
    deployment.start([name])


def _renew(name: str, deployment: Deployment, **how: Any) -> None:
    deployment.kill([name])
    deployment.start([name], **how)


def _restart(names: Sequence[str], after: float, deployment: Deployment, _: Terms) -> None:
    """``after``: seconds, in which the coordinator asks."""

    def again() -> None:
        deployment.kill(names)
        deployment.start(names)

    Timer(after, again).start() if after else again()


def _kill_all(deployment: Deployment, _: Terms) -> None:
    deployment.kill(SERVER_NAMES)
    deployment.coordinator.kill()


def _lose(deployment: Deployment, _: Terms) -> None:
    deployment.kill(["server-1"])
    Folder(deployment.parties["server-1"].folder).remove()
    deployment.start(["server-1"])


def _put_back(deployment: Deployment, _: Terms) -> None:
    """As if its folder were an older copy: without the two questions that it was asked last."""
    deployment.kill(["server-1"])
    session = deployment.parties["server-1"].folder / "session"
    for question in sorted(session.glob("*.question"), key=lambda path: int(path.stem))[-2:]:
        question.unlink()
    deployment.start(["server-1"])


def _pause(name: str, seconds: float, deployment: Deployment, _: Terms) -> None:
    deployment.pause(name, seconds)


def _foreign(name: str, deployment: Deployment) -> None:
    issue_servers(deployment.home / "elsewhere")
    issue(deployment.home / "elsewhere", ["client-3"])
    _renew(name, deployment, identity=deployment.home / "elsewhere" / name)


def _replay(changed: dict[str, Any], deployment: Deployment, terms: Terms) -> str:
    """In client-3's name, and by its certificate, when all have uploaded."""
    session = terms.model_copy(update={key: value for key, value in changed.items() if key == "session"})
    sizes = tuple(DATA.domain.shape)
    head = Upload(terms=session, client=changed.get("client", 3), wave=1, sizes=sizes)
    identity, where = Identity.load(deployment.home / "client-3"), deployment.parties["server-1"].address
    try:
        with Channel.connect(where, role(1), TIMEOUT, identity) as channel:
            channel.ask(Step.UPLOAD, pack(head, bytes(8 * sum(sizes))))
    except ProtocolError as refused:
        return f"; the upload: {refused}"
    return "; THE UPLOAD WAS TAKEN"


def lived_through(fault: Fault, deployment: Deployment, calm: list[Any]) -> dict[str, Any]:
    """A row: how the fit ended, what is booked, and whether the same fit works afterwards."""
    fault.before(deployment)
    before = deployment.booked()
    store = Path(tempfile.mkdtemp(dir=deployment.home)) / "store" if fault.kept else None
    first = deployment.fit(*fault.at, strike=fault.strike, identity=fault.identity, store=store)
    after, charges, again = deployment.booked(), first.charges if first.error != "killed" else "", {}
    if fault.what != "nothing":
        fault.mend(deployment)
        second = deployment.fit(store=store)
        again = {"asked again": _tidy(second.told(calm), deployment), "s ": round(second.seconds, 1)}
        if fault.kept:
            after, charges = deployment.booked(), second.charges
    new = {name: after[name] - before[name] for name in after}
    return {
        "fault": fault.what,
        "stage": fault.stage,
        "outcome": _tidy(first.told(calm), deployment),
        "s after it": round(first.seconds, 1),
        "booked by servers": ", ".join(str(count) for name, count in new.items() if name.startswith("server")),
        "by clients": sum(count for name, count in new.items() if name.startswith("client")),
        "charged by the coordinator": charges,
        "asked again": "",
        "s ": "",
        **again,
    }


def _tidy(text: str, deployment: Deployment) -> str:
    text = text.replace(f"{deployment.home}/", "")
    for name, party in deployment.parties.items():
        text = text.replace(party.address, name)
    return text


TOLD = """DistAIM on {dataset} (epsilon 1, {rounds} rounds, {clients} clients that take part with probability {p:g})
between processes: three servers on SPU, a process per client, a coordinator, and certificates at both ends. A fit
without faults releases what the same fit in the clear does, for the same seed: "the same releases". Servers and
clients book a session in their ledger files before they draw or share anything for it; the coordinator's ledger makes
{charges} charges in a whole fit. `s after it`: from the fault to the outcome, or of the whole fit where it is there
from the start. `asked again`: the same fit, once what was killed has been started again; with a store, it is the first
one that goes on, and what is booked and charged is that of both. Seconds are wall time, with
the start of the coordinator, on a machine with other work; everybody waits {timeout:.0f} s for others, and a quarter of
that for a client. client-3 is one of the first cohort.

"""


def main() -> None:
    """One deployment, one fault after the other."""
    parser = argparse.ArgumentParser(description="Disturb DistAIM's processes, and see what becomes of a fit.")
    parser.add_argument("--server-python", required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "spu")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    clients = [DATA.table().take(places) for places in PLACES]
    ideal = DistAIM(DATA.domain, epsilon=BUDGET.epsilon, **FIT).fit(clients)
    path = options.out / "faults.csv"
    known = pd.read_csv(path, keep_default_na=False).to_dict("records") if path.exists() else []
    rows: dict[Any, Any] = {(row["fault"], row["stage"]): row for row in known}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        deployment = Deployment(folder, options.server_python, stack)
        for fault in track(list(faults()), "faults"):
            if (fault.what, fault.stage) not in rows:
                rows[fault.what, fault.stage] = lived_through(fault, deployment, released(ideal))
                pd.DataFrame(rows.values()).to_csv(path, index=False)
    told = TOLD.format(
        dataset=DATASET,
        rounds=FIT["rounds"],
        clients=CLIENTS,
        p=FIT["participation"],
        charges=len(ideal.ledger.charges),
        timeout=TIMEOUT,
    )
    ordered = [rows[fault.what, fault.stage] for fault in faults()]
    pd.DataFrame(ordered).to_csv(path, index=False)
    text = signed_table(told, ordered, "python experiments/spu_faults.py --server-python PYTHON")
    (options.out / "faults.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
