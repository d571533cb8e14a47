"""Contingency tables: exact int64 counts of an encoded table, one clique or a whole workload at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique, Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import DomainError

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MAX_CELLS = 2**40  # packed cell numbers stay exact in float64 products and far from int64 overflow


@dataclass(frozen=True)
class Layout:
    """The cells of several cliques laid end to end, so that one vector holds all their marginals.

    Cells of a clique are in row-major order of the domain's attribute order.
    """

    domain: Domain
    cliques: tuple[Clique, ...]

    def __post_init__(self) -> None:
        for clique, cells in zip(self.cliques, self.sizes, strict=True):
            if cells > _MAX_CELLS:
                raise DomainError(
                    f"clique {clique}: {cells:.3g} cells, more than {_MAX_CELLS:.3g}; use fewer or coarser attributes"
                )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Cells per clique."""
        return tuple(self.domain.size(clique) for clique in self.cliques)

    @cached_property
    def cells(self) -> Floats:
        """(Q,) float64: cells per clique, for arithmetic with scores."""
        return np.array(self.sizes, dtype=np.float64)

    @cached_property
    def offsets(self) -> Counts:
        """(Q + 1,) int64: clique q owns cells ``offsets[q]:offsets[q + 1]``."""
        return np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)]).astype(np.int64)

    @cached_property
    def strides(self) -> Floats:
        """(d, Q): what one step of an attribute's code adds to the cell number of each clique."""
        strides = np.zeros((len(self.domain), len(self.cliques)))
        for q, clique in enumerate(self.cliques):
            step = 1
            for name in reversed(clique):
                index = self.domain.index(name)
                strides[index, q] = step
                step *= self.domain.shape[index]
        return strides

    @cached_property
    def positions(self) -> dict[Clique, int]:
        """Place of each clique in this layout."""
        return {clique: q for q, clique in enumerate(self.cliques)}

    def cells_of(self, clique: Clique) -> slice:
        """The slice of the long vector that holds ``clique``."""
        q = self.positions[clique]
        return slice(int(self.offsets[q]), int(self.offsets[q + 1]))


def cell_numbers(table: Table, clique: Clique) -> Counts:
    """(n,) int64: the row-major cell of each record in the marginal of ``clique``."""
    numbers = np.zeros(len(table), dtype=np.int64)
    for name in clique:
        numbers *= table.domain.shape[table.domain.index(name)]
        numbers += table.column(name)
    return numbers


def contingency(table: Table, clique: Clique) -> Counts:
    """Count the records in every cell of ``clique``: (n_q,) int64, exact and private."""
    return np.bincount(cell_numbers(table, clique), minlength=table.domain.size(clique)).astype(np.int64, copy=False)


class Answers:
    """The exact, private answers of one table to all cliques of a layout; only occupied cells are stored.

    A client with a few hundred records occupies a few hundred cells of a marginal with a million, so distances
    to a dense model cost the occupied cells only.
    """

    def __init__(self, layout: Layout, table: Table) -> None:
        self.layout = layout
        self.records = len(table)
        parts = _occupied_by_sorting(layout, table) if self.records < 4096 else _occupied_by_counting(layout, table)
        self._cells, self._counts, self._starts = parts

    def counts(self, clique: Clique) -> Counts:
        """Dense marginal of ``clique``: (n_q,) int64, records."""
        q = self.layout.positions[clique]
        mine = slice(int(self._starts[q]), int(self._starts[q + 1]))
        dense = np.zeros(self.layout.sizes[q], dtype=np.int64)
        dense[self._cells[mine] - self.layout.offsets[q]] = self._counts[mine]
        return dense

    def l1_distances(self, distribution: Floats, scale: float) -> Floats:
        """L1 distance of every marginal to ``scale`` times a distribution over its cells.

        ``distribution``: (sum of n_q,) non-negative, summing to 1 in every clique; ``scale``: records.
        Returns (Q,) float64, records. Cells without a record contribute ``scale * p``.
        """
        expected = scale * distribution[self._cells]
        excess = np.abs(self._counts - expected) - np.abs(expected)
        return abs(scale) + _segment_sums(excess, self._starts)


def _segment_sums(values: Floats, starts: Counts) -> Floats:
    if not len(values):
        return np.zeros(len(starts) - 1)
    sums = np.add.reduceat(np.append(values, 0.0), starts[:-1])
    return np.where(starts[1:] > starts[:-1], sums, 0.0)


def _occupied_by_sorting(layout: Layout, table: Table) -> tuple[Counts, Counts, Counts]:
    """All cliques in one pass: pack every record into every clique's cell, sort, count runs."""
    queries = len(layout.cliques)
    packed = layout.strides.T @ table.codes.T.astype(np.float64) + layout.offsets[:-1, None]
    cells = np.sort(packed, axis=1).ravel()
    if not len(cells):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(queries + 1, np.int64)
    first = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    counts = np.diff(np.append(first, len(cells)))
    occupied = cells[first].astype(np.int64)
    return occupied, counts, np.searchsorted(occupied, layout.offsets)


def _occupied_by_counting(layout: Layout, table: Table) -> tuple[Counts, Counts, Counts]:
    """Large tables: one histogram per clique, or a sort where the histogram would be mostly empty."""
    cells: list[Counts] = []
    counts: list[Counts] = []
    for q, clique in enumerate(layout.cliques):
        if layout.sizes[q] <= 64 * len(table):
            dense = contingency(table, clique)
            occupied = np.flatnonzero(dense)
            cells.append(occupied + layout.offsets[q])
            counts.append(dense[occupied])
        else:
            occupied, runs = np.unique(cell_numbers(table, clique), return_counts=True)
            cells.append(occupied + layout.offsets[q])
            counts.append(runs)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in cells])]).astype(np.int64)
    return np.concatenate(cells), np.concatenate(counts), starts


def project(counts: npt.NDArray[np.generic], domain: Domain, clique: Clique, onto: Sequence[str]) -> npt.NDArray:  # type: ignore[type-arg]
    """Sum a marginal of ``clique`` down to the attributes ``onto``: (n_onto,) of the same dtype."""
    table = counts.reshape([domain.shape[domain.index(name)] for name in clique])
    dropped = tuple(axis for axis, name in enumerate(clique) if name not in set(onto))
    result: npt.NDArray = table.sum(axis=dropped).ravel()  # type: ignore[type-arg]
    return result
