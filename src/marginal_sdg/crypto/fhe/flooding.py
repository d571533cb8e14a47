"""Covers for outputs: a fresh encryption of pads, with noise that hides what the server's circuit did.

The noise of a decryption depends on the data. A cover adds ``U - (U mod t)`` to it, with U uniform below 2^flood_bits,
independent of everything: old noise that is b bits shorter moves a coefficient's distribution by 2^-b. As ciphertexts:
(U, 0), which is no encryption but U itself, plus a fresh encryption of ``pads - U mod t``, which also replaces the
second polynomial by one that is pseudorandom even to the owner of the secret key.
Source: circuit privacy by flooding, Gentry 2009, §4.
"""

from __future__ import annotations

import numpy as np

from marginal_sdg.crypto.fhe.layout import Ints
from marginal_sdg.crypto.fhe.public import Ciphertext, Public
from marginal_sdg.crypto.prg import Stream


class Covers:
    """Covers at the output level. ``key``: 32 fresh bytes, for pads and noise that only the server knows."""

    def __init__(self, public: Public, key: bytes) -> None:
        self._public = public
        self._random = Stream(key)
        self._level = public.layout.profile.output_level
        self._digit = public.layout.profile.plaintext.bit_length() - 2  # below t / 2, so encoded as it is
        self._shift = public.encode(np.array([1 << self._digit]), self._level)

    def pads(self) -> Ints:
        """(N,) uniform integers in [0, t)."""
        ring, t = self._public.layout.profile.ring, self._public.layout.profile.plaintext
        kept: Ints = np.empty(0, dtype=np.int64)
        while len(kept) < ring:  # t is just below a power of two
            drawn = self._bits(ring, t.bit_length())
            kept = np.concatenate([kept, drawn[drawn < t]])
        return kept[:ring]

    def cover(self, pads: Ints) -> Ciphertext:
        """A flooded encryption of (N,) pads mod t, to be used once."""
        public, t = self._public, self._public.layout.profile.plaintext
        ring = public.layout.profile.ring
        trivial = nothing = public.zero(self._level)
        residue: Ints = np.zeros(ring, dtype=np.int64)
        left = public.layout.profile.flood_bits
        while left > 0:
            size = left % self._digit or self._digit
            digit = self._bits(ring, size)
            left -= size
            if trivial is not nothing:
                trivial = public.weigh(trivial, self._shift)
            trivial = public.context.EvalAdd(trivial, public.encode(digit, self._level))
            residue = ((residue << self._digit) + digit) % t
        return public.context.EvalAdd(trivial, public.encrypt(public.centred(pads - residue), self._level))

    def _bits(self, count: int, size: int) -> Ints:
        """(count,) uniform integers below 2^size, size at most 32."""
        halves = self._random.draw(-(-count // 2)).view(np.uint32)[:count]
        return (halves >> np.uint32(32 - size)).astype(np.int64)
