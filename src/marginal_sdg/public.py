"""What is known without the table: some of its marginals, and which records cannot exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from marginal_sdg.domain import Clique, Domain
from marginal_sdg.errors import ConfigError
from marginal_sdg.graphical.junction import Sizes, mask_of, model_cells
from marginal_sdg.impossible import StructuralZeros
from marginal_sdg.known import Known, known_measurements
from marginal_sdg.release import Measurement


@dataclass(frozen=True)
class PublicKnowledge:
    """``known`` marginals as measurements, and structural ``zeros``."""

    known: tuple[Measurement, ...]
    zeros: StructuralZeros

    @classmethod
    def read(cls, domain: Domain, known: Sequence[Known], impossible: Sequence[str]) -> PublicKnowledge:
        """Read what a user gives; see :func:`known_measurements` and :meth:`StructuralZeros.read`."""
        return cls(known_measurements(domain, known), StructuralZeros.read(domain, impossible))

    @property
    def cliques(self) -> tuple[Clique, ...]:
        """The cliques that every model has to hold."""
        return (*self.zeros.cliques, *(m.clique for m in self.known))

    def check(self, max_model_mb: float) -> None:
        """ConfigError where a model has no room for it, or it contradicts itself."""
        domain = self.zeros.domain
        masks = [mask_of(map(domain.index, clique)) for clique in self.cliques]
        needed = model_cells(Sizes(domain.shape), masks) * 8 / 2**20
        if masks and needed > max_model_mb:
            raise ConfigError(
                f"max_model_mb: what is known and impossible needs a model of {needed:.3g} MB, the limit is "
                f"{max_model_mb:g}; raise it, or use fewer or coarser columns"
            )
        self.zeros.check(self.known)
