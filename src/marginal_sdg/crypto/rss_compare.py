"""Comparisons of replicated shares: signs, sums of absolute values, the place of the largest value.

Bits are shared by XOR with the same layout as integers (:mod:`marginal_sdg.crypto.rss`) and sliced: a row packs the
same bit of 64 values into a word. A sign is the top bit of a + b with a = x0 + x1, which server 0 knows, and b = x2,
which servers 1 and 2 know: only a needs to be shared, and the AND of the two costs server 0 nothing. Values whose bound
is public are compared on that many low bits only: shares modulo 2^64 are shares modulo 2^bits.

Source: Araki et al. 2016 (AND gates); carries by a tree of blocks as in a parallel-prefix adder.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.rss import WIDTH, Integers, Party, Shares, Words, segment_sums
from marginal_sdg.errors import ProtocolError

Bits = npt.NDArray[np.uint64]  # (2, ..., words): shared bits, a server's own component and that of the next server
Packed = npt.NDArray[np.uint8]

_BLOCK = 1 << 15  # values that are sliced at a time: their bits fit the cache
_EACH_BIT = (1 << np.arange(8, dtype=np.uint8))[:, np.newaxis]


def negative(party: Party, x: Shares, bits: int) -> Bits:
    """Which of (n,) values are negative: (2, ceil(n / 64)), the last word filled up with any bits.

    ``bits``: every value lies in [-2^(bits - 1), 2^(bits - 1)); what lies outside gets a wrong sign.
    """
    if not 2 <= bits <= WIDTH:
        raise ProtocolError(f"bits: needs 2 to {WIDTH}, got {bits}")
    if not len(x):
        return np.empty((2, 0), dtype=np.uint64)
    sums, generated = _half_add(party, x, bits)
    signs = _carry(party, generated, sums[:, 1 : bits - 1])
    signs ^= sums[:, bits - 1]
    return signs


def open_bits(party: Party, bits: Bits, n: int, what: str) -> Packed:
    """(n,) zeros and ones: shared bits of one row, to all three servers."""
    if not n:
        return np.empty(0, dtype=np.uint8)
    return _unpack(party.reveal(bits[0], what) ^ bits[0] ^ bits[1], n)


def absolute_sums(party: Party, x: Shares, starts: Integers, bits: int) -> Shares:
    """Shares of the sums of |x| over segments, as in ``segment_sums``; ``bits`` as in :func:`negative`.

    With s = s0 ^ s1 ^ s2 the sign bits, |x| = t f x where server 0 knows t = 1 - 2 (s0 ^ s1) and servers 1 and 2 know
    f = 1 - 2 s2: these two give shares of f x, server 0 those of t, and the sums of products cost a word each.
    """
    n = len(x)
    if not n:
        zeros = segment_sums(x.own, starts)
        return Shares(zeros, zeros)
    signs = negative(party, x, bits)
    net = party.transport
    net.next_round()
    if party.rank == 0:
        t = _factors(signs[0] ^ signs[1], n)
        r = party.draw(0, n)
        net.send(1, t - r)
        t *= net.receive(2, n)
        r *= net.receive(1, n)
        t += r
        return party.reshare(segment_sums(t, starts))
    f = _factors(signs[0] if party.rank == 2 else signs[1], n)
    first, second = party.draw(2, n), party.draw(2, n)  # their sum is component 2 of f x
    if party.rank == 1:
        f *= x.own + x.next
        np.subtract(f, second, out=second)
        net.send(0, second)
        f += first
        f *= net.receive(0, n)
        return party.reshare(segment_sums(f, starts))
    f *= x.next
    f -= first
    net.send(0, f)
    first += second
    first *= party.draw(0, n)
    return party.reshare(segment_sums(first, starts))


def argmax(party: Party, x: Shares, bits: int) -> int:
    """The place of the largest of (n,) values, to all three servers, and nothing else; of equal ones the first.

    Compares all pairs at once, on ``bits`` bits that hold every difference; a value wins if it loses to no other one.
    Opens one bit per value.
    """
    n = len(x)
    if not n:
        raise ProtocolError("candidates: needs at least one to choose from, got none")
    if n == 1:
        return 0
    first, second, *_ = _pairs(n)
    loses = negative(party, x[first] - x[second], bits)
    beats = np.stack(
        [_matrix(loses[0], n, complement=party.rank == 0), _matrix(loses[1], n, complement=party.after == 0)]
    )
    while (rows := beats.shape[1]) > 1:
        half = rows // 2
        wins = _both(party, (beats[:, :half], beats[:, half : 2 * half]))
        beats = np.concatenate([wins, beats[:, 2 * half :]], axis=1) if rows % 2 else wins
    winners = np.flatnonzero(open_bits(party, beats[:, 0], n, "argmax"))
    if len(winners) != 1:
        raise ProtocolError(f"argmax: not one of {n} candidates wins: differences exceed {bits} bits or shares are bad")
    return int(winners[0])


def _half_add(party: Party, x: Shares, bits: int) -> tuple[Bits, Bits]:
    """Two rounds: (2, bits, words) sums a ^ b without carries; (2, bits - 1, words) the carries a & b."""
    words = -(-len(x) // WIDTH)
    sums = np.empty((2, bits, words), dtype=np.uint64)
    generated = np.empty((2, bits - 1, words), dtype=np.uint64)
    net = party.transport
    net.next_round()
    if party.rank == 0:
        sums[0] = party.draw(0, bits * words).reshape(bits, words)
        np.bitwise_xor(_planes(x.own + x.next, bits), sums[0], out=sums[1])
        net.send(1, sums[1].reshape(-1))
        net.next_round()
        generated[0] = net.receive(2, generated[0].size).reshape(bits - 1, words)
        generated[1] = net.receive(1, generated[1].size).reshape(bits - 1, words)
        return sums, generated
    # Server 1 holds the components 1 and 2, server 2 the components 2 and 0; component 2 of the sums is b.
    known, b = (0, 1) if party.rank == 1 else (1, 0)
    sums[b] = _planes(x.next if party.rank == 1 else x.own, bits)
    masks = party.draw(2, 2 * generated[0].size).reshape(generated.shape)
    np.bitwise_xor(masks[0], masks[1], out=generated[b])
    if party.rank == 1:
        sums[known] = net.receive(0, bits * words).reshape(bits, words)
    else:
        sums[known] = party.draw(0, bits * words).reshape(bits, words)
    net.next_round()
    np.bitwise_and(sums[0, :-1], sums[1, :-1], out=generated[known])
    generated[known] ^= masks[party.rank - 1]
    net.send(0, generated[known].reshape(-1))
    return sums, generated


def _carry(party: Party, generated: Bits, propagated: Bits) -> Bits:
    """Whether the sum of all bits carries out of the top one: (2, words), in ceil(log2(m)) rounds.

    ``generated``: (2, m, words), blocks from the lowest up, each carries by itself; ``propagated``: (2, m - 1, words),
    blocks from the second up, each hands a carry on. Neighbours are merged until one block is left.
    """
    while (m := generated.shape[1]) > 1:
        half, even = m // 2, m - m % 2
        upper, lower = propagated[:, 0:even:2], propagated[:, 1 : even - 1 : 2]
        merged = _both(party, (upper, generated[:, 0:even:2]), (upper[:, 1:], lower))
        carries, passes = merged[:, :half], merged[:, half:]
        carries ^= generated[:, 1:even:2]
        if m % 2:
            carries = np.concatenate([carries, generated[:, even:]], axis=1)
            passes = np.concatenate([passes, propagated[:, even - 1 :]], axis=1)
        generated, propagated = carries, passes
    return generated[:, 0]


def _both(party: Party, *pairs: tuple[Bits, Bits]) -> Bits:
    """One round: the ANDs of pairs of (2, rows, words) bits, below each other."""
    result = np.empty((2, sum(x.shape[1] for x, _ in pairs), pairs[0][0].shape[2]), dtype=np.uint64)
    mine = result[0]
    row = 0
    for x, y in pairs:
        part = mine[row : row + x.shape[1]]
        np.bitwise_xor(y[0], y[1], out=part)
        part &= x[0]
        part ^= x[1] & y[0]
        row += x.shape[1]
    party.mask(mine.reshape(-1), np.bitwise_xor, np.bitwise_xor)
    result[1] = party.rotate(mine)
    return result


def _planes(values: Words, bits: int) -> Words:
    """(bits, ceil(n / 64)) words: plane j holds bit j of (n,) values."""
    n, used = len(values), -(-bits // 8)
    planes = np.zeros((bits, 8 * -(-n // WIDTH)), dtype=np.uint8)
    columns = values.astype("<u8", copy=False).view(np.uint8).reshape(n, 8)[:, :used]
    for start in range(0, n, _BLOCK):
        block = np.ascontiguousarray(columns[start : start + _BLOCK].T)
        packed = np.packbits(block[:, np.newaxis, :] & _EACH_BIT, axis=2, bitorder="little")
        planes[:, start // 8 : start // 8 + packed.shape[2]] = packed.reshape(8 * used, -1)[:bits]
    return planes.view(np.uint64)


def _unpack(words: Words, n: int) -> Packed:
    """(n,) zeros and ones: one plane of bits."""
    return np.unpackbits(words.view(np.uint8), count=n, bitorder="little")


def _factors(words: Words, n: int) -> Words:
    """(n,) 1 for a bit of 0 and -1 for a bit of 1."""
    signs = _unpack(words, n).view(np.int8)
    signs *= -2
    signs += 1
    return signs.astype(np.int64).view(np.uint64)


@lru_cache(maxsize=16)
def _pairs(n: int) -> tuple[Integers, Integers, Integers, npt.NDArray[np.bool_]]:
    """All pairs i < j of n; then (n - 1, n): the pair of candidate q with its k-th opponent, and whether q comes first.

    A fit compares the same few numbers of candidates again and again.
    """
    first, second = np.triu_indices(n, 1)
    number = np.empty((n, n), dtype=np.int64)
    number[first, second] = number[second, first] = np.arange(len(first))
    rank = np.arange(n)
    opponent = np.arange(n - 1)[:, np.newaxis]
    opponent = opponent + (opponent >= rank)
    return first, second, number[opponent, rank], rank < opponent


def _matrix(loses: Words, n: int, *, complement: bool) -> Words:
    """(n - 1, ceil(n / 64)) words: in column q one bit for each opponent of q, set if q beats it.

    ``loses``: for the pairs i < j, whether i loses to j; that i beats j is the complement, taken in one component.
    """
    first, _, pair, comes_first = _pairs(n)
    matrix = _unpack(loses, len(first))[pair]
    if complement:
        matrix ^= comes_first
    packed = np.zeros((n - 1, 8 * -(-n // WIDTH)), dtype=np.uint8)
    packed[:, : -(-n // 8)] = np.packbits(matrix, axis=1, bitorder="little")
    return packed.view(np.uint64)
