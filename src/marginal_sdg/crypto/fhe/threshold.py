"""A secret key in two halves: whoever has one of them reads nothing.

1. the first half makes a key pair and the beginnings of the evaluation keys, the invitation;
2. the second half joins: the public key of both, its part of the evaluation keys (:attr:`SecondHalf.reply`);
3. the first half completes the relinearisation key and announces all.

Every decryption needs a partial one from each half; OpenFHE adds noise to it that hides the half. A ciphertext is
partially decrypted once: asked again, by a process that was started again, the second half gives the same answer.
Source: Asharov et al. 2012, "Multiparty computation with low communication, computation and interaction via threshold
FHE"; semi-honest.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from marginal_sdg.crypto.fhe.keys import Remember, forget, pack_evaluation_keys
from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.library import before_randomness, openfhe
from marginal_sdg.crypto.fhe.profile import automorphisms
from marginal_sdg.crypto.fhe.public import Ciphertext, Plaintext, Public, dump, load
from marginal_sdg.crypto.fhe.wire import Frame, Kind, join, split, unpack
from marginal_sdg.crypto.kept import Memory
from marginal_sdg.errors import ProtocolError

_PARTIAL = "partial-"  # what is remembered of a decryption, with a digest of its ciphertext


def _run_of(layout: Layout) -> bytes:
    return sha256(repr(layout).encode()).digest()[:16]


def _kept(layout: Layout, *chunks: bytes) -> bytes:
    """A frame, for its owner's eyes only."""
    return Frame(Kind.SECRET_KEY, 0, _run_of(layout), join(*chunks)).pack()


def _found(layout: Layout, frame: bytes, count: int) -> list[bytes]:
    return split(unpack(frame, Kind.SECRET_KEY, _run_of(layout)).payload, count, Kind.SECRET_KEY)


class FirstHalf:
    """The key holder's half. ``partner`` carries a message to the second half and returns its answer."""

    def __init__(self, layout: Layout, partner: Callable[[bytes], bytes], remember: Remember = forget) -> None:
        self._layout, self._partner, self._remember = layout, partner, remember
        self._context = layout.profile.context()
        half, invitation = _found(layout, remember("half", lambda: _first(layout)), 2)
        self._secret = load(openfhe().DeserializePrivateKeyString, half, Kind.SECRET_KEY)
        keys = remember("keys", lambda: self._completed(partner(invitation)))
        self.public_key, self.evaluation_keys = _found(layout, keys, 2)
        self.public = Public.load(layout, self.public_key)

    def _completed(self, reply: bytes) -> bytes:
        """The announcements, from the second half's reply."""
        before_randomness()
        fhe, kind = openfhe(), Kind.JOINT_KEY
        chunks = split(unpack(reply, kind, _run_of(self._layout)).payload, 4, kind)
        public = Public.load(self._layout, chunks[0])
        both, theirs = (load(fhe.DeserializeEvalKeyString, chunk, kind) for chunk in chunks[1:3])
        turns = load(fhe.DeserializeEvalKeyMapString, chunks[3], kind)
        tag = public.key.GetKeyTag()
        ours = self._context.MultiMultEvalKey(self._secret, both, tag)
        if tag not in self._context.GetAllEvalMultKeys():
            self._context.InsertEvalMultKey([self._context.MultiAddEvalMultKeys(ours, theirs, tag)])
        return _kept(self._layout, chunks[0], pack_evaluation_keys(public, turns))

    def decrypt(self, ciphertext: Ciphertext) -> Plaintext:
        """The plaintext, with the second half's help."""
        before_randomness()
        message = self.public.frame(Kind.PARTIAL, 0, ciphertext)
        answer = self._remember(_PARTIAL + sha256(message).hexdigest(), lambda: self._partner(message))
        payload = unpack(answer, Kind.PARTIAL, self.public.run).payload
        theirs = load(openfhe().DeserializeCiphertextString, payload, Kind.PARTIAL)
        ours = self._context.MultipartyDecryptLead([ciphertext], self._secret)[0]
        return self._context.MultipartyDecryptFusion([ours, theirs])


def _first(layout: Layout) -> bytes:
    """A fresh first half, and its invitation."""
    before_randomness()
    context = layout.profile.context()
    pair = context.KeyGen()
    switch = context.KeySwitchGen(pair.secretKey, pair.secretKey)
    turns = context.EvalAutomorphismKeyGen(pair.secretKey, automorphisms(layout.profile.ring))
    payload = join(dump(pair.publicKey), dump(switch), dump(turns))
    return _kept(layout, dump(pair.secretKey), Frame(Kind.JOINT_KEY, 1, _run_of(layout), payload).pack())


class Partner:
    """The second half as a function of bytes: joins at the first message, helps to decrypt at all others.

    A message that comes again, as the first half was started again, has the same answer. ``decryptions``: of how many
    ciphertexts; ``memory`` has the half and what it has answered in earlier processes.
    """

    def __init__(self, layout: Layout, decryptions: int, memory: Memory) -> None:
        self._layout, self._decryptions, self._memory = layout, decryptions, memory
        self._half: SecondHalf | None = None
        self._last = b"", b""

    def __call__(self, message: bytes) -> bytes:
        """The answer to the first half's message."""
        digest = sha256(message).digest()
        if self._half is None:
            made = self._memory.remember("half", lambda: _second(self._layout, message))
            self._half = SecondHalf(self._layout, made, self._decryptions - self._memory.known(_PARTIAL))
        if digest == self._half.invitation:
            return self._half.reply
        if digest != self._last[0]:
            half = self._half
            self._last = digest, self._memory.remember(_PARTIAL + digest.hex(), lambda: half.partial(message))
        return self._last[1]


class SecondHalf:
    """The other half, best with a data holder. ``decryptions``: how many it takes part in.

    ``made`` has the half, the digest of the ``invitation`` that it was made for, and its ``reply``.
    """

    def __init__(self, layout: Layout, made: bytes, decryptions: int) -> None:
        half, self.invitation, announcement, self.reply = _found(layout, made, 4)
        self._secret = load(openfhe().DeserializePrivateKeyString, half, Kind.SECRET_KEY)
        self._public = Public.load(layout, announcement)
        self._left = decryptions

    def partial(self, message: bytes) -> bytes:
        """Its partial decryption of a ciphertext that the first half asks about."""
        _, ciphertext = self._public.open(message, Kind.PARTIAL, self._public.layout.profile.output_level)
        if self._left == 0:
            raise ProtocolError("partial: no ciphertext may be decrypted any more; declare enough for the run")
        self._left -= 1
        before_randomness()
        share = self._public.context.MultipartyDecryptMain([ciphertext], self._secret)[0]
        return Frame(Kind.PARTIAL, 0, self._public.run, dump(share)).pack()


def _second(layout: Layout, invitation: bytes) -> bytes:
    """A fresh second half that accepts an invitation."""
    before_randomness()
    fhe, kind = openfhe(), Kind.JOINT_KEY
    context = layout.profile.context()
    chunks = split(unpack(invitation, kind, _run_of(layout)).payload, 3, kind)
    first = load(fhe.DeserializePublicKeyString, chunks[0], kind)
    theirs = load(fhe.DeserializeEvalKeyString, chunks[1], kind)
    their_turns = load(fhe.DeserializeEvalKeyMapString, chunks[2], kind)
    pair = context.MultipartyKeyGen(first)
    secret, key = pair.secretKey, pair.publicKey
    tag = key.GetKeyTag()
    ours = context.MultiKeySwitchGen(secret, secret, theirs)
    both = context.MultiAddEvalKeys(theirs, ours, tag)
    product = context.MultiMultEvalKey(secret, both, tag)
    turns = context.MultiEvalAutomorphismKeyGen(secret, their_turns, automorphisms(layout.profile.ring), tag)
    joint = context.MultiAddEvalAutomorphismKeys(their_turns, turns, tag)
    _, announcement = Public.of(layout, context, key)
    payload = join(announcement, dump(both), dump(product), dump(joint))
    reply = Frame(kind, 2, _run_of(layout), payload).pack()
    return _kept(layout, dump(secret), sha256(invitation).digest(), announcement, reply)
