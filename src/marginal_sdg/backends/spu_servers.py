"""DistAIM's three servers as their coordinator has them: one session, which goes on where it broke.

Whatever the coordinator cannot make again by itself passes here: what servers answer, and who has sent them answers.
With a journal it is on disk, each question before it is asked, so that a coordinator that is started again repeats its
fit from there, without asking, and asks on from the question that it was killed at, in the very words: another question
in that place would be refused.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.identity import Identity
from marginal_sdg.crypto.rss import SERVERS
from marginal_sdg.crypto.spu.questions import Opening, Step, pack, role, unpack
from marginal_sdg.durable import alone
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.journal import JournalFile
from marginal_sdg.privacy.noise import Source

_FORMAT = "marginal_sdg.spu.journal/1"
_PAUSE = 0.5  # seconds between two looks for servers that have gone
_RETURNS = 5  # to one question

Answer = list[list[bytes]]  # of each server
Make = Callable[[list[bytes]], Answer]


class Service(Protocol):
    """A server, wherever it runs: a ``Channel`` to it."""

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """Its answer; ``ProtocolError`` where it has none, a ``LostError`` where it may come back."""
        ...


Connect = Callable[[ExitStack], Sequence[Service]]  # to servers 0, 1 and 2, until the block ends


class Servers:
    """Asks all three servers. A connection that breaks is looked for again for ``patience`` seconds.

    ``journal``: what has been asked before, by this process or an earlier one. As a context, ends the session when
    left; after an error servers keep it, and it can be gone on with.
    """

    def __init__(self, connect: Connect, patience: float, journal: Journal | None = None) -> None:
        self.breaks = 0  # how often the session broke off
        self.name = Source.system().key().hex() if journal is None else journal.file.fit
        self._connect, self._patience, self._journal = connect, patience, journal
        self._connections = ExitStack()
        self._services: Sequence[Service] = ()
        self._opening: Opening | None = None
        self._answered = 0

    def ask(self, step: Step, question: list[bytes]) -> Answer:
        """Every server's answer, once: they need each other for it."""
        if step is Step.OPEN:
            _, self._opening, _ = unpack(step, question)
        answer = self.once(step.name.lower(), question, lambda asked: self.live(step, asked))
        self._answered += 1
        return answer

    def once(self, kind: str, question: list[bytes], make: Make) -> Answer:
        """What is made for a question, or has been."""
        return make(question) if self._journal is None else self._journal.ask(kind, question, make)

    def live(self, step: Step, question: list[bytes]) -> Answer:
        """Every server's answer now, of a session that is taken up where it has broken."""
        for returns in range(_RETURNS + 1):
            try:
                opened = [] if self._services else self._open()
                if step is Step.OPEN:
                    return opened
                return [_and_sent(*both) for both in zip_longest(self._all(step, question), opened)]
            except LostError as lost:
                self._leave(lost)
                if returns == _RETURNS or self._answered == 0:
                    raise
        raise AssertionError("unreachable")

    def send(self, rank: int, question: list[bytes]) -> None:
        """An upload of a client that the coordinator plays."""
        if not self._services:
            raise ProtocolError(f"{role(rank)}: the connection is broken")
        self._services[rank].ask(Step.UPLOAD, question)

    def _open(self) -> Answer:
        """Connect, and begin the session or take it up."""
        assert self._opening is not None
        end = time.monotonic() + self._patience
        while True:
            try:
                self._services = self._connect(self._connections)
                break
            except LostError as lost:
                self._connections.__exit__(type(lost), lost, None)
                if self._answered == 0:
                    raise
                if time.monotonic() > end:
                    raise ProtocolError(f"{lost}; it did not come back within {self._patience:g} s") from None
                time.sleep(_PAUSE)
        link = Source.system().key().hex()
        return self._all(Step.OPEN, pack(self._opening.model_copy(update={"answered": self._answered, "link": link})))

    def _leave(self, error: Exception) -> None:
        """Without a goodbye: servers keep what they have."""
        self.breaks += 1
        self._services = ()
        self._connections.__exit__(type(error), error, None)

    def _all(self, step: Step, question: list[bytes]) -> Answer:
        """The first error of any is raised at once."""
        services = self._services
        done: SimpleQueue[tuple[int, list[bytes] | Exception]] = SimpleQueue()

        def ask(rank: int) -> None:
            try:
                done.put((rank, services[rank].ask(step, question)))
            except Exception as error:
                done.put((rank, error))

        for rank in range(SERVERS):
            Thread(target=ask, args=(rank,), daemon=True).start()
        answers: Answer = [[]] * SERVERS
        for _ in range(SERVERS):
            rank, answer = done.get()
            if isinstance(answer, Exception):
                raise answer
            answers[rank] = answer
        return answers

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connections.__exit__(kind, error, at)


class Journal:
    """What a coordinator asks and is answered in one fit, in the file ``path``, which no other process has meanwhile.

    ``terms``: what the fit is about. ``ConfigError`` where the file is of another fit, or of a process that runs.
    """

    def __init__(self, path: Path, terms: Mapping[str, Any], stack: ExitStack) -> None:
        try:
            stack.enter_context(alone(path.with_name(f".{path.name}.lock")))
            self.file = JournalFile(path, _FORMAT, terms, _record)
        except BlockingIOError:
            raise ConfigError(f"store: another process has {path}; wait for it, or name another file") from None
        except OSError as error:
            raise ConfigError(f"store: {path} cannot be used ({error.strerror}); name a file") from None

    def ask(self, kind: str, question: list[bytes], make: Make) -> Answer:
        """The answer that there is, or that is made now of the question as it was asked first."""
        past = self.file.past
        if past:
            asked, first = past.popleft()
            if asked != kind or first[:1] != question[:1] or len(first) != len(question):
                raise ProtocolError(f"{self.file.path}: another question was asked here; use the version that began")
            question = first
        else:
            self.file.append({"asked": kind, "chunks": _plain(question)})
        if past:
            known: Answer = past.popleft()[1]
            return known
        answer = make(question)
        self.file.append({"answers": [_plain(chunks) for chunks in answer]})
        return answer


def connected(
    addresses: Sequence[str], timeout: float, connections: ExitStack, identity: Path | str | None
) -> list[Channel]:
    """Channels to servers 0, 1 and 2, which end with ``connections``."""
    if len(addresses) != SERVERS or isinstance(addresses, str):
        raise ConfigError(f"servers: engine 'spu' needs a list with the addresses of three, got {addresses!r}")
    if not timeout > 0:
        raise ConfigError(f"timeout: must be a positive number of seconds, got {timeout}")
    own = Identity.given(identity)
    return [
        connections.enter_context(Channel.connect(where, role(rank), timeout, own))
        for rank, where in enumerate(addresses)
    ]


def _and_sent(answer: list[bytes], opened: list[bytes] | None) -> list[bytes]:
    """An answer, at whose end is what its server has sent, with what it had to send before."""
    if not answer or not opened:
        return answer
    sent = sum(int.from_bytes(chunks[-1], "little") for chunks in (answer, opened))
    return [*answer[:-1], sent.to_bytes(8, "little")]


def _plain(chunks: Iterable[bytes]) -> list[str]:
    return [b64encode(chunk).decode() for chunk in chunks]


def _record(found: Mapping[str, Any]) -> tuple[str, Any]:
    """A question, or the answers to the one before it."""
    if "asked" in found:
        return found["asked"], [b64decode(chunk) for chunk in found["chunks"]]
    return "", [[b64decode(chunk) for chunk in chunks] for chunks in found["answers"]]
