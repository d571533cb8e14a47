"""Frames: what the three roles exchange. A header that names the run, the payload, and a checksum against accidents."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from marginal_sdg.errors import ProtocolError

_HEADER = struct.Struct("<4sBxxxI16sQI")
_LENGTH = struct.Struct("<Q")
_MAGIC = b"mFHE"
HEADER_BYTES = _HEADER.size


class Kind(IntEnum):
    """What a frame carries."""

    PUBLIC_KEY = 1
    EVALUATION_KEYS = 2
    OPENING = 3  # of an upload: its mode, attributes and cap
    RECORDS = 4
    COUNTS = 5
    NOISE = 6
    NORMS = 7
    SCORES = 8
    SHARES = 9
    MEASUREMENT = 10
    JOINT_KEY = 11
    CROSS = 12  # halves of marginals, encrypted by the key holder, and what the server makes of them
    PARTIAL = 13  # one of two halves of a decryption
    SECRET_KEY = 14  # on the key holder's disk; it is never sent


@dataclass(frozen=True)
class Frame:
    """``number``: place in a sequence of frames of one kind; ``run``: 16 bytes that name parameters, layout and key."""

    kind: Kind
    number: int
    run: bytes
    payload: bytes

    def pack(self) -> bytes:
        """The frame as bytes."""
        check = zlib.crc32(self.payload)
        return _HEADER.pack(_MAGIC, self.kind, self.number, self.run, len(self.payload), check) + self.payload


def join(*chunks: bytes) -> bytes:
    """Byte strings as one payload."""
    return b"".join(_LENGTH.pack(len(chunk)) + chunk for chunk in chunks)


def split(payload: bytes, count: int, kind: Kind) -> list[bytes]:
    """The ``count`` byte strings of a payload."""
    chunks = []
    while len(payload) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
        chunks.append(payload[_LENGTH.size : end])
        payload = payload[end:]
    if len(chunks) != count or payload:
        raise ProtocolError(f"{kind.name.lower()}: the payload does not have the {count} parts that it needs")
    return chunks


def unpack(message: bytes, kind: Kind, run: bytes | None = None) -> Frame:
    """A frame of the kind and run that are expected; ``ProtocolError`` for anything else."""
    if len(message) < HEADER_BYTES or message[:4] != _MAGIC:
        raise ProtocolError(f"{kind.name.lower()}: the message is not a frame of this protocol, or was cut short")
    _, found, number, named, size, check = _HEADER.unpack_from(message)
    if found != kind:
        raise ProtocolError(f"{kind.name.lower()}: the message is of kind {found} where {int(kind)} is needed")
    if run is not None and named != run:
        raise ProtocolError(f"{kind.name.lower()}: the message was made with another key, layout or parameter set")
    payload = message[HEADER_BYTES:]
    if len(payload) != size or zlib.crc32(payload) != check:
        raise ProtocolError(f"{kind.name.lower()}: {len(payload)} bytes came of {size}, or some were changed")
    return Frame(kind, number, named, payload)


def write(path: Path, messages: Iterable[bytes]) -> int:
    """Write frames end to end as they come; returns the number of bytes."""
    with path.open("wb") as file:
        return sum(file.write(message) for message in messages)


def read(path: Path) -> Iterator[bytes]:
    """The frames of a file, one at a time."""
    with path.open("rb") as file:
        while header := file.read(HEADER_BYTES):
            size = _HEADER.unpack(header)[4] if len(header) == HEADER_BYTES else 0
            if size > path.stat().st_size:
                raise ProtocolError(f"{path.name}: the file holds something else than frames, or was cut short")
            yield header + file.read(size)
