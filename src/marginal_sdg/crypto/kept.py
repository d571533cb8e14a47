"""A session that outlives its process: what a role was asked, on disk, and the random bits that it began with.

Every question of a session has a number. Its chunks are written before they are worked on, and its answer before it
leaves. A role that is started again answers all its questions anew, with the same bits, to have the same state, and
throws these answers away. The asker says its session's name, hears how many questions are answered and how much of the
next one is there, and goes on from that: with the chunks that are missing, or with the answer as it was written.

Why nothing is released twice. An answered question is never worked on again for anybody's eyes: its record is sent. One
that is not answered has shown nothing to anybody, and is answered to the same chunks: the asker has drawn, and its
ledger booked, the noise before it asked, and sends the ciphertexts and shares that it made then, or makes again (see
:mod:`marginal_sdg.crypto.notes`). So a measurement has the noise that it had. A selection has the same noisy scores, so
the same index, and even the same garbled circuit: pads and labels come from the session's bits, and so does the noise
of a data holder that is asked. What OpenFHE draws by itself, for fresh encryptions, differs, and hides as before; what
must not differ, secret keys and what the holder of the other half has answered, is remembered instead. Where anything
does not fit, another version, another table, a session that is not known, the session ends, and what it has spent stays
spent. A copy of the folder is refused.

*Assuming* that nobody brings an earlier state of the folder back, from a backup or a machine's snapshot: another
question would then be answered under pads and labels that have been used.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from marginal_sdg import __version__
from marginal_sdg.crypto import records
from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.folder import Folder, expiry
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.errors import ConfigError, ProtocolError

RESUME, AGAIN = 248, 249  # questions: a session by its name; the last answer
STATE = struct.Struct("<IQ")  # questions answered, chunks of the next
_EVERY = 16  # chunks: so often the asker hears what it need not keep

Ask = Callable[[int, Iterator[bytes]], Iterable[bytes]]


class Answering(Protocol):
    """What answers the questions of one session. ``partner`` answers where it asks back."""

    partner: Callable[[bytes], bytes] | None

    def ask(self, step: int, chunks: Iterator[bytes]) -> Iterable[bytes]:
        """The answer to one."""
        ...


@dataclass(frozen=True)
class Memory:
    """What a role begins a session with. ``keys()`` gives 32 random bytes, in a repeated session the same ones.

    ``remember`` gives what the function makes, or what was made under that name before; ``known``, how many names begin
    so.
    """

    keys: Callable[[], bytes]
    remember: Callable[[str, Callable[[], bytes]], bytes] = lambda name, make: make()
    known: Callable[[str], int] = lambda beginning: 0

    @classmethod
    def of(cls, seed: bytes, session: Path) -> Memory:
        """In the folder of a session, whose random bits follow from 32."""
        bits = Stream(seed)

        def remember(name: str, make: Callable[[], bytes]) -> bytes:
            path = session / f"{name}.secret"
            if not path.exists():
                records.write(path, [make()])
            (made,) = records.read(path)
            return made

        def known(beginning: str) -> int:
            return len(list(session.glob(f"{beginning}*.secret")))

        return cls(lambda: bits.draw(4).tobytes(), remember, known)


Make = Callable[[Memory], Answering]
Session = Callable[[Channel, Make], AbstractContextManager[Ask]]


class Fleeting:
    """Sessions that end with their connection. ``keys()`` gives 32 fresh random bytes."""

    def __init__(self, keys: Callable[[], bytes]) -> None:
        self._keys = keys

    @contextmanager
    def session(self, channel: Channel, make: Make) -> Iterator[Ask]:
        """What answers the questions of one."""
        party = make(Memory(self._keys))
        party.partner = channel.ask_back

        def ask(step: int, chunks: Iterator[bytes]) -> Iterable[bytes]:
            if step != RESUME:
                return party.ask(step, chunks)
            list(chunks)
            return []  # it cannot

        yield ask


class Store:
    """One session at a time, in a folder of the role's own. ``keys()`` gives 32 fresh random bytes.

    The session is removed when it ends, when another begins, and ``patience`` seconds after its connection broke.
    """

    def __init__(self, root: Path, keys: Callable[[], bytes], patience: float) -> None:
        self._folder, self._keys, self._patience = Folder(root), keys, patience
        with self._folder.alone():
            pass
        self._expiry = expiry(patience, self._expire)

    @contextmanager
    def session(self, channel: Channel, make: Make) -> Iterator[Ask]:
        """What answers the questions of one: a new one, or one whose connection broke."""
        self._expiry.cancel()
        with self._folder.alone():
            try:
                yield _Session(self._folder, channel, make, self._keys).ask
            except LostError:
                channel.close()  # and say nothing, which would be the end of it
                self._expiry = expiry(self._patience, self._expire)
                raise
            except BaseException as error:
                self._folder.remove()
                if isinstance(error, OSError):
                    raise ProtocolError(f"store: cannot be written ({error.strerror})") from None
                raise
            self._folder.remove()

    def _expire(self) -> None:
        try:
            with self._folder.alone():
                self._folder.remove()
        except ConfigError:  # it has just been taken up again, or somebody has removed the folder
            pass


class _Session:
    """Files: ``title``, ``seed``, what is remembered; every question by number; the last answer."""

    def __init__(self, folder: Folder, channel: Channel, make: Make, keys: Callable[[], bytes]) -> None:
        self._folder, self._channel, self._make, self._keys = folder, channel, make, keys
        self._party: Answering | None = None
        self._answered = 0

    def ask(self, step: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The answer to one question, which is on disk before it is given."""
        if step == RESUME:
            return iter([self._resume(b"".join(chunks))])
        if self._party is None:
            raise ProtocolError("session: has no name; both ends need the same marginal_sdg")
        if step == AGAIN:
            for _ in chunks:
                pass
            return records.read(self._answer(self._answered - 1))
        records.write(self._answer(self._answered), self._party.ask(step, self._written(step, chunks)))
        self._answer(self._answered - 1).unlink(missing_ok=True)
        self._answered += 1
        return records.read(self._answer(self._answered - 1))

    def _resume(self, name: bytes) -> bytes:
        """The session of that name and caller, from its beginning or from where it was; its state."""
        if self._party is not None:
            raise ProtocolError("session: has a name already")
        title = sha256(b" ".join([__version__.encode(), self._channel.certified.encode(), name])).digest()
        if self._folder.title() != [title]:
            self._folder.begin([title], self._keys())
        self._party = self._make(Memory.of(self._folder.seed, self._folder.session))
        self._party.partner = self._channel.ask_back
        self._answered = 1 + max((int(path.stem) for path in self._folder.session.glob("*.answer")), default=-1)
        for number in range(self._answered):
            chunks = records.read(self._question(number))
            step = next(chunks, b"")
            if not step:
                raise ProtocolError(f"store: question {number} of the session is missing; start another")
            for _ in self._party.ask(step[0], chunks):
                pass
        return STATE.pack(self._answered, max(0, len(records.whole(self._question(self._answered))) - 1))

    def _written(self, step: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """What there is of the question already, and what comes, once it is written."""
        path = self._question(self._answered)
        ends = records.whole(path)
        known = records.read(path)
        if next(known, bytes([step])) != bytes([step]):
            raise ProtocolError(f"session: question {self._answered} is not the one that was begun")
        yield from known
        with open(path, "ab", opener=records.private) as file:
            file.truncate(ends[-1] if ends else 0)
            if not ends:
                records.append(file, bytes([step]))
            for count, chunk in enumerate(chunks, max(1, len(ends))):
                records.append(file, chunk)
                if count % _EVERY == 0:
                    self._channel.stored(count)
                yield chunk
            os.fsync(file.fileno())

    def _question(self, number: int) -> Path:
        return self._folder.session / f"{number}.question"

    def _answer(self, number: int) -> Path:
        return self._folder.session / f"{number}.answer"
