"""The privacy boundary: what a backend promises, and the public state that the loop hands to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique
from marginal_sdg.generators.base import Generator
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.marginals import Layout
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.release import Measurement, Selection
from marginal_sdg.schedule import Costs, Step
from marginal_sdg.scores import plausible
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

    @cached_property
    def affordable(self) -> Places:
        """Places in the workload's closure that may be selected: the junction tree stays below the limit.

        A clique inside a node of the present tree costs nothing. Source: AIM §4.2.
        """
        measured, nodes = self.model.cliques, self.model.tree.nodes
        places = [
            place
            for place, (clique, mask) in enumerate(zip(self.workload.closure, self.workload.masks, strict=True))
            if any(mask & node == mask for node in nodes)
            or self.generator.cells((*measured, clique)) <= self.cell_limit
        ]
        return np.array(places, dtype=np.int64)

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


def pick_from(
    state: PublicState, step: Step, size: float, *, sound: bool, heterogeneity: bool, fewest: int = 1
) -> Candidates:
    """The affordable candidates with at least ``fewest`` attributes that a table of about ``size`` records could pick.

    Weights are relative to the largest of these; under the paper's calibration to the largest of all affordable ones,
    which wastes some of the selection's budget on candidates that nobody could pick.
    """
    workload = state.workload
    allowed = [p for p in state.affordable if len(workload.closure[p]) >= fewest]
    affordable = np.array(allowed, dtype=np.int64) if allowed else state.affordable
    importance, cells = workload.importance[affordable], workload.cells[affordable]
    epsilon = math.sqrt(step.epsilon2)
    likely = plausible(importance, cells, step.sigma, epsilon, size, heterogeneity=heterogeneity)
    largest = importance[likely].max() if sound else importance.max()
    return Candidates(workload.layout(affordable[likely]), importance[likely] / largest, cells[likely])


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
