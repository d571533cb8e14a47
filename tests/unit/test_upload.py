"""Uploads to two servers: shares add up, only the one right message is taken, neither server sees anything."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from marginal_sdg.crypto.upload import RECEIVERS, Desk, Sender, payload_bytes, wire_bytes
from marginal_sdg.errors import ProtocolError

CLIENT = 3
LINKS = [[bytes([server, client]) * 16 for client in range(5)] for server in range(RECEIVERS)]


def keys(seed=0):
    numbers = itertools.count(1000 * seed)
    return lambda: hashlib.sha256(str(next(numbers)).encode()).digest()


def sender(seed=0):
    return Sender(CLIENT, [links[CLIENT] for links in LINKS], keys(seed))


def messages(answers, client=None, wave=0):
    return (client or sender()).messages(wave, np.array(answers, dtype=np.uint64))


def desk(server):
    return Desk(server, LINKS[server])


def share(server, message, cells, wave=0):
    """What a server adds to its sum."""
    total, receiver = np.zeros(cells, dtype=np.uint64), desk(server)
    receiver.add(receiver.take(CLIENT, wave, cells, message), total)
    return total


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40), st.integers(0, 5))
def test_shares_add_up_and_cost_what_the_formula_says(values, wave):
    sent = messages(values, wave=wave)
    first, second = (share(server, message, len(values), wave) for server, message in enumerate(sent))
    assert (first + second).tolist() == values
    assert [len(message) for message in sent] == [wire_bytes(server, len(values)) for server in range(RECEIVERS)]
    assert (payload_bytes(0, 7), payload_bytes(1, 7)) == (32, 56)


def test_a_server_adds_up_what_all_clients_sent():
    """Longer than the pieces that a seed is expanded in."""
    answers = np.random.default_rng(0).integers(0, 2**40, (5, 20_000), dtype=np.uint64)
    total = np.zeros(20_000, dtype=np.uint64)
    for server in range(RECEIVERS):
        receiver = desk(server)
        for client in range(5):
            sent = Sender(client, [links[client] for links in LINKS], keys(client)).messages(0, answers[client].copy())
            receiver.add(receiver.take(client, 0, 20_000, sent[server]), total)
    np.testing.assert_array_equal(total, answers.sum(axis=0))


def test_every_upload_uses_a_new_seed_and_number():
    client, answers = sender(), range(50)
    first, again = messages(answers, client), messages(answers, client)
    assert all(a != b for a, b in zip(first, again, strict=True))
    for server in range(RECEIVERS):  # whichever got lost
        assert not np.array_equal(share(server, first[server], 50), share(server, again[server], 50))


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
    message = messages(range(20), wave=1)[1]
    receiver = desk(1)
    with pytest.raises(ProtocolError, match=complaint) as caught:
        receiver.take(CLIENT, 1, 20, change(message))
    assert str(caught.value).startswith("upload of client 3 to server 1: ")
    receiver.take(CLIENT, 1, 20, message)
    with pytest.raises(ProtocolError, match="repeated"):
        receiver.take(CLIENT, 1, 20, message)


def test_an_upload_for_another_server_or_of_another_size_is_refused():
    sent = messages(range(20))
    with pytest.raises(ProtocolError, match="misdirected"):
        desk(0).take(CLIENT, 0, 20, sent[1])
    with pytest.raises(ProtocolError, match="do not fit 21 cells"):
        desk(1).take(CLIENT, 0, 21, sent[1])


@pytest.mark.stat
@pytest.mark.parametrize("server", range(RECEIVERS))
def test_what_a_server_holds_looks_random(server):
    """For answers that are all zero, every byte value is equally likely, and neighbouring words are unrelated."""
    words = share(server, messages(np.zeros(100_000))[server], 100_000)
    for seen in (words, words[1:] + words[:-1], words[1:] - words[:-1]):
        counts = np.bincount(seen.view(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6


def test_the_two_servers_together_would_see_everything():
    """The scheme protects against one server; this is why it says so."""
    first, second = (share(server, message, 9) for server, message in enumerate(messages(range(9))))
    np.testing.assert_array_equal(first + second, range(9))
