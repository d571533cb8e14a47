"""Streams of byte strings between two processes, by gRPC: flow control, encryption and mutual authentication are its.

With an :class:`Identity` at both ends, connections are encrypted, and each end knows the other by its certificate.
Without one, they are neither encrypted nor authenticated, so both ends must be on this machine.
"""

from __future__ import annotations

import ipaddress
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Condition, Thread
from typing import Any

from marginal_sdg.crypto.identity import Identity, certified
from marginal_sdg.errors import ConfigError

LARGEST = 2**28  # bytes of one message
_SERVICE, _METHOD = "marginal_sdg.Role", "Session"
_ROOM = 2  # messages that wait at an end
_THREADS = 8  # streams of a service that may wait for their turn
_HEALTH, _SERVING = "grpc.health.v1.Health", b"\x08\x01"  # the standard health check, and its encoded "serving"
_OPTIONS = (
    ("grpc.max_send_message_length", LARGEST),
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.enable_http_proxy", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),  # who looks again does not wait as long as an earlier connection would
)


class ClosedError(Exception):
    """The other end has gone; the message is why, or empty."""


class Buffer:
    """At most so many messages on their way between two threads. Once it is closed, takers get what is left."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._changed = Condition()
        self._closed: str | None = None

    def put(self, message: bytes, timeout: float | None = None) -> None:
        """Wait for room; ``TimeoutError``, or ``ClosedError`` where nobody takes any more."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed is not None or len(self._messages) < _ROOM, timeout):
                raise TimeoutError
            if self._closed is not None:
                raise ClosedError(self._closed)
            self._messages.append(message)
            self._changed.notify_all()

    def take(self, timeout: float | None = None) -> bytes:
        """The next message; ``TimeoutError``, or ``ClosedError`` after the last."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._messages or self._closed is not None, timeout):
                raise TimeoutError
            if not self._messages:
                raise ClosedError(self._closed or "")
            self._changed.notify_all()
            return self._messages.popleft()

    def close(self, why: str = "") -> None:
        """No message comes any more; the first reason is kept."""
        with self._changed:
            if self._closed is None:
                self._closed = why
            self._changed.notify_all()

    def __bool__(self) -> bool:
        return bool(self._messages) or self._closed is not None

    def __iter__(self) -> Iterator[bytes]:
        try:
            while True:
                yield self.take()
        except ClosedError:
            pass


class Stream:
    """One end. ``peer``: the name in the other end's certificate, where there are any."""

    def __init__(self, peer: str = "") -> None:
        self.peer = peer
        self.incoming, self.outgoing = Buffer(), Buffer()
        self._hang_up: Callable[[], None] = self.close

    @classmethod
    def connect(cls, where: str, role: str, identity: Identity | None = None) -> Stream:
        """To the service of that role. Whether anybody is there, or is let in, shows when something is taken."""
        grpc, place = _grpc(), address(where, authenticated=identity is not None)
        stream = cls(certified(role))
        if identity is None:
            channel = grpc.insecure_channel(place, _OPTIONS)
        else:
            trust = grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
            channel = grpc.secure_channel(place, trust, (*_OPTIONS, ("grpc.ssl_target_name_override", stream.peer)))
        call = channel.stream_stream(f"/{_SERVICE}/{_METHOD}")(iter(stream.outgoing))
        stream._hang_up = channel.close
        _thread(stream._pump, call)
        return stream

    def _pump(self, messages: Any) -> None:
        """Take messages off gRPC as long as there is room for them."""
        why = ""
        try:
            for message in messages:
                self.incoming.put(message)
        except ClosedError:
            pass
        except _grpc().RpcError as error:
            why = error.details() if hasattr(error, "details") else ""
        self.incoming.close(why)
        self.outgoing.close(why)

    def close(self) -> None:
        """Nothing more goes out or is let in; what has been put still leaves."""
        self.outgoing.close()
        self.incoming.close()

    def hang_up(self) -> None:
        """End the connection; what is on its way may be lost."""
        self.close()
        self._hang_up()


class Service:
    """Answers streams at an address, each by ``session`` in a thread, from construction until it is closed.

    ``port`` is the one that was free where the address ends in ``:0``. Also answers gRPC's standard health check.
    """

    def __init__(self, where: str, session: Callable[[Stream], None], identity: Identity | None = None) -> None:
        grpc, place = _grpc(), address(where, authenticated=identity is not None)
        session_handler = grpc.stream_stream_rpc_method_handler(self._answer)
        health_handler = grpc.unary_unary_rpc_method_handler(lambda request, context: _SERVING)
        self._session = session
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS),
            [
                grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: session_handler}),
                grpc.method_handlers_generic_handler(_HEALTH, {"Check": health_handler}),
            ],
            options=_OPTIONS,
        )
        try:
            if identity is None:
                self.port = self._server.add_insecure_port(place)
            else:
                pair = [(identity.key, identity.certificate)]
                trust = grpc.ssl_server_credentials(pair, identity.authority, require_client_auth=True)
                self.port = self._server.add_secure_port(place, trust)
        except RuntimeError:
            raise ConfigError(f"address: {where} cannot be listened at; is it in use already?") from None
        self._server.start()

    def _answer(self, requests: Any, context: Any) -> Iterator[bytes]:
        names = context.auth_context().get("x509_common_name", [b""])
        stream = Stream(names[0].decode())
        context.add_callback(stream.close)
        _thread(stream._pump, requests)
        _thread(self._run, stream)
        yield from stream.outgoing

    def _run(self, stream: Stream) -> None:
        try:
            self._session(stream)
        finally:
            stream.close()

    def wait(self) -> None:
        """Until it is closed."""
        self._server.wait_for_termination()

    def close(self) -> None:
        """End all streams."""
        self._server.stop(None).wait()


def address(text: str, *, authenticated: bool) -> str:
    """ "host:port", checked; of this machine, unless both ends are ``authenticated``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"address: needs host:port, such as 127.0.0.1:7101, got {text!r}")
    if not authenticated and not _is_local(host):
        raise ConfigError(
            f"address: {text!r} is not on this machine, and without an identity connections are neither encrypted nor "
            "authenticated; give all roles an identity (see `certificates`)"
        )
    return text


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _thread(target: Callable[..., None], *arguments: Any) -> None:
    Thread(target=target, args=arguments, daemon=True).start()


def _grpc() -> Any:
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # a peer that goes is no news: it ends in an error of ours
    try:
        import grpc
    except ImportError:
        raise ConfigError("roles: processes of their own need gRPC; pip install 'marginal-sdg[services]'") from None
    return grpc
