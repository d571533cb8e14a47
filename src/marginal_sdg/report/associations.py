"""Cramér's V of the most associated columns, grouped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from marginal_sdg.encoding import Table
from marginal_sdg.evaluation import some_rows
from marginal_sdg.metrics import associations

MOST_ASSOCIATED = 16  # columns in a heat map
MOST_PAIRED = 100  # columns whose pairs are looked at

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Associations:
    """Cramér's V of all pairs of ``columns``, the most associated of ``among``, in an order that groups them."""

    columns: tuple[str, ...]
    among: int
    rows: int
    synthetic: Matrix
    real: Matrix | None

    @classmethod
    def of(cls, tables: Sequence[Table], target: str | None) -> Associations | None:
        """``tables``: synthetic and maybe real rows. None for a single column; ``target`` is among those chosen."""
        names = tables[0].domain.names[:MOST_PAIRED]
        if len(names) < 2:
            return None
        samples = [some_rows(table).select(names) for table in tables]
        matrices = [associations(sample) for sample in samples]
        strongest = np.max([np.where(np.eye(len(names)), 0, matrix).max(axis=0) for matrix in matrices], axis=0)
        if target in names:
            strongest[names.index(target)] = np.inf
        chosen = np.argsort(-strongest, kind="stable")[:MOST_ASSOCIATED]
        chosen = chosen[_grouped(matrices[-1][np.ix_(chosen, chosen)])]
        shown = [tuple(map(tuple, matrix[np.ix_(chosen, chosen)].tolist())) for matrix in matrices]
        rows = min(len(sample) for sample in samples)
        return cls(tuple(names[i] for i in chosen), len(names), rows, shown[0], shown[1] if len(shown) > 1 else None)


def _grouped(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """An order in which columns that go together stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    distances = [1 - matrix[i, j] for i, j in combinations(range(len(matrix)), 2)]
    order: npt.NDArray[np.int64] = leaves_list(linkage(distances, "average", optimal_ordering=True))
    return order
