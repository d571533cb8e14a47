"""One of DistAIM's servers' part of all noise, paid for from a ledger of its own."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from marginal_sdg.backends.spu_limits import Limits
from marginal_sdg.crypto.spu.questions import Integers, Opening, Seed
from marginal_sdg.errors import ProtocolError
from marginal_sdg.privacy.joint import SERVERS
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.scores import sensitivity


class ServersNoise:
    """``Noise`` of server ``rank``, for one session within ``limits``: each release's from a key of its own.

    With a seed, every server draws what all would, as one process does that has the ledger, and keeps its own part.
    """

    def __init__(self, rank: int, limits: Limits) -> None:
        self._here: Sequence[int] = (rank,)
        self._own = 0
        self._rank = rank
        self._limits = limits

    def open(self, head: Opening, run: str, key: bytes) -> None:
        """Book the whole budget before anything is drawn; cohorts are disjoint, so one charge covers their sizes."""
        budget = self._limits.book(head.terms, run)
        source = Source.keyed(key)
        if head.terms.seed is not None:
            source = seeded(head.terms.seed)
            self._here, self._own = range(SERVERS), self._rank
        self._ledger = Ledger(budget, source, group=head.terms.group)
        sizes = self._ledger.gaussian_parts(
            [head.clients], Fraction(head.variance), here=self._here, what="size of each joining cohort"
        )
        (drawn,) = sizes.parts[self._own]
        self._sizes = iter(drawn.reshape(-1, 1))

    def size(self) -> Integers:
        """(1,) for the next cohort: there are at most as many as clients."""
        if (noise := next(self._sizes, None)) is None:
            raise ProtocolError("size: there are more cohorts than clients; nothing is left for another one")
        return noise

    def cells(self, sizes: Sequence[int], variance: Fraction, key: bytes) -> Integers:
        """For the cells of some cliques, in each of which a record is counted once."""
        self._draw_from(key)
        noise = self._ledger.gaussian_parts(
            sizes, variance, per_record=len(sizes), here=self._here, what=f"measure {len(sizes)} marginals"
        )
        return np.concatenate(noise.parts[self._own])

    def scores(self, candidates: int, epsilon2: Fraction, key: bytes) -> tuple[Integers, int, int]:
        """For (candidates,) L1 norms; the noise's steps in a record; a bound on all servers' noise."""
        self._draw_from(key)
        noise = self._ledger.gumbel_parts(
            candidates,
            epsilon2,
            sensitivity=sensitivity(heterogeneity=False),
            here=self._here,
            what="select a clique",
        )
        return noise.parts[self._own], noise.unit, noise.bound

    def _draw_from(self, key: bytes) -> None:
        if self._ledger.source.secure:
            self._ledger.source = Source.keyed(key)


def seeded(seed: Seed) -> Source:
    """The source of that seed."""
    return Source.seeded(np.random.SeedSequence(seed.entropy, spawn_key=seed.branch))
