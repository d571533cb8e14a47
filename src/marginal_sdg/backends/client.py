"""One client of a federation: its table and what it computes of it at home."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.marginals import contingency
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Client:
    """``size``: the number of records that the client's scores are scaled to.

    Under the sound calibration it is a noisy size, paid once; then the scores have sensitivity 1 per L1 norm.
    """

    table: Table
    workload: Workload
    size: float

    @cached_property
    def one_way(self) -> dict[Clique, Counts]:
        """Exact 1-way marginals."""
        return {clique: contingency(self.table, clique) for clique in self.workload.one_way}

    def counts(self, clique: Clique) -> Counts:
        """Exact marginal of ``clique``, which leaves the client only inside a secure sum."""
        return self.one_way[clique] if len(clique) == 1 else contingency(self.table, clique)

    def skew(self, reference: dict[Clique, Floats]) -> Floats:
        """||M_j(D_k) - size * reference_j||_1 for every attribute j of the workload: (d,) records."""
        return np.array(
            [np.abs(counts - self.size * reference[clique]).sum() for clique, counts in self.one_way.items()]
        )
