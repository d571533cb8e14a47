"""Sum-products of a few tables: the marginal of a product, by pairwise matrix multiplication."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from marginal_sdg.graphical.junction import Sizes, bits
from marginal_sdg.graphical.reduction import plan

Floats = npt.NDArray[np.float64]


def contract(sizes: Sizes, factors: Sequence[tuple[int, Floats]], keep: int) -> Floats:
    """Multiply the factors and sum out every attribute outside ``keep``.

    ``factors``: (mask, table shaped by its attributes in ascending order). Returns a table over the attributes of
    ``keep``, ascending. Attributes are summed out as soon as no later factor needs them.
    """
    mask, table = factors[0]
    for k, (other, values) in enumerate(factors[1:], start=1):
        later = keep
        for following, _ in factors[k + 1 :]:
            later |= following
        table = _reduce(sizes, mask, table, later | other)
        mask &= later | other
        table = _multiply(sizes, mask, table, other, values, later)
        mask = (mask | other) & later
    return _reduce(sizes, mask, table, keep)


def _reduce(sizes: Sizes, mask: int, table: Floats, keep: int) -> Floats:
    if mask & ~keep == 0:
        return table
    return plan(sizes, mask, mask & keep)(table).reshape(sizes.shape(mask & keep))


def _multiply(sizes: Sizes, left: int, a: Floats, right: int, b: Floats, keep: int) -> Floats:
    """Sum over the shared attributes outside ``keep`` of ``a * b``, as one batched matrix product."""
    b = _reduce(sizes, right, b, keep | left)
    right &= keep | left
    batch, summed = left & right & keep, left & right & ~keep
    rows, columns = left & ~right, right & ~left
    cells = sizes.cells
    a = _arrange(left, a, (batch, rows, summed)).reshape(cells(batch), cells(rows), cells(summed))
    b = _arrange(right, b, (batch, summed, columns)).reshape(cells(batch), cells(summed), cells(columns))
    product = np.matmul(a, b) if summed else a * b
    shape = sizes.shape(batch) + sizes.shape(rows) + sizes.shape(columns)
    order = bits(batch) + bits(rows) + bits(columns)
    return np.asarray(product.reshape(shape).transpose(np.argsort(order)), order="C")


def _arrange(mask: int, table: Floats, groups: tuple[int, ...]) -> Floats:
    """Bring the axes of ``table`` into the order of the groups."""
    axes = {attribute: axis for axis, attribute in enumerate(bits(mask))}
    return table.transpose([axes[i] for group in groups for i in bits(group)])
