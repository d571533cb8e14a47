"""FHAIM's roles in processes of their own, several data holders, a key in two halves: the same releases, no leak."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from marginal_sdg import FHAIM, Workload, load_dataset, roles
from marginal_sdg.backends.distance import Distance
from marginal_sdg.backends.sealed import SealedVault
from marginal_sdg.backends.vault import Ballot, ClearVault
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.fhe import library
from marginal_sdg.crypto.fhe.holder import DataHolder
from marginal_sdg.crypto.fhe.keyholder import KeyHolder
from marginal_sdg.crypto.fhe.keys import WholeKey
from marginal_sdg.crypto.fhe.parties import KEY_HOLDER, SERVER, KeyParty, Question, ServerParty, Step, Terms
from marginal_sdg.crypto.fhe.plan import choose_layout
from marginal_sdg.crypto.fhe.profile import choose_profile
from marginal_sdg.crypto.fhe.wire import Kind
from marginal_sdg.crypto.identity import Identity, issue
from marginal_sdg.errors import ConfigError, DataError, DomainError, ProtocolError
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy import Source
from marginal_sdg.privacy.joint import part_variance

try:
    library.openfhe()
    ENCRYPTED = pytest.mark.skipif(False, reason="")
except ProtocolError as error:
    ENCRYPTED = pytest.mark.skipif(True, reason=str(error))

TIMEOUT = 60.0


@pytest.fixture(scope="module")
def pairs(domain):
    return Workload(domain, tuple(combinations(domain.names, 2)))


@pytest.fixture(scope="module")
def part(table):
    return table.take(np.arange(120))


def estimator(pairs, **params):
    defaults = {"workload": pairs, "rounds": 3, "epsilon": 3.0, "seed": 2, "max_records": 300, "timeout": TIMEOUT}
    return FHAIM(pairs.domain, **{**defaults, **params})


def released(fitted):
    return [(m.clique, m.counts.tolist(), m.sigma) for m in fitted.measurements_]


def whole(table):
    return [table]


def rows(table):
    return [table.take(np.arange(70)), table.take(np.arange(70, len(table)))]


def columns(table):
    return [table.select(("a", "c")), table.select(("b", "d"))]


# --- processes ------------------------------------------------------------------------------------


class Service:
    """A role in a process of its own; ``lines()``: what it has said about sessions so far."""

    def __init__(self, name, folder):
        self._log = folder / f"{name}.log"
        command = [sys.executable, "-m", "marginal_sdg.roles", name, "--listen", "127.0.0.1:0", "--timeout", "60"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.address = self.process.stdout.readline().split()[-1]

    def lines(self):
        return self._log.read_text().splitlines()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def services(tmp_path):
    started = {name: Service(name, tmp_path) for name in ("server", "keyholder")}
    yield started
    for service in started.values():
        service.stop()


@ENCRYPTED
def test_three_processes_release_what_one_does_in_the_clear_until_one_is_killed(part, pairs, services):
    where = {name: service.address for name, service in services.items()}
    clear = released(estimator(pairs).fit(part))
    assert released(estimator(pairs, engine="bgv", **where).fit(part)) == clear
    halves = {"threshold": True, "upload": "marginals"}
    assert released(estimator(pairs, engine="bgv", **halves, **where).fit(part)) == clear
    cells = released(estimator(pairs, score="l1_exact").fit(part))
    assert released(estimator(pairs, score="l1_exact", engine="bgv", **where).fit(part)) == cells

    def kill(event):
        if event["event"] == "round":
            services["server"].stop()

    fitted = estimator(pairs, engine="bgv", on_event=kill, **where)
    with pytest.raises(ProtocolError, match=r"^server: closed the connection before the session was over$"):
        fitted.fit(part)
    assert not hasattr(fitted, "model_")
    with pytest.raises(ProtocolError, match=r"^server: no connection to .*start it first$"):
        estimator(pairs, engine="bgv", **where).fit(part)
    assert services["server"].lines() == ["server: session done"] * 3
    Channel.connect(where["keyholder"], KEY_HOLDER, TIMEOUT).close()  # the other one goes on
    last = "key holder: session ended: data holder: closed the connection before the session was over"
    assert services["keyholder"].lines()[:4] == ["key holder: session done"] * 3 + [last]


@ENCRYPTED
@pytest.mark.slow
@pytest.mark.parametrize("split", ["rows", "columns"])
def test_the_demonstration_starts_all_processes_and_writes_rows(tmp_path, split):
    command = [sys.executable, "-m", "marginal_sdg.roles", "demo", "--dataset", "diabetes_pima", "--rounds", "2"]
    command += ["--holders", "2", "--split", split, "--out", tmp_path / "rows.csv"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(set(re.findall(r"process (\d+)", run.stdout))) == 4
    assert "spent epsilon 1 on 5 releases" in run.stdout and run.stderr.count("session done") == 3
    written = pd.read_csv(tmp_path / "rows.csv")
    assert 500 < len(written) < 1100 and list(written) == list(load_dataset("diabetes_pima").domain)


# --- what goes wrong, at both ends ----------------------------------------------------------------


@contextmanager
def served(role, timeout=TIMEOUT):
    """A role behind an address, in this process; the address, and what it says about its sessions."""
    pytest.importorskip("grpc", reason="roles need the extra services")
    said = []
    service = roles.serve(role, lambda memory: roles.party(role, memory), "127.0.0.1:0", timeout, said.append)
    try:
        yield f"127.0.0.1:{service.port}", said
    finally:
        service.close()


LAYOUT = choose_layout(choose_profile(100), (3, 4), ((0,), (1,), (0, 1)), dense=True)
CODES = np.random.default_rng(0).integers(0, (3, 4), (60, 2))
TERMS = Terms(LAYOUT, 100, False)


@pytest.fixture(scope="module")
def keyholder():
    return KeyHolder(WholeKey(LAYOUT), 100)


def failing(role, play):
    """The error at this end, and the only line at the other."""
    with served(role) as (where, said):
        with pytest.raises(ProtocolError) as found, Channel.connect(where, role, TIMEOUT) as channel:
            play(channel)
        assert str(found.value).startswith(f"{role}: ")
        with Channel.connect(where, role, TIMEOUT):  # the service goes on
            pass
        assert said[0] == f"session ended: {str(found.value).removeprefix(f'{role}: ')}"
        assert len(said) <= 2
        return str(found.value)


def opened(keyholder, then):
    def play(channel):
        channel.ask(Step.OPEN, [TERMS.pack(), keyholder.public_key, keyholder.evaluation_keys])
        then(channel)

    return play


def upload(public_key, records=100, change=lambda frame: frame):
    frames = list(DataHolder(LAYOUT, public_key, records).upload_records(CODES[:records]))
    return [(1).to_bytes(4, "little"), *frames[:-1], change(frames[-1])]


@ENCRYPTED
def test_a_wrong_key_is_named(keyholder):
    other = WholeKey(LAYOUT)
    error = failing(SERVER, opened(keyholder, lambda channel: channel.ask(Step.UPLOAD, upload(other.public_key))))
    assert "the message was made with another key, layout or parameter set" in error


@ENCRYPTED
def test_a_truncated_ciphertext_is_named(keyholder):
    bad = upload(keyholder.public_key, change=lambda frame: frame[:-100])
    assert "bytes came of" in failing(SERVER, opened(keyholder, lambda channel: channel.ask(Step.UPLOAD, bad)))


@ENCRYPTED
def test_other_parameters_are_named(keyholder):
    terms = Terms(choose_layout(choose_profile(90), (3, 4), LAYOUT.cliques, dense=True), 100, False)
    question = [terms.pack(), keyholder.public_key, keyholder.evaluation_keys]
    error = failing(SERVER, lambda channel: channel.ask(Step.OPEN, question))
    assert "announced for another layout or parameter set" in error


@ENCRYPTED
def test_more_records_than_the_cap_are_named(keyholder):
    def twice(channel):
        for _ in range(2):
            channel.ask(Step.UPLOAD, upload(keyholder.public_key, 60))

    assert "exceed the 100 of the profile" in failing(SERVER, opened(keyholder, twice))


@ENCRYPTED
def test_more_decryptions_than_declared_are_named():
    def play(channel):
        terms = Terms(LAYOUT, 0, False).pack()
        public_key, evaluation_keys, _ = channel.ask(Step.OPEN, [terms])
        server = ServerParty(Source.system().key)
        server.ask(Step.OPEN, [terms, public_key, evaluation_keys])
        server.ask(Step.UPLOAD, upload(public_key))
        server.ask(Step.COMPUTE, [])
        channel.ask(Step.SHARE, server.ask(Step.SHARE, []))

    assert "0 may still be decrypted" in failing(KEY_HOLDER, play)


@ENCRYPTED
@pytest.mark.parametrize("role", [SERVER, KEY_HOLDER])
@pytest.mark.parametrize(
    ("step", "question", "match"),
    [
        (Step.CHOOSE, [b"{}"] * 4, "step 7: not now"),
        (77, [], "step 77: not now"),
        (Step.OPEN, [], "a question of 0 byte strings"),
    ],
)
def test_questions_out_of_place_are_named(role, step, question, match):
    assert match in failing(role, lambda channel: channel.ask(step, question))


@ENCRYPTED
@pytest.mark.parametrize(
    "terms", [b"", b"[]", b"{}", b"\xff", TERMS.pack().replace(b"[3, 4]", b'"ab"'), TERMS.pack()[:-1]]
)
def test_terms_that_are_none_are_named(terms):
    assert "terms: the message names no layout" in failing(KEY_HOLDER, lambda channel: channel.ask(Step.OPEN, [terms]))


def test_the_wrong_role_at_an_address_is_named():
    with served(KEY_HOLDER) as (where, said):
        with pytest.raises(
            ProtocolError, match=r"^server: this is the key holder, not the server; check the addresses"
        ):
            Channel.connect(where, SERVER, TIMEOUT)
        Channel.connect(where, KEY_HOLDER, TIMEOUT).close()
    assert said[0] == "session ended: this is the key holder, not the server; check the addresses"


def test_only_data_holders_are_let_in(tmp_path):
    issue(tmp_path, ["server", "key-holder", "data-holder-7"])
    said = []
    identity = Identity.load(tmp_path / "server")
    service = roles.serve(
        SERVER, lambda memory: roles.party(SERVER, memory), "127.0.0.1:0", TIMEOUT, said.append, identity
    )
    where = f"127.0.0.1:{service.port}"
    with pytest.raises(ProtocolError, match="key-holder: its certificate is none of a data holder"):
        Channel.connect(where, SERVER, TIMEOUT, Identity.load(tmp_path / "key-holder"))
    Channel.connect(where, SERVER, TIMEOUT, Identity.load(tmp_path / "data-holder-7")).close()
    service.close()


def test_a_table_above_the_cap_is_refused_before_anybody_is_asked(part, pairs):
    nobody = {"engine": "bgv", "server": "localhost:1", "keyholder": "localhost:2"}
    with pytest.raises(DataError, match="more than max_records = 119 records"):
        estimator(pairs, max_records=119, **nobody).fit(part)


# --- views of the two parties ---------------------------------------------------------------------


class Watched:
    """A party, and everything that it was asked and answered, by step."""

    def __init__(self, party):
        self.partner = None
        self.asked, self.answered = defaultdict(list), defaultdict(list)
        self._party = party

    def ask(self, step, chunks):
        self._party.partner = self.partner
        question = list(chunks)
        answer = self._party.ask(step, question)
        self.asked[step].append(question)
        self.answered[step].append(answer)
        return answer


def kinds(messages):
    """The kinds of frames: byte 4 of each."""
    assert all(message[:4] == b"mFHE" for message in messages)
    return {Kind(message[4]) for message in messages}


def uniform(words):
    """Whether the upper bits of 64-bit words look uniform; false alarm 1e-4."""
    counts = np.bincount(((words >> np.uint64(40)).astype(np.int64) * 10) >> 24, minlength=10)
    return ((counts - len(words) / 10) ** 2 / (len(words) / 10)).sum() < 33.7


@ENCRYPTED
def test_server_and_key_holder_see_nothing_but_what_their_roles_may(part, pairs, monkeypatch):
    opened_by_key_holder = []
    share = KeyHolder.share

    def watched_share(self, messages):
        halves = share(self, messages)
        opened_by_key_holder.extend(halves)
        return halves

    monkeypatch.setattr(KeyHolder, "share", watched_share)
    keys = Source.system().key
    server, keyholder = Watched(ServerParty(keys)), Watched(KeyParty(keys))
    vault = SealedVault(
        [part], pairs, keys, max_records=300, measurements=9, upload="records", parties=(server, keyholder)
    )
    clear = ClearVault(part)
    rng = np.random.default_rng(0)
    n = len(pairs.closure)
    expected = tuple(np.full(part.domain.size(q), 5) for q in pairs.closure)
    noises = rng.integers(-9, 10, (60, n))
    for noise in noises:
        vote = Ballot(
            pairs.closure, expected, rng.integers(1, 99, n), rng.integers(0, 99, n), Distance("l2_squared", 300)
        )
        assert vault.select(vote, [noise], 9) == clear.select(vote, [noise], 9)
    (counts,) = vault.measure([("a", "d")], [[np.arange(15)]])

    # The server: public terms and keys, ciphertexts, garbled labels, uniform shares of noise; it tells the index.
    [terms, public_key, evaluation_keys] = server.asked[Step.OPEN][0]
    assert Terms.unpack(terms).layout.profile.records == 300
    assert kinds([public_key, evaluation_keys]) == {Kind.PUBLIC_KEY, Kind.EVALUATION_KEYS}
    [[_, opening, *records]] = server.asked[Step.UPLOAD]
    assert kinds([opening]) == {Kind.OPENING} and kinds(records) == {Kind.RECORDS}
    assert kinds(server.asked[Step.CROSS][0]) == {Kind.CROSS}
    assert kinds(server.asked[Step.MEASURE][0][1:]) == {Kind.NOISE}
    masked = np.array([np.frombuffer(question[3], dtype=np.uint64) for question in server.asked[Step.CHOOSE]])
    # The key holder: padded values, garbled circuits, uniform shares of noise; it tells the noisy counts.
    assert kinds(keyholder.asked[Step.SHARE][0]) == {Kind.SHARES}
    masks = np.array([np.frombuffer(question[2], dtype=np.uint64) for question in keyholder.asked[Step.CHOOSE]])
    assert ((masks + masked).view(np.int64) == noises).all()
    assert uniform(masks.ravel()) and uniform(masked.ravel()) and not uniform(noises.ravel().astype(np.uint64))
    t = Terms.unpack(terms).layout.profile.plaintext
    assert np.mean([half.mean() for half in opened_by_key_holder]) == pytest.approx(t / 2, rel=0.3)
    assert keyholder.answered[Step.MEASURE] == [[counts.tobytes()]]
    np.testing.assert_array_equal(counts, contingency(part, ("a", "d")) + np.arange(15))
    assert set(keyholder.asked) == {
        Step.OPEN,
        Step.HELLO,
        Step.SHARE,
        Step.CROSS,
        Step.CHOOSE,
        Step.REVEAL,
        Step.MEASURE,
    }
    assert {len(answer[0]) for answer in server.answered[Step.REVEAL]} == {4}  # the index
    # Nobody saw a run of the table's codes.
    needle = part.codes[:3].tobytes()
    for party in (server, keyholder):
        seen = b"".join(chunk for questions in party.asked.values() for question in questions for chunk in question)
        assert needle not in seen


# --- several data holders -------------------------------------------------------------------------


@ENCRYPTED
@pytest.mark.parametrize("threshold", [False, True])
@pytest.mark.parametrize(
    ("cut", "upload"),
    [(lambda table: [table], "records"), (rows, "records"), (rows, "marginals"), (columns, "records")],
)
def test_what_holders_have_together_is_counted_as_one_table(part, pairs, cut, upload, threshold):
    vault = SealedVault(
        cut(part), pairs, Source.system().key, max_records=300, measurements=9, upload=upload, threshold=threshold
    )
    clear = ClearVault(part)
    holders = len(cut(part))
    noise = [[np.full(part.domain.size(q), 10**holder) for q in pairs.closure] for holder in range(holders)]
    for found, expected in zip(
        vault.measure(pairs.closure[:9], [n[:9] for n in noise]),
        clear.measure(pairs.closure[:9], [n[:9] for n in noise]),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    rng = np.random.default_rng(1)
    for score in ("l2", "l1_exact") * 3:
        vote = Ballot(
            pairs.closure,
            tuple(np.full(part.domain.size(q), 120 // part.domain.size(q)) for q in pairs.closure),
            np.ones(len(pairs.closure), dtype=np.int64) * 64,
            np.zeros(len(pairs.closure), dtype=np.int64),
            Distance(score, 300),
        )
        parts = list(rng.integers(-5000, 5001, (holders, len(pairs.closure))))
        assert vault.select(vote, parts, 5000 * holders) == clear.select(vote, parts, 5000 * holders)


@ENCRYPTED
@pytest.mark.parametrize(("cut", "split"), [(rows, "rows"), (columns, "columns")])
def test_a_fit_of_several_holders_on_ciphertexts_is_the_one_in_the_clear(part, pairs, cut, split):
    clear = estimator(pairs, split=split).fit(cut(part))
    assert released(estimator(pairs, split=split, engine="bgv", threshold=True).fit(cut(part))) == released(clear)


@pytest.mark.parametrize(("cut", "split"), [(rows, "rows"), (columns, "columns")])
def test_each_of_two_holders_adds_all_the_noise_that_is_charged(part, pairs, cut, split):
    alone = estimator(pairs).fit(part)
    fitted = estimator(pairs, split=split).fit(cut(part))
    gaussians = [charge for charge in fitted.ledger.charges if charge.mechanism == "gaussian"]
    assert fitted.ledger.spent == fitted.ledger.budget.rho
    assert {charge.by for charge in fitted.ledger.charges} == {"holders"}
    assert [c.parameter for c in gaussians] == [c.parameter for c in alone.ledger.charges if c.mechanism == "gaussian"]
    assert fitted.measurements_[0].sigma ** 2 == pytest.approx(2 * float(gaussians[0].parameter))


def test_holders_are_in_any_order_and_columns_too(part, pairs):
    left, right = columns(part)
    frames = [pd.DataFrame(t.codes[:, ::-1], columns=list(t.domain)[::-1]) for t in (right, left)]
    coded = estimator(pairs, split="columns").fit([left, right])
    assert released(estimator(pairs, split="columns").fit(frames)) == released(coded)


def test_the_estimator_takes_the_pieces_for_the_whole(part, pairs):
    """With nearly no noise: pieces lead to the same choices, and counts, as the whole table."""
    alone = estimator(pairs, epsilon=10**5).fit(part)
    for split, cut in (("rows", rows), ("columns", columns)):
        pieces = estimator(pairs, epsilon=10**5, split=split).fit(cut(part))
        assert [m.clique for m in pieces.measurements_] == [m.clique for m in alone.measurements_]
        for one, other in zip(pieces.measurements_, alone.measurements_, strict=True):
            assert np.abs(one.counts - other.counts).max() <= 1


@pytest.mark.parametrize(
    ("params", "cut", "error", "match"),
    [
        ({}, lambda t: [], DataError, "non-empty list"),
        ({}, lambda t: None, DataError, "needs a pandas DataFrame or an encoded Table, got NoneType"),
        ({}, columns, DomainError, "another domain"),
        ({"max_records": 138}, rows, DataError, "max_records = 138 records / 2 holders; raise the cap"),
        ({"split": "sides"}, rows, ConfigError, "split: must be 'rows' or 'columns'"),
        ({"split": "columns"}, rows, DataError, "exactly one holder"),
        ({"split": "columns"}, lambda t: columns(t)[:1], DataError, "exactly one holder"),
        ({"split": "columns"}, lambda t: [t, 3], DataError, "exactly one holder"),
        ({"split": "columns", "max_records": 100}, columns, DataError, "more than max_records = 100"),
        (
            {"split": "columns"},
            lambda t: [columns(t)[0], columns(t)[1].take(np.arange(9))],
            DataError,
            "different numbers of rows",
        ),
        ({"split": "columns", "upload": "marginals"}, columns, ConfigError, "no holder of some columns"),
        ({"engine": "ckks", "score": "l2_squared"}, rows, ConfigError, "one data holder"),
        ({"threshold": True}, rows, ConfigError, "need 'bgv'"),
        ({"server": "localhost:1"}, rows, ConfigError, "give both or none"),
        ({"server": "localhost:1", "keyholder": "localhost:2"}, rows, ConfigError, "need 'bgv'"),
        ({"timeout": 0}, rows, ConfigError, "timeout: must be a positive number"),
        ({"engine": "bgv", "server": "a:1", "keyholder": "a:1"}, rows, ConfigError, "an address of its own"),
    ],
)
def test_what_does_not_fit_together_is_named_before_anything_is_spent(part, pairs, params, cut, error, match):
    with pytest.raises(error, match=match):
        estimator(pairs, **params).fit(cut(part))


# --- the command ----------------------------------------------------------------------------------


@ENCRYPTED
def test_the_command_synthesises_a_table_of_ones_own(part, tmp_path, capsys):
    frame = pd.DataFrame(part.codes, columns=list(part.domain))
    frame.to_csv(tmp_path / "table.csv", index=False)
    part.domain.save(tmp_path / "domain.yaml")
    with served(SERVER) as (server, server_said), served(KEY_HOLDER) as (keyholder, keyholder_said):
        own = ["--csv", str(tmp_path / "table.csv"), "--domain", str(tmp_path / "domain.yaml")]
        where = ["--server", server, "--keyholder", keyholder, "--timeout", "60"]
        rest = ["--rounds", "2", "--out", str(tmp_path / "rows.csv"), "--seed", "1", "--max-records", "200"]
        roles.main(["holder", *own, *where, *rest])
        with pytest.raises(SystemExit, match="1"):
            roles.main(["holder", *own, "--server", keyholder, "--keyholder", server, *where[4:], *rest])
    assert set(pd.read_csv(tmp_path / "rows.csv").columns) == set("abcd")
    printed = capsys.readouterr()
    assert "round 2 of 2" in printed.out and "spent epsilon 1 on 5 releases" in printed.out
    wrong = r"holder: (.+): this is the (.+), not the \1; check the addresses\n"
    assert re.fullmatch(wrong, printed.err)
    assert server_said[0] == keyholder_said[0] == "session done"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["holder", "--dataset", "nothing"], 2),
        (["holder", "--csv", "table.csv"], 2),
        (["server", "--listen", "0.0.0.0:7101"], 2),
        (["holder", "--dataset", "diabetes_pima", "--server", "localhost:1"], 1),
    ],
)
def test_bad_input_is_one_line_and_a_code(arguments, code, capsys):
    with pytest.raises(SystemExit) as left:
        roles.main(arguments)
    assert left.value.code == code
    usage, _, error = capsys.readouterr().err.rpartition("python -m marginal_sdg.roles: ")
    assert error.count("\n") == 1 and "Traceback" not in usage


def test_questions_are_checked_against_the_layout():
    from marginal_sdg.crypto.question import NoisyArgmax

    task = NoisyArgmax(LAYOUT.profile.plaintext, 0, 10, (1, 1), (0, 0), 3)
    models = {0: np.arange(3), 2: np.arange(12)}
    fields, counts = Question(models, task).pack()
    again = Question.unpack(fields, counts, LAYOUT)
    assert again.task == task and {c: m.tolist() for c, m in again.models.items()} == {
        c: m.tolist() for c, m in models.items()
    }
    for bad, cells, match in [
        (b"", counts, "does not name"),
        (b"[]", counts, "does not name"),
        (fields.replace(b'"high": 10', b'"low": 10'), counts, "does not name"),
        (fields, counts[:-1], "needs 120 bytes, got 119"),
        (fields.replace(b"[0, 2]", b"[0, 9]"), counts, "candidate: 9"),
        (fields.replace(b"[0, 2]", b"[0, 0]"), counts[:48], "another number of candidates"),
    ]:
        with pytest.raises(ProtocolError, match=match):
            Question.unpack(bad, cells, LAYOUT)


def test_questions_about_cells_are_checked_against_the_layout():
    from marginal_sdg.crypto.deviation import LargestDeviation

    models = {0: np.arange(3), 2: np.arange(12)}
    task = LargestDeviation(LAYOUT.profile.plaintext, 100, tuple(models.values()), (1, 2), (0, 5), 3)
    fields, counts = Question(models, task).pack()
    again = Question.unpack(fields, counts, LAYOUT)
    assert isinstance(again.task, LargestDeviation) and again.task.digest == task.digest
    assert {c: m.tolist() for c, m in again.models.items()} == {c: m.tolist() for c, m in models.items()}
    for bad, cells, match in [
        (fields.replace(b'"penalties"', b'"penalty"'), counts, "does not name"),
        (fields.replace(b"[1, 2]", b"[1, 2.5]"), counts, "does not name"),
        (fields.replace(b"[1, 2]", b"[1]"), counts, "each of 1 candidates"),
        (fields.replace(b"[0, 2]", b"[]").replace(b"[1, 2]", b"[]"), b"", "each of 0 candidates"),
        (fields.replace(b'"records": 100', b'"records": 1000000000000'), counts, "need a modulus above"),
        (fields, np.full(15, -1).tobytes(), "must not be negative"),
        (fields.replace(b"[0, 2]", b"[0, 0]"), counts[:48], "another number of candidates"),
    ]:
        with pytest.raises(ProtocolError, match=match):
            Question.unpack(bad, cells, LAYOUT)


def test_parts_of_many_holders_keep_what_is_charged():
    """H - 1 parts of the others make up the variance; the closed form of the sum's loss, from the paper, by hand."""
    from fractions import Fraction

    for holders in (2, 3, 5, 8):
        v = part_variance(Fraction(50), holders)
        others = holders - 1
        tau = 10 * sum(np.exp(-2 * np.pi**2 * float(v) * k / (k + 1)) for k in range(1, others))
        assert 1 / (others * float(v)) + tau / 2 <= 1 / 50 * (1 + 1e-12)
        assert float(v) == pytest.approx(50 / others, rel=1e-3)
