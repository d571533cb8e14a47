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
_STRIP = 2**18  # multiplications at a time: BLAS keeps them on one core, and waits for no other one that is busy


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


def contingencies(table: Table, layout: Layout) -> Counts:
    """All marginals of a layout end to end: (cells,) int64, exact and private."""
    if len(table) > 10_000:
        return np.concatenate([contingency(table, clique) for clique in layout.cliques])
    cells = _packed(layout, table, 0).ravel().astype(np.int64)
    return np.bincount(cells, minlength=int(layout.offsets[-1])).astype(np.int64, copy=False)


class Answers:
    """The exact, private answers of several tables to all cliques of a layout; only occupied cells are stored.

    A client with a few hundred records occupies a few hundred cells of a marginal with a million, so distances
    to a dense model cost the occupied cells only. All tables are counted in one pass.
    """

    def __init__(self, layout: Layout, tables: Sequence[Table]) -> None:
        self.layout = layout
        self.tables = len(tables)
        if self.tables * int(layout.offsets[-1]) > 2**53:
            raise DomainError(
                f"workload: {float(layout.offsets[-1]):.3g} cells are too many to number; use smaller cliques"
            )
        work = len(layout.cliques) * sum(map(len, tables))
        dense = int(layout.offsets[-1]) * len(tables)
        self._fill(*(_count if dense <= 8 * work else _sort)(layout, tables))

    @classmethod
    def of_counts(cls, layout: Layout, counts: Counts) -> Answers:
        """The answers of one table that has been counted: (cells,) int64."""
        answers = cls(layout, [])
        answers.tables = 1
        keys = np.flatnonzero(counts)
        answers._fill(keys, counts[keys])
        return answers

    def _fill(self, keys: Counts, counts: Counts) -> None:
        """Numbers of occupied cells over all tables, ascending, and their counts."""
        layout = self.layout
        self._counts = counts
        borders = (np.arange(self.tables)[:, None] * layout.offsets[-1] + layout.offsets[:-1]).ravel()
        self._starts = np.append(np.searchsorted(keys, borders), len(keys))
        self._cells = keys % max(int(layout.offsets[-1]), 1)

    def counts(self, table: int, clique: Clique) -> Counts:
        """Dense marginal of ``clique`` in one table: (n_q,) int64, records."""
        q = self.layout.positions[clique]
        segment = table * len(self.layout.cliques) + q
        mine = slice(int(self._starts[segment]), int(self._starts[segment + 1]))
        dense = np.zeros(self.layout.sizes[q], dtype=np.int64)
        dense[self._cells[mine] - self.layout.offsets[q]] = self._counts[mine]
        return dense

    def l1_distances(self, distribution: Floats, scales: npt.ArrayLike) -> Floats:
        """L1 distance of every marginal of every table to its scale times a distribution over its cells.

        ``distribution``: (sum of n_q,) non-negative, summing to 1 in every clique; ``scales``: (tables,) records.
        Returns (tables, Q) float64, records. Cells without a record contribute ``scale * p``.

        Expected counts ``scale * p``, and scales, are rounded to multiples of :func:`grid_step`. So a distance is
        off by at most half a step per occupied cell, and one more record changes it by at most 1, exactly: nothing
        is rounded after that, in whatever order it is summed.
        """
        scale = np.asarray(scales, dtype=np.float64)
        queries = len(self.layout.cliques)
        step = grid_step(float(np.abs(scale).max(initial=0.0)))
        expected = np.repeat(scale / step, np.diff(self._starts[::queries])) * distribution[self._cells]
        np.rint(expected, out=expected)
        expected *= step
        excess = np.abs(self._counts - expected) - np.abs(expected)
        sums = _segment_sums(excess, self._starts).reshape(self.tables, queries)
        distances: Floats = np.rint(np.abs(scale) / step)[:, None] * step + sums
        return distances


def grid_step(scale: float) -> float:
    """The grid of expected counts, in records: 2^-20, and coarser for a scale, below 2^52, of 2^32 records or more.

    float64 holds every multiple of the step up to 2^53 steps. With at most 2^52 steps (2^32 records) in a table
    and, by this choice, in its scale, all differences, their sums and the distance stay inside. Each cell's term
    |count - expected| - expected lies between -count and count, so partial sums never exceed the records.
    """
    return max(2.0**-20, 2 * float(np.spacing(scale)))


def _segment_sums(values: Floats, starts: Counts) -> Floats:
    sums = np.add.reduceat(np.append(values, 0.0), starts[:-1])
    return np.where(starts[1:] > starts[:-1], sums, 0.0)


def _sort(layout: Layout, tables: Sequence[Table]) -> tuple[Counts, Counts]:
    """(key, count) of every occupied cell, keys ascending: number all records in all cliques, sort, count runs."""
    keys = np.sort(np.concatenate([_packed(layout, table, t).ravel() for t, table in enumerate(tables)]))
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    return keys[first].astype(np.int64), np.diff(np.append(first, len(keys)))


def _count(layout: Layout, tables: Sequence[Table]) -> tuple[Counts, Counts]:
    """The same by histograms: for tables that fill a good part of their cells."""
    total = int(layout.offsets[-1])
    dense = np.empty((len(tables), total), dtype=np.int64)
    for t, table in enumerate(tables):
        dense[t] = contingencies(table, layout)
    flat = dense.ravel()
    keys = np.flatnonzero(flat)
    return keys, flat[keys]


def _packed(layout: Layout, table: Table, place: int) -> Floats:
    """(Q, n): every record's cell in every clique, numbered over all cliques and tables (exact in float64)."""
    codes = table.codes.T.astype(np.float64)
    numbers = np.empty((len(layout.cliques), len(table)))
    strip = max(_STRIP // max(layout.strides.size, 1), 1)
    for start in range(0, len(table), strip):
        part = slice(start, start + strip)
        np.matmul(layout.strides.T, codes[:, part], out=numbers[:, part])
    numbers += layout.offsets[:-1, None] + place * float(layout.offsets[-1])
    return numbers


def project(counts: npt.NDArray[np.generic], domain: Domain, clique: Clique, onto: Sequence[str]) -> npt.NDArray:  # type: ignore[type-arg]
    """Sum a marginal of ``clique`` down to the attributes ``onto``: (n_onto,) of the same dtype."""
    table = counts.reshape([domain.shape[domain.index(name)] for name in clique])
    dropped = tuple(axis for axis, name in enumerate(clique) if name not in set(onto))
    result: npt.NDArray = table.sum(axis=dropped).ravel()  # type: ignore[type-arg]
    return result
