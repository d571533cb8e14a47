"""One client of a federation: its table and what it computes of it at home."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from marginal_sdg.backends.base import Candidates
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.marginals import Answers, contingency, grid_step
from marginal_sdg.scores import quality
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Client:
    """``size``: the number of the client's records; under the sound calibration a noisy one, paid once."""

    table: Table
    workload: Workload
    size: float

    @property
    def scale(self) -> float:
        """What the scores compare marginals with: the size, at least 1 where noise made it smaller.

        It must not depend on the records beyond what is paid for: then an L1 norm has sensitivity 1.
        """
        return max(self.size, 1.0)

    @cached_property
    def one_way(self) -> dict[Clique, Counts]:
        """Exact 1-way marginals."""
        return {clique: contingency(self.table, clique) for clique in self.workload.one_way}

    def counts(self, clique: Clique) -> Counts:
        """Exact marginal of ``clique``, which leaves the client only inside a secure sum."""
        return self.one_way[clique] if len(clique) == 1 else contingency(self.table, clique)

    def contribution(self, clique: Clique) -> Counts:
        """What the client puts into a secure sum: (cells + 2,), its marginal, its size, and 1 for taking part."""
        return np.concatenate([self.counts(clique), [int(self.size), 1]])

    def skew(self, reference: Mapping[Clique, Floats]) -> Floats:
        """||M_j(D_k) - scale * reference_j||_1 for every attribute j of the workload: (d,) records.

        Expected counts are rounded to multiples of :func:`grid_step`, so that the norms are exact.
        """
        step = grid_step(self.scale)
        expected = {clique: np.rint(self.scale / step * reference[clique]) * step for clique in self.one_way}
        return np.array([np.abs(counts - expected[clique]).sum() for clique, counts in self.one_way.items()])

    def mean_skew(self, reference: Mapping[Clique, Floats], members: npt.NDArray[np.bool_]) -> Floats:
        """Mean of the skews of each candidate's attributes, rounded down to the grid: (Q,) records.

        ``members``: (d, Q), which attributes belong to which candidate. Rounding down a mean of exact norms keeps its
        sensitivity at 1: it is monotone, and one record more is a whole number of steps.
        """
        step = grid_step(self.scale)
        mean: Floats = np.floor_divide(self.skew(reference) / step @ members, members.sum(axis=0)) * step
        return mean


def score(
    clients: Sequence[Client],
    candidates: Candidates,
    model: Floats,
    sigma: float,
    skew: Mapping[Clique, Floats] | Floats | None,
) -> Floats:
    """Scores of all candidates at every client, counted in one pass: (clients, Q).

    ``model``: its distribution in the cells of the candidates' layout. ``skew``: what the heterogeneity term compares
    a client with: noisy 1-way distributions, exact ones in the same cells (Oracle), or nothing.
    Source: FLAIM Algorithm 1 line 6.
    """
    scales = [client.scale for client in clients]
    answers = Answers(candidates.layout, [client.table for client in clients])
    tau: Floats | float = 0.0
    if isinstance(skew, np.ndarray):
        tau = answers.l1_distances(skew, scales)
    elif skew is not None:
        members = _membership(clients[0].workload.one_way, candidates.layout.cliques)
        tau = np.array([client.mean_skew(skew, members) for client in clients])
    return quality(candidates.weights, answers.l1_distances(model, scales), sigma, candidates.cells, tau)


def _membership(one_way: Sequence[Clique], cliques: Sequence[Clique]) -> npt.NDArray[np.bool_]:
    """(d, Q): whether attribute j belongs to clique q."""
    return np.array([[attribute in clique for clique in cliques] for (attribute,) in one_way])
