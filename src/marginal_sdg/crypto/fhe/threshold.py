"""A secret key in two halves: whoever has one of them reads nothing.

1. the first half makes a key pair and the beginnings of the evaluation keys (:attr:`FirstHalf.invitation`);
2. the second half joins: the public key of both, its part of the evaluation keys (:attr:`SecondHalf.reply`);
3. the first half completes the relinearisation key and announces all (:meth:`FirstHalf.complete`).

Every decryption needs a partial one from each half; OpenFHE adds noise to it that hides the half.
Source: Asharov et al. 2012, "Multiparty computation with low communication, computation and interaction via threshold
FHE"; semi-honest.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from marginal_sdg.crypto.fhe.keys import pack_evaluation_keys
from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.library import before_randomness, openfhe
from marginal_sdg.crypto.fhe.profile import automorphisms
from marginal_sdg.crypto.fhe.public import Ciphertext, Plaintext, Public, dump, load
from marginal_sdg.crypto.fhe.wire import Frame, Kind, join, split, unpack
from marginal_sdg.errors import ProtocolError


def _run_of(layout: Layout) -> bytes:
    return sha256(repr(layout).encode()).digest()[:16]


class FirstHalf:
    """The key holder's half. ``partner`` carries a message to the second half and returns its answer."""

    public: Public
    public_key: bytes
    evaluation_keys: bytes

    def __init__(self, layout: Layout, partner: Callable[[bytes], bytes]) -> None:
        before_randomness()
        self._layout = layout
        self._partner = partner
        self._context = layout.profile.context()
        pair = self._context.KeyGen()
        self._secret = pair.secretKey
        self._switch = self._context.KeySwitchGen(self._secret, self._secret)
        self._turns = self._context.EvalAutomorphismKeyGen(self._secret, automorphisms(layout.profile.ring))
        payload = join(dump(pair.publicKey), dump(self._switch), dump(self._turns))
        self.invitation = Frame(Kind.JOINT_KEY, 1, _run_of(layout), payload).pack()

    def complete(self, reply: bytes) -> None:
        """Take the second half's reply; from here on the key can be announced and used."""
        before_randomness()
        fhe, kind = openfhe(), Kind.JOINT_KEY
        chunks = split(unpack(reply, kind, _run_of(self._layout)).payload, 4, kind)
        self.public, self.public_key = Public.load(self._layout, chunks[0]), chunks[0]
        both, theirs = (load(fhe.DeserializeEvalKeyString, chunk, kind) for chunk in chunks[1:3])
        turns = load(fhe.DeserializeEvalKeyMapString, chunks[3], kind)
        tag = self.public.key.GetKeyTag()
        ours = self._context.MultiMultEvalKey(self._secret, both, tag)
        self._context.InsertEvalMultKey([self._context.MultiAddEvalMultKeys(ours, theirs, tag)])
        self.evaluation_keys = pack_evaluation_keys(self.public, turns)

    def decrypt(self, ciphertext: Ciphertext) -> Plaintext:
        """The plaintext, with the second half's help."""
        before_randomness()
        answer = self._partner(self.public.frame(Kind.PARTIAL, 0, ciphertext))
        payload = unpack(answer, Kind.PARTIAL, self.public.run).payload
        theirs = load(openfhe().DeserializeCiphertextString, payload, Kind.PARTIAL)
        ours = self._context.MultipartyDecryptLead([ciphertext], self._secret)[0]
        return self._context.MultipartyDecryptFusion([ours, theirs])


class Partner:
    """The second half as a function of bytes: joins at the first message, helps to decrypt at all others."""

    def __init__(self, layout: Layout, decryptions: int) -> None:
        self._layout = layout
        self._decryptions = decryptions
        self._half: SecondHalf | None = None

    def __call__(self, message: bytes) -> bytes:
        """The answer to the first half's message."""
        if self._half is not None:
            return self._half.partial(message)
        self._half = SecondHalf(self._layout, message, self._decryptions)
        return self._half.reply


class SecondHalf:
    """The other half, best with a data holder. ``decryptions``: how many it takes part in."""

    def __init__(self, layout: Layout, invitation: bytes, decryptions: int) -> None:
        before_randomness()
        fhe, kind = openfhe(), Kind.JOINT_KEY
        self._left = decryptions
        context = layout.profile.context()
        chunks = split(unpack(invitation, kind, _run_of(layout)).payload, 3, kind)
        first = load(fhe.DeserializePublicKeyString, chunks[0], kind)
        theirs = load(fhe.DeserializeEvalKeyString, chunks[1], kind)
        their_turns = load(fhe.DeserializeEvalKeyMapString, chunks[2], kind)
        pair = context.MultipartyKeyGen(first)
        self._secret, key = pair.secretKey, pair.publicKey
        tag = key.GetKeyTag()
        ours = context.MultiKeySwitchGen(self._secret, self._secret, theirs)
        both = context.MultiAddEvalKeys(theirs, ours, tag)
        product = context.MultiMultEvalKey(self._secret, both, tag)
        turns = context.MultiEvalAutomorphismKeyGen(self._secret, their_turns, automorphisms(layout.profile.ring), tag)
        joint = context.MultiAddEvalAutomorphismKeys(their_turns, turns, tag)
        self._public, announcement = Public.of(layout, context, key)
        payload = join(announcement, dump(both), dump(product), dump(joint))
        self.reply = Frame(kind, 2, _run_of(layout), payload).pack()

    def partial(self, message: bytes) -> bytes:
        """Its partial decryption of a ciphertext that the first half asks about."""
        _, ciphertext = self._public.open(message, Kind.PARTIAL, self._public.layout.profile.output_level)
        if self._left == 0:
            raise ProtocolError("partial: no ciphertext may be decrypted any more; declare enough for the run")
        self._left -= 1
        before_randomness()
        share = self._public.context.MultipartyDecryptMain([ciphertext], self._secret)[0]
        return Frame(Kind.PARTIAL, 0, self._public.run, dump(share)).pack()
