"""The secret key, its public announcements, and how a server takes in what it may evaluate with."""

from __future__ import annotations

from typing import Any, Protocol

from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.library import before_randomness, openfhe
from marginal_sdg.crypto.fhe.profile import automorphisms
from marginal_sdg.crypto.fhe.public import Ciphertext, Plaintext, Public, dump, load
from marginal_sdg.crypto.fhe.wire import Frame, Kind, join, split, unpack


class Secret(Protocol):
    """What decrypts: a whole key, or a half that asks for the other.

    ``public_key`` and ``evaluation_keys`` are the frames that data holders and server need.
    """

    public: Public
    public_key: bytes
    evaluation_keys: bytes

    def decrypt(self, ciphertext: Ciphertext) -> Plaintext:
        """The plaintext, in full."""
        ...


class WholeKey:
    """A fresh secret key in one place."""

    def __init__(self, layout: Layout) -> None:
        before_randomness()
        context = layout.profile.context()
        pair = context.KeyGen()
        self._secret = pair.secretKey
        self.public, self.public_key = Public.of(layout, context, pair.publicKey)
        context.EvalMultKeyGen(pair.secretKey)
        turns = context.EvalAutomorphismKeyGen(pair.secretKey, automorphisms(layout.profile.ring))
        self.evaluation_keys = pack_evaluation_keys(self.public, turns)

    def decrypt(self, ciphertext: Ciphertext) -> Plaintext:
        """The plaintext, in full."""
        return self.public.context.Decrypt(self._secret, ciphertext)


def pack_evaluation_keys(public: Public, turns: Any) -> bytes:
    """The frame of the relinearisation key, which OpenFHE keeps by key tag, and of a map of automorphism keys."""
    relinearisation = dump(public.context.GetEvalMultKeyVector(public.key.GetKeyTag())[0])
    return Frame(Kind.EVALUATION_KEYS, 0, public.run, join(relinearisation, dump(turns))).pack()


def load_evaluation_keys(public: Public, message: bytes) -> Any:
    """The automorphism keys; the relinearisation key goes to OpenFHE's table, which is global to the process.

    The table refuses a second key of one tag, which is random: a key holder in this process has put it there.
    """
    payload = unpack(message, Kind.EVALUATION_KEYS, public.run).payload
    first, second = split(payload, 2, Kind.EVALUATION_KEYS)
    relinearisation = load(openfhe().DeserializeEvalKeyString, first, Kind.EVALUATION_KEYS)
    if public.key.GetKeyTag() not in public.context.GetAllEvalMultKeys():
        public.context.InsertEvalMultKey([relinearisation])
    return load(openfhe().DeserializeEvalKeyMapString, second, Kind.EVALUATION_KEYS)
