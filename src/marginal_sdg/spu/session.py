"""A server's session in a process of its own, which ends with its connection, and who may ask what of it.

SPU's links cannot be broken off: they wait out their time, and may take the process with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, Thread

from marginal_sdg.backends.spu_limits import Limits
from marginal_sdg.backends.spu_noise import ServersNoise
from marginal_sdg.crypto.channel import Channel, LostError
from marginal_sdg.crypto.folder import Folder, expiry
from marginal_sdg.crypto.identity import certified
from marginal_sdg.crypto.spu.engine import LinkError, SpuEngine, connect, logged_to
from marginal_sdg.crypto.spu.kept import Kept
from marginal_sdg.crypto.spu.questions import CLIENT, Step, client_role, unpack
from marginal_sdg.crypto.spu.server import Server
from marginal_sdg.errors import MarginalSDGError, ProtocolError
from marginal_sdg.privacy.noise import Source

LINKS = "links"  # in a server's identity, that for the link between servers
_GLANCE = 0.5  # seconds
_PATIENCE = 10.0  # with the session before


@dataclass(frozen=True)
class Place:
    """What a server knows before any session.

    ``links``: "host:port" of all three for each other. ``folder``: for SPU's log, and for the session. ``identity``: a
    folder, where links are encrypted and authenticated. ``timeout``: seconds to wait for the other servers;
    ``patience``: and for a coordinator that has gone, whose session is kept. ``limits``: of its noise.
    """

    rank: int
    links: Sequence[str]
    folder: Path
    identity: Path | None
    timeout: float
    patience: float
    limits: Limits


class Reception:
    """Lets coordinators have one session after the other, and clients upload to the one that there is.

    A session whose connection breaks, or whose servers lose each other, is kept for its coordinator; its process ends.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._turn = Lock()
        self._session: Session | None = None
        self._next = Session(place)  # it takes seconds to load SPU
        self._expiry = expiry(place.patience, self._expire)  # this process may have been started again

    def play(self, channel: Channel) -> None:
        """Answer a coordinator, or a client; certificates say which, and which one."""
        own: list[Session] = []
        over = met = False

        def ask(step: int, chunks: Iterable[bytes]) -> list[bytes]:
            nonlocal met
            question = list(chunks)
            if step == Step.UPLOAD:
                return self._upload(question, channel.certified)
            if channel.certified.startswith(CLIENT):
                raise ProtocolError(f"{channel.certified}: a client may upload, and ask nothing")
            if step == Step.OPEN and not own:
                own.append(self._begin())
            if not own:
                raise ProtocolError("session: is not open; start it again")
            answer = own[0].ask(step, question, gone=lambda: channel.interrupted)
            met = True
            return answer

        try:
            channel.serve(ask)
            over = True
        except (LinkError, LostError) as error:
            if met or isinstance(error, LostError):
                channel.close()  # and say nothing, which would be the end of it
            raise
        except ProtocolError:
            over = met
            raise
        finally:
            for session in own:
                self._session = None
                session.close(over=over)
                self._next = Session(self._place)
                self._expiry = expiry(self._place.patience, self._expire)
                self._turn.release()

    def _begin(self) -> Session:
        if not self._turn.acquire(timeout=_PATIENCE):
            raise ProtocolError("session: this server is in another one; ask again when it is over")
        self._expiry.cancel()
        self._session = self._next
        return self._next

    def _expire(self) -> None:
        if self._turn.acquire(blocking=False):
            Folder(self._place.folder).remove()
            self._turn.release()

    def _upload(self, question: list[bytes], sender: str) -> list[bytes]:
        _, head, _ = unpack(Step.UPLOAD, question)
        name = client_role(head.client)
        if sender.startswith(CLIENT) and sender != certified(name):
            raise ProtocolError(f"upload of {name}: comes from {sender}; a client uploads its own")
        session = self._session
        if session is None:
            raise ProtocolError(f"upload of {name}: there is no session; wait until the coordinator asks")
        return session.ask(Step.UPLOAD, question)


class Session:
    """A :class:`Server` on SPU, behind a pipe, which one question passes at a time."""

    def __init__(self, place: Place) -> None:
        self._lock, self._folder = Lock(), place.folder
        spawn = get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_answer, args=(theirs, place), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, step: int, question: list[bytes], gone: Callable[[], bool] = lambda: False) -> list[bytes]:
        """The server's answer; ``ProtocolError`` where it has none. ``gone``: whether nobody waits for it any more."""
        try:
            with self._lock:
                self._pipe.send((step, question))
                while not self._pipe.poll(_GLANCE):
                    if gone():
                        raise LinkError("coordinator: has gone")
                answer: list[bytes] | ProtocolError = self._pipe.recv()
        except (EOFError, OSError):
            raise LinkError("SPU: has ended its process; its log says more") from None
        if isinstance(answer, ProtocolError):
            raise answer
        return answer

    def close(self, *, over: bool) -> None:
        """End the process, whatever it does; the session stays on disk unless it is ``over``."""
        self._process.kill()
        self._process.join()
        with self._lock:  # whoever waits for an answer finds the process ended
            self._pipe.close()
        if over:
            Folder(self._folder).remove()


def _answer(pipe: Connection, place: Place) -> None:
    """The process: answer questions until there are no more, or no server to ask them."""
    Thread(target=_end_with_parent, daemon=True).start()
    log = logged_to(place.folder)
    import jax  # noqa: F401  # while nobody waits

    def meet(name: str) -> SpuEngine:
        identity = None if place.identity is None else place.identity / LINKS
        link = connect(place.rank, place.links, name, place.timeout, identity)
        return SpuEngine(place.rank, link, log)

    keys, noise = Source.system().key, ServersNoise(place.rank, place.limits)
    server = Server(place.rank, meet, keys, noise, Kept(place.folder, keys))
    while True:
        try:
            step, chunks = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(server.ask(step, chunks))
        except LinkError as error:
            pipe.send(error)
        except MarginalSDGError as error:
            pipe.send(ProtocolError(str(error)))
        except OSError as error:
            pipe.send(ProtocolError(f"session: cannot be kept ({error.strerror})"))


def _end_with_parent() -> None:
    """A killed server leaves nothing behind that holds its port."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
