"""All clients of a federation in this process: the simulation, whose noise comes from one ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from fractions import Fraction

import numpy as np

from marginal_sdg.backends.base import PublicState, pick_from
from marginal_sdg.backends.client import Client, Floats, score
from marginal_sdg.backends.clients import Ballot, Counts, Question, Reference, Sum, ends_of, read_sums
from marginal_sdg.backends.sum_noise import SumNoise
from marginal_sdg.backends.variants import Variant
from marginal_sdg.crypto.secagg import HEADER_BYTES, ID_BYTES, LARGEST, IdealSecureSum, Pieces, SecureSum
from marginal_sdg.crypto.traffic import WORD, Accounting, Traffic
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.marginals import Layout, contingency
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import Step
from marginal_sdg.scores import sensitivity
from marginal_sdg.workload import Workload


class LocalClients:
    """Clients whose tables are here, each of which makes ``local_steps`` selections a round.

    ``secure_sum`` adds up their vectors; ``source`` is for the noise that the paper's accounting leaves out. ``noise``:
    the clients' on sums, drawn and paid for by a ledger of each client; None where the server adds it.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        workload: Workload,
        source: Source,
        *,
        variant: Variant,
        local_steps: int,
        secure_sum: SecureSum | None = None,
        noise: SumNoise | None = None,
    ) -> None:
        self.traffic = Traffic(len(tables))
        self.members = [Client(table, workload, float(len(table))) for table in tables]
        self._sound = False
        self._seen: set[int] = set()
        self._workload = workload
        self._variant = variant
        self._local_steps = local_steps
        self._places = {clique: place for place, clique in enumerate(workload.closure)}
        self._secure_sum = secure_sum or IdealSecureSum()
        self._noise = noise
        self._ledgers: list[Ledger] = []
        self._everyone = _pooled(tables) if variant.heterogeneity == "oracle" else None
        self._unbudgeted = Ledger(None, source)

    def __len__(self) -> int:
        return len(self.members)

    def with_first(self, member: Client) -> LocalClients:
        """The same clients with another first one, and an account of traffic of their own."""
        twin = copy(self)
        twin.members = [member, *self.members[1:]]
        twin.traffic = Traffic(len(self))
        return twin

    def enrol(self, variance: Fraction | None, ledger: Ledger) -> list[float]:
        """Every client's size; with a variance, all its scores are relative to the noisy one from here on."""
        self._sound = variance is not None
        if variance is not None:
            exact = [np.array([len(member.table)], dtype=np.int64) for member in self.members]
            sizes = ledger.gaussian(exact, variance, what="size of each client", by="client")
            self.members = [replace(m, size=float(size[0])) for m, size in zip(self.members, sizes, strict=True)]
        if self._noise is not None:
            self._ledgers = [Ledger(ledger.budget, ledger.source, group=ledger.group) for _ in self.members]
        return [member.size for member in self.members]

    def _greet(self, participants: tuple[int, ...]) -> None:
        """Who takes part for the first time sends its noisy size."""
        if self._sound:
            self.traffic.beside([k for k in participants if k not in self._seen], WORD, HEADER_BYTES)
        self._seen.update(participants)

    def sums(self, questions: Sequence[Question], step: Step) -> list[Sum]:
        """One secure sum after the other."""
        for question in questions:
            self._greet(question.cohort)
            if question.news is not None:  # what is to be summed
                self.traffic.to_clients("wire", question.cohort, HEADER_BYTES + ID_BYTES * question.news)
        return [found for question in questions if question.requests for found in self._summed(question, step.variance)]

    def _summed(self, question: Question, paid: Fraction) -> list[Sum]:
        ends = ends_of(self._workload.domain, question.requests)
        pieces: dict[int, dict[int, Counts]] = {k: {} for k in question.cohort}
        for request, start, end in zip(question.requests, ends, ends[1:], strict=False):
            for k in request.contributors:
                pieces[k][start] = self.members[k].contribution(request.clique)
            self.traffic.to_server("paper", request.contributors, WORD * (end - start))
        noise, cohort, least = self._noise, len(question.cohort), 0
        if noise is not None:
            least = noise.needed(cohort)
            pieces = {k: noise.add(own, ends, paid, cohort, self._ledgers[k]) for k, own in pieces.items()}
        sums = self._secure_sum(pieces, ends[-1], bound=LARGEST, traffic=self.traffic, least=least)
        variance = noise.variance(paid, cohort, len(sums.survivors)) if noise is not None else Fraction(0)
        return read_sums(question.requests, ends, sums.total, variance)

    def select(self, ballot: Ballot, ledger: Ledger) -> dict[Clique, tuple[int, ...]]:
        """Every participant picks ``local_steps`` different cliques."""
        participants, state, step = ballot.participants, ballot.state, ballot.step
        self._greet(participants)
        model: dict[Accounting, int] = {"paper": 0, "ideal": 0, "wire": HEADER_BYTES}
        for kind, header in model.items():
            self.traffic.to_clients(kind, participants, header + WORD * state.model.cells)
        picks: dict[int, list[Clique]] = {k: [] for k in participants}
        states = dict.fromkeys(participants, state)
        for local in range(self._local_steps):
            name = f"round {step.index + 1}" + (f", local step {local + 1}" if self._local_steps > 1 else "")
            ballots = self._ballots(states, ballot.reference, picks, step)
            chosen = ledger.select(
                [scores for _, scores in ballots.values()],
                step.epsilon2,
                sensitivity=sensitivity(heterogeneity=self._variant.skewed),
                what=f"{name}: clients select",
                by="client",
            )
            for (k, (cliques, _)), choice in zip(ballots.items(), chosen, strict=True):
                picks[k].append(cliques[choice])
            if local + 1 < self._local_steps:
                states = self._local_models(states, picks, step, ledger, name)
        selected: dict[Clique, tuple[int, ...]] = {}
        for k, cliques in self._reported(picks, padded=ballot.padded).items():
            for clique in dict.fromkeys(cliques):
                selected[clique] = (*selected.get(clique, ()), k)
        return selected

    def _reported(self, picks: Mapping[int, list[Clique]], *, padded: bool) -> Mapping[int, list[Clique]]:
        """The picks that reach the server: by name, or (padded) as votes of which it learns the sum alone.

        A client that vanishes while votes are summed has none.
        """
        if not padded:
            for k, cliques in picks.items():
                self.traffic.beside([k], ID_BYTES * len(set(cliques)), HEADER_BYTES)
            return picks
        one = np.ones(1, dtype=np.int64)
        votes: dict[int, Pieces] = {k: {self._places[q]: one for q in cliques} for k, cliques in picks.items()}
        voted = self._secure_sum(votes, len(self._places), bound=len(votes), traffic=self.traffic)
        return {k: picks[k] for k in voted.survivors}

    def _ballots(
        self,
        states: Mapping[int, PublicState],
        reference: Reference,
        picks: Mapping[int, list[Clique]],
        step: Step,
    ) -> dict[int, tuple[list[Clique], Floats]]:
        """What each client may pick, and the scores; what it has picked before in this round is left out."""
        groups: dict[int, tuple[PublicState, list[int]]] = {}
        for k, state in states.items():
            groups.setdefault(id(state), (state, []))[1].append(k)
        ballots = {}
        for state, group in groups.values():
            cliques, scores = self._score(group, state, reference, step)
            for k, row in zip(group, scores, strict=True):
                fresh = [i for i, clique in enumerate(cliques) if clique not in picks[k]] or list(range(len(cliques)))
                ballots[k] = ([cliques[i] for i in fresh], row[fresh])
        return ballots

    def _score(
        self, group: list[int], state: PublicState, reference: Reference, step: Step
    ) -> tuple[tuple[Clique, ...], Floats]:
        """Candidates of clients that have the same model, and their scores, counted in one pass: (clients, Q)."""
        members = [self.members[k] for k in group]
        candidates = pick_from(
            state,
            step,
            max(member.scale for member in members),
            sound=self._sound,
            heterogeneity=self._variant.skewed,
            ways=self._variant.ways,
        )
        layout = candidates.layout
        skew: Reference | Floats | None = None
        if self._everyone is not None:
            skew = _distribution(self._everyone, layout)
        elif self._variant.skewed:
            skew = reference
        return layout.cliques, score(members, candidates, state.model.distribution(layout), step.sigma, skew)

    def _local_models(
        self,
        states: dict[int, PublicState],
        picks: dict[int, list[Clique]],
        step: Step,
        ledger: Ledger,
        name: str,
    ) -> dict[int, PublicState]:
        """Each client measures its last pick with its own noise and refits the model at home."""
        payer = ledger if self._sound else self._unbudgeted
        exact = [self.members[k].counts(picks[k][-1]) for k in states]
        noisy = payer.gaussian(exact, step.variance, what=f"{name}: clients measure for themselves", by="client")
        if not self._sound:
            ledger.warn("paper calibration: noisy local marginals steer local steps and are not charged")
        weigh = self._variant.measurement
        return {
            k: state.refit([weigh(picks[k][-1], counts, step.sigma, self.members[k].size, sound=self._sound)])
            for (k, state), counts in zip(states.items(), noisy, strict=True)
        }


def _pooled(tables: Sequence[Table]) -> Table:
    """All clients' records in one table: not private, for AugFLAIM (Oracle) alone."""
    return Table(tables[0].domain, np.concatenate([table.codes for table in tables]))


def _distribution(table: Table, layout: Layout) -> Floats:
    return np.concatenate([contingency(table, clique) for clique in layout.cliques]) / max(len(table), 1)
