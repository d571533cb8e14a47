"""Synthetic records from calibrated node tables: attribute by attribute, rounded at random within each group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from marginal_sdg.graphical.junction import JunctionTree, bits
from marginal_sdg.graphical.reduction import plan

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]


def sample_codes(tree: JunctionTree, nodes: Sequence[Floats], rows: int, rng: np.random.Generator) -> Codes:
    """Draw ``rows`` records: (rows, d) int32 codes.

    An attribute is drawn given the attributes of its node that are already drawn. Records that agree on those form
    a group; a systematic sample over a random permutation gives every value its expected count in the group,
    rounded up or down with the right probability.
    """
    columns = np.zeros((len(tree.sizes), rows), dtype=np.int32)
    drawn = 0
    for i in tree.order:
        node = tree.nodes[i]
        given = node & drawn
        for attribute in bits(node & ~drawn):
            target = 1 << attribute
            table = plan(tree.sizes, node, given | target)(nodes[i].ravel())
            axis = bits(given | target).index(attribute)
            table = np.moveaxis(table.reshape(tree.sizes.shape(given | target)), axis, -1)
            groups = np.zeros(rows, dtype=np.int64)
            for other in bits(given):
                groups *= tree.sizes.sizes[other]
                groups += columns[other]
            columns[attribute] = _systematic(table.reshape(tree.sizes.cells(given), -1), groups, rng)
            given |= target
        drawn |= node
    return np.ascontiguousarray(columns.T)


def _systematic(weights: Floats, groups: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """One value per record: within a group, values in proportion to the group's row of ``weights``."""
    rows, values = len(groups), weights.shape[1]
    cumulative = np.cumsum(np.maximum(weights, 0.0), axis=1)
    mass = cumulative[:, -1:]
    uniform = np.arange(1, values + 1) / values  # a group that the model gives no mass
    cumulative = np.where(mass > 0, cumulative / np.where(mass > 0, mass, 1.0), uniform)
    cumulative[:, -1] = 1.0
    shuffled = rng.permutation(rows)
    order = shuffled[np.argsort(groups[shuffled], kind="stable")]
    group = groups[order]
    count = np.bincount(groups, minlength=len(weights))
    rank = np.arange(rows) - (np.cumsum(count) - count)[group]
    position = (rank + rng.random(len(weights))[group]) / count[group]
    ladder = (cumulative + np.arange(len(weights))[:, None]).ravel()
    index = np.searchsorted(ladder, position + group, side="right") - group * values
    drawn = np.empty(rows, dtype=np.int64)
    drawn[order] = np.clip(index, 0, values - 1)
    return drawn
