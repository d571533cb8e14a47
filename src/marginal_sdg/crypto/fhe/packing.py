"""Ring packing: many ciphertexts, with one useful coefficient every s, become one without a mask or a level.

``(A + X^(s/2) B) + sigma(A - X^(s/2) B)`` with ``sigma: X -> X^(1 + 2N/s)`` keeps the coefficients of A at multiples
of s, puts those of B half-way between, and removes what A had there; everything left is doubled.
Source: Chen, Dai, Kim and Song 2021, "Efficient homomorphic conversion between (ring) LWE ciphertexts".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from marginal_sdg.crypto.fhe.public import Ciphertext, Plaintext, Public


class Packer:
    """Packs ciphertexts that have dropped ``level`` towers with the automorphism keys ``keys``."""

    def __init__(self, public: Public, keys: Any, level: int) -> None:
        self._public = public
        self._keys = keys
        self._level = level
        self._monomials: dict[int, Plaintext] = {}

    def pack(self, ciphertexts: Sequence[Ciphertext], stride: int) -> tuple[Ciphertext, int]:
        """The k-th of K ciphertexts' coefficients at multiples of ``stride`` go to k stride / 2^ceil(log2 K) on.

        Returns the ciphertext and its stride. All values are multiplied by stride / new stride. Overwrites the inputs.
        """
        layer: list[Ciphertext | None] = list(ciphertexts)
        layer += [None] * ((1 << (len(layer) - 1).bit_length()) - len(layer))
        while len(layer) > 1:
            half = len(layer) // 2
            layer = [self._merge(layer[k], layer[k + half], stride) for k in range(half)]
            stride //= 2
        return layer[0], stride

    def clear(self, ciphertext: Ciphertext, stride: int) -> Ciphertext:
        """Only multiples of ``stride`` stay, multiplied by it."""
        while stride >= 2:
            ciphertext = self._merge(ciphertext, None, stride)
            stride //= 2
        return ciphertext

    def shift(self, ciphertext: Ciphertext, exponent: int) -> Ciphertext:
        """The product with X^exponent, 0 <= exponent < N."""
        if exponent == 0:
            return ciphertext
        if exponent not in self._monomials:
            values = np.zeros(exponent + 1, dtype=np.int64)
            values[exponent] = 1
            self._monomials[exponent] = self._public.encode(values, self._level)
        return self._public.weigh(ciphertext, self._monomials[exponent])

    def turn(self, ciphertext: Ciphertext, exponent: int) -> Ciphertext:
        """The automorphism X -> X^exponent."""
        return self._public.context.EvalAutomorphism(ciphertext, exponent, self._keys)

    def _merge(self, first: Ciphertext | None, second: Ciphertext | None, stride: int) -> Ciphertext | None:
        if first is None:
            return None
        context, above, below = self._public.context, first, first
        if second is not None:
            moved = self.shift(second, stride // 2)
            below = context.EvalSub(first, moved)
            context.EvalAddInPlace(first, moved)
        turned = self.turn(below, 1 + 2 * self._public.layout.profile.ring // stride)
        context.EvalAddInPlace(turned, above)
        return turned
