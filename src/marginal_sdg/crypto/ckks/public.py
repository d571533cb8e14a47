"""The public side of a run: encoding, encryption, frames, and the two operations whose order matters."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from marginal_sdg.crypto.ckks.layout import Floats, Layout
from marginal_sdg.crypto.fhe.library import before_randomness, openfhe
from marginal_sdg.crypto.fhe.public import Ciphertext, Plaintext, dump, load
from marginal_sdg.crypto.fhe.wire import Frame, Kind, join, split, unpack
from marginal_sdg.errors import ProtocolError


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
        run = _run(layout, payload)
        return cls(layout, context, key, run), Frame(Kind.PUBLIC_KEY, 0, run, payload).pack()

    @classmethod
    def load(cls, layout: Layout, message: bytes) -> Public:
        """The run that a key holder announced; ``ProtocolError`` unless it is one of this layout and profile."""
        frame = unpack(message, Kind.PUBLIC_KEY)
        if frame.run != _run(layout, frame.payload):
            raise ProtocolError("public_key: the key was announced for another layout or parameter set")
        context = layout.profile.context()
        key = load(openfhe().DeserializePublicKeyString, frame.payload, Kind.PUBLIC_KEY)
        return cls(layout, context, key, frame.run)

    def encode(self, values: Floats, level: int) -> Plaintext:
        """(slots,) numbers for ciphertexts of a level."""
        return self.context.MakeCKKSPackedPlaintext(values, 1, level)

    def encrypt(self, values: Floats, level: int) -> Ciphertext:
        """A fresh encryption of (slots,) numbers."""
        before_randomness()
        return self.context.Encrypt(self.key, self.encode(values, level))

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
            and ciphertext.GetNoiseScaleDeg() == 1
        )
        if not fits:
            raise ProtocolError(f"{kind.name.lower()}: the ciphertext does not fit the parameters of this run")
        # What was made in this process is relinearised and added faster than what was read.
        return frame.number, self.context.EvalAdd(self.zero(level), ciphertext)

    def zero(self, level: int) -> Ciphertext:
        """Two zero polynomials; not an encryption that hides anything, and not to be changed."""
        if level not in self._zeros:
            some = self.context.Encrypt(self.key, self.encode(np.zeros(1), level))
            self._zeros[level] = self.context.EvalSub(some, some)
        return self._zeros[level]

    def fold(self, ciphertext: Ciphertext, step: int, count: int) -> Ciphertext:
        """Every slot: the sum of ``count`` slots from it on, ``step`` apart, around the end."""
        self._before_rescaling(ciphertext)
        context = self.context
        for stage in self.layout.stages(step, count):
            if len(stage) == 1:
                turned = [context.EvalRotate(ciphertext, stage[0])]
            else:
                digits = context.EvalFastRotationPrecompute(ciphertext)
                turned = [context.EvalFastRotation(ciphertext, turn, digits) for turn in stage]
            for each in turned:
                ciphertext = context.EvalAdd(ciphertext, each)
        return ciphertext

    def turn(self, ciphertext: Ciphertext, index: int) -> Ciphertext:
        """Slot k from slot k + index."""
        self._before_rescaling(ciphertext)
        return self.context.EvalRotate(ciphertext, index)

    def _before_rescaling(self, ciphertext: Ciphertext) -> None:
        if self.layout.profile.switching == "BV" and ciphertext.GetNoiseScaleDeg() < 2:
            raise ProtocolError(
                "rotation: under BV key switching it must come before the rescaling, or noise drowns all"
            )

    def lowered(self, ciphertext: Ciphertext, level: int) -> Ciphertext:
        """The same values and scale with fewer moduli: those that a ciphertext of ``level`` has."""
        surplus = level - ciphertext.GetLevel()
        return self.context.LevelReduce(ciphertext, None, surplus) if surplus else ciphertext


def pack_evaluation_keys(public: Public) -> bytes:
    """The frame of the relinearisation key and the rotation keys, which OpenFHE keeps by key tag."""
    tag = public.key.GetKeyTag()
    relinearisation = dump(public.context.GetEvalMultKeyVector(tag)[0])
    turns = dump(public.context.GetEvalAutomorphismKeyMap(tag))
    return Frame(Kind.EVALUATION_KEYS, 0, public.run, join(relinearisation, turns)).pack()


def load_evaluation_keys(public: Public, message: bytes) -> None:
    """Into OpenFHE's tables, which are global to the process: a key holder in this one has put them there."""
    fhe, kind = openfhe(), Kind.EVALUATION_KEYS
    first, second = split(unpack(message, kind, public.run).payload, 2, kind)
    if public.key.GetKeyTag() not in public.context.GetAllEvalMultKeys():
        public.context.InsertEvalMultKey([load(fhe.DeserializeEvalKeyString, first, kind)])
        public.context.InsertEvalAutomorphismKey(load(fhe.DeserializeEvalKeyMapString, second, kind))


def _run(layout: Layout, payload: bytes) -> bytes:
    return sha256(repr(layout).encode() + payload).digest()[:16]
