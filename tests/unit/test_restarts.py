"""FHAIM's roles break off wherever they can: the releases are those of a run that nothing disturbs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import combinations, count

import numpy as np
import pandas as pd
import pytest

from marginal_sdg import FHAIM, Workload, roles
from marginal_sdg.crypto import answering, records
from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.fhe import library
from marginal_sdg.crypto.fhe.parties import HOLDER, KEY_HOLDER, SERVER, Step
from marginal_sdg.crypto.kept import AGAIN, RESUME, STATE, Memory, Store
from marginal_sdg.crypto.notes import Notes
from marginal_sdg.errors import BudgetError, ConfigError, ProtocolError
from marginal_sdg.privacy import Budget, Ledger, Source, ledger_file
from marginal_sdg.privacy.ledger_file import FiledLedger, LedgerFile

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


@contextmanager
def deployed(folder, kind, table=None):
    """Server and key holder, and with a table another data holder, whose stores are of a kind; where they are."""
    makes = {role: partial(roles.party, role) for role in (SERVER, KEY_HOLDER)}
    if table is not None:
        makes[HOLDER] = roles._other_holder(roles._parser().parse_args(["holder", *options(folder, table)]), None)
    stores, where = {}, {}
    with ExitStack() as stack:
        for role, make in makes.items():
            store = stores[role] = kind(folder / role, Source.system().key, TIMEOUT)

            def play(channel, make=make, store=store):
                with store.session(channel, make) as ask:
                    channel.serve(ask)

            service = answering.serve(role, HOLDER, play, "127.0.0.1:0", TIMEOUT, lambda line: None)
            stack.callback(service.close)
            where[role] = f"127.0.0.1:{service.port}"
        given = {"server": where[SERVER], "keyholder": where[KEY_HOLDER]}
        yield given | ({"others": [where[HOLDER]]} if table is not None else {}), stores


def options(folder, table):
    """Of a data holder with a folder of its own."""
    own = folder / "other"
    if not own.exists():
        own.mkdir(parents=True)
        pd.DataFrame(table.codes, columns=list(table.domain)).to_csv(own / "table.csv", index=False)
        table.domain.save(own / "domain.yaml")
    files = ["--csv", str(own / "table.csv"), "--domain", str(own / "domain.yaml"), "--epsilon", "3"]
    return [*files, "--ledger", str(own / "ledger.json"), "--store", str(own / "store")]


def booked(path):
    return len(json.loads(path.read_text())["runs"])


@pytest.mark.parametrize("threshold", [False, True])
def test_whatever_breaks_off_nothing_is_released_twice(part, pairs, tmp_path, threshold):
    with deployed(tmp_path, Breaking) as (where, stores):
        fitted = estimator(pairs, engine="bgv", threshold=threshold, **where).fit(part)
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


@pytest.fixture
def drawn(monkeypatch):
    """All noise that ledgers draw, by thread: this one's is the asking data holder's."""
    noise = defaultdict(list)

    def watch(original):
        def watched(*arguments, **named):
            made = original(*arguments, **named)
            here = threading.current_thread() is threading.main_thread()
            noise[here].append(np.hstack([np.hstack(part) for part in made.parts]))
            return made

        return watched

    for name in ("gumbel_parts", "gaussian_parts"):
        monkeypatch.setattr(Ledger, name, watch(getattr(Ledger, name)))
    return noise


def different(noise):
    """How many different draws there are."""
    return len({part.tobytes() for part in noise})


def test_another_data_holder_draws_and_pays_once_whatever_breaks_off(part, pairs, tmp_path, drawn):
    with deployed(tmp_path, Breaking, part) as (where, stores):
        fitted = estimator(pairs, engine="bgv", **where).fit(part)
    left = stores[HOLDER].left
    asked = [answers[0][0] for answers in left.values()]
    assert asked == [Step.OPEN, Step.UPLOAD, Step.MEASURE, *[Step.CHOOSE, Step.MEASURE] * 2]
    assert all(again == (None, first) for (_, first), again in left.values())
    assert different(drawn[False]) == 5 < len(drawn[False])  # at every question anew, and always the same
    assert booked(tmp_path / "other" / "ledger.json") == 1
    assert fitted.model_.total == pytest.approx(240, abs=60)


def test_another_data_holder_does_not_go_on_with_another_table(part, tmp_path):
    def begin(name, table):
        make = roles._other_holder(roles._parser().parse_args(["holder", *options(tmp_path / name, table)]), None)
        return make(Memory.of(bytes(32), tmp_path / "session"))

    (tmp_path / "session").mkdir()
    first, again = begin("one", part), begin("one", part)
    assert first.source.words(9).tolist() == again.source.words(9).tolist()
    with pytest.raises(ProtocolError, match=r"^table: is not the one that the session began with; start another$"):
        begin("two", part.take(np.arange(119)))


def test_another_data_holder_that_keeps_sessions_needs_a_ledger_file(part, tmp_path, capsys):
    files = options(tmp_path, part)[:6]
    with pytest.raises(SystemExit, match="2"):
        roles.main(["holder", "--listen", "127.0.0.1:0", *files, "--store", str(tmp_path / "store")])
    assert capsys.readouterr().err == (
        "holder: --store needs --ledger, a file that knows whether a session has been paid for\n"
    )


# --- the asking data holder -----------------------------------------------------------------------


class KilledError(BaseException):
    """What kill -9 is to a process."""


@pytest.fixture
def dying(monkeypatch):
    """The asking data holder dies, once at each: before and after it writes a file, and when it sends a chunk.

    ``dying(every)``: at every so many of these; the places are in what it returns.
    """
    places, sent = {}, Counter()

    def at(*place):
        if threading.current_thread() is threading.main_thread() and places.setdefault(place, True):
            places[place] = False
            if len(places) % every[0] == 0:
                raise KilledError(place)

    def replacing(path, parts, original=records.replace_file):
        at("before", path.parent.name, path.name)
        original(path, parts)
        at("after", path.parent.name, path.name)

    def putting(self, tag, payload, original=Channel._put):
        sent[self.peer, tag] += 1
        if sent[self.peer, tag] < 5:
            at("sends", self.peer, tag, sent[self.peer, tag])
        original(self, tag, payload)

    def start(each):
        every.append(each)
        for module in (records, ledger_file):
            monkeypatch.setattr(module, "replace_file", replacing)
        monkeypatch.setattr(Channel, "_put", putting)
        return places, sent

    every = []
    return start


def asks(folder, fhaim, table):
    """One process of the asking data holder."""
    account = FiledLedger(LedgerFile(folder / "ledger.json", Budget(3.0, 1e-5)), Budget(3.0, 1e-5), "a fit")
    with Notes(folder / "notes") as notes:
        return fhaim.fit(table, ledger=account, notes=notes), fhaim.sample()


@pytest.mark.parametrize(
    ("every", "threshold", "other"),
    [
        (9, False, False),
        (17, True, True),
        *(pytest.param(1, *case, marks=pytest.mark.slow) for case in ((False, False), (True, True))),
    ],
)
def test_killed_anywhere_the_asking_holder_goes_on(part, pairs, tmp_path, dying, drawn, every, threshold, other):
    lives = 0
    with deployed(tmp_path, Kept, part if other else None) as (where, stores):
        places, sent = dying(every)
        fitted = None
        while fitted is None:
            lives += 1
            sent.clear()
            fhaim = estimator(pairs, engine="bgv", threshold=threshold, seed=None, **where)
            with suppress(KilledError):
                fitted, _ = asks(tmp_path, fhaim, part)
        at_the_end = booked(tmp_path / "ledger.json")
    assert lives == 1 + len(places) // every and len(places) > 90
    assert at_the_end == 1 and fitted.ledger.spent == fitted.ledger.budget.rho
    assert different(drawn[True]) == 5 < len(drawn[True])
    measured = [answer for step, answer in stores[KEY_HOLDER].said if step == Step.MEASURE]
    counts = [np.frombuffer(answer, np.int64).tolist() for answer in measured]
    assert counts == [m.counts.tolist() for m in fitted.measurements_]  # no more were made
    assert [step for step, _ in stores[SERVER].said].count(Step.REVEAL) == 2
    assert [path.name for path in (tmp_path / "notes").iterdir()] == [".lock"]
    if other:
        assert booked(tmp_path / "other" / "ledger.json") == 1 and different(drawn[False]) == 5


class Kept(Store):
    """``said``: what it was asked, but for what it has answered before, and the first chunk of its answers."""

    def __init__(self, *given):
        super().__init__(*given)
        self.said = []

    @contextmanager
    def session(self, channel, make):
        with super().session(channel, make) as ask:

            def answer(step, chunks):
                made = list(ask(step, chunks))
                if step not in (RESUME, AGAIN):
                    self.said.append((step, made[0] if made else b""))
                return made

            yield answer


def test_what_is_not_as_it_was_is_named_before_anything_is_asked(part, pairs, tmp_path):
    def die(event):
        if event["event"] == "start":
            raise KilledError

    with deployed(tmp_path, Kept) as (where, stores):
        with pytest.raises(KilledError):
            asks(tmp_path, estimator(pairs, engine="bgv", seed=None, on_event=die, **where), part)
        before = {role: len(store.said) for role, store in stores.items()}
        for changes, table, match in [
            ({}, part.take(np.arange(119)), "^table: is not the one of the session in "),
            ({}, part.take(np.arange(119, -1, -1)), "^table: "),
            ({"rounds": 3}, part, r"^rounds: is not the one of the session in .*/notes \(2, 3\); go on with the same"),
            ({"epsilon": 2.0}, part, r"^epsilon: .*\(3.0, 2.0\)"),
            ({"workload": Workload(pairs.domain, pairs.cliques[:2])}, part, "^workload: "),
            ({"threshold": True}, part, r"^threshold: .*\(False, True\)"),
            ({"impossible": ["a == 0 and b == 1"]}, part, "^impossible: "),
            ({"seed": 1}, part, r"^seed: .*\(None, 1\)"),
        ]:
            given = {"engine": "bgv", "seed": None, **where, **changes}
            with pytest.raises(ConfigError, match=match):
                asks(tmp_path, estimator(pairs, **given), table)
        assert before == {role: len(store.said) for role, store in stores.items()}
        fitted, _ = asks(tmp_path, estimator(pairs, engine="bgv", seed=None, timeout=50.0, **where), part)
    assert booked(tmp_path / "ledger.json") == 1 and len(fitted.measurements_) == 5


def test_a_role_that_has_given_the_session_up_ends_it_and_the_next_is_paid_for(part, pairs, tmp_path):
    def die(event):
        if event["event"] == "round":
            raise KilledError

    with deployed(tmp_path, Kept) as (where, stores):
        with pytest.raises(KilledError):
            asks(tmp_path, estimator(pairs, engine="bgv", seed=None, on_event=die, **where), part)
        while (tmp_path / SERVER / "session").exists():  # once the server has seen that the connection broke
            stores[SERVER]._expiry.function()
        again = estimator(pairs, engine="bgv", seed=None, **where)
        with pytest.raises(
            ProtocolError, match=r"^server: is there without the session, which it keeps .*; start another$"
        ):
            asks(tmp_path, again, part)
        assert booked(tmp_path / "ledger.json") == 1
        with pytest.raises(BudgetError, match="is left for this table"):
            asks(tmp_path, again, part)


# --- processes ------------------------------------------------------------------------------------


class Role:
    """A role in a process of its own, that can be killed and started again at the same address."""

    def __init__(self, name, folder, *arguments):
        self._port = 0
        self._command = [sys.executable, "-m", "marginal_sdg.roles", name, "--timeout", "60", *arguments]
        self._command += ["--store", str(folder / name)] * ("--store" not in arguments)
        self.start()

    def start(self):
        command = [*self._command, "--listen", f"127.0.0.1:{self._port}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self._process.stdout.readline().split()[-1]
        self._port = self.address.rpartition(":")[2]

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [False, True])
def test_processes_that_are_killed_and_started_again_go_on(part, pairs, tmp_path, threshold):
    both = [Role(name, tmp_path) for name in roles.SERVICES]

    def kill(event):
        if event["event"] == "round":
            for role in both:
                role.kill()
                role.start()

    where = dict(zip(roles.SERVICES, (role.address for role in both), strict=True))
    try:
        fitted = estimator(pairs, engine="bgv", threshold=threshold, on_event=kill, **where).fit(part)
    finally:
        for role in both:
            role.kill()
    assert released(fitted) == released(estimator(pairs).fit(part))


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [False, True])
def test_all_roles_are_killed_and_started_again_in_every_round(part, tmp_path, threshold):
    """The same command goes on, to a table that has been paid for once."""
    services = [
        Role("server", tmp_path),
        Role("keyholder", tmp_path),
        Role("holder", tmp_path, *options(tmp_path / "two", part)),
    ]
    server, keyholder, other = (role.address for role in services)
    command = [sys.executable, "-m", "marginal_sdg.roles", "holder", *options(tmp_path / "one", part), "--rounds", "3"]
    command += ["--max-records", "300", "--timeout", "60", "--out", str(tmp_path / "synthetic.csv")]
    command += ["--server", server, "--keyholder", keyholder, "--others", other, *["--threshold"] * threshold]
    rounds, code, errors = set(), None, ""
    try:
        while code in (None, -9):
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                for line in process.stdout:
                    if "round " in line and line not in rounds:
                        rounds.add(line)
                        process.kill()
                        for role in services:
                            role.kill()
                            role.start()
                code, errors = process.wait(), process.stderr.read()
    finally:
        for role in services:
            role.kill()
    assert (code, errors) == (0, "")
    assert len(rounds) == 3  # each life chose what the one before had chosen
    assert len(pd.read_csv(tmp_path / "synthetic.csv")) == pytest.approx(240, abs=60)
    assert [booked(tmp_path / name / "other" / "ledger.json") for name in ("one", "two")] == [1, 1]
    assert [path.name for path in (tmp_path / "one" / "other" / "store").iterdir()] == [".lock"]
