"""Which candidate has the largest noisy score: the question as a Boolean circuit over two parties' shares.

What a party can compute by itself costs nothing, a product with a public number one adder for every digit but one. For
105 candidates, 32-bit values and a prime modulus, a candidate costs about 180 conjunctions where the score is linear,
300 with an integer square root and 465 to 680 with 8 fractional bits and weights up to 1,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from operator import index
from typing import Protocol

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.circuit import Bits, Gates, Wires, add, carries, overflow, square_root, to_bits
from marginal_sdg.crypto.prg import Words
from marginal_sdg.crypto.ranking import LARGEST_BITS, Ranking, ring, winner
from marginal_sdg.errors import ProtocolError


class Question(Protocol):
    """What two parties ask of their shares; all of it is public but for the shares. The answer is an index."""

    @property
    def digest(self) -> bytes:
        """8 bytes that tell this question from others."""
        ...

    def server_bits(self, values: npt.ArrayLike, noise: npt.ArrayLike) -> Bits:
        """What the server enters: its shares of the values and of the noise."""
        ...

    def holder_bits(self, values: npt.ArrayLike, noise: npt.ArrayLike) -> Bits:
        """What the key holder enters: its shares of the values and of the noise."""
        ...

    def circuit(self, gates: Gates, server: Wires, holder: Wires) -> Wires:
        """(index bits, 1) the answer, from the wires of both parties' bits."""
        ...


@dataclass(frozen=True)
class NoisyArgmax:
    """The question of one round, all public: which candidate q has the largest ``W_q f(v_q) - P_q + N_q``.

    * ``modulus``: t, at most 2^62; ``v_q = a_q + b_q mod t`` of the server's share a and the key holder's b;
    * ``low``, ``high``: the values lie in ``low <= v < high``, where ``high - low <= t``; low may be negative;
    * ``weights``, ``penalties``: the integers W and P, one for each candidate;
    * ``noise_bound``: no ``|N_q|`` exceeds it. ``N_q = n_q + m_q`` in shares mod 2^64, or mod 2^``width``;
    * ``fraction``: None for f(v) = v; otherwise ``f(v) = floor(sqrt(v 4^fraction))``, where low must be 0.

    Raises ``ProtocolError`` where scores within these bounds would not fit into 62 bits. Shares of values or noise
    outside the bounds give a wrong index: nobody can see that they are.
    """

    modulus: int
    low: int
    high: int
    weights: tuple[int, ...]
    penalties: tuple[int, ...]
    noise_bound: int
    fraction: int | None = None

    def __post_init__(self) -> None:
        try:  # integers of NumPy would overflow below
            for name in ("modulus", "low", "high", "noise_bound"):
                object.__setattr__(self, name, index(getattr(self, name)))
            for name in ("weights", "penalties"):
                object.__setattr__(self, name, tuple(map(index, getattr(self, name))))
        except TypeError:
            raise ProtocolError(f"{name}: needs integers; scale by a power of two and round first") from None
        if not 2 <= self.modulus <= 2**LARGEST_BITS:
            raise ProtocolError(f"modulus: must be from 2 to 2^{LARGEST_BITS}, got {self.modulus}")
        if not 0 < self.high - self.low <= self.modulus:
            raise ProtocolError(f"high: needs low < high <= low + {self.modulus}, got {self.low} and {self.high}")
        if self.fraction is not None and (self.fraction < 0 or self.low != 0):
            raise ProtocolError(f"fraction: a square root needs fraction >= 0 and low = 0, got {self.fraction}")
        _ = self._ranking  # its own checks

    @property
    def candidates(self) -> int:
        """How many there are."""
        return len(self.weights)

    @cached_property
    def digest(self) -> bytes:
        """8 bytes that tell this question from others."""
        numbers = [self.modulus, self.low, self.high, self.noise_bound, -1 if self.fraction is None else self.fraction]
        return sha256(" ".join(str(n) for n in [*numbers, *self.weights, *self.penalties]).encode()).digest()[:8]

    @cached_property
    def _ranking(self) -> Ranking:
        low, high = self.low, self.high - 1
        if self.fraction is not None:
            high = math.isqrt(high << 2 * self.fraction)
        return Ranking(self.weights, self.penalties, self.noise_bound, low, high)

    @property
    def width(self) -> int:
        """Bits of a score in the circuit, where the lowest possible one is 0."""
        return self._ranking.width

    @cached_property
    def share_width(self) -> int:
        """Bits of a share of a value that the circuit needs; 0 where the wrap of the shares changes no score."""
        if self.fraction is None:
            wraps = any(w * self.modulus % 2**self.width for w in self.weights)
            return (self.modulus - 1).bit_length() if wraps else 0
        return self._value_width if self._binary else (self.modulus - 1).bit_length()

    @property
    def _value_width(self) -> int:
        return max(1, (self.high - 1).bit_length())

    @property
    def _binary(self) -> bool:
        return self.modulus & (self.modulus - 1) == 0

    def server_bits(self, values: npt.ArrayLike, noise: npt.ArrayLike) -> Bits:
        """(share_width + width, candidates) what the server enters: its shares of the values and of the noise."""
        shares = self._shares("values", values)
        shifted = (shares + np.uint64(-self.low % self.modulus)) % np.uint64(self.modulus)
        addend = self._ranking.server_words(noise)
        if self.fraction is None:
            addend = addend + shifted * ring(self.weights) + ring([w * self.low for w in self.weights])
        else:
            addend = addend + self._ranking.lacking
        share = shifted + np.uint64(2 ** (self.modulus - 1).bit_length() - self.modulus)
        return np.concatenate([to_bits(share, self.share_width), self._ranking.bits(addend)])

    def holder_bits(self, values: npt.ArrayLike, noise: npt.ArrayLike) -> Bits:
        """(share_width + width, candidates) what the key holder enters: its shares of the values and of the noise."""
        shares = self._shares("values", values)
        addend = self._ranking.checked("noise", noise)
        if self.fraction is None:
            addend = addend + shares * ring(self.weights)
        return np.concatenate([to_bits(shares, self.share_width), self._ranking.bits(addend)])

    def circuit(self, gates: Gates, server: Wires, holder: Wires) -> Wires:
        """(index bits, 1) the index of the largest score, from the wires of both parties' bits."""
        shares = server[: self.share_width], holder[: self.share_width]
        terms = [server[self.share_width :], holder[self.share_width :]]
        if self.fraction is not None:
            terms += self._ranking.products(gates, square_root(gates, self._value(gates, *shares), self.fraction))
        elif self.share_width:
            terms.append(self._wrap(overflow(gates, *shares)))
        return winner(gates, terms)

    def _value(self, gates: Gates, server: Wires, holder: Wires) -> Wires:
        """The values from shares, of which the server's has 2^share_width - t added: without a carry, t is missing."""
        if self._binary:
            return add(gates, server, holder)
        into = carries(gates, server, holder)
        low = (server ^ holder ^ into[:-1])[: self._value_width]
        missing = gates.inverse(into[-1])
        modulus = to_bits(np.array([self.modulus], dtype=np.uint64), self._value_width)[:, 0]
        return add(gates, low, np.stack([np.zeros_like(missing), missing])[modulus.astype(np.intp)])

    def _wrap(self, wrapped: Wires) -> Wires:
        """``-W t`` where the shares' sum exceeded the modulus."""
        bits = to_bits(ring([-w * self.modulus for w in self.weights]), self.width)
        out: Wires = np.stack([np.zeros_like(wrapped), wrapped])[bits.astype(np.intp), np.arange(self.candidates)]
        return out

    def _shares(self, name: str, values: npt.ArrayLike) -> Words:
        out = self._ranking.checked(name, values)
        if (out >= np.uint64(self.modulus)).any():
            raise ProtocolError(f"{name}: shares must be from 0 to the modulus {self.modulus} less one")
        return out
