"""A finite mixture of products: what a trained generator becomes, with an exact mass for every record."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table

_ROWS = 512  # of a table, in one matrix product


class ProductMixture:
    """p(x) = 1/m sum_i prod_j p_ij(x_j), times a number of records ``total``.

    A generator that turns a latent draw z into one softmax per attribute, and samples every attribute from its own,
    has the mass E_z prod_j p_zj(x_j). With m fixed latent draws this mixture is exactly that, and the model: records
    are sampled from it, their mass is no estimate. A smaller m would only make a worse model.

    Parameters
    ----------
    log_probabilities : (m, cells) float32, the logarithms of all attributes' probabilities, side by side in domain
        order. Finite: a cell's mass may be tiny, never zero.
    """

    def __init__(self, domain: Domain, log_probabilities: npt.NDArray[np.float32], total: float) -> None:
        self.domain = domain
        self.total = float(total)
        self._logs = log_probabilities
        self._starts = np.cumsum([0, *domain.shape])

    def _attribute(self, position: int) -> npt.NDArray[np.float32]:
        return self._logs[:, self._starts[position] : self._starts[position + 1]]

    def log_likelihood(self, table: Table) -> npt.NDArray[np.float64]:
        """Natural logarithm of the mass of every record: (n,)."""
        logs: npt.NDArray[np.float64] = np.empty(len(table))
        for start in range(0, len(table), _ROWS):
            codes = table.codes[start : start + _ROWS]
            ones = np.zeros((len(codes), self._logs.shape[1]), dtype=np.float32)
            np.put_along_axis(ones, codes + self._starts[:-1], 1, axis=1)
            logs[start : start + _ROWS] = logsumexp(ones @ self._logs.T, axis=1)
        logs -= np.log(len(self._logs))
        return logs

    def marginal(self, clique: str | Iterable[str]) -> npt.NDArray[np.float64]:
        """Expected counts of a marginal: (n_q,), the last attribute running fastest."""
        names = self.domain.clique(clique)
        joint = np.full((1, len(self._logs)), self.total / len(self._logs))
        for name in names[:-1]:
            factor = np.exp(self._attribute(self.domain.index(name)), dtype=np.float64)
            joint = np.einsum("qm,mk->qkm", joint, factor).reshape(-1, len(self._logs))
        last = [np.exp(self._attribute(self.domain.index(name)), dtype=np.float64) for name in names[-1:]]
        counts: npt.NDArray[np.float64] = (joint @ last[0]).ravel() if last else joint.sum(axis=1)
        return counts

    def sample(self, rows: int | None = None, rng: np.random.Generator | None = None) -> Table:
        """Records drawn independently; ``rows`` defaults to ``total``, rounded."""
        rng = rng or np.random.default_rng()
        n = max(round(self.total), 1) if rows is None else rows
        component = rng.integers(len(self._logs), size=n)
        codes = np.empty((n, len(self.domain)), dtype=np.int32)
        for j, size in enumerate(self.domain.shape):
            sums = np.exp(self._attribute(j), dtype=np.float64).cumsum(axis=1)
            # one sorted list for all components: the values from i to i + 1 are component i's
            edges = (np.arange(len(sums))[:, None] + sums / sums[:, -1:]).ravel()
            found = np.searchsorted(edges, component + rng.random(n), side="right")
            codes[:, j] = np.clip(found - component * size, 0, size - 1)
        return Table(self.domain, codes)
