"""Replicated sharing: exact results, views that look like noise, nothing opened by the way, and costs to the byte."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from marginal_sdg.crypto import rss_cost
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.crypto.rss import Party, Shares, bits_for, deal, segment_sums
from marginal_sdg.crypto.rss_compare import absolute_sums, argmax, negative, open_bits
from marginal_sdg.crypto.rss_cost import Cost
from marginal_sdg.crypto.transport import LocalNetwork, links, run_parties
from marginal_sdg.errors import ProtocolError

ALPHA = 1e-6
LOW, HIGH = -(2**63), 2**63 - 1


def network(**options) -> LocalNetwork:
    return LocalNetwork(3, {link: os.urandom(32) for link in links(3)}, **options)


def stream_keys() -> list[tuple[bytes, bytes]]:
    keys = [os.urandom(32) for _ in range(3)]
    return [(keys[rank], keys[(rank + 1) % 3]) for rank in range(3)]


def dealt(values) -> tuple[Shares, Shares, Shares]:
    return deal(np.asarray(values, dtype=np.int64), Stream(os.urandom(32)), Stream(os.urandom(32)))


def play(program, *secrets, net=None, wrap=lambda transport: transport) -> list:
    """Run ``program(party, *shares)`` at the three servers; their results."""
    shares = [dealt(secret) for secret in secrets]
    return run_parties(
        net or network(),
        lambda end, keys, *mine: program(Party(end.rank, wrap(end), keys), *mine),
        stream_keys(),
        *shares,
    )


def opened(program, *secrets) -> list[int]:
    """The result of a program that returns shares; the same at all servers."""
    first, *others = play(lambda party, *x: party.open(program(party, *x), "test").tolist(), *secrets)
    assert others == [first, first]
    return first


def wrapped(values) -> list[int]:
    """Python integers modulo 2^64, as int64."""
    return [(int(v) - LOW) % 2**64 + LOW for v in values]


def starts_of(sizes) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)


def sums_of(values, starts) -> list[int]:
    return [sum(map(int, part)) for part in np.split(np.asarray(values, dtype=object), starts[1:])]


# --- every operation is exact ---------------------------------------------------------------------


def integers(bits: int = 64):
    """Of that many bits; extremes are as likely as all others together."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    extremes = [v for v in {low, low + 1, -1, 0, 1, high - 1, high} if low <= v <= high]
    return st.one_of(st.sampled_from(sorted(extremes)), st.integers(low, high))


def vectors(data, count: int = 1, bits: int = 64, most: int = 200) -> list[np.ndarray]:
    """Some vectors of one length: up to twenty different values each, repeated."""
    n = data.draw(st.integers(1, most))
    return [
        np.resize(np.array(data.draw(st.lists(integers(bits), min_size=20, max_size=20)), dtype=np.int64), n)
        for _ in range(count)
    ]


def segments(data, n: int) -> np.ndarray:
    """Starts of segments of n values; many of them are empty."""
    cuts = data.draw(st.lists(st.integers(0, n), max_size=8))
    return np.array([0, *sorted(cuts)], dtype=np.int64)


def check_open(data):
    (x,) = vectors(data)
    assert opened(lambda party, x: x, x) == x.tolist()


def check_linear(data):
    x, y, c = vectors(data, 3)
    starts = segments(data, len(x))

    def program(party, x, y):
        return (party.add_public(x.scaled(c) - y + (-x), c)).sums(starts)

    terms = [int(a) * int(f) - int(b) - int(a) + int(f) for a, b, f in zip(x, y, c, strict=True)]
    assert opened(program, x, y) == wrapped(sums_of(terms, starts))


def check_replicate(data):
    """What two servers hold becomes the shared sum of three."""
    own = vectors(data, 3)
    shares = opened(lambda party: party.replicate(own[party.rank].view(np.uint64)))
    assert shares == wrapped(map(int.__add__, own[0].tolist(), own[1].tolist()))


def check_reshare(data):
    """Everybody's private vectors become their shared sum."""
    own = vectors(data, 3)
    shares = opened(lambda party: party.reshare(own[party.rank].view(np.uint64)))
    assert shares == wrapped(map(sum, zip(*(v.tolist() for v in own), strict=True)))


def test_words_of_a_stream_do_not_depend_on_how_they_are_drawn():
    whole = Stream(bytes(32)).draw(60_000)
    stream, start = Stream(bytes(32)), 0
    for count in (0, 1, 1023, 3, 1024, 9000, 8192, 5, 30_000):
        np.testing.assert_array_equal(stream.draw(count), whole[start : start + count])
        start += count
    rest = np.ones(60_000 - start, dtype=np.uint64)
    stream.combine(rest, np.subtract)
    np.testing.assert_array_equal(rest, 1 - whole[start:])


def test_resharing_leaves_its_argument_alone():
    own = [np.arange(5, dtype=np.uint64) for _ in range(3)]
    play(lambda party: party.reshare(own[party.rank]))
    assert [vector.tolist() for vector in own] == 3 * [[0, 1, 2, 3, 4]]


def check_multiply(data):
    x, y = vectors(data, 2)
    assert opened(Party.multiply, x, y) == wrapped(map(int.__mul__, x.tolist(), y.tolist()))


def check_dot(data):
    x, y = vectors(data, 2)
    starts = segments(data, len(x))
    products = [a * b for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    assert opened(lambda party, x, y: party.dot(x, y, starts), x, y) == wrapped(sums_of(products, starts))


def check_negative(data):
    bits = data.draw(st.integers(2, 64))
    (x,) = vectors(data, bits=bits)
    results = play(lambda party, x: open_bits(party, negative(party, x, bits), len(x), "signs").tolist(), x)
    assert results == 3 * [(x < 0).astype(int).tolist()]


def check_absolute_sums(data):
    bits = data.draw(st.integers(2, 64))
    (x,) = vectors(data, bits=bits)
    starts = segments(data, len(x))
    expected = wrapped(sums_of([abs(v) for v in x.tolist()], starts))
    assert opened(lambda party, x: absolute_sums(party, x, starts, bits), x) == expected


def check_argmax(data):
    bits = data.draw(st.integers(2, 64))
    half = 2 ** (bits - 2)
    (x,) = vectors(data, bits=bits - 1, most=90) if bits > 2 else vectors(data, bits=2, most=90)
    x = np.clip(x, -half, half - 1)  # so that every difference has ``bits`` bits
    assert play(lambda party, x: argmax(party, x, bits), x) == 3 * [int(np.argmax(x))]


CHECKS = [
    check_open,
    check_linear,
    check_replicate,
    check_reshare,
    check_multiply,
    check_dot,
    check_negative,
    check_absolute_sums,
    check_argmax,
]


def run_often(check, examples):
    """Through a function of its own: settings stick to a function, and the fast and the slow test share the checks."""

    def drawn(data):
        check(data)

    given(data=st.data())(settings(max_examples=examples, deadline=None, database=None)(drawn))()


@pytest.mark.parametrize("check", CHECKS)
def test_results_are_exact(check):
    run_often(check, 12)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_ten_thousand_results_are_exact(check):
    """500 examples of vectors of up to twenty different values."""
    run_often(check, 500)


@pytest.mark.parametrize("bits", range(2, 65))
def test_signs_at_the_ends_of_every_range(bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    x = np.array([low, low + 1, -1, 0, 1, high - 1, high] if bits > 2 else [low, -1, 0, high], dtype=np.int64)
    results = play(lambda party, x: open_bits(party, negative(party, x, bits), len(x), "signs").tolist(), x)
    assert results[0] == (x < 0).astype(int).tolist()


@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 32767, 32769, 70000])
def test_sums_for_lengths_beside_words_and_blocks(n):
    x = np.random.default_rng(n).integers(-(2**20), 2**20, n)
    starts = np.array([0, n // 3, n // 3, n])
    assert opened(lambda party, x: absolute_sums(party, x, starts, 21), x) == sums_of(np.abs(x), starts)


@pytest.mark.parametrize("values", [[5], [3, 3], [-1, -1, -2], [0, 7, 7, 7, 1], [LOW // 2, -(LOW // 2) - 1], [4] * 65])
def test_of_equal_values_the_first_wins(values):
    assert play(lambda party, x: argmax(party, x, 64), values) == 3 * [int(np.argmax(values))]


def test_one_candidate_and_no_cells_need_no_message():
    def program(party, one, none):
        starts = np.zeros(3, dtype=np.int64)
        party.open(none, "nothing")
        party.multiply(none, none)
        party.replicate(none.own)
        assert negative(party, none, 8).shape == (2, 0)
        sums = absolute_sums(party, none, starts, 8)
        return argmax(party, one, 8), len(sums), sums.own.any() or sums.next.any()

    net = network()
    assert play(program, [-5], [], net=net) == 3 * [(0, 3, False)]
    assert [t.messages for t in net.transcripts] == [0, 0, 0]
    assert [t.opened for t in net.transcripts] == [[], [], []]


def test_shares_can_be_taken_apart():
    x = np.arange(-50, 50)
    for places in (x % 7 == 2, np.array([5, 1, 99]), slice(3, 9)):
        assert opened(lambda party, x, places=places: x[places], x) == x[places].tolist()


# --- bounds and bad input -------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [0, 1, 2, 127, 128, 2**62, 2**63 - 1])
def test_bits_hold_the_bound_and_no_fewer_do(bound):
    bits = bits_for(bound)
    assert bound < 2 ** (bits - 1) and (bits == 2 or bound >= 2 ** (bits - 2))


@pytest.mark.parametrize("bound", [-1, 2**63])
def test_a_bound_beyond_the_ring_is_refused(bound):
    with pytest.raises(ProtocolError, match="bound: needs 0 to"):
        bits_for(bound)


@pytest.mark.parametrize("starts", [[], [1, 2], [0, 3, 2], [0, 6]])
def test_segments_that_do_not_fit_are_refused(starts):
    with pytest.raises(ProtocolError, match="starts: needs ascending numbers from 0 to 5"):
        segment_sums(np.ones(5, dtype=np.uint64), np.array(starts, dtype=np.int64))


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (lambda party, x: negative(party, x, 1), "bits: needs 2 to 64, got 1"),
        (lambda party, x: negative(party, x, 65), "bits: needs 2 to 64, got 65"),
        (lambda party, x: argmax(party, x[:0], 8), "candidates: needs at least one"),
        (lambda party, x: party.multiply(x, x[:2]), "factors: needs vectors of one length, got 3 and 2"),
        (lambda party, x: argmax(party, x, 3), "not one of 3 candidates wins"),  # differences need more bits
    ],
)
def test_bad_input_is_refused(program, problem):
    with pytest.raises(ProtocolError, match=problem):
        play(program, [0, 3, 6])


# --- what it costs --------------------------------------------------------------------------------


COSTS = {
    "open": (7, lambda party, x: party.open(x, "x"), rss_cost.one_round(7)),
    "reshare": (7, lambda party, x: party.reshare(x.own), rss_cost.one_round(7)),
    "multiply": (7, lambda party, x: party.multiply(x, x), rss_cost.one_round(7)),
    "dot": (70, lambda party, x: party.dot(x, x, starts_of([0, 30, 40])), rss_cost.one_round(3)),
    "replicate": (7, lambda party, x: party.replicate(x.own), rss_cost.replicate(7)),
    **{
        f"negative {n} {bits}": (n, lambda party, x, bits=bits: negative(party, x, bits), rss_cost.negative(n, bits))
        for n, bits in product([0, 1, 65], [2, 3, 4, 5, 6, 9, 10, 24, 48, 64])
    },
    **{
        f"sums {n} {bits}": (
            n,
            lambda party, x, bits=bits: absolute_sums(party, x, np.zeros(5, dtype=np.int64), bits),
            rss_cost.absolute_sums(n, 5, bits),
        )
        for n, bits in product([0, 1, 65], [2, 22, 64])
    },
    **{
        f"argmax {n} {bits}": (n, lambda party, x, bits=bits: argmax(party, x, bits), rss_cost.argmax(n, bits))
        for n, bits in [*product([1, 2, 3, 5], [16, 64]), (9, 16), (64, 48), (65, 48), (66, 48), (119, 48)]
    },
    "two": (
        70,
        lambda party, x: argmax(party, absolute_sums(party, x, starts_of([30, 40]), 8), 16),
        rss_cost.absolute_sums(70, 2, 8) + rss_cost.argmax(2, 16),
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_are_those_of_the_formulas(name):
    n, program, cost = COSTS[name]
    net = network()
    play(program, np.arange(n) % 4, net=net)
    assert cost == Cost(
        tuple(t.payload_bytes for t in net.transcripts),
        tuple(t.messages for t in net.transcripts),
        net.transcripts[0].rounds,
    )
    assert cost.wire == tuple(t.wire_bytes for t in net.transcripts)
    assert len({t.rounds for t in net.transcripts}) == 1


def test_the_tree_of_carries_is_counted_gate_by_gate():
    for bits in range(2, 65):
        blocks, gates, rounds = bits - 1, 0, 0
        while blocks > 1:
            gates, rounds, blocks = gates + 2 * (blocks // 2) - 1, rounds + 1, blocks - blocks // 2
        assert rss_cost.ands(bits) == (gates, rounds)


def test_a_select_over_half_a_million_cells_stays_within_9_megabytes_and_25_rounds():
    cost = rss_cost.absolute_sums(512_000, 64, 24) + rss_cost.one_round(64) + rss_cost.argmax(64, 48)
    assert max(cost.payload) < 8.2e6 and cost.rounds == 25
    assert max(cost.wire) < 8.2e6


# --- what a server sees ---------------------------------------------------------------------------


class Listening:
    """A transport that keeps what its party receives: openings, and other messages by their numbers."""

    def __init__(self, transport, heard) -> None:
        self._transport, self._heard, self._count, self._opened = transport, heard, 0, 0

    def __getattr__(self, name):
        return getattr(self._transport, name)

    def receive(self, sender, count):
        received = self._transport.receive(sender, count)
        opened = len(self.transcript.opened)
        self._heard["opened" if opened > self._opened else self._count].append(received)
        self._count, self._opened = self._count + 1, opened
        return received


def every_operation(party, x, scores):
    """Each primitive once, on 64 scores and on the cells."""
    party.multiply(scores, scores)
    party.reshare(np.zeros(len(scores), dtype=np.uint64))
    party.replicate(np.zeros(len(scores), dtype=np.uint64))
    absolute_sums(party, x, np.arange(len(x)), 12)
    argmax(party, scores, 12)
    party.open(scores, "scores")


def views(rank: int, runs: int) -> dict[int, list[np.ndarray]]:
    """Every message to one server but openings, over runs in which only the stream that it does not know is fresh.

    Its own shares and streams, and so also the third components of the secrets, are the same in all runs.
    """
    known = [bytes([n]) * 32 for n in range(3)]
    secrets = np.full(640, -1, dtype=np.int64), np.zeros(64, dtype=np.int64)
    shares = [deal(secret, Stream(bytes([9, n]) * 16), Stream(bytes([8, n]) * 16)) for n, secret in enumerate(secrets)]
    heard = defaultdict(list)
    for run in range(runs):
        keys = [bytes([run + 10]) * 32 if n == (rank + 2) % 3 else known[n] for n in range(3)]

        def program(end, own, following, x, scores):
            every_operation(
                Party(end.rank, Listening(end, heard) if end.rank == rank else end, (own, following)), x, scores
            )

        run_parties(network(), program, keys, keys[1:] + keys[:1], *shares)
    del heard["opened"]
    return heard


def least_p_value(heard) -> float:
    """Chi-square of the bytes of every message; of differences of neighbouring words, and of the same word in two runs.

    A word that is masked by what the server knows is the same in two runs, or its negative.
    """
    p_values = []
    for messages in heard.values():
        words = np.stack(messages)
        again = words[1::2], words[: len(words) // 2 * 2 : 2]
        for sample in (words, words[:, 1:] ^ words[:, :-1], again[0] ^ again[1], again[0] + again[1]):
            counts = np.bincount(sample.reshape(-1).view(np.uint8), minlength=256)
            if counts.sum() > 256 * 8:
                p_values.append(stats.chisquare(counts).pvalue)
    return min(p_values) * len(p_values)  # Bonferroni


@pytest.mark.stat
@pytest.mark.parametrize("rank", range(3))
def test_what_a_server_receives_is_uniform_given_all_that_it_knows(rank):
    assert least_p_value(views(rank, 40)) > ALPHA


DRAW = Party.draw


@pytest.mark.stat
@pytest.mark.parametrize(
    ("rank", "name", "broken"),
    [
        *((rank, "mask", lambda self, words, first, second: None) for rank in range(3)),
        *((rank, "draw", lambda self, component, count: np.zeros(count, dtype=np.uint64)) for rank in (0, 1)),
        (0, "draw", lambda self, component, count: DRAW(self, component, count) * (count < 640 or component != 2)),
    ],
    ids=["no mask 0", "no mask 1", "no mask 2", "no draw 0", "no draw 1", "no draw for cells"],
)
def test_masks_left_out_are_noticed(monkeypatch, rank, name, broken):
    """Results stay right without them, so only the views can tell."""
    monkeypatch.setattr(Party, name, broken)
    assert least_p_value(views(rank, 40)) < ALPHA


def test_opened_is_only_what_was_meant():
    """A select opens its index, one bit per candidate; everything else stays shared."""

    def select(party, x, noise):
        sums = absolute_sums(party, x, starts_of([200] * 70), 12)
        return argmax(party, sums + party.reshare(noise.own), 24)

    net = network()
    play(select, np.arange(14_000) % 2000, np.zeros(70), net=net)
    assert [t.opened for t in net.transcripts] == 3 * [[("argmax", 2)]]


def test_what_an_opening_shows_is_its_value_and_nothing_else():
    """The component that a server lacks is the opened value minus its own two: it could have made the message up."""
    heard = defaultdict(list)

    def program(party, x):
        shares = party.multiply(x, x)
        return party.open(shares, "squares"), shares

    results = play(program, [3, -4], wrap=lambda transport: Listening(transport, heard))
    messages = {message.tobytes() for message in heard["opened"]}
    for values, shares in results:
        assert values.tolist() == [9, 16]
        assert (values.view(np.uint64) - shares.own - shares.next).tobytes() in messages


# --- faults ---------------------------------------------------------------------------------------

CELLS = np.array([3, -2, 0, 7, -7, 1, 5, -1] * 10)
SIZES = [20, 0, 35, 25]
SCORES = sums_of(np.abs(CELLS), starts_of(SIZES))


def small_select(party, x):
    sums = absolute_sums(party, x, starts_of(SIZES), 5)
    return party.open(sums, "sums").tolist(), argmax(party, sums, 12)


RIGHT = (SCORES, int(np.argmax(SCORES)))


def messages_of_a_small_select() -> list[tuple[int, int, int]]:
    seen = []

    def listen(sender, receiver, number, frame):
        seen.append((sender, receiver, number))
        return [frame]

    assert play(small_select, CELLS, net=network(faults=listen)) == 3 * [RIGHT]
    return sorted(seen)


MESSAGES = messages_of_a_small_select()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("message", MESSAGES)
def test_a_server_that_dies_at_any_message_stops_the_others(message):
    ends = {}

    def kill(sender, receiver, number, frame):
        if (sender, receiver, number) == message:
            raise KilledError
        return [frame]

    def program(party, x):
        try:
            ends[party.rank] = small_select(party, x)
        except (ProtocolError, KilledError) as error:
            ends[party.rank] = type(error)
            raise

    with pytest.raises(KilledError):
        play(program, CELLS, net=network(faults=kill))
    assert ends[message[0]] is KilledError
    assert all(end == RIGHT or issubclass(end, ProtocolError) for rank, end in ends.items() if rank != message[0])


FAULTS = {
    "altered": lambda frame, held: [frame[:-17] + bytes([frame[-17] ^ 1]) + frame[-16:]],
    "truncated": lambda frame, held: [frame[:-8]],
    "replayed": lambda frame, held: [*held, frame],
    "lost": lambda frame, held: [],
}


def faulty(kind, message):
    """A network in which one message meets a fault; the one before it on its link may come again."""
    held = {}

    def faults(sender, receiver, number, frame):
        before = held.get((sender, receiver), [])
        held[sender, receiver] = [frame]
        if (sender, receiver, number) != message:
            return [frame]
        return FAULTS[kind](frame, before)

    return network(faults=faults)


def check_fault(kind, message):
    if kind == "replayed" and message[2] == 0:
        return  # nothing came before
    with pytest.raises(ProtocolError, match=r"altered or truncated|replayed|lost"):
        play(small_select, CELLS, net=faulty(kind, message))


@pytest.mark.parametrize("message", MESSAGES[::7])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_bad_frame_never_gives_a_wrong_result(kind, message):
    check_fault(kind, message)


@pytest.mark.slow
@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("kind", FAULTS)
def test_no_bad_frame_gives_a_wrong_result(kind, message):
    check_fault(kind, message)


@pytest.mark.slow
@pytest.mark.parametrize("message", MESSAGES)
def test_a_frame_in_the_place_of_another_one_is_noticed(message):
    """Reordered: it is kept back until the next one on its link, or for ever."""
    kept = []

    def late(sender, receiver, number, frame):
        if (sender, receiver, number) == message:
            kept.append(frame)
            return []
        if kept and (sender, receiver) == message[:2]:
            return [frame, kept.pop()]
        return [frame]

    with pytest.raises(ProtocolError, match="lost"):
        play(small_select, CELLS, net=network(faults=late))
