"""A client's message to each of two servers: its answers in two additive shares, sealed and taken only once.

x = a + b modulo 2^64, and each looks random by itself. Server 0 expands a from a seed, so that only b, for server 1,
travels. Both add up what all clients sent; the sums become replicated shares among three (``Party.replicate``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from marginal_sdg.crypto.prg import KEY_BYTES, Stream
from marginal_sdg.errors import ProtocolError

Words = npt.NDArray[np.uint64]
Message = bytes | bytearray

RECEIVERS = 2

_HEADER = struct.Struct("<QIBI")  # client, wave, server, number of the message
_TAG = 16


def payload_bytes(server: int, cells: int) -> int:
    """Of one upload: a seed to server 0, a word per cell to server 1."""
    return KEY_BYTES if server == 0 else 8 * cells


def wire_bytes(server: int, cells: int) -> int:
    """The same with its header and its authentication tag."""
    return payload_bytes(server, cells) + _HEADER.size + _TAG


class Sender:
    """A client. ``links``: one key for each receiving server, agreed on beforehand (TLS does it in practice)."""

    def __init__(self, client: int, links: Sequence[bytes], keys: Callable[[], bytes]) -> None:
        self._client = client
        self._links = links
        self._keys = keys
        self._sent = 0

    def messages(self, wave: int, answers: Words) -> list[Message]:
        """One sealed message per server. ``answers``: (cells,), overwritten by the share that travels.

        ``wave``: which part of the answers. Sharing it again uses a new seed.
        """
        self._sent += 1
        seed = self._keys()
        Stream(seed).combine(answers, np.subtract)
        return [self._seal(0, wave, seed), self._seal(1, wave, answers.view(np.uint8).data)]

    def _seal(self, server: int, wave: int, payload: bytes | memoryview) -> Message:
        header = _HEADER.pack(self._client, wave, server, self._sent)
        message = bytearray(_HEADER.size + len(payload) + _TAG)
        message[: _HEADER.size] = header
        sealed = memoryview(message)[_HEADER.size :]
        AESGCM(self._links[server]).encrypt_into(_nonce(self._sent), payload, header, sealed)
        return message


class Desk:
    """A server's reception of uploads. ``links``: the key shared with each client."""

    def __init__(self, server: int, links: Sequence[bytes]) -> None:
        self._server = server
        self._links = links
        self._taken: set[tuple[int, int]] = set()

    def take(self, client: int, wave: int, cells: int, message: Message) -> bytes:
        """The payload of the client's one message, for :meth:`add`; ProtocolError for any other message."""
        name = f"upload of client {client} to server {self._server}"
        if (client, wave) in self._taken:
            raise ProtocolError(f"{name}: repeated; every part of the answers is taken once")
        header, sealed = bytes(message[: _HEADER.size]), memoryview(message)[_HEADER.size :]
        if len(header) < _HEADER.size or _HEADER.unpack(header)[:3] != (client, wave, self._server):
            raise ProtocolError(f"{name}: misdirected or damaged header; the client has to send it again")
        try:
            payload = AESGCM(self._links[client]).decrypt(_nonce(_HEADER.unpack(header)[3]), sealed, header)
        except InvalidTag:
            raise ProtocolError(f"{name}: altered or truncated; the client has to send it again") from None
        if len(payload) != payload_bytes(self._server, cells):
            raise ProtocolError(f"{name}: {len(payload)} bytes do not fit {cells} cells; check the client's domain")
        self._taken.add((client, wave))
        return payload

    def add(self, payload: bytes, total: Words) -> None:
        """Add the share that came in a payload to (cells,) in place."""
        if self._server == 0:
            Stream(payload).combine(total, np.add)
        else:
            total += np.frombuffer(payload, dtype=np.uint64)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "little")
