"""Frames arrive as sent or not at all: every fault ends in a ``ProtocolError``, soon, and never in other words."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from marginal_sdg.crypto.transport import FRAME_BYTES, LocalNetwork, PeerStoppedError, links, run_parties
from marginal_sdg.errors import ProtocolError

KEYS = {link: bytes([n]) * 32 for n, link in enumerate(links(3))}


def network(**options) -> LocalNetwork:
    return LocalNetwork(3, KEYS, **options)


def words(rank: int, turn: int) -> np.ndarray:
    return np.arange(4, dtype=np.uint64) + np.uint64(100 * rank + 10 * turn)


def ring(endpoint, rounds: int = 4) -> list[list[int]]:
    """Every party sends to the next one, several times; returns what it received."""
    received = []
    for turn in range(rounds):
        endpoint.next_round()
        endpoint.send((endpoint.rank + 1) % 3, words(endpoint.rank, turn))
        received.append(endpoint.receive((endpoint.rank - 1) % 3, 4).tolist())
    return received


RIGHT = [[words((rank - 1) % 3, turn).tolist() for turn in range(4)] for rank in range(3)]


def faulty(fault, at=(0, 1), number=1):
    """A network in which one frame of one link meets a fault: from the frame and that before it to those delivered."""
    earlier = {}

    def faults(sender, receiver, count, frame):
        if (sender, receiver) == at and count == number:
            return fault(frame, earlier.get((at, count - 1)))
        earlier[(sender, receiver), count] = frame
        return [frame]

    return network(faults=faults)


def failure(net: LocalNetwork, program=ring) -> str:
    with pytest.raises(ProtocolError) as caught:
        run_parties(net, program)
    return str(caught.value)


# --- what arrives, and what it costs --------------------------------------------------------------


def test_words_arrive_in_order_and_are_counted():
    net = network()
    assert run_parties(net, ring) == RIGHT
    for transcript in net.transcripts:
        assert (transcript.messages, transcript.rounds, transcript.payload_bytes) == (4, 4, 4 * 32)
        assert transcript.wire_bytes == transcript.payload_bytes + 4 * FRAME_BYTES
        assert transcript.opened == []
    assert run_parties(net, ring) == RIGHT  # a network serves for many runs


def test_every_party_gets_its_own_arguments():
    assert run_parties(network(), lambda end, a, b: (end.rank, a, b), "abc", [1, 2, 3]) == [
        (0, "a", 1),
        (1, "b", 2),
        (2, "c", 3),
    ]


def test_empty_messages_arrive():
    def program(endpoint):
        endpoint.next_round()
        endpoint.send((endpoint.rank + 1) % 3, np.empty(0, dtype=np.uint64))
        return len(endpoint.receive((endpoint.rank - 1) % 3, 0))

    assert run_parties(network(), program) == [0, 0, 0]


def test_frames_hide_their_words():
    frames = []

    def listen(sender, receiver, number, frame):
        frames.append(frame)
        return [frame]

    def program(endpoint):
        for _ in range(2):  # the same words twice
            endpoint.next_round()
            endpoint.send((endpoint.rank + 1) % 3, np.zeros(4, dtype=np.uint64))
            endpoint.receive((endpoint.rank - 1) % 3, 4)

    run_parties(network(faults=listen), program)
    bodies = [frame[-48:] for frame in frames]
    assert len(set(bodies)) == 6 and all(bytes(8) not in body for body in bodies)


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("byte", [0, 8, 16, 20, 21, 22, 24, 40, 55, 56, 71])
def test_an_altered_byte_is_noticed(byte):
    """Session, number, round, sender, receiver, padding, payload and tag: every byte counts."""

    def alter(frame, _):
        return [frame[:byte] + bytes([frame[byte] ^ 4]) + frame[byte + 1 :]]

    message = failure(faulty(alter))
    assert message.startswith("server 1, message 1 from server 0: altered or ")


@pytest.mark.parametrize("length", [0, 1, 23, 24, 39, 40, 71])
def test_a_truncated_frame_is_noticed(length):
    message = failure(faulty(lambda frame, _: [frame[:length]]))
    assert message == "server 1, message 1 from server 0: altered or truncated"


def test_a_replayed_frame_is_noticed():
    for frames in (lambda frame, before: [before, frame], lambda frame, before: [frame, frame]):
        assert "from server 0: replayed: message" in failure(faulty(frames))


def test_reordered_frames_are_noticed():
    """Two messages of one round, so that they can overtake each other."""

    def program(endpoint):
        endpoint.next_round()
        if endpoint.rank == 0:
            endpoint.send(1, words(0, 0))
            endpoint.send(1, words(0, 1))
        elif endpoint.rank == 1:
            return [endpoint.receive(0, 4).tolist() for _ in range(2)]

    held = []

    def swap(sender, receiver, number, frame):
        held.append(frame)
        return held[::-1] if number else []

    assert run_parties(network(), program)[1] == RIGHT[1][:2]
    assert failure(network(faults=swap), program) == (
        "server 1, message 0 from server 0: lost or out of order: message 1 came"
    )


def test_a_frame_of_another_link_or_session_is_noticed():
    foreign = []

    def keep(sender, receiver, number, frame):
        if (sender, receiver, number) == (1, 2, 1):
            foreign.append(frame)
        return [frame]

    run_parties(network(faults=keep), ring)
    assert "altered or misdirected" in failure(faulty(lambda *_: foreign))
    assert "altered or misdirected" in failure(faulty(lambda *_: foreign, at=(2, 0)))
    other = faulty(lambda *_: foreign, at=(1, 2))
    other.endpoints[2]._session = 1
    assert "altered or misdirected" in failure(other)


@pytest.mark.parametrize(("link", "number"), [*product([(0, 1), (1, 2), (2, 0)], [0, 3])])
def test_a_lost_frame_is_noticed_by_the_next_one_or_when_all_wait(link, number):
    message = failure(faulty(lambda *_: [], at=link, number=number))
    last = f"lost: all servers wait, and server {link[0]} sent nothing"
    assert message.endswith(last if number == 3 else "lost or out of order: message 1 came")


@pytest.mark.parametrize("victim", range(3))
@pytest.mark.parametrize("error", [ProtocolError, ValueError, KeyboardInterrupt])
def test_when_a_party_dies_the_others_learn_it_at_once_and_the_cause_is_told(victim, error):
    seen = {}

    def program(endpoint):
        try:
            endpoint.next_round()
            if endpoint.rank == victim:
                raise error("the cause")
            return endpoint.receive((endpoint.rank - 1) % 3, 4)
        except BaseException as caught:
            seen[endpoint.rank] = caught
            raise

    with pytest.raises(error, match="the cause"):
        run_parties(network(), program)
    others = {str(caught) for rank, caught in seen.items() if rank != victim}
    assert all(isinstance(seen[rank], PeerStoppedError) for rank in range(3) if rank != victim)
    assert f"server {(victim + 1) % 3}, message 0 from server {victim}: server {victim} stopped" in others


def test_a_network_is_of_no_use_after_a_failure():
    net = faulty(lambda *_: [b""])
    failure(net)
    assert "make a new network" in failure(net)


# --- programs that do not fit each other ----------------------------------------------------------


def test_parties_in_different_rounds_or_with_other_lengths_are_noticed():
    def longer(endpoint):
        endpoint.next_round()
        endpoint.send((endpoint.rank + 1) % 3, words(0, 0))
        endpoint.receive((endpoint.rank - 1) % 3, 5)

    def ahead(endpoint):
        for _ in range(1 + (endpoint.rank == 0)):
            endpoint.next_round()
        endpoint.send((endpoint.rank + 1) % 3, words(0, 0))
        endpoint.receive((endpoint.rank - 1) % 3, 4)

    assert "32 bytes in round 1, expected 40 in round 1: the servers run different programs" in failure(
        network(), longer
    )
    assert "the servers run different programs" in failure(network(), ahead)


def test_a_round_is_one_message_delay():
    """Who answers a message within its round would make two delays look like one."""

    def program(endpoint):
        endpoint.next_round()
        if endpoint.rank == 0:
            endpoint.send(1, words(0, 0))
        elif endpoint.rank == 1:
            endpoint.receive(0, 4)
            endpoint.send(2, words(1, 0))
        else:
            endpoint.receive(1, 4)

    assert failure(network(), program) == "server 1: sends after it received in round 1"


@pytest.mark.parametrize(
    "keys", [{}, {link: bytes(32) for link in KEYS}, {link: KEYS[link] for link in list(KEYS)[1:]}]
)
def test_every_link_needs_a_key_of_its_own(keys):
    with pytest.raises(ProtocolError, match="3 parties need 6 different keys"):
        LocalNetwork(3, keys)
