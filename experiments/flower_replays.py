"""What SuperNodes have sent, recorded and sent again: by a node itself, by others, and as it was on the wire.

Programs that are started in place of ``flower-supernode``, and a relay; for ``flower_faults.py``.
"""

from __future__ import annotations

import socket
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from httpx import HTTPStatusError
from services import Relay

_TWICE = """
from flwr.supernode.fleet_http_client import FleetHttpClient

push = FleetHttpClient.PushMessages

def twice(self, request):
    answers = push(self, request), push(self, request)
    return answers[0]

FleetHttpClient.PushMessages = twice
"""
_AGAIN = """
from pathlib import Path

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supernode.fleet_http_client import FleetHttpClient

push, record = FleetHttpClient.PushMessages, Path({record!r})

def again(self, request):
    if record.exists():
        push(self, PushMessagesRequest.FromString(record.read_bytes()))
    record.write_bytes(request.SerializeToString())
    return push(self, request)

FleetHttpClient.PushMessages = again
"""
_EARLIER = """
from pathlib import Path

from marginal_sdg.flower.kept import from_line, to_line
from marginal_sdg.flower.node import Node

answer, record = Node.answer, Path({record!r})

def earlier(self, question):
    found = answer(self, question)
    if question["kind"] == "keys":
        record.write_text(to_line(found))
    return from_line(record.read_text()) if question["kind"] == "shares" else found

Node.answer = earlier
"""


def twice(home: Path) -> Path:
    """A SuperNode that sends every answer twice, the second time before the SuperLink has all of the first."""
    return _program(home, _TWICE)


def again(home: Path) -> Path:
    """A SuperNode that sends its last answer again before every new one, and keeps it in a file ``record``."""
    return _program(home, _AGAIN)


def earlier(home: Path) -> Path:
    """A SuperNode whose client says to shares what it has said to keys."""
    return _program(home, _EARLIER)


def _program(home: Path, change: str) -> Path:
    """``change`` is made in every Python process of the node."""
    home.mkdir()
    (home / "sitecustomize.py").write_text(change.format(record=str(home / "record")))
    program = home / "supernode"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"os.environ['PYTHONPATH'] = os.pathsep.join([{str(home)!r}, os.environ.get('PYTHONPATH', '')])\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'from flwr.supernode.cli import flower_supernode; "
        "flower_supernode()', *sys.argv[1:]])\n"
    )
    program.chmod(0o700)
    return program


def pushed(record: Path, address: str, authority: Path, key: Path | None) -> str:
    """What the SuperLink makes of a recorded answer that comes from the owner of ``key``, or from nobody."""
    signers: list[NodeAuthHttpInterceptor] = []
    if key is not None:
        private = load_ssh_private_key(key.read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        signers.append(NodeAuthHttpInterceptor(private, private.public_key()))
    version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
    with FleetHttpClient.from_server_address(address, False, str(authority), [version, *signers]) as client:
        try:
            found = client.PushMessages(PushMessagesRequest.FromString(record.read_bytes()))
        except HTTPStatusError as error:
            return f"refused ({error.response.status_code})"
    return f"taken, {len(found.objects_to_push)} objects wanted"


class Recorder(Relay):
    """Keeps what every connection has sent, too."""

    def __post_init__(self) -> None:
        self._sent: dict[socket.socket, bytearray] = defaultdict(bytearray)
        super().__post_init__()

    def _heard(self, client: socket.socket, data: bytes) -> None:
        self._sent[client] += data
        super()._heard(client, data)

    def again(self) -> int:
        """Send the bytes of all connections again, each until the other end hangs up: how many connections."""
        kept = [bytes(sent) for sent in self._sent.values()]
        for sent in kept:
            with socket.create_connection(("127.0.0.1", self.target), 10) as connection, suppress(OSError):
                connection.sendall(sent)
                while connection.recv(1 << 16):
                    pass
        return len(kept)
