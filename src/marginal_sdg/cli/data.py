"""``data``: the benchmark data sets."""

from __future__ import annotations

import click


@click.group()
def data() -> None:
    """List, fetch and verify the benchmark data sets."""


@data.command("list")
def list_() -> None:
    """All data sets, and where each one is."""
    from marginal_sdg.datasets.registry import DATASETS, facts_of, place_of
    from marginal_sdg.experiment.progress import show_table

    lines = []
    for name in DATASETS:
        facts = facts_of(name)
        rows = " or ".join(f"{edition['rows']:,}" for edition in facts["editions"])
        lines.append([name, rows, facts["target"], facts["licence"], place_of(name)])
    show_table(["data set", "rows", "target", "licence", "where"], lines)


@data.command()
@click.argument("names", nargs=-1, required=True)
def fetch(names: tuple[str, ...]) -> None:
    """Download data sets into the cache, unless they are there."""
    _check(names)


@data.command()
@click.argument("names", nargs=-1)
def verify(names: tuple[str, ...]) -> None:
    """Check checksums, columns, rows and class balance; without NAMES, of all that are here."""
    from marginal_sdg.datasets.registry import DATASETS, place_of

    _check(names or tuple(name for name in DATASETS if place_of(name) != "to be fetched"))


def _check(names: tuple[str, ...]) -> None:
    from marginal_sdg.datasets import load_dataset

    for name in names:
        dataset = load_dataset(name)
        dataset.table()
        click.echo(f"{name}: {len(dataset.frame):,} rows, {len(dataset.domain)} columns, as recorded")
