"""One client of a federation: its table, its exact answers, and the scores it computes at home."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from marginal_sdg.encoding import Table
from marginal_sdg.marginals import Answers, contingency
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Client:
    """``size``: the number of records that the client's scores are scaled to.

    Under the sound calibration it is a noisy size, paid once; then the scores have sensitivity 1 per L1 norm.
    """

    table: Table
    workload: Workload
    size: float

    @cached_property
    def answers(self) -> Answers:
        """Exact marginals of the closure: private, never sent."""
        return Answers(self.workload.layout, self.table)

    @cached_property
    def one_way(self) -> list[npt.NDArray[np.int64]]:
        """Exact 1-way marginals, in the order of the workload."""
        return [contingency(self.table, clique) for clique in self.workload.one_way]

    def distances(self, distribution: Floats) -> Floats:
        """||M_q(D_k) - size * p_q||_1 for every candidate: (Q,) records."""
        return self.answers.l1_distances(distribution, self.size)

    def skew(self, reference: list[Floats]) -> Floats:
        """tau_k(q) = mean over the attributes j of q of ||M_j(D_k) - size * reference_j||_1: (Q,) records.

        Source: FLAIM §4.3, Algorithm 1 line 6.
        """
        per_attribute = [
            float(np.abs(counts - self.size * expected).sum())
            for counts, expected in zip(self.one_way, reference, strict=True)
        ]
        place = {clique[0]: j for j, clique in enumerate(self.workload.one_way)}
        return np.array([np.mean([per_attribute[place[name]] for name in q]) for q in self.workload.closure])
