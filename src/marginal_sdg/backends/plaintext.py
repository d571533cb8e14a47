"""AIM's trust model: one curator holds the table and adds the noise."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from marginal_sdg.backends.base import PublicState, pick_from
from marginal_sdg.backends.tally import Tally
from marginal_sdg.domain import Clique, Domain
from marginal_sdg.encoding import Table
from marginal_sdg.marginals import Answers, Counts, Layout, contingency
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.release import Measurement, Selection, estimate_total
from marginal_sdg.schedule import Costs, Step
from marginal_sdg.scores import quality, sensitivity
from marginal_sdg.workload import Workload

AIM_COSTS = Costs(initial=1, gaussians=1, last_gaussians=1, selections=1)


def first_cliques(domain: Domain, one_way: Sequence[Clique], known: Container[str]) -> list[Clique]:
    """What AIM measures before its first round: the 1-way marginals that are not known exactly.

    The one with the fewest cells says best how many records there are. Where it is left out, the number of records (the
    empty clique) is measured instead.
    """
    unknown = [clique for clique in one_way if clique[0] not in known]
    if unknown and min(map(domain.size, unknown)) == min(map(domain.size, one_way)):
        return unknown
    return [*unknown, ()]


class PlaintextBackend:
    """The exact marginals of one table, in memory or counted already, in the clear with its curator.

    ``sound=False`` treats the exact number of records as public, as the FLAIM paper's code does: the model and every
    measurement are scaled to it, and the score then has twice the sensitivity that it is charged for. ``known``:
    attributes whose marginal is known exactly, so that measuring it first would be a waste.
    """

    def __init__(self, table: Table | Tally, workload: Workload, *, sound: bool, known: Container[str] = ()) -> None:
        self._known = known
        self._table = table
        self.costs = replace(AIM_COSTS, initial=len(self._first(workload.one_way)))
        self._sound = sound
        self._answers: Answers | None = None  # of the latest candidates, which rarely change between rounds

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure every 1-way marginal that is not known once; see :func:`first_cliques`."""
        return self._measure(self._first(cliques), step, ledger, "initial marginals")

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Pick the clique that the model answers worst, by the exponential mechanism."""
        penalty = self._penalty(step)
        candidates = pick_from(state, step, state.total, sound=self._sound, heterogeneity=False, penalty=penalty)
        answers = self._answered(candidates.layout)
        (distances,) = answers.l1_distances(state.model.distribution(candidates.layout), [state.total])
        (choice,) = ledger.select(
            [quality(candidates.weights, distances, penalty, candidates.cells)],
            step.epsilon2,
            sensitivity=sensitivity(heterogeneity=False),
            what=f"round {step.index + 1}: select a clique",
        )
        return Selection({candidates.layout.cliques[choice]: (0,)})

    def _first(self, one_way: Sequence[Clique]) -> Sequence[Clique]:
        """What is measured before the first round."""
        return first_cliques(self._table.domain, one_way, self._known)

    def _penalty(self, step: Step) -> float:
        """The noise per cell that a candidate's score is lowered for."""
        return step.sigma

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure the selected clique."""
        return self._measure(selection.cliques, step, ledger, f"round {step.index + 1}: measure")

    def _answered(self, layout: Layout) -> Answers:
        if self._answers is None or self._answers.layout.cliques != layout.cliques:
            table = self._table
            self._answers = table.answers(layout) if isinstance(table, Tally) else Answers(layout, [table])
        return self._answers

    def _count(self, clique: Clique) -> Counts:
        table = self._table
        return table.contingency(clique) if isinstance(table, Tally) else contingency(table, clique)

    def _measure(self, cliques: Sequence[Clique], step: Step, ledger: Ledger, what: str) -> list[Measurement]:
        exact = [self._count(clique) for clique in cliques]
        noisy = ledger.gaussian(exact, step.variance, per_record=max(len(cliques), 1), what=what)
        return [
            Measurement(clique, counts, step.sigma, None if self._sound else float(counts.sum()) or None)
            for clique, counts in zip(cliques, noisy, strict=True)
        ]

    def total(self, measurements: Sequence[Measurement]) -> float:
        """The noisy total, by inverse variance; the exact number under the paper's calibration."""
        return estimate_total(measurements) if self._sound else float(max(len(self._table), 1))
