"""DistAIM in three server processes on SPU: the ideal pool is the oracle; what goes wrong ends in one clear line.

SPU needs an environment of its own, with this package. MARGINAL_SDG_SPU_PYTHON names the Python there, if these tests
run elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from queue import SimpleQueue

import numpy as np
import pytest

from marginal_sdg import DistAIM, Workload
from marginal_sdg.backends import spu_pool
from marginal_sdg.backends.ideal_pool import IdealPool
from marginal_sdg.backends.pool import Ballot
from marginal_sdg.backends.spu_pool import SpuPool, connected
from marginal_sdg.crypto.identity import AUTHORITY, CERTIFICATE, KEY, issue
from marginal_sdg.crypto.rss import SERVERS, Shares
from marginal_sdg.crypto.spu.engine import first_largest
from marginal_sdg.crypto.spu.questions import COORDINATOR, Admission, Opening, Parts, Size, Step, Upload, pack
from marginal_sdg.crypto.spu.server import Server
from marginal_sdg.crypto.transport import Transcript
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.marginals import Layout
from marginal_sdg.privacy import Source
from marginal_sdg.spu.__main__ import main
from marginal_sdg.spu.launch import launch

PYTHON = os.environ.get("MARGINAL_SDG_SPU_PYTHON") or (sys.executable if find_spec("spu") else "")
ON_SPU = pytest.mark.skipif(not PYTHON, reason="spu is not installed, nor MARGINAL_SDG_SPU_PYTHON set")

FIRST = (("a",), ("b",), ("c",), ("d",))
MORE = (("a", "b"), ("b", "c", "d"))
LARGEST = 2**61


# --- servers in this process ----------------------------------------------------------------------


class Queues:
    """A transport between threads."""

    def __init__(self, rank, links):
        self.rank, self.transcript, self._links = rank, Transcript(), links

    def next_round(self):
        self.transcript.rounds += 1

    def send(self, to, words):
        self.transcript.payload_bytes += words.nbytes
        self._links[self.rank, to].put(words.copy())

    def receive(self, sender, count):
        words = self._links[sender, self.rank].get(timeout=10)
        assert len(words) == count
        return words


class ClearEngine:
    """Opens, computes in the clear, and takes the result for shares."""

    def __init__(self, rank, links):
        self.transport = Queues(rank, links)

    @property
    def sent(self):
        return self.transport.transcript.payload_bytes

    def absolute(self, x):
        return self._shares(np.abs(self._values(x)))

    def first_largest(self, scores):
        return self._shares(np.array([np.argmax(self._values(scores))]))

    def _values(self, x):
        rank = self.transport.rank
        self.transport.send((rank + 1) % SERVERS, x.own)
        return (x.own + x.next + self.transport.receive((rank - 1) % SERVERS, len(x))).view(np.int64)

    def _shares(self, values):
        zeros = np.zeros(len(values), np.uint64)
        rank = self.transport.rank
        return Shares(*(values.view(np.uint64) if (rank + k) % SERVERS == 0 else zeros for k in (0, 1)))


def here():
    links = {(a, b): SimpleQueue() for a in range(SERVERS) for b in range(SERVERS)}
    key = Source.seeded(5).key
    return [Server(rank, lambda _, rank=rank: ClearEngine(rank, links), key) for rank in range(SERVERS)]


def workload(clients):
    return Workload(clients[0].domain, (("a", "b", "d"), ("b", "c", "d")))


def pools(clients, services):
    pair = SpuPool(clients, workload(clients), services, Source.seeded(4).key), IdealPool(clients, workload(clients))
    for pool in pair:
        assert pool.join((0, 4, 7)) == (0, 4, 7)
        assert pool.prepare(FIRST + MORE) == FIRST + MORE
        assert pool.join((2,)) == (2,)  # shares all of it at once
    return pair


def ballot(domain, rng):
    layout = Layout(domain, FIRST + MORE)
    cells = int(layout.offsets[-1])
    expected = rng.integers(0, 300, cells) * (rng.random(cells) < 0.6)
    return Ballot(layout, expected, rng.integers(1, 2**22, 6), rng.integers(0, 2**30, 6), most=2000)


def check_same_answers(spu, ideal, domain, selections, servers):
    rng = np.random.default_rng(servers)
    for _ in range(selections):
        vote, parts = ballot(domain, rng), [rng.integers(-(2**29), 2**29, 6) for _ in range(servers)]
        assert spu.select(vote, parts) == ideal.select(vote, parts)
    parts = [rng.integers(-9, 9, 1) for _ in range(servers)]
    assert spu.size(parts) == ideal.size(parts)
    parts = [[rng.integers(-9, 9, 3), rng.integers(-9, 9, 40)] for _ in range(servers)]
    cliques = (("a",), MORE[1])
    for one, other in zip(spu.measure(cliques, parts), ideal.measure(cliques, parts), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("servers", [1, 3])
def test_every_answer_equals_the_ideal_pools(clients, domain, servers):
    services = here()
    spu, ideal = pools(clients, services)
    check_same_answers(spu, ideal, domain, 25, servers)
    np.testing.assert_array_equal(*(pool.traffic.of("ideal", "client", "sent") for pool in (spu, ideal)))
    opened = services[1]._engine.transport.transcript.opened
    assert opened == [("argmax", 1)] * 25 + [("noisy counts", 1), ("noisy counts", 43)]


def test_a_fit_is_the_fit_in_the_clear(clients, domain, monkeypatch):
    monkeypatch.setattr(spu_pool, "connected", lambda *_: here())
    compare_fits(clients, domain, servers=["", "", ""])


def compare_fits(clients, domain, **where):
    params = {"workload": workload(clients), "rounds": 3, "epsilon": 3.0, "participation": 0.4, "seed": 3}
    ideal, spu = DistAIM(domain, **params).fit(clients), DistAIM(domain, **params, engine="spu", **where).fit(clients)
    for one, other in zip(ideal.measurements_, spu.measurements_, strict=True):
        assert (one.clique, one.sigma, one.records) == (other.clique, other.sigma, other.records)
        np.testing.assert_array_equal(one.counts, other.counts)
    assert ideal.ledger.charges == spu.ledger.charges
    assert spu.sample(100).equals(ideal.sample(100))


def test_the_place_of_the_largest_is_right_beyond_32_bits_and_the_first_of_several():
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    with jax.experimental.enable_x64():
        for scores in tricky(rng):
            assert int(first_largest(jax.numpy.asarray(scores))) == np.argmax(scores)


def tricky(rng):
    """Scores that differ in high bits only, in low bits only, and not at all."""
    yield from (rng.integers(-LARGEST, LARGEST, 6) for _ in range(10))
    yield from (rng.integers(0, 4, 6) << 33 for _ in range(10))
    yield from (LARGEST - rng.integers(0, 3, 6) for _ in range(10))
    yield from (np.full(6, value) for value in (0, -1, LARGEST, -LARGEST))


class Corrupt:
    """Changes what a server opens."""

    def __init__(self, server):
        self._server = server

    def ask(self, step, chunks):
        answer = self._server.ask(step, chunks)
        return [b"\1" + answer[0][1:], *answer[1:]] if step == Step.SIZE else answer


def test_servers_that_open_different_values_are_noticed(clients):
    services = here()
    services[2] = Corrupt(services[2])
    spu, _ = pools(clients, services)
    with pytest.raises(ProtocolError, match="different values"):
        spu.size([np.array([0])])


WRONG = [
    (Step.UPLOAD, pack(Upload(client=1, wave=9, cells=2), bytes(5)), "server 1: 5 bytes do not fit 2 cells"),
    (Step.UPLOAD, pack(Upload(client=0, wave=1, cells=14), bytes(112)), "repeated"),
    (Step.ADMIT, pack(Admission(clients=(1,), wave=9, cells=66, joins=True)), "client 1 has not sent 66 cells"),
    (Step.ADMIT, pack(Admission(clients=(1,), wave=9, cells=2, joins=True)), "newcomers must"),
    (Step.ADMIT, pack(Admission(clients=(0,), wave=9, cells=66, joins=True)), "newcomers must"),
    (Step.ADMIT, pack(Admission(clients=(0, 4), wave=9, cells=2, joins=False)), "all members"),
    (Step.MEASURE, pack(Parts(parts=((0, 999),)), bytes(16)), "no 0 to 999 in 66 shared cells"),
    (Step.MEASURE, pack(Parts(parts=((3, 3),)), b""), "no 3 to 3 in"),
    (Step.MEASURE, pack(Parts(parts=((0, 3),)), bytes(16)), "noise: 16 bytes came where 3 words"),
    (Step.SELECT, pack(Parts(parts=((0, 3),)), bytes(8)), "needs 4 vectors, got 1"),
    (Step.OPEN, pack(Opening(session="again")), "out of order"),
    (Step.SIZE, pack(Opening(session="again"), bytes(8)), "size: cells: Field required"),
    (Step.SIZE, [b'{"cells": -1}', bytes(8)], "size: cells: .* greater than or equal to 0"),
    (Step.MEASURE, [b'{"parts": []}', b""], "measure: parts: .* at least 1 item"),
    (Step.SIZE, [], "size: head: Invalid JSON"),
    (Step.SIZE, [b"\xff"], "size: head: Invalid JSON"),
    (77, [b"{}"], "no step 77"),
]


@pytest.mark.parametrize(("step", "question", "message"), WRONG)
def test_a_wrong_question_is_refused_in_one_line(clients, step, question, message):
    services = here()
    pools(clients, services)
    with pytest.raises(ProtocolError, match=message) as error:
        services[1].ask(step, question)
    assert "\n" not in str(error.value)


def test_nothing_is_answered_before_the_servers_have_met():
    with pytest.raises(ProtocolError, match="out of order"):
        here()[0].ask(Step.SIZE, pack(Size(cells=1), bytes(8)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"engine": "spu"}, "three"),
        ({"engine": "spu", "servers": ["127.0.0.1:1"] * 2}, "three"),
        ({"engine": "spu", "servers": ["10.0.0.1:1"] * 3}, "on this machine"),
        ({"engine": "spu", "servers": ["127.0.0.1:1"] * 3, "timeout": 0}, "timeout"),
        ({"engine": "shares", "servers": ["127.0.0.1:1"] * 3}, "engine='spu'"),
    ],
)
def test_wrong_parameters_are_found_before_anything_is_spent(clients, domain, params, message):
    with pytest.raises(ConfigError, match=message):
        DistAIM(domain, **params).fit(clients)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "3", "--links", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"], "rank"),
        (["--rank", "0", "--links", "127.0.0.1:1,127.0.0.1:2"], "three"),
        (["--rank", "0", "--links", "127.0.0.1:1,127.0.0.1:2,10.0.0.1:3"], "on this machine"),
        (["--rank", "0", "--links", "127.0.0.1:1,127.0.0.1:1,127.0.0.1:3"], "three different"),
        (["--rank", "0", "--links", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", "--identity", "nowhere"], "nowhere"),
    ],
)
def test_a_server_that_cannot_start_says_why(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(["server", "--folder", str(tmp_path), *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert message in line


# --- processes on SPU -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with launch(tmp_path_factory.mktemp("spu"), PYTHON) as started:
        yield started


def asker(servers):
    return servers[0].folder.parent / COORDINATOR


@ON_SPU
@pytest.mark.slow
def test_three_processes_answer_as_the_ideal_pool_does(clients, domain, servers):
    with ExitStack() as stack:
        services = connected([server.address for server in servers], 60, stack, asker(servers))
        spu, ideal = pools(clients, services)
        check_same_answers(spu, ideal, domain, 5, 3)
        assert (spu.traffic.of("wire", "server", "sent") > 1000).all()
    logs = b"".join(log.read_bytes() for server in servers for log in server.folder.glob("*.log"))
    assert b"Link details" in logs
    assert b"value=" not in logs  # so messages are logged, with shares in them


@ON_SPU
@pytest.mark.slow
def test_spu_finds_the_first_largest_beyond_32_bits(clients, domain, servers):
    """``jnp.argmax`` on SPU does not."""
    layout = Layout(domain, FIRST + MORE)
    nothing = np.zeros(int(layout.offsets[-1]), np.int64)
    with ExitStack() as stack:
        services = connected([server.address for server in servers], 60, stack, asker(servers))
        spu, _ = pools(clients, services)
        for scores in tricky(np.random.default_rng(1)):
            vote = Ballot(layout, nothing, np.zeros(6, np.int64), np.zeros(6, np.int64), most=2000)
            assert spu.select(vote, [scores - 7, np.full(6, 9), np.full(6, -2)]) == np.argmax(scores)


@ON_SPU
@pytest.mark.slow
def test_twenty_clients_on_spu_are_the_fit_in_the_clear(table, domain, servers):
    clients = [table.take(np.arange(k, len(table), 20)) for k in range(20)]
    compare_fits(clients, domain, servers=[server.address for server in servers], identity=asker(servers))


@ON_SPU
@pytest.mark.slow
def test_a_killed_server_ends_the_fit_in_one_line_and_a_restarted_one_serves_the_next(clients, domain, tmp_path):
    with launch(tmp_path, PYTHON, link_timeout=30) as servers:
        where = [server.address for server in servers]
        asking = {"servers": where, "identity": asker(servers), "timeout": 60}

        def kill(event):
            if event["event"] == "round":
                servers[1].process.kill()

        fit = DistAIM(domain, workload=2, rounds=3, engine="spu", on_event=kill, **asking)
        with pytest.raises(ProtocolError, match=r"^server 1: ") as error:
            fit.fit(clients)
        assert "\n" not in str(error.value)
        again = subprocess.Popen(
            servers[1].process.args,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with again:
            try:
                where[1] = again.stdout.readline().split()[-1]
                compare_fits(clients, domain, **asking)
            finally:
                again.kill()


@ON_SPU
@pytest.mark.slow
def test_a_server_with_another_authoritys_certificate_is_not_let_in(clients, tmp_path):
    with launch(tmp_path, PYTHON, link_timeout=5) as servers, ExitStack() as stack:
        issue(tmp_path / "others", ["server-2"])
        for file in (AUTHORITY, CERTIFICATE, KEY):  # for its links; its service has read its own
            (tmp_path / "others" / "server-2" / file).replace(servers[2].folder / file)
        services = connected([server.address for server in servers], 60, stack, asker(servers))
        with pytest.raises(ProtocolError, match=r"^server \d: link: ") as error:
            SpuPool(clients, workload(clients), services, Source.seeded(4).key)
        assert "\n" not in str(error.value)


@ON_SPU
@pytest.mark.slow
def test_only_the_coordinator_may_ask(servers):
    with ExitStack() as stack, pytest.raises(ProtocolError, match="certificate is not the coordinator's"):
        connected([server.address for server in servers], 60, stack, servers[1].folder)


@ON_SPU
@pytest.mark.slow
def test_the_demo_takes_a_data_set_to_a_synthetic_table(tmp_path):
    command = [sys.executable, "-m", "marginal_sdg.spu", "demo", "--dataset", "diabetes_pima", "--rounds", "1"]
    command += ["--clients", "3", "--server-python", PYTHON, "--out", str(tmp_path / "synthetic.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "synthetic.csv").read_text().splitlines()) > 100
    assert "Error" not in done.stderr
