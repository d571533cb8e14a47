"""The last step of every selection: the winner by ``W v - P + N``, for values v on wires and public weights W."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.circuit import Bits, Gates, Wires, add_all, argmax, to_bits
from marginal_sdg.crypto.prg import Words
from marginal_sdg.errors import ProtocolError

LARGEST_BITS = 62  # of scores: sums of two stay within 64 bits


@dataclass(frozen=True)
class Ranking:
    """``weights`` W and ``penalties`` P: (candidates,) integers; the values lie in ``low <= v <= high``.

    ``noise_bound``: no ``|N|`` exceeds it. N comes in shares of two parties mod 2^64, or mod 2^``width``. Raises
    ``ProtocolError`` where scores within these bounds would not fit into 62 bits.
    """

    weights: tuple[int, ...]
    penalties: tuple[int, ...]
    noise_bound: int
    low: int
    high: int

    def __post_init__(self) -> None:
        if not self.weights or len(self.weights) != len(self.penalties):
            raise ProtocolError(
                f"weights: needs as many as penalties, at least one; got {len(self.weights)} and {len(self.penalties)}"
            )
        if self.noise_bound < 0:
            raise ProtocolError(f"noise_bound: must not be negative, got {self.noise_bound}")
        if self.width > LARGEST_BITS:
            raise ProtocolError(
                f"weights: scores span {self.width} bits, more than {LARGEST_BITS}; lower the weights or the bounds"
            )

    @property
    def candidates(self) -> int:
        """How many there are."""
        return len(self.weights)

    @cached_property
    def lowest(self) -> int:
        """The lowest score that the bounds allow, which is 0 in the circuit."""
        return min(self._ends) - self.noise_bound

    @cached_property
    def width(self) -> int:
        """Bits of a score in the circuit."""
        return max(1, (max(self._ends) + self.noise_bound - self.lowest).bit_length())

    @property
    def _ends(self) -> list[int]:
        return [w * end - p for w, p in zip(self.weights, self.penalties, strict=True) for end in (self.low, self.high)]

    def server_words(self, noise: npt.ArrayLike) -> Words:
        """(candidates,) what the server adds: its noise and all that is public, but for what :meth:`products` lacks."""
        return self.checked("noise", noise) + ring([-p - self.lowest for p in self.penalties])

    def checked(self, name: str, values: npt.ArrayLike) -> Words:
        """(candidates,) integer shares mod 2^64; ``ProtocolError`` where they are none."""
        out = np.asarray(values)
        if out.shape != (self.candidates,) or out.dtype.kind not in "iu":
            raise ProtocolError(
                f"{name}: needs an integer share for each of {self.candidates} candidates, got {out.dtype}{out.shape}"
            )
        return out.astype(np.uint64)

    def bits(self, words: Words) -> Bits:
        """(width, candidates) of what a party adds."""
        return to_bits(words, self.width)

    @cached_property
    def lacking(self) -> Words:
        """(candidates,) what :meth:`products` lack: a 1 for every negative digit, of which ``not x`` is ``-x - 1``."""
        return ring([sum(sign < 0 for _, sign in signed_digits(w)) for w in self.weights])

    def products(self, gates: Gates, values: Wires) -> list[Wires]:
        """Words whose sum is W times the values, but for ``lacking``: a shift for each digit of W."""
        rows = np.concatenate([values, np.zeros_like(values[:1])])
        out: list[Wires] = []
        for power, present, negative in self._digits:
            place = np.arange(self.width)[:, None] - power
            place = np.where(present & (place >= 0) & (place < len(values)), place, len(values))
            product = rows[place, np.arange(self.candidates)]
            product[:, negative] = gates.inverse(product[:, negative])
            out.append(product)
        return out

    @cached_property
    def _digits(self) -> list[tuple[npt.NDArray[np.int64], Bits, Bits]]:
        """The weights' digits, (candidates,) each: power, whether there is one, whether it is negative."""
        digits = [signed_digits(w) for w in self.weights]
        padded = np.zeros((max(map(len, digits)), self.candidates, 2), dtype=np.int64)
        for candidate, pairs in enumerate(digits):
            for k, pair in enumerate(pairs):
                padded[k, candidate] = pair
        return [(power, sign != 0, sign < 0) for power, sign in np.moveaxis(padded, 2, 1)]


def winner(gates: Gates, terms: Sequence[Wires]) -> Wires:
    """(index bits, 1) the place of the largest sum of (width, candidates) words."""
    return argmax(gates, add_all(gates, terms))


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


def ring(numbers: Sequence[int]) -> Words:
    """(n,) numbers modulo 2^64."""
    return np.array([number % 2**64 for number in numbers], dtype=np.uint64)
