"""Questions and answers between two processes over one connection: the transport of roles that know nothing of it.

A message is a sequence of byte strings. Every one travels in a frame of tag, length and payload, and a last frame
closes the message, so that a long one can be worked on while it comes. Nothing is unpickled. Connections are neither
encrypted nor authenticated, so both ends must be on this machine: :func:`address` refuses others.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from marginal_sdg.errors import ConfigError, MarginalSDGError, ProtocolError

_HEAD = struct.Struct("<4sBxxxQ")  # magic, tag, length of the payload
_MAGIC = b"mSDG"
_GREETING, _END, _ERROR, _BACK, _BYE = 251, 252, 253, 254, 255  # tags of the transport; questions have lower ones
_LARGEST = 2**28  # bytes of one payload
_GREETING_SECONDS = 10.0


def address(text: str) -> tuple[str, int]:
    """Host and port of "host:port", on this machine; ``ConfigError`` otherwise."""
    host, _, port = text.rpartition(":")
    try:
        local = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        local = False
    if not local or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"address: needs host:port on this machine, such as 127.0.0.1:7101, got {text!r}; connections are not "
            "authenticated, so reach other machines through a tunnel that is"
        )
    return host.strip("[]"), int(port)


class Channel:
    """One end of a connection to ``peer``, which is its name in errors; ``timeout``: seconds to wait for a frame.

    ``partner`` answers where the peer asks back before it answers. As a context, ends the session when left; an error
    closes the connection, which ends the peer's session with an error as well.
    """

    def __init__(self, connection: socket.socket, peer: str, timeout: float) -> None:
        self.partner: Callable[[bytes], bytes] | None = None
        self._connection = connection
        self._peer = peer
        self._timeout = timeout
        connection.settimeout(timeout)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or small last frames wait

    @classmethod
    def connect(cls, where: str, role: str, timeout: float) -> Channel:
        """A connection to the service of that role; ``ProtocolError`` where there is none, or another's."""
        place = address(where)
        try:
            connection = socket.create_connection(place, timeout)
        except OSError as error:
            raise ProtocolError(
                f"{role}: no connection to {where} ({error.strerror or error}); start it first"
            ) from None
        channel = cls(connection, role, timeout)
        try:
            channel.ask(_GREETING, [role.encode()])
        except BaseException:
            connection.close()
            raise
        return channel

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """The peer's answer; its errors are raised here. ``chunks`` are sent as they are made."""
        try:
            for chunk in chunks:
                if self._told():  # an error: nobody waits for the rest
                    break
                self._put(step, chunk)
            else:
                self._put(_END, bytes([step]))
        except ConnectionError:
            pass  # the reason may have come before the connection broke
        return list(self._answer(step))

    def _answer(self, step: int) -> Iterator[bytes]:
        while True:
            tag, payload = self._take()
            if tag == _BACK:
                if self.partner is None:
                    raise ProtocolError(f"{self._peer}: asked back for what nobody here has")
                self._send(_BACK, self.partner(payload))
            elif tag == _ERROR:
                raise ProtocolError(f"{self._peer}: {payload.decode(errors='replace')}")
            elif tag == _END:
                return
            elif tag != step:
                raise ProtocolError(f"{self._peer}: answered step {step} by {tag}; both ends need the same version")
            else:
                yield payload

    # -- the answering end ---------------------------------------------------------------------------------------

    def greet(self, role: str) -> None:
        """Answer the greeting; ``ProtocolError`` where it looks for another role."""
        self._connection.settimeout(min(_GREETING_SECONDS, self._timeout))
        tag, payload = self._take()
        if tag != _GREETING or self._take() != (_END, bytes([_GREETING])):
            raise ProtocolError(f"{self._peer}: does not begin with a greeting")
        if payload != role.encode():
            raise ProtocolError(f"this is the {role}, not the {payload.decode(errors='replace')}; check the addresses")
        self._send(_END, bytes([_GREETING]))
        self._connection.settimeout(self._timeout)

    def serve(self, answer: Callable[[int, Iterator[bytes]], list[bytes]]) -> None:
        """Answer questions until the peer says goodbye."""
        while True:
            tag, payload = self._take()
            if tag == _BYE:
                return
            step = payload[0] if tag == _END and payload else tag
            chunks = self._chunks(step, tag, payload)
            replies = answer(step, chunks)
            if next(chunks, None) is not None:
                raise ProtocolError(f"{self._peer}: sent more than step {step} takes")
            for reply in replies:
                self._send(step, reply)
            self._send(_END, bytes([step]))

    def ask_back(self, message: bytes) -> bytes:
        """What the peer's partner says, after a whole question and before its answer."""
        self._send(_BACK, message)
        tag, payload = self._take()
        if tag != _BACK:
            raise ProtocolError(f"{self._peer}: did not answer what it was asked back")
        return payload

    def fail(self, error: MarginalSDGError) -> None:
        """Tell the peer why the session is over; wait until it has closed its end, so that it can read it."""
        try:
            self._put(_ERROR, str(error).encode())
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(min(_GREETING_SECONDS, self._timeout))
            while self._connection.recv(1 << 16):
                pass
        except OSError:
            pass  # it has gone, or does not close: the connection ends here anyway

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._send(_BYE, b"")
        finally:
            self.close()

    # -- frames ----------------------------------------------------------------------------------------------------

    def _chunks(self, step: int, tag: int, payload: bytes) -> Iterator[bytes]:
        """The byte strings of a question whose first frame has come."""
        while tag != _END:
            if tag != step or tag >= _GREETING:
                raise ProtocolError(f"{self._peer}: sent a frame of {tag} in a question of step {step}")
            yield payload
            tag, payload = self._take()

    def _send(self, tag: int, payload: bytes) -> None:
        try:
            self._put(tag, payload)
        except ConnectionError:
            raise ProtocolError(f"{self._peer}: has closed the connection; start the session again") from None

    def _put(self, tag: int, payload: bytes) -> None:
        if len(payload) > _LARGEST:
            raise ProtocolError(f"{self._peer}: {len(payload)} bytes are too many for one frame, at most {_LARGEST}")
        try:
            self._connection.sendall(_HEAD.pack(_MAGIC, tag, len(payload)) + payload)
        except TimeoutError:
            raise ProtocolError(f"{self._peer}: took nothing for {self._timeout:g} s; is it still there?") from None

    def _take(self) -> tuple[int, bytes]:
        magic, tag, size = _HEAD.unpack(self._read(_HEAD.size))
        if magic != _MAGIC or size > _LARGEST:
            raise ProtocolError(f"{self._peer}: sent something else than frames of this protocol")
        return tag, self._read(size)

    def _read(self, size: int) -> bytes:
        whole = bytearray(size)
        view = memoryview(whole)
        while view:
            try:
                count = self._connection.recv_into(view)
            except TimeoutError:
                raise ProtocolError(f"{self._peer}: said nothing for {self._timeout:g} s; is it still there?") from None
            except ConnectionError:
                count = 0
            if count == 0:
                raise ProtocolError(f"{self._peer}: closed the connection before the session was over")
            view = view[count:]
        return bytes(whole)

    def _told(self) -> bool:
        """Whether something has come."""
        return bool(select.select([self._connection], [], [], 0)[0])
