"""The Select-Measure-Generate loop, the same for every trust model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from marginal_sdg.backends.base import Backend, PublicState
from marginal_sdg.domain import Clique
from marginal_sdg.generators.base import Generator
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.release import Measurement, Selection
from marginal_sdg.schedule import Schedule, Step
from marginal_sdg.scores import NOISE_PENALTY
from marginal_sdg.workload import Workload

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Synthesis:
    """What the loop leaves behind; all of it public. ``seconds``: wall time per phase."""

    model: GraphicalModel
    measurements: tuple[Measurement, ...]
    rounds: int
    sigma: float
    seconds: dict[str, float]


def synthesise(
    backend: Backend,
    workload: Workload,
    schedule: Schedule,
    generator: Generator,
    ledger: Ledger,
    *,
    max_model_mb: float,
    on_event: OnEvent,
    known: Sequence[Measurement] = (),
) -> Synthesis:
    """Initialise with 1-way marginals, then select, measure and generate until the schedule ends.

    Everything outside ``backend`` is post-processing of what the ledger has paid for and of what is ``known`` publicly.
    """
    clock = _Clock()
    cell_limit = max_model_mb * 2**20 / 8
    base = _public_cells(generator, known)
    allowance = ledger.allowance
    step = schedule.initial
    with clock("measure"):
        measurements = backend.initialise(workload.one_way, step, ledger)
    with clock("generate"):
        total = backend.total(measurements)
        model = generator.fit([*known, *measurements], total)
    on_event({"event": "start", "rounds": schedule.rounds, "sigma": step.sigma, "rho_spent": float(ledger.spent)})
    following = schedule.next(step, ledger.allowance, stalled=False)
    while following is not None:
        step = following
        left = ledger.allowance - backend.costs.rho(step.variance, step.epsilon2, last=step.last)
        growth = float(1 - left / allowance)  # the model may grow with the budget spent; source: AIM §4.2
        state = PublicState(
            workload, model, (*known, *measurements), generator, total, base + growth * (cell_limit - base)
        )
        with clock("select"):
            selection = affordable(backend.select(state, step, ledger), generator, model.cliques, cell_limit)
        with clock("measure"):
            measurements += backend.measure(selection, step, ledger)
        with clock("generate"):
            total = backend.total(measurements)
            model = generator.fit([*known, *measurements], total, warm_start=model)
        stalled = schedule.rounds is None and any(
            _unchanged(state.model, model, clique, step) for clique in selection.cliques
        )
        on_event(
            {
                "event": "round",
                "round": step.index + 1,
                "rounds": schedule.rounds,
                "selected": selection.cliques,
                "sigma": step.sigma,
                "rho_spent": float(ledger.spent),
                "seconds": sum(clock.seconds.values()),
            }
        )
        following = schedule.next(step, ledger.allowance, stalled=stalled)
    with clock("generate"):
        model = generator.fit([*known, *measurements], total, warm_start=model, final=True)
    on_event({"event": "done", "rho_spent": float(ledger.spent), "seconds": sum(clock.seconds.values())})
    return Synthesis(model, (*known, *measurements), step.index + 1, step.sigma, clock.seconds)


def _public_cells(generator: Generator, known: Sequence[Measurement]) -> int:
    """Cells that the model has before any budget is spent: 0 unless public knowledge joins attributes."""
    cells = generator.cells([measurement.clique for measurement in known])
    return cells if cells > sum(generator.domain.shape) else 0


def affordable(
    selection: Selection, generator: Generator, measured: tuple[Clique, ...], cell_limit: float
) -> Selection:
    """Drop the picks, least wanted first, whose joint model would exceed the memory limit.

    Every pick fits alone, but many clients' picks together may not. Picks are public, so dropping is free.
    """
    kept: list[Clique] = []
    for clique in selection.cliques:
        if generator.cells((*measured, *kept, clique)) <= cell_limit:
            kept.append(clique)
    return selection.only(kept)


def _unchanged(before: GraphicalModel, after: GraphicalModel, clique: Clique, step: Step) -> bool:
    """Did measuring ``clique`` move the model by less than the noise? Source: AIM, algorithm 3 (annealing)."""
    change = float(np.abs(after.marginal(clique) - before.marginal(clique)).sum())
    return change <= NOISE_PENALTY * step.sigma * before.domain.size(clique)


class _Clock:
    """Adds up wall seconds per phase of the loop."""

    def __init__(self) -> None:
        self.seconds = {"select": 0.0, "measure": 0.0, "generate": 0.0}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start
