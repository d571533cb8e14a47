"""MWEM+PGM: the selection of MWEM with a graphical model (McKenna, Miklau, Sheldon 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from marginal_sdg.backends.plaintext import PlaintextBackend
from marginal_sdg.backends.tally import Tally
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.schedule import Step
from marginal_sdg.scores import NOISE_PENALTY
from marginal_sdg.synthesizers import AIM
from marginal_sdg.workload import Workload


class MWEMBackend(PlaintextBackend):
    """One curator's table; the first measurement is the number of records, and scores are lowered by n_q."""

    def _first(self, one_way: Sequence[Clique]) -> Sequence[Clique]:
        return [()]

    def _penalty(self, step: Step) -> float:
        return 1 / NOISE_PENALTY


@dataclass(eq=False)
class MWEM(AIM):
    """MWEM+PGM: a trusted curator measures the worst answered marginals of the workload, round by round.

    What AIM improves on: before the first round only the number of records is measured (the original takes it as
    public, and so does ``calibration="paper"``), a candidate's score || M_q - model ||_1 - n_q knows nothing of weights
    or of the noise, and only the workload's own marginals are candidates. Takes the parameters of :class:`AIM`.

    Source: R. McKenna, G. Miklau, D. Sheldon, Winning the NIST Contest, JPC 2021, with Gaussian noise.
    """

    def _checked(self) -> tuple[Budget, Workload]:
        budget, workload = super()._checked()
        return budget, replace(workload, weights=(), closed=False)

    def _backend(self, table: Table | Tally, workload: Workload) -> MWEMBackend:
        return MWEMBackend(table, workload, sound=self._sound)
