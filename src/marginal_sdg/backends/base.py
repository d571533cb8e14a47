"""The privacy boundary: what a backend promises, and the public state that the loop hands to it."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.generators.base import Generator
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.marginals import Layout
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.release import Measurement, Selection
from marginal_sdg.schedule import Costs, Step
from marginal_sdg.scores import negligible_gap, quality_bounds
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PublicState:
    """What everybody may know when a round begins: post-processing of paid releases only.

    ``total``: records, estimated; ``cell_limit``: the junction tree may have that many cells after this round.
    """

    workload: Workload
    model: GraphicalModel
    measurements: tuple[Measurement, ...]
    generator: Generator
    total: float
    cell_limit: float

    def affords(self, place: int) -> bool:
        """Whether the junction tree stays below the limit with this candidate of the workload's closure.

        A clique inside a node of the present tree costs nothing. Source: AIM §4.2.
        """
        known = self._affords.get(place)
        if known is None:
            mask = self.workload.masks[place]
            cliques = (*self.model.cliques, self.workload.closure[place])
            inside = any(mask & node == mask for node in self.model.tree.nodes)
            known = self._affords[place] = inside or self.generator.cells(cliques) <= self.cell_limit
        return known

    @cached_property
    def _affords(self) -> dict[int, bool]:
        return {}

    def refit(self, extra: Sequence[Measurement]) -> PublicState:
        """The state of someone who has ``extra`` measurements as well: a client between two local steps."""
        measurements = (*self.measurements, *extra)
        model = self.generator.fit(measurements, self.total, warm_start=self.model)
        return replace(self, model=model, measurements=measurements)


@dataclass(frozen=True)
class Candidates:
    """What may be selected in one round: cliques end to end in a layout, weights (largest 1 or less) and cells."""

    layout: Layout
    weights: Floats
    cells: Floats

    def only(self, cliques: Container[Clique]) -> Candidates:
        """Those of ``cliques``, in the same order."""
        kept = [place for place, clique in enumerate(self.layout.cliques) if clique in cliques]
        if not kept:
            raise ProtocolError("select: no candidate has been shared by all clients of the pool; run the fit again")
        if len(kept) == len(self.cells):
            return self
        layout = Layout(self.layout.domain, tuple(self.layout.cliques[place] for place in kept))
        return Candidates(layout, self.weights[kept], self.cells[kept])


def pick_from(
    state: PublicState,
    step: Step,
    size: float,
    *,
    sound: bool,
    heterogeneity: bool,
    ways: Container[int] | None = None,
    penalty: float | None = None,
) -> Candidates:
    """The affordable candidates that a table of about ``size`` records could pick.

    ``ways``: only those of so many attributes; ``penalty``: the noise that lowers scores, the step's sigma by default.

    Left out is what could not be picked with a probability above e^-40, whatever the records: typically marginals so
    large that measuring them would add more noise than the table has records. Weights are relative to the largest
    that is left; under the paper's calibration to the largest of all affordable candidates, which wastes some of the
    selection's budget on those that nobody could pick.
    """
    workload = state.workload
    importance, cells = workload.importance, workload.cells
    pool = np.flatnonzero([ways is None or len(clique) in ways for clique in workload.closure])
    if not any(state.affords(int(place)) for place in pool):
        pool = np.arange(len(workload.closure))  # 1-way marginals are always affordable
        if not any(state.affords(int(place)) for place in pool):
            raise ConfigError("max_model_mb: no marginal of the workload fits into the model; raise it")
    weights = importance / importance.max()
    penalty = step.sigma if penalty is None else penalty
    low, high = quality_bounds(weights, penalty, cells, size, heterogeneity=heterogeneity)
    safe = next(place for place in pool[np.argsort(-low[pool])] if state.affords(place))
    gap = negligible_gap(math.sqrt(step.epsilon2), heterogeneity=heterogeneity)
    places = np.array([p for p in pool if high[p] >= low[safe] - gap and state.affords(p)], dtype=np.int64)
    if sound:
        largest = importance[places].max()
    else:
        largest = next(importance[p] for p in pool[np.argsort(-importance[pool])] if state.affords(p))
    return Candidates(workload.layout(places), importance[places] / largest, cells[places])


class Backend(Protocol):
    """Holds the exact marginals; the only place where private data is touched.

    Guarantees, which the tests cite:

    * G1: every charge is in the ledger before any value leaves.
    * G2: what leaves depends on records only through charged mechanisms.
    * G3: errors, shapes, order and number of calls depend on public inputs only.
    * G4: domain, adjacency (add or remove one record) and the contribution bound are public.
    * G5: the number of records is private; ``total`` is computed from paid releases (``calibration="sound"``).
    """

    costs: Costs

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure the 1-way marginals, and whatever else a method needs before its first round."""
        ...

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Pick the cliques to measure, by charged mechanisms."""
        ...

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Release the selected marginals with exact discrete Gaussian noise."""
        ...

    def total(self, measurements: Sequence[Measurement]) -> float:
        """The number of records of the whole table, estimated from what has been released; at least 1."""
        ...
