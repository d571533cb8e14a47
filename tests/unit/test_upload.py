"""Uploads to three servers: the shares fit together, only the one right message is taken, no server sees anything."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from marginal_sdg.crypto.upload import Desk, Sender, expand, payload_bytes, wire_bytes
from marginal_sdg.errors import ProtocolError

CLIENT = 3
LINKS = [[bytes([server, client]) * 16 for client in range(5)] for server in range(3)]
RINGS = [np.dtype(np.uint32), np.dtype(np.uint64)]


def keys(seed=0):
    numbers = itertools.count(1000 * seed)
    return lambda: hashlib.sha256(str(next(numbers)).encode()).digest()


def sender(seed=0):
    return Sender(CLIENT, [LINKS[server][CLIENT] for server in range(3)], keys(seed))


def desks():
    return [Desk(server, LINKS[server]) for server in range(3)]


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=40), st.sampled_from(RINGS), st.integers(0, 5))
def test_components_agree_between_servers_and_add_up(values, ring, wave):
    answers = np.array(values).astype(ring)
    messages = sender().messages(wave, answers)
    held = [desk.take(CLIENT, wave, len(values), ring, m) for desk, m in zip(desks(), messages, strict=True)]
    for server in range(3):
        np.testing.assert_array_equal(held[server][1], held[(server + 1) % 3][0])
    total = held[0][0] + held[1][0] + held[2][0]
    assert total.dtype == ring
    np.testing.assert_array_equal(total, answers)
    assert [len(m) for m in messages] == [wire_bytes(server, len(values), ring.itemsize) for server in range(3)]
    assert wire_bytes(0, 70, 4) < wire_bytes(1, 70, 4) == wire_bytes(2, 70, 4)
    assert payload_bytes(1, 7, 4) == 32 + 28


def test_every_upload_uses_new_seeds_and_numbers():
    client, answers = sender(), np.arange(50, dtype=np.uint32)
    first, again = client.messages(0, answers), client.messages(0, answers)
    assert all(a != b for a, b in zip(first, again, strict=True))
    desk = Desk(1, LINKS[1])
    one = desk.take(CLIENT, 0, 50, np.uint32, again[1])  # the first one got lost
    assert not np.array_equal(one[0], Desk(1, LINKS[1]).take(CLIENT, 0, 50, np.uint32, first[1])[0])


def flipped(message: bytes, place: int) -> bytes:
    return message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: flipped(m, -1), "altered or truncated"),
        (lambda m: flipped(m, 40), "altered or truncated"),
        (lambda m: m[:-1], "altered or truncated"),
        (lambda m: m[:5], "misdirected or damaged header"),
        (lambda m: b"", "misdirected or damaged header"),
        (lambda m: flipped(m, 0), "misdirected or damaged header"),  # in another client's name
        (lambda m: flipped(m, 8), "misdirected or damaged header"),  # another wave
        (lambda m: flipped(m, 13), "altered or truncated"),  # another number
    ],
)
def test_damaged_uploads_are_refused_and_the_right_one_is_still_taken(change, complaint):
    answers = np.arange(20, dtype=np.uint32)
    message = sender().messages(1, answers)[1]
    desk = Desk(1, LINKS[1])
    with pytest.raises(ProtocolError, match=complaint) as caught:
        desk.take(CLIENT, 1, 20, np.uint32, change(message))
    assert str(caught.value).startswith("upload of client 3 to server 1: ")
    desk.take(CLIENT, 1, 20, np.uint32, message)
    with pytest.raises(ProtocolError, match="repeated"):
        desk.take(CLIENT, 1, 20, np.uint32, message)


def test_an_upload_for_another_server_or_of_another_size_is_refused():
    messages = sender().messages(0, np.arange(20, dtype=np.uint32))
    with pytest.raises(ProtocolError, match="misdirected"):
        Desk(2, LINKS[2]).take(CLIENT, 0, 20, np.uint32, messages[1])
    with pytest.raises(ProtocolError, match="do not fit 21 cells"):
        Desk(1, LINKS[1]).take(CLIENT, 0, 21, np.uint32, messages[1])


@pytest.mark.stat
@pytest.mark.parametrize("server", range(3))
def test_what_a_server_holds_looks_random(server):
    """For answers that are all zero, every byte value is equally likely in either component; and they are unrelated."""
    answers = np.zeros(200_000, dtype=np.uint32)
    message = sender().messages(0, answers)[server]
    own, following = Desk(server, LINKS[server]).take(CLIENT, 0, len(answers), np.uint32, message)
    for words in (own, following, own + following, own - following):
        counts = np.bincount(words.view(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6


def test_two_servers_together_would_see_everything():
    """The scheme protects against one server; this is why it says so."""
    answers = np.arange(9, dtype=np.uint64)
    messages = sender().messages(0, answers)
    first = Desk(0, LINKS[0]).take(CLIENT, 0, 9, np.uint64, messages[0])
    second = Desk(1, LINKS[1]).take(CLIENT, 0, 9, np.uint64, messages[1])
    np.testing.assert_array_equal(first[0] + first[1] + second[1], answers)


def test_expansion_is_a_function_of_its_seed():
    seed = bytes(32)
    np.testing.assert_array_equal(expand(seed, 5, np.uint32), expand(seed, 6, np.uint32)[:5])
    assert len(expand(seed, 0, np.uint64)) == 0
