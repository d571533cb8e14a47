"""A model restricted to some codes of some attributes: conditional marginals and samples without rejection."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import DataError, DomainError
from marginal_sdg.graphical.model import GraphicalModel

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Conditional:
    """p(x | x_a in allowed_a for every restricted attribute a), over the original domain.

    ``probability``: that a record of the model lies in the restriction; ``total``: records in it, expected.
    """

    domain: Domain
    probability: float
    total: float
    kept: Mapping[str, Codes]
    _inner: GraphicalModel

    @classmethod
    def of(cls, model: GraphicalModel, allowed: Mapping[str, Iterable[int]]) -> Conditional:
        """Slice every potential to the allowed codes and calibrate again: exact, and cheaper than the full model."""
        for name in allowed:
            model.domain.index(name)  # unknown names are refused here
        kept = {name: _codes(name, model.domain[name].size, allowed.get(name)) for name in model.domain.names}
        smaller = Domain.from_shape({name: len(codes) for name, codes in kept.items()})
        potentials = {}
        for clique, theta in model.potentials.items():
            table = theta.reshape([model.domain[name].size for name in clique])
            potentials[clique] = table[np.ix_(*(kept[name] for name in clique))].ravel()
        try:
            inner = GraphicalModel(smaller, potentials, 1.0)
        except DataError:
            raise DomainError("given: such records are impossible in this model; allow more codes") from None
        probability = math.exp(min(inner.log_partition - model.log_partition, 0.0))
        return cls(model.domain, probability, model.total * probability, kept, inner)

    def marginal(self, clique: Iterable[str]) -> Floats:
        """Expected counts of ``clique`` among the records of the restriction, shaped by its attributes; 0 elsewhere."""
        names = self.domain.clique(clique)
        full = np.zeros([self.domain[name].size for name in names])
        inside = np.ix_(*(self.kept[name] for name in names))
        full[inside] = self.total * self._inner.marginal(names)
        return full

    def sample(self, rows: int | None = None, rng: np.random.Generator | None = None, *, rounded: bool = True) -> Table:
        """Draw records of the restriction; ``rows`` defaults to their expected number."""
        count = round(self.total) if rows is None else rows
        codes = self._inner.sample(count, rng, rounded=rounded).codes
        columns = [self.kept[name][codes[:, i]] for i, name in enumerate(self.domain.names)]
        return Table(self.domain, np.stack(columns, axis=1).astype(np.int32))


def _codes(name: str, size: int, allowed: Iterable[int] | None) -> Codes:
    if allowed is None:
        return np.arange(size)
    codes = np.unique(np.fromiter(allowed, dtype=np.int64))
    if not len(codes) or codes[0] < 0 or codes[-1] >= size:
        raise DomainError(f"given: attribute {name!r} needs at least one code, each between 0 and {size - 1}")
    return codes
