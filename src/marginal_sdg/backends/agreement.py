"""What FHAIM's data holders agree on before any of them encrypts a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from marginal_sdg.errors import ProtocolError


@dataclass(frozen=True)
class Agreement:
    """The same for all holders, but for their ``place``; the first holder's is 0, and it asks the others.

    ``domain``: of the whole table, as plain values; ``group``: how many records the protected person may have;
    ``holders``: how many there are; ``split``, ``upload`` and ``score``: see :class:`~marginal_sdg.FHAIM`. ``records``:
    of holders of columns, who have the same ones, how many they all have.
    """

    domain: Mapping[str, Any]
    epsilon: float
    delta: float
    group: int
    holders: int
    max_records: int
    split: str
    records: int
    upload: str
    score: str
    place: int = 0

    @property
    def cap(self) -> int:
        """Of records of one holder: of rows, each may have an equal part."""
        return self.max_records // self.holders if self.split == "rows" else self.max_records

    def of(self, place: int) -> Agreement:
        """Another holder's."""
        return replace(self, place=place)

    def pack(self) -> bytes:
        """As bytes."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, message: bytes) -> Agreement:
        """From bytes; ``ProtocolError`` for anything else."""
        try:
            agreement = cls(**json.loads(message))
            numbers = agreement.group, agreement.holders, agreement.max_records, agreement.place
            if not all(isinstance(number, int) for number in (*numbers, agreement.records)):
                raise TypeError
            if agreement.split not in ("rows", "columns"):
                raise ValueError
            if not 0 < agreement.place < agreement.holders or min(numbers) < 1 or agreement.records < 0:
                raise ValueError
        except (TypeError, ValueError):
            raise ProtocolError("agreement: cannot be read; all data holders need the same marginal_sdg") from None
        return agreement
