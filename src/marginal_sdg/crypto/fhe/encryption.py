"""Encryptions of many polynomials: by OpenFHE, or encoded on raw residues, which takes three quarters of the time.

Whoever encodes on residues adds the transform of the coefficients, which is public arithmetic, to a fresh encryption of
zero by OpenFHE: all randomness stays there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import numpy as np

from marginal_sdg.crypto.fhe.layout import Ints
from marginal_sdg.crypto.fhe.library import before_randomness
from marginal_sdg.crypto.fhe.public import Ciphertext, Public, dump
from marginal_sdg.crypto.fhe.residues import Form, Words

COMPILED_FROM = 4_000  # ciphertexts: compiling the kernel takes as long as it saves with that many

Encrypt = Callable[[Ints], bytes]  # (N,) coefficients within t / 2 of 0: a serialised fresh encryption


def choose_encrypt(public: Public, planned: int) -> Encrypt:
    """Raw residues for many ciphertexts if a test of them succeeds, otherwise OpenFHE's calls."""
    if planned >= COMPILED_FROM:
        try:
            encoding = RawEncoding(public)
        except (ImportError, ValueError):  # no Numba, or another OpenFHE
            pass
        else:
            return encoding.encrypt
    return partial(_encrypt, public)


def _encrypt(public: Public, values: Ints) -> bytes:
    return dump(public.encrypt(values, 0))


class RawEncoding:
    """Raises ``ValueError`` unless encoding on residues gives OpenFHE's result bit for bit in a test."""

    def __init__(self, public: Public) -> None:
        kernel = importlib.import_module("marginal_sdg.crypto.fhe.kernel")
        self._add_transform = kernel.add_transform
        self._public = public
        ring = public.layout.profile.ring
        self._nothing = public.encode(np.zeros(1, dtype=np.int64), 0)
        zero = self._zero()
        self._form = Form(public, zero)
        before, after = self._residues(zero), self._residues(self._encoded(zero, np.array([0, 1])))
        places = _reversed(ring)
        self._towers = []
        for tower, modulus in enumerate(self._form.moduli.tolist()):
            root = (int(after[tower, 0]) - int(before[tower, 0])) % modulus  # X at the first place of the transform
            powers = [1]
            while len(powers) < ring:
                powers.append(powers[-1] * root % modulus)
            roots = [powers[place] for place in places]
            quotients = [(power << 64) // modulus for power in roots]
            self._towers.append((np.array(roots, np.uint64), np.array(quotients, np.uint64), np.uint64(modulus)))
        bound = public.layout.profile.plaintext // 2
        values = np.linspace(-bound, bound, ring).astype(np.int64)
        mine = self._residues(zero)
        self._add(values, list(mine))
        if not np.array_equal(mine, self._residues(self._encoded(zero, values))):
            raise ValueError("OpenFHE transforms polynomials in an unknown way")

    def encrypt(self, values: Ints) -> bytes:
        """A fresh encryption, as OpenFHE would write it."""
        payload = bytearray(dump(self._zero()))
        views = self._form.views(payload)
        if views is None:
            return _encrypt(self._public, values)
        self._add(values, views)
        return bytes(payload)

    def _zero(self) -> Ciphertext:
        before_randomness()
        return self._public.context.Encrypt(self._public.key, self._nothing)

    def _add(self, values: Ints, residues: list[Words]) -> None:
        """Add a polynomial to the first of a ciphertext's."""
        for (roots, quotients, modulus), sums in zip(self._towers, residues, strict=False):
            self._add_transform(values, roots, quotients, modulus, sums)

    def _encoded(self, ciphertext: Ciphertext, values: Ints) -> Ciphertext:
        """OpenFHE's sum of a ciphertext and a polynomial."""
        return self._public.context.EvalAdd(ciphertext, self._public.encode(values, 0))

    def _residues(self, ciphertext: Ciphertext) -> Words:
        """(towers, N) of the first polynomial."""
        residues = Form(self._public, ciphertext).read(dump(ciphertext))
        if residues is None:
            raise ValueError("OpenFHE writes ciphertexts in an unknown form")
        first: Words = residues[0]
        return first


def _reversed(count: int) -> list[int]:
    """0 to ``count`` - 1, a power of two, with their bits in reverse."""
    places = [0]
    while len(places) < count:
        places = [2 * place for place in places] + [2 * place + 1 for place in places]
    return places
