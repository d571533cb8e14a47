"""A server's session in a process of its own, which ends with it.

SPU's links cannot be broken off: they wait out their time, and may take the process with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

from marginal_sdg.crypto.spu.engine import SpuEngine, connect, logged_to
from marginal_sdg.crypto.spu.server import Server
from marginal_sdg.errors import MarginalSDGError, ProtocolError
from marginal_sdg.privacy.noise import Source

_GLANCE = 0.5  # seconds


@dataclass(frozen=True)
class Place:
    """What a server knows before any session.

    ``links``: "host:port" of all three for each other. ``folder``: for SPU's log. ``identity``: a folder, where links
    are encrypted and authenticated. ``timeout``: seconds to wait for the other servers.
    """

    rank: int
    links: Sequence[str]
    folder: Path
    identity: Path | None
    timeout: float


class Session:
    """A :class:`Server` on SPU, behind a pipe. ``gone``: whether nobody waits for its answers any more."""

    def __init__(self, place: Place, gone: Callable[[], bool]) -> None:
        self._gone = gone
        spawn = get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_answer, args=(theirs, place), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """The server's answer; ``ProtocolError`` where it has none."""
        try:
            self._pipe.send((step, list(chunks)))
            while not self._pipe.poll(_GLANCE):
                if self._gone():
                    raise ProtocolError("coordinator: has gone; start the session again")
            answer: list[bytes] | str = self._pipe.recv()
        except (EOFError, OSError):
            raise ProtocolError("SPU: has ended its process; its log says more, start the session again") from None
        if isinstance(answer, str):
            raise ProtocolError(answer)
        return answer

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _answer(pipe: Connection, place: Place) -> None:
    """The process: answer questions until there are no more, or no server to ask them."""
    Thread(target=_end_with_parent, daemon=True).start()
    log = logged_to(place.folder)

    def meet(session: str) -> SpuEngine:
        link = connect(place.rank, place.links, session, place.timeout, place.identity)
        return SpuEngine(place.rank, link, log)

    server = Server(place.rank, meet, Source.system().key)
    while True:
        try:
            step, chunks = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(server.ask(step, chunks))
        except MarginalSDGError as error:
            pipe.send(str(error))


def _end_with_parent() -> None:
    """A killed server leaves nothing behind that holds its port."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
