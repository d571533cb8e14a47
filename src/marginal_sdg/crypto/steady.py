"""A connection to a role that may be started again, from an asker that may be: the asker's side of a kept session."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.kept import AGAIN, RESUME, STATE
from marginal_sdg.crypto.notes import Told
from marginal_sdg.errors import ProtocolError

_PAUSE = 0.5  # seconds between two looks for a role that has gone
_RETURNS = 5  # to one question


class Steady:
    """Asks one role the questions of one session, whose ``name`` is 32 random bytes.

    Where the connection breaks and the role keeps its session (see :class:`~marginal_sdg.crypto.kept.Store`), it is
    looked for again by ``connect`` for ``patience`` seconds. Where it cannot be gone on with, as the role has come back
    without it, that is a ``ProtocolError``. ``told``: what the role has answered to an earlier process in the same
    session, and so is not asked again.
    """

    def __init__(self, connect: Callable[[], Channel], name: bytes, patience: float, told: Told | None = None) -> None:
        self.partner: Callable[[bytes], bytes] | None = None
        self._connect, self._name, self._patience = connect, name, patience
        self._told = told or Told()
        self._asked = 0
        self._channel: Channel | None = None
        self._state: tuple[int, int] | None = None  # questions answered, chunks of the next, if it is there
        self._keeps = False
        if not self._told.over:
            try:
                self._find()
            except LostError:
                if not self._told.begun:
                    raise  # and otherwise it may be back when it is needed

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """The role's answer. ``chunks`` are sent as they are made, and kept until the role has them on disk."""
        number, stream = self._asked, self.stream(step, chunks)
        answer = self._told.answer(number)
        if answer is None:
            answer = list(stream)
            self._told.keep(number, answer)
        return answer

    def stream(self, step: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same as it comes, to be passed on: it is asked when it is wanted, and not kept."""
        self._asked += 1
        return self._answer(self._asked - 1, step, _Unstored(chunks))

    def _answer(self, number: int, step: int, question: _Unstored) -> Iterator[bytes]:
        lost: LostError | None = None
        given = 0
        for returns in range(_RETURNS + 1):
            channel, answered, stored = self._found(number, lost)
            channel.partner = self.partner
            try:
                if answered == number:
                    answer = channel.stream(step, question.since(stored), question.drop)
                else:
                    answer = channel.stream(AGAIN, [])
                for place, chunk in enumerate(answer):
                    if place == given:
                        given += 1
                        yield chunk
                break
            except LostError as error:
                mine = error.channel is channel  # a question may be made of another role's answer
                if not mine or not self._keeps or returns == _RETURNS:
                    raise
                lost, self._state = error, None
                channel.close()
        self._state = number + 1, 0

    def _found(self, number: int, lost: LostError | None) -> tuple[Channel, int, int]:
        """The role, how many questions it has answered, and how many chunks of the next it has, once it is there."""
        end = time.monotonic() + self._patience
        while self._channel is None or self._state is None:
            try:
                self._find()
            except LostError as error:
                if time.monotonic() > end:
                    what = f"{lost or error}; it did not come back within {self._patience:g} s"
                    raise LostError(error.channel, what) from None
                time.sleep(_PAUSE)
        answered, stored = self._state
        if answered > number + 1:
            raise ProtocolError(
                f"{self._channel.peer}: has answered more than is in this folder, an earlier copy of it"
            )
        if answered < number:
            what = f"{lost}; it has come back" if lost else f"{self._channel.peer}: is there"
            raise ProtocolError(
                f"{what} without the session, which it keeps (with --store) for its --timeout after a break; "
                "start another"
            )
        return self._channel, answered, stored

    def _find(self) -> None:
        self._channel = self._connect()
        try:
            answer = self._channel.ask(RESUME, [self._name])
        except BaseException:
            self._channel.close()
            raise
        self._keeps = bool(answer)
        self._state = STATE.unpack(*answer) if answer else (0, 0)

    def __enter__(self) -> Steady:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._channel is not None:
            self._channel.__exit__(kind, error, at)


class _Unstored:
    """The chunks of a question, of which those that the role may not have are kept."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._source = iter(chunks)
        self._kept: deque[bytes] = deque()
        self._dropped = 0

    def drop(self, count: int) -> None:
        """The role has the first ``count`` chunks."""
        while self._dropped < count and self._kept:
            self._kept.popleft()
            self._dropped += 1

    def since(self, count: int) -> Iterator[bytes]:
        """Those after the first ``count``, which the role has, perhaps from an earlier process."""
        self.drop(count)
        while self._dropped < count and next(self._source, None) is not None:
            self._dropped += 1
        if self._dropped != count:
            raise ProtocolError("session: the role has lost what it had stored; start another")
        yield from list(self._kept)
        for chunk in self._source:
            self._kept.append(chunk)
            yield chunk
