"""Flower's processes on this machine: a SuperLink, SuperNodes, runs; encrypted connections, authenticated nodes.

Certificates and keys come from an authority that is made for the deployment (``crypto/identity.py``). The SuperLink's
certificate is checked by every node and by ``flwr``; a node is let in by a key that was registered before it started.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives import serialization

from marginal_sdg.crypto.identity import AUTHORITY, CERTIFICATE, KEY, issue
from marginal_sdg.errors import ProtocolError
from marginal_sdg.flower import QUIET
from marginal_sdg.processes import free_ports

_LINK, _HOST = "here", "localhost"
_BIN = Path(sys.executable).parent


class Deployment:
    """Processes with logs and identities in ``home``; all are gone at the end of the block."""

    def __init__(self, home: Path, timeout: float) -> None:
        self._home, self._timeout = home, timeout
        self._processes: list[subprocess.Popen[bytes]] = []
        self._identities = home / "identities"
        self.address = f"{_HOST}:{free_ports(1)[0]}"
        self._environment = {**os.environ, **QUIET, "FLWR_HOME": str(home)}
        self._environment["PATH"] = f"{_BIN}{os.pathsep}{self._environment['PATH']}"

    def __enter__(self) -> Deployment:
        issue(self._identities, [_HOST])
        own = f'address = "{self.address}"\nroot-certificates = "{self._identities / AUTHORITY}"\n'
        (self._home / "config.toml").write_text(f"[superlink.{_LINK}]\n{own}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            end(process)

    def link(self, *, nodes: bool = True) -> subprocess.Popen[bytes]:
        """Start the SuperLink, for ``nodes`` of their own or for a simulation."""
        own = self._identities / _HOST
        files = ["--ssl-certfile", own / CERTIFICATE, "--ssl-keyfile", own / KEY, "--ssl-ca-certfile", own / AUTHORITY]
        known = ["--enable-supernode-auth", "--database", str(self._home / "superlink.db")]
        kind = known if nodes else ["--simulation"]
        arguments = [*map(str, files), *kind, "--host", _HOST, "--port", self.address.partition(":")[2]]
        process = self._start(
            "flower-superlink", [*arguments, "--disable-runtime-dependency-installation"], "superlink"
        )
        self._await()
        return process

    def node(
        self,
        folder: Path,
        *,
        terms: str = "",
        register: bool = True,
        trusts: Path | None = None,
        address: str = "",
        program: Path = Path("flower-supernode"),
    ) -> subprocess.Popen[bytes]:
        """Start a SuperNode for the client in ``folder``.

        ``terms``: more of its config; ``trusts``: an authority's certificate, if not the deployment's; ``address``:
        where it finds the SuperLink; ``program``: what is started. Without ``register`` nobody knows its key.
        """
        name = f"node-{folder.name}"
        key = self.key(folder.name)
        if not key.exists():
            issue(self._identities, [name])
            _for_ssh(self._identities / name / KEY, key)
            if register:
                self._flwr("supernode", "register", str(key.with_suffix(".pub")), _LINK)
        config = f'table="{folder / "table.csv"}" domain="{folder / "domain.yaml"}" {terms}'
        arguments = [
            "--superlink",
            address or self.address,
            "--root-certificates",
            str(trusts or self.authority),
        ]
        arguments += ["--auth-supernode-private-key", str(key), "--port", str(free_ports(1)[0])]
        return self._start(program, [*arguments, "--node-config", config.strip()], name)

    @property
    def authority(self) -> Path:
        """The certificate that the SuperLink's is checked by."""
        return self._identities / AUTHORITY

    def key(self, node: str) -> Path:
        """A node's private key, once it has been started; its public one is beside it."""
        return self._identities / f"node-{node}" / "ssh"

    def run(self, app: Path, *, simulated: int = 0, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start ``flwr run``; what the server says comes here, or into ``log``."""
        words = ["--federation-config", f"num-supernodes={simulated}"] if simulated else []
        command = [str(_BIN / "flwr"), "run", str(app), _LINK, "--stream", *words]
        return self._begin(command, log)

    def _flwr(self, *words: str) -> None:
        done = subprocess.run([_BIN / "flwr", *words], env=self._environment, capture_output=True, text=True)
        if done.returncode:
            raise ProtocolError(f"flwr {' '.join(words[:2])}: {(done.stderr or done.stdout).strip()}")

    def _start(self, name: Path | str, arguments: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        return self._begin([str(_BIN / name), *arguments], self._home / f"{log}.log")

    def _begin(self, command: Sequence[str], log: Path | None) -> subprocess.Popen[bytes]:
        with nullcontext() if log is None else log.open("ab") as file:
            process = subprocess.Popen(command, env=self._environment, stdout=file, stderr=file, start_new_session=True)
        self._processes.append(process)
        return process

    def _await(self) -> None:
        host, _, port = self.address.partition(":")
        limit = time.monotonic() + self._timeout
        while time.monotonic() < limit:
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise ProtocolError(f"SuperLink: does not listen on {self.address} after {self._timeout:g} s")


def end(process: subprocess.Popen[bytes], signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL)) -> None:
    """End a process of :class:`Deployment` and what it has started."""
    for sent in signals:
        try:
            os.killpg(process.pid, sent)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _for_ssh(key: Path, out: Path) -> None:
    """The same key as Flower wants it, and its public half beside it."""
    own = serialization.load_pem_private_key(key.read_bytes(), None)
    plain, form = serialization.NoEncryption(), serialization.PrivateFormat.OpenSSH
    out.touch(mode=0o600)
    out.write_bytes(own.private_bytes(serialization.Encoding.PEM, form, plain))
    public = own.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    out.with_suffix(".pub").write_bytes(public)
