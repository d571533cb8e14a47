"""What the commands read before they start: domain files, workloads, names of output files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from marginal_sdg.errors import ConfigError, DataError, DomainError

if TYPE_CHECKING:
    from marginal_sdg.domain import Domain
    from marginal_sdg.workload import Workload

FILE = click.Path(path_type=Path)

MOST_CODES = 50_000  # of one column: beyond it, it is an identifier, free text, or lacks bins
DRAFT_CAVEAT = "NOT PRIVATE as it stands: the domain is a draft that was read off the table; review it, then run again"


def load_domain(path: Path) -> tuple[Domain, bool]:
    """A domain file, and whether it is still an unreviewed draft.

    Raises
    ------
    DomainError: the file is wrong, or a column has so many codes that it must be an identifier.
    """
    from marginal_sdg.domain import Domain
    from marginal_sdg.draft import is_draft

    domain = Domain.load(path)
    for attribute in domain.attributes:
        if attribute.size > MOST_CODES:
            raise DomainError(
                f"{path}: attribute {attribute.name!r} has {attribute.size:,} codes, as identifiers and free text do; "
                "set bins, or delete it here and drop it from the table (--drop)"
            )
    return domain, is_draft(path)


def check_output(path: Path | None, *inputs: Path) -> None:
    """DataError where a file cannot be written, or would replace an input."""
    if path is None:
        return
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise DataError(f"{path}: cannot be written; give the name of a file in a folder that exists")
    if path.resolve() in [given.resolve() for given in inputs]:
        raise DataError(f"{path}: is an input of this command; give the output another name")


def parse_workload(given: str, domain: Domain, target: str | None = None) -> Workload:
    """Marginals from a number, ``age,income;sex,region``, or a YAML or JSON file with a list of them.

    An entry of a file is a list of columns, or ``{columns: [...], weight: 2}``. Columns that are in none get their own
    marginal; with ``target`` see :meth:`Workload.favouring`.
    """
    from marginal_sdg.workload import Workload

    if given.isdecimal():
        workload = Workload.random(domain, int(given))
    else:
        is_file = Path(given).suffix in (".yaml", ".yml", ".json")
        entries: list[Any] = _listed(Path(given)) if is_file else [clique.split(",") for clique in given.split(";")]
        cliques, weights = [], []
        for entry in entries:
            known = isinstance(entry, dict) and set(entry) <= {"columns", "weight"} and "columns" in entry
            columns, weight = (entry["columns"], entry.get("weight", 1)) if known else (entry, 1)
            if not isinstance(columns, list) or not isinstance(weight, int | float):
                raise ConfigError(f"workload: {entry!r} must be a list of columns, or {{columns: [...], weight: 2}}")
            cliques.append(domain.clique(str(name).strip() for name in columns))
            weights.append(float(weight))
        workload = Workload(domain, tuple(cliques), tuple(weights))
    workload = workload.covering()
    return workload if target is None else workload.favouring(target)


def _listed(path: Path) -> list[Any]:
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"workload: {path} cannot be read ({type(error).__name__})") from None
    if not isinstance(entries, list):
        raise ConfigError(f"workload: {path} must hold a list of marginals, such as - [age, income]")
    return entries


def note(text: str) -> None:
    """A line for the person at the terminal, beside the results."""
    click.echo(f"note: {text}", err=True)
