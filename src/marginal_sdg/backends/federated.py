"""FLAIM's trust model: clients keep their tables, select at home, and only noised sums of marginals are released.

The server learns the sums through secure aggregation, exact, and adds the noise: it is trusted with sums, not with a
client's marginals. What a client picks is drawn by a charged mechanism, so it may be known; what must not is the exact
marginal of a client that is alone with its pick. ``padded`` hides whose it is: who picked what is counted by a secure
sum, and all participants contribute to all picks of the round, zeros where they picked something else. The server
still sees the marginal, without a name. Noise that the clients add together would end its trust; it is not built.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from marginal_sdg.backends.base import PublicState, pick_from
from marginal_sdg.backends.client import Client
from marginal_sdg.backends.variants import Variant, flaim_costs
from marginal_sdg.crypto.secagg import HEADER_BYTES, ID_BYTES, LARGEST, IdealSecureSum, Pieces, SecureSum
from marginal_sdg.crypto.traffic import Accounting, Traffic
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.marginals import Answers, Layout, contingency
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.release import Measurement, Selection
from marginal_sdg.schedule import Step
from marginal_sdg.scores import quality, sensitivity
from marginal_sdg.simplex import onto_simplex
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

WORD = 8  # bytes, of every number in the papers' accounting


@dataclass(frozen=True)
class Sum:
    """What the server learns of one clique: exact ``counts``, the clients' ``size`` and number, all summed."""

    clique: Clique
    counts: Counts
    size: float
    contributors: int


class FederatedBackend:
    """K clients; each takes part in a round with probability p and makes s local steps.

    ``sound``: clients scale their scores to a noisy size (variance ``size_variance``, one release a client), noisy
    references are projected to the simplex, sizes of cohorts are sums of noisy sizes. ``sound=False`` follows the
    FLAIM paper: exact client sizes and an exact global size, which its accounting does not cover.

    ``padded``: in a round, one secure sum over all participants; otherwise one per clique over those who picked it,
    where cliques that fewer than ``min_cohort`` picked are dropped (what they picked is paid for all the same).
    """

    def __init__(
        self,
        tables: Sequence[Table],
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
        secure_sum: SecureSum | None = None,
    ) -> None:
        self._sound = size_variance is not None
        self.costs = flaim_costs(variant, len(workload.one_way), local_steps, sound=self._sound)
        self.traffic = Traffic(len(tables))
        self._workload = workload
        self._variant = variant
        self._local_steps = local_steps
        self._rng = source.generator()  # who takes part is public
        self._probability = math.ceil(len(tables) * participation) / len(tables)
        self._padded = padded
        self._min_cohort = 1 if padded else min_cohort
        self._places = {clique: place for place, clique in enumerate(workload.closure)}
        self._secure_sum = secure_sum or IdealSecureSum()
        self._clients = self._enrol(tables, ledger, size_variance)
        self._seen: set[int] = set()
        self._reference: dict[Clique, list[Counts]] = {clique: [] for clique in workload.one_way}
        self._everyone = _pooled(tables) if variant.heterogeneity == "oracle" else None
        self._unbudgeted = Ledger(None, source)  # the paper's local noise, which its accounting leaves out

    def _enrol(self, tables: Sequence[Table], ledger: Ledger, variance: Fraction | None) -> list[Client]:
        exact = [np.array([len(table)], dtype=np.int64) for table in tables]
        sizes: Sequence[Counts] = exact
        if variance is not None:
            sizes = ledger.gaussian(exact, variance, what="size of each client", by="client")
        return [Client(table, self._workload, float(size[0])) for table, size in zip(tables, sizes, strict=True)]

    def total(self, measurements: Sequence[Measurement]) -> float:
        """K times the mean noisy size of the clients seen so far (sound), or the exact number of records."""
        seen = self._seen if self._sound else range(len(self._clients))
        return max(len(self._clients) * float(np.mean([self._clients[k].size for k in seen])), 1.0)

    def _participants(self) -> tuple[int, ...]:
        """Clients that take part, each with probability p; drawn again until there is one. Independent of the data."""
        while True:
            present = np.flatnonzero(self._rng.random(len(self._clients)) < self._probability)
            if len(present):
                return self._joined(map(int, present))

    def _joined(self, clients: Iterable[int]) -> tuple[int, ...]:
        participants = tuple(clients)
        if self._sound:
            self._send([k for k in participants if k not in self._seen], WORD)  # its noisy size
        self._seen.update(participants)
        return participants

    def _send(self, clients: Iterable[int], payload: int) -> None:
        """Meter a message of every client to the server that the paper's accounting leaves out."""
        self.traffic.to_server("ideal", clients, payload)
        self.traffic.to_server("wire", clients, HEADER_BYTES + payload)

    # -- measure -----------------------------------------------------------------------------------------------

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Measure every 1-way marginal once: each on a fresh sample of clients, or (``census``) all on all clients."""
        if self._variant.census:
            everyone = self._joined(range(len(self._clients)))
            sums = self._summed([(clique, everyone) for clique in cliques], everyone)
        else:
            cohorts = {clique: self._participants() for clique in cliques}
            sums = [self._summed([request], request[1])[0] for request in cohorts.items()]
        return self._refer(self._release(sums, step, ledger, len(cliques), "initial 1-way marginals"))

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Release the summed marginals of the selection and, for ``refresh``, all 1-way marginals of the cohort."""
        name = f"round {step.index + 1}"
        one_way = self._workload.one_way if self._variant.refresh and not step.last else ()
        everyone = selection.participants
        picked = list(selection.picks.items())
        common = [(clique, everyone) for clique in one_way]
        if self._padded:
            self.traffic.to_clients("wire", everyone, HEADER_BYTES + ID_BYTES * len(picked))  # what is to be summed
            sums = self._summed([*picked, *common], everyone)
        else:
            sums = [self._summed([request], request[1])[0] for request in picked] + self._summed(common, everyone)
        chosen, rest = sums[: len(picked)], sums[len(picked) :]
        released = self._release(chosen, step, ledger, self._local_steps, f"{name}: measure")
        if one_way:
            fresh = self._refer(self._release(rest, step, ledger, len(one_way), f"{name}: 1-way marginals"))
            released += fresh if self._variant.combine else []
        return released

    def _refer(self, released: list[Measurement]) -> list[Measurement]:
        """Keep released 1-way marginals as what clients compare themselves with."""
        for measurement in released:
            self._reference[measurement.clique].append(measurement.counts)
        return released

    def _summed(self, requests: Sequence[tuple[Clique, tuple[int, ...]]], cohort: tuple[int, ...]) -> list[Sum]:
        """One secure sum over the cohort for cliques and their contributors; others of the cohort contribute zeros."""
        ends = np.cumsum([0, *(self._workload.domain.size(clique) + 2 for clique, _ in requests)]).tolist()
        pieces: dict[int, dict[int, Counts]] = {k: {} for k in cohort}
        for (clique, contributors), start, end in zip(requests, ends, ends[1:], strict=False):
            for k in contributors:
                pieces[k][start] = self._clients[k].contribution(clique)
            self.traffic.to_server("paper", contributors, WORD * (end - start))
        if not requests:
            return []
        total = self._secure_sum(pieces, ends[-1], bound=LARGEST, traffic=self.traffic).total
        return [
            Sum(clique, cells[:-2], float(cells[-2]), int(cells[-1]))
            for (clique, _), cells in zip(requests, np.split(total, ends[1:-1]), strict=True)
        ]

    def _release(
        self, sums: Sequence[Sum], step: Step, ledger: Ledger, per_record: int, what: str
    ) -> list[Measurement]:
        exact = [found.counts for found in sums]
        noisy = ledger.gaussian(exact, step.variance, per_record=per_record, what=what, by="server")
        return [
            self._measurement(found.clique, counts, step, found.size)
            for found, counts in zip(sums, noisy, strict=True)
            if found.contributors  # how many stayed is public; a sum over nobody is noise alone
        ]

    def _measurement(self, clique: Clique, counts: Counts, step: Step, size: float) -> Measurement:
        records = max(size, 1.0) if self._sound else float(counts.sum()) or None
        confidence = {"equal": None, "exact": size, "estimated": records}[self._variant.weighting]
        return Measurement(clique, counts, step.sigma, records, confidence)

    # -- select ------------------------------------------------------------------------------------------------

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Every participating client picks ``local_steps`` different cliques from its own data.

        FLAIM (Random): the server draws one affordable clique for all of them, whatever their data.
        """
        participants = self._participants()
        if self._variant.picks == "server":
            return Selection({self._drawn(state): participants}, participants)
        self._send_model(participants, state.model.cells)
        picks: dict[int, list[Clique]] = {k: [] for k in participants}
        states = dict.fromkeys(participants, state)
        for local in range(self._local_steps):
            name = f"round {step.index + 1}" + (f", local step {local + 1}" if self._local_steps > 1 else "")
            ballots = self._ballots(states, picks, step)
            chosen = ledger.select(
                [scores for _, scores in ballots.values()],
                step.epsilon2,
                sensitivity=sensitivity(heterogeneity=self._skewed),
                what=f"{name}: clients select",
                by="client",
            )
            for (k, (cliques, _)), choice in zip(ballots.items(), chosen, strict=True):
                picks[k].append(cliques[choice])
            if local + 1 < self._local_steps:
                states = self._local_models(states, picks, step, ledger, name)
        selected: dict[Clique, tuple[int, ...]] = {}
        for k, cliques in self._reported(picks).items():
            for clique in dict.fromkeys(cliques):
                selected[clique] = (*selected.get(clique, ()), k)
        common = {clique: cohort for clique, cohort in selected.items() if len(cohort) >= self._min_cohort}
        return Selection(common, participants)

    def _drawn(self, state: PublicState) -> Clique:
        places = [place for place in range(len(self._workload.closure)) if state.affords(place)]
        return self._workload.closure[self._rng.choice(places)]

    def _send_model(self, participants: tuple[int, ...], cells: int) -> None:
        sizes: dict[Accounting, int] = {"paper": 0, "ideal": 0, "wire": HEADER_BYTES}
        for kind, header in sizes.items():
            self.traffic.to_clients(kind, participants, header + WORD * cells)

    def _reported(self, picks: Mapping[int, list[Clique]]) -> Mapping[int, list[Clique]]:
        """The picks that reach the server: by name, or (padded) as votes of which it learns the sum alone.

        A client that vanishes while votes are summed has none.
        """
        if not self._padded:
            for k, cliques in picks.items():
                self._send([k], ID_BYTES * len(set(cliques)))
            return picks
        one = np.ones(1, dtype=np.int64)
        votes: dict[int, Pieces] = {k: {self._places[q]: one for q in cliques} for k, cliques in picks.items()}
        voted = self._secure_sum(votes, len(self._places), bound=len(votes), traffic=self.traffic)
        return {k: picks[k] for k in voted.survivors}

    @property
    def _skewed(self) -> bool:
        return self._variant.heterogeneity != "none"

    def _ballots(
        self, states: Mapping[int, PublicState], picks: Mapping[int, list[Clique]], step: Step
    ) -> dict[int, tuple[list[Clique], Floats]]:
        """What each client may pick, and the scores; what it has picked before in this round is left out."""
        groups: dict[int, tuple[PublicState, list[int]]] = {}
        for k, state in states.items():
            groups.setdefault(id(state), (state, []))[1].append(k)
        ballots = {}
        for state, group in groups.values():
            cliques, scores = self._score(group, state, step)
            for k, row in zip(group, scores, strict=True):
                fresh = [i for i, clique in enumerate(cliques) if clique not in picks[k]] or list(range(len(cliques)))
                ballots[k] = ([cliques[i] for i in fresh], row[fresh])
        return ballots

    def _score(self, group: list[int], state: PublicState, step: Step) -> tuple[tuple[Clique, ...], Floats]:
        """Candidates of clients that have the same model, and their scores, counted in one pass: (clients, Q)."""
        clients = [self._clients[k] for k in group]
        scales = [client.scale for client in clients]
        ways = range(self._variant.smallest, self._variant.largest + 1)
        candidates = pick_from(state, step, max(scales), sound=self._sound, heterogeneity=self._skewed, ways=ways)
        answers = Answers(candidates.layout, [client.table for client in clients])
        distances = answers.l1_distances(state.model.distribution(candidates.layout), scales)
        skew = self._skew(clients, scales, answers)
        scores = quality(candidates.weights, distances, step.sigma, candidates.cells, skew)
        return candidates.layout.cliques, scores

    def _skew(self, clients: list[Client], scales: list[float], answers: Answers) -> Floats | float:
        """The heterogeneity term tau_k(q): (clients, candidates) records. Source: FLAIM Algorithm 1 line 6."""
        if self._everyone is not None:
            return answers.l1_distances(_distribution(self._everyone, answers.layout), scales)
        if self._variant.heterogeneity == "private":
            reference = self._distributions()
            members = _membership(self._workload.one_way, answers.layout.cliques)
            return np.array([client.mean_skew(reference, members) for client in clients])
        return 0.0

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
        exact = [self._clients[k].counts(picks[k][-1]) for k in states]
        noisy = payer.gaussian(exact, step.variance, what=f"{name}: clients measure for themselves", by="client")
        if not self._sound:
            ledger.warn("paper calibration: noisy local marginals steer local steps and are not charged")
        return {
            k: state.refit([self._measurement(picks[k][-1], counts, step, self._clients[k].size)])
            for (k, state), counts in zip(states.items(), noisy, strict=True)
        }


def _membership(one_way: Sequence[Clique], cliques: Sequence[Clique]) -> npt.NDArray[np.bool_]:
    """(d, Q): whether attribute j belongs to clique q."""
    return np.array([[attribute in clique for clique in cliques] for (attribute,) in one_way])


def _pooled(tables: Sequence[Table]) -> Table:
    """All clients' records in one table: not private, for AugFLAIM (Oracle) alone."""
    return Table(tables[0].domain, np.concatenate([table.codes for table in tables]))


def _distribution(table: Table, layout: Layout) -> Floats:
    return np.concatenate([contingency(table, clique) for clique in layout.cliques]) / max(len(table), 1)
