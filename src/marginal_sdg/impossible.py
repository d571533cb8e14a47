"""Records that cannot exist (structural zeros): public conditions that no synthetic record satisfies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from marginal_sdg.condition import allowed_codes
from marginal_sdg.domain import Clique, Domain
from marginal_sdg.errors import ConfigError, DataError, DomainError
from marginal_sdg.estimates import cell_label
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.marginals import Layout
from marginal_sdg.release import Measurement

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StructuralZeros:
    """What conditions such as ``age < 16 and marital == married`` exclude: ``blocks`` of codes by attribute.

    A bin is excluded where the condition holds for all its values, and a missing value never is.
    """

    domain: Domain
    blocks: tuple[Mapping[str, Sequence[int]], ...]

    @classmethod
    def read(cls, domain: Domain, conditions: Sequence[str]) -> StructuralZeros:
        """Read conditions; ConfigError, with the condition's place, where one cannot be read or fits no whole bin."""
        if not isinstance(conditions, list | tuple):
            raise ConfigError(
                f"impossible: needs a list of conditions such as 'age < 16 and job == judge', got {conditions!r}"
            )
        blocks = []
        for place, condition in enumerate(conditions):
            try:
                blocks.append(allowed_codes(domain, str(condition)))
                Layout(domain, (domain.clique(blocks[-1]),))
            except (ConfigError, DomainError) as error:
                raise ConfigError(f"impossible[{place}]: {str(error).removeprefix('where: ')}") from None
        return cls(domain, tuple(blocks))

    @property
    def cliques(self) -> tuple[Clique, ...]:
        """The cliques that the conditions name; the model has to hold them."""
        return tuple(dict.fromkeys(self.domain.clique(block) for block in self.blocks))

    @cached_property
    def log_potentials(self) -> dict[Clique, Floats]:
        """Clique -> (n_q,) float64: -inf where a cell is impossible, else 0."""
        tables = {clique: np.zeros([self.domain[name].size for name in clique]) for clique in self.cliques}
        for block in self.blocks:
            clique = self.domain.clique(block)
            tables[clique][np.ix_(*(block[name] for name in clique))] = -np.inf
        return {clique: table.ravel() for clique, table in tables.items()}

    @cached_property
    def uniform(self) -> GraphicalModel:
        """The uniform distribution over the records that are possible; DataError where none is."""
        return GraphicalModel(self.domain, self.log_potentials, 1.0)

    def check(self, known: Sequence[Measurement]) -> None:
        """Find out whether records are left, with every value, and as what is exactly known says.

        Raises
        ------
        ConfigError: no record is possible, or none with some value, or a known marginal has some in an impossible cell.
        """
        if not self.blocks:
            return
        try:
            possible = self.uniform
        except DataError:
            raise ConfigError("impossible: together, the conditions leave no possible record; drop some") from None
        for attribute in self.domain.attributes:
            lost = np.flatnonzero(possible.probabilities((attribute.name,)) == 0)
            if len(lost):
                value = cell_label(self.domain, (attribute.name,), int(lost[0]))
                raise ConfigError(
                    f"impossible: no record can have {value} any more; drop a condition, or that value from the domain"
                )
        for measurement in known:
            wrong = np.flatnonzero((possible.probabilities(measurement.clique) == 0) & (measurement.counts > 0))
            if len(wrong) and not measurement.sigma:
                raise ConfigError(
                    f"impossible: {cell_label(self.domain, measurement.clique, int(wrong[0]))} has "
                    f"{measurement.scaled(1.0)[0][wrong[0]]:.3g} of all records in a marginal that is known exactly; "
                    "correct one of the two"
                )
