"""DistAIM's trust model: clients secret-share their answers once, three servers select and measure on the shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from marginal_sdg.backends.base import Candidates, PublicState, pick_from
from marginal_sdg.backends.plaintext import AIM_COSTS
from marginal_sdg.backends.pool import Ballot, Pool
from marginal_sdg.domain import Clique
from marginal_sdg.privacy.joint import SERVERS, part_variance
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.release import Measurement, Selection
from marginal_sdg.schedule import Step
from marginal_sdg.scores import NOISE_PENALTY, sensitivity
from marginal_sdg.workload import Workload

_TAIL = 64  # standard deviations: beyond it lies a probability of e^-2048


class SharedBackend:
    """K clients; each that is drawn (with probability p a round) shares its answers and stays in the pool.

    The pool alone touches records. Sound calibration: every joining cohort's size is released once with noise (variance
    ``size_variance``), and no server knows more than its own part of any noise, a third of its variance. With
    ``exact_sizes``, the clients' numbers of records, it follows the FLAIM paper instead, whose accounting leaves them
    out, and one dealer knows all the noise. ``elsewhere``: the pool's servers draw their noise themselves, so that the
    ledger only charges. ``rounds``: how many are planned. ``weighted``: measurements of a larger pool weigh more in the
    fit.
    """

    def __init__(
        self,
        pool: Pool,
        clients: int,
        workload: Workload,
        ledger: Ledger,
        source: Source,
        *,
        participation: float,
        rounds: int,
        weighted: bool,
        size_variance: Fraction,
        exact_sizes: Sequence[int] | None = None,
        elsewhere: bool = False,
    ) -> None:
        self.costs = replace(AIM_COSTS, initial=len(workload.one_way))
        self._domain = workload.domain
        self._pool = pool
        self._clients = clients
        self._rng = source.generator()  # who takes part is public
        self._probability = math.ceil(clients * participation) / clients
        self._reach = 1 - (1 - self._probability) ** (rounds + 1)  # the share of clients that join, on average
        self._weighted = weighted
        self._exact_sizes = exact_sizes
        self._servers, self._by = (SERVERS, "servers") if self._sound else (1, "dealer")
        self._here: tuple[int, ...] | None = () if elsewhere else None
        self._joined: list[int] = []
        self._cohorts = 0
        self._size = 0
        if self._sound:  # cohorts are disjoint: one charge covers them all
            self._size_noise = ledger.gaussian_parts(
                [clients], size_variance, here=self._here, what="size of each joining cohort"
            )

    @property
    def _sound(self) -> bool:
        return self._exact_sizes is None

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure every 1-way marginal of the first cohort."""
        while not self._joined:
            self._enrol()
        return self._measure(cliques, step, ledger, "initial 1-way marginals")

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Newcomers join; the servers pick the clique that the model answers worst for the pool."""
        self._enrol()
        size = self._pool_size
        noisy = replace(step, variance=self._servers * part_variance(step.variance, self._servers))
        candidates = self._candidates(state, noisy, size)
        layout = candidates.layout
        scores = ledger.gumbel_parts(
            len(layout.cliques),
            step.epsilon2,
            sensitivity=sensitivity(heterogeneity=False),
            servers=self._servers,
            by=self._by,
            here=self._here,
            what=f"round {step.index + 1}: select a clique",
        )
        weights = np.floor(candidates.weights * scores.unit).astype(np.int64)
        ballot = Ballot(
            layout,
            expected=np.rint(state.model.distribution(layout) * size).astype(np.int64),
            weights=weights,
            penalties=np.rint(weights * (NOISE_PENALTY * noisy.sigma) * candidates.cells).astype(np.int64),
            most=math.ceil(size + self._size_error),
        )
        return Selection({layout.cliques[self._pool.select(ballot, scores.parts, step)]: (0,)})

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure the selected clique on the pool."""
        return self._measure(selection.cliques, step, ledger, f"round {step.index + 1}: measure")

    def total(self, measurements: Sequence[Measurement]) -> float:
        """K times the mean noisy size of those that have joined; the exact number under the paper's calibration."""
        if self._exact_sizes is not None:
            return float(max(sum(self._exact_sizes), 1))
        return max(self._clients * self._pool_size / len(self._joined), 1.0)

    def _candidates(self, state: PublicState, step: Step, size: float) -> Candidates:
        """What the pool could pick now. Members are asked for what it will likely be able to pick by the last round."""
        candidates, later = (
            pick_from(state, step, records, sound=self._sound, heterogeneity=False)
            for records in (size, max(size, self._reach * state.total))
        )
        wanted = dict.fromkeys((*candidates.layout.cliques, *later.layout.cliques))
        return candidates.only(set(self._pool.prepare(tuple(wanted))))

    def _measure(self, cliques: Sequence[Clique], step: Step, ledger: Ledger, what: str) -> list[Measurement]:
        cells = [self._domain.size(clique) for clique in cliques]
        per_record = max(len(cliques), 1)
        noise = ledger.gaussian_parts(
            cells,
            step.variance,
            servers=self._servers,
            per_record=per_record,
            by=self._by,
            here=self._here,
            what=what,
        )
        size, sigma = self._pool_size, math.sqrt(noise.variance)
        return [
            Measurement(clique, counts, sigma, size, size if self._weighted else None)
            for clique, counts in zip(cliques, self._pool.measure(cliques, noise.parts, step), strict=True)
        ]

    # -- the pool ----------------------------------------------------------------------------------------------

    def _enrol(self) -> None:
        """Draw this round's clients; those that have not joined before do. Independent of the data."""
        present = np.flatnonzero(self._rng.random(self._clients) < self._probability)
        newcomers = [int(client) for client in present if client not in self._joined]
        joined = self._pool.join(newcomers) if newcomers else ()
        if not joined:
            return
        self._joined += joined
        if self._exact_sizes is not None:
            self._size += sum(self._exact_sizes[client] for client in joined)
        else:
            part = slice(self._cohorts, self._cohorts + 1)
            self._size += self._pool.size([noise[part] for (noise,) in self._size_noise.parts])
        self._cohorts += 1

    @property
    def _pool_size(self) -> float:
        return float(max(self._size, 1))

    @property
    def _size_error(self) -> float:
        """The pool's exact size cannot be further off its noisy one."""
        return _TAIL * math.sqrt(self._cohorts * self._size_noise.variance) if self._sound else 0.0
