"""``describe``: draft a domain file for a table."""

from __future__ import annotations

from pathlib import Path

import click

from marginal_sdg.cli.inputs import FILE, check_output
from marginal_sdg.errors import DomainError


@click.command()
@click.argument("table", type=FILE)
@click.option("--out", type=FILE, default=Path("domain.yaml"), show_default=True, help="The draft, in YAML.")
@click.option("--bins", type=click.IntRange(1), default=32, show_default=True, help="Bins of a number or date.")
def describe(table: Path, out: Path, bins: int) -> None:
    """Draft a domain file for TABLE (CSV or Parquet), to be reviewed.

    Every choice that looked at the data is listed: it has to be replaced by public knowledge before the draft is used.
    """
    from marginal_sdg.draft import draft_domain
    from marginal_sdg.experiment.progress import show_table
    from marginal_sdg.table_files import read_frame

    check_output(out, table)
    if out.suffix not in (".yaml", ".yml"):
        raise DomainError(f"{out}: save a draft as .yaml, so that its warnings stay with it")
    draft = draft_domain(read_frame(table), bins)
    draft.save(out)
    told: dict[str, list[str]] = {name: [] for name in (*draft.domain.names, *draft.left_out)}
    for note in draft.notes:
        name, _, remark = note.partition(": ")
        told[name].append(remark)
    lines = [[a.name, a.kind, f"{a.size:,}", "; ".join(told[a.name]) or "-"] for a in draft.domain.attributes]
    lines += [[name, "left out", "-", "; ".join(told[name])] for name in draft.left_out]
    show_table(["column", "kind", "codes", "read off the data: needs public knowledge"], lines)
    drops = "".join(f" --drop {name!r}" if " " in name else f" --drop {name}" for name in draft.left_out)
    click.echo(f"\n{out}: a draft. Review it, delete its header, then:")
    click.echo(f"  marginal-sdg synthesize {table} --domain {out} --epsilon 1{drops} --out synthetic.csv")
