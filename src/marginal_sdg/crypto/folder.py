"""A folder with what is kept of one session: for its owner's eyes, one process at a time, and whole after a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer

from marginal_sdg import durable
from marginal_sdg.crypto import records
from marginal_sdg.errors import ConfigError


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
        with ExitStack() as stack:
            try:
                stack.enter_context(durable.alone(self._lock))
            except BlockingIOError:
                raise ConfigError("store: another process has a session in the same folder") from None
            except OSError as error:
                raise ConfigError(_unusable(self.root, error)) from None
            yield

    def title(self) -> list[bytes]:
        """Of the session that is kept, empty where there is none; ``ConfigError`` where it was begun elsewhere."""
        title = list(records.read(self.session / "title"))
        if title and title.pop() != self._place():
            raise ConfigError(
                f"store: {self.root} is a copy of another folder, whose random bits must not be used twice; go on with "
                "that one, or remove this one"
            )
        return title

    def begin(self, title: Sequence[bytes], seed: bytes) -> None:
        """Another session, with nothing but these."""
        self.remove()
        durable.make_folder(self.session)
        records.write(self.session / "seed", [seed])
        records.write(self.session / "title", [*title, self._place()])

    @property
    def seed(self) -> bytes:
        """What the session began with."""
        (seed,) = records.read(self.session / "seed")
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


def expiry(patience: float, end: Callable[[], None]) -> Timer:
    """``end`` after so many seconds, unless cancelled: the session of somebody who has not come back."""
    timer = Timer(patience, end)
    timer.daemon = True
    timer.start()
    return timer
