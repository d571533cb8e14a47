"""Which marginal deviates most, in the L1 norm, from public counts: a question on two parties' shares of its cells.

The sign of a cell's difference d comes out of an adder of the few bits that d has. The shares' sum is d, d + t or
d + 2 t; which of them, two bits of each party tell, as |d| is below a quarter of t: d where both shares are in the
lowest quarter, d + 2 t where both are in the highest. ``|d| = (d ^ s) + s`` for the sign s, and the s enter as carries
of the adders that sum up. So a cell of up to k bits costs about 3 k conjunctions, whatever t is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.circuit import Bits, Gates, Wires, add, add_all, to_bits
from marginal_sdg.crypto.ranking import Ranking, winner
from marginal_sdg.errors import ProtocolError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LargestDeviation:
    """The question of one round, all public: which q has the largest ``W_q ||M_q - expected_q||_1 - P_q + N_q``.

    * ``modulus``: t; the cells of all M_q end to end are ``a + b mod t`` of the server's a and the key holder's b;
    * ``records``: no cell of any M_q exceeds it, nor does the sum of its cells;
    * ``expected``: (cells,) integers from 0 on, for each q;
    * ``weights``, ``penalties``, ``noise_bound``: as in :class:`~marginal_sdg.crypto.ranking.Ranking`.

    Raises ``ProtocolError`` where a difference may reach a quarter of the modulus. Shares of cells outside the bounds
    give a wrong index: nobody can see that they are.
    """

    modulus: int
    records: int
    expected: tuple[Ints, ...]
    weights: tuple[int, ...]
    penalties: tuple[int, ...]
    noise_bound: int

    def __post_init__(self) -> None:
        if len(self.expected) != len(self.weights) or not all(counts.size for counts in self.expected):
            raise ProtocolError(f"expected: needs counts for each of {len(self.weights)} candidates")
        if min(int(counts.min()) for counts in self.expected) < 0:
            raise ProtocolError("expected: counts must not be negative")
        if 4 * self._largest >= self.modulus:
            raise ProtocolError(f"records: differences up to {self._largest} need a modulus above {4 * self._largest}")
        _ = self._ranking  # its own checks

    @cached_property
    def digest(self) -> bytes:
        """8 bytes that tell this question from others."""
        numbers = [self.modulus, self.records, self.noise_bound, *self._sizes, *self.weights, *self.penalties]
        return sha256(" ".join(map(str, numbers)).encode() + self._cells.tobytes()).digest()[:8]

    @cached_property
    def _cells(self) -> Ints:
        return np.concatenate(self.expected).astype(np.int64)

    @cached_property
    def _sizes(self) -> Ints:
        return np.array([counts.size for counts in self.expected], dtype=np.int64)

    @cached_property
    def _largest(self) -> int:
        return max(self.records, int(self._cells.max()))

    @property
    def _width(self) -> int:
        """Bits of a difference, sign included."""
        return self._largest.bit_length() + 1

    @cached_property
    def _ranking(self) -> Ranking:
        largest = self.records + max(int(counts.sum()) for counts in self.expected)
        return Ranking(self.weights, self.penalties, self.noise_bound, 0, largest)

    def server_bits(self, values: npt.ArrayLike, noise: npt.ArrayLike) -> Bits:
        """(bits,) what the server enters: its shares (cells,) of the marginals, and (candidates,) of the noise."""
        shares = (self._shares(values) - self._cells) % self.modulus
        return self._entered(shares, shares - self.modulus, self._ranking.server_words(noise) + self._ranking.lacking)

    def holder_bits(self, values: npt.ArrayLike, noise: npt.ArrayLike) -> Bits:
        """(bits,) what the key holder enters: its shares (cells,) of the marginals, and (candidates,) of the noise."""
        shares = self._shares(values)
        return self._entered(shares, shares, self._ranking.checked("noise", noise))

    def _entered(self, shares: Ints, words: Ints, addend: npt.NDArray[np.uint64]) -> Bits:
        quarters = np.stack([4 * shares < self.modulus, 4 * shares >= 3 * self.modulus])
        cells = np.concatenate([to_bits(words.astype(np.uint64), self._width), quarters])
        return np.concatenate([cells.ravel(), self._ranking.bits(addend).ravel()])

    def circuit(self, gates: Gates, server: Wires, holder: Wires) -> Wires:
        """(index bits, 1) the index of the largest score, from the wires of both parties' bits."""
        own, addend = self._entries(server)
        other, second = self._entries(holder)
        width = self._width
        wraps = gates.both(own[width:], other[width:])  # none of the two t, or both
        bits = to_bits(np.array([self.modulus, -self.modulus], dtype=np.int64).astype(np.uint64), width)
        correction = np.stack([bits[:, 0], bits[:, 1]], axis=1)
        zero = np.zeros_like(wraps[0])
        wrapped = np.stack([np.stack([zero, wraps[k]])[correction[:, k].astype(np.intp)] for k in range(2)])
        difference = add_all(gates, [own[:width], other[:width], wrapped[0] ^ wrapped[1]])
        sign = difference[-1]
        total = sums(gates, difference[:-1] ^ sign, sign, self._sizes, self._ranking.high.bit_length())
        return winner(gates, [addend, second, *self._ranking.products(gates, total)])

    def _entries(self, wires: Wires) -> tuple[Wires, Wires]:
        """What was entered for the cells, (bits, cells), and for the candidates, (width, candidates)."""
        ends = (self._width + 2) * len(self._cells)
        of_cells = wires[:ends].reshape(-1, len(self._cells), *wires.shape[1:])
        return of_cells, wires[ends:].reshape(-1, len(self._sizes), *wires.shape[1:])

    def _shares(self, values: npt.ArrayLike) -> Ints:
        out = np.asarray(values)
        if out.shape != self._cells.shape or out.dtype.kind not in "iu":
            raise ProtocolError(
                f"values: needs an integer share for each of {len(self._cells)} cells, got {out.dtype}{out.shape}"
            )
        if ((out < 0) | (out >= self.modulus)).any():
            raise ProtocolError(f"values: shares must be from 0 to the modulus {self.modulus} less one")
        return out.astype(np.int64)


def sums(gates: Gates, words: Wires, ones: Wires, sizes: Sequence[int] | Ints, width: int) -> Wires:
    """(width, groups) the sum of each group of neighbouring lanes, of its words and of its ``ones``, (lanes,) bits.

    Modulo 2^width. A tree of adders, each of which takes a bit as its carry: there is one bit more than adders.
    """
    left = np.asarray(sizes)
    zero = np.zeros_like(words[:1])
    while True:
        if len(words) < width:
            words = np.concatenate([words, zero[:, : words.shape[1]]])
        if left.max() == 1:
            return add(gates, words[:width], np.zeros_like(words[:width]), ones)
        starts, owners = np.cumsum(left) - left, np.arange(len(left))
        pairs, odd = left // 2, left % 2 == 1
        owner = np.repeat(owners, pairs)
        first = starts[owner] + 2 * (np.arange(len(owner)) - np.repeat(np.cumsum(pairs) - pairs, pairs))
        rest = (starts + left - 1)[odd]
        order = np.argsort(np.concatenate([owner, owners[odd]]), kind="stable")
        added = add(gates, words[:, first], words[:, first + 1], ones[first])
        words = np.concatenate([added, words[:, rest]], axis=1)[:, order]
        ones = np.concatenate([ones[first + 1], ones[rest]])[order]
        left = pairs + odd
