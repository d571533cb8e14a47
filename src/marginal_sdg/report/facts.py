"""What a report says, as plain values: gathered once, written as HTML, Markdown or JSON.

Without the real table everything here is a function of the release and of public settings. With it, ``real`` shares
and associations, errors, scores and running times are exact facts of private rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.evaluation import Evaluation, evaluate
from marginal_sdg.graphical.junction import JunctionTree, bits
from marginal_sdg.release import Measurement
from marginal_sdg.report.associations import Associations
from marginal_sdg.report.columns import Column
from marginal_sdg.report.recipe import Recipe
from marginal_sdg.report.spending import Spending
from marginal_sdg.report.trust import Trust, trust_of


@dataclass(frozen=True)
class Measured:
    """A marginal as measured, or ``public`` already: as known.

    ``noise``: expected L1 distance, of normalised counts, that the noise alone makes.
    """

    columns: Clique
    cells: int
    sigma: float
    noise: float
    public: bool


@dataclass(frozen=True)
class Node:
    """A table of the junction tree, listed depth first; ``parent``: place in that list."""

    columns: tuple[str, ...]
    cells: int
    separator: tuple[str, ...]
    parent: int | None


@dataclass(frozen=True)
class Facts:
    """All of it. ``utility`` and ``seconds`` are None in a report that may leave the holder's hands."""

    mechanism: str
    spending: Spending
    trust: Trust
    records: float
    synthetic_rows: int
    columns: tuple[Column, ...]
    associations: Associations | None
    measured: tuple[Measured, ...]
    cliques: tuple[Clique, ...]
    tree: tuple[Node, ...]
    recipe: Recipe
    utility: Evaluation | None
    seconds: dict[str, float] | None


def gather(
    synthesizer: Any, real: Table | None, synthetic: Table | None, target: str | None, command: str | None
) -> Facts:
    """Facts of a fitted estimator; ``synthetic``: its rows, by default drawn here, from the model alone."""
    model, measurements = synthesizer.model_, synthesizer.measurements_
    rows = model.sample(None, np.random.default_rng(0)) if synthetic is None else synthetic
    tables = [rows] if real is None else [rows, real]
    utility = None if real is None else evaluate(real, rows, target)
    errors = {} if utility is None else utility.errors[1]
    tree = getattr(model, "tree", None)
    return Facts(
        type(synthesizer).__name__,
        Spending.of(synthesizer.ledger.to_dict()),
        trust_of(type(synthesizer), getattr(synthesizer, "noise", None)),
        model.total,
        len(rows),
        tuple(Column.of(a, tables, measurements, model.total, errors.get((a.name,))) for a in rows.domain.attributes),
        Associations.of(tables, target),
        tuple(_measured(measurement, model.total) for measurement in measurements),
        getattr(model, "cliques", ()),
        () if tree is None else _nodes(tree, rows.domain.names),
        Recipe.of(synthesizer, command),
        utility,
        None if real is None else dict(synthesizer.timings_),
    )


def _measured(measurement: Measurement, total: float) -> Measured:
    """E |x| of a Gaussian is sigma sqrt(2 / pi)."""
    cells, sigma = len(measurement.counts), measurement.scaled(total)[1]
    noise = float(cells * sigma * (2 / np.pi) ** 0.5 / total)
    public = measurement.public
    return Measured(measurement.clique, cells, sigma if public else measurement.sigma, noise, public)


def _nodes(tree: JunctionTree, names: tuple[str, ...]) -> tuple[Node, ...]:
    """Depth first; branches that share nothing with their parent are trees of their own."""
    children: dict[int | None, list[int]] = {}
    for number in tree.order:
        above = tree.parents[number] if tree.separators[number] else None
        children.setdefault(above, []).append(number)
    found: list[Node] = []
    places: dict[int, int] = {}
    waiting = children.get(None, [])[::-1]
    while waiting:
        number = waiting.pop()
        places[number] = len(found)
        mask, separator = tree.nodes[number], tree.separators[number]
        named, shared = (tuple(names[i] for i in bits(part)) for part in (mask, separator))
        found.append(Node(named, tree.sizes.cells(mask), shared, places[tree.parents[number]] if separator else None))
        waiting += children.get(number, [])[::-1]
    return tuple(found)
