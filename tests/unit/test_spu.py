"""DistAIM in three server processes on SPU: the ideal pool is the oracle; what goes wrong ends in one clear line.

SPU needs an environment of its own, with this package. MARGINAL_SDG_SPU_PYTHON names the Python there, if these tests
run elsewhere.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Semaphore, Thread
from time import sleep
from typing import Any

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
from marginal_sdg.backends.spu_servers import Journal, Servers, connected
from marginal_sdg.crypto import answering
from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.folder import Folder
from marginal_sdg.crypto.identity import AUTHORITY, CERTIFICATE, KEY, Identity, certified, issue
from marginal_sdg.crypto.rss import SERVERS, Party, Shares
from marginal_sdg.crypto.spu import cost
from marginal_sdg.crypto.spu.engine import LinkError, first_largest
from marginal_sdg.crypto.spu.kept import Kept
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
from marginal_sdg.privacy.ledger_file import FiledLedger, LedgerFile
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
        if words is None:
            raise LostError(None, "server: cut off")
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


# --- killed and started again ----------------------------------------------------------------------


BEFORE_ANY = 4  # things that a server does for a session before it has begun


class KilledError(Exception):
    """What kill -9 is to the coordinator."""


class Mortal:
    """Three servers whose folders outlive them: all are made anew when the coordinator connects again.

    ``strike(rank, count)`` says whether a server dies, at the count-th time that it sends or writes something.
    """

    def __init__(self, folder, strike=lambda rank, count: False, **agreed):
        self.folder, self.strike, self.agreed = folder, strike, agreed
        self.counts = [0] * SERVERS
        self._dead = Event()
        self._asked = Semaphore(SERVERS)

    def connect(self, stack=None):
        for _ in range(SERVERS):  # as processes, they are gone before they come back
            self._asked.acquire(timeout=5)
        self._dead, self._asked, self._links = Event(), Semaphore(SERVERS), None
        servers = here(self.folder, **self.agreed)
        for server in servers:
            for name in ("begin", "sum", "store"):
                self._watch(server.rank, server._kept, name, self._dead)
            server._meet = partial(self._met, server._meet, server.rank, self._dead)
            server.ask = partial(self._ask, server.ask, self._dead, self._asked)
        return servers

    def _met(self, meet, rank, dead, name):
        engine = meet(name)
        self._links = engine.transport._links
        self._watch(rank, engine.transport, "send", dead)
        return engine

    def _ask(self, ask, dead, asked, step, chunks):
        if dead.is_set():
            raise LostError(None, "server: closed the connection")
        with asked:
            return ask(step, chunks)

    def _watch(self, rank, owner, name, dead):
        call = getattr(owner, name)

        def watched(*arguments):
            count, self.counts[rank] = self.counts[rank], self.counts[rank] + 1
            if self.strike(rank, count):
                dead.set()
                for queue in self._links.values():
                    queue.put(None)
                raise LostError(None, "server: closed the connection")
            return call(*arguments)

        setattr(owner, name, watched)


def script(domain, clients, mortal, journal=None):
    """All that a coordinator does, and what it hears."""
    servers = Servers(mortal.connect, 5, journal)
    pool = SpuPool(Here(clients, servers, bytes(32)), workload(clients), servers, terms(seed=None), VARIANCE, print)
    layout, nothing = Layout(domain, FIRST + MORE), np.zeros(6, np.int64)
    noise_alone = Ballot(layout, np.zeros(66, np.int64), nothing, nothing, most=2000)
    heard = [pool.join((0, 4, 7)), pool.size([]), pool.prepare(FIRST + MORE), pool.join((2,)), pool.size([])]
    heard += [pool.select(noise_alone, [], STEP) for _ in range(4)]
    heard += [counts.tolist() for counts in pool.measure((("a",), MORE[1]), [], STEP)]
    return heard, servers


@pytest.fixture
def same_secrets(monkeypatch):
    """Sessions have the same secrets in all folders, so that what they release can be compared."""
    kept = Kept
    monkeypatch.setitem(globals(), "Kept", lambda own, keys: kept(own, lambda: bytes([int(own.name)]) * 32))


@pytest.fixture
def opened(monkeypatch):
    """All that was opened, by all servers in all their lives."""
    found = []
    reveal = Party.open

    def logged(party, x, what):
        values = reveal(party, x, what)
        found.append((party.rank, what, values.tolist()))
        return values

    monkeypatch.setattr(Party, "open", logged)
    return found


@pytest.mark.parametrize("rank", range(SERVERS))
def test_killed_at_anything_it_does_a_server_goes_on_and_opens_nothing_else(
    domain, clients, tmp_path, same_secrets, opened, monkeypatch, rank
):
    """Real noise. One server dies before each thing that it sends or writes; the others are cut off with it."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no machine dies here
    (tmp_path / "calm").mkdir()
    calm = Mortal(tmp_path / "calm", simulate=False)
    heard, servers = script(domain, clients, calm)
    once = [{str(o) for o in opened if o[0] == who} for who in range(SERVERS)]
    assert servers.breaks == 0 and len(once[0]) > 4
    times = len(opened)
    for count in range(calm.counts[rank]):
        opened.clear()
        folder = tmp_path / str(count)
        folder.mkdir()
        mortal = Mortal(folder, lambda *now, at=(rank, count): now == at, simulate=False)
        if count < BEFORE_ANY:
            with pytest.raises(LostError):  # there was no session yet: it ends as where no server is there
                script(domain, clients, mortal)
            assert not opened
            continue
        again, servers = script(domain, clients, mortal)
        assert again == heard
        assert servers.breaks == 1
        assert len(opened) < times + SERVERS  # the question that they were at, once more
        for who in range(SERVERS):
            assert {str(o) for o in opened if o[0] == who} == once[who]
            (booked,) = json.loads((folder / str(who) / "ledger.json").read_text())["runs"]
            assert Fraction(booked["rho"]) == BUDGET.rho


# -- the coordinator


def told(fit):
    return [(m.clique, m.counts.tolist(), m.sigma, m.records) for m in fit.measurements_], fit.ledger.charges


@dataclass
class Coordinator:
    """A coordinator's process in ``folder``, which is killed when it has asked so many questions, before or after."""

    folder: Path
    domain: Any
    asked: int = 0

    def run(self, clients, monkeypatch, kill=None, after=False, **changed):
        mortal = Mortal(self.folder, simulate=True)
        live = Servers.live
        self.asked = 0

        def watched(servers, step, question):
            self.asked += 1
            if self.asked - 1 == kill and not after:
                raise KilledError
            answers = live(servers, step, question)
            if self.asked - 1 == kill:
                raise KilledError
            return answers

        params = {"workload": workload(clients), "rounds": 2, "epsilon": 3.0, "participation": 0.4, "seed": 3}
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", lambda file: None)
            patched.setattr(spu_servers, "connected", lambda *_: mortal.connect())
            patched.setattr(Servers, "live", watched)
            file = LedgerFile(self.folder / "coordinator.json", Budget(3.0, 1e-5))
            account = FiledLedger(file, Budget(3.0, 1e-5), "fit")
            account.source = Source.seeded(0)  # known noise, as the servers'
            fit = DistAIM(
                self.domain, **params | changed, engine="spu", servers=[""] * 3, store=self.folder / "journal"
            )
            return fit.fit(clients, ledger=account)

    def booked(self):
        files = ["coordinator.json", *(f"{rank}/ledger.json" for rank in range(SERVERS))]
        return [len(json.loads((self.folder / file).read_text())["runs"]) for file in files]


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_question_the_coordinator_goes_on_and_nothing_is_paid_twice(
    domain, clients, tmp_path, monkeypatch, after
):
    calm = Coordinator(tmp_path / "calm", domain)
    calm.folder.mkdir()
    first = calm.run(clients, monkeypatch)
    questions = calm.asked
    assert questions > 12
    for kill in range(questions):
        one = Coordinator(tmp_path / str(kill), domain)
        one.folder.mkdir()
        with pytest.raises(KilledError):
            one.run(clients, monkeypatch, kill, after)
        again = one.run(clients, monkeypatch)
        assert one.asked <= questions - kill + 2
        assert told(again) == told(first)
        assert again.communication_["client_sent_wire_bytes"] == first.communication_["client_sent_wire_bytes"]
        assert one.booked() == [1, 1, 1, 1]


def test_a_fit_that_is_done_asks_and_costs_nothing_when_it_is_run_again(domain, clients, tmp_path, monkeypatch):
    one = Coordinator(tmp_path, domain)
    first = one.run(clients, monkeypatch)
    for rank in range(SERVERS):
        Folder(tmp_path / str(rank)).remove()
    again = one.run(clients, monkeypatch)
    assert one.asked == 0
    assert told(again) == told(first)
    assert one.booked() == [1, 1, 1, 1]


def test_without_a_seed_the_same_clients_take_part_when_it_goes_on(domain, clients, tmp_path, monkeypatch):
    one = Coordinator(tmp_path, domain)
    with pytest.raises(KilledError):
        one.run(clients, monkeypatch, 9, seed=None)
    journal = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    one.run(clients, monkeypatch, seed=None)
    after = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert after[: len(journal)] == journal
    assert one.booked() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rounds": 3}, "is of a run with other parameters; name another file"),
        ({"engine": "shares"}, "store: 'shares' computes in this process"),
        ({"store": "nowhere/at/all"}, "store: nowhere/at/all cannot be used"),
    ],
)
def test_a_store_of_another_fit_is_refused(domain, clients, tmp_path, monkeypatch, changed, message):
    one = Coordinator(tmp_path, domain)
    one.run(clients, monkeypatch)
    with pytest.raises(ConfigError, match=message) as error:
        if "rounds" in changed:
            one.run(clients, monkeypatch, **changed)
        DistAIM(domain, **{"engine": "spu", "servers": [""] * 3, "store": tmp_path / "journal", **changed}).fit(clients)
    assert "\n" not in str(error.value)


def test_a_question_is_asked_again_in_the_words_in_which_it_was_asked_first(tmp_path):
    """Other versions of NumPy may round a model's expected counts to others."""
    asked = []

    def cut(question):
        asked.append(question)
        raise KilledError

    with ExitStack() as stack, pytest.raises(KilledError):
        Journal(tmp_path / "journal", {}, stack).ask("select", [b"head", b"first"], cut)
    with ExitStack() as stack:
        journal = Journal(tmp_path / "journal", {}, stack)
        answer = [[b"answer"]]
        assert journal.ask("select", [b"head", b"other"], lambda question: asked.append(question) or answer) == answer
    assert asked == [[b"head", b"first"]] * 2
    with ExitStack() as stack:
        journal = Journal(tmp_path / "journal", {}, stack)
        with pytest.raises(ProtocolError, match="another question was asked here"):
            journal.ask("select", [b"other head", b"first"], cut)


def test_a_store_has_one_coordinator(tmp_path):
    with ExitStack() as stack:
        Journal(tmp_path / "journal", {}, stack)
        with pytest.raises(ConfigError, match=r"another process has .*journal"):
            Journal(tmp_path / "journal", {}, stack)


# -- what is refused


def opening(answered, session="one"):
    return pack(Opening(terms=terms(session), clients=10, variance="50", answered=answered, link="x"))


def together(services, step, question):
    """What all three say."""
    with ThreadPoolExecutor(SERVERS) as threads:
        return list(threads.map(lambda server: said_by(server, step, question), services))


def said_by(server, step, question):
    try:
        return server.ask(step, question)
    except (ConfigError, ProtocolError, Empty) as error:
        return str(error)


def at_work(folder, clients):
    """A session that is at its fourth question."""
    pair = Pair(clients, here(folder))
    pair.join((0, 4, 7))
    pair.check_size()
    pair.spu.measure((("a",),), [], STEP)


def measuring(clique):
    return pack(Measuring(cliques=(clique,), variance=str(STEP.variance)))


def test_another_question_in_the_place_of_one_that_was_answered_is_refused(clients, tmp_path):
    """It would have been answered with fresh noise, but nobody has paid for a second answer."""
    at_work(tmp_path, clients)
    services = here(tmp_path)
    together(services, Step.OPEN, opening(3))
    for said in together(services, Step.MEASURE, measuring(1)):
        assert said == "session: another question was asked in place 3 before; start another session"
    assert services[0]._engine.transport.transcript.opened == []
    services = here(tmp_path)
    together(services, Step.OPEN, opening(3))
    assert len(together(services, Step.MEASURE, measuring(0))[0][0]) == 3 * 8


@pytest.mark.parametrize(
    ("answered", "message"),
    [
        (2, "session: is at question 4, and does not go back to 2; start another"),
        (0, "session: is at question 4, and does not go back to 0; start another"),
        (5, "session: this server has come back without the session, so start another"),
    ],
)
def test_a_session_goes_on_only_where_it_was(clients, tmp_path, answered, message):
    at_work(tmp_path, clients)
    assert together(here(tmp_path), Step.OPEN, opening(answered)) == [message] * 3


def test_a_server_without_its_folder_or_with_a_copy_or_an_earlier_state_says_so(clients, tmp_path):
    at_work(tmp_path, clients)
    session = tmp_path / "1" / "session"
    last = (session / "3.question").read_bytes()
    (session / "3.question").unlink()
    message = "session: this server has come back without the session, so start another"
    assert said_by(here(tmp_path)[1], Step.OPEN, opening(4)) == message
    (session / "3.question").write_bytes(last)
    session.rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", session)
    assert "is a copy of another folder" in said_by(here(tmp_path)[1], Step.OPEN, opening(4))
    Folder(tmp_path / "1").remove()
    assert said_by(here(tmp_path)[1], Step.OPEN, opening(4)) == message


def test_noise_is_another_one_wherever_anything_is(clients, tmp_path):
    """Keys of a release's noise: of another session, question, place, or of other answers that were added up."""
    keys = []
    for name, tables, clique, variance in [
        ("one", clients, 0, 30),
        ("same", clients, 0, 30),
        ("answers", clients[::-1], 0, 30),
        ("question", clients, 1, 30),
        ("variance", clients, 0, 31),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        services = here(folder)
        for server in services:
            server._kept._keys = lambda: bytes(32)
        Pair(tables, services).join((0, 4))
        together(services, Step.MEASURE, pack(Measuring(cliques=(clique,), variance=str(variance))))
        keys.append([server._key() for server in services])
    same = keys.pop(1)
    assert same == keys[0]
    for rank in range(2):
        assert len({key[rank] for key in keys}) == len(keys)
    assert keys[0][2] == keys[1][2]  # server 2 gets no answers: it relies on the other two


def test_a_session_is_kept_for_its_owner_alone_and_no_longer_than_patience(clients, tmp_path, monkeypatch):
    monkeypatch.setattr(spu_session, "Session", Direct)
    at_work(tmp_path, clients)
    session = tmp_path / "0" / "session"
    assert session.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in session.iterdir())
    assert not list(session.glob("*.upload"))  # they are added up
    reception = Reception(Stand(Still, tmp_path / "0", patience=0.05))
    reception._expiry.join(5)
    assert not session.exists()


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
            Folder(self._folder).remove()


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


class Failing:
    """A server that cannot do a step."""

    def __init__(self, step, error):
        self._step, self._error = step, error

    def ask(self, step, question):
        if step == self._step:
            raise self._error
        return []


@pytest.mark.parametrize(
    ("server", "leaves", "told", "over"),
    [
        (Still(), lambda channel: channel.__exit__(None, None, None), None, True),
        (Still(), lambda channel: channel.close(), None, False),
        (Failing(Step.SIZE, ProtocolError("something")), None, ProtocolError, True),
        (Failing(Step.SIZE, LinkError("the others")), None, LostError, False),
        (Failing(Step.OPEN, ProtocolError("something")), None, ProtocolError, False),  # it may be another's session
        (Failing(Step.OPEN, LinkError("the others")), None, ProtocolError, False),
    ],
)
def test_a_session_that_breaks_off_is_kept_and_one_that_is_over_is_not(
    monkeypatch, tmp_path, server, leaves, told, over
):
    ended = SimpleQueue()

    class Noted(Direct):
        def close(self, *, over):
            ended.put(over)

    monkeypatch.setattr(spu_session, "Session", Noted)
    play = Reception(Stand(lambda: server, tmp_path)).play
    service = answering.serve(role(0), [COORDINATOR], play, "127.0.0.1:0", 5.0, lambda line: None, together=True)
    with closing(service), ExitStack() as stack:
        channel = stack.enter_context(Channel.connect(f"127.0.0.1:{service.port}", role(0), 5.0))
        if told is None:
            channel.ask(Step.OPEN, [b"{}"])
            leaves(channel)
        else:
            with pytest.raises(told) as error:
                channel.ask(Step.OPEN, [b"{}"])
                channel.ask(Step.SIZE, [b"{}"])
            assert type(error.value) is told
        assert ended.get(timeout=5) is over


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


@contextmanager
def started_again(server):
    """After kill -9, at the same address."""
    command = list(server.process.args)
    command[command.index("--listen") + 1] = server.address
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def gone(path):
    """Whether it is, within seconds."""
    for _ in range(100):
        if not path.exists():
            return True
        sleep(0.1)
    return False


ONE_FIT = {"rounds": 2, "epsilon": 3.0, "participation": 0.4, "seed": 3, "engine": "spu"}
OF_A_COORDINATOR = """
import os, pickle, signal, sys
from marginal_sdg import DistAIM
domain, clients, params = pickle.load(open(sys.argv[1], "rb"))
DistAIM(domain, **params, on_event=lambda event: os.kill(os.getpid(), signal.SIGKILL)).fit(clients)
"""


@ON_SPU
@pytest.mark.slow
def test_servers_and_a_coordinator_that_are_killed_go_on_between_processes(clients, domain, tmp_path):
    ideal = DistAIM(domain, workload=workload(clients), **{**ONE_FIT, "engine": "ideal"}).fit(clients)
    with launch(tmp_path, PYTHON, [*LIMITS, "--link-timeout", "30"]) as servers, ExitStack() as stack:
        where = [server.address for server in servers]
        asking = {"servers": where, "identity": asker(servers), "timeout": 60, "store": tmp_path / "store"}
        params = {"workload": workload(clients), **ONE_FIT, **asking}
        (tmp_path / "fit").write_bytes(pickle.dumps((domain, clients, params)))
        killed = subprocess.run([sys.executable, "-c", OF_A_COORDINATOR, str(tmp_path / "fit")])
        assert killed.returncode == -signal.SIGKILL

        def kill(event):
            if event["event"] == "round":
                for server in servers[1:] if event["round"] == 1 else ():
                    server.process.kill()
                    server.process.wait()
                    stack.enter_context(started_again(server))

        spu = DistAIM(domain, **params, on_event=kill).fit(clients)
        assert told(spu) == told(ideal)
        for server in servers:
            assert len(json.loads((server.folder / "ledger.json").read_text())["runs"]) == 1
            assert gone(server.folder / "session")


@ON_SPU
@pytest.mark.slow
def test_a_server_that_comes_back_without_its_session_ends_the_fit_in_one_line(clients, domain, tmp_path):
    with launch(tmp_path, PYTHON, [*LIMITS, "--link-timeout", "30"]) as servers, ExitStack() as stack:
        asking = {"servers": [server.address for server in servers], "identity": asker(servers), "timeout": 60}

        def lose(event):
            if event["event"] == "round":
                servers[1].process.kill()
                servers[1].process.wait()
                Folder(servers[1].folder).remove()
                stack.enter_context(started_again(servers[1]))

        fit = DistAIM(domain, workload=2, rounds=3, engine="spu", on_event=lose, **asking)
        with pytest.raises(ProtocolError) as error:
            fit.fit(clients)
        message = "server 1: session: this server has come back without the session, so start another"
        assert str(error.value) == message
        compare_fits(clients, domain, **asking)


@ON_SPU
@pytest.mark.slow
def test_a_folder_has_one_server(servers):
    command = [*servers[0].process.args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "is another server's, which runs; give each its own" in done.stderr


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
