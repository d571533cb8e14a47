"""The public side of a run: what every role can do with the public key."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.fhe.layout import Ints, Layout
from marginal_sdg.crypto.fhe.library import before_randomness, openfhe
from marginal_sdg.crypto.fhe.wire import Frame, Kind, unpack
from marginal_sdg.errors import ProtocolError

# Ciphertexts, plaintexts and keys of OpenFHE have no types.
Ciphertext = Any
Plaintext = Any


@dataclass(frozen=True)
class Public:
    """A layout, its OpenFHE context, a public key, and the 16 bytes ``run`` that name all three in every frame."""

    layout: Layout
    context: Any
    key: Any
    run: bytes
    _zeros: dict[int, Ciphertext] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, layout: Layout, context: Any, key: Any) -> tuple[Public, bytes]:
        """A new run, and the frame that tells others of it."""
        payload = dump(key)
        run = sha256(repr(layout).encode() + payload).digest()[:16]
        return cls(layout, context, key, run), Frame(Kind.PUBLIC_KEY, 0, run, payload).pack()

    @classmethod
    def load(cls, layout: Layout, message: bytes) -> Public:
        """The run that a key holder announced; ``ProtocolError`` unless it is one of this layout and profile."""
        frame = unpack(message, Kind.PUBLIC_KEY)
        if frame.run != sha256(repr(layout).encode() + frame.payload).digest()[:16]:
            raise ProtocolError("public_key: the key was announced for another layout or parameter set")
        context = layout.profile.context()
        key = load(openfhe().DeserializePublicKeyString, frame.payload, Kind.PUBLIC_KEY)
        if key.GetCryptoContext() != context:
            raise ProtocolError("public_key: the key does not fit the parameters that its frame names")
        return cls(layout, context, key, frame.run)

    def encode(self, values: Ints, level: int) -> Plaintext:
        """(<= N,) integers within t / 2 of 0, as coefficients, for ciphertexts that have dropped ``level`` towers."""
        return self.context.MakeCoefPackedPlaintext(np.ascontiguousarray(values, dtype=np.int64), 1, level)

    def encrypt(self, values: Ints, level: int) -> Ciphertext:
        """A fresh encryption of (<= N,) integers within t / 2 of 0."""
        before_randomness()
        return self.context.Encrypt(self.key, self.encode(values, level))

    def weigh(self, ciphertext: Ciphertext, weights: Plaintext) -> Ciphertext:
        """The product with a public polynomial."""
        return self.unscaled(self.context.EvalMult(ciphertext, weights))

    def unscaled(self, ciphertext: Ciphertext) -> Ciphertext:
        """The same ciphertext, without OpenFHE's record of a product: all scales are 1, and need no adjusting.

        A sum of ciphertexts with different records costs 40 times a plain one.
        """
        ciphertext.SetNoiseScaleDeg(1)
        return ciphertext

    def drop(self, ciphertext: Ciphertext, level: int) -> Ciphertext:
        """The same values under a smaller modulus: ``level`` towers less than a fresh ciphertext."""
        while ciphertext.GetLevel() < level:
            ciphertext = self.unscaled(self.context.ModReduce(ciphertext))
        return ciphertext

    def centred(self, values: npt.NDArray[np.int64]) -> Ints:
        """Integers mod t as those within t / 2 of 0."""
        t = self.layout.profile.plaintext
        residues = values % t
        return np.where(residues > t // 2, residues - t, residues)

    def frame(self, kind: Kind, number: int, ciphertext: Ciphertext) -> bytes:
        """A ciphertext as a frame."""
        return Frame(kind, number, self.run, dump(ciphertext)).pack()

    def open(self, message: bytes, kind: Kind, level: int) -> tuple[int, Ciphertext]:
        """The number and ciphertext of a frame; ``ProtocolError`` unless it is whole, of this run and of that level."""
        frame = unpack(message, kind, self.run)
        ciphertext = load(openfhe().DeserializeCiphertextString, frame.payload, kind)
        fits = (
            ciphertext.GetCryptoContext() == self.context
            and ciphertext.GetKeyTag() == self.key.GetKeyTag()
            and ciphertext.NumberCiphertextElements() == 2
            and ciphertext.GetLevel() == level
        )
        if not fits:
            raise ProtocolError(f"{kind.name.lower()}: the ciphertext does not fit the parameters of this run")
        # What was made in this process is relinearised twice as fast, and added ten times, as what was read.
        return frame.number, self.context.EvalAdd(self.zero(level), ciphertext)

    def zero(self, level: int) -> Ciphertext:
        """Two zero polynomials; not an encryption that hides anything, and not to be changed."""
        if level not in self._zeros:
            some = self.encrypt(np.zeros(1, dtype=np.int64), level)
            self._zeros[level] = self.context.EvalSub(some, some)
        return self._zeros[level]

    def read(self, decrypted: Plaintext) -> Ints:
        """(N,) coefficients of a decryption, in [0, t)."""
        ring = self.layout.profile.ring
        decrypted.SetLength(ring)
        values = np.asarray(decrypted.GetCoefPackedValueArray(), dtype=np.int64)
        return values % self.layout.profile.plaintext


def dump(thing: Any) -> bytes:
    """An OpenFHE object as bytes."""
    return bytes(openfhe().Serialize(thing, openfhe().BINARY))


def load(loader: Any, payload: bytes, kind: Kind) -> Any:
    """An OpenFHE object from bytes; ``ProtocolError`` where the library cannot read them."""
    try:
        return loader(payload, openfhe().BINARY)
    except (RuntimeError, ValueError, MemoryError):
        raise ProtocolError(f"{kind.name.lower()}: OpenFHE cannot read the message") from None
