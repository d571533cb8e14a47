"""Messages between the parties of a protocol: sealed frames over ordered links, counted, and never silently wrong.

A frame is a header and a payload sealed by AES-256-GCM under the key of its directed link; the nonce is the message's
number on the link and the header is authenticated. So a frame that was altered, cut, replayed, reordered, lost or
misdirected ends the receiver's run with a ``ProtocolError`` that says which message of whom it was.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from greenlet import getcurrent, greenlet

from marginal_sdg.errors import ProtocolError

Words = npt.NDArray[np.uint64]
Link = tuple[int, int]  # sender, receiver
Faults = Callable[[int, int, int, bytes], Sequence[bytes]]
Frame = tuple[bytes, bytes]  # header, sealed payload with its tag
Queue = deque[Frame | None]  # None: its sender stopped
Result = TypeVar("Result")

_HEADER = struct.Struct("<QQIBB2x")  # session, number of the message on its link, round, sender, receiver
_NONCE = struct.Struct("<QI")
_TAG_BYTES = 16
FRAME_BYTES = _HEADER.size + _TAG_BYTES  # what a frame adds to its payload


@dataclass
class Transcript:
    """What one party sent, in how many rounds, and every value that it saw opened: (what, number of 64-bit words)."""

    payload_bytes: int = 0
    wire_bytes: int = 0
    messages: int = 0
    rounds: int = 0
    opened: list[tuple[str, int]] = field(default_factory=list)

    def add(self, other: Transcript) -> None:
        """Append what was sent in another run."""
        self.payload_bytes += other.payload_bytes
        self.wire_bytes += other.wire_bytes
        self.messages += other.messages
        self.rounds += other.rounds
        self.opened += other.opened


class Transport(Protocol):
    """One party's end of its links to all others. The same party program runs over any transport.

    In a round every party first sends, then receives; ``next_round`` is called by all parties at the same places, also
    by those that are silent in it. So rounds count the message delays that follow each other.
    """

    rank: int
    transcript: Transcript

    def next_round(self) -> None:
        """Begin the next round."""
        ...

    def send(self, to: int, words: Words) -> None:
        """Send words (one-dimensional); does not wait for the receiver."""
        ...

    def receive(self, sender: int, count: int) -> Words:
        """Wait for the next message from ``sender``, which must have ``count`` words; they are read-only."""
        ...


class PeerStoppedError(ProtocolError):
    """Another party failed: the cause is in that party's own error."""


def links(parties: int) -> list[Link]:
    """Every directed link between that many parties; each needs a key of its own."""
    return [(a, b) for a in range(parties) for b in range(parties) if a != b]


class LocalNetwork:
    """Parties in one process: an endpoint for each, with queues for links.

    Parties take turns in one thread: one computes until it waits for a message. A message is lost when all wait and
    none is under way, so nobody has to watch a clock.

    ``keys``: 32 fresh bytes for every link, never used for another network. ``faults(sender, receiver, number, frame)``
    returns the frames to deliver instead, or raises to kill the sender: for tests. After a failure the network is of
    no further use.
    """

    def __init__(
        self,
        parties: int,
        keys: Mapping[Link, bytes],
        *,
        session: int = 0,
        faults: Faults | None = None,
    ) -> None:
        if set(keys) != set(links(parties)) or len(set(keys.values())) < len(keys):
            raise ProtocolError(f"keys: {parties} parties need {parties * (parties - 1)} different keys, one per link")
        ciphers = {link: AESGCM(key) for link, key in keys.items()}
        queues: dict[Link, Queue] = {link: deque() for link in keys}
        self.failed = False
        self.endpoints = [LocalEndpoint(rank, ciphers, queues, session, faults) for rank in range(parties)]

    @property
    def transcripts(self) -> list[Transcript]:
        """What every party sent so far."""
        return [endpoint.transcript for endpoint in self.endpoints]

    def take_transcripts(self) -> list[Transcript]:
        """The same, and begin new ones: between two runs."""
        taken = self.transcripts
        for endpoint in self.endpoints:
            endpoint.transcript = Transcript()
        return taken


class LocalEndpoint:
    """A ``Transport`` over queues."""

    def __init__(
        self,
        rank: int,
        ciphers: Mapping[Link, AESGCM],
        queues: Mapping[Link, Queue],
        session: int,
        faults: Faults | None,
    ) -> None:
        self.rank = rank
        self.transcript = Transcript()
        self._ciphers = {link: cipher for link, cipher in ciphers.items() if rank in link}
        self._queues = {link: queue for link, queue in queues.items() if rank in link}
        self._numbers = dict.fromkeys(self._queues, 0)
        self._session = session
        self._faults = faults
        self._listening = False

    def next_round(self) -> None:
        """Begin the next round."""
        self.transcript.rounds += 1
        self._listening = False

    def send(self, to: int, words: Words) -> None:
        """Seal the words and put them on the link."""
        if self._listening:
            raise ProtocolError(f"server {self.rank}: sends after it received in round {self.transcript.rounds}")
        link = self.rank, to
        number = self._numbers[link]
        self._numbers[link] = number + 1
        header = _HEADER.pack(self._session, number, self.transcript.rounds, self.rank, to)
        payload = np.ascontiguousarray(words).view(np.uint8).data
        sealed = self._ciphers[link].encrypt(_NONCE.pack(number, 0), payload, header)
        self.transcript.payload_bytes += len(payload)
        self.transcript.wire_bytes += len(header) + len(sealed)
        self.transcript.messages += 1
        if self._faults is None:
            self._queues[link].append((header, sealed))
            return
        for frame in self._faults(self.rank, to, number, header + sealed):
            self._queues[link].append((frame[: _HEADER.size], frame[_HEADER.size :]))

    def receive(self, sender: int, count: int) -> Words:
        """Take the next frame off the link and open it."""
        self._listening = True
        link = sender, self.rank
        number = self._numbers[link]
        self._numbers[link] = number + 1
        name = f"server {self.rank}, message {number} from server {sender}"
        queue = self._queues[link]
        if not queue:
            others = getcurrent().parent
            assert others is not None, "parties run in run_parties"
            others.switch(queue)
        if not queue:
            raise ProtocolError(f"{name}: lost: all servers wait, and server {sender} sent nothing")
        frame = queue.popleft()
        if frame is None:
            raise PeerStoppedError(f"{name}: server {sender} stopped")
        header, sealed = frame
        if len(header) < _HEADER.size:
            raise ProtocolError(f"{name}: altered or truncated")
        session, claimed, round_, *ends = _HEADER.unpack(header)
        if (session, *ends) != (self._session, *link):
            raise ProtocolError(f"{name}: altered or misdirected")
        try:
            payload = self._ciphers[link].decrypt(_NONCE.pack(claimed, 0), sealed, header)
        except (InvalidTag, ValueError):
            raise ProtocolError(f"{name}: altered or truncated") from None
        if claimed != number:
            fault = "replayed" if claimed < number else "lost or out of order"
            raise ProtocolError(f"{name}: {fault}: message {claimed} came")
        if (round_, len(payload)) != (self.transcript.rounds, 8 * count):
            raise ProtocolError(
                f"{name}: {len(payload)} bytes in round {round_}, expected {8 * count} in round "
                f"{self.transcript.rounds}: the servers run different programs"
            )
        return np.frombuffer(payload, dtype=np.uint64)

    def stop(self) -> None:
        """Tell every other party that no more messages will come."""
        for (sender, _), queue in self._queues.items():
            if sender == self.rank:
                queue.append(None)


def run_parties(network: LocalNetwork, program: Callable[..., Result], *arguments: Sequence[Any]) -> list[Result]:
    """Run ``program(endpoint, ...)`` as every party at once, each with its own entry of every argument.

    Returns every party's result. If parties fail, raises the error of the first that failed by itself.
    """
    if network.failed:
        raise ProtocolError("network: a party failed in an earlier run; make a new network with new keys")
    network.failed = True
    results: dict[int, Result] = {}
    failures: list[BaseException] = []

    def run(endpoint: LocalEndpoint) -> None:
        try:
            results[endpoint.rank] = program(endpoint, *(argument[endpoint.rank] for argument in arguments))
        except BaseException as error:
            endpoint.stop()
            failures.append(error)

    waiting: dict[greenlet, Queue | None] = {greenlet(partial(run, end)): None for end in network.endpoints}
    while waiting:  # whoever waits the longest goes on: of those that can, and else to learn that nothing comes
        able = (party for party, queue in waiting.items() if queue is None or queue)
        party = next(able, next(iter(waiting)))
        del waiting[party]
        if (queue := party.switch()) is not None:
            waiting[party] = queue
    if failures:
        raise min(failures, key=lambda error: isinstance(error, PeerStoppedError))
    network.failed = False
    return [results[endpoint.rank] for endpoint in network.endpoints]
