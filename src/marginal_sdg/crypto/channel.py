"""Questions and answers between two processes over one stream: the transport of roles that know nothing of it.

A message is a sequence of byte strings. Each travels with a tag in front, and a last tag closes the message, so that a
long one can be worked on while it comes. Nothing is unpickled. Who may connect to whom is the stream's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType

from marginal_sdg.crypto.identity import Identity
from marginal_sdg.crypto.stream import LARGEST, ClosedError, Stream
from marginal_sdg.errors import MarginalSDGError, ProtocolError

_STORED, _GREETING, _END, _ERROR, _BACK, _BYE = range(250, 256)  # tags of the transport; questions have lower ones
_GREETING_SECONDS = 10.0


class LostError(ProtocolError):
    """A connection broke, or nothing comes over it, and nobody said why: the peer may come back. ``channel``: which."""

    def __init__(self, channel: Channel, what: str) -> None:
        super().__init__(what)
        self.channel = channel


class Channel:
    """One end of a connection to ``peer``, which is its name in errors; ``timeout``: seconds to wait for a message.

    ``partner`` answers where the peer asks back before it answers. As a context, ends the session when left; an error
    closes the connection, which ends the peer's session with an error as well.
    """

    def __init__(self, stream: Stream, peer: str, timeout: float) -> None:
        self.partner: Callable[[bytes], bytes] | None = None
        self._stream = stream
        self.peer = peer
        self._timeout = timeout

    @classmethod
    def connect(cls, where: str, role: str, timeout: float, identity: Identity | None = None) -> Channel:
        """A connection to the service of that role; ``ProtocolError`` where there is none, or another's."""
        channel = cls(Stream.connect(where, role, identity), role, timeout)
        try:
            channel._stream.outgoing.put(bytes([_GREETING]) + role.encode())
            tag, payload = channel._tagged(channel._stream.incoming.take(timeout))
            if tag != _GREETING:
                raise ProtocolError(f"{role}: {payload.decode(errors='replace')}")
        except ClosedError as error:
            channel.close()
            reason = str(error).rpartition("last error: ")[2] or "it has hung up"
            advice = "start it first" if "refused" in reason else "look at the identities of both ends"
            raise LostError(channel, f"{role}: no connection to {where} ({reason}); {advice}") from None
        except TimeoutError:
            channel.close()
            what = f"{where} said nothing for {timeout:g} s; is it there, and have both ends an identity, or none?"
            raise LostError(channel, f"{role}: {what}") from None
        except BaseException:
            channel.close()
            raise
        return channel

    def ask(
        self, step: int, chunks: Iterable[bytes], stored: Callable[[int], None] = lambda count: None
    ) -> list[bytes]:
        """The peer's answer; its errors are raised here. ``chunks`` are sent as they are made.

        ``stored`` is told how many of them a peer that keeps its session has on disk.
        """
        return list(self.stream(step, chunks, stored))

    def stream(
        self, step: int, chunks: Iterable[bytes], stored: Callable[[int], None] = lambda count: None
    ) -> Iterator[bytes]:
        """The same, chunk by chunk as they come."""
        try:
            for chunk in chunks:
                while self.interrupted:
                    tag, payload = self._take()
                    if tag != _STORED:  # an error: nobody waits for the rest
                        raise self._told(payload if tag == _ERROR else b"answers before the question is over")
                    stored(int.from_bytes(payload, "little"))
                self._put(step, chunk)
            else:
                self._put(_END, bytes([step]))
        except ClosedError:
            pass  # the reason may have come before the connection broke
        return self._answer(step)

    def _answer(self, step: int) -> Iterator[bytes]:
        while True:
            tag, payload = self._take()
            if tag == _BACK:
                if self.partner is None:
                    raise ProtocolError(f"{self.peer}: asked back for what nobody here has")
                self._send(_BACK, self.partner(payload))
            elif tag == _ERROR:
                raise self._told(payload)
            elif tag == _END:
                return
            elif tag == _STORED:
                continue
            elif tag != step:
                raise ProtocolError(f"{self.peer}: answered step {step} by {tag}; both ends need the same version")
            else:
                yield payload

    # -- the answering end ---------------------------------------------------------------------------------------

    def greet(self, role: str) -> None:
        """Answer the greeting; ``ProtocolError`` where it looks for another role."""
        patience, self._timeout = self._timeout, min(_GREETING_SECONDS, self._timeout)
        tag, payload = self._take()
        self._timeout = patience
        if tag != _GREETING:
            raise ProtocolError(f"{self.peer}: does not begin with a greeting")
        if payload != role.encode():
            raise ProtocolError(f"this is the {role}, not the {payload.decode(errors='replace')}; check the addresses")
        self._send(_GREETING, b"")

    def serve(self, answer: Callable[[int, Iterator[bytes]], Iterable[bytes]]) -> None:
        """Answer questions until the peer says goodbye."""
        while True:
            tag, payload = self._take()
            if tag == _BYE:
                return
            step = payload[0] if tag == _END and payload else tag
            chunks = self._chunks(step, tag, payload)
            replies = answer(step, chunks)
            if next(chunks, None) is not None:
                raise ProtocolError(f"{self.peer}: sent more than step {step} takes")
            for reply in replies:
                self._send(step, reply)
            self._send(_END, bytes([step]))

    def ask_back(self, message: bytes) -> bytes:
        """What the peer's partner says, after a whole question and before its answer."""
        self._send(_BACK, message)
        tag, payload = self._take()
        if tag != _BACK:
            raise ProtocolError(f"{self.peer}: did not answer what it was asked back")
        return payload

    def stored(self, count: int) -> None:
        """Tell the peer that so many chunks of its question are on disk."""
        self._send(_STORED, count.to_bytes(8, "little"))

    def fail(self, error: MarginalSDGError) -> None:
        """Tell the peer why the session is over."""
        with suppress(ClosedError, ProtocolError):  # it has gone, or takes nothing: the connection ends here anyway
            self._put(_ERROR, str(error).encode())

    @property
    def certified(self) -> str:
        """The name in the peer's certificate, empty where there is none."""
        return self._stream.peer

    @property
    def interrupted(self) -> bool:
        """Whether something has come, or the peer has gone, while nothing was expected of it."""
        return bool(self._stream.incoming)

    def close(self) -> None:
        """Close the connection."""
        self._stream.hang_up()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._put(_BYE, b"")
                self._stream.outgoing.close()
                self._stream.incoming.take(_GREETING_SECONDS)  # until the service has heard it
        except (ClosedError, TimeoutError, LostError):  # a goodbye that nobody hears does no harm
            pass
        finally:
            self.close()

    # -- tagged messages -------------------------------------------------------------------------------------------

    def _chunks(self, step: int, tag: int, payload: bytes) -> Iterator[bytes]:
        """The byte strings of a question whose first has come."""
        while tag != _END:
            if tag != step or tag >= _STORED:
                raise ProtocolError(f"{self.peer}: sent a message of {tag} in a question of step {step}")
            yield payload
            tag, payload = self._take()

    def _send(self, tag: int, payload: bytes) -> None:
        try:
            self._put(tag, payload)
        except ClosedError:
            raise LostError(self, f"{self.peer}: has closed the connection; start the session again") from None

    def _put(self, tag: int, payload: bytes) -> None:
        if len(payload) >= LARGEST:
            raise ProtocolError(f"{self.peer}: {len(payload)} bytes are too many for one message, below {LARGEST}")
        try:
            self._stream.outgoing.put(bytes([tag]) + payload, self._timeout)
        except TimeoutError:
            raise LostError(self, f"{self.peer}: took nothing for {self._timeout:g} s; is it still there?") from None

    def _take(self) -> tuple[int, bytes]:
        try:
            return self._tagged(self._stream.incoming.take(self._timeout))
        except TimeoutError:
            raise self._silent() from None
        except ClosedError:
            raise LostError(self, f"{self.peer}: closed the connection before the session was over") from None

    def _tagged(self, message: bytes) -> tuple[int, bytes]:
        if not message:
            raise ProtocolError(f"{self.peer}: sent something else than messages of this protocol")
        return message[0], message[1:]

    def _told(self, payload: bytes) -> ProtocolError:
        return ProtocolError(f"{self.peer}: {payload.decode(errors='replace')}")

    def _silent(self) -> LostError:
        return LostError(self, f"{self.peer}: said nothing for {self._timeout:g} s; is it still there?")
