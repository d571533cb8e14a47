"""DistAIM in three server processes on SPU: the ideal pool is the oracle; what goes wrong ends in one clear line.

SPU needs an environment of its own, with this package. MARGINAL_SDG_SPU_PYTHON names the Python there, if these tests
run elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np
import pandas as pd
import pytest

from marginal_sdg import Budget, DistAIM, Ledger, Workload
from marginal_sdg.backends import spu_servers
from marginal_sdg.backends.ideal_pool import IdealPool
from marginal_sdg.backends.pool import Ballot
from marginal_sdg.backends.spu_client import SpuClient
from marginal_sdg.backends.spu_limits import Limits
from marginal_sdg.backends.spu_noise import ServersNoise
from marginal_sdg.backends.spu_pool import Here, SpuPool
from marginal_sdg.backends.spu_servers import Servers, connected
from marginal_sdg.crypto import answering
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.identity import AUTHORITY, CERTIFICATE, KEY, Identity, certified, issue
from marginal_sdg.crypto.rss import SERVERS, Shares
from marginal_sdg.crypto.spu import cost
from marginal_sdg.crypto.spu.engine import first_largest
from marginal_sdg.crypto.spu.kept import Kept, remove
from marginal_sdg.crypto.spu.questions import (
    CLIENT,
    COORDINATOR,
    Admission,
    Head,
    Measuring,
    Opening,
    Seed,
    Selecting,
    Sharing,
    Step,
    Terms,
    Upload,
    client_role,
    pack,
    role,
)
from marginal_sdg.crypto.spu.server import Server
from marginal_sdg.crypto.transport import Transcript
from marginal_sdg.errors import BudgetError, ConfigError, ProtocolError
from marginal_sdg.marginals import Layout
from marginal_sdg.privacy import Source
from marginal_sdg.schedule import Step as Round
from marginal_sdg.spu import session as spu_session
from marginal_sdg.spu.__main__ import main
from marginal_sdg.spu.launch import launch, launch_clients
from marginal_sdg.spu.session import LINKS, Reception

PYTHON = os.environ.get("MARGINAL_SDG_SPU_PYTHON") or (sys.executable if find_spec("spu") else "")
ON_SPU = pytest.mark.skipif(not PYTHON, reason="spu is not installed, nor MARGINAL_SDG_SPU_PYTHON set")

FIRST = (("a",), ("b",), ("c",), ("d",))
MORE = (("a", "b"), ("b", "c", "d"))
LARGEST = 2**60
BUDGET = Budget(40.0, 1e-5)
STEP = Round(0, Fraction(30), Fraction(1))
VARIANCE = Fraction(50)
LIMITS = ["--epsilon", "40", "--total-epsilon", "90", "--simulate"]


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
        words = self._links[sender, self.rank].get(timeout=2)
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


def limits(folder, *, simulate=True, total=BUDGET):
    return Limits(BUDGET, total, folder / "ledger.json", simulate)


def here(folder, **agreed):
    links = {(a, b): SimpleQueue() for a in range(SERVERS) for b in range(SERVERS)}
    keys = Source.system().key
    servers = []
    for rank in range(SERVERS):
        own = folder / str(rank)
        own.mkdir(exist_ok=True)
        noise = ServersNoise(rank, limits(own, **agreed))
        servers.append(Server(rank, lambda _, rank=rank: ClearEngine(rank, links), keys, noise, Kept(own, keys)))
    return servers


def terms(session="one", seed=7):
    return Terms(
        session=session,
        epsilon=BUDGET.epsilon,
        delta=BUDGET.delta,
        group=1,
        seed=None if seed is None else Seed(entropy=seed, branch=()),
    )


def workload(clients):
    return Workload(clients[0].domain, (("a", "b", "d"), ("b", "c", "d")))


class Pair:
    """The pool of these services and the ideal one, with the ledger that has the same noise as the servers."""

    def __init__(self, clients, services, *, members=None, agreed=None, tell=print):
        servers = services if isinstance(services, Servers) else Servers(lambda _: services, 5)
        members = members or Here(clients, servers, bytes(32))
        self.spu = SpuPool(members, workload(clients), servers, agreed or terms(), VARIANCE, tell)
        self.ideal = IdealPool(clients, workload(clients))
        self.ledger = Ledger(BUDGET, Source.seeded(7))
        noise = self.ledger.gaussian_parts([len(clients)], VARIANCE, what="sizes")
        self._sizes = zip(*(part for (part,) in noise.parts), strict=True)

    def join(self, members):
        assert self.spu.join(members) == self.ideal.join(members)

    def grow(self):
        self.join((0, 4, 7))
        self.check_size()
        for pool in (self.spu, self.ideal):
            assert pool.prepare(FIRST + MORE) == FIRST + MORE
        self.join((2,))  # shares all of it at once

    def check_size(self):
        assert self.spu.size([]) == self.ideal.size([np.array([part]) for part in next(self._sizes)])

    def scores(self):
        return self.ledger.gumbel_parts(6, STEP.epsilon2, sensitivity=1.0, what="select").parts

    def check_selections(self, domain, count):
        rng = np.random.default_rng(count)
        for _ in range(count):
            vote = ballot(domain, rng)
            assert self.spu.select(vote, [], STEP) == self.ideal.select(vote, self.scores())

    def check_measurement(self):
        cliques = (("a",), MORE[1])
        parts = self.ledger.gaussian_parts([3, 40], STEP.variance, per_record=2, what="measure").parts
        for one, other in zip(self.spu.measure(cliques, [], STEP), self.ideal.measure(cliques, parts), strict=True):
            np.testing.assert_array_equal(one, other)


def ballot(domain, rng):
    layout = Layout(domain, FIRST + MORE)
    cells = int(layout.offsets[-1])
    expected = rng.integers(0, 300, cells) * (rng.random(cells) < 0.6)
    return Ballot(layout, expected, rng.integers(1, 2**22, 6), rng.integers(0, 2**30, 6), most=2000)


def test_every_answer_equals_the_ideal_pools(clients, domain, tmp_path):
    services = here(tmp_path)
    pair = Pair(clients, services)
    pair.grow()
    pair.check_selections(domain, 25)
    pair.check_size()
    pair.check_measurement()
    np.testing.assert_array_equal(*(pool.traffic.of("ideal", "client", "sent") for pool in (pair.spu, pair.ideal)))
    opened = services[1]._engine.transport.transcript.opened
    assert opened == [("noisy counts", 1), *[("argmax", 1)] * 25, ("noisy counts", 1), ("noisy counts", 43)]
    for server in services:
        assert server._noise._ledger.spent == pair.ledger.spent


def sent(pool):
    return int(pool.traffic.of("wire", "server", "sent").sum())


def test_linear_questions_send_the_bytes_of_the_formula(clients, tmp_path):
    pair = Pair(clients, here(tmp_path))
    start = sent(pair.spu)
    pair.join((0, 4))
    joined = sent(pair.spu)
    pair.check_size()
    sized = sent(pair.spu)
    assert (joined - start, sized - joined) == (cost.admit(14), cost.measure(1))
    for pool in (pair.spu, pair.ideal):
        pool.prepare(FIRST + MORE)
    prepared = sent(pair.spu)
    pair.check_measurement()
    assert (prepared - sized, sent(pair.spu) - prepared) == (cost.admit(52), cost.measure(43))


def test_without_a_seed_every_server_draws_its_own_part_and_books_first(clients, tmp_path):
    services = here(tmp_path, simulate=False)
    pair = Pair(clients, services, agreed=terms(seed=None))
    pair.join(range(10))
    sizes = [pair.spu.size([])]
    counts = pair.ideal.measure((("a",),), [[np.zeros(3, np.int64)]])[0]
    released = [pair.spu.measure((("a",),), [], STEP)[0] for _ in range(60)]
    spread = np.concatenate(released) - np.tile(counts, 60)
    assert abs(sizes[0] - 2000) < 100
    assert 0.6 * 45 < spread.var() < 1.5 * 45  # three parts of a half each
    for rank, server in enumerate(services):
        assert server._noise._ledger.source.secure
        (booked,) = json.loads((tmp_path / str(rank) / "ledger.json").read_text())["runs"]
        assert Fraction(booked["rho"]) == BUDGET.rho


@pytest.mark.parametrize(
    ("agreed", "asked", "error", "message"),
    [
        ({"simulate": False}, {}, ProtocolError, "seed: "),
        ({}, {"epsilon": 41.0}, ProtocolError, "epsilon 41 and delta"),
        ({}, {"delta": 1e-4}, ProtocolError, "delta 0.0001"),
        ({"total": Budget(39.0, 1e-5)}, {}, BudgetError, "ledger.json: this run needs"),
    ],
)
def test_a_server_spends_no_more_than_it_agrees_to(clients, tmp_path, agreed, asked, error, message):
    with pytest.raises(error, match=message):
        Pair(clients, here(tmp_path, **agreed), agreed=terms().model_copy(update=asked))


def test_a_fit_is_the_fit_in_the_clear(clients, domain, monkeypatch, tmp_path):
    monkeypatch.setattr(spu_servers, "connected", lambda *_: here(tmp_path))
    compare_fits(clients, domain, servers=["", "", ""])


def compare_fits(clients, domain, asked=None, **where):
    params = {"workload": workload(clients), "rounds": 3, "epsilon": 3.0, "participation": 0.4, "seed": 3}
    ideal = DistAIM(domain, **params).fit(clients)
    spu = DistAIM(domain, **params, engine="spu", **where).fit(asked or clients)
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
    """Changes what a server opens, or what it is asked."""

    def __init__(self, server, opened=lambda answer: answer, asked=lambda chunks: chunks):
        self._server, self._opened, self._asked = server, opened, asked

    def ask(self, step, chunks):
        if step != Step.SIZE:
            return self._server.ask(step, chunks)
        return self._opened(self._server.ask(step, self._asked(chunks)))


def test_servers_that_open_different_values_are_noticed(clients, tmp_path):
    services = here(tmp_path)
    services[2] = Corrupt(services[2], opened=lambda answer: [b"\1" + answer[0][1:], *answer[1:]])
    pair = Pair(clients, services)
    pair.join((0,))
    with pytest.raises(ProtocolError, match="opened different values"):
        pair.spu.size([])


def test_servers_that_are_asked_different_things_answer_nothing(clients, tmp_path):
    services = here(tmp_path)
    services[2] = Corrupt(services[2], asked=lambda chunks: [b" {}"])
    pair = Pair(clients, services)
    pair.join((0,))
    with pytest.raises(ProtocolError, match="size: the servers were asked different things"):
        pair.spu.size([])
    assert services[0]._engine.transport.transcript.opened == []


def uploaded(pair, wave=9, sizes=(3, 4, 2, 5, 12, 40), words=8, **other):
    agreed = pair.spu._terms.model_copy(update=other)
    return pack(Upload(terms=agreed, client=1, wave=wave, sizes=sizes), bytes(words * sum(sizes)))


def admitted(clients=(1,), wave=9, sizes=(3, 4, 2, 5, 12, 40), joins=True):
    return pack(Admission(clients=clients, wave=wave, sizes=sizes, joins=joins))


def voted(weights=(1, 1), penalties=(0, 0), expected=0):
    vectors = [np.array(vector).tobytes() for vector in (weights, penalties, [expected] * 7)]
    return pack(Selecting(cliques=(0, 1), epsilon2="1"), *vectors)


UPLOADS = [
    ({"words": 7}, "server 1: 462 bytes do not fit 66 cells"),
    ({"session": "another"}, "another session"),
    ({"session": "one"}, "another session"),  # as the coordinator calls it
    ({"seed": None}, "other terms"),
    ({"epsilon": 39.0}, "other terms"),
    ({"wave": 3}, "too late"),
]


@pytest.mark.parametrize(("changed", "message"), UPLOADS)
def test_a_wrong_upload_is_refused_and_the_session_goes_on(clients, domain, tmp_path, changed, message):
    services = here(tmp_path)
    pair = Pair(clients, services)
    pair.grow()
    with pytest.raises(ProtocolError, match=message):
        services[1].ask(Step.UPLOAD, uploaded(pair, **changed))
    pair.join((1,))
    pair.check_selections(domain, 1)


def test_an_upload_counts_once(clients, tmp_path):
    services = here(tmp_path)
    pair = Pair(clients, services)
    pair.grow()
    for _ in range(2):  # whoever did not hear that it came sends it again
        services[1].ask(Step.UPLOAD, uploaded(pair))
    with pytest.raises(ProtocolError, match="repeated"):
        services[1].ask(Step.UPLOAD, [*uploaded(pair)[:1], b"\1" * 528])
    with pytest.raises(ProtocolError, match="misdirected"):
        services[2].ask(Step.UPLOAD, uploaded(pair))


WRONG = [
    (Step.ADMIT, admitted(), "client 1 has not sent 66 cells"),
    (Step.ADMIT, admitted(sizes=(2,)), "newcomers must"),
    (Step.ADMIT, admitted(clients=(0,)), "newcomers must"),
    (Step.ADMIT, admitted(clients=(1, 1)), "counts once"),
    (Step.ADMIT, admitted(wave=3), "counts once"),
    (Step.ADMIT, admitted(clients=(0, 4), joins=False), "all members"),
    (Step.MEASURE, pack(Measuring(cliques=(6,), variance="3")), "no 6 in a pool of 6"),
    (Step.MEASURE, pack(Measuring(cliques=(0,) * 60, variance="1")), "needs rho 30"),
    (Step.SELECT, pack(Selecting(cliques=(0,), epsilon2="3"), bytes(8)), "needs 3 vectors, got 1"),
    (Step.SELECT, pack(Selecting(cliques=(0,), epsilon2="1000"), *[bytes(8)] * 2, bytes(24)), "needs rho 125"),
    (Step.SELECT, voted(weights=(1, 2**24)), "weights must be 0 to 83"),
    (Step.SELECT, voted(weights=(1, -1)), "weights must be 0"),
    (Step.SELECT, voted(expected=-1), "expected counts"),
    (Step.SELECT, voted(expected=2**32), "expected counts"),
    (Step.SELECT, voted(penalties=(2**62, 0)), "do not fit 64 bits"),
    (Step.OPEN, pack(Opening(terms=terms(), clients=1, variance="1")), "out of order"),
    (Step.SHARE, pack(Sharing(terms=terms(), client=1, wave=1, cliques=(), domain={})), "out of order"),
    (Step.SIZE, pack(Measuring(cliques=(0,), variance="1")), "size: cliques: Extra inputs"),
    (Step.MEASURE, [b'{"cliques": [0], "variance": "0/3"}'], "measure: variance: .* match pattern"),
    (Step.MEASURE, [b'{"cliques": [], "variance": "3"}'], "measure: cliques: .* at least 1 item"),
    (Step.SIZE, [], "size: head: Invalid JSON"),
    (Step.SIZE, [b"\xff"], "size: head: Invalid JSON"),
    (77, [b"{}"], "no step 77"),
]


@pytest.mark.parametrize(("step", "question", "message"), WRONG)
def test_a_wrong_question_is_refused_in_one_line_and_nothing_is_opened(clients, tmp_path, step, question, message):
    services = here(tmp_path)
    Pair(clients, services).grow()
    opened = services[1]._engine.transport.transcript.opened
    before, errors = len(opened), []
    threads = [Thread(target=asked, args=(server, step, question, errors)) for server in services]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == before
    assert errors and all(re.search(message, error) and "\n" not in error for error in errors)


def asked(server, step, question, errors):
    try:
        server.ask(step, question)
    except (ProtocolError, BudgetError) as error:
        errors.append(str(error))
    except Empty:
        pass  # another server has refused


def test_the_size_of_a_cohort_is_released_once(clients, tmp_path):
    pair = Pair(clients, here(tmp_path))
    pair.join((0, 1))
    pair.check_size()
    with pytest.raises(ProtocolError, match="every cohort's is released once"):
        pair.spu.size([])


def test_nothing_is_answered_before_the_servers_have_met(tmp_path):
    with pytest.raises(ProtocolError, match="out of order"):
        here(tmp_path)[0].ask(Step.SIZE, pack(Head()))


# --- clients that are asked -----------------------------------------------------------------------


class Answering:
    """Clients as processes have them; ``lost`` say nothing. What they upload is passed on, or changed."""

    def __init__(self, tables, services, folder, lost=(), **agreed):
        self.lost, self._services = set(lost), services
        self.clients = []
        for number, table in enumerate(tables):
            (folder / f"client-{number}").mkdir()
            bounds = limits(folder / f"client-{number}", **agreed)
            client = SpuClient(number, table, bounds, (), None, 1.0, bytes(32))
            client._send = lambda rank, question: services[rank].ask(Step.UPLOAD, question)
            self.clients.append(client)

    def __len__(self):
        return len(self.clients)

    def share(self, asked):
        return [self._share(one) for one in asked]

    def _share(self, one):
        if one.client in self.lost:
            return ProtocolError("gone")
        try:
            self.clients[one.client].ask(Step.SHARE, pack(one))
        except (ProtocolError, BudgetError) as error:
            return error
        return None


def test_clients_that_are_asked_give_the_same_pool_and_the_lost_are_told(clients, domain, tmp_path):
    services, told = here(tmp_path), []
    members = Answering(clients, services, tmp_path, lost=(4,))
    pair = Pair(clients, services, members=members, tell=told.append)
    assert pair.spu.join((0, 4, 7)) == (0, 7)
    assert told == [{"event": "absent", "client": 4, "why": "gone"}]
    pair.ideal.join((0, 7))
    members.lost = {7}
    assert pair.spu.prepare(FIRST + MORE) == FIRST  # what all members have shared
    members.lost = set()
    for pool in (pair.spu, pair.ideal):
        assert pool.prepare(FIRST + MORE) == FIRST + MORE
    pair.join((4,))
    pair.check_selections(domain, 3)
    pair.check_measurement()
    assert len(json.loads((tmp_path / "client-7" / "ledger.json").read_text())["runs"]) == 1
    assert not (tmp_path / "client-3" / "ledger.json").exists()


def test_a_pool_that_nobody_joins_ends_in_one_line(clients, tmp_path):
    services = here(tmp_path)
    pair = Pair(clients, services, members=Answering(clients, services, tmp_path, lost=range(10)))
    assert pair.spu.join((0,)) == pair.spu.join((1, 2)) == ()
    with pytest.raises(ProtocolError, match="none of those asked came, 3 times"):
        pair.spu.join((4,))


@pytest.mark.parametrize(
    ("changed", "agreed", "message"),
    [
        ({"client": 1}, {}, "this is client 0, not 1"),
        ({"domain": {}}, {}, "declares other columns"),
        ({"terms": terms().model_copy(update={"epsilon": 41.0})}, {}, "agrees to 40"),
        ({}, {"simulate": False}, "seed: "),
        ({}, {"total": Budget(1.0, 1e-5)}, "lower epsilon"),
    ],
)
def test_a_client_shares_nothing_that_it_has_not_agreed_to(clients, domain, tmp_path, changed, agreed, message):
    sent = []
    (tmp_path / "client-0").mkdir()
    client = SpuClient(0, clients[0], limits(tmp_path / "client-0", **agreed), (), None, 1.0, bytes(32))
    client._send = lambda rank, question: sent.append(question)
    question = Sharing(terms=terms(), client=0, wave=1, cliques=FIRST, domain=domain.to_dict())
    with pytest.raises((ProtocolError, BudgetError), match=message):
        client.ask(Step.SHARE, pack(question.model_copy(update=changed)))
    assert sent == []


def test_no_server_sees_what_a_client_has(clients, domain, tmp_path):
    """Server 0 gets a seed, server 1 what it hides. Only who is asked the same about the same table sends it again."""
    sent = {}
    asked = Sharing(terms=terms(), client=0, wave=1, cliques=FIRST, domain=domain.to_dict())
    later = asked.model_copy(update={"wave": 2})
    for name, table, question in [
        ("one", clients[0], asked),
        ("same", clients[0], asked),
        ("other", clients[9], asked),
        ("later", clients[0], later),
    ]:
        client = SpuClient(0, table, limits(tmp_path), (), None, 1.0, bytes(range(32)))
        client._send = lambda rank, question, name=name: sent.__setitem__((name, rank), question)
        client.ask(Step.SHARE, pack(question))
    assert sent["one", 0] == sent["same", 0] and sent["one", 1] == sent["same", 1]
    assert len({sent[name, 0][1] for name in ("one", "other", "later")}) == 3
    words = np.frombuffer(sent["one", 1][1], dtype=np.uint64)
    assert (words > 2**40).all()  # masked
    assert len(json.loads((tmp_path / "ledger.json").read_text())["runs"]) == 1


# --- the same over authenticated connections ------------------------------------------------------


@dataclass
class Stand:
    """A place of a server in this process; ``make`` is what it is started by."""

    make: Callable
    folder: Path
    patience: float = 60.0


class Direct:
    """A session that is in this process."""

    def __init__(self, place):
        self._server, self._folder = place.make(), place.folder

    def ask(self, step, question, gone=lambda: False):
        return self._server.ask(step, question)

    def close(self, *, over):
        if over:
            remove(self._folder)


def stands(folder, **how):
    """Of the servers of ``here``, which meet anew when all three are."""
    made = [[], [], []]

    def make(rank):
        if not made[rank]:
            for queue, server in zip(made, here(folder), strict=True):
                queue.append(server)
        return made[rank].pop(0)

    return [Stand(partial(make, rank), folder / str(rank), **how) for rank in range(SERVERS)]


@pytest.fixture
def deployment(clients, tmp_path, monkeypatch):
    """Servers and four clients at addresses, with certificates."""
    monkeypatch.setattr(spu_session, "Session", Direct)
    names = [client_role(number) for number in range(4)]
    issue(tmp_path / "id", [COORDINATOR, *(certified(name) for name in [*names, *map(role, range(SERVERS))])])
    with ExitStack() as stack:

        def started(name, askers, play, *, together=False):
            identity = Identity.load(tmp_path / "id" / certified(name))
            service = answering.serve(
                name, askers, play, "127.0.0.1:0", 10.0, lambda line: None, identity, together=together
            )
            stack.callback(service.close)
            return f"127.0.0.1:{service.port}"

        servers = [
            started(role(rank), [COORDINATOR, CLIENT], Reception(place).play, together=True)
            for rank, place in enumerate(stands(tmp_path))
        ]
        where = []
        for number, name in enumerate(names):
            (tmp_path / name).mkdir()
            identity, key = Identity.load(tmp_path / "id" / certified(name)), bytes(32)
            client = SpuClient(number, clients[number], limits(tmp_path / name), servers[:2], identity, 10.0, key)
            where.append(started(name, COORDINATOR, lambda channel, client=client: channel.serve(client.ask)))
        yield servers, where, tmp_path / "id"


def test_a_fit_of_parties_that_share_nothing_but_connections_is_the_fit_in_the_clear(clients, domain, deployment):
    servers, where, identities = deployment
    compare_fits(clients[:4], domain, where, servers=servers, identity=identities / COORDINATOR, timeout=10)


@pytest.mark.parametrize(
    ("name", "step", "message"),
    [
        ("client-1", Step.UPLOAD, "comes from client-1; a client uploads its own"),
        ("client-0", Step.UPLOAD, "there is no session"),
        ("client-0", Step.OPEN, "a client may upload, and ask nothing"),
        ("coordinator", Step.ADMIT, "session: is not open"),
        ("server-1", Step.UPLOAD, "certificate is none of a coordinator or client"),
    ],
)
def test_certificates_say_who_may_do_what(deployment, name, step, message):
    servers, _, identities = deployment
    questions = {
        Step.UPLOAD: pack(Upload(terms=terms(), client=0, wave=1, sizes=(3,)), bytes(24)),
        Step.OPEN: pack(Opening(terms=terms(), clients=1, variance="1")),
        Step.ADMIT: admitted(),
    }
    identity = Identity.load(identities / name)
    with pytest.raises(ProtocolError, match=message), Channel.connect(servers[0], role(0), 10.0, identity) as channel:
        channel.ask(step, questions[step])


class Still:
    """A server that has nothing to say."""

    def ask(self, step, question):
        return []


def test_a_server_has_one_session_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setattr(spu_session, "Session", Direct)
    monkeypatch.setattr(spu_session, "_PATIENCE", 0.1)
    play = Reception(Stand(Still, tmp_path)).play
    service = answering.serve(role(0), [COORDINATOR], play, "127.0.0.1:0", 5.0, lambda line: None, together=True)
    with closing(service), ExitStack() as stack:
        first, second = (
            stack.enter_context(Channel.connect(f"127.0.0.1:{service.port}", role(0), 5.0)) for _ in range(2)
        )
        first.ask(Step.OPEN, [b"{}"])
        with pytest.raises(ProtocolError, match="in another one"):
            second.ask(Step.OPEN, [b"{}"])
        first.__exit__(None, None, None)
        with Channel.connect(f"127.0.0.1:{service.port}", role(0), 5.0) as third:
            third.ask(Step.OPEN, [b"{}"])


def test_who_asks_is_told_what_is_wrong_even_where_no_log_can_be_written():
    def full(line):
        raise OSError(line)

    def play(channel):
        raise ProtocolError("something")

    service = answering.serve(role(0), [COORDINATOR], play, "127.0.0.1:0", 5.0, full)
    with closing(service), ExitStack() as stack:
        channel = stack.enter_context(Channel.connect(f"127.0.0.1:{service.port}", role(0), 5.0))
        with pytest.raises(ProtocolError, match="something"):
            channel.ask(Step.OPEN, [b"{}"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"engine": "spu"}, "three"),
        ({"engine": "spu", "servers": ["127.0.0.1:1"] * 2}, "three"),
        ({"engine": "spu", "servers": ["10.0.0.1:1"] * 3}, "on this machine"),
        ({"engine": "spu", "servers": ["127.0.0.1:1"] * 3, "timeout": 0}, "timeout"),
        ({"engine": "shares", "servers": ["127.0.0.1:1"] * 3}, "engine='spu'"),
        ({"engine": "spu", "servers": ["127.0.0.1:1"] * 3, "calibration": "paper"}, "draw their own noise"),
    ],
)
def test_wrong_parameters_are_found_before_anything_is_spent(clients, domain, params, message):
    with pytest.raises(ConfigError, match=message):
        DistAIM(domain, **params).fit(clients)


@pytest.mark.parametrize(
    ("params", "message"),
    [({}, "'ideal' needs their tables"), ({"engine": "spu", "client_level": True}, "client_level")],
)
def test_addresses_of_clients_are_for_spu(domain, params, message):
    with pytest.raises(ConfigError, match=message):
        DistAIM(domain, **params).fit(["127.0.0.1:1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "3", "--links", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"], "rank"),
        (["--rank", "0", "--links", "127.0.0.1:1,127.0.0.1:2"], "3 different"),
        (["--rank", "0", "--links", "127.0.0.1:1,127.0.0.1:2,10.0.0.1:3"], "on this machine"),
        (["--rank", "0", "--links", "127.0.0.1:1,127.0.0.1:1,127.0.0.1:3"], "3 different"),
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
    with launch(tmp_path_factory.mktemp("spu"), PYTHON, LIMITS) as started:
        yield started


def asker(servers):
    return servers[0].folder.parent / COORDINATOR


@ON_SPU
@pytest.mark.slow
def test_three_processes_answer_as_the_ideal_pool_does(clients, domain, servers):
    with ExitStack() as stack:
        pair = Pair(clients, connected([server.address for server in servers], 60, stack, asker(servers)))
        pair.grow()
        pair.check_selections(domain, 5)
        pair.check_size()
        pair.check_measurement()
        assert (pair.spu.traffic.of("wire", "server", "sent") > 1000).all()
    logs = b"".join(log.read_bytes() for server in servers for log in server.folder.glob("*.log"))
    assert b"Link details" in logs
    assert b"value=" not in logs  # so messages are logged, with shares in them


@ON_SPU
@pytest.mark.slow
def test_spu_finds_the_first_largest_beyond_32_bits(clients, domain, servers):
    """``jnp.argmax`` on SPU does not. The penalties take the noise, which is known here, off again."""
    layout = Layout(domain, FIRST + MORE)
    nothing = np.zeros(int(layout.offsets[-1]), np.int64)
    with ExitStack() as stack:
        pair = Pair(clients, connected([server.address for server in servers], 60, stack, asker(servers)))
        pair.grow()
        for scores in tricky(np.random.default_rng(1)):
            vote = Ballot(layout, nothing, np.zeros(6, np.int64), sum(pair.scores()) - scores, most=2000)
            assert pair.spu.select(vote, [], STEP) == np.argmax(scores)


@ON_SPU
@pytest.mark.slow
def test_a_selection_sends_the_bytes_of_the_formula(clients, domain, servers):
    """The constants were read off other sizes."""
    rng = np.random.default_rng(3)
    with ExitStack() as stack:
        pair = Pair(clients, connected([server.address for server in servers], 60, stack, asker(servers)))
        pair.grow()
        for cliques in (FIRST, FIRST[:3] + MORE, FIRST[:1], (FIRST + MORE) * 7):
            layout = Layout(domain, cliques)
            expected = rng.integers(0, 3, int(layout.offsets[-1]))
            nothing = np.zeros(len(cliques), np.int64)
            before = sent(pair.spu)
            pair.spu.select(Ballot(layout, expected, nothing, nothing, most=2000), [], STEP)
            assert sent(pair.spu) - before == cost.select(len(cliques), np.count_nonzero(expected))


@ON_SPU
@pytest.mark.slow
def test_twenty_clients_on_spu_are_the_fit_in_the_clear(table, domain, servers, tmp_path):
    clients = [table.take(np.arange(k, len(table), 20)) for k in range(20)]
    where = [server.address for server in servers]
    frames = [pd.DataFrame(client.codes, columns=domain.names) for client in clients]
    with launch_clients(servers[0].folder.parent, frames, domain, where[:2], LIMITS) as started:
        compare_fits(clients, domain, [client.address for client in started], servers=where, identity=asker(servers))


@ON_SPU
@pytest.mark.slow
def test_a_killed_server_ends_the_fit_in_one_line_and_a_restarted_one_serves_the_next(clients, domain, tmp_path):
    with launch(tmp_path, PYTHON, [*LIMITS, "--link-timeout", "30"]) as servers:
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
def test_the_link_takes_no_certificate_but_the_three_servers_own(clients, tmp_path):
    with launch(tmp_path, PYTHON, [*LIMITS, "--link-timeout", "5"]) as servers, ExitStack() as stack:
        for file in (AUTHORITY, CERTIFICATE, KEY):  # that all know, but is none of the three's own
            (servers[2].folder / file).replace(servers[2].folder / LINKS / file)
        services = connected([server.address for server in servers], 60, stack, asker(servers))
        with pytest.raises(ProtocolError, match=r"^server \d: link: ") as error:
            Pair(clients, services)
        assert "\n" not in str(error.value)


@ON_SPU
@pytest.mark.slow
def test_only_the_coordinator_may_ask(servers):
    with ExitStack() as stack, pytest.raises(ProtocolError, match="certificate is none of a coordinator"):
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
