"""A box that everyone can put something in, and one party can open: what passes through others' hands to it."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from marginal_sdg.errors import ProtocolError

PUBLIC_BYTES = 32
OVERHEAD = PUBLIC_BYTES + 16  # the sender's half of the key, and the tag


class Box:
    """``public`` is for everyone. Each message has a key of its own, from X25519. ``secret``: 32 fresh random bytes."""

    def __init__(self, secret: bytes) -> None:
        self._secret = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._secret.public_key().public_bytes_raw()

    def open(self, sealed: bytes) -> bytes:
        """What :func:`seal` has put in; ``ProtocolError`` for anything else."""
        theirs = sealed[:PUBLIC_BYTES]
        try:
            shared = self._secret.exchange(X25519PublicKey.from_public_bytes(theirs))
            return _cipher(shared, theirs, self.public).decrypt(bytes(12), sealed[PUBLIC_BYTES:], None)
        except (ValueError, InvalidTag):
            raise ProtocolError("box: a sealed message was made for another box, or was changed") from None


def seal(message: bytes, public: bytes) -> bytes:
    """The message for whoever has the box."""
    secret = X25519PrivateKey.generate()
    ours = secret.public_key().public_bytes_raw()
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError("box: what should be a public key is none") from None
    return ours + _cipher(shared, ours, public).encrypt(bytes(12), message, None)


def _cipher(shared: bytes, sender: bytes, receiver: bytes) -> AESGCM:
    return AESGCM(hashlib.sha256(b"marginal_sdg box" + shared + sender + receiver).digest())
