"""Replicated secret sharing of 64-bit integers among three servers.

A secret is x = x0 + x1 + x2 mod 2^64; server i holds the components i and i + 1 (mod 3), so two servers know
everything and one knows nothing. Pseudorandom stream j is known to the two holders of component j, servers j and j - 1:
what they draw from it in step needs no message and is unknown to the third.

Security: semi-honest, honest majority. No single server that follows the protocol learns anything but what is opened;
two that collude learn all. A server that does not follow the protocol can make results wrong.

Source: Araki, Furukawa, Lindell, Nof, Ohara, "High-Throughput Semi-Honest Secure Three-Party Computation with an
Honest Majority", CCS 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.prg import Stream
from marginal_sdg.crypto.transport import Transport
from marginal_sdg.errors import ProtocolError

Words = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

SERVERS = 3
WIDTH = 64


@dataclass(frozen=True, eq=False)
class Shares:
    """One server's part of a shared vector: ``own``, ``next``: (n,) uint64, its component and that of the next server.

    Sums, differences and multiples by public integers need no communication. All arithmetic is modulo 2^64.
    """

    own: Words
    next: Words

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, places: slice | npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Shares:
        return Shares(self.own[places], self.next[places])

    def __add__(self, other: Shares) -> Shares:
        return Shares(self.own + other.own, self.next + other.next)

    def __sub__(self, other: Shares) -> Shares:
        return Shares(self.own - other.own, self.next - other.next)

    def __neg__(self) -> Shares:
        return Shares(-self.own, -self.next)

    def scaled(self, factors: Integers) -> Shares:
        """Every value times its public factor: (n,) int64."""
        unsigned = factors.view(np.uint64)
        return Shares(self.own * unsigned, self.next * unsigned)

    def sums(self, starts: Integers) -> Shares:
        """Sums of consecutive segments: those from one start to the next, the last one to the end."""
        return Shares(segment_sums(self.own, starts), segment_sums(self.next, starts))


def end_to_end(parts: Sequence[Shares]) -> Shares:
    """Shares of several vectors as those of one. No communication."""
    return Shares(np.concatenate([part.own for part in parts]), np.concatenate([part.next for part in parts]))


def deal(values: Integers, a: Stream, b: Stream) -> tuple[Shares, Shares, Shares]:
    """Split (n,) values among the servers: components 0 and 1 come from the streams, component 2 is the rest.

    A client sends the keys of its streams and component 2: server 0 gets both keys, server 1 the key of ``b`` and
    component 2, server 2 component 2 and the key of ``a``.
    """
    x0, x1 = a.draw(len(values)), b.draw(len(values))
    x2 = values.view(np.uint64) - x0
    x2 -= x1
    return Shares(x0, x1), Shares(x1, x2), Shares(x2, x0)


def bits_for(bound: int) -> int:
    """Bits that hold every integer from -bound to bound, the sign included; at least 2, at most 64."""
    bits = max(2, int(bound).bit_length() + 1)
    if bound < 0 or bits > WIDTH:
        raise ProtocolError(f"bound: needs 0 to 2^{WIDTH - 1} - 1 for values in {WIDTH} bits, got {bound}")
    return bits


def segment_sums(values: Words, starts: Integers) -> Words:
    """Sums modulo 2^64 of consecutive segments of (n,) words, which may be empty; the first must start at 0."""
    ends = np.append(starts[1:], len(values))
    if len(starts) == 0 or starts[0] != 0 or (ends < starts).any():
        raise ProtocolError(f"starts: needs ascending numbers from 0 to {len(values)}, got {starts}")
    sums = np.zeros(len(starts), dtype=np.uint64)
    filled = starts < ends  # reduceat gives an empty segment the value after it
    if filled.any():
        sums[filled] = np.add.reduceat(values, starts[filled])
    return sums


class Party:
    """One of the three servers: the same program on all of them, each with its own shares.

    ``keys``: those of streams ``rank`` and ``rank + 1``, 32 fresh bytes each; all three servers must make the same
    calls in the same order.
    """

    def __init__(self, rank: int, transport: Transport, keys: tuple[bytes, bytes]) -> None:
        self.rank = rank
        self.before, self.after = (rank - 1) % SERVERS, (rank + 1) % SERVERS
        self.transport = transport
        self._streams = {rank: Stream(keys[0]), self.after: Stream(keys[1])}

    def draw(self, component: int, count: int) -> Words:
        """(count,) uint64 that only the two holders of a component know."""
        return self._streams[component].draw(count)

    def mask(self, words: Words, first: np.ufunc, second: np.ufunc) -> None:
        """Combine words in place with the next ones of both streams; over all servers the masks cancel."""
        self._streams[self.rank].combine(words, first)
        self._streams[self.after].combine(words, second)

    def rotate(self, mine: Words) -> Words:
        """One round: give own words to the server before, get those of the server after. They must be masked."""
        self.transport.next_round()
        self.transport.send(self.before, mine.reshape(-1))
        return self.transport.receive(self.after, mine.size).reshape(mine.shape)

    def reveal(self, mine: Words, what: str) -> Words:
        """One round: give own components to the server after, which lacks them, get the lacking ones. Recorded."""
        self.transport.transcript.opened.append((what, mine.size))
        self.transport.next_round()
        self.transport.send(self.after, mine)
        return self.transport.receive(self.before, mine.size)

    def open(self, x: Shares, what: str) -> Integers:
        """(n,) int64: the values, to all three servers. 8 bytes per value, one round."""
        if not len(x):
            return np.empty(0, dtype=np.int64)
        values = self.reveal(x.own, what) + x.own
        values += x.next
        return values.view(np.int64)

    def reshare(self, summands: Words) -> Shares:
        """Shares of the sum of one private vector from each server. 8 bytes per value, one round.

        So it turns the local terms of a product into shares, and noise that every server drew into their shared sum.
        """
        if not len(summands):
            return Shares(summands, summands)
        mine = summands.copy()
        self.mask(mine, np.add, np.subtract)
        return Shares(mine, self.rotate(mine))

    def replicate(self, summand: Words) -> Shares:
        """Shares of the sum of what servers 0 and 1 hold; server 2 gives any vector of that length, which is ignored.

        Server 0 masks its summand with component 0 and sends it to server 1, which masks its own and sends it, as
        component 2, to server 2; the mask goes into component 1. 8 bytes per value from these two, one round.
        """
        count = len(summand)
        if not count:
            return Shares(summand, summand)
        self.transport.next_round()
        if self.rank == 2:
            return Shares(self.transport.receive(1, count), self.draw(0, count))
        middle = self.draw(1, count)
        if self.rank == 1:
            last = summand - middle
            self.transport.send(2, last)
            middle += self.transport.receive(0, count)
            return Shares(middle, last)
        first = self.draw(0, count)
        rest = summand - first
        self.transport.send(1, rest)
        middle += rest
        return Shares(first, middle)

    def add_public(self, x: Shares, values: Integers) -> Shares:
        """Shares of x plus public values: (n,) int64. No communication."""
        public = values.view(np.uint64)
        if self.rank == 0:
            return Shares(x.own + public, x.next)
        if self.rank == SERVERS - 1:
            return Shares(x.own, x.next + public)
        return x

    def multiply(self, x: Shares, y: Shares) -> Shares:
        """Shares of the products of values. 8 bytes per product, one round."""
        return self.reshare(local_products(x, y))

    def dot(self, x: Shares, y: Shares, starts: Integers) -> Shares:
        """Shares of the sums of products over segments, as in :func:`segment_sums`. 8 bytes per segment, one round."""
        return self.reshare(segment_sums(local_products(x, y), starts))


def local_products(x: Shares, y: Shares) -> Words:
    """This server's terms of the products: over all servers they sum to x times y. Source: Araki et al. §2."""
    if len(x) != len(y):
        raise ProtocolError(f"factors: needs vectors of one length, got {len(x)} and {len(y)}")
    terms = y.own + y.next
    terms *= x.own
    terms += x.next * y.own
    return terms
