"""Pseudorandom words from a key: what two parties that share one can draw without talking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from marginal_sdg.errors import ProtocolError

Words = npt.NDArray[np.uint64]

KEY_BYTES = 32
_BLOCK = 16
_PIECE = 1 << 13  # words that are drawn at a time: they stay in the cache and cost no fresh pages
_AHEAD = 1 << 10  # words that are drawn at least: many short draws cost one call of the cipher
_ZEROS = memoryview(bytes(8 * _PIECE))  # what is encrypted


class Stream:
    """AES-256 in counter mode: the same key gives the same words in the same order. Never use a key for two streams."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ProtocolError(f"key: needs {KEY_BYTES} bytes, got {len(key)}")
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor()
        self._ready: Words = np.empty(0, dtype=np.uint64)

    def draw(self, count: int) -> Words:
        """(count,) uint64, uniform: the next words of the stream."""
        ready = self._ready
        if count > len(ready):
            fresh = self._encrypt(max(count - len(ready), _AHEAD))
            ready = np.concatenate([ready, fresh]) if len(ready) else fresh
        self._ready = ready[count:]
        return ready[:count]

    def combine(self, words: Words, operation: np.ufunc) -> None:
        """Combine (n,) words in place with the next ones of the stream, which are never stored."""
        for start in range(0, len(words), _PIECE):
            part = words[start : start + _PIECE]
            operation(part, self.draw(len(part)), out=part)

    def _encrypt(self, count: int) -> Words:
        size = 8 * count
        stream = np.empty(size + _BLOCK - 1, dtype=np.uint8)  # the cipher wants room for one more block
        for start in range(0, size, len(_ZEROS)):
            self._cipher.update_into(_ZEROS[: size - start], stream[start:].data)
        return stream[:size].view(np.uint64)
