"""Files of byte strings: written whole, or appended to by a process that may die in the middle of one."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from marginal_sdg.durable import replace_file

_LENGTH = struct.Struct("<I")


def write(path: Path, records: Iterable[bytes]) -> None:
    """A file of these records: all of it on disk, or none."""
    replace_file(path, _framed(records))


def append(file: IO[bytes], record: bytes) -> None:
    """One record more."""
    file.writelines(_framed([record]))
    file.flush()


def read(path: Path) -> Iterator[bytes]:
    """Those of a file that are whole; none where there is no file."""
    if ends := whole(path):
        with path.open("rb") as file:
            for _ in ends:
                yield file.read(*_LENGTH.unpack(file.read(_LENGTH.size)))


def whole(path: Path) -> list[int]:
    """Where the whole records of a file end."""
    ends: list[int] = []
    if path.exists():
        size, end = path.stat().st_size, 0
        with path.open("rb") as file:
            while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
                end += _LENGTH.size + _LENGTH.unpack(head)[0]
                if end > size:
                    break
                ends.append(end)
                file.seek(end)
    return ends


def private(path: str, flags: int) -> int:
    """Opens a file for the owner's eyes only."""
    return os.open(path, flags, 0o600)


def _framed(records: Iterable[bytes]) -> Iterator[bytes]:
    for record in records:
        yield _LENGTH.pack(len(record))
        yield record
