"""One of DistAIM's servers: it holds the shares of the pool and answers a coordinator's questions.

All that is linear in the shares is done here, in NumPy: sums over clients and cells, weights, penalties, noise.
Absolute values and the place of the largest score are an engine's. Nothing is opened but with this server's own noise,
which it has paid for. It takes no sensitivity from the coordinator: clients say themselves how many cells each of their
cliques has, weights are held against the noise, and the servers see to it that all three are asked the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np

from marginal_sdg.crypto.prg import KEY_BYTES, Stream
from marginal_sdg.crypto.rss import SERVERS, WIDTH, Integers, Party, Shares, Words, end_to_end
from marginal_sdg.crypto.spu.kept import Kept
from marginal_sdg.crypto.spu.questions import (
    Admission,
    Head,
    Holding,
    Measuring,
    Opening,
    Selecting,
    Step,
    Terms,
    Upload,
    integers,
    pack,
    unpack,
)
from marginal_sdg.crypto.transport import Transport
from marginal_sdg.crypto.upload import RECEIVERS, payload_bytes
from marginal_sdg.errors import ProtocolError

MOST = 1 << 32  # records of a pool: scores of any more would not fit
DIGEST_BYTES = 32


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


class Noise(Protocol):
    """This server's part of all noise, each paid for before it is drawn. ``key``: 32 secret bytes, its source."""

    def open(self, head: Opening, run: str, key: bytes) -> None:
        """Agree to a session, whose name is ``run``, and pay for the sizes of its cohorts."""
        ...

    def size(self) -> Integers:
        """(1,) for the next cohort's size."""
        ...

    def cells(self, sizes: Sequence[int], variance: Fraction, key: bytes) -> Integers:
        """For the cells of some cliques, end to end."""
        ...

    def scores(self, candidates: int, epsilon2: Fraction, key: bytes) -> tuple[Integers, int, int]:
        """For (candidates,) scores; how many steps one record may move a score by; a bound on all servers' noise."""
        ...


class Server:
    """Answers the questions of one session, in the order ``OPEN``, ``UPLOAD`` and ``ADMIT``, then any.

    ``meet``: an engine for a connection of that name, once the other two servers are there as well. ``keys``: 32 fresh
    bytes a call. ``kept``: the session, which goes on in another process with the same; after an error it is over,
    but for an ``UPLOAD``'s, which is the client's own affair.
    """

    def __init__(
        self, rank: int, meet: Callable[[str], Engine], keys: Callable[[], bytes], noise: Noise, kept: Kept
    ) -> None:
        self.rank = rank
        self._meet = meet
        self._keys = keys
        self._noise = noise
        self._kept = kept
        self._engine: Engine | None = None
        self._terms: Terms | None = None
        self._name = ""  # of this session, fresh: clients cannot be made to take part in another one by its name
        self._place = 0  # of the question that is asked
        self._past = False  # the question has been answered before: its answer is for nobody
        self._questions, self._sums = hashlib.sha256(), hashlib.sha256()  # so far
        self._pending: dict[int, Upload] = {}  # the latest of each client
        self._payloads: dict[int, bytes] = {}
        self._waves = 0  # how many are over
        self._members: set[int] = set()
        self._sizes: tuple[int, ...] = ()  # of the pool's cliques
        self._pool = self._newest = Shares(np.empty(0, np.uint64), np.empty(0, np.uint64))

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """The answer to one question; ``ProtocolError`` for any that does not fit."""
        question = list(chunks)
        asked, head, vectors = unpack(step, question)
        if asked is Step.SHARE or (asked is Step.OPEN) != (self._engine is None):
            raise ProtocolError(f"{asked.name.lower()}: is out of order; start the session again")
        before = self._engine.sent if self._engine else 0
        answer: bytes | None = None
        if asked is Step.OPEN:
            answer = self._take_up(head)
        elif asked is Step.UPLOAD:
            self._upload(head, *vectors)
        elif asked is Step.HELD:
            answer = self._held(head)
        else:
            self._kept.begin(self._place, [bytes([asked]), *question])
            self._note(asked, question)
            self._compare(asked, self._questions.digest())
            answer = self._answer(asked, head, *vectors)
        assert self._engine is not None
        sent = self._engine.sent - before
        return [*([answer] if answer is not None else []), sent.to_bytes(8, "little")]

    def _answer(self, step: Step, head: Head, *vectors: bytes) -> bytes | None:
        answers: dict[Step, Callable[..., bytes | None]] = {
            Step.ADMIT: self._admit,
            Step.SIZE: self._size,
            Step.MEASURE: self._measure,
            Step.SELECT: self._select,
        }
        answer = answers[step](head, *vectors)
        self._place += 1
        return answer

    def _take_up(self, head: Opening) -> bytes:
        """Begin the session, or go on with it: to the state that it had when so many questions were answered."""
        first = pack(head.model_copy(update={"answered": 0, "link": ""}))
        self._kept.open(head.terms.session, head.answered)
        self._find_others(head)
        self._compare(Step.OPEN, hashlib.sha256(b"".join(pack(head))).digest())
        self._kept.begin(0, [bytes([Step.OPEN]), *first])
        self._note(Step.OPEN, first)
        self._name = self._kept.key(b"name").hex()
        self._noise.open(head, self._name, self._key())
        self._place, self._past = 1, True
        for place in range(1, head.answered):
            (step,), *question = self._kept.question(place)
            asked, then, vectors = unpack(step, question)
            self._note(asked, question)
            self._answer(asked, then, *vectors)
        self._past = False
        for sent in self._kept.uploads():
            _, upload, (payload,) = unpack(Step.UPLOAD, sent)
            if upload.wave > self._waves:
                self._pending[upload.client], self._payloads[upload.client] = upload, payload
        return self._name.encode()

    def _find_others(self, head: Opening) -> None:
        """Meet the others; the servers j and j - 1 agree on the key of stream j, a fresh one whenever they meet."""
        engine = self._meet(head.link)
        own, transport = self._keys(), engine.transport
        transport.next_round()
        transport.send((self.rank - 1) % SERVERS, np.frombuffer(own, dtype=np.uint64))
        other = transport.receive((self.rank + 1) % SERVERS, KEY_BYTES // 8).tobytes()
        self._party = Party(self.rank, transport, (own, other))
        self._engine, self._terms = engine, head.terms

    def _note(self, step: Step, question: Sequence[bytes]) -> None:
        """One question more."""
        for chunk in (bytes([step]), *question):
            self._questions.update(len(chunk).to_bytes(8, "little") + chunk)

    def _key(self) -> bytes:
        """Of the noise for this question: another one wherever another was asked, or something else added up."""
        return self._kept.key(self._questions.digest() + self._sums.digest())

    def _compare(self, step: Step, digest: bytes) -> None:
        """Whether the others were asked the same, before anything is drawn or opened for it."""
        own, transport = np.frombuffer(digest, dtype=np.uint64), self._party.transport
        others = [rank for rank in range(SERVERS) if rank != self.rank]
        transport.next_round()
        for rank in others:
            transport.send(rank, own)
        if any((transport.receive(rank, len(own)) != own).any() for rank in others):
            raise ProtocolError(f"{step.name.lower()}: the servers were asked different things; nothing is answered")

    # -- clients -----------------------------------------------------------------------------------------------

    def _upload(self, head: Upload, payload: bytes) -> None:
        """Keep one client's share of its answers until it is known whether all servers got theirs."""
        client, wave = head.client, head.wave
        name = f"upload of client {client} to server {self.rank}"
        if self.rank >= RECEIVERS:
            raise ProtocolError(f"{name}: misdirected; only servers 0 and 1 take any")
        agreed = self._terms.model_copy(update={"session": head.terms.session}) if self._terms else None
        if head.terms != agreed or self._name not in head.terms.session:
            raise ProtocolError(f"{name}: is for another session, or for other terms than this one's")
        before = self._pending.get(client)
        if wave <= self._waves or (before and wave < before.wave):
            raise ProtocolError(f"{name}: too late; the others' answers have been added up")
        if before and wave == before.wave:
            if (before, self._payloads[client]) == (head, payload):
                return  # whoever sent it did not hear that it came
            raise ProtocolError(f"{name}: repeated; every part of the answers is taken once")
        if len(payload) != payload_bytes(self.rank, sum(head.sizes)):
            raise ProtocolError(f"{name}: {len(payload)} bytes do not fit {sum(head.sizes)} cells")
        self._kept.store(client, pack(head, payload))
        self._pending[client], self._payloads[client] = head, payload

    def _held(self, head: Holding) -> bytes:
        """The clients of which this part of the answers is here."""
        wanted = (head.wave, head.sizes)
        here = sorted(client for client, sent in self._pending.items() if (sent.wave, sent.sizes) == wanted)
        return np.array(here, dtype=np.int64).tobytes()

    def _admit(self, head: Admission) -> None:
        """Add up what these clients sent: answers of newcomers, or further answers of all members."""
        clients, cells = head.clients, sum(head.sizes)
        if head.joins and (not self._members.isdisjoint(clients) or self._sizes not in ((), head.sizes)):
            raise ProtocolError("admit: newcomers must be new, and answer what all members have answered")
        if not head.joins and self._members != set(clients):
            raise ProtocolError("admit: further answers must be those of all members, and of nobody else")
        if len(set(clients)) < len(clients) or head.wave <= self._waves:
            raise ProtocolError("admit: every answer counts once")
        summand: Words = np.zeros(cells, dtype=np.uint64)
        if self.rank < RECEIVERS:
            made = self._kept.sum(self._place, lambda: self._added_up(head, summand).tobytes())
            self._sums.update(made)
            summand = np.frombuffer(made, dtype=np.uint64)
        self._pending.clear()
        self._payloads.clear()
        self._waves = head.wave
        shares = self._party.replicate(summand)
        if head.joins:
            self._members |= set(clients)
            self._newest, self._sizes = shares, head.sizes
            self._pool = self._pool + shares if len(self._pool) else shares
        else:
            self._sizes += head.sizes
            self._pool = end_to_end([self._pool, shares])

    def _added_up(self, head: Admission, summand: Words) -> Words:
        """What these clients sent to this server."""
        for client in head.clients:
            upload = self._pending.get(client)
            if upload is None or (upload.wave, upload.sizes) != (head.wave, head.sizes):
                raise ProtocolError(f"admit: client {client} has not sent {len(summand)} cells in this wave")
            if self.rank == 0:
                Stream(self._payloads[client]).combine(summand, np.add)
            else:
                summand += np.frombuffer(self._payloads[client], dtype=np.uint64)
        return summand

    # -- releases ----------------------------------------------------------------------------------------------

    def _size(self, head: Head) -> bytes:
        """Of the newest members, once: the sum of their answers to the first clique, a 1-way marginal."""
        if not len(self._newest):
            raise ProtocolError("size: nobody has joined since the last one; every cohort's is released once")
        newest, self._newest = self._newest, self._newest[:0]
        return self._release(newest[: self._sizes[0]].sums(np.zeros(1, dtype=np.int64)), self._noise.size())

    def _measure(self, head: Measuring) -> bytes:
        shares, sizes = self._cut(head.cliques)
        return self._release(shares, self._noise.cells(sizes, Fraction(head.variance), self._key()))

    def _release(self, values: Shares, noise: Integers) -> bytes:
        """The values plus every server's noise, opened."""
        if self._past:
            return b""
        return self._party.open(values + self._party.reshare(noise.view(np.uint64)), "noisy counts").tobytes()

    def _select(self, head: Selecting, *vectors: bytes) -> bytes:
        """argmax of weights * ||M - expected||_1 - penalties + noise; only the place is opened.

        Where the model expects no record, |M - 0| is M itself and costs nothing.
        """
        assert self._engine is not None
        shares, sizes = self._cut(head.cliques)
        starts = np.cumsum([0, *sizes[:-1]])
        weights, penalties = (integers(vector, len(starts), "select") for vector in vectors[:2])
        expected = integers(vectors[2], len(shares), "expected counts")
        noise, unit, bound = self._noise.scores(len(starts), Fraction(head.epsilon2), self._key())
        _check_ballot(weights, penalties, expected, unit, bound)
        if self._past:
            return b""
        compared = np.flatnonzero(expected)
        counts = shares[compared]
        inner = np.searchsorted(compared, starts)
        distances = self._engine.absolute(self._party.add_public(counts, -expected[compared]))
        norms = distances.sums(inner) + shares.sums(starts) - counts.sums(inner)
        scores = self._party.add_public(norms.scaled(weights), -penalties)
        scores = scores + self._party.reshare(noise.view(np.uint64))
        return self._party.open(self._engine.first_largest(scores), "argmax").tobytes()

    def _cut(self, cliques: Sequence[int]) -> tuple[Shares, list[int]]:
        """Some cliques of the pool, end to end, and how many cells each has."""
        ends = np.cumsum(self._sizes)
        if max(cliques) >= len(ends):
            raise ProtocolError(f"cliques: no {max(cliques)} in a pool of {len(ends)}; clients have to share first")
        parts = [self._pool[ends[clique] - self._sizes[clique] : ends[clique]] for clique in cliques]
        return end_to_end(parts), [len(part) for part in parts]


def _check_ballot(weights: Integers, penalties: Integers, expected: Integers, unit: int, bound: int) -> None:
    """One record moves no score by more than was paid for, and no difference of scores wraps."""
    if weights.min() < 0 or weights.max() > unit:
        raise ProtocolError(f"select: weights must be 0 to {unit}, which is what the noise is for")
    if expected.min() < 0 or expected.max() >= MOST:
        raise ProtocolError(f"select: expected counts must be 0 to {MOST - 1}")
    furthest = max(abs(int(penalties.min())), abs(int(penalties.max())))
    largest = int(weights.max()) * (MOST + int(expected.sum())) + furthest + bound
    if (2 * largest).bit_length() >= WIDTH:
        raise ProtocolError(f"select: scores up to {largest:.3g} do not fit {WIDTH} bits; lower epsilon")
