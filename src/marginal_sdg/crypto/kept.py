"""A session that outlives its process: what a role was asked, on disk, and the random bits that it began with.

Every question of a session has a number. Its chunks are written before they are worked on, and its answer before it
leaves. A role that is started again answers all its questions anew, with the same bits, to have the same state, and
throws these answers away. The asker says its session's name, hears how many questions are answered and how much of the
next one is there, and goes on from that: with the chunks that are missing, or with the answer as it was written.

Why nothing is released twice. An answered question is never worked on again for anybody's eyes: its record is sent. One
that is not answered has shown nothing to anybody, and is answered to the same chunks: the asker has drawn, and its
ledger booked, the noise before it asked, and sends the ciphertexts and shares that it made then. So a measurement has
the noise that it had. A selection has the same noisy scores, so the same index, and even the same garbled circuit: pads
and labels come from the session's bits. What OpenFHE draws by itself, for fresh encryptions, differs, and hides as
before; the secret key is remembered instead. Where anything does not fit, another version, a session that is not known,
an asker that died, the session ends, and what it has spent stays spent.

*Assuming* that nobody brings an earlier state of the folder back, from a backup or a machine's snapshot: another
question would then be answered under pads and labels that have been used.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Timer
from typing import IO, Protocol

from marginal_sdg import __version__
from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.durable import replace_file
from marginal_sdg.errors import ConfigError, ProtocolError

RESUME, AGAIN = 248, 249  # questions: a session by its name; the last answer
STATE = struct.Struct("<IQ")  # questions answered, chunks of the next
_LENGTH = struct.Struct("<I")
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

    ``remember`` gives what the function makes, or made when it was asked first.
    """

    keys: Callable[[], bytes]
    remember: Callable[[Callable[[], bytes]], bytes] = lambda make: make()


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
        self._folder, self._lock, self._keys, self._patience = root / "session", root / ".lock", keys, patience
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone():
                pass
        except (OSError, ProtocolError) as error:
            raise ConfigError(str(error) if isinstance(error, ProtocolError) else _unusable(root, error)) from None
        self._expiry = self._expires()

    @contextmanager
    def session(self, channel: Channel, make: Make) -> Iterator[Ask]:
        """What answers the questions of one: a new one, or one whose connection broke."""
        self._expiry.cancel()
        with self._alone():
            try:
                yield _Session(self._folder, channel, make, self._keys).ask
            except LostError:
                channel.close()  # and say nothing, which would be the end of it
                self._expiry = self._expires()
                raise
            except BaseException as error:
                self._remove()
                if isinstance(error, OSError):
                    raise ProtocolError(f"store: cannot be written ({error.strerror})") from None
                raise
            self._remove()

    def _expires(self) -> Timer:
        timer = Timer(self._patience, self._expire)
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self) -> None:
        try:
            with self._alone():
                self._remove()
        except ProtocolError:  # it has just been taken up again, or somebody has removed the folder
            pass

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The only one, of all processes, that touches the session: two with the same bits would betray them."""
        import fcntl

        try:
            file = os.open(self._lock, os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise ProtocolError(_unusable(self._lock.parent, error)) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise ProtocolError("store: another process has a session in the same folder") from None
        try:
            yield
        finally:
            os.close(file)


class _Session:
    """Files: ``title``, ``seed``, what is remembered; every question by number; the last answer."""

    def __init__(self, folder: Path, channel: Channel, make: Make, keys: Callable[[], bytes]) -> None:
        self._folder, self._channel, self._make, self._keys = folder, channel, make, keys
        self._party: Answering | None = None
        self._answered = 0

    def ask(self, step: int, chunks: Iterator[bytes]) -> list[bytes]:
        """The answer to one question, which is on disk before it is given."""
        if step == RESUME:
            return [self._resume(b"".join(chunks))]
        if self._party is None:
            raise ProtocolError("session: has no name; both ends need the same marginal_sdg")
        if step == AGAIN:
            return [*chunks, *_records(self._answer(self._answered - 1))]
        answer = list(self._party.ask(step, self._written(step, chunks)))
        _write(self._answer(self._answered), answer)
        self._answer(self._answered - 1).unlink(missing_ok=True)
        self._answered += 1
        return answer

    def _resume(self, name: bytes) -> bytes:
        """The session of that name and caller, from its beginning or from where it was; its state."""
        if self._party is not None:
            raise ProtocolError("session: has a name already")
        title = sha256(b" ".join([__version__.encode(), self._channel.certified.encode(), name])).digest()
        if list(_records(self._folder / "title")) != [title]:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700)
            _write(self._folder / "seed", [self._keys()])
            _write(self._folder / "title", [title])
        (seed,) = _records(self._folder / "seed")
        bits = Stream(seed)
        self._party = self._make(Memory(lambda: bits.draw(4).tobytes(), self._remember))
        self._party.partner = self._channel.ask_back
        self._answered = 1 + max((int(path.stem) for path in self._folder.glob("*.answer")), default=-1)
        for number in range(self._answered):
            chunks = _records(self._question(number))
            step = next(chunks, b"")
            if not step:
                raise ProtocolError(f"store: question {number} of the session is missing; start another")
            list(self._party.ask(step[0], chunks))
        return STATE.pack(self._answered, max(0, len(_whole(self._question(self._answered))) - 1))

    def _remember(self, make: Callable[[], bytes]) -> bytes:
        path = self._folder / "secret"
        if not path.exists():
            _write(path, [make()])
        (made,) = _records(path)
        return made

    def _written(self, step: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """What there is of the question already, and what comes, once it is written."""
        path = self._question(self._answered)
        ends = _whole(path)
        known = _records(path)
        if next(known, bytes([step])) != bytes([step]):
            raise ProtocolError(f"session: question {self._answered} is not the one that was begun")
        yield from known
        with open(path, "ab", opener=_private) as file:
            file.truncate(ends[-1] if ends else 0)
            if not ends:
                _append(file, bytes([step]))
            for count, chunk in enumerate(chunks, max(1, len(ends))):
                _append(file, chunk)
                if count % _EVERY == 0:
                    self._channel.stored(count)
                yield chunk
            os.fsync(file.fileno())

    def _question(self, number: int) -> Path:
        return self._folder / f"{number}.question"

    def _answer(self, number: int) -> Path:
        return self._folder / f"{number}.answer"


def _unusable(root: Path, error: OSError) -> str:
    return f"store: {root} cannot be used ({error.strerror})"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write(path: Path, records: Iterable[bytes]) -> None:
    """A file of these records: all of it on disk, or none."""
    replace_file(path, _framed(records))


def _append(file: IO[bytes], record: bytes) -> None:
    file.writelines(_framed([record]))
    file.flush()


def _framed(records: Iterable[bytes]) -> Iterator[bytes]:
    for record in records:
        yield _LENGTH.pack(len(record))
        yield record


def _records(path: Path) -> Iterator[bytes]:
    """Those of a file that are whole; none where there is no file."""
    if ends := _whole(path):
        with path.open("rb") as file:
            for _ in ends:
                yield file.read(*_LENGTH.unpack(file.read(_LENGTH.size)))


def _whole(path: Path) -> list[int]:
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
