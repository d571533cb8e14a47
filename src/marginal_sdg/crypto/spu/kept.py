"""A server's session on disk, so that it outlives the server's process.

Kept are the questions, each before it is worked on; what clients have sent, until it is added up; the sums; and 32
secret bytes, from which the session's noise is made. Not kept is what hides: the link, its masks and SPU's are fresh
whenever the servers meet again. They share the sums again, draw the noise of what has been answered once more, to have
the state they had, and throw it away. The question that they were at is answered with the noise that it had.

Why nothing is released twice. A question is refused where another one has been in its place, and so is a session that
does not go on where it was: the coordinator says how many answers it has, and a server has begun so many questions or
one more. So what is asked again is the same about the same answers, and has the same noise and the same result.
Besides, the key of a release's noise is made of the secret, of all questions up to this one and, at the servers that
clients send to, of all that was added up: what differs in any of it has other noise.

*Assuming* that nobody puts back an earlier state of the folders of all three servers and of the coordinator together:
a part of them is noticed, and so is a copy. Then more would be released than is booked; about other answers under other
noise of servers 0 and 1, but under that which server 2 had.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from marginal_sdg import __version__
from marginal_sdg.crypto import records
from marginal_sdg.crypto.folder import Folder
from marginal_sdg.errors import ProtocolError

_PLACES, _SENT = "*.question", "*.upload"


class Kept:
    """The one session in ``root``, a folder of the server's own. ``keys``: 32 fresh secret bytes a call."""

    def __init__(self, root: Path, keys: Callable[[], bytes]) -> None:
        self._folder, self._keys = Folder(root), keys
        self._session = self._folder.session
        self._secret = b""

    def open(self, session: str, answered: int) -> None:
        """Take up the session of that name after so many answers, or begin it in the place of any other."""
        title = sha256(f"{__version__} {session}".encode()).digest()
        known = self._folder.title() == [title]
        begun = len(list(self._session.glob(_PLACES))) if known else 0
        if begun < answered:
            raise ProtocolError("session: this server has come back without the session, so start another")
        if begun > answered + 1:
            raise ProtocolError(f"session: is at question {begun}, and does not go back to {answered}; start another")
        if not known:
            self._folder.begin([title], self._keys())
        self._secret = self._folder.seed

    def key(self, what: bytes) -> bytes:
        """32 secret bytes, the same ones for the same purpose in the same session."""
        return hmac.digest(self._secret, what, "sha256")

    def begin(self, place: int, question: list[bytes]) -> None:
        """Write down what is asked in a place; ``ProtocolError`` where something else has been."""
        path = self._session / f"{place}.question"
        before = list(records.read(path))
        if not before:
            records.write(path, question)
        elif before != question:
            raise ProtocolError(f"session: another question was asked in place {place} before; start another session")

    def question(self, place: int) -> list[bytes]:
        """What was asked there."""
        return list(records.read(self._session / f"{place}.question"))

    def sum(self, place: int, make: Callable[[], bytes]) -> bytes:
        """What was added up for a question, or is now; what has gone into it is not kept any longer."""
        path = self._session / f"{place}.sum"
        if not path.exists():
            records.write(path, [make()])
            for sent in self._session.glob(_SENT):
                sent.unlink()
        (made,) = records.read(path)
        return made

    def store(self, client: int, upload: list[bytes]) -> None:
        """Keep what a client has sent last."""
        records.write(self._session / f"{client}.upload", upload)

    def uploads(self) -> Iterator[list[bytes]]:
        """What clients have sent that is not added up."""
        return (list(records.read(path)) for path in self._session.glob(_SENT))
