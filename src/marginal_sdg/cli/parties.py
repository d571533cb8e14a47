"""``plan`` for many parties: what each of them would send, hold and compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from marginal_sdg.cli.inputs import parse_workload

if TYPE_CHECKING:
    from marginal_sdg.domain import Domain

PARTIES = ("flaim", "distaim", "fhaim")
"""Mechanisms with more than one party, by their names on the command line."""

OF_ONE_TABLE = ("known", "impossible", "adaptive_bins", "bins_share")


def show_parties(mechanism: str, domain: Domain, workload: str, target: str | None, given: Mapping[str, Any]) -> None:
    """Print the loads of all parties and the first bottleneck. ``given``: the options by name, None or empty if not."""
    from marginal_sdg.experiment.progress import show_table
    from marginal_sdg.scale import plan_parties
    from marginal_sdg.scale.party import amount_of
    from marginal_sdg.workload import Workload

    for name in OF_ONE_TABLE:
        if given[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} is for mechanisms with one table; {mechanism} has none")
    if given["rounds"] == "adaptive":
        raise click.UsageError("--rounds adaptive is not known in advance; give a number")
    pairs = mechanism == "fhaim" and workload.isdecimal()  # it counts no larger ones
    queries = Workload.random(domain, int(workload), 2) if pairs else parse_workload(workload, domain, target)
    found = plan_parties(
        mechanism,
        queries,
        clients=given["clients"] or (1 if mechanism == "fhaim" else 100),
        rows=given["rows"] or 1_000_000,
        rounds=10 if given["rounds"] is None else given["rounds"],
        participation=0.1 if given["participation"] is None else given["participation"],
        max_model_mb=given["max_model_mb"],
        epsilon=given["epsilon"],
        delta=given["delta"],
    )
    lines = [
        [
            load.party + (f", each of {load.count:,}" if load.count > 1 else ""),
            *map(amount_of, (load.sent, load.received, load.memory)),
            f"{load.seconds:,.3g} s",
        ]
        for load in found.loads
    ]
    show_table(["at most, in all rounds", "sends", "receives", "memory", "CPU"], lines)
    click.echo(f"first bottleneck: {found.bottleneck}")
