"""AIM's trust model: one curator holds the table and adds the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from marginal_sdg.backends.base import PublicState
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.marginals import Answers
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.release import Measurement, Selection, estimate_total
from marginal_sdg.schedule import Costs, Step
from marginal_sdg.scores import quality, sensitivity
from marginal_sdg.workload import Workload

AIM_COSTS = Costs(initial=1, gaussians=1, last_gaussians=1, selections=1)


class PlaintextBackend:
    """The exact marginals of one table, in the clear with its curator.

    ``sound=False`` treats the exact number of records as public, as the FLAIM paper's code does: the model and every
    measurement are scaled to it, and the score then has twice the sensitivity that it is charged for.
    """

    def __init__(self, table: Table, workload: Workload, *, sound: bool) -> None:
        self.costs = replace(AIM_COSTS, initial=len(workload.one_way))
        self._answers = Answers(workload.layout, table)
        self._sound = sound

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure every 1-way marginal once."""
        return self._measure(cliques, step, ledger, "initial 1-way marginals")

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Pick the clique that the model answers worst, by the exponential mechanism."""
        places = state.candidates
        layout, importance = state.workload.layout, state.workload.importance[places]
        distances = self._answers.l1_distances(state.distribution, state.total)[places]
        scores = quality(importance, distances, step.sigma, layout.cells[places])
        (choice,) = ledger.select(
            [scores],
            step.epsilon2,
            sensitivity=sensitivity(heterogeneity=False),
            what=f"round {step.index + 1}: select a clique",
        )
        return Selection({layout.cliques[places[choice]]: (0,)})

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure the selected clique."""
        return self._measure(selection.cliques, step, ledger, f"round {step.index + 1}: measure")

    def _measure(self, cliques: Sequence[Clique], step: Step, ledger: Ledger, what: str) -> list[Measurement]:
        exact = [self._answers.counts(clique) for clique in cliques]
        noisy = ledger.gaussian(exact, step.variance, per_record=len(cliques), what=what)
        return [
            Measurement(clique, counts, step.sigma, None if self._sound else float(counts.sum()) or None)
            for clique, counts in zip(cliques, noisy, strict=True)
        ]

    def total(self, measurements: Sequence[Measurement]) -> float:
        """The noisy total, by inverse variance; the exact number under the paper's calibration."""
        return estimate_total(measurements) if self._sound else float(max(self._answers.records, 1))
