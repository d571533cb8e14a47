"""FLAIM's trust model: clients keep their tables, select at home, and only noised sums of marginals are released.

The server learns sums through secure aggregation. They are exact, and it adds the noise: then it is trusted with sums,
not with a client's marginals. Or the clients add it, each a part (``backends/sum_noise.py``): then it sees nothing but
what everybody may. What a client picks is drawn by a charged mechanism, so it may be known; what must not is the exact
marginal of a client that is alone with its pick. ``padded`` hides whose it is: who picked what is counted by a secure
sum, and all participants contribute to all picks of the round, zeros where they picked something else. A server that
adds the noise still sees the marginal, without a name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import numpy as np

from marginal_sdg.backends.base import PublicState
from marginal_sdg.backends.clients import Ballot, Clients, Counts, Floats, Question, Request, Sum
from marginal_sdg.backends.variants import Variant, flaim_costs
from marginal_sdg.domain import Clique
from marginal_sdg.errors import ConfigError
from marginal_sdg.privacy.ledger import Charge, Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.release import Measurement, Selection
from marginal_sdg.schedule import Step
from marginal_sdg.simplex import onto_simplex
from marginal_sdg.workload import Workload


class FederatedBackend:
    """K clients; each takes part in a round with probability p and makes s local steps.

    ``sound``: clients scale their scores to a noisy size (variance ``size_variance``, one release a client), noisy
    references are projected to the simplex, sizes of cohorts are sums of noisy sizes. ``sound=False`` follows the
    FLAIM paper: exact client sizes and an exact global size, which its accounting does not cover.

    ``padded``: in a round, one secure sum over all participants; otherwise one per clique over those who picked it,
    where cliques that fewer than ``min_cohort`` picked are dropped (what they picked is paid for all the same).
    ``least``: a round has at least so many participants. ``noise``: who adds it to sums, "server" or "clients"; these
    pay for what they draw themselves, and the ledger of a fit books the same as for the server's.
    """

    def __init__(
        self,
        clients: Clients,
        workload: Workload,
        ledger: Ledger,
        source: Source,
        *,
        variant: Variant,
        participation: float,
        local_steps: int,
        size_variance: Fraction | None,
        padded: bool = True,
        min_cohort: int = 2,
        least: int = 1,
        noise: str = "server",
    ) -> None:
        self._sound = size_variance is not None
        self.costs = flaim_costs(variant, len(workload.one_way), local_steps, sound=self._sound)
        self._clients = clients
        self._workload = workload
        self._variant = variant
        self._local_steps = local_steps
        self._rng = source.generator()  # who takes part is public
        expected = math.ceil(len(clients) * participation)
        if expected < least:
            raise ConfigError(
                f"participation: {participation:g} of {len(clients)} clients are fewer than the {least} that must "
                "stand behind every sum; raise it"
            )
        self._probability = expected / len(clients)
        self._padded = padded
        self._min_cohort = 1 if padded else min_cohort
        self._least = least
        self._noise = noise
        self._sizes = clients.enrol(size_variance, ledger)
        self._seen: set[int] = set()
        self._reference: dict[Clique, list[Counts]] = {clique: [] for clique in workload.one_way}

    def total(self, measurements: Sequence[Measurement]) -> float:
        """K times the mean noisy size of the clients seen so far (sound), or the exact number of records."""
        seen = self._seen if self._sound else range(len(self._clients))
        return max(len(self._clients) * float(np.mean([self._sizes[k] for k in seen])), 1.0)

    def _participants(self) -> tuple[int, ...]:
        """Clients that take part, each with probability p; drawn again until they are enough, whatever their data."""
        while True:
            present = np.flatnonzero(self._rng.random(len(self._clients)) < self._probability)
            if len(present) >= self._least:
                return self._joined(map(int, present))

    def _joined(self, clients: Iterable[int]) -> tuple[int, ...]:
        participants = tuple(clients)
        self._seen.update(participants)
        return participants

    # -- measure -----------------------------------------------------------------------------------------------

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure every 1-way marginal once: each on a fresh sample of clients, or (``census``) all on all clients."""
        if self._variant.census:
            everyone = self._joined(range(len(self._clients)))
            questions = [Question(everyone, tuple(Request(clique, everyone) for clique in cliques))]
        else:
            cohorts = [(clique, self._participants()) for clique in cliques]
            questions = [Question(cohort, (Request(clique, cohort),)) for clique, cohort in cohorts]
        (released,) = self._release(questions, step, ledger, [(len(cliques), len(cliques), "initial 1-way marginals")])
        return self._refer(released)

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Release the summed marginals of the selection and, for ``refresh``, all 1-way marginals of the cohort."""
        name = f"round {step.index + 1}"
        one_way = self._workload.one_way if self._variant.refresh and not step.last else ()
        everyone = selection.participants
        chosen_by_clients = self._variant.picks == "clients"
        picked = tuple(Request(clique, who, chosen_by_clients) for clique, who in selection.picks.items())
        common = tuple(Request(clique, everyone) for clique in one_way)
        if self._padded:
            questions = [Question(everyone, picked + common, news=len(picked))]
        else:
            questions = [Question(request.contributors, (request,)) for request in picked]
            questions.append(Question(everyone, common))
        paid = [(len(picked), self._local_steps, f"{name}: measure")]
        if one_way:
            paid.append((len(one_way), len(one_way), f"{name}: 1-way marginals"))
        released, *fresh = self._release(questions, step, ledger, paid)
        for again in map(self._refer, fresh):
            released += again if self._variant.combine else []
        return released

    def _refer(self, released: list[Measurement]) -> list[Measurement]:
        """Keep released 1-way marginals as what clients compare themselves with."""
        for measurement in released:
            self._reference[measurement.clique].append(measurement.counts)
        return released

    def _release(
        self, questions: Sequence[Question], step: Step, ledger: Ledger, paid: Sequence[tuple[int, int, str]]
    ) -> list[list[Measurement]]:
        """Sums with noise. ``paid``: (how many of them, in how many of those one record is counted, what they are)."""
        variance, by_server = step.variance, self._noise == "server"
        if not by_server:
            for _, per_record, what in paid:
                ledger.charge(Charge(what, "gaussian", variance, per_record, "clients", ledger.group))
        sums = iter(self._clients.sums(questions, step))
        released = []
        for count, per_record, what in paid:
            found = list(islice(sums, count))
            if by_server:
                exact = [summed.counts for summed in found]
                noisy = ledger.gaussian(exact, variance, per_record=per_record, what=what, by="server")
                found = [replace(s, counts=c, variance=variance) for s, c in zip(found, noisy, strict=True)]
            released.append([self._measurement(summed) for summed in found if summed.contributors])
        return released

    def _measurement(self, found: Sum) -> Measurement:
        """How many contributed is public; a sum over nobody is noise alone."""
        sigma = math.sqrt(found.variance)
        return self._variant.measurement(found.clique, found.counts, sigma, found.size, sound=self._sound)

    # -- select ------------------------------------------------------------------------------------------------

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Every participating client picks ``local_steps`` different cliques from its own data.

        FLAIM (Random): the server draws one affordable clique for all of them, whatever their data.
        """
        participants = self._participants()
        if self._variant.picks == "server":
            return Selection({self._drawn(state): participants}, participants)
        reference = self._distributions() if self._variant.heterogeneity == "private" else {}
        ballot = Ballot(participants, state, reference, step, self._padded)
        selected = self._clients.select(ballot, ledger)
        common = {clique: cohort for clique, cohort in selected.items() if len(cohort) >= self._min_cohort}
        return Selection(common, participants)

    def _drawn(self, state: PublicState) -> Clique:
        places = [place for place in range(len(self._workload.closure)) if state.affords(place)]
        return self._workload.closure[self._rng.choice(places)]

    def _distributions(self) -> dict[Clique, Floats]:
        """Noisy 1-way distributions of all clients, from what has been released: one per attribute."""
        reference: dict[Clique, Floats] = {}
        for clique, released in self._reference.items():
            if not released:  # every client that was asked dropped out: nothing is known
                cells = self._workload.domain.size(clique)
                reference[clique] = np.full(cells, 1.0 / cells)
            elif self._sound:
                pooled = np.sum(released, axis=0)
                records = max(float(pooled.sum()), 1.0)
                reference[clique] = onto_simplex(pooled, records) / records
            else:  # the paper's: the initial estimate, then the running mean of the later ones, never clipped
                later = released[1:] or released
                reference[clique] = np.mean([counts / (counts.sum() or 1) for counts in later], axis=0)
        return reference
