"""Audit whole mechanisms: AIM and FLAIM with and without one canary record, by an auditor who sees every release.

The canary is as exposed as a record can be: its client takes part in everything, and it sits in cells that are empty
without it. The auditor knows all other records. Its score is the exact log-likelihood ratio of all that the run
releases along its own path: sizes, selections and measurements. A second score watches the published total.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from marginal_sdg import federations, synthesizers
from marginal_sdg.backends.base import Backend, PublicState
from marginal_sdg.backends.federated import FederatedBackend
from marginal_sdg.backends.local_clients import LocalClients
from marginal_sdg.backends.plaintext import PlaintextBackend
from marginal_sdg.backends.sum_noise import SumNoise
from marginal_sdg.domain import Clique, Domain
from marginal_sdg.encoding import Table
from marginal_sdg.experiment.sum_game import WatchedSum
from marginal_sdg.generators import make_generator
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.privacy.audit import choice_evidence, count_evidence
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.release import Measurement, Selection
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]

CLIENTS, STAYING = 3, 2
DOMAIN = Domain.from_shape({"a": 3, "b": 3, "c": 3})
WORKLOAD = Workload(DOMAIN, (("a", "b"), ("b", "c")))
METHODS = {"AIM": None, "NaiveFLAIM": "naive", "AugFLAIM (Private)": "private"}


def worlds(rows: int = 90) -> tuple[Table, Table]:
    """A table that never uses the last code of any attribute, and the same with a first record that always does."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, rows)
    codes = np.stack([a, a ^ (rng.random(rows) < 0.2), rng.integers(0, 2, rows)], axis=1)
    return Table(DOMAIN, codes), Table(DOMAIN, np.vstack([[2, 2, 2], codes]))


@dataclass(frozen=True)
class Game:
    """One mechanism under audit. ``ledger``, ``curator`` and ``noise`` are where a fault can be planted.

    ``noise``: the clients' on sums, by one client of three, for the last leaves every sum, and the auditor, who is the
    server, knows what the second has added.
    """

    method: str
    budget: Budget
    rounds: int = 10
    calibration: str = "sound"
    ledger: type[Ledger] = Ledger
    curator: type[WatchedCurator] | None = None
    noise: type[SumNoise] | None = None

    def run(self, world: int, seed: int | np.random.SeedSequence) -> tuple[float, float]:
        """Fit in one world: (log-likelihood ratio of the releases, the same for the published total's excess)."""
        both = worlds()
        witness = Witness()
        shared: dict[str, Any] = {
            "epsilon": self.budget.epsilon,
            "delta": self.budget.delta,
            "rounds": self.rounds,
            "workload": WORKLOAD,
            "calibration": self.calibration,
            "seed": seed,
        }
        curator = partial(self.curator or WatchedCurator, worlds=both, witness=witness)
        engine = None if self.noise is None else WatchedSum(STAYING)
        federation = partial(WatchedFederation, worlds=both, witness=witness, engine=engine)
        faulty: dict[str, Any] = {"Ledger": self.ledger, "FederatedBackend": federation}
        if self.noise is not None:
            faulty |= {"SumNoise": self.noise, "IdealSecureSum": lambda: engine}
            shared["noise"] = "clients"
        with (
            patch.multiple(synthesizers, Ledger=self.ledger, PlaintextBackend=curator),
            patch.multiple(federations, **faulty),
        ):
            fitted: synthesizers.AIM | federations.FLAIM
            variant = METHODS[self.method]
            if variant is None:
                fitted = synthesizers.AIM(DOMAIN, **shared).fit(both[world])
            else:
                clients = _clients(both[world], with_canary=world == 1)
                fitted = federations.FLAIM(DOMAIN, variant=variant, participation=1.0, **shared).fit(clients)
        total = fitted.model_.total
        return witness.evidence, abs(total - len(both[0])) - abs(total - len(both[1]))

    def play(self, runs: int, seed: int) -> tuple[Floats, Floats]:
        """(runs, 2) scores of independent runs, without and with the canary."""
        seeds = np.random.SeedSequence(seed).spawn(2 * runs)
        scores = np.array([self.run(i % 2, one) for i, one in enumerate(seeds)])
        return scores[0::2], scores[1::2]


def _clients(table: Table, *, with_canary: bool) -> list[Table]:
    """The same records at the same clients in both worlds; the canary is at the first."""
    rows = np.arange(int(with_canary), len(table))
    parts = [rows[k::CLIENTS] for k in range(CLIENTS)]
    parts[0] = np.append(np.arange(int(with_canary)), parts[0])
    return [table.take(part) for part in parts]


class Witness:
    """Adds up the evidence of one run."""

    def __init__(self) -> None:
        self.evidence = 0.0

    def measured(self, released: Sequence[Measurement], counted: Sequence[bool]) -> None:
        """The last cell of every marginal is empty but for the canary, where that is ``counted``."""
        for measurement, in_it in zip(released, counted, strict=True):
            if in_it:
                self.evidence += count_evidence(float(measurement.counts[-1]), measurement.sigma**2)

    def selected(self, twins: Sequence[Backend], state: PublicState, step: Step, choices: list[int]) -> None:
        """Choices of the run at hand, judged by the scores that both worlds give in the same public state."""
        without, present = (scores_of(twin, state, step) for twin in twins)
        for a, b, choice in zip(without.scores, present.scores, choices, strict=True):
            self.evidence += choice_evidence(a, b, choice, float(step.epsilon2), without.sensitivity)


class _Listener(Ledger):
    """Keeps what comes by on its way to a ledger; without one it draws nothing."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        super().__init__(None, Source.seeded(0))
        self._ledger = ledger

    def select(self, scores: Sequence[Floats], epsilon2: Any, *, sensitivity: float, **terms: Any) -> list[int]:
        self.scores = [np.array(vector) for vector in scores]
        self.sensitivity = sensitivity
        self.choices = [0] * len(scores)
        if self._ledger is not None:
            self.choices = self._ledger.select(scores, epsilon2, sensitivity=sensitivity, **terms)
        return self.choices


def scores_of(backend: Backend, state: PublicState, step: Step) -> _Listener:
    """The ``scores`` that a backend would draw from, and their ``sensitivity``."""
    listener = _Listener()
    backend.select(state, step, listener)
    return listener


class WatchedCurator(PlaintextBackend):
    """AIM's backend with a witness, who can compute the scores of both worlds."""

    def __init__(
        self,
        table: Table,
        workload: Workload,
        *,
        sound: bool,
        known: Container[str],
        worlds: tuple[Table, Table],
        witness: Witness,
    ) -> None:
        super().__init__(table, workload, sound=sound, known=known)
        self._twins = [PlaintextBackend(world, workload, sound=sound) for world in worlds]
        self._witness = witness

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Watched: the canary is counted in every marginal."""
        return self._watched(super().initialise(cliques, step, ledger))

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Watched."""
        listener = _Listener(ledger)
        selection = super().select(state, step, listener)
        self._witness.selected(self._twins, state, step, listener.choices)
        return selection

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Watched."""
        return self._watched(super().measure(selection, step, ledger))

    def _watched(self, released: list[Measurement]) -> list[Measurement]:
        self._witness.measured(released, [True] * len(released))
        return released


class TellsTotal(WatchedCurator):
    """A planted fault: the exact number of records gets out."""

    def total(self, measurements: Sequence[Measurement]) -> float:
        """The number of records, without noise."""
        return float(len(self._table))


class WatchedFederation(FederatedBackend):
    """FLAIM's backend with a witness; the canary, if there is one, is at client 0, and every client takes part."""

    def __init__(self, clients: LocalClients, workload: Workload, ledger: Ledger, source: Source, **terms: Any) -> None:
        both: tuple[Table, Table] = terms.pop("worlds")
        self._witness: Witness = terms.pop("witness")
        self._engine: WatchedSum | None = terms.pop("engine")
        super().__init__(clients, workload, ledger, source, **terms)
        self._members = clients
        homes = [_clients(world, with_canary=i == 1)[0] for i, world in enumerate(both)]
        if terms["size_variance"] is not None:
            excess = self._sizes[0] - len(homes[0])
            self._witness.evidence += count_evidence(excess, float(terms["size_variance"]))
        self._twins = [self._twin(home) for home in homes]

    def _twin(self, home: Table) -> FederatedBackend:
        """The same federation with another table at client 0; sizes that were released stay as they were."""
        twin = FederatedBackend.__new__(FederatedBackend)
        twin.__dict__.update(self.__dict__)
        size = self._sizes[0] if self._sound else float(len(home))
        twin._clients = self._members.with_first(replace(self._members.members[0], table=home, size=size))
        twin._rng = np.random.default_rng(0)  # participation is 1
        return twin

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Watched: every client is in every sum."""
        released = super().initialise(cliques, step, ledger)
        self._witness.measured(self._as_seen(released), [True] * len(released))
        return released

    def _as_seen(self, released: list[Measurement]) -> list[Measurement]:
        """What the auditor makes of releases: where clients add the noise, without that of the one it knows."""
        if self._engine is None:
            return released
        seen = []
        for measurement, part in zip(released, self._engine.last_cells(range(1, STAYING)), strict=True):
            counts = np.append(measurement.counts[:-1], measurement.counts[-1] - part)
            seen.append(replace(measurement, counts=counts, sigma=measurement.sigma / math.sqrt(STAYING)))
        return seen

    def select(self, state: PublicState, step: Step, ledger: Ledger) -> Selection:
        """Watched, with one local step."""
        listener = _Listener(ledger)
        selection = super().select(state, step, listener)
        self._witness.selected(self._twins, state, step, listener.choices)
        return selection

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Watched: the canary is counted where its client picked the clique, and in the 1-way marginals of all."""
        if self._engine is not None:
            self._engine.made.clear()  # earlier sums, and votes
        released = super().measure(selection, step, ledger)
        counted = [0 in cohort for cohort in selection.picks.values()]
        self._witness.measured(self._as_seen(released), counted + [True] * (len(released) - len(counted)))
        return released


def skewed_scores(*, sound: bool, rows: int = 12) -> tuple[tuple[Floats, Floats], float]:
    """AIM's scores of two candidates that the canary moves in opposite directions, and the sensitivity claimed.

    All records have the first code of a and b. The model has all its mass there for a, and nine tenths for b; the
    canary has the second code of both, so a's distance grows and b's shrinks.
    """
    domain = Domain.from_shape({"a": 2, "b": 2})
    workload = Workload(domain, (("a",), ("b",)))
    step = Step(0, variance=Budget(5.0, 1e-5).rho, epsilon2=Budget(5.0, 1e-5).rho)
    generator = make_generator("pgm", domain, 80.0)
    listeners = []
    for world in range(2):
        codes = np.zeros((rows + world, 2), dtype=np.int32)
        codes[rows:] = 1
        backend = PlaintextBackend(Table(domain, codes), workload, sound=sound)
        total = float(rows) if sound else backend.total([])
        model = GraphicalModel(domain, {("a",): np.log([1 - 1e-9, 1e-9]), ("b",): np.log([0.9, 0.1])}, total)
        listeners.append(scores_of(backend, PublicState(workload, model, (), generator, total, 1e9), step))
    return (listeners[0].scores[0], listeners[1].scores[0]), listeners[0].sensitivity
