"""Which candidate has the largest noisy score: the question as a Boolean circuit over two parties' shares.

A *word* is an array of wires, (bits, lanes, ...), lowest bit first, one lane for each candidate: a gate acts on all
lanes at once. The circuits are written once, over :class:`Gates`: evaluated in the clear (:class:`Plain`), garbled, or
evaluated under labels (``crypto/garbled.py``). Only conjunctions cost anything, so the rest is done by exclusive or: an
adder needs one conjunction per bit (Boyar, Peralta and Pochuev 2000), a selection one, a product with a public number
one adder for every digit but one, and what a party can compute by itself none.

For 105 candidates, 32-bit values and a prime modulus, a candidate costs about 180 conjunctions where the score is
linear, 300 with an integer square root and 465 to 680 with 8 fractional bits and weights up to 1,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from operator import index
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.prg import Words
from marginal_sdg.errors import ProtocolError

Wires = npt.NDArray[Any]
Bits = npt.NDArray[np.bool_]
LARGEST_BITS = 62  # of the modulus and of scores: sums of two stay within 64 bits
_FEW_LANES = 16  # so few lanes cost less as a tree, with thrice the conjunctions, than bit after bit


class Gates(Protocol):
    """What a circuit is made of. Exclusive or is ``^`` on wires; all-zero wires are the constant 0."""

    def inverse(self, x: Wires) -> Wires:
        """Not x."""
        ...

    def both(self, x: Wires, y: Wires) -> Wires:
        """The conjunction of wires of equal shape."""
        ...


class Plain:
    """Gates on bits in the clear. ``conjunctions`` and ``layers`` count what it was asked for."""

    def __init__(self) -> None:
        self.conjunctions = 0
        self.layers = 0

    def inverse(self, x: Wires) -> Wires:
        """Not x."""
        out: Wires = ~x
        return out

    def both(self, x: Wires, y: Wires) -> Wires:
        """The conjunction of bits."""
        self.conjunctions += x.size
        self.layers += 1
        out: Wires = x & y
        return out


def to_bits(values: Words, width: int) -> Bits:
    """(width, lanes) the lowest ``width`` bits of (lanes,) values, lowest first."""
    out: Bits = (values >> np.arange(width, dtype=np.uint64)[:, None] & np.uint64(1)).astype(bool)
    return out


def from_bits(bits: Bits) -> Words:
    """(lanes,) the values of (width, lanes) bits."""
    out: Words = (bits.astype(np.uint64) << np.arange(len(bits), dtype=np.uint64)[:, None]).sum(axis=0, dtype=np.uint64)
    return out


def carries(gates: Gates, x: Wires, y: Wires, carry: Wires | None = None) -> Wires:
    """(width + 1, ...) the carry into every bit of ``x + y + carry``, and at last the one out of the sum."""
    out = np.zeros((len(x) + 1, *x.shape[1:]), dtype=x.dtype)
    if carry is not None:
        out[0] = carry
    for i in range(len(x)):
        out[i + 1] = out[i] ^ gates.both(x[i] ^ out[i], y[i] ^ out[i])
    return out


def add(gates: Gates, x: Wires, y: Wires, carry: Wires | None = None) -> Wires:
    """``x + y + carry`` modulo 2^width."""
    out: Wires = x ^ y ^ carries(gates, x[:-1], y[:-1], carry)
    return out


def add_all(gates: Gates, terms: Sequence[Wires]) -> Wires:
    """The sum of words modulo 2^width: three become two in one layer (carry save), the last two are added."""
    left = list(terms)
    while len(left) > 2:
        x, y, z = left[:3]
        carry = np.zeros_like(x)
        carry[1:] = x[:-1] ^ gates.both(x[:-1] ^ y[:-1], x[:-1] ^ z[:-1])  # the majority
        left = [*left[3:], x ^ y ^ z, carry]
    return add(gates, left[0], left[1])


def overflow(gates: Gates, x: Wires, y: Wires) -> Wires:
    """(...) the carry out of ``x + y``: bit after bit, or as a tree where there are few lanes."""
    if x.shape[1] > _FEW_LANES:
        out: Wires = carries(gates, x, y)[-1]
        return out
    made, passed = gates.both(x, y), x ^ y
    while len(made) > 1:
        even = len(made) // 2 * 2
        upper = passed[1:even:2]
        low = np.concatenate([made[0:even:2], passed[0:even:2]])
        low = gates.both(np.concatenate([upper, upper]), low)
        made = np.concatenate([made[1:even:2] ^ low[: even // 2], made[even:]])
        passed = np.concatenate([low[even // 2 :], passed[even:]])
    out = made[0]
    return out


def greater(gates: Gates, x: Wires, y: Wires) -> Wires:
    """(...) whether ``x > y``, both unsigned."""
    return overflow(gates, x, gates.inverse(y))


def select(gates: Gates, condition: Wires, x: Wires, y: Wires) -> Wires:
    """``x`` where the condition holds, else ``y``."""
    if not len(x):
        return x
    out: Wires = y ^ gates.both(np.broadcast_to(condition, x.shape), x ^ y)
    return out


def square_root(gates: Gates, value: Wires, fraction: int = 0) -> Wires:
    """``floor(sqrt(value * 4^fraction))``, two bits of the value for one of the root.

    Non-restoring: a step adds or subtracts by the sign of the last remainder, so it costs one adder and no selection.
    Remainders are two's complement; ``4 R + pair - (4 Q + 1)`` and ``4 R + pair + (4 Q + 3)`` both add ``...11`` at
    their lowest two bits, where Q is complemented in the first.
    """
    zero = np.zeros_like(value[:1])
    if len(value) % 2:
        value = np.concatenate([value, zero])
    low, high = value[0::2], value[1::2]
    carried = low ^ high ^ gates.both(low, high)  # out of pair + 3
    lowest = gates.inverse(np.stack([low, low ^ high]))
    one = gates.inverse(zero)
    remainder, positive = zero, one
    root = value[:0]
    for step in range(len(low) + fraction):
        pair = len(low) - 1 - step
        addend = np.concatenate([root, zero]) ^ positive
        if pair >= 0:
            top = add(gates, remainder, addend, carried[pair])
            bottom = lowest[:, pair]
        else:
            top = add(gates, remainder, addend)
            bottom = np.concatenate([one, one])
        positive = gates.inverse(top[-1:])
        remainder = np.concatenate([bottom, top[:-1]])
        root = np.concatenate([positive, root])
    return root


def argmax(gates: Gates, scores: Wires) -> Wires:
    """(index bits, 1) where the largest of unsigned words is; the first one where several are.

    A knock-out of neighbours: who wins the round of number l gives bit l of the index, so the index is carried along
    at one conjunction per candidate.
    """
    width, lanes = scores.shape[:2]
    carried = scores  # and below it the bits of the index so far
    while lanes > 1:
        even = lanes // 2 * 2
        higher = greater(gates, carried[:width, 1:even:2], carried[:width, 0:even:2])
        if lanes == 2:
            carried, width = carried[width:], 0
        winners = select(gates, higher, carried[:, 1:even:2], carried[:, 0:even:2])
        bye = carried[:, even:]
        carried = np.concatenate(
            [
                np.concatenate([winners, bye], axis=1),
                np.concatenate([higher, np.zeros_like(scores[0, : lanes - even])])[None],
            ]
        )
        lanes = carried.shape[1]
    out: Wires = carried[width:]
    return out


def signed_digits(number: int) -> list[tuple[int, int]]:
    """(power of two, sign) of the digits of the non-adjacent form, which has the fewest: 7 is 8 - 1."""
    sign = 1 if number >= 0 else -1
    number = abs(number)
    digits = []
    for power in range(number.bit_length() + 1):
        if number >> power & 1:
            digit = 2 - (number >> power & 3)
            number -= digit << power
            digits.append((power, sign * digit))
    return digits


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
        if not self.weights or len(self.weights) != len(self.penalties):
            raise ProtocolError(
                f"weights: needs as many as penalties, at least one; got {len(self.weights)} and {len(self.penalties)}"
            )
        if self.noise_bound < 0:
            raise ProtocolError(f"noise_bound: must not be negative, got {self.noise_bound}")
        if self.fraction is not None and (self.fraction < 0 or self.low != 0):
            raise ProtocolError(f"fraction: a square root needs fraction >= 0 and low = 0, got {self.fraction}")
        if self.width > LARGEST_BITS:
            raise ProtocolError(
                f"weights: scores span {self.width} bits, more than {LARGEST_BITS}; lower the weights or the bounds"
            )

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
    def _scores(self) -> tuple[int, int]:
        """The lowest and the highest score that the bounds allow."""
        ends = (self.low, self.high - 1)
        if self.fraction is not None:
            ends = (0, math.isqrt(ends[1] << 2 * self.fraction))
        exact = [w * end - p for w, p in zip(self.weights, self.penalties, strict=True) for end in ends]
        return min(exact) - self.noise_bound, max(exact) + self.noise_bound

    @cached_property
    def width(self) -> int:
        """Bits of a score in the circuit, where the lowest possible one is 0."""
        lowest, highest = self._scores
        return max(1, (highest - lowest).bit_length())

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

    @cached_property
    def _digits(self) -> list[tuple[npt.NDArray[np.int64], Bits, Bits]]:
        """The weights' digits, (candidates,) each: power, whether there is one, whether it is negative."""
        digits = [signed_digits(w) for w in self.weights]
        padded = np.zeros((max(map(len, digits)), self.candidates, 2), dtype=np.int64)
        for candidate, pairs in enumerate(digits):
            for k, pair in enumerate(pairs):
                padded[k, candidate] = pair
        return [(power, sign != 0, sign < 0) for power, sign in np.moveaxis(padded, 2, 1)]

    @cached_property
    def _constants(self) -> Words:
        """What the server adds to a score: its public part, and the 1 that a negative digit's ``not x`` lacks."""
        added = [
            w * self.low if self.fraction is None else sum(sign < 0 for _, sign in signed_digits(w))
            for w in self.weights
        ]
        return _ring([extra - p - self._scores[0] for extra, p in zip(added, self.penalties, strict=True)])

    def server_bits(self, values: npt.ArrayLike, noise: npt.ArrayLike) -> Bits:
        """(share_width + width, candidates) what the server enters: its shares of the values and of the noise."""
        shares = self._shares("values", values)
        shifted = (shares + np.uint64(-self.low % self.modulus)) % np.uint64(self.modulus)
        addend = self._words("noise", noise) + self._constants
        if self.fraction is None:
            addend = addend + shifted * _ring(self.weights)
        share = shifted + np.uint64(2 ** (self.modulus - 1).bit_length() - self.modulus)
        return np.concatenate([to_bits(share, self.share_width), to_bits(addend, self.width)])

    def holder_bits(self, values: npt.ArrayLike, noise: npt.ArrayLike) -> Bits:
        """(share_width + width, candidates) what the key holder enters: its shares of the values and of the noise."""
        shares = self._shares("values", values)
        addend = self._words("noise", noise)
        if self.fraction is None:
            addend = addend + shares * _ring(self.weights)
        return np.concatenate([to_bits(shares, self.share_width), to_bits(addend, self.width)])

    def circuit(self, gates: Gates, server: Wires, holder: Wires) -> Wires:
        """(index bits, 1) the index of the largest score, from the wires of both parties' bits."""
        shares = server[: self.share_width], holder[: self.share_width]
        terms = [server[self.share_width :], holder[self.share_width :]]
        if self.fraction is not None:
            terms += self._products(gates, square_root(gates, self._value(gates, *shares), self.fraction))
        elif self.share_width:
            terms.append(self._wrap(overflow(gates, *shares)))
        return argmax(gates, add_all(gates, terms))

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
        bits = to_bits(_ring([-w * self.modulus for w in self.weights]), self.width)
        out: Wires = np.stack([np.zeros_like(wrapped), wrapped])[bits.astype(np.intp), np.arange(self.candidates)]
        return out

    def _products(self, gates: Gates, root: Wires) -> list[Wires]:
        """Words whose sum is W times the root, but for the server's constants: a shift for each digit of W."""
        rows = np.concatenate([root, np.zeros_like(root[:1])])
        out: list[Wires] = []
        for power, present, negative in self._digits:
            place = np.arange(self.width)[:, None] - power
            place = np.where(present & (place >= 0) & (place < len(root)), place, len(root))
            product = rows[place, np.arange(self.candidates)]
            product[:, negative] = gates.inverse(product[:, negative])
            out.append(product)
        return out

    def _shares(self, name: str, values: npt.ArrayLike) -> Words:
        out = self._words(name, values)
        if (out >= np.uint64(self.modulus)).any():
            raise ProtocolError(f"{name}: shares must be from 0 to the modulus {self.modulus} less one")
        return out

    def _words(self, name: str, values: npt.ArrayLike) -> Words:
        out = np.asarray(values)
        if out.shape != (self.candidates,) or out.dtype.kind not in "iu":
            raise ProtocolError(
                f"{name}: needs an integer share for each of {self.candidates} candidates, got {out.dtype}{out.shape}"
            )
        return out.astype(np.uint64)


def _ring(numbers: Sequence[int]) -> Words:
    return np.array([number % 2**64 for number in numbers], dtype=np.uint64)
