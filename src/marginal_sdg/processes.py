"""What the commands of a deployment share: ports, lines that say who speaks, and exit codes."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TextIO

from marginal_sdg.crypto.stream import Service
from marginal_sdg.errors import MarginalSDGError, ProtocolError


def say(name: str, text: str, stream: TextIO | None = None) -> None:
    """One line, at once; on standard output by default."""
    stream = stream or sys.stdout
    stream.write(f"{name}: {text}\n")
    stream.flush()


def told_by(name: str) -> Callable[[str], None]:
    """Says what it is told on standard error."""
    return lambda text: say(name, text, sys.stderr)


def wait(service: Service, name: str, where: str) -> None:
    """Say where a service listens, and keep it up until it is interrupted."""
    try:
        say(name, f"process {os.getpid()}, listening on {where.rpartition(':')[0]}:{service.port}")
        service.wait()
    finally:
        service.close()


def free_ports(count: int) -> list[int]:
    """Different ports of this machine that nobody listens at, for now."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> None:
    """Run ``options.run`` of the ``options.command`` that is asked for. Exit code 1: a party failed, 2: bad input."""
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (MarginalSDGError, OSError) as error:
        say(options.command, str(error), sys.stderr)
        raise SystemExit(1 if isinstance(error, ProtocolError) else 2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
