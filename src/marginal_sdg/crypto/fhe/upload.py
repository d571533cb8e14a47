"""The opening of an upload: what a data holder says in clear about the ciphertexts that follow."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.wire import Frame, Kind, unpack
from marginal_sdg.errors import ProtocolError

Mode = Literal["records", "counts"]


@dataclass(frozen=True)
class Opening:
    """``records``: public cap on the holder's records, which fixes the number of row blocks; ``attributes``: whose."""

    mode: Mode
    records: int
    attributes: tuple[int, ...]

    def pack(self, run: bytes) -> bytes:
        """As a frame."""
        return Frame(Kind.OPENING, 0, run, json.dumps(asdict(self)).encode()).pack()

    @classmethod
    def unpack(cls, message: bytes, run: bytes | None, layout: Layout) -> Opening:
        """From a frame, of that run where it is given; ``ProtocolError`` unless it fits the layout."""
        frame = unpack(message, Kind.OPENING, run)
        try:
            fields = json.loads(frame.payload)
            opening = cls(fields["mode"], int(fields["records"]), tuple(map(int, fields["attributes"])))
        except (ValueError, KeyError, TypeError):
            raise ProtocolError("opening: the message does not name mode, records and attributes") from None
        check_cap(opening.records, layout)
        check_attributes(opening.attributes, layout)
        if opening.mode not in ("records", "counts"):
            raise ProtocolError(f"opening: mode {opening.mode!r} is neither 'records' nor 'counts'")
        return opening


def check_cap(records: int, layout: Layout) -> None:
    """``ProtocolError`` unless a holder may have that many records."""
    if not 1 <= records <= layout.profile.records:
        raise ProtocolError(
            f"records: a holder's cap of {records} is not between 1 and the {layout.profile.records} of the profile"
        )


def check_attributes(attributes: tuple[int, ...], layout: Layout) -> None:
    """``ProtocolError`` unless they are attributes of the table, ascending."""
    valid = attributes and tuple(sorted(set(attributes))) == attributes
    if not valid or not set(attributes) <= set(range(len(layout.shape))):
        raise ProtocolError(f"attributes: {attributes} must be among the {len(layout.shape)} of the table, ascending")
