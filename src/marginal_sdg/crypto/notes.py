"""What a data holder that asks keeps of its session on disk, so that it goes on in it when it is started again.

It does all its work anew from the same random bits, and reads the answers that it has been given instead of asking for
them. The question at which it was killed is asked again, or its answer is fetched; of a question that is half sent, the
rest is sent. An answer is on disk before the next question leaves.

Why nothing is released twice. Noise follows from the random bits, so a measurement that is asked again has the noise
that it had, and a selection the same noisy scores. For that, all else has to be the same as well: the title of the
session has the parameters, the version and, under a key, the records; a copy of the folder is refused, and so is a
second process; and each question is noted with its noise before any of it leaves, so that another one is not asked
under noise that was drawn for the first (a model that came out otherwise, say, on another machine). What the ledger has
booked it finds by the session's name. Encryptions are fresh, of the same values, and hide as before.

*Assuming* that nobody brings an earlier state of the folder back, from a backup or a machine's snapshot.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from marginal_sdg.crypto import records
from marginal_sdg.crypto.channel import LostError
from marginal_sdg.crypto.folder import Folder
from marginal_sdg.crypto.kept import Memory
from marginal_sdg.durable import make_folder
from marginal_sdg.errors import ConfigError, MarginalSDGError, ProtocolError

_SHOWN = 40  # characters of a parameter in an error


@dataclass(frozen=True)
class Told:
    """The answers of one role so far, in a folder of theirs or nowhere. ``over``: there is nothing more to be asked."""

    folder: Path | None = None
    over: bool = False

    @property
    def begun(self) -> bool:
        """Whether there is one."""
        return self.folder is not None and self._path(0).exists()

    def answer(self, number: int) -> list[bytes] | None:
        """To that question; None where it is not known."""
        if self.folder is None or not (path := self._path(number)).exists():
            return None
        return list(records.read(path))

    def keep(self, number: int, answer: Iterable[bytes]) -> None:
        """On disk when this returns."""
        if self.folder is not None:
            make_folder(self.folder)
            records.write(self._path(number), answer)

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{number}.answer"


class Notes:
    """One session at a time, in the folder ``root``, for what is done in a ``with`` block.

    Killed in the block and started again with the same parameters and records, a fit goes on in the session. When the
    block is left, by its end or by an error that ends the session, nothing of it is kept any more; it is kept where a
    role has gone, or what was given was wrong. ``ConfigError`` where the folder is in use, or is a copy.
    """

    def __init__(self, root: Path | str) -> None:
        self._folder = Folder(Path(root))
        self._begun, self._alone, self._asked = False, False, 0
        self._stack = ExitStack()

    @property
    def found(self) -> bool:
        """Whether there is a session already."""
        return bool(self._folder.title())

    def begin(self, terms: Mapping[str, str], table: Iterable[bytes], keys: Callable[[], bytes]) -> None:
        """A new session, or the one that there is; ``ConfigError`` where it is of other terms or another table.

        ``terms``: all that is public and matters; ``table``: the records; ``keys()``: 32 fresh random bytes.
        """
        if not self._alone:
            raise ConfigError("notes: are used in a with block, while no other process has the folder")
        title = self._folder.title()
        if title and title[0] != _KIND:
            raise ConfigError(f"store: {self._folder.root} has the session of another role; name another folder")
        seed = self._folder.seed if title else keys()
        digest = hmac.new(_key(seed, "table"), digestmod="sha256")
        for part in table:
            digest.update(part)
        if not title:
            self._folder.begin([_KIND, json.dumps(dict(terms)).encode(), digest.digest()], seed)
        else:
            self._compare(json.loads(title[1]), terms)
            if not hmac.compare_digest(title[2], digest.digest()):
                raise ConfigError(f"table: is not the one of the session in {self._folder.root}; {_ADVICE}")
        self._begun, self._asked = True, 0

    def _compare(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        for name in [*now, *before]:
            if before.get(name) != now.get(name):
                shown = ", ".join(str(terms.get(name))[:_SHOWN] for terms in (before, now))
                raise ConfigError(f"{name}: is not the one of the session in {self._folder.root} ({shown}); {_ADVICE}")

    def key(self, name: str) -> bytes:
        """32 random bytes, the same ones in the whole session."""
        return _key(self._folder.seed, name)

    @property
    def memory(self) -> Memory:
        """For who answers where a role asks back."""
        return Memory.of(self.key("memory"), self._folder.session)

    def told(self, role: str) -> Told:
        """The answers of a role."""
        return Told(self._folder.session / role, self._over.exists())

    def note(self, question: Iterable[bytes]) -> None:
        """Before it is asked. ``ProtocolError`` where another one was asked in its place: its noise has been drawn."""
        digest = hmac.new(self.key("questions"), digestmod="sha256")
        for part in question:
            digest.update(len(part).to_bytes(8, "little") + part)
        path = self._folder.session / f"{self._asked}.question"
        if not path.exists():
            records.write(path, [digest.digest()])
        elif list(records.read(path)) != [digest.digest()]:
            raise ProtocolError(
                f"question {self._asked}: is not the one that was asked before, on a machine or with libraries that "
                "compute otherwise; start another session"
            )
        self._asked += 1

    def finish(self) -> None:
        """All has been asked: from here on, the session needs nobody."""
        records.write(self._over, [])

    @property
    def _over(self) -> Path:
        return self._folder.session / "over"

    def __enter__(self) -> Notes:
        self._stack.enter_context(self._folder.alone())
        self._alone = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._alone = False
        with self._stack:
            if self._begun and (kind is None or self._ends(kind)):
                self._folder.remove()

    def _ends(self, kind: type[BaseException]) -> bool:
        """Whether there is nothing to go on with after such an error; where nobody has answered yet, there is not."""
        if not issubclass(kind, MarginalSDGError):
            return False
        answered = any(self._folder.session.glob("*/0.answer"))
        return not answered or not issubclass(kind, LostError | ConfigError)


_KIND = b"notes"
_ADVICE = "go on with the same, or name another folder for another session"


def _key(seed: bytes, name: str) -> bytes:
    return hmac.digest(seed, name.encode(), "sha256")
