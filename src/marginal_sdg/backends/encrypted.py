"""FHAIM's trust model: the table stays encrypted; server and key holder see noisy marginals and winners only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from marginal_sdg.backends.base import Places, PublicState
from marginal_sdg.backends.distance import Distance
from marginal_sdg.backends.plaintext import AIM_COSTS
from marginal_sdg.backends.vault import LARGEST_SQUARE, Ballot, Vault
from marginal_sdg.domain import Clique
from marginal_sdg.errors import ProtocolError
from marginal_sdg.marginals import Counts, Layout
from marginal_sdg.privacy.joint import part_variance
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.release import Measurement, Selection, estimate_total
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload


class EncryptedBackend:
    """Data holders, who encrypt their tables and all noise; a server; a key holder.

    One holder makes the noise alone. Of several, each adds a part, and knows it: what the others add is charged, so
    that a release protects every holder's records from any one other holder as well.

    Scores are w_q (d_q - noise_q): how far the model's marginal is from the true one, less what measuring it would
    leave. ``distance``: what d_q is and how much a record changes it at most; it has the public cap on records.

    ``holders``: all of them; those ``elsewhere``, the last ones, pay and draw their own parts of the noise.
    """

    def __init__(
        self, vault: Vault, workload: Workload, distance: Distance, *, holders: int = 1, elsewhere: int = 0
    ) -> None:
        self.costs = replace(AIM_COSTS, initial=len(workload.one_way))
        self._vault = vault
        self._workload = workload
        self._distance = distance
        self._holders = holders
        self._here = range(holders - elsewhere)
        self._by = "holder" if holders == 1 else "holders"

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure every 1-way marginal once."""
        return self._measure(cliques, step, ledger, "initial 1-way marginals")

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Pick the clique that the model answers worst."""
        workload, distance = self._workload, self._distance
        paid, step = step, replace(step, variance=self._holders * part_variance(step.variance, self._holders))  # of all
        places = self._scored(state)
        layout = workload.layout(places)
        noise = ledger.gumbel_parts(
            len(places),
            step.epsilon2,
            sensitivity=distance.sensitivity,
            servers=self._holders,
            bits=distance.grid,
            by=self._by,
            here=self._here,
            what=f"round {step.index + 1}: select a clique",
        )
        importance = workload.importance[places] / workload.importance[places].max()
        ballot = Ballot(
            layout.cliques,
            tuple(np.split(_expected(state, layout), layout.offsets[1:-1])),
            weights=np.floor(importance * (noise.unit >> distance.fraction)).astype(np.int64),
            penalties=np.rint(importance * noise.unit * distance.noise(step.sigma, workload.cells[places])).astype(
                np.int64
            ),
            distance=distance,
        )
        return Selection({layout.cliques[self._vault.select(ballot, noise.parts, noise.bound, paid)]: (0,)})

    def _scored(self, state: PublicState) -> Places:
        """Affordable candidates whose squared distance, where it is needed, fits into a plaintext for any table.

        With many records, those with nearly all of the model in one cell do not: little is to be learnt there.
        """
        workload = self._workload
        places = np.array([p for p in range(len(workload.closure)) if state.affords(p)], dtype=np.int64)
        if not self._distance.is_square:
            return places
        layout = workload.layout(places)
        squares = np.add.reduceat(_expected(state, layout) ** 2, layout.offsets[:-1])
        fitting = places[squares + self._distance.records**2 <= LARGEST_SQUARE]
        if not len(fitting):
            raise ProtocolError("select: no candidate's square distance fits into a plaintext; lower max_records")
        return fitting

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure the selected clique."""
        return self._measure(selection.cliques, step, ledger, f"round {step.index + 1}: measure")

    def total(self, measurements: Sequence[Measurement]) -> float:
        """The noisy total, by inverse variance; never above the public cap."""
        return min(estimate_total(measurements), float(self._distance.records))

    def _measure(self, cliques: Sequence[Clique], step: Step, ledger: Ledger, what: str) -> list[Measurement]:
        cells = [self._workload.domain.size(clique) for clique in cliques]
        per_record = max(len(cliques), 1)
        noise = ledger.gaussian_parts(
            cells,
            step.variance,
            servers=self._holders,
            per_record=per_record,
            by=self._by,
            here=self._here,
            what=what,
        )
        sigma = math.sqrt(noise.variance)
        return [
            Measurement(clique, counts, sigma)
            for clique, counts in zip(cliques, self._vault.measure(cliques, noise.parts, step), strict=True)
        ]


def _expected(state: PublicState, layout: Layout) -> Counts:
    """(cells,) int64: the model's counts, rounded."""
    return np.rint(state.model.distribution(layout) * state.total).astype(np.int64)
