"""Three servers on this machine, each a process with a folder and an identity of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from marginal_sdg.crypto.identity import certified, issue
from marginal_sdg.crypto.rss import SERVERS
from marginal_sdg.crypto.spu.questions import COORDINATOR, role
from marginal_sdg.errors import ProtocolError
from marginal_sdg.processes import free_ports


@dataclass(frozen=True)
class Launched:
    """A server that runs. ``address``: where it listens; what it says about sessions is in ``sessions.log``."""

    process: subprocess.Popen[str]
    folder: Path
    address: str


@contextmanager
def launch(home: Path, python: str = sys.executable, link_timeout: float = 120.0) -> Iterator[list[Launched]]:
    """Servers 0, 1 and 2 in folders of ``home``, until the block ends; ``home / COORDINATOR`` is who may ask them.

    ``python``: of an environment that has this package and SPU.
    """
    names = [certified(role(rank)) for rank in range(SERVERS)]
    issue(home, [*names, COORDINATOR])
    folders = [home / name for name in names]
    links = ",".join(f"127.0.0.1:{port}" for port in free_ports(SERVERS))
    with ExitStack() as stack:
        started = [
            stack.enter_context(_process(python, rank, folder, links, link_timeout))
            for rank, folder in enumerate(folders)
        ]
        yield [
            Launched(process, folder, _greeting(process, folder))
            for process, folder in zip(started, folders, strict=True)
        ]


@contextmanager
def _process(python: str, rank: int, folder: Path, links: str, link_timeout: float) -> Iterator[subprocess.Popen[str]]:
    command = [python, "-m", "marginal_sdg.spu", "server", "--rank", str(rank), "--listen", "127.0.0.1:0"]
    command += ["--links", links, "--folder", str(folder), "--identity", str(folder)]
    command += ["--link-timeout", str(link_timeout)]
    with (folder / "sessions.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def _greeting(process: subprocess.Popen[str], folder: Path) -> str:
    """Where the server listens: the last word of the line that it begins with."""
    assert process.stdout is not None
    if line := process.stdout.readline():
        return line.split()[-1]
    reasons = (folder / "sessions.log").read_text(encoding="utf-8").splitlines()
    raise ProtocolError(f"{folder.name}: did not start: {reasons[-1] if reasons else 'it said nothing'}")
