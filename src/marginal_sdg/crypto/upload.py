"""A client's one message to each of three servers: its answers in replicated shares, sealed and taken only once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from marginal_sdg.crypto.prg import KEY_BYTES, Stream
from marginal_sdg.errors import ProtocolError

Words = npt.NDArray[np.unsignedinteger]

_HEADER = struct.Struct("<QIBI")  # client, wave, server, number of the message
_TAG = 16
_SEEDS = (2, 1, 1)  # how many components a server expands from seeds; it is sent the rest


def payload_bytes(server: int, cells: int, width: int) -> int:
    """Of one upload to ``server``: seeds, and the third component where the server holds it."""
    return _SEEDS[server] * KEY_BYTES + (0 if server == 0 else cells * width)


def wire_bytes(server: int, cells: int, width: int) -> int:
    """The same with its header and its authentication tag."""
    return payload_bytes(server, cells, width) + _HEADER.size + _TAG


def expand(seed: bytes, cells: int, dtype: npt.DTypeLike) -> Words:
    """(cells,) of ``dtype``, uniform."""
    width = np.dtype(dtype).itemsize
    return Stream(seed).draw(-(-cells * width // 8)).view(dtype)[:cells]


class Sender:
    """A client. x = x0 + x1 + x2; x0 and x1 are expanded from seeds, so that only x2 travels.

    ``links``: one key for each server, agreed on beforehand (TLS does it between real machines).
    """

    def __init__(self, client: int, links: Sequence[bytes], keys: Callable[[], bytes]) -> None:
        self._client = client
        self._links = links
        self._keys = keys
        self._sent = 0

    def messages(self, wave: int, answers: Words) -> list[bytes]:
        """One sealed message per server. ``wave``: which part of the answers. Sharing it again uses new seeds."""
        self._sent += 1
        first, second = self._keys(), self._keys()
        third = answers - expand(first, len(answers), answers.dtype)
        third -= expand(second, len(answers), answers.dtype)
        payloads = (first + second, second + third.tobytes(), first + third.tobytes())
        return [self._seal(server, wave, payload) for server, payload in enumerate(payloads)]

    def _seal(self, server: int, wave: int, payload: bytes) -> bytes:
        header = _HEADER.pack(self._client, wave, server, self._sent)
        return header + AESGCM(self._links[server]).encrypt(_nonce(self._sent), payload, header)


class Desk:
    """A server's reception of uploads. ``links``: the key shared with each client."""

    def __init__(self, server: int, links: Sequence[bytes]) -> None:
        self._server = server
        self._links = links
        self._taken: set[tuple[int, int]] = set()

    def take(self, client: int, wave: int, cells: int, dtype: npt.DTypeLike, message: bytes) -> tuple[Words, Words]:
        """Components (server, server + 1) of the client's answers; ProtocolError for anything but its one message."""
        name = f"upload of client {client} to server {self._server}"
        if (client, wave) in self._taken:
            raise ProtocolError(f"{name}: repeated; every part of the answers is taken once")
        header, sealed = message[: _HEADER.size], message[_HEADER.size :]
        if len(header) < _HEADER.size or _HEADER.unpack(header)[:3] != (client, wave, self._server):
            raise ProtocolError(f"{name}: misdirected or damaged header; the client has to send it again")
        try:
            payload = AESGCM(self._links[client]).decrypt(_nonce(_HEADER.unpack(header)[3]), sealed, header)
        except InvalidTag:
            raise ProtocolError(f"{name}: altered or truncated; the client has to send it again") from None
        width = np.dtype(dtype).itemsize
        if len(payload) != payload_bytes(self._server, cells, width):
            raise ProtocolError(f"{name}: {len(payload)} bytes do not fit {cells} cells; check the client's domain")
        seeds = [payload[i * KEY_BYTES : (i + 1) * KEY_BYTES] for i in range(_SEEDS[self._server])]
        parts = [expand(seed, cells, dtype) for seed in seeds]
        if self._server:
            sent = np.frombuffer(payload, dtype=dtype, offset=KEY_BYTES)
            parts.insert(2 - self._server, sent)
        self._taken.add((client, wave))
        return parts[0], parts[1]

    def forget(self, client: int, wave: int) -> None:
        """Drop an upload that did not reach all servers, so that the client may send it again."""
        self._taken.discard((client, wave))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "little")
