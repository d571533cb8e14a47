"""The report on one fitted synthesizer: its sections, as a page, and the same facts as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from marginal_sdg.datasets.files import write_atomically
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError
from marginal_sdg.evaluation import Evaluation
from marginal_sdg.page import Page
from marginal_sdg.report.facts import Facts, gather
from marginal_sdg.report.sections import report_page

SUFFIXES = (".html", ".md", ".json")

_FORMAT = "marginal_sdg.report/1"


def check_suffix(path: Path) -> None:
    """ConfigError for a file name that does not end in one of ``SUFFIXES``."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"report: {path.name!r} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


@dataclass(frozen=True)
class Report:
    """``facts``, for people and for programs."""

    facts: Facts

    def html(self) -> str:
        """One HTML document that loads nothing and runs nothing."""
        return self._page.html()

    def markdown(self) -> str:
        """The same words and numbers, with tables for pictures."""
        return self._page.markdown()

    def json(self) -> str:
        """All facts; numbers that do not exist are null."""
        facts = self.facts
        values = {"format": _FORMAT, **asdict(facts)}
        values["for_the_holder_only"] = facts.utility is not None
        values["utility"] = None if facts.utility is None else _utility_values(facts.utility)
        return json.dumps(_without_nan(values), indent=1, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> Path:
        """Write it, whole or not at all, as what ``path`` ends in: ``.html``, ``.md`` or ``.json``."""
        path = Path(path)
        check_suffix(path)
        text = {".html": self.html, ".md": self.markdown, ".json": self.json}[path.suffix]()
        write_atomically(path, lambda file: file.write(text.encode()))
        return path

    def _repr_html_(self) -> str:
        return self._page._repr_html_()

    @cached_property
    def _page(self) -> Page:
        return report_page(self.facts)


def synthesis_report(
    synthesizer: Any,
    real: Table | None = None,
    *,
    synthetic: Table | None = None,
    target: str | None = None,
    command: str | None = None,
) -> Report:
    """Privacy, utility, model, and how to make it again, of one fitted synthesizer.

    ``real`` adds what compares with the real rows, and running times. Such a report is not private: keep it with the
    data. ``synthetic``: the rows to look at, by default drawn from the model; ``target``: what classifiers predict.
    """
    return Report(gather(synthesizer, real, synthetic, target, command))


def _utility_values(found: Evaluation) -> dict[str, Any]:
    return {
        "errors": {
            str(ways): {
                "compared": len(errors),
                "mean": found.mean(ways),
                "worst": [{"columns": list(clique), "error": error} for clique, error in found.worst(ways, 10)],
            }
            for ways, errors in found.errors.items()
        },
        "target": found.target,
        "scores": {name: scores._asdict() for name, scores in found.scores.items()},
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
