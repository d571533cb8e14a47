"""The answers of one encrypted table: what FHAIM's roles compute on, and the same in the clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from marginal_sdg.backends.distance import Distance
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.marginals import Counts, contingency
from marginal_sdg.schedule import Step

LARGEST_SQUARE = 2**32 - 6  # the largest plaintext of the exact scheme: one below the largest prime below 2^32
LARGEST_COUNT = 50_000  # records; from 46,340 on, candidates with nearly all records in one cell cannot be scored


@dataclass(frozen=True)
class Ballot:
    """All that is public about one selection: the q with the largest noisy ``weights[q] * d_q - penalties[q]``

    where d_q is the ``distance`` of M_q to ``expected[q]``, in its steps. ``expected``: (cells,) int64 of every clique;
    ``weights`` and ``penalties``: (Q,) int64, in steps of the noise's grid.
    """

    cliques: tuple[Clique, ...]
    expected: tuple[Counts, ...]
    weights: Counts
    penalties: Counts
    distance: Distance

    @property
    def largest_square(self) -> int:
        """No squared distance is larger."""
        return self.distance.records**2 + max(int(counts @ counts) for counts in self.expected)

    def score(self, distances: Sequence[int]) -> Counts:
        """(Q,) scores without noise, in exact integers."""
        return self.weights * np.array(distances, dtype=np.int64) - self.penalties


@dataclass(frozen=True)
class EncryptionCosts:
    """What encrypting a table and computing on it took, once; rounds come on top.

    CPU seconds: ``seconds_keygen`` of keys, ``seconds_encrypt`` of the data holder, ``seconds_compute`` of what server
    and key holder do with the upload before the first round. ``security_bits``: OpenFHE refuses parameters below that.
    """

    seconds_keygen: float
    seconds_encrypt: float
    seconds_compute: float
    upload_bytes: int
    eval_key_bytes: int
    scheme: str
    ring_dim: int
    security_bits: int


class Vault(Protocol):
    """The answers of one table that server and key holder cannot read.

    Noise is paid for before a vault sees it, and comes in one part from every data holder.

    ``traffic``: bytes sent, by phase; empty where nothing is.
    """

    traffic: dict[str, float]

    def costs(self) -> EncryptionCosts | None:
        """What the encryption took; None in the clear."""
        ...

    def select(self, ballot: Ballot, noise: Sequence[Counts], largest_noise: int, step: Step | None = None) -> int:
        """The winner's place in the ballot; ties go to the first. ``noise``: (Q,) of every data holder in this process.

        No sum of all holders' noise is larger than ``largest_noise``. ``step``: what it costs, for holders
        elsewhere, who pay and draw their own.
        """
        ...

    def measure(
        self, cliques: Sequence[Clique], noise: Sequence[Sequence[Counts]], step: Step | None = None
    ) -> list[Counts]:
        """Noisy marginals. ``noise``: of every data holder in this process, (cells,) for every clique."""
        ...


class ClearVault:
    """The same functions computed in the clear: for sweeps, and as the oracle of the encrypted ones."""

    def __init__(self, table: Table) -> None:
        self.traffic: dict[str, float] = {}
        self._table = table

    def costs(self) -> None:
        """Nothing is encrypted."""

    def select(self, ballot: Ballot, noise: Sequence[Counts], largest_noise: int, step: Step | None = None) -> int:
        """Scores in exact integers."""
        distances = [
            ballot.distance.of(contingency(self._table, clique) - expected)
            for clique, expected in zip(ballot.cliques, ballot.expected, strict=True)
        ]
        return int(np.argmax(ballot.score(distances) + sum(noise)))

    def measure(
        self, cliques: Sequence[Clique], noise: Sequence[Sequence[Counts]], step: Step | None = None
    ) -> list[Counts]:
        """Exact counts plus noise."""
        return [contingency(self._table, clique) + sum(parts) for clique, *parts in zip(cliques, *noise, strict=True)]
