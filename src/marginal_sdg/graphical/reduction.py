"""Sums over axes of C-contiguous tables, planned once per (table, target) and run many times.

Neighbouring axes that are both kept or both summed collapse into one; leading and trailing sums become
matrix-vector products (BLAS), what remains in the middle is one strided sum. Nothing is ever transposed, because
every table keeps its attributes in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod

import numpy as np
import numpy.typing as npt

from marginal_sdg.graphical.junction import Sizes, bits

Floats = npt.NDArray[np.float64]
Reduction = Callable[[Floats], Floats]


def plan(sizes: Sizes, mask: int, keep: int) -> Reduction:
    """A function that sums a flat table over ``mask`` to a flat, freshly allocated table over ``keep``."""
    return _plan(sizes.shape(mask), tuple(bool(keep >> i & 1) for i in bits(mask)))


@lru_cache(maxsize=65536)
def _plan(shape: tuple[int, ...], kept: tuple[bool, ...]) -> Reduction:
    groups: list[tuple[int, bool]] = []
    for size, keep in zip(shape, kept, strict=True):
        if groups and groups[-1][1] == keep:
            groups[-1] = (groups[-1][0] * size, keep)
        else:
            groups.append((size, keep))
    steps: list[Reduction] = []
    if groups and not groups[-1][1]:
        summed, _ = groups.pop()
        steps.append(_trailing(prod(size for size, _ in groups), summed))
    if groups and not groups[0][1]:
        summed, _ = groups.pop(0)
        steps.append(_leading(summed, prod(size for size, _ in groups)))
    while len(groups) > 1:  # kept, summed, kept, ...: take the last summed group
        after, _ = groups.pop()
        summed, _ = groups.pop()
        before = prod(size for size, _ in groups)
        steps.append(_middle(before, summed, after))
        groups[-1] = (groups[-1][0] * after, True)
    if not steps:
        return np.copy
    if len(steps) == 1:
        return steps[0]
    return _chain(tuple(steps))


@lru_cache(maxsize=4096)
def _ones(n: int) -> Floats:
    ones = np.ones(n)
    ones.setflags(write=False)
    return ones


def _trailing(rows: int, summed: int) -> Reduction:
    ones = _ones(summed)
    return lambda table: table.reshape(rows, summed) @ ones


def _leading(summed: int, columns: int) -> Reduction:
    ones = _ones(summed)
    return lambda table: ones @ table.reshape(summed, columns)


def _middle(before: int, summed: int, after: int) -> Reduction:
    if after >= 16 or summed > 4 * before:
        return lambda table: np.add.reduce(table.reshape(before, summed, after), axis=1).ravel()
    ones = _ones(summed)
    return lambda table: (ones @ table.reshape(before, summed, after)).ravel()


def _chain(steps: tuple[Reduction, ...]) -> Reduction:
    def run(table: Floats) -> Floats:
        for step in steps:
            table = step(table)
        return table

    return run
