"""Synthetic records from calibrated node tables, attribute by attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from marginal_sdg.graphical.junction import JunctionTree, bits
from marginal_sdg.graphical.reduction import plan

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]


def sample_codes(
    tree: JunctionTree, nodes: Sequence[Floats], rows: int, rng: np.random.Generator, *, rounded: bool
) -> Codes:
    """Draw ``rows`` records: (rows, d) int32 codes.

    An attribute is drawn given the attributes of its node that are already drawn. Records that agree on those form
    a group. ``rounded``: a systematic sample over a random permutation gives every value its expected count in the
    group, rounded up or down with the right probability; otherwise records are independent draws.
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
            weights = table.reshape(tree.sizes.cells(given), -1)
            columns[attribute] = _draw(weights, groups, rng, rounded=rounded)
            given |= target
        drawn |= node
    return np.ascontiguousarray(columns.T)


def _draw(
    weights: Floats, groups: npt.NDArray[np.int64], rng: np.random.Generator, *, rounded: bool
) -> npt.NDArray[np.int64]:
    """One value per record: within a group, values in proportion to the group's row of ``weights``."""
    values = weights.shape[1]
    cumulative = np.cumsum(np.maximum(weights, 0.0), axis=1)
    mass = cumulative[:, -1:]
    uniform = np.arange(1, values + 1) / values  # a group that the model gives no mass
    cumulative = np.where(mass > 0, cumulative / np.where(mass > 0, mass, 1.0), uniform)
    cumulative[:, -1] = 1.0
    return (_rounded if rounded else _independent)(cumulative, groups, rng)


def _independent(cumulative: Floats, groups: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Invert each group's cumulative distribution at a uniform number per record."""
    count, values = cumulative.shape
    ladder = (cumulative + np.arange(count)[:, None]).ravel()
    position = np.minimum(rng.random(len(groups)) + groups, np.nextafter(groups + 1.0, 0.0))  # rounding may reach it
    index: npt.NDArray[np.int64] = np.searchsorted(ladder, position, side="right") - groups * values
    return index


def _rounded(cumulative: Floats, groups: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Systematic sampling: equally spaced positions from a random start, dealt to the group's records at random.

    Of a group's n positions (r + u) / n, those below a cumulative probability c are ceil(n c - u) many: so values are
    counted per group, not looked up per record.
    """
    count, values = cumulative.shape
    sizes = np.bincount(groups, minlength=count)
    below = np.ceil(sizes[:, None] * cumulative - rng.random((count, 1))).astype(np.int64)
    below[:, -1] = sizes
    each = np.diff(np.minimum(np.maximum(below, 0), sizes[:, None]), axis=1, prepend=0)
    shuffled = rng.permutation(len(groups))
    narrow = groups.astype(np.min_scalar_type(count))  # up to 16 bits are sorted by radix
    by_group = shuffled[np.argsort(narrow[shuffled], kind="stable")]
    drawn = np.empty(len(groups), dtype=np.int64)
    drawn[by_group] = np.repeat(np.tile(np.arange(values), count), each.ravel())
    return drawn
