"""A connection to a role that may be started again: the asker's side of a session that is kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.kept import AGAIN, RESUME, STATE
from marginal_sdg.errors import ProtocolError

_PAUSE = 0.5  # seconds between two looks for a role that has gone
_RETURNS = 5  # to one question


class Steady:
    """Asks one role the questions of one session, whose ``name`` is 32 fresh random bytes.

    Where the connection breaks and the role keeps its session (see :class:`~marginal_sdg.crypto.kept.Store`), it is
    looked for again by ``connect`` for ``patience`` seconds. Whatever cannot be gone on with is a ``ProtocolError``: a
    role that has come back without the session, or one that asks back, as its ``partner`` answers once.
    """

    def __init__(self, connect: Callable[[], Channel], name: bytes, patience: float) -> None:
        self.partner: Callable[[bytes], bytes] | None = None
        self._connect, self._name, self._patience = connect, name, patience
        self._asked = 0
        self._channel = connect()
        try:
            self._keeps = self._state() is not None
        except BaseException:
            self._channel.close()
            raise

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """The role's answer. ``chunks`` are sent as they are made, and kept until the role has them on disk."""
        question, answered, stored = _Unstored(chunks), self._asked, 0
        for returns in range(_RETURNS + 1):
            self._channel.partner = self.partner
            try:
                if answered == self._asked:
                    answer = self._channel.ask(step, question.since(stored), question.drop)
                else:
                    answer = self._channel.ask(AGAIN, [])
                break
            except LostError as lost:
                mine = lost.channel is self._channel  # a question may be made of another role's answer
                if not mine or not self._keeps or self.partner is not None or returns == _RETURNS:
                    raise
                answered, stored = self._found_again(lost)
        self._asked += 1
        return answer

    def _found_again(self, lost: LostError) -> tuple[int, int]:
        """How many questions the role has answered, and how many chunks of the next it has, once it is back."""
        self._channel.close()
        end = time.monotonic() + self._patience
        while True:
            try:
                self._channel = self._connect()
                state = self._state()
                break
            except LostError:
                if time.monotonic() > end:
                    raise ProtocolError(f"{lost}; it did not come back within {self._patience:g} s") from None
                time.sleep(_PAUSE)
        if state is None or state[0] not in (self._asked, self._asked + 1):
            raise ProtocolError(f"{lost}; it has come back without the session, so start another")
        return state

    def _state(self) -> tuple[int, int] | None:
        """None where the role does not keep its session."""
        for answer in self._channel.ask(RESUME, [self._name]):
            answered, stored = STATE.unpack(answer)
            return answered, stored
        return None

    def __enter__(self) -> Steady:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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
        """Those after the first ``count``, which the role has."""
        self.drop(count)
        if self._dropped != count:
            raise ProtocolError("session: the role has lost what it had stored; start another")
        yield from list(self._kept)
        for chunk in self._source:
            self._kept.append(chunk)
            yield chunk
