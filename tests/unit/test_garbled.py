"""Garbled circuits: the index of the largest noisy score comes out, of a message that was tampered with nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from marginal_sdg.crypto import circuit
from marginal_sdg.crypto.circuit import Plain, to_bits
from marginal_sdg.crypto.garbled import (
    HEADER,
    LABEL_BYTES,
    Evaluation,
    Evaluator,
    Garbler,
    Garbling,
    Hash,
    connect,
    noisy_argmax,
)
from marginal_sdg.crypto.question import NoisyArgmax
from marginal_sdg.errors import ProtocolError
from marginal_sdg.privacy.noise import Source

FALSE_ALARM = 1e-6
PRIME = 4294967291
LINEAR = NoisyArgmax(1009, -500, 500, (1, 2, 3, 1, 1), (0, 5, 0, -7, 0), 50)
ROOT = NoisyArgmax(PRIME, 0, 2**20, (3, 7, 1, 5), (10, 0, 0, 2), 100, fraction=2)


def session(seed: int = 0) -> tuple[Garbler, Evaluator]:
    source = Source.seeded(seed)
    server, holder = Garbler(source.key), Evaluator(source.key)
    connect(server, holder)
    return server, holder


def shares(task: NoisyArgmax, rng: np.random.Generator):
    """Shares of random values and noise within the bounds, and the index of the largest score."""
    values = rng.integers(task.low, task.high, task.candidates)
    noise = rng.integers(-task.noise_bound, task.noise_bound + 1, task.candidates)
    a = rng.integers(0, task.modulus, task.candidates)
    n = rng.integers(0, 2**63, task.candidates).astype(np.uint64)
    f = [v if task.fraction is None else math.isqrt(v << 2 * task.fraction) for v in values.tolist()]
    scores = [w * x - p + z for w, x, p, z in zip(task.weights, f, task.penalties, noise.tolist(), strict=True)]
    return (a, (values - a) % task.modulus), (n, noise.astype(np.uint64) - n), scores.index(max(scores))


def steps(task: NoisyArgmax, server: Garbler, holder: Evaluator, seed: int = 0):
    """The messages of a round up to the garbled circuit, and the index."""
    values, noise, index = shares(task, np.random.default_rng(seed))
    request = holder.request(task, values[1], noise[1])
    return request, server.garble(task, values[0], noise[0], request), index


# --- gates ----------------------------------------------------------------------------------------

RNG = np.random.default_rng(5)
HASH = Hash(bytes(16))


def labels(shape) -> np.ndarray:
    return RNG.integers(0, 2**64, (*shape, 2), dtype=np.uint64)


def delta() -> np.ndarray:
    return labels(()) | np.array([1, 0], dtype=np.uint64)


def through(function, *words, first=3):
    """Garble and evaluate a function of words in the clear: what comes out, and both parties' gates and labels."""
    d = delta()
    zeros = [labels(word.shape) for word in words]
    garbling = Garbling(HASH, d, first)
    zero = function(garbling, *zeros)
    tables = np.concatenate([rows.reshape(-1, 2) for rows in garbling.tables])
    evaluation = Evaluation(HASH, tables, first)
    got = function(evaluation, *(z ^ np.where(w[..., None], d, 0) for z, w in zip(zeros, words, strict=True)))
    difference = got ^ zero
    bits = (difference == d).all(axis=-1)
    assert (bits | (difference == 0).all(axis=-1)).all()
    assert evaluation.left == 0 and evaluation.next == garbling.next == first + len(tables) // 2
    return bits, zero, got


def test_the_hash_is_tmmo():
    """H(x, i) = pi(pi(x) ^ i) ^ pi(x)."""

    def pi(block: bytes) -> bytes:
        return Cipher(algorithms.AES(b"k" * 16), modes.ECB()).encryptor().update(block)

    def xor(x: bytes, y: bytes) -> bytes:
        return bytes(p ^ q for p, q in zip(x, y, strict=True))

    x, tweaks = labels((3,)), np.array([0, 7, 2**40], dtype=np.uint64)
    hashed = Hash(b"k" * 16)(x, tweaks)
    for label, tweak, got in zip(x, tweaks.tolist(), hashed, strict=True):
        inner = pi(label.tobytes())
        assert got.tobytes() == xor(pi(xor(inner, tweak.to_bytes(16, "little"))), inner)


def test_half_gates_are_the_conjunction():
    x, y = (np.array(bits, dtype=bool)[None].repeat(64, axis=0) for bits in ([0, 0, 1, 1], [0, 1, 0, 1]))
    bits, _, _ = through(lambda gates, p, q: gates.both(p, q), x, y)
    assert np.array_equal(bits, x & y)
    bits, _, _ = through(lambda gates, p, q: gates.inverse(gates.both(gates.inverse(p), gates.inverse(q) ^ q)), x, y)
    assert np.array_equal(bits, x)  # a constant, not q ^ q, is an input as any other


def test_garbled_evaluation_is_evaluation_in_the_clear():
    """1,000 of 1,000 random instances of adder, selection and root, one in each lane."""
    rng = np.random.default_rng(1)
    x, y = (to_bits(rng.integers(0, 2**20, 1000, dtype=np.uint64), 20) for _ in range(2))

    def function(gates, p, q):
        total = circuit.add(gates, p, q)
        larger = circuit.select(gates, circuit.greater(gates, p, q), p, q)
        return circuit.square_root(gates, circuit.add_all(gates, [total, larger, gates.inverse(p)]), 1)

    bits, _, _ = through(function, x, y)
    assert np.array_equal(bits, function(Plain(), x, y))


def test_a_changed_table_gives_the_right_labels_or_none():
    """A bit flipped anywhere in the garbled circuit never turns into another valid output label."""
    rng = np.random.default_rng(2)
    d = delta()
    server, holder = LINEAR.server_bits([1] * 5, [0] * 5), LINEAR.holder_bits([7, 9, 0, 8, 2], [3] * 5)
    zeros = [labels(bits.shape) for bits in (server, holder)]
    garbling = Garbling(HASH, d, 0)
    zero = LINEAR.circuit(garbling, *zeros)
    tables = np.concatenate([rows.reshape(-1, 2) for rows in garbling.tables])
    active = [z ^ np.where(bits[..., None], d, 0) for z, bits in zip(zeros, (server, holder), strict=True)]
    right = LINEAR.circuit(Evaluation(HASH, tables, 0), *active)
    harmless = 0
    for _ in range(60):
        changed = tables.copy()
        changed[rng.integers(len(tables)), rng.integers(2)] ^= np.uint64(1) << np.uint64(rng.integers(64))
        got = LINEAR.circuit(Evaluation(HASH, changed, 0), *active)
        known = (got == right).all(axis=-1) | ~((got == zero) | (got == zero ^ d)).all(axis=-1)
        assert known.all()
        harmless += np.array_equal(got, right)
    assert 0 < harmless < 60  # the evaluator uses about half of the rows


# --- what the evaluator sees ----------------------------------------------------------------------


class Recorded:
    """Gates that remember what they gave."""

    def __init__(self, gates) -> None:
        self._gates = gates
        self.given: list[np.ndarray] = []

    def inverse(self, x):
        return self._gates.inverse(x)

    def both(self, x, y):
        self.given.append(self._gates.both(x, y))
        return self.given[-1]


@pytest.mark.parametrize("task", [LINEAR, ROOT])
def test_the_evaluator_has_one_label_of_every_wire(task):
    rng = np.random.default_rng(7)
    values, noise, _ = shares(task, rng)
    bits = task.server_bits(values[0], noise[0]), task.holder_bits(values[1], noise[1])
    plain = Recorded(Plain())
    task.circuit(plain, *bits)
    parties = []

    def function(gates, server, holder):
        parties.append(Recorded(gates))
        return task.circuit(parties[-1], server, holder)

    through(function, *bits)
    d = parties[0].inverse(np.zeros((1, 2), dtype=np.uint64))[0]
    for clear, zero, got in zip(plain.given, *(party.given for party in parties), strict=True):
        assert np.array_equal(got, zero ^ np.where(clear[..., None], d, np.uint64(0)))


def test_no_tweak_of_a_session_is_used_twice(monkeypatch):
    """Under one delta, a repeated tweak would let the evaluator compare labels of different gates."""
    used: list[np.ndarray] = []
    hashed = Hash.__call__
    monkeypatch.setattr(
        Hash, "__call__", lambda self, x, tweaks: used.append(tweaks.ravel()) or hashed(self, x, tweaks)
    )
    server, holder = session()
    for task in (LINEAR, ROOT):
        values, noise, _ = shares(task, np.random.default_rng(0))
        request = holder.request(task, values[1], noise[1])
        garbled = server.garble(task, values[0], noise[0], request)
        server.decode(holder.evaluate(garbled))
    _, counts = np.unique(np.concatenate(used), return_counts=True)
    assert (counts == 2).all()  # once by the garbler, once by the evaluator


@pytest.mark.stat
@pytest.mark.parametrize("bit", [False, True])
def test_labels_of_either_bit_are_uniform(bit):
    """Input labels, and those that gates give to the evaluator, whose colour says nothing of the bit."""
    x = np.full((1, 2**13), bit)
    _, _, got = through(lambda gates, p, q: gates.both(p, q), x, x)
    counts = np.bincount(got.view(np.uint8).ravel(), minlength=256)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    ones = int((got[..., 0] & np.uint64(1)).sum())
    assert stats.binomtest(ones, x.size).pvalue > FALSE_ALARM


@pytest.mark.stat
def test_garbled_circuits_are_uniform_bytes_whatever_the_values():
    server, holder = session(3)
    for value in (0, 1008):
        request = holder.request(LINEAR, [value] * 5, [0] * 5)
        garbled = server.garble(LINEAR, [0] * 5, [0] * 5, request)
        server.decode(holder.evaluate(garbled))
        for message in (request, garbled):
            body = np.frombuffer(message, dtype=np.uint8)[HEADER.size :]
            assert stats.chisquare(np.bincount(body, minlength=256)).pvalue > FALSE_ALARM


def test_messages_are_what_the_protocol_cannot_do_without():
    """One seed and two rows per gate; one label per bit of the index, of the two that the server knows."""
    server, holder = session()
    gates = Plain()
    zeros = np.zeros(5, dtype=np.int64)
    bits = LINEAR.holder_bits(zeros, zeros)
    LINEAR.circuit(gates, LINEAR.server_bits(zeros, zeros), bits)
    values, noise, index = shares(LINEAR, np.random.default_rng(0))
    chosen, sizes = noisy_argmax(LINEAR, server, holder, values, noise)
    assert chosen == index
    assert sizes == {
        "request": HEADER.size + LABEL_BYTES * 64 * -(-bits.size // 64),
        "garbled": HEADER.size + 32 + 2 * LABEL_BYTES * gates.conjunctions,
        "result": HEADER.size + LABEL_BYTES * 3,
    }


def test_a_session_costs_its_base_transfers_once():
    source = Source.seeded(0)
    assert connect(Garbler(source.key), Evaluator(source.key)) == {"hello": 33, "reply": 16 + 128 * 33}


# --- rounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        LINEAR,
        ROOT,
        NoisyArgmax(2**32, 0, 2**32, (1,) * 20, (0,) * 20, 2**10, fraction=0),
        NoisyArgmax(2**40, -(2**20), 2**20, (9,) * 33, (0,) * 33, 2**10),
        NoisyArgmax(PRIME, 0, 5, (1, 1), (0, 0), 0),
        NoisyArgmax(PRIME, 0, 5, (1,), (0,), 0),
    ],
    ids=["linear", "root", "binary root", "binary", "two", "one"],
)
def test_the_index_of_the_largest_noisy_score_comes_out(task):
    server, holder = session()
    rng = np.random.default_rng(4)
    for _ in range(3):
        values, noise, index = shares(task, rng)
        assert noisy_argmax(task, server, holder, values, noise)[0] == index


@pytest.mark.slow
def test_a_thousand_rounds_are_right():
    server, holder = session()
    rng = np.random.default_rng(6)
    for number in range(1000):
        task = (LINEAR, ROOT)[number % 2]
        values, noise, index = shares(task, rng)
        assert noisy_argmax(task, server, holder, values, noise)[0] == index


def test_the_first_of_equal_scores_wins():
    server, holder = session()
    task = NoisyArgmax(101, 0, 101, (1,) * 6, (0,) * 6, 10)
    values = np.array([3, 40, 39, 40, 40, 0])
    zeros = np.zeros(6, dtype=np.int64)
    assert noisy_argmax(task, server, holder, (values, zeros), (zeros, zeros))[0] == 1


def test_keys_decide_every_byte_and_no_round_repeats_another():
    (server, holder), (again, twin) = session(8), session(8)
    first, second = steps(LINEAR, server, holder), steps(LINEAR, again, twin)
    assert first == second
    server.decode(holder.evaluate(first[1]))
    request, garbled, _ = steps(LINEAR, server, holder)
    assert request[HEADER.size :] != first[0][HEADER.size :]
    rows = [np.frombuffer(m, dtype=np.uint64, offset=HEADER.size).reshape(-1, 2) for m in (garbled, first[1])]
    assert len(np.unique(np.concatenate(rows), axis=0)) == 2 * len(rows[0])


# --- refusals -------------------------------------------------------------------------------------


def changed(message: bytes, place: int) -> bytes:
    return message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]


def test_a_round_is_evaluated_and_decoded_once():
    server, holder = session()
    request, garbled, index = steps(LINEAR, server, holder)
    with pytest.raises(ProtocolError, match="has not been evaluated"):
        holder.request(LINEAR, [0] * 5, [0] * 5)
    with pytest.raises(ProtocolError, match="has not been decoded"):
        server.garble(LINEAR, [0] * 5, [0] * 5, request)
    result = holder.evaluate(garbled)
    with pytest.raises(ProtocolError, match="has been evaluated"):
        holder.evaluate(garbled)
    assert server.decode(result) == index
    with pytest.raises(ProtocolError, match="no garbled circuit is out"):
        server.decode(result)
    with pytest.raises(ProtocolError, match="is of round 0, but this is round 1"):
        server.garble(LINEAR, [0] * 5, [0] * 5, request)
    steps(LINEAR, server, holder)
    with pytest.raises(ProtocolError, match="is of round 0, but this is round 1"):
        holder.evaluate(garbled)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: b"", "fewer than its header"),
        (lambda m: m[:40], "no seed and whole gates"),
        (lambda m: m[:-1], "no seed and whole gates"),
        (lambda m: m[:-32], "too few"),
        (lambda m: m + bytes(32), "has 1 gates more"),
        (lambda m: changed(m, 0), "another step"),
        (lambda m: changed(m, 4), "is of round 1"),
        (lambda m: changed(m, 8), "another question"),
    ],
    ids=["empty", "no seed", "cut", "gate missing", "gate more", "step", "round", "question"],
)
def test_malformed_circuits_are_refused(change, named):
    server, holder = session()
    _, garbled, _ = steps(LINEAR, server, holder)
    with pytest.raises(ProtocolError, match=named):
        holder.evaluate(change(garbled))


def test_malformed_requests_are_refused_and_cost_nothing():
    server, holder = session()
    values, noise, index = shares(LINEAR, np.random.default_rng(0))
    request = holder.request(LINEAR, values[1], noise[1])
    for cut in (request[:-1], request + b"\0", request[: HEADER.size]):
        with pytest.raises(ProtocolError, match="need a message of"):
            server.garble(LINEAR, values[0], noise[0], cut)
    with pytest.raises(ProtocolError, match="another question"):
        server.garble(ROOT, [0] * 4, [0] * 4, request)
    assert server.decode(holder.evaluate(server.garble(LINEAR, values[0], noise[0], request))) == index


def test_results_that_the_circuit_does_not_have_are_refused():
    server, holder = session()
    _, garbled, index = steps(LINEAR, server, holder)
    result = holder.evaluate(garbled)
    with pytest.raises(ProtocolError, match="needs 48 bytes of labels"):
        server.decode(result[:-1])
    with pytest.raises(ProtocolError, match="labels that the circuit does not have"):
        server.decode(changed(result, HEADER.size))
    with pytest.raises(ProtocolError, match="another step"):
        server.decode(garbled)
    assert server.decode(result) == index


def test_a_circuit_that_was_changed_on_its_way_gives_no_other_index():
    for place in (HEADER.size, HEADER.size + 32, -1):  # the seed, the first row, the last
        server, holder = session()
        _, garbled, index = steps(LINEAR, server, holder)
        result = holder.evaluate(changed(garbled, place % len(garbled)))
        try:
            assert server.decode(result) == index
        except ProtocolError as refusal:
            assert "labels that the circuit does not have" in str(refusal)


def test_a_round_needs_a_set_up():
    source = Source.seeded(0)
    server, holder = Garbler(source.key), Evaluator(source.key)
    with pytest.raises(ProtocolError, match="set-up is not finished"):
        holder.request(LINEAR, [0] * 5, [0] * 5)
    with pytest.raises(ProtocolError, match="no labels were asked for"):
        holder.evaluate(bytes(100))
    other, asking = session()
    request, _, _ = steps(LINEAR, other, asking)
    with pytest.raises(ProtocolError, match="set-up is not finished"):
        server.garble(LINEAR, [0] * 5, [0] * 5, request)
    with pytest.raises(ProtocolError, match="bytes of points"):
        holder.finish(b"")
