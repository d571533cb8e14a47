"""A server that is started again: it goes on where it was, and nothing is drawn or paid for twice."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from marginal_sdg import FLAIM, Budget
from marginal_sdg.crypto.identity import issue
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.flower import deployment, remote_clients
from marginal_sdg.flower.journal import Journal
from marginal_sdg.flower.kept import from_line, kept, to_line
from marginal_sdg.flower.node import Node
from marginal_sdg.flower.remote_clients import RemoteFederation
from marginal_sdg.privacy.noise import Source

LIMIT = Budget(1.0, 1e-5)
TERMS = {"rounds": 2}
ASKED = 1 + 4 + 2 * 9  # enrol; a sum; in each of two rounds a selection, votes and a sum


class KilledError(Exception):
    """What kill -9 is to a process."""


class Wire:
    """Nodes whose ledgers are files. The server is killed at the n-th question, when ``heard`` clients have had it."""

    def __init__(self, folder, tables, killed=None, heard=0):
        self.folder, self.tables, self.killed, self.heard = folder, tables, killed, heard
        self.kinds: list[str] = []
        self.answers: list[dict] = []
        self.lost: set[int] = set()

    def __len__(self):
        return len(self.tables)

    def ask(self, questions):
        self.kinds.append(next(iter(questions.values()))["kind"])
        dying = len(self.kinds) - 1 == self.killed
        reached = [k for k in list(questions)[: self.heard if dying else None] if k not in self.lost]
        answers = {k: self._answer(k, questions[k]) for k in reached}
        if dying:
            raise KilledError
        self.answers.append(answers)
        return answers

    def _answer(self, k, question):
        with kept(self.folder / str(k)) as state:
            return Node(self.tables[k], LIMIT, 2, Source.system(), state, 1).answer(question)

    def spent(self):
        states = [from_line((self.folder / str(k)).read_text()) for k in range(len(self))]
        return {sum(1 for charge in json.loads(state["ledger"])["charges"]) for state in states}


@pytest.fixture
def clients(clients):
    """Half of them, with 200 records each."""
    return clients[::2]


def run(domain, folder, wire, patience=0.0):
    """A server's process, from its start."""
    settings = {"rounds": 2, "workload": 4, "participation": 1.0, "variant": "census", "secagg": "masks"}
    flaim = FLAIM(domain, noise="clients", **settings)
    return flaim.fit(RemoteFederation(wire, 2, Journal(folder / "journal", TERMS), patience))


def released(fitted):
    return [(m.clique, m.counts.tolist(), m.sigma, m.records) for m in fitted.measurements_]


@pytest.mark.parametrize(("killed", "heard"), [(killed, (3, 5, 0)[killed % 3]) for killed in range(ASKED)])
def test_killed_at_any_question_the_fit_goes_on_and_nothing_is_paid_twice(domain, clients, tmp_path, killed, heard):
    wire = Wire(tmp_path, clients, killed, heard)
    with pytest.raises(KilledError):
        run(domain, tmp_path, wire)
    wire.killed = None
    fitted = run(domain, tmp_path, wire)
    assert len(wire.kinds) == ASKED + 1  # only the question that it was killed at is asked twice
    assert wire.kinds[killed] == wire.kinds[killed + 1]
    assert fitted.ledger.spent == fitted.ledger.budget.rho
    assert wire.spent() == {1 + 1 + 2 * 2}  # a size, a sum; in each round a selection and a sum


def test_what_was_answered_is_answered_again_bit_by_bit(domain, clients, tmp_path):
    """A masked vector with new noise, or of other clients, would be a second release."""
    for killed, kind in enumerate(("enrol", "keys", "shares", "masked", "unmask", "select")):
        folder = tmp_path / kind
        folder.mkdir()
        wire = Wire(folder, clients, killed, heard=5)
        said = []
        wire._answer = lambda k, question, wire=wire, said=said: (
            said.append(Wire._answer(wire, k, question)) or said[-1]
        )
        with pytest.raises(KilledError):
            run(domain, folder, wire)
        assert wire.kinds[-1] == kind
        first = said[-5:]
        said.clear()
        wire.killed = None
        run(domain, folder, wire)
        assert said[:5] == first


def test_a_run_that_is_done_costs_nothing_when_it_is_run_again(domain, clients, tmp_path):
    wire = Wire(tmp_path, clients)
    first = run(domain, tmp_path, wire)
    journal = Journal(tmp_path / "journal", TERMS)
    assert journal.resumed == ASKED - 1  # the last answers are kept by whoever runs the fit
    again = run(domain, tmp_path, wire)
    assert released(again) == released(first)
    assert wire.spent() == {6}


class Leaving(Wire):
    """Clients 3 and 4 leave at the third question of a ``stage``, for so many ``asks``."""

    def __init__(self, folder, tables, stage, asks):
        super().__init__(folder, tables)
        self.stage, self.asks = stage, asks

    def ask(self, questions):
        at_it = self.kinds.count(self.stage) >= 2 and next(iter(questions.values()))["kind"] == self.stage
        gone = at_it and self.asks > 0
        self.asks, self.lost = self.asks - gone, {3, 4} if gone else set()
        return super().ask(questions)


TOO_FEW = {
    "shares": "3 clients are left in a sum, and one has fewer around it than the 4 that must stay; run it again",
    "masked": "3 clients are left in a sum, 4 must stay; it is given up, masked",
    "unmask": "3 clients are left in a sum, and one has fewer around it than the 4 that must stay; run it again",
}


@pytest.mark.parametrize("stage", TOO_FEW)
def test_a_round_that_too_many_leave_is_asked_again_when_they_are_back(domain, clients, tmp_path, stage):
    wire = Leaving(tmp_path, clients, stage, asks=1000)
    for _ in range(2):
        with pytest.raises(ProtocolError, match=TOO_FEW[stage]):
            run(domain, tmp_path, wire)
    wire.asks = 0
    fitted = run(domain, tmp_path, wire)
    assert fitted.ledger.spent == fitted.ledger.budget.rho
    assert wire.spent() == {6}


@pytest.mark.parametrize("stage", TOO_FEW)
def test_a_patient_server_asks_those_who_are_missing_the_same_until_they_are_back(
    domain, clients, tmp_path, monkeypatch, stage
):
    monkeypatch.setattr(remote_clients, "PAUSE", 0.0)
    wire = Leaving(tmp_path, clients, stage, asks=3)
    fitted = run(domain, tmp_path, wire, patience=600.0)
    assert len(wire.kinds) == ASKED + 3
    again = [i for i, kind in enumerate(wire.kinds[1:], 1) if kind == wire.kinds[i - 1] == stage]
    assert [sorted(wire.answers[i]) for i in again] == [[], [], [3, 4]]
    assert fitted.ledger.spent == fitted.ledger.budget.rho
    assert wire.spent() == {6}
    assert Journal(tmp_path / "journal", TERMS).resumed == ASKED - 1


def test_patience_has_an_end(domain, clients, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_clients, "PAUSE", 0.01)
    wire = Leaving(tmp_path, clients, "masked", asks=10**6)
    with pytest.raises(ProtocolError, match=TOO_FEW["masked"]):
        run(domain, tmp_path, wire, patience=0.05)
    assert wire.kinds.count("masked") > 4


def test_without_its_journal_a_server_gets_nothing_more(domain, clients, tmp_path):
    wire = Wire(tmp_path, clients)
    run(domain, tmp_path, wire)
    (tmp_path / "journal").unlink()
    with pytest.raises(ProtocolError, match="client 0: enrol: what this client may spend is for another fit"):
        run(domain, tmp_path, wire)


def test_clients_know_the_number_that_they_had(domain, clients, tmp_path):
    wire = Wire(tmp_path, clients)
    run(domain, tmp_path, wire)
    fit = Journal(tmp_path / "journal", TERMS).fit
    assert [wire._answer(k, {"kind": "who", "fit": fit}) for k in (0, 3)] == [{"client": 0}, {"client": 3}]
    assert wire._answer(3, {"kind": "who", "fit": "other"}) == {"client": -1}


def test_half_a_line_is_cut_off_and_other_damage_is_named(domain, clients, tmp_path):
    path = tmp_path / "journal"
    wire = Wire(tmp_path, clients, killed=6)
    with pytest.raises(KilledError):
        run(domain, tmp_path, wire)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "sel')
    assert Journal(path, TERMS).resumed == 6
    assert path.read_bytes() == whole
    with pytest.raises(ConfigError, match="is of a run with other parameters"):
        Journal(path, {"rounds": 3})
    for damage in (b"", b"[]\n", b"{}\n", whole + b"x\n"):
        path.write_bytes(damage)
        with pytest.raises(ConfigError, match="cannot be read as a journal"):
            Journal(path, TERMS)


def test_noise_of_the_server_cannot_be_drawn_again(domain, clients, tmp_path):
    wire = Wire(tmp_path, clients)
    federation = RemoteFederation(wire, 2, Journal(tmp_path / "journal", TERMS))
    with pytest.raises(ConfigError, match="noise: the server's would be drawn again"):
        FLAIM(domain, workload=4, secagg="masks", participation=1.0).fit(federation)
    assert not wire.kinds


def test_a_state_in_a_file_is_the_state_and_a_full_disk_keeps_the_answer_back(tmp_path, monkeypatch):
    path = tmp_path / "client"
    fields = {"size": 3, "terms": "a", "sum-1-key": b"\0\xff", "sum-1-heard": [b"", b"x"], "round": 0}
    assert from_line(to_line(fields)) == fields
    with kept(path) as state:
        state.update(fields)
    assert path.stat().st_mode & 0o777 == 0o600

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), kept(path) as state:
        state["size"] = 4
    monkeypatch.undo()
    with kept(path) as state:
        assert state == fields
    assert sorted(file.name for file in tmp_path.iterdir()) == [".client.lock", "client"]
    for damage in ("{", "[]", '{"a": {"b": 1}}', '{"a": {"bytes": "%"}}'):
        path.write_text(damage)
        with pytest.raises(ProtocolError, match="cannot be read as a client's ledger"), kept(path):
            pass


@pytest.mark.skipif(find_spec("flwr") is None, reason="Flower is not installed (extra flower, Python 3.11 or newer)")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports
def test_nodes_are_numbered_as_they_were_whatever_flower_calls_them(tmp_path, monkeypatch):
    from marginal_sdg.flower import app

    def message(content, node, kind):  # Flower's own needs a run
        return SimpleNamespace(metadata=SimpleNamespace(dst_node_id=node))

    monkeypatch.setattr(app, "Message", message)

    class Grid:
        """Nodes by their ids; ``knows``: the numbers of those that were enrolled."""

        def __init__(self, nodes, knows):
            self.nodes, self.knows = nodes, knows

        def get_node_ids(self):
            return self.nodes

        def send_and_receive(self, messages, *, timeout):
            return [self._reply(message.metadata.dst_node_id) for message in messages]

        def _reply(self, node):
            record = {"marginal_sdg": {"client": self.knows.get(node, -1)}}
            return SimpleNamespace(
                metadata=SimpleNamespace(src_node_id=node),
                has_error=lambda: False,
                content=SimpleNamespace(config_records=record),
            )

    path = tmp_path / "journal"
    fresh = app.FlowerWire(Grid([70, 50, 60], {}), 3, 0.1, Journal(path, TERMS))
    assert set(fresh.ask({k: {"kind": "who"} for k in range(3)})) == {0, 1, 2}
    assert fresh._nodes == {0: 50, 1: 60, 2: 70}
    with pytest.raises(ProtocolError, match="clients: 2 of 3 are there"):
        app.FlowerWire(Grid([50, 60], {}), 3, 0.1, Journal(tmp_path / "other", TERMS))
    started = app.FlowerWire(Grid([1, 2, 60], {60: 1}), 3, 0.1, Journal(path, TERMS))  # nothing was answered yet
    assert started._nodes == {1: 60, 0: 1, 2: 2}
    journal = Journal(path, TERMS)
    journal.ask("enrol", {0: {}}, lambda: {0: {"size": 3}})
    journal.keep()
    again = app.FlowerWire(
        Grid([1, 2, 90], {90: 1, 2: 0}), 3, 0.1, Journal(path, TERMS)
    )  # 1 is a stranger, and 2 is lost
    assert again._nodes == {1: 90, 0: 2} and len(again) == 3
    assert set(again.ask({k: {"kind": "who"} for k in range(3)})) == {0, 1}
    again._grid.nodes, again._grid.knows = [2, 90, 7], {90: 1, 2: 0, 7: 2}  # the third is back, with another id
    assert set(again.ask({k: {"kind": "who"} for k in range(3)})) == {0, 1}  # all that are known are there
    again._grid.nodes, again._grid.knows = [90, 8], {90: 1, 8: 0}
    assert set(again.ask({k: {"kind": "who"} for k in range(3)})) == {0, 1} and again._nodes == {1: 90, 0: 8}


def test_a_node_has_its_certified_key_in_the_form_that_flower_reads(tmp_path):
    issue(tmp_path, ["node-0"])
    deployment._for_ssh(tmp_path / "node-0" / "key.pem", tmp_path / "node-0" / "ssh")
    private = serialization.load_ssh_private_key((tmp_path / "node-0" / "ssh").read_bytes(), None)
    public = serialization.load_ssh_public_key((tmp_path / "node-0" / "ssh.pub").read_bytes())
    certificate = x509.load_pem_x509_certificate((tmp_path / "node-0" / "certificate.pem").read_bytes())
    assert private.public_key() == public == certificate.public_key()
    assert (tmp_path / "node-0" / "ssh").stat().st_mode & 0o777 == 0o600
