"""From a config to its runs: every combination of the axes, equal runs only once, each with a hash."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from marginal_sdg.errors import ConfigError
from marginal_sdg.experiment.config import Config
from marginal_sdg.experiment.params import NAMES, RunParams


@dataclass(frozen=True)
class Run:
    """One run: a grid cell and a seed."""

    params: RunParams
    seed: int

    @property
    def config_hash(self) -> str:
        """Names the run by everything that decides its result; parameters that do not apply are left out.

        Leaving them out means that a parameter added later, unused by default, does not rename old runs.
        """
        return _digest(cell_values(self.params) | {"seed": self.seed})

    @property
    def data_key(self) -> str:
        """Equal for runs that share one prepared data set and partition."""
        names = (
            "dataset",
            "max_rows",
            "feature_skew",
            "split_seed",
            "clients",
            "partition",
            "partition_seed",
        )
        values = {name: getattr(self.params, name) for name in names}
        return _digest(values | ({"seed": self.seed} if "run" in values.values() else {}))


def cell_values(params: RunParams) -> dict[str, Any]:
    """The parameters that apply, by name."""
    return {name: getattr(params, name) for name in NAMES if getattr(params, name) is not None}


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def expand(config: Config) -> tuple[Run, ...]:
    """All runs of a sweep: by data set, and there the first seed of every cell before the second of any.

    A sweep cut short then has a few runs of every cell rather than all runs of a few.
    """
    grid = cells(config)
    return tuple(
        Run(cell, seed)
        for dataset in config.axes["dataset"]
        for seed in config.seeds
        for cell in grid
        if cell.dataset == dataset
    )


def cells(config: Config) -> tuple[RunParams, ...]:
    """The grid: all combinations of the axes; those that differ only in what does not apply are one cell."""
    grid: dict[RunParams, None] = {}
    for values in itertools.product(*(config.axes[name] for name in NAMES)):
        cell = RunParams.model_construct(**dict(zip(NAMES, values, strict=True))).relevant()
        _check_together(cell)
        grid.setdefault(cell)
    return tuple(grid)


def _check_together(cell: RunParams) -> None:
    """Rules over more than one parameter, from public facts only."""
    if cell.clients is not None and cell.max_rows is not None and cell.clients > cell.max_rows:
        raise ConfigError(f"clients = {cell.clients} is more than max_rows = {cell.max_rows}; give fewer clients")


def varying(cells: Sequence[RunParams]) -> tuple[str, ...]:
    """Names of the parameters that tell these cells apart; the method, where there is one cell.

    Not applying to some cells is no variation: the method tells those apart.
    """
    values = {name: {getattr(cell, name) for cell in cells} - {None} for name in NAMES}
    return tuple(name for name in NAMES if len(values[name]) > 1) or ("method",)


def label(cell: RunParams, names: Sequence[str]) -> str:
    """A short name of a cell among others: the values of the parameters that vary."""
    shown = []
    for name in names:
        value = getattr(cell, name)
        if value is None:
            continue
        if name == "calibration":
            shown.append(f"{value} calibration")
        else:
            shown.append(value if isinstance(value, str) else f"{name} {value:g}")
    return ", ".join(shown)
