"""Exact marginals of records that are counted once, a chunk at a time: they stand for a table larger than memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique, Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import DomainError
from marginal_sdg.marginals import Answers, Counts, Layout, project

MAX_CELLS = 2**27  # that are counted at once: 1 GiB

_ROWS = 1 << 18  # counted at a time: their cell numbers fit a core's cache


class Tally:
    """Exact and private counts of some cliques, of which no one lies within another, and so of all within these.

    ``layout``: the cliques; ``counts``: (cells,) int64; ``records``: how many there are.
    """

    def __init__(self, layout: Layout, counts: Counts, records: int) -> None:
        self.domain = layout.domain
        self._layout = layout
        self._counts = counts
        self._records = records

    @classmethod
    def of(cls, chunks: Iterable[Table], domain: Domain, cliques: Sequence[Clique]) -> Tally:
        """Count the records of all chunks in one pass. Memory: 8 bytes a cell; ``DomainError`` beyond ``MAX_CELLS``."""
        layout = Layout(domain, maximal(cliques))
        cells = int(layout.offsets[-1])
        if cells > MAX_CELLS:
            raise DomainError(
                f"workload: {cells:.3g} cells are too many to count in one pass, at most {MAX_CELLS:.3g}; use fewer or "
                "smaller cliques"
            )
        counts, records = np.zeros(cells, dtype=np.int64), 0
        for chunk in chunks:
            records += len(chunk)
            for start in range(0, len(chunk), _ROWS):
                _count(np.ascontiguousarray(chunk.codes[start : start + _ROWS].T, dtype=np.int64), layout, counts)
        return cls(layout, counts, records)

    def __len__(self) -> int:
        return self._records

    def contingency(self, clique: Clique) -> Counts:
        """Counts in every cell of a clique within one of those counted: (n_q,) int64."""
        names = set(clique)
        within = min((q for q in self._layout.cliques if names.issubset(q)), key=self.domain.size)
        return project(self._counts[self._layout.cells_of(within)], self.domain, within, clique)

    def answers(self, layout: Layout) -> Answers:
        """The answers of the one table that was counted."""
        return Answers.of_counts(layout, np.concatenate([self.contingency(clique) for clique in layout.cliques]))


def maximal(cliques: Iterable[Clique]) -> tuple[Clique, ...]:
    """The cliques that lie within no other one, in their order."""
    sets = {clique: frozenset(clique) for clique in cliques}
    return tuple(clique for clique, names in sets.items() if not any(names < other for other in sets.values()))


def _count(columns: npt.NDArray[np.int64], layout: Layout, counts: Counts) -> None:
    """Add some records, (d, n) codes by column, to the counts of all cliques."""
    domain = layout.domain
    for clique, size in zip(layout.cliques, layout.sizes, strict=True):
        first, *others = (domain.index(name) for name in clique)
        numbers = columns[first]
        for index in others:
            numbers = numbers * domain.shape[index]
            numbers += columns[index]
        counts[layout.cells_of(clique)] += np.bincount(numbers, minlength=size)
