"""Published numbers to compare with: a row is what a paper reports, and the settings for which it does."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marginal_sdg.errors import ConfigError
from marginal_sdg.experiment.params import NAMES, RunParams

METRICS = ("workload_error", "nll", "nll_kde", "auc", "accuracy")


@dataclass(frozen=True)
class Targets:
    """A table of published numbers; columns that name parameters are conditions, the others are values."""

    name: str = ""
    rows: tuple[dict[str, str], ...] = field(default=())

    def of(self, cell: RunParams) -> dict[str, float]:
        """The published value of each metric at this cell's settings; empty if the paper has none there."""
        if cell.max_rows is not None:  # a part of the data set is another data set
            return {}
        for row in self.rows:
            if all(_same(getattr(cell, name), row.get(name, "")) for name in NAMES):
                return {metric: float(row[metric]) for metric in METRICS if row.get(metric)}
        return {}


def load_targets(name: str | None, folder: Path) -> Targets:
    """The table ``folder/name.csv``; no table for None. Raises ConfigError naming the tables there are."""
    if name is None:
        return Targets()
    usable = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = tuple(csv.DictReader(file))
        if rows and "method" in rows[0] and any(metric in rows[0] for metric in METRICS):
            usable[path.stem] = rows
    if name not in usable:
        raise ConfigError(f"paper = {name!r} is not a table of targets; give one of {', '.join(usable) or 'none'}")
    return Targets(name, usable[name])


def _same(value: Any, published: str) -> bool:
    """Whether a cell meets a condition; what does not apply to it, or is not stated, does not matter."""
    if value is None or published == "":
        return True
    if isinstance(value, str):
        return value == published
    try:
        return math.isclose(float(value), float(published), rel_tol=1e-9)
    except ValueError:
        return False
