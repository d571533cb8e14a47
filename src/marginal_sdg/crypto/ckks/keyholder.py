"""The key holder: decrypts noisy scores and noisy marginals, so many of them and no more."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from marginal_sdg.crypto.ckks.layout import Floats, Ints, Layout
from marginal_sdg.crypto.ckks.public import Public, pack_evaluation_keys
from marginal_sdg.crypto.fhe.library import before_randomness
from marginal_sdg.crypto.fhe.wire import Kind
from marginal_sdg.errors import ProtocolError

_LARGEST_ERROR = 0.35  # of a count, of which the server's flooding is 0.25; above, rounding might be wrong


class KeyHolder:
    """A fresh key. ``decryptions``: ciphertexts that may be decrypted in the whole run.

    ``public_key`` and ``evaluation_keys`` are the announcements for data holder and server.
    """

    def __init__(self, layout: Layout, decryptions: int) -> None:
        before_randomness()
        self._layout = layout
        self._left = decryptions
        context = layout.profile.context()
        pair = context.KeyGen()
        self._secret = pair.secretKey
        context.EvalMultKeyGen(self._secret)
        context.EvalRotateKeyGen(self._secret, layout.turns())
        self._public, self.public_key = Public.of(layout, context, pair.publicKey)
        self.evaluation_keys = pack_evaluation_keys(self._public)

    def scores(self, candidates: Iterable[int], messages: Iterable[bytes]) -> Floats:
        """Noisy scores of the candidates, ascending; a score of 1 is the cap (l1_poly), or its square.

        All of them, in clear: more than a selection by report-noisy-max pays for, which is the winner's place alone.
        """
        found = []
        for number, (group, message) in enumerate(zip(self._layout.groups(candidates), messages, strict=True)):
            values = self._open(message, Kind.SCORES, number, self._layout.profile.scored_level)
            found.append(values[[c % self._layout.rows for c in group]])
        return np.concatenate(found)

    def share_scores(self, candidates: Iterable[int], messages: Iterable[bytes], steps: float) -> Ints:
        """Its shares of the candidates' scores, ascending, in ``steps`` of a score of 1, from padded ones."""
        return np.rint(self.scores(candidates, messages) * steps).astype(np.int64)

    def measurement(self, candidate: int, message: bytes) -> Ints:
        """(cells,) noisy counts, in C order: what is released, rounded to the integers that they are."""
        values = self._open(message, Kind.MEASUREMENT, candidate, self._layout.profile.measured_level)
        counts = values[self._layout.places(candidate)] * self._layout.records
        rounded = np.rint(counts)
        if abs(counts - rounded).max() > _LARGEST_ERROR:
            raise ProtocolError("measurement: not near integers, so that rounding is not safe; nothing is released")
        return rounded.astype(np.int64)

    def _open(self, message: bytes, kind: Kind, due: int, level: int) -> Floats:
        """(slots,) of a decryption, once the message is known to be sound and allowed."""
        number, ciphertext = self._public.open(message, kind, level)
        if number != due:
            raise ProtocolError(f"{kind.name.lower()}: ciphertext {number} came where {due} is due")
        if self._left == 0:
            raise ProtocolError(f"{kind.name.lower()}: no ciphertext may be decrypted any more; declare enough")
        self._left -= 1
        try:
            opened = self._public.context.Decrypt(self._secret, ciphertext)
        except RuntimeError:
            raise ProtocolError(
                f"{kind.name.lower()}: decryption failed; the error is larger than the values"
            ) from None
        opened.SetLength(self._layout.profile.slots)
        return np.asarray(opened.GetRealPackedValueArray(), dtype=np.float64)
