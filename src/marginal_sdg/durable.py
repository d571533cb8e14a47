"""Files that a crash leaves whole, and that two processes do not change at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, parts: Iterable[bytes]) -> None:
    """Replace what is in a file, for the owner's eyes only; on disk before this returns. ``OSError`` leaves the old."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.touch(mode=0o600)
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def make_folder(path: Path) -> None:
    """A folder for the owner's eyes only, if there is none; on disk before this returns."""
    if not path.exists():
        path.mkdir(mode=0o700)
        _sync(path.parent)


def _sync(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with the file, until the process ends at the latest."""
    import fcntl

    with path.with_name(f".{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """The only process that has this file; ``BlockingIOError`` at once where another one has."""
    import fcntl

    file = os.open(lock, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)
