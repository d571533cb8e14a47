"""What the experiment scripts print alike: a Markdown table, and the machine and versions behind its numbers."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import marginal_sdg


def machine(*packages: str) -> str:
    """Processor, cores, Python and the versions that matter, in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = [f"Python {platform.python_version()}"]
    for name in ("numpy", "scipy", *packages):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    processor = models[0] if models else platform.machine()
    return f"{processor}, {os.cpu_count()} cores (shared), {platform.system()}; {', '.join(versions)}"


def markdown_table(rows: Sequence[Mapping[Any, Any]]) -> str:
    """Rows with the same keys as a Markdown table, closed by a line end."""
    names = [str(name) for name in rows[0]]
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def signed_table(head: str, rows: Sequence[Mapping[Any, Any]], command: str, *packages: str) -> str:
    """A table below ``head``, and below it the command, the version and the machine that made it."""
    foot = f"\n    {command}\n\nmarginal_sdg {marginal_sdg.__version__}; {machine(*packages)}\n"
    return head + markdown_table(rows) + foot
