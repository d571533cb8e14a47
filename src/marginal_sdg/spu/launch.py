"""Servers and clients on this machine, each a process with a folder and an identity of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from marginal_sdg.crypto.identity import certified, issue
from marginal_sdg.crypto.rss import SERVERS
from marginal_sdg.crypto.spu.questions import COORDINATOR, client_role, role
from marginal_sdg.domain import Domain
from marginal_sdg.errors import ProtocolError
from marginal_sdg.processes import free_ports
from marginal_sdg.spu.session import LINKS

if TYPE_CHECKING:
    import pandas as pd

LEDGER, TABLE, DOMAIN = "ledger.json", "table.csv", "domain.yaml"


@dataclass(frozen=True)
class Launched:
    """A process that runs. ``address``: where it listens; what it says about sessions is in ``sessions.log``."""

    process: subprocess.Popen[str]
    folder: Path
    address: str


def issue_servers(home: Path) -> list[Path]:
    """Their folders in ``home``, each with an identity, and in ``LINKS`` one for SPU's link between them.

    The link asks for a certificate, not for whose it is: these are of an authority of the three alone, which is gone.
    """
    names = [certified(role(rank)) for rank in range(SERVERS)]
    issue(home, names)
    with TemporaryDirectory() as once:
        issue(Path(once), names)
        for name in names:
            shutil.copytree(Path(once) / name, home / name / LINKS, dirs_exist_ok=True)
    return [home / name for name in names]


@contextmanager
def launch(home: Path, python: str = sys.executable, options: Sequence[str] = ()) -> Iterator[list[Launched]]:
    """Servers 0, 1 and 2 in folders of ``home``, until the block ends; ``home / COORDINATOR`` is who may ask them.

    ``python``: of an environment that has this package and SPU; ``options``: of the command ``server``, further ones.
    """
    folders = issue_servers(home)
    issue(home, [COORDINATOR])
    links = ",".join(f"127.0.0.1:{port}" for port in free_ports(SERVERS))
    commands = [
        [python, *_MODULE, "server", "--rank", str(rank), "--links", links, *options] for rank in range(SERVERS)
    ]
    with _running(folders, commands) as servers:
        yield servers


@contextmanager
def launch_clients(
    home: Path, frames: Sequence[pd.DataFrame], domain: Domain, servers: Sequence[str], options: Sequence[str] = ()
) -> Iterator[list[Launched]]:
    """A client for each table, which it finds in a folder of its own in ``home``; the first is number 0."""
    folders = [home / certified(client_role(number)) for number in range(len(frames))]
    issue(home, [folder.name for folder in folders])
    commands = []
    for number, (frame, folder) in enumerate(zip(frames, folders, strict=True)):
        frame.to_csv(folder / TABLE, index=False)
        domain.save(folder / DOMAIN)
        command = [sys.executable, *_MODULE, "client", "--number", str(number), "--csv", str(folder / TABLE)]
        commands.append([*command, "--domain", str(folder / DOMAIN), "--servers", ",".join(servers), *options])
    with _running(folders, commands) as clients:
        yield clients


_MODULE = ("-m", "marginal_sdg.spu")


@contextmanager
def _running(folders: Sequence[Path], commands: Sequence[Sequence[str]]) -> Iterator[list[Launched]]:
    """All at once, each on a free port."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(_process([*command, "--listen", "127.0.0.1:0"], folder))
            for folder, command in zip(folders, commands, strict=True)
        ]
        yield [
            Launched(process, folder, _greeting(process, folder))
            for process, folder in zip(started, folders, strict=True)
        ]


@contextmanager
def _process(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    own = ["--folder", str(folder), "--identity", str(folder)]
    with (folder / "sessions.log").open("w") as log:
        process = subprocess.Popen([*command, *own], stdout=subprocess.PIPE, stderr=log, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def _greeting(process: subprocess.Popen[str], folder: Path) -> str:
    """Where it listens: the last word of the line that it begins with."""
    assert process.stdout is not None
    if line := process.stdout.readline():
        return line.split()[-1]
    reasons = (folder / "sessions.log").read_text(encoding="utf-8").splitlines()
    raise ProtocolError(f"{folder.name}: did not start: {reasons[-1] if reasons else 'it said nothing'}")
