"""What every operation on replicated shares costs: bytes of each server and rounds, in closed form.

The tests compare these with the bytes and rounds that the transport counted, and they are equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from marginal_sdg.crypto.rss import WIDTH
from marginal_sdg.crypto.transport import FRAME_BYTES

_WORD_BYTES = 8


@dataclass(frozen=True)
class Cost:
    """Of servers 0, 1 and 2: bytes of payload and messages that they send; rounds that follow each other."""

    payload: tuple[int, int, int] = (0, 0, 0)
    messages: tuple[int, int, int] = (0, 0, 0)
    rounds: int = 0

    def __add__(self, other: Cost) -> Cost:
        """The cost of one operation after the other."""
        a, b, c = (x + y for x, y in zip(self.payload, other.payload, strict=True))
        d, e, f = (x + y for x, y in zip(self.messages, other.messages, strict=True))
        return Cost((a, b, c), (d, e, f), self.rounds + other.rounds)

    @property
    def wire(self) -> tuple[int, int, int]:
        """Bytes that servers 0, 1 and 2 send, with headers and tags."""
        a, b, c = (size + FRAME_BYTES * n for size, n in zip(self.payload, self.messages, strict=True))
        return a, b, c


NOTHING = Cost()


def one_round(count: int) -> Cost:
    """Every server sends ``count`` words: ``open``, ``reshare``, ``multiply``, and ``dot`` into that many segments."""
    size = _WORD_BYTES * count
    return Cost((size, size, size), (1, 1, 1), 1) if count else NOTHING


def replicate(count: int) -> Cost:
    """Servers 0 and 1 send a word per value."""
    size = _WORD_BYTES * count
    return Cost((size, size, 0), (1, 1, 0), 1) if count else NOTHING


def ands(bits: int) -> tuple[int, int]:
    """AND gates per value that all three servers take part in, and rounds: the tree over bits - 1 blocks.

    A merge of two blocks needs two gates; that of the lowest two needs one. So there are 2 gates for every one of the
    bits - 2 merges but for one merge in each of the ceil(log2(bits - 1)) rounds.
    """
    rounds = (bits - 2).bit_length()
    return 2 * (bits - 2) - rounds, rounds


def negative(count: int, bits: int) -> Cost:
    """Signs of ``count`` values: server 0 shares its bits, servers 1 and 2 theirs times those, then the tree."""
    if not count:
        return NOTHING
    plane = _WORD_BYTES * _words(count)
    gates, rounds = ands(bits)
    others = plane * (bits - 1 + gates)
    return Cost((plane * (bits + gates), others, others), (1 + rounds, 1 + rounds, 1 + rounds), 2 + rounds)


def absolute_sums(count: int, segments: int, bits: int) -> Cost:
    """Sums of |x| over segments of ``count`` values together: the signs, a word per value, a word per segment."""
    return negative(count, bits) + one_round(count) + one_round(segments) if count else NOTHING


def argmax(count: int, bits: int) -> Cost:
    """The place of the largest of ``count`` values: all pairs, a tree over the opponents, the opened place."""
    if count < 2:
        return NOTHING
    cost = negative(count * (count - 1) // 2, bits)
    rows, words = count - 1, _words(count)
    while rows > 1:
        cost += one_round(rows // 2 * words)
        rows -= rows // 2
    return cost + one_round(words)


def noisy_selection(candidates: int, compared: int, bits: int, score_bits: int) -> Cost:
    """Norms of ``candidates`` over ``compared`` values of ``bits`` in all, noise, and the place of the largest."""
    return absolute_sums(compared, candidates, bits) + one_round(candidates) + argmax(candidates, score_bits)


def _words(count: int) -> int:
    return -(-count // WIDTH)
