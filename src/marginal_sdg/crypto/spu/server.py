"""One of DistAIM's servers: it holds the shares of the pool and answers a coordinator's questions.

All that is linear in the shares is done here, in NumPy: sums over clients and cells, weights, penalties, noise.
Absolute values and the place of the largest score are an engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from marginal_sdg.crypto.prg import KEY_BYTES, Stream
from marginal_sdg.crypto.rss import SERVERS, Party, Shares, Words, end_to_end
from marginal_sdg.crypto.spu.questions import Admission, Opening, Parts, Size, Step, Upload, integers, unpack
from marginal_sdg.crypto.transport import Transport
from marginal_sdg.crypto.upload import RECEIVERS, payload_bytes
from marginal_sdg.errors import ProtocolError


class Engine(Protocol):
    """What links a server to the other two, and computes with them what is not linear."""

    @property
    def transport(self) -> Transport:
        """This server's end of the link."""
        ...

    @property
    def sent(self) -> int:
        """Bytes that this server has sent to the others."""
        ...

    def absolute(self, x: Shares) -> Shares:
        """Shares of |x|, for x of (n,) int64."""
        ...

    def first_largest(self, scores: Shares) -> Shares:
        """Shares, (1,), of the place of the largest score, the first one of several. No two differ by 2^63 or more."""
        ...


class Server:
    """Answers the questions of one session, in the order ``OPEN``, ``UPLOAD`` and ``ADMIT``, then any.

    ``meet``: an engine for the session of that name, once the other two servers are there as well. ``keys``: 32 fresh
    bytes a call. After an error the session is over: shares of clients that had joined are gone with it.
    """

    def __init__(self, rank: int, meet: Callable[[str], Engine], keys: Callable[[], bytes]) -> None:
        self.rank = rank
        self._meet = meet
        self._keys = keys
        self._engine: Engine | None = None
        self._pending: dict[tuple[int, int], bytes] = {}  # uploads, by client and wave
        self._taken: set[tuple[int, int]] = set()
        self._members: set[int] = set()
        self._pool = self._newest = Shares(np.empty(0, np.uint64), np.empty(0, np.uint64))

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """The answer to one question; ``ProtocolError`` for any that does not fit."""
        asked, head, vectors = unpack(step, chunks)
        if (asked is Step.OPEN) != (self._engine is None):
            raise ProtocolError(f"{asked.name.lower()}: is out of order; start the session again")
        before = self._engine.sent if self._engine else 0
        answer = self._answers(asked)(head, *vectors)
        assert self._engine is not None
        sent = self._engine.sent - before
        return [*([answer] if answer is not None else []), sent.to_bytes(8, "little")]

    def _answers(self, step: Step) -> Callable[..., bytes | None]:
        answers: dict[Step, Callable[..., bytes | None]] = {
            Step.OPEN: self._open,
            Step.UPLOAD: self._upload,
            Step.ADMIT: self._admit,
            Step.SIZE: self._size,
            Step.MEASURE: self._measure,
            Step.SELECT: self._select,
        }
        return answers[step]

    def _open(self, head: Opening) -> None:
        """Meet the others; the servers j and j - 1 agree on the key of stream j."""
        engine = self._meet(head.session)
        own, transport = self._keys(), engine.transport
        transport.next_round()
        transport.send((self.rank - 1) % SERVERS, np.frombuffer(own, dtype=np.uint64))
        other = transport.receive((self.rank + 1) % SERVERS, KEY_BYTES // 8).tobytes()
        self._party = Party(self.rank, transport, (own, other))
        self._engine = engine

    def _upload(self, head: Upload, payload: bytes) -> None:
        """Keep one client's share of its answers until it is known whether all servers got theirs."""
        client, wave, cells = head.client, head.wave, head.cells
        name = f"upload of client {client} to server {self.rank}"
        if self.rank >= RECEIVERS:
            raise ProtocolError(f"{name}: misdirected; only servers 0 and 1 take any")
        if (client, wave) in self._taken:
            raise ProtocolError(f"{name}: repeated; every part of the answers is taken once")
        if len(payload) != payload_bytes(self.rank, cells):
            raise ProtocolError(f"{name}: {len(payload)} bytes do not fit {cells} cells; check the client's domain")
        self._taken.add((client, wave))
        self._pending[client, wave] = payload

    def _admit(self, head: Admission) -> None:
        """Add up what these clients sent: answers of newcomers, or further answers of all members."""
        clients, cells = head.clients, head.cells
        if head.joins and (not self._members.isdisjoint(clients) or len(self._pool) not in (0, cells)):
            raise ProtocolError("admit: newcomers must be new, and answer what all members have answered")
        if not head.joins and self._members != set(clients):
            raise ProtocolError("admit: further answers must be those of all members, and of nobody else")
        summand: Words = np.zeros(cells, dtype=np.uint64)
        for client in clients if self.rank < RECEIVERS else ():
            payload = self._pending.pop((client, head.wave), None)
            if payload is None or len(payload) != payload_bytes(self.rank, cells):
                raise ProtocolError(f"admit: client {client} has not sent {cells} cells in this wave; ask it again")
            if self.rank == 0:
                Stream(payload).combine(summand, np.add)
            else:
                summand += np.frombuffer(payload, dtype=np.uint64)
        self._pending.clear()
        shares = self._party.replicate(summand)
        if head.joins:
            self._members |= set(clients)
            self._newest = shares
            self._pool = self._pool + shares if len(self._pool) else shares
        else:
            self._pool = end_to_end([self._pool, shares])

    def _size(self, head: Size, noise: bytes) -> bytes:
        counts = _cut(self._newest, [(0, head.cells)])
        return self._release(counts.sums(np.zeros(1, dtype=np.int64)), noise)

    def _measure(self, head: Parts, noise: bytes) -> bytes:
        return self._release(_cut(self._pool, head.parts), noise)

    def _release(self, values: Shares, noise: bytes) -> bytes:
        """The values plus every server's noise, opened."""
        part = integers(noise, len(values), "noise").view(np.uint64)
        return self._party.open(values + self._party.reshare(part), "noisy counts").tobytes()

    def _select(self, head: Parts, *vectors: bytes) -> bytes:
        """argmax of weights * ||M - expected||_1 - penalties + noise; only the place is opened.

        Where the model expects no record, |M - 0| is M itself and costs nothing.
        """
        assert self._engine is not None
        shares = _cut(self._pool, head.parts)
        ends = np.cumsum([last - first for first, last in head.parts])
        starts = np.concatenate([[0], ends[:-1]])
        weights, penalties, noise = (integers(vector, len(starts), "select") for vector in vectors[:3])
        expected = integers(vectors[3], len(shares), "expected counts")
        compared = np.flatnonzero(expected)
        counts = shares[compared]
        inner = np.searchsorted(compared, starts)
        distances = self._engine.absolute(self._party.add_public(counts, -expected[compared]))
        norms = distances.sums(inner) + shares.sums(starts) - counts.sums(inner)
        scores = self._party.add_public(norms.scaled(weights), -penalties)
        scores = scores + self._party.reshare(noise.view(np.uint64))
        return self._party.open(self._engine.first_largest(scores), "argmax").tobytes()


def _cut(shares: Shares, parts: Sequence[tuple[int, int]]) -> Shares:
    """Some parts of a shared vector, end to end."""
    for first, last in parts:
        if not first < last <= len(shares):
            raise ProtocolError(
                f"parts: no {first} to {last} in {len(shares)} shared cells; clients have to share first"
            )
    return end_to_end([shares[first:last] for first, last in parts])
