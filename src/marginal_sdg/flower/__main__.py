"""``python -m marginal_sdg.flower``: write a Flower app, or run all of it on this machine.

Exit code 0: done, 1: the run failed, 2: bad input.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.flower.deployment import Deployment
from marginal_sdg.flower.project import write_project
from marginal_sdg.processes import run, say


def _write(options: argparse.Namespace) -> None:
    write_project(options.folder, _config(options, options.folder.resolve()))
    say("demo", f"a Flower app is in {options.folder}; `flwr run {options.folder}` starts it")


def _demonstrate(options: argparse.Namespace) -> None:
    """Ten clients in folders of their own, a SuperLink, SuperNodes for all of them or a simulation, and one run."""
    if find_spec("flwr") is None:
        raise ConfigError("flwr: is not installed; pip install 'marginal-sdg[flower]', with Python 3.11 or newer")
    start = time.perf_counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing outlives this
    out: Path = options.out
    out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder, Deployment(Path(folder), options.timeout) as deployment:
        home = Path(folder)
        options.domain, homes = _clients(home / "clients", options.clients)
        options.out = home / out.name
        write_project(home / "app", _config(options, home / "clients"))
        deployment.link(nodes=options.deployment)
        say("demo", f"SuperLink at {deployment.address}")
        for own in homes if options.deployment else ():
            deployment.node(own)
        say("demo", f"{len(homes)} clients, " + ("each a SuperNode of its own" if options.deployment else "simulated"))
        deployment.run(home / "app", simulated=0 if options.deployment else len(homes)).wait()
        if not options.out.exists():
            raise ProtocolError("the run wrote no table; its log is above")
        shutil.move(options.out, out)
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
        "colluding": options.colluding,
        "domain": str(options.domain.resolve()),
        "clients": options.clients,
        "folder": str(folder),
        "least": options.least,
        "timeout": options.timeout,
        "patience": options.patience,
        "out": str(options.out.resolve()),
    }


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
        command.add_argument("--colluding", type=int, default=1, help="so many clients may help a curious server")
        command.add_argument("--epsilon", type=float, default=1.0)
        command.add_argument("--delta", type=float, default=1e-5)
        command.add_argument("--rounds", type=int, default=5)
        command.add_argument("--participation", type=float, default=0.6)
        command.add_argument("--variant", default="census")
        command.add_argument("--workload", type=int, default=64, help="random 3-way marginals")
        command.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for an answer")
        command.add_argument(
            "--patience", type=float, default=600.0, help="seconds more, for clients without whom the run would end"
        )
        command.add_argument("--out", type=Path, default=Path("synthetic.csv"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    run(_parser(), arguments)


if __name__ == "__main__":
    main()
