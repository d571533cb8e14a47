"""Pseudorandom words from a key: what two parties that share one can draw without talking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from marginal_sdg.errors import ProtocolError

Words = npt.NDArray[np.uint64]

KEY_BYTES = 32
_BLOCK = 16
_ZEROS = memoryview(bytes(1 << 16))  # what is encrypted, a piece at a time that stays in the cache


class Stream:
    """AES-256 in counter mode: the same key gives the same words in the same order. Never use a key for two streams."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ProtocolError(f"key: needs {KEY_BYTES} bytes, got {len(key)}")
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(_BLOCK))).encryptor()

    def draw(self, count: int) -> Words:
        """(count,) uint64, uniform: the next words of the stream."""
        size = 8 * count
        stream = np.empty(size + _BLOCK - 1, dtype=np.uint8)  # the cipher wants room for one more block
        for start in range(0, size, len(_ZEROS)):
            self._cipher.update_into(_ZEROS[: size - start], stream[start:].data)
        return stream[:size].view(np.uint64)
