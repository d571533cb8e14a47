"""A role that answers whoever may ask it, one session after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from threading import Lock

from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.identity import Identity, certified
from marginal_sdg.crypto.stream import Service, Stream
from marginal_sdg.errors import MarginalSDGError, ProtocolError


def serve(
    role: str,
    askers: str | Sequence[str],
    play: Callable[[Channel], None],
    where: str,
    timeout: float,
    tell: Callable[[str], None],
    identity: Identity | None = None,
    *,
    together: bool = False,
) -> Service:
    """Play one session with each asker in turn, until the service is closed. ``tell`` gets a line for every session.

    With an identity, only those are let in that are certified as one of ``askers``, or as one of several of these.
    ``together``: all at once instead.
    """
    turn = nullcontext() if together else Lock()
    names = [askers] if isinstance(askers, str) else askers

    def session(stream: Stream) -> None:
        with turn:
            channel = Channel(stream, names[0], timeout)
            try:
                if identity is not None and not stream.peer.startswith(tuple(map(certified, names))):
                    known = " or ".join(names)
                    raise ProtocolError(f"{stream.peer}: its certificate is none of a {known}, and only these may ask")
                channel.greet(role)
                play(channel)
                tell("session done")
            except MarginalSDGError as error:
                with suppress(OSError):  # there may be no room for a log
                    tell(f"session ended: {error}")
                channel.fail(error)

    return Service(where, session, identity)
