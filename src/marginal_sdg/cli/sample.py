"""``sample``: draw rows from a saved model; and what ``synthesize`` does after its fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from marginal_sdg.cli.inputs import FILE, check_output
from marginal_sdg.cli.options import of_rows

if TYPE_CHECKING:
    from marginal_sdg.domain import Domain
    from marginal_sdg.encoding import Table
    from marginal_sdg.graphical.model import GraphicalModel


@click.command()
@click.argument("model", type=FILE)
@of_rows
def sample(model: Path, rows: int | None, where: str | None, seed: int | None, out: Path) -> None:
    """Draw more rows from MODEL, which synthesize --model has saved. It costs no privacy."""
    from marginal_sdg.graphical.model import GraphicalModel
    from marginal_sdg.table_files import check_format

    check_format(out)
    check_output(out, model)
    loaded = GraphicalModel.load(model)
    _, line = write_rows(loaded, conditions(loaded.domain, where), rows, seed, out)
    click.echo(line)


def conditions(domain: Domain, where: str | None) -> dict[str, list[int]]:
    """The codes that a ``--where`` allows, by column; empty without one."""
    if where is None:
        return {}
    from marginal_sdg.condition import allowed_codes

    return allowed_codes(domain, where)


def write_rows(
    model: GraphicalModel, allowed: dict[str, list[int]], rows: int | None, seed: int | None, out: Path
) -> tuple[Table, str]:
    """Draw and write rows; these, and a line that says what was written."""
    import numpy as np

    from marginal_sdg.encoding import bin_edges
    from marginal_sdg.table_files import write_table

    rng = np.random.default_rng(seed)  # without a seed: the operating system's
    drawn = (model.given(allowed) if allowed else model).sample(rows, rng)
    write_table(out, drawn, rng)
    ranges = []
    for name, codes in allowed.items():
        attribute = model.domain[name]
        if attribute.categories is None and attribute.kind in ("integer", "floating"):
            edges = bin_edges(attribute)
            last = edges[codes[-1] + 1] - (1 if attribute.whole else 0)
            ranges.append(f"{name} from {edges[codes[0]]:g} to {last:g}")
    return drawn, f"{out}: {len(drawn):,} rows" + (f" ({', '.join(ranges)}: whole bins)" if ranges else "")
