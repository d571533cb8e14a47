"""Ciphertexts as arrays of residues: where these lie among the bytes that OpenFHE writes.

A serialised ciphertext is a frame of type names, parameters and tags, with the residues of every polynomial and tower
in it as a length, 64-bit little-endian words, and their modulus. OpenFHE promises nobody this form: it is looked up in
a ciphertext of the same process, and whoever relies on it tests it there first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.fhe.library import openfhe
from marginal_sdg.crypto.fhe.public import Ciphertext, Public, dump, load
from marginal_sdg.crypto.fhe.wire import Kind

Words = npt.NDArray[np.uint64]
_WORD = np.dtype("<u8")


class Form:
    """The form of all ciphertexts that have the parameters of ``sample``, and its number of polynomials.

    ``moduli``: (towers,). Raises ``ValueError`` where the bytes are not as described in the module.
    """

    def __init__(self, public: Public, sample: Ciphertext) -> None:
        profile = public.layout.profile
        self._context = public.context
        self._zero = public.context.EvalSub(sample, sample)
        self._bytes = dump(sample)
        self._size = 8 * profile.ring
        starts, moduli = self._find(profile.ring, profile.tower_bits)
        polynomials = int(sample.NumberCiphertextElements())
        self.shape = (polynomials, len(starts) // polynomials, profile.ring)
        self.moduli: Words = np.array(moduli[: self.shape[1]], dtype=np.uint64)
        if not starts or moduli != polynomials * moduli[: self.shape[1]]:
            raise ValueError("OpenFHE writes ciphertexts in an unknown form")
        self._starts = starts

    def _find(self, ring: int, tower_bits: int) -> tuple[list[int], list[int]]:
        """Where the arrays of residues start, and their moduli."""
        length, starts, moduli, place = ring.to_bytes(8, "little"), [], [], 0
        while (found := self._bytes.find(length, place)) >= 0:
            place, end = found + 8, found + 8 + self._size
            modulus = int.from_bytes(self._bytes[end : end + 8], "little")
            if modulus.bit_length() in (tower_bits, tower_bits + 1) and self._array(self._bytes, place).max() < modulus:
                starts.append(place)
                moduli.append(modulus)
                place = end
            else:
                place = found + 1
        return starts, moduli

    def views(self, payload: bytes | bytearray) -> list[Words] | None:
        """(N,) residues of every polynomial and tower, in place; None if anything else differs from the sample."""
        if len(payload) != len(self._bytes):
            return None
        before = 0
        for start in (*self._starts, len(payload)):
            if payload[before:start] != self._bytes[before:start]:
                return None
            before = start + self._size
        return [self._array(payload, start) for start in self._starts]

    def read(self, payload: bytes) -> Words | None:
        """(polynomials, towers, N) residues; None if anything else in the bytes differs from the sample."""
        views = self.views(payload)
        if views is None:
            return None
        residues = np.stack(views).reshape(self.shape)
        return residues if (residues < self.moduli[:, None]).all() else None

    def write(self, residues: Words) -> Ciphertext:
        """The ciphertext of (polynomials, towers, N) residues, made in this process: see ``Public.open``."""
        rows, chunks, before = np.ascontiguousarray(residues, dtype=_WORD).reshape(-1, self.shape[2]), [], 0
        for start, row in zip(self._starts, rows, strict=True):
            chunks += [self._bytes[before:start], row.tobytes()]
            before = start + self._size
        payload = b"".join([*chunks, self._bytes[before:]])
        read = load(openfhe().DeserializeCiphertextString, payload, Kind.RECORDS)
        return self._context.EvalAdd(self._zero, read)

    def _array(self, payload: bytes | bytearray, start: int) -> Words:
        return np.frombuffer(payload, dtype=_WORD, count=self._size // 8, offset=start)
