"""The folder that ``flwr run`` takes: a ``pyproject.toml`` that names apps of the installed package; no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from marginal_sdg.errors import ConfigError

_HEAD = """[project]
name = "marginal-sdg-flaim"
version = "1.0.0"
description = "FLAIM: differentially private synthetic data from many clients' tables"
license = "Apache-2.0"
dependencies = []

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "marginal-sdg"

[tool.flwr.app.components]
serverapp = "marginal_sdg.flower.app:server"
clientapp = "marginal_sdg.flower.app:client"

[tool.flwr.app.config]
"""


def write_project(folder: Path, config: Mapping[str, str | int | float]) -> None:
    """Write the app's only file; ``ConfigError`` where there is one."""
    file = folder / "pyproject.toml"
    if file.exists():
        raise ConfigError(f"{file}: exists already; remove it, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in config.items()]  # TOML has JSON's strings and numbers
    file.write_text(_HEAD + "".join(lines), encoding="utf-8")
