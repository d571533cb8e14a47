"""The data holder: encrypts one-hot columns once, and all noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from marginal_sdg.crypto.ckks.layout import Floats, Ints, Layout
from marginal_sdg.crypto.ckks.public import Public
from marginal_sdg.crypto.fhe.wire import Kind
from marginal_sdg.errors import ProtocolError


class DataHolder:
    """``public_key``: the key holder's announcement. Uploads have the size that the cap gives."""

    def __init__(self, layout: Layout, public_key: bytes) -> None:
        self._layout = layout
        self._public = Public.load(layout, public_key)
        self._noises = 0

    def upload_records(self, codes: Ints) -> Iterator[bytes]:
        """Frames of the encrypted table, made as they are asked for; ``codes``: (n, attributes) integers.

        Raises ``ProtocolError`` for a table above the cap, whose counts could wrap around, or codes outside the shape.
        """
        table = np.asarray(codes)
        if table.ndim != 2 or table.shape[1] != len(self._layout.shape) or not np.issubdtype(table.dtype, np.integer):
            raise ProtocolError(f"codes: need integers of shape (n, {len(self._layout.shape)})")
        if len(table) > self._layout.records:
            raise ProtocolError(f"records: the table has more than the declared cap of {self._layout.records}")
        if ((table < 0) | (table >= np.array(self._layout.shape))).any():
            raise ProtocolError("codes: some lie outside the declared shape; encode the table by its domain first")
        return self._frames(table.astype(np.int64))

    def _frames(self, table: Ints) -> Iterator[bytes]:
        layout = self._layout
        for block in range(layout.blocks):
            rows = table[block * layout.period : (block + 1) * layout.period]
            for place, column in enumerate(layout.columns):
                values = layout.one_hot(column, rows[:, column[0]])
                number = block * len(layout.columns) + place
                yield self._public.frame(Kind.RECORDS, number, self._public.encrypt(values, 0))

    def score_noise(self, candidates: dict[int, float]) -> bytes:
        """Noise for the scores of one ciphertext: by row, over what a score of 1 stands for. It comes from outside."""
        rows = np.zeros(self._layout.rows)
        rows[list(candidates)] = list(candidates.values())
        return self._encrypted(np.tile(rows, self._layout.lanes), self._layout.profile.scored_level)

    def count_noise(self, candidate: int, noise: Ints) -> bytes:
        """(cells,) integer noise for one marginal. It comes from outside: this class draws none."""
        values = np.asarray(noise)
        if values.shape != (self._layout.size(candidate),) or not np.issubdtype(values.dtype, np.integer):
            raise ProtocolError(f"noise: candidate {candidate} needs {self._layout.size(candidate)} integers")
        slots = np.zeros(self._layout.profile.slots)
        slots[self._layout.places(candidate)] = values / self._layout.records
        return self._encrypted(slots, self._layout.profile.measured_level)

    def _encrypted(self, values: Floats, level: int) -> bytes:
        room = self._layout.profile.room / 2
        if not (np.abs(values) < room).all():
            raise ProtocolError(
                f"noise: exceeds {room:.0f} times what the cap of {self._layout.records} records allows without noise, "
                "and would wrap around; spend more on the release, or raise the cap"
            )
        self._noises += 1
        return self._public.frame(Kind.NOISE, self._noises, self._public.encrypt(values, level))
