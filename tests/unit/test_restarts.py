"""FHAIM's server and key holder break off wherever they can: the releases are those of a run that nothing disturbs."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from itertools import combinations, count

import numpy as np
import pytest

from marginal_sdg import FHAIM, Workload, roles
from marginal_sdg.crypto import answering
from marginal_sdg.crypto.channel import LostError
from marginal_sdg.crypto.fhe import library
from marginal_sdg.crypto.fhe.parties import HOLDER, KEY_HOLDER, SERVER, Step
from marginal_sdg.crypto.kept import AGAIN, RESUME, STATE, Store
from marginal_sdg.errors import ProtocolError
from marginal_sdg.privacy import Source

try:
    library.openfhe()
except ProtocolError as missing:
    pytest.skip(str(missing), allow_module_level=True)
pytest.importorskip("grpc", reason="processes of their own need the extra services")

TIMEOUT = 60.0


@pytest.fixture(scope="module")
def pairs(domain):
    names = domain.names[:3]
    return Workload(domain.project(names), tuple(combinations(names, 2)))


@pytest.fixture(scope="module")
def part(table, pairs):
    return table.take(np.arange(120)).select(pairs.domain.names)


def released(fitted):
    return [(m.clique, m.counts.tolist(), m.sigma) for m in fitted.measurements_]


def estimator(pairs, **params):
    defaults = {"workload": pairs, "rounds": 2, "epsilon": 3.0, "seed": 2, "max_records": 300, "timeout": TIMEOUT}
    return FHAIM(pairs.domain, **{**defaults, **params})


class Breaking(Store):
    """Breaks off three times in every question: in the middle, when the answer is made, and when it is recorded.

    ``left``: the answers, by number.
    """

    def __init__(self, *given):
        super().__init__(*given)
        self.left, self.broken = defaultdict(list), set()

    def _break(self, channel, *when):
        if when not in self.broken:
            self.broken.add(when)
            channel.close()
            raise LostError(channel, "it broke")

    def _breaking(self, channel, make, memory):
        """A party that makes an answer which nobody records, once to each question."""
        party, asked = make(memory), count()
        ask = party.ask

        def answer(step, chunks):
            number, made = next(asked), ask(step, chunks)
            self._break(channel, number, "made")
            return made

        party.ask = answer
        return party

    @contextmanager
    def session(self, channel, make):
        number = 0

        def chunks_of(chunks):
            for place, chunk in enumerate(chunks):
                yield chunk
                if place == 2:
                    self._break(channel, number, "question")

        def answer(step, chunks):
            nonlocal number
            made = list(ask(step, chunks_of(chunks)))
            if step == RESUME:
                number = STATE.unpack(*made)[0]
                return made
            number += step != AGAIN
            self.left[number - 1].append((None if step == AGAIN else step, made))
            self._break(channel, number - 1, "recorded")
            return made

        with super().session(channel, partial(self._breaking, channel, make)) as ask:
            yield answer


def test_whatever_breaks_off_nothing_is_released_twice(part, pairs, tmp_path):
    stores, where, services = {}, {}, []
    for name, role in roles.SERVICES.items():
        store = stores[role] = Breaking(tmp_path / name, Source.system().key, TIMEOUT)

        def play(channel, role=role, store=store):
            with store.session(channel, lambda memory: roles.party(role, memory)) as ask:
                channel.serve(ask)

        services.append(answering.serve(role, HOLDER, play, "127.0.0.1:0", TIMEOUT, lambda line: None))
        where[name] = f"127.0.0.1:{services[-1].port}"
    fitted = estimator(pairs, engine="bgv", **where).fit(part)
    for service in services:
        service.close()
    assert released(fitted) == released(estimator(pairs).fit(part))
    assert len(fitted.ledger.charges) == 1 + 2 * 2
    for store in stores.values():
        assert all(first[0] is not None and again == (None, first[1]) for first, again in store.left.values())
    asked = {role: [answers[0][0] for answers in store.left.values()] for role, store in stores.items()}
    assert asked[SERVER].count(Step.MEASURE) == asked[KEY_HOLDER].count(Step.MEASURE) == 3 + 2
    assert asked[SERVER].count(Step.REVEAL) == 2
    broken = [[when for _, when in store.broken] for store in stores.values()]
    for store, when in zip(stores.values(), broken, strict=True):
        assert when.count("made") == when.count("recorded") == len(store.left) and when.count("question") >= 2


# --- processes ------------------------------------------------------------------------------------


class Role:
    """A role in a process of its own, that can be killed and started again at the same address."""

    def __init__(self, name, folder):
        self._folder, self._name, self._port = folder, name, 0
        self.start()

    def start(self):
        command = [sys.executable, "-m", "marginal_sdg.roles", self._name, "--listen", f"127.0.0.1:{self._port}"]
        command += ["--timeout", "60", "--store", str(self._folder / self._name)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self._process.stdout.readline().split()[-1]
        self._port = self.address.rpartition(":")[2]

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.mark.slow
def test_processes_that_are_killed_and_started_again_go_on(part, pairs, tmp_path):
    both = [Role(name, tmp_path) for name in roles.SERVICES]

    def kill(event):
        if event["event"] == "round":
            for role in both:
                role.kill()
                role.start()

    where = dict(zip(roles.SERVICES, (role.address for role in both), strict=True))
    try:
        fitted = estimator(pairs, engine="bgv", on_event=kill, **where).fit(part)
        halves = estimator(pairs, engine="bgv", threshold=True, on_event=kill, **where)
        with pytest.raises(ProtocolError, match="key holder: closed the connection before the session was over"):
            halves.fit(part)
    finally:
        for role in both:
            role.kill()
    assert released(fitted) == released(estimator(pairs).fit(part))
