"""The Generate step: from noisy marginals to a model of the whole table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from marginal_sdg.domain import Clique, Domain
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.release import Measurement


class Generator(Protocol):
    """Fits a model to measurements. All its inputs are public, so nothing here can cost privacy."""

    domain: Domain

    def fit(
        self,
        measurements: Sequence[Measurement],
        total: float,
        *,
        warm_start: GraphicalModel | None = None,
        final: bool = False,
    ) -> GraphicalModel:
        """Fit to all measurements, scaled to ``total`` records; ``final`` asks for the full precision."""
        ...

    def cells(self, cliques: Iterable[Clique]) -> int:
        """Cells of the model that measures ``cliques``, known before any memory is allocated."""
        ...
