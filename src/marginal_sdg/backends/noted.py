"""A vault whose questions are noted before they are asked, so that none is asked under the noise of another."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from marginal_sdg.backends.vault import Ballot, EncryptionCosts, Vault
from marginal_sdg.crypto.notes import Notes
from marginal_sdg.domain import Clique
from marginal_sdg.marginals import Counts
from marginal_sdg.schedule import Step


class NotedVault:
    """Asks ``vault`` the same as before, noise and all, in a session that is gone on with; or ``ProtocolError``."""

    def __init__(self, vault: Vault, notes: Notes) -> None:
        self.traffic = vault.traffic
        self._vault, self._notes = vault, notes

    def costs(self) -> EncryptionCosts | None:
        """What the encryption took, in this process."""
        return self._vault.costs()

    def select(self, ballot: Ballot, noise: Sequence[Counts], largest_noise: int, step: Step | None = None) -> int:
        """Note the ballot with all that is public about it, and its noise."""
        public = [ballot.cliques, ballot.distance.name, ballot.distance.records, largest_noise, _text(step)]
        self._note("select", public, [*ballot.expected, ballot.weights, ballot.penalties, *noise])
        return self._vault.select(ballot, noise, largest_noise, step)

    def measure(
        self, cliques: Sequence[Clique], noise: Sequence[Sequence[Counts]], step: Step | None = None
    ) -> list[Counts]:
        """Note what is measured, and its noise."""
        self._note("measure", [list(cliques), _text(step)], [part for parts in noise for part in parts])
        return self._vault.measure(cliques, noise, step)

    def _note(self, what: str, public: object, counts: Sequence[Counts]) -> None:
        cells = (np.ascontiguousarray(part, dtype=np.int64).tobytes() for part in counts)
        self._notes.note([json.dumps([what, public]).encode(), *cells])


def _text(step: Step | None) -> list[str]:
    return [] if step is None else [str(step.index), str(step.variance), str(step.epsilon2)]
