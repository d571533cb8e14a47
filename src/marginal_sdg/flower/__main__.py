"""``python -m marginal_sdg.flower``: write a Flower app, or run all of it on this machine.

Exit code 0: done, 1: the run failed, 2: bad input.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.flower import QUIET
from marginal_sdg.flower.project import write_project
from marginal_sdg.processes import free_ports, run, say

_LINK = "demo"
_BIN = Path(sys.executable).parent


def _write(options: argparse.Namespace) -> None:
    write_project(options.folder, _config(options, options.folder.resolve()))
    say("demo", f"a Flower app is in {options.folder}; `flwr run {options.folder}` starts it")


def _demonstrate(options: argparse.Namespace) -> None:
    """Ten clients in folders of their own, a SuperLink, SuperNodes for all of them or a simulation, and one run."""
    if find_spec("flwr") is None:
        raise ConfigError("flwr: is not installed; pip install 'marginal-sdg[flower]', with Python 3.11 or newer")
    start = time.perf_counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing outlives this
    options.out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        options.domain, homes = _clients(home / "clients", options.clients)
        write_project(home / "app", _config(options, home / "clients"))
        link, environment = f"127.0.0.1:{free_ports(1)[0]}", {**os.environ, **QUIET, "FLWR_HOME": folder}
        environment["PATH"] = f"{_BIN}{os.pathsep}{environment['PATH']}"
        (home / "config.toml").write_text(f'[superlink.{_LINK}]\naddress = "{link}"\ninsecure = true\n')
        arguments = ["--insecure", "--port", link.partition(":")[2], "--disable-runtime-dependency-installation"]
        simulated = [] if options.deployment else ["--simulation"]
        stack.enter_context(_process("flower-superlink", [*arguments, *simulated], environment, home / "superlink.log"))
        _await(link, options.timeout)
        say("demo", f"SuperLink at {link}")
        for k, own in enumerate(homes if options.deployment else ()):
            files = f'table="{own / "table.csv"}" domain="{own / "domain.yaml"}"'
            node = ["--insecure", "--superlink", link, "--port", str(free_ports(1)[0]), "--node-config", files]
            stack.enter_context(_process("flower-supernode", node, environment, home / f"supernode-{k}.log"))
        say("demo", f"{len(homes)} clients, " + ("each a SuperNode of its own" if options.deployment else "simulated"))
        command = [str(_BIN / "flwr"), "run", str(home / "app"), _LINK, "--stream"]
        if not options.deployment:
            command += ["--federation-config", f"num-supernodes={len(homes)}"]
        subprocess.run(command, env=environment)
    if not options.out.exists():
        raise ProtocolError("the run wrote no table; its log is above")
    say("demo", f"everything: {time.perf_counter() - start:.0f} s")


def _clients(folder: Path, count: int) -> tuple[Path, list[Path]]:
    """Deal Adult out to folders that a client each would have: (the server's domain file, folders)."""
    from marginal_sdg.datasets import load_dataset

    adult = load_dataset("adult")
    homes = [folder / str(k) for k in range(count)]
    for k, home in enumerate(homes):
        home.mkdir(parents=True)
        adult.frame.iloc[k::count].to_csv(home / "table.csv", index=False)
        adult.domain.save(home / "domain.yaml")
    adult.domain.save(folder / "domain.yaml")
    return folder / "domain.yaml", homes


def _config(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    return {
        "epsilon": options.epsilon,
        "delta": options.delta,
        "rounds": options.rounds,
        "participation": options.participation,
        "variant": options.variant,
        "workload": options.workload,
        "records_per_person": 1,
        "max_model_mb": 80.0,
        "domain": str(options.domain.resolve()),
        "clients": options.clients,
        "folder": str(folder),
        "least": options.least,
        "timeout": options.timeout,
        "out": str(options.out.resolve()),
    }


@contextmanager
def _process(name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """A process, and what it starts, in a group of their own, which ends with the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(_BIN / name), *arguments], env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield
    finally:
        for ending in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, ending)
                process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _await(address: str, timeout: float) -> None:
    host, _, port = address.partition(":")
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise ProtocolError(f"SuperLink: does not listen on {address} after {timeout:g} s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m marginal_sdg.flower", description="FLAIM on Flower.")
    commands = parser.add_subparsers(dest="command", required=True)
    app = commands.add_parser("app", help="write a Flower app, for `flwr run`")
    app.add_argument("folder", type=Path)
    app.add_argument("--domain", type=Path, required=True, help="the declared columns, as YAML or JSON")
    app.set_defaults(run=_write)
    demo = commands.add_parser("demo", help="run FLAIM on Adult, with everything on this machine")
    demo.add_argument("--deployment", action="store_true", help="a SuperNode for every client, not a simulation")
    demo.set_defaults(run=_demonstrate)
    for command in (app, demo):
        command.add_argument("--clients", type=int, default=10)
        command.add_argument("--least", type=int, default=3, help="so many clients must stand behind every sum")
        command.add_argument("--epsilon", type=float, default=1.0)
        command.add_argument("--delta", type=float, default=1e-5)
        command.add_argument("--rounds", type=int, default=5)
        command.add_argument("--participation", type=float, default=0.6)
        command.add_argument("--variant", default="census")
        command.add_argument("--workload", type=int, default=64, help="random 3-way marginals")
        command.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for clients")
        command.add_argument("--out", type=Path, default=Path("synthetic.csv"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    run(_parser(), arguments)


if __name__ == "__main__":
    main()
