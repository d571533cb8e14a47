"""How to make the same again: versions, code or command, and the domain."""

from __future__ import annotations

import platform
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

import marginal_sdg
from marginal_sdg.workload import Workload


@dataclass(frozen=True)
class Recipe:
    """``command``: what was typed, if something was; ``code``: Python that makes and fits the estimator.

    ``settings``: all parameters as text; ``domain``: YAML.
    """

    versions: dict[str, str]
    seeded: bool
    command: str | None
    code: str
    settings: dict[str, str]
    domain: str

    @classmethod
    def of(cls, synthesizer: Any, command: str | None) -> Recipe:
        """Of an estimator, which is a dataclass."""
        given = {f.name: (getattr(synthesizer, f.name), f.default) for f in fields(synthesizer)}
        settings = {name: value for name, (value, _) in given.items() if name not in ("domain", "on_event", "known")}
        changed = {k: _code(v) for k, v in settings.items() if k in ("epsilon", "delta") or v != given[k][1]}
        if len(getattr(synthesizer, "known", ())):
            changed["known"] = "known"  # frames, which their author has
        return cls(
            {"marginal_sdg": marginal_sdg.__version__, "Python": platform.python_version(), "NumPy": np.__version__},
            settings["seed"] is not None,
            command,
            _program(type(synthesizer), changed, "clients" if "participation" in settings else "table"),
            {name: _brief(value) for name, value in settings.items()},
            synthesizer.domain.to_yaml(),
        )


def _program(kind: type, parameters: dict[str, str], records: str) -> str:
    name = kind.__name__
    names = ["Domain", *(["Workload"] if parameters.get("workload", "").startswith("Workload(") else [])]
    lines = []
    if name in marginal_sdg.__all__:
        names.insert(0, name)
    else:
        lines.append(f"from {kind.__module__} import {name}")
    arguments = "".join(f",\n    {parameter}={value}" for parameter, value in parameters.items())
    lines += [
        f"from marginal_sdg import {', '.join(names)}",
        "",
        'domain = Domain.load("domain.yaml")  # see below',
        f"synthesizer = {name}(\n    domain{arguments},\n)",
        f"synthesizer.fit({records})",
    ]
    return "\n".join(lines)


def _code(value: Any) -> str:
    if not isinstance(value, Workload):
        return repr(value)
    weights = f", weights={value.weights!r}" if set(value.weights) != {1.0} else ""
    return f"Workload(domain, {value.cliques!r}{weights}{'' if value.closed else ', closed=False'})"


def _brief(value: Any) -> str:
    if isinstance(value, Workload):
        return f"{len(value.cliques)} marginals" + (" with weights" if set(value.weights) != {1.0} else "")
    return str(value)[:200]
