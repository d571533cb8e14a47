"""Audit secure sums with the clients' noise, when as many have left as may: by everybody, and by a server with helpers.

All of a client's budget is spent on one sum of 1-way marginals. The canary is at the first client, in cells that are
empty without it. Of the clients the last have left, and those before them tell the server what they have added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from marginal_sdg.backends import local_clients
from marginal_sdg.backends.clients import Question, Request
from marginal_sdg.backends.local_clients import LocalClients
from marginal_sdg.backends.sum_noise import SumNoise
from marginal_sdg.backends.variants import VARIANTS
from marginal_sdg.crypto.secagg import Aggregate, IdealSecureSum, Pieces
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.privacy.audit import count_evidence
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Counts, Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]

ATTRIBUTES = 9  # enough that a part of the noise on each has a variance above 2 at epsilon 5
DOMAIN = Domain.from_shape({f"a{i}": 2 for i in range(ATTRIBUTES)})
WORKLOAD = Workload(DOMAIN, tuple((name,) for name in DOMAIN.names))


class WatchedSum(IdealSecureSum):
    """A secure sum that the last clients leave, all but ``staying``, and whose vectors the auditor may look into.

    ``made``: those of the sums so far.
    """

    def __init__(self, staying: int) -> None:
        super().__init__(lambda client, stage: client >= staying and stage == "relay")
        self.made: list[Mapping[int, Pieces]] = []

    def __call__(
        self, contributions: Mapping[int, Pieces], length: int, *, bound: int, traffic: Traffic, least: int = 0
    ) -> Aggregate:
        """Watched."""
        self.made.append(contributions)
        return super().__call__(contributions, length, bound=bound, traffic=traffic, least=least)

    def last_cells(self, clients: range) -> Counts:
        """(requests,) what some clients together have put into the last cells of all marginals that were summed."""
        cells: list[int] = []
        for vectors in self.made:
            for start in sorted(vectors[0]):
                cells.append(sum(int(vectors[k][start][-3]) for k in clients))
        return np.array(cells, dtype=np.int64)


@dataclass(frozen=True)
class SumGame:
    """One sum under audit. ``noise`` and ``second``, the second client's ledger, are where a fault can be planted.

    ``anew``: the sum is made twice and paid for once, with parts that are drawn again; ``without``: it is opened a
    second time without the first client, with the parts as they were.
    """

    budget: Budget
    clients: int = 9
    colluding: int = 2
    noise: type[SumNoise] = SumNoise
    second: type[Ledger] = Ledger
    anew: bool = False
    without: bool = False

    @property
    def paid(self) -> Fraction:
        """The variance that one sum is charged for."""
        return Fraction(ATTRIBUTES) / (2 * self.budget.rho)

    @cached_property
    def _tables(self) -> tuple[list[Table], list[Table]]:
        codes = [np.zeros((3, ATTRIBUTES), dtype=np.int32) for _ in range(self.clients)]
        homes = [Table(DOMAIN, own) for own in codes]
        return homes, [Table(DOMAIN, np.vstack([codes[0], np.ones(ATTRIBUTES, dtype=np.int32)])), *homes[1:]]

    def run(self, world: int, source: Source) -> tuple[float, float]:
        """Evidence of one world's releases: (to everybody, to the server and the clients that collude with it)."""
        noise = self.noise(self.colluding, self.colluding + 1)
        staying = noise.needed(self.clients)
        colluding = range(1, staying) if self.without else range(staying - self.colluding, staying)
        views = (range(1, staying) if self.without else range(0), colluding)
        everyone = tuple(range(self.clients))
        question = Question(everyone, tuple(Request(clique, everyone) for clique in WORKLOAD.one_way))
        step = Step(0, self.paid, Fraction(1))
        evidence = [0.0, 0.0]
        for _ in range(2 if self.anew else 1):
            engine = WatchedSum(staying)
            sums = self._members(world, source, noise, engine).sums([question], step)
            for view, known in enumerate(views):
                for found, part in zip(sums, engine.last_cells(known), strict=True):
                    evidence[view] += count_evidence(float(found.counts[-1] - part), float(found.variance))
        return evidence[0], evidence[1]

    def _members(self, world: int, source: Source, noise: SumNoise, engine: WatchedSum) -> LocalClients:
        """Clients that may spend the budget once."""
        kinds: Iterator[type[Ledger]] = iter([Ledger, self.second, *[Ledger] * self.clients])
        members = LocalClients(
            self._tables[world],
            WORKLOAD,
            source,
            variant=VARIANTS["census"],
            local_steps=1,
            secure_sum=engine,
            noise=noise,
        )
        with patch.object(local_clients, "Ledger", lambda *given, **terms: next(kinds)(*given, **terms)):
            members.enrol(None, Ledger(self.budget, source))
        return members

    def play(self, runs: int, seed: int) -> tuple[Floats, Floats]:
        """(runs, 2) scores of independent runs, without and with the canary."""
        sources = Source.seeded(seed).spawn(2 * runs)
        scores = np.array([self.run(i % 2, source) for i, source in enumerate(sources)])
        return scores[0::2], scores[1::2]
