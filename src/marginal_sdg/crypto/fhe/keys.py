"""The secret key, its public announcements, and how a server takes in what it may evaluate with."""

from __future__ import annotations

from collections.abc import Callable
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


Remember = Callable[[str, Callable[[], bytes]], bytes]  # what was made under a name before, or is made now and kept


def forget(name: str, make: Callable[[], bytes]) -> bytes:
    """Of what is made once: nobody asks for it again."""
    return make()


class WholeKey:
    """A fresh secret key in one place, or the one that is remembered."""

    def __init__(self, layout: Layout, remember: Remember = forget) -> None:
        chunks = split(unpack(remember("key", lambda: _fresh(layout)), Kind.SECRET_KEY).payload, 3, Kind.SECRET_KEY)
        self._secret = load(openfhe().DeserializePrivateKeyString, chunks[0], Kind.SECRET_KEY)
        self.public_key, self.evaluation_keys = chunks[1:]
        self.public = Public.load(layout, self.public_key)

    def decrypt(self, ciphertext: Ciphertext) -> Plaintext:
        """The plaintext, in full."""
        return self.public.context.Decrypt(self._secret, ciphertext)


def _fresh(layout: Layout) -> bytes:
    """A frame, for the key holder's eyes only, of a secret key and its announcements."""
    before_randomness()
    context = layout.profile.context()
    pair = context.KeyGen()
    public, announcement = Public.of(layout, context, pair.publicKey)
    context.EvalMultKeyGen(pair.secretKey)
    turns = context.EvalAutomorphismKeyGen(pair.secretKey, automorphisms(layout.profile.ring))
    payload = join(dump(pair.secretKey), announcement, pack_evaluation_keys(public, turns))
    return Frame(Kind.SECRET_KEY, 0, public.run, payload).pack()


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
