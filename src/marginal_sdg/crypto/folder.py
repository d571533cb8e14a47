"""A folder with what is kept of one session: for its owner's eyes, one process at a time, and whole after a crash."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from marginal_sdg.durable import make_folder, replace_file
from marginal_sdg.errors import ConfigError

_LENGTH = struct.Struct("<I")


class Folder:
    """``session``: the folder in ``root`` that has the files of a session, which begin with ``title`` and ``seed``."""

    def __init__(self, root: Path) -> None:
        self.root, self.session, self._lock = root, root / "session", root / ".lock"
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(_unusable(root, error)) from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The only one, of all processes, that touches the session: two with the same bits would betray them.

        ``ConfigError`` where another one is there, or the folder cannot be used.
        """
        import fcntl

        try:
            file = os.open(self._lock, os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(_unusable(self.root, error)) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise ConfigError("store: another process has a session in the same folder") from None
        try:
            yield
        finally:
            os.close(file)

    def title(self) -> list[bytes]:
        """Of the session that is kept, empty where there is none; ``ConfigError`` where it was begun elsewhere."""
        title = list(records(self.session / "title"))
        if title and title.pop() != self._place():
            raise ConfigError(
                f"store: {self.root} is a copy of another folder, whose random bits must not be used twice; go on with "
                "that one, or remove this one"
            )
        return title

    def begin(self, title: Sequence[bytes], seed: bytes) -> None:
        """Another session, with nothing but these."""
        self.remove()
        make_folder(self.session)
        write(self.session / "seed", [seed])
        write(self.session / "title", [*title, self._place()])

    @property
    def seed(self) -> bytes:
        """What the session began with."""
        (seed,) = records(self.session / "seed")
        return seed

    def remove(self) -> None:
        """Nothing is kept any more."""
        for name in ("title", "seed"):  # first: the rest alone is no session
            (self.session / name).unlink(missing_ok=True)
        shutil.rmtree(self.session, ignore_errors=True)

    def _place(self) -> bytes:
        """What a copy does not have."""
        return self.session.stat().st_ino.to_bytes(8, "little")


def _unusable(root: Path, error: OSError) -> str:
    return f"store: {root} cannot be used ({error.strerror})"


def private(path: str, flags: int) -> int:
    """Opens a file for its owner's eyes only."""
    return os.open(path, flags, 0o600)


def write(path: Path, chunks: Iterable[bytes]) -> None:
    """A file of these records: all of it on disk, or none."""
    replace_file(path, _framed(chunks))


def append(file: IO[bytes], record: bytes) -> None:
    """One more, which a process that is killed now leaves."""
    file.writelines(_framed([record]))
    file.flush()


def _framed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for record in chunks:
        yield _LENGTH.pack(len(record))
        yield record


def records(path: Path) -> Iterator[bytes]:
    """Those of a file that are whole; none where there is no file."""
    if ends := whole(path):
        with path.open("rb") as file:
            for _ in ends:
                yield file.read(*_LENGTH.unpack(file.read(_LENGTH.size)))


def whole(path: Path) -> list[int]:
    """Where the whole records of a file end: its process may have died in the middle of one."""
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
