"""Boolean circuits of words: adders, comparison, square root, argmax.

A *word* is an array of wires, (bits, lanes, ...), lowest bit first, one lane for each candidate: a gate acts on all
lanes at once. The circuits are written once, over :class:`Gates`: evaluated in the clear (:class:`Plain`), garbled, or
evaluated under labels (``crypto/garbled.py``). Only conjunctions cost anything, so the rest is done by exclusive or: an
adder needs one conjunction per bit (Boyar, Peralta and Pochuev 2000), a selection one. The questions that are made of
them are in ``crypto/question.py`` and ``crypto/deviation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.prg import Words

Wires = npt.NDArray[Any]
Bits = npt.NDArray[np.bool_]
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
