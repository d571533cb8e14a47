"""FLAIM on Flower when something fails: what becomes of a run and of the clients' ledgers, and the bytes on the wire.

    python experiments/flower_faults.py [--only NAME] [--out experiments/results/flower]

Needs an environment with the extra flower, and, for the full disk, the right to mount one. Three clients (or as many as
a row says) are SuperNodes with a part of diabetes_pima each, behind TLS and with registered keys. In most rows a run is
one secure sum of all 1-way marginals, with nothing selected: five questions. One row counts bytes, by a relay before
every node. Writes ``faults.csv`` and ``faults.md``, a row at a time.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flower_replays as replays
import pandas as pd
from provenance import markdown_table, signed_table
from services import Relay

from marginal_sdg import Domain
from marginal_sdg.crypto.identity import AUTHORITY, issue
from marginal_sdg.datasets import load_dataset
from marginal_sdg.flower.deployment import Deployment, end
from marginal_sdg.flower.kept import from_line
from marginal_sdg.flower.project import write_project

TIMEOUT = 40.0  # seconds that the server waits for clients
LIMIT = 400.0  # seconds for a run
UNHEARD = 75.0  # seconds after which Flower takes a silent node for gone, and lets it in again
SETTLE, IDLE = 30.0, 20.0  # seconds that nodes have to arrive, and then are watched, before the undisturbed runs
WIDE = 50_000  # cells
STEPS = ("keys", "shares", "masked", "unmask")
Pids = list[int]


@dataclass
class Stage:
    """A SuperLink, SuperNodes, and what a run with them comes to."""

    home: Path
    deployment: Deployment
    clients: int = 3
    rounds: int = 0
    relays: list[Relay] = field(default_factory=list)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: float = 0.0
    runs: int = 0
    wide: bool = False
    note: str = ""
    idle: tuple[float, float] = (0.0, 0.0)
    through: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        dataset = load_dataset("diabetes_pima")
        frame, domain = dataset.frame, dataset.domain
        if self.wide:
            frame = pd.DataFrame(0, index=range(300), columns=list("abc"))
            domain = Domain.from_shape({"a": WIDE, "b": 2, "c": 2})
        for k in range(self.clients):
            home = self.home / "clients" / str(k)
            home.mkdir(parents=True)
            frame.iloc[k :: self.clients].to_csv(home / "table.csv", index=False)
            domain.save(home / "domain.yaml")
        domain.save(self.home / "domain.yaml")
        self.link = self.deployment.link()

    @property
    def port(self) -> int:
        """The SuperLink's."""
        return int(self.deployment.address.partition(":")[2])

    def start(
        self,
        *,
        relayed: bool = False,
        odd: dict[int, dict[str, Any]] | None = None,
        patience: float = 0.0,
        absent: int = 0,
    ) -> None:
        """All nodes but the last, ``absent`` ones, and the app."""
        self.relays = [Relay(self.port) for _ in range(self.clients if relayed else 0)]
        for k in range(self.clients - absent):
            address = {"address": f"localhost:{self.relays[k].port}"} if relayed else {}
            self.nodes.append(self.node(k, **address, **(odd or {}).get(k, {})))
        self.write_app(patience)

    def node(self, k: int, **odd: Any) -> subprocess.Popen[bytes]:
        """Client k's SuperNode."""
        return self.deployment.node(self.home / "clients" / str(k), **odd)

    def write_app(self, patience: float = 0.0) -> None:
        """For the clients that there are, and in place of the one before."""
        shutil.rmtree(self.home / "app", ignore_errors=True)
        config: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-5, "rounds": self.rounds, "participation": 1.0}
        config |= {
            "variant": "census",
            "workload": 1 if self.wide else 6,
            "records_per_person": 1,
            "max_model_mb": 80.0,
            "colluding": 1,
        }
        config |= {"domain": str(self.home / "domain.yaml"), "clients": self.clients, "folder": "", "least": 2}
        write_project(self.home / "app", {**config, "timeout": TIMEOUT, "patience": patience, "out": str(self.out)})

    @property
    def out(self) -> Path:
        """The synthetic table."""
        return self.home / f"synthetic-{self.clients}.csv"

    def state(self, k: int) -> dict[str, Any]:
        """What a client's ledger file holds."""
        path = self.home / "clients" / str(k) / "table.csv.ledger"
        return from_line(path.read_text()) if path.exists() else {}

    def answered(self, k: int, step: str, number: int = 0) -> Callable[[], bool]:
        """Whether a client's ledger says that it has answered a step of a sum."""
        return lambda: len(self.state(k).get(f"sum-{number}-heard", [])) > STEPS.index(step)

    @property
    def last(self) -> tuple[int, int]:
        """Two clients to which the same happens."""
        return self.clients - 2, self.clients - 1

    def kill_last(self) -> None:
        """Both of their SuperNodes."""
        for k in self.last:
            end(self.nodes[k], [signal.SIGKILL])

    def run(self, when: Callable[[], bool] | None = None, then: Callable[[], None] = lambda: None) -> str:
        """One run of the app, and what it said; ``then`` is done once ``when`` is true."""
        self.started = self.started or time.monotonic()
        self.runs += 1
        log = self.home / f"run-{self.runs}.log"
        process = self.deployment.run(self.home / "app", log=log)
        limit, struck = time.monotonic() + LIMIT, False
        while process.poll() is None and time.monotonic() < limit:
            if when is not None and not struck and when():
                struck = True
                then()
                if self.server() == []:
                    break  # the stream of a dead server does not end by itself
            time.sleep(0.05)
        end(process)
        return log.read_text()

    def server(self) -> Pids:
        """Processes of the server's app."""
        return [pid for pid in below(self.link.pid) if "flwr-serverapp" in words_of(pid)]

    def passed(self, seconds: float) -> tuple[float, float]:
        """Bytes that a node has sent and received, a mean; a second, in so many from now on, or in all."""
        before = self._relayed() if seconds else (0.0, 0.0)
        time.sleep(seconds)
        out, back = (now - then for now, then in zip(self._relayed(), before, strict=True))
        return out / (seconds or 1.0), back / (seconds or 1.0)

    def _relayed(self) -> tuple[float, float]:
        count = len(self.relays)
        return sum(relay.towards for relay in self.relays) / count, sum(relay.back for relay in self.relays) / count

    def bytes(self, said: str) -> dict[str, float]:
        """Those of the undisturbed run; none otherwise."""
        found = re.search(r"a client sent ([\d,]+) bytes and received ([\d,]+)", said)
        if not self.relays or found is None:
            return {}
        payload = [float(number.replace(",", "")) for number in found.groups()]
        return dict(zip(WIRE, [*self.through, *payload, *self.idle], strict=True))

    def outcome(self, said: str) -> str:
        """What the server came to, in words."""
        if self.out.exists():
            lines = Path(f"{self.out}.journal").read_text().splitlines()[1:]
            sums = [record["answers"] for record in map(json.loads, lines) if record["kind"] == "masked"]
            return f"table written; {len(sums[0])} of {self.clients} clients in the first sum"
        errors = re.findall(r"server: (.*)", said)
        return "stopped: " + (errors[-1] if errors else "killed")

    def ledgers(self) -> str:
        """Whether any client has paid for anything twice, or more than it agreed to."""
        paid = []
        for k in range(self.clients):
            state = self.state(k)
            charges = json.loads(state["ledger"])["charges"] if "ledger" in state else []
            names = [charge["what"] for charge in charges]
            sums, selections = names.count("part of a sum"), sum("select" in name for name in names)
            right = names.count("size of each client") <= 1 and sums <= 1 + self.rounds and selections <= self.rounds
            paid.append(f"{len(names)}" if right else f"{len(names)} WRONG")
        return "paid for " + ", ".join(paid)


def below(pid: int) -> Pids:
    """Everything that a process has started, and what that has."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def words_of(pid: int) -> str:
    """A process's command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def kill(pids: Pids, sent: str = "-9") -> None:
    """End processes of this deployment without a warning, or stop them, or let them go on."""
    for pid in pids:
        subprocess.run(["kill", sent, str(pid)], check=False)


# -- faults --------------------------------------------------------------------------------------------------------


def node_killed(step: str) -> Callable[[Stage], str]:
    """Client 2's SuperNode, as soon as its ledger has the answer to a step."""

    def fault(stage: Stage) -> str:
        stage.start()
        return stage.run(stage.answered(2, step), lambda: end(stage.nodes[2], [signal.SIGKILL]))

    return fault


def server_killed(step: str) -> Callable[[Stage], str]:
    """The ServerApp, as soon as one client's ledger has the answer to a step; then the run is started again."""

    def fault(stage: Stage) -> str:
        stage.start()
        stage.run(stage.answered(1, step), lambda: kill(stage.server()))
        return stage.run()

    return fault


def never_there(stage: Stage) -> str:
    """The last two SuperNodes are not started; the run is begun anew for the others."""
    stage.start(absent=2)
    first = stage.outcome(stage.run())
    stage.clients -= 2
    stage.write_app()
    stage.note = f"{first}; begun anew for {stage.clients}: "
    return stage.run()


def soon_gone(stage: Stage) -> str:
    """The last two SuperNodes are killed when the first is asked for keys, so that all are enrolled."""
    stage.start(patience=LIMIT)
    return stage.run(stage.answered(0, "keys"), stage.kill_last)


def back(stage: Stage) -> str:
    """The last two SuperNodes are killed after shares, and started again when Flower knows that they are gone."""
    stage.start(patience=LIMIT)

    def strike() -> None:
        stage.kill_last()
        time.sleep(UNHEARD)
        stage.nodes[-2:] = [stage.node(k) for k in stage.last]

    return stage.run(lambda: all(stage.answered(k, "shares")() for k in stage.last), strike)


def sent_again(stage: Stage) -> str:
    """Client 2's SuperNode sends old answers again; one is also pushed by nobody, by client 1, and from elsewhere."""
    program, said = replays.again(stage.home / "odd"), []
    stage.start(odd={2: {"program": program}})

    def strike() -> None:
        time.sleep(5)  # it is on its way
        keys = {"nobody": None, "client 1": stage.deployment.key("1"), "client 2": stage.deployment.key("2")}
        for who, key in keys.items():
            answer = replays.pushed(
                program.parent / "record", stage.deployment.address, stage.deployment.authority, key
            )
            said.append(f"{who}: {answer}")

    done = stage.run(stage.answered(2, "masked"), strike)
    stage.note = f"sent again by {', '.join(said)}; "
    return done


def odd_node(program: Callable[[Path], Path]) -> Callable[[Stage], str]:
    """Client 2's SuperNode is another program; then the run is started again with one that is not."""

    def fault(stage: Stage) -> str:
        stage.start(odd={2: {"program": program(stage.home / "odd")}})
        first = stage.outcome(stage.run())
        end(stage.nodes[2])
        stage.nodes[2] = stage.node(2)
        stage.note = f"{first}; with a node that does not, run again: "
        return stage.run()

    return fault


def recorded(stage: Stage) -> str:
    """All that client 2's SuperNode has sent is sent again as it was on the wire, when no node is left to send more."""
    recorder = replays.Recorder(stage.port)
    stage.start(odd={2: {"address": f"localhost:{recorder.port}"}})
    said = stage.run()
    for node in stage.nodes:
        end(node)
    time.sleep(5)
    log, asked = stage.home / "superlink.log", "[Fleet."
    before = log.read_text().count(asked)
    connections = recorder.again()
    time.sleep(5)
    after = log.read_text().count(asked)
    stage.note = (
        f"{connections} connections sent again, of {before} requests in the SuperLink's log {after - before} then; "
    )
    return said


def link_killed(stage: Stage) -> str:
    """The SuperLink and the ServerApp; both are started again."""
    stage.start()

    def strike() -> None:
        kill([*below(stage.link.pid), stage.link.pid])
        stage.link.wait()

    stage.run(stage.answered(1, "shares"), strike)
    stage.link = stage.deployment.link()
    return stage.run()


def slow(stage: Stage) -> str:
    """Client 2 stands still for longer than the server waits."""
    stage.start()
    node = stage.nodes[2].pid
    said = stage.run(stage.answered(2, "keys"), lambda: kill([node, *below(node)], "-STOP"))
    kill([node, *below(node)], "-CONT")
    return said


def full_disk(stage: Stage) -> str:
    """Client 2's ledger is on a disk of one page; a larger one, and the run is started again."""
    disk = stage.home / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", disk], check=True)
    try:
        stage.start(odd={2: {"terms": f'ledger="{disk / "ledger"}"'}})
        first = stage.outcome(stage.run())
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        said = stage.run()
        (stage.home / "clients" / "2" / "table.csv.ledger").write_text((disk / "ledger").read_text())
        stage.note = f"{first}; with a larger disk, run again: "
        return said
    finally:
        subprocess.run(["umount", disk], check=True)


def strangers(stage: Stage) -> str:
    """A SuperNode whose key nobody has registered, and one that expects another authority's certificate."""
    issue(stage.home / "others", ["localhost"])
    stage.start(odd={1: {"register": False}, 2: {"trusts": stage.home / "others" / AUTHORITY}})
    return stage.run()


def undisturbed(stage: Stage) -> str:
    """With a relay before every node; how much passes while nothing is asked is measured first."""
    stage.start(relayed=True)
    time.sleep(SETTLE)
    stage.idle = stage.passed(IDLE)
    said = stage.run()
    stage.through = stage.passed(0.0)
    return said


FAULTS: dict[str, tuple[Callable[[Stage], str], int, int]] = {  # what to do, clients, rounds
    "none": (undisturbed, 3, 1),
    "none, a column with 50,000 categories": (undisturbed, 3, 0),
    "a SuperNode is killed once it has answered keys": (node_killed("keys"), 3, 0),
    "a SuperNode is killed once it has answered shares": (node_killed("shares"), 3, 0),
    "a SuperNode is killed once it has answered masked": (node_killed("masked"), 3, 0),
    "one SuperNode of five is killed once it has answered shares": (node_killed("shares"), 5, 0),
    "a SuperNode is killed once it has answered unmask": (node_killed("unmask"), 3, 0),
    "two of ten SuperNodes are not there": (never_there, 10, 0),
    "two of ten SuperNodes are killed once all are enrolled": (soon_gone, 10, 0),
    "two of five SuperNodes are killed at shares, and started again while the server waits": (back, 5, 0),
    "the ServerApp is killed at keys; run again": (server_killed("keys"), 3, 0),
    "the ServerApp is killed at shares; run again": (server_killed("shares"), 3, 0),
    "the ServerApp is killed at masked; run again": (server_killed("masked"), 3, 0),
    "the ServerApp is killed at unmask; run again": (server_killed("unmask"), 3, 0),
    "SuperLink and ServerApp are killed at shares; started and run again": (link_killed, 3, 0),
    "a SuperNode stands still for longer than the server waits": (slow, 3, 0),
    "two of three SuperNodes: a key nobody registered; another authority's certificate": (strangers, 3, 0),
    "a SuperNode sends its last answer again before every new one; one is sent again by others": (sent_again, 3, 0),
    "a SuperNode sends every answer twice at once; run again": (odd_node(replays.twice), 3, 0),
    "a SuperNode sends its answer to keys as that to shares; run again": (odd_node(replays.earlier), 3, 0),
    "what a SuperNode has sent is recorded, and sent again": (recorded, 3, 0),
    "a client's ledger is on a full disk; run again with a larger one": (full_disk, 3, 0),
}


def tried(name: str, python_log: Path) -> dict[str, Any]:
    """A row."""
    fault, clients, rounds = FAULTS[name]
    with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder), 60.0) as deployment:
        stage = Stage(Path(folder), deployment, clients, rounds, wide="categories" in name)
        try:
            said = fault(stage)
            row = {"fault": name, "outcome": stage.note + stage.outcome(said), "runs": stage.runs}
            row |= {"wall s": round(time.monotonic() - stage.started), "ledgers: releases paid for": stage.ledgers()}
            return row | stage.bytes(said)
        finally:
            shutil.rmtree(python_log, ignore_errors=True)
            python_log.mkdir(parents=True)
            for path in stage.home.glob("*.log"):
                shutil.copy(path, python_log)


HEAD = """FLAIM on Flower: three clients (or as many as a row says) with a part of diabetes_pima each, SuperNodes behind
TLS and with registered keys, the clients' own noise; two thirds of them must stay. A run is one secure sum of all 1-way
marginals, five questions; in the first row also a round with a selection. "Killed" is kill -9. The last column says how
many releases are in each client's ledger, and would say WRONG where there were more than one size and one for every sum
and selection. Wall seconds from the first `flwr run` to the end of the last, on a machine with other work; the server
waits 40 s for whoever does not answer, and Flower starts a process for every question to a client. A run numbers its
clients by the identifiers that Flower gives their nodes. A SuperNode that sends answers twice at once brings the
SuperLink of flwr 1.42.0 to a stop for minutes; nothing is released by that, and nothing paid twice.

"""


def main() -> None:
    """Run the faults that are named, or all."""
    parser = argparse.ArgumentParser(description="Inject faults into FLAIM on Flower.")
    parser.add_argument("--only", help="those that have this in their name")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "flower")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FAULTS):
        if options.only is None or options.only in name:
            row = tried(name, Path(tempfile.gettempdir()) / f"flower-faults-{number}")
            write(options.out, {**read(options.out), name: row})
    write(options.out, read(options.out))


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The rows that there are: several of these scripts may run at once."""
    path = out / "faults.csv"
    known: list[Any] = pd.read_csv(path).to_dict("records") if path.exists() else []
    return {row["fault"]: row for row in known}


def write(out: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Both files."""
    kept = [rows[fault] for fault in FAULTS if fault in rows]
    pd.DataFrame(kept).to_csv(out / "faults.csv", index=False)
    shown = [{k: v for k, v in row.items() if k not in WIRE} for row in kept]
    text = HEAD + signed_table("", shown, "python experiments/flower_faults.py", "flwr")
    (out / "faults.md").write_text(text + traffic([row for row in kept if row.get(WIRE[0], 0) > 0]))


def traffic(rows: list[dict[str, Any]]) -> str:
    """The bytes of the undisturbed runs."""
    shown, envelope = [], dict[str, float]()
    for row in rows:
        questions, seconds = 5 + 9 * FAULTS[row["fault"]][2], SETTLE + IDLE + row["wall s"]
        shown.append({"run": row["fault"], **{name: f"{row[name]:,.0f}" for name in WIRE}})
        for way in ("out", "in"):
            known = row[f"payload {way}"] + row[f"idle {way}"] * seconds
            own = (row[f"relay {way}"] - known) / questions
            formula = known + questions * envelope.setdefault(way, own)
            shown[-1][f"Flower's a question {way}"] = f"{own:,.0f}"
            shown[-1][f"relay / formula {way}"] = f"{row[f'relay {way}'] / formula:.3f}"
    return BYTES + markdown_table(shown) if shown else ""


BYTES = """
## Bytes

A client's mean, out and in. "relay": what passed a relay before every SuperNode, from its start to the end of the run,
TLS and HTTP included; "payload": what is in FLAIM's messages, by formula; "idle": a second, while nothing was asked,
for a SuperNode asks for work all the time. What is left is Flower's own for each question (it packs messages with
names, types and identifiers, fetches the app, and reports a process for each): about the same however long the message
is. "formula": payload, idle seconds, and what the first run had of Flower's own for each question.

"""


WIRE = ("relay out", "relay in", "payload out", "payload in", "idle out", "idle in")

if __name__ == "__main__":
    main()
