"""The pooled answers of the clients that have joined: what DistAIM's servers compute on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from marginal_sdg.crypto.rss import SERVERS, bits_for
from marginal_sdg.crypto.rss_cost import Cost, noisy_selection, one_round
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.domain import Clique
from marginal_sdg.marginals import Counts, Layout
from marginal_sdg.privacy.joint import GUMBEL_LIMIT
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

_PAPER_CELL = 8 * 6  # bytes: a word for each of two components for each of three servers


@dataclass(frozen=True)
class Ballot:
    """All that is public about one selection: the servers pick the q with the largest noisy

    ``weights[q] * ||M_q - expected_q||_1 - penalties[q]``

    ``expected``: (cells,) int64, records, of the layout's cliques end to end; ``weights`` and ``penalties``: (Q,)
    int64, in steps of the noise's grid; ``most``: no count of the pool is larger.
    """

    layout: Layout
    expected: Counts
    weights: Counts
    penalties: Counts
    most: int

    @cached_property
    def compared(self) -> Counts:
        """Cells where the model expects a record; elsewhere |M - 0| is M itself and needs no comparison."""
        return np.flatnonzero(self.expected)

    @cached_property
    def compared_starts(self) -> Counts:
        """(Q,) where each clique's compared cells start among all of them."""
        return np.searchsorted(self.compared, self.layout.offsets[:-1])

    @property
    def largest_difference(self) -> int:
        """Bounds |M - expected| in any cell."""
        return max(self.most, int(self.expected.max(initial=0)))

    @cached_property
    def largest_score(self) -> int:
        """Bounds any noisy score in absolute value, with the noise of two servers."""
        norms = self.most + np.add.reduceat(self.expected, self.layout.offsets[:-1])
        return int((self.weights * norms + self.penalties).max()) + 2 * GUMBEL_LIMIT


class Pool(Protocol):
    """Answers of all clients that have joined, wherever they are computed on.

    ``parts``: the noise, one part per server; it is paid for before a pool sees it. Servers elsewhere draw and pay for
    their own, by the round's ``step``: then there are no parts. ``traffic``: what everybody sent.
    """

    traffic: Traffic

    def join(self, clients: Sequence[int]) -> tuple[int, ...]:
        """Clients share their answers, once; returns those that are in the pool from now on."""
        ...

    def prepare(self, cliques: Sequence[Clique]) -> tuple[Clique, ...]:
        """Make sure that all members have shared these answers; returns the cliques of which all have."""
        ...

    def size(self, parts: Sequence[Counts]) -> int:
        """Noisy number of records of the clients that joined last; parts of shape (1,)."""
        ...

    def select(self, ballot: Ballot, parts: Sequence[Counts], step: Step | None = None) -> int:
        """The winner's place in the ballot's layout; ties go to the first. Parts of shape (Q,)."""
        ...

    def measure(
        self, cliques: Sequence[Clique], parts: Sequence[Sequence[Counts]], step: Step | None = None
    ) -> list[Counts]:
        """Noisy marginals; for every server one part per clique."""
        ...


def one_each(parts: Sequence[Counts]) -> list[Counts]:
    """The noise of each of three servers; a single dealer's goes through server 0."""
    return [*parts, *[np.zeros_like(parts[0])] * (SERVERS - len(parts))]


def paper_upload_bytes(workload: Workload) -> int:
    """What a client of DistAIM sends, once, in the paper's accounting. Source: FLAIM Table 3 and its code."""
    return _PAPER_CELL * int(workload.cells.sum())


def select_cost(ballot: Ballot) -> Cost:
    """Of one selection by three servers: norms, noise, argmax."""
    bits, score_bits = bits_for(ballot.largest_difference), bits_for(2 * ballot.largest_score)
    return noisy_selection(len(ballot.weights), len(ballot.compared), bits, score_bits)


def measure_cost(cells: int) -> Cost:
    """Of one release by three servers: noise, opening."""
    return one_round(cells) + one_round(cells)
