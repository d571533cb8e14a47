"""Oblivious transfer: the receiver has the key or label that it chose, the sender cannot tell which, and no more."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from scipy import stats

from marginal_sdg.crypto import oblivious
from marginal_sdg.crypto.oblivious import POINT_BYTES, BaseSender, LabelReceiver, LabelSender, choose_keys
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.errors import ProtocolError
from marginal_sdg.privacy.noise import Source

FALSE_ALARM = 1e-6


def point(scalar: int) -> oblivious.Point:
    return oblivious._xy(ec.derive_private_key(scalar, ec.SECP256R1()).public_key())


def session(seed: int = 0) -> tuple[LabelSender, LabelReceiver]:
    source = Source.seeded(seed)
    receiver, sender = LabelReceiver(source.key), LabelSender(source.key)
    receiver.finish(sender.accept(receiver.hello))
    return sender, receiver


@pytest.fixture(scope="module")
def parties() -> tuple[LabelSender, LabelReceiver]:
    return session()


# --- base transfers -------------------------------------------------------------------------------


def test_points_are_added_as_their_scalars_are():
    for a, b in [(1, 2), (5, 123456789), (2**200 + 7, 2**255 + 1)]:
        assert oblivious._plus(point(a), point(b)) == point((a + b) % oblivious._ORDER)
    x, y = point(1)
    assert point(oblivious._ORDER - 1) == (x, oblivious._FIELD - y)


def test_the_receiver_has_the_key_it_chose_and_not_the_other():
    choices = [True, False, False, True, True, False]
    sender = BaseSender(Stream(bytes(32)))
    points, chosen = choose_keys(sender.hello, choices, Stream(b"\1" * 32))
    pairs = sender.keys(points, len(choices))
    assert [pair[choice] for pair, choice in zip(pairs, choices, strict=True)] == chosen
    assert len({key for pair in pairs for key in pair}) == 2 * len(choices)


def test_keys_of_a_repeated_point_differ():
    sender = BaseSender(Stream(bytes(32)))
    points, _ = choose_keys(sender.hello, [True], Stream(b"\1" * 32))
    first, second = sender.keys(points + points, 2)
    assert len({*first, *second}) == 4


def test_the_points_of_either_choice_come_from_the_same_set():
    """A point for the choice 1 is the one for the choice 0 under another secret: r + a in place of r."""
    hello = BaseSender(Stream(bytes(32))).hello
    packed = [choose_keys(hello, [choice], Stream(b"\1" * 32))[0] for choice in (False, True)]
    zero, one, offset = (oblivious._xy(oblivious._unpack(p)) for p in (*packed, hello))
    assert oblivious._plus(zero, offset) == one


def test_malformed_base_messages_are_refused():
    sender = BaseSender(Stream(bytes(32)))
    points, _ = choose_keys(sender.hello, [True, False], Stream(b"\1" * 32))
    for hello in (b"", sender.hello[:-1], sender.hello + b"\0", b"\2" + b"\xff" * 32, bytes(33)):
        with pytest.raises(ProtocolError, match="base transfers: needs a point"):
            choose_keys(hello, [True], Stream(bytes(32)))
    for cut in (points[:-1], points + points, b""):
        with pytest.raises(ProtocolError, match="needs 66 bytes of points"):
            sender.keys(cut, 2)
    with pytest.raises(ProtocolError, match="needs a point"):
        sender.keys(bytes(POINT_BYTES) + points[POINT_BYTES:], 2)
    with pytest.raises(ProtocolError, match="repeats the sender's"):
        sender.keys(sender.hello + points[POINT_BYTES:], 2)


# --- extension ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_the_receiver_has_the_label_it_chose(parties, count):
    sender, receiver = parties
    bits = np.random.default_rng(count).integers(0, 2, count).astype(bool)
    message, got = receiver.choose(bits)
    zero = sender.labels(count, message)
    assert len(message) == 16 * 64 * -(-count // 64)
    assert got.shape == zero.shape == (count, 2)
    assert np.array_equal(got, np.where(bits[:, None], zero ^ sender.delta, zero))


def test_labels_are_fresh_in_every_call(parties):
    sender, receiver = parties
    bits = np.zeros(64, dtype=bool)
    seen = [sender.labels(64, receiver.choose(bits)[0]) for _ in range(3)]
    assert len(np.unique(np.concatenate(seen), axis=0)) == 3 * 64


def test_delta_is_fresh_in_every_session_and_tells_labels_apart():
    deltas = [session(seed)[0].delta for seed in range(1, 4)]
    assert all(delta[0] & np.uint64(1) for delta in deltas)
    distances = [int(np.unpackbits((a ^ b).view(np.uint8)).sum()) for a, b in pairwise(deltas)]
    assert all(30 < distance < 98 for distance in distances)  # of 128 bits: six standard deviations


def test_the_same_keys_give_the_same_messages():
    (_, first), (_, second) = session(7), session(7)
    bits = np.ones(10, dtype=bool)
    assert first.choose(bits)[0] == second.choose(bits)[0]


@pytest.mark.stat
@pytest.mark.parametrize("bit", [False, True])
def test_the_senders_view_is_uniform_whatever_was_chosen(parties, bit):
    _, receiver = parties
    message, got = receiver.choose(np.full(2**14, bit))
    for view in (message, got.tobytes()):
        counts = np.bincount(np.frombuffer(view, dtype=np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_malformed_extension_messages_are_refused(parties):
    sender, receiver = parties
    message, _ = receiver.choose(np.ones(70, dtype=bool))
    for cut in (message[:-1], message + b"\0", b""):
        with pytest.raises(ProtocolError, match="70 need a message of 2048 bytes"):
            sender.labels(70, cut)
    assert sender.labels(70, message).shape == (70, 2)  # a refused message costs no labels


def test_transfers_need_a_set_up():
    source = Source.seeded(0)
    with pytest.raises(ProtocolError, match="call finish"):
        LabelReceiver(source.key).choose(np.ones(1, dtype=bool))
    with pytest.raises(ProtocolError, match="call accept"):
        LabelSender(source.key).labels(1, bytes(1024))
    receiver = LabelReceiver(source.key)
    with pytest.raises(ProtocolError, match="bytes of points"):
        receiver.finish(LabelSender(source.key).accept(receiver.hello)[:-1])
