"""FHAIM's trust model: the table stays encrypted; server and key holder see noisy marginals and winners only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from marginal_sdg.backends.base import Places, PublicState
from marginal_sdg.backends.plaintext import AIM_COSTS
from marginal_sdg.backends.vault import LARGEST_SQUARE, NormBallot, Vault
from marginal_sdg.domain import Clique
from marginal_sdg.errors import ProtocolError
from marginal_sdg.marginals import Counts, Layout
from marginal_sdg.privacy.joint import GUMBEL_BITS, part_variance
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.release import Measurement, Selection, estimate_total
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

_FRACTION = 6  # binary places of a norm
_SQUARE_BITS = 40  # of the noise's grid: a square is worth little


class EncryptedBackend:
    """Data holders, who encrypt their tables and all noise; a server; a key holder.

    One holder makes the noise alone. Of several, each adds a part, and knows it: what the others add is charged, so
    that a release protects every holder's records from any one other holder as well.

    Scores are w_q (||M_q - model_q||_2 - sigma sqrt(n_q)), whose norm changes by at most 1 with a record; or, with
    ``squared``, w_q (||M_q - model_q||_2^2 - sigma^2 n_q) as in the FHAIM paper, whose norm changes by up to
    2 max|M_q - model_q| + 1, here bounded by ``max_records``: the public cap that the holder keeps to.
    """

    def __init__(self, vault: Vault, workload: Workload, *, squared: bool, max_records: int, holders: int = 1) -> None:
        self.costs = replace(AIM_COSTS, initial=len(workload.one_way))
        self._vault = vault
        self._workload = workload
        self._squared = squared
        self._max_records = max_records
        self._holders = holders
        self._by = "holder" if holders == 1 else "holders"

    @property
    def _sensitivity(self) -> int:
        """Of a score without its weight: |(x + 1)^2 - x^2| is at most 2 |x| + 1, and no cell exceeds the cap."""
        return 2 * self._max_records + 1 if self._squared else 1

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure every 1-way marginal once."""
        return self._measure(cliques, step, ledger, "initial 1-way marginals")

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Pick the clique that the model answers worst in the L2 norm."""
        workload = self._workload
        step = replace(step, variance=self._holders * part_variance(step.variance, self._holders))  # of all parts
        places = self._scored(state)
        layout = workload.layout(places)
        noise = ledger.gumbel_parts(
            len(places),
            step.epsilon2,
            sensitivity=self._sensitivity,
            servers=self._holders,
            bits=_SQUARE_BITS if self._squared else GUMBEL_BITS,
            by=self._by,
            what=f"round {step.index + 1}: select a clique",
        )
        expected = _expected(state, layout)
        importance = workload.importance[places] / workload.importance[places].max()
        cells = workload.cells[places]
        penalty = float(step.variance) * cells if self._squared else step.sigma * np.sqrt(cells)
        fraction = None if self._squared else _FRACTION
        ballot = NormBallot(
            layout.cliques,
            tuple(np.split(expected, layout.offsets[1:-1])),
            weights=np.floor(importance * (noise.unit >> (fraction or 0))).astype(np.int64),
            penalties=np.rint(importance * noise.unit * penalty).astype(np.int64),
            fraction=fraction,
        )
        return Selection({layout.cliques[self._vault.select(ballot, noise.parts, noise.bound)]: (0,)})

    def _scored(self, state: PublicState) -> Places:
        """Affordable candidates whose squared distance fits into a plaintext, whatever the records are.

        With many records, those with nearly all of the model in one cell do not: little is to be learnt there.
        """
        workload = self._workload
        places = np.array([p for p in range(len(workload.closure)) if state.affords(p)], dtype=np.int64)
        layout = workload.layout(places)
        squares = np.add.reduceat(_expected(state, layout) ** 2, layout.offsets[:-1])
        fitting = places[squares + self._max_records**2 <= LARGEST_SQUARE]
        if not len(fitting):
            raise ProtocolError("select: no candidate's square distance fits into a plaintext; lower max_records")
        return fitting

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure the selected clique."""
        return self._measure(selection.cliques, step, ledger, f"round {step.index + 1}: measure")

    def total(self, measurements: Sequence[Measurement]) -> float:
        """The noisy total, by inverse variance; never above the public cap."""
        return min(estimate_total(measurements), float(self._max_records))

    def _measure(self, cliques: Sequence[Clique], step: Step, ledger: Ledger, what: str) -> list[Measurement]:
        cells = [self._workload.domain.size(clique) for clique in cliques]
        per_record = max(len(cliques), 1)
        noise = ledger.gaussian_parts(
            cells, step.variance, servers=self._holders, per_record=per_record, by=self._by, what=what
        )
        sigma = math.sqrt(noise.variance)
        return [
            Measurement(clique, counts, sigma)
            for clique, counts in zip(cliques, self._vault.measure(cliques, noise.parts), strict=True)
        ]


def _expected(state: PublicState, layout: Layout) -> Counts:
    """(cells,) int64: the model's counts, rounded."""
    return np.rint(state.model.distribution(layout) * state.total).astype(np.int64)
