"""The game of the one-run audit: FLAIM on clients whose canaries are in or out by a coin, watched by an auditor.

Canary i has a code of its own in attribute "a". Its cell is empty without it in every released marginal that contains
"a": for NaiveFLAIM in all there are, for AugFLAIM, which has to be offered a 2-way marginal, in two of three. All
clients take part; the auditor knows who is in which sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from marginal_sdg import federations
from marginal_sdg.backends.clients import Clients
from marginal_sdg.backends.federated import FederatedBackend
from marginal_sdg.domain import Clique, Domain
from marginal_sdg.encoding import Table
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.release import Measurement, Selection
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]

METHODS = {"NaiveFLAIM": ("naive", ("a",)), "AugFLAIM (Private)": ("private", ("a", "b"))}
CLIENTS = 20
ORDINARY = 50  # records of each client that are no canaries


def play_one_run(
    method: str, budget: Budget, canaries: int, seed: int, *, rounds: int = 1, ledger: type[Ledger] = Ledger
) -> tuple[Floats, Coins]:
    """(canaries,) evidence and coins of one run. ``ledger`` is where a fault can be planted."""
    chance, noise = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(chance)
    coins: Coins = rng.random(canaries) < 0.5
    homes = np.arange(canaries) % CLIENTS
    variant, clique = METHODS[method]
    domain = Domain.from_shape({name: size for name, size in (("a", canaries + 1), ("b", 2)) if name in clique})
    evidence = np.zeros(canaries)
    federation = federations.FLAIM(
        domain,
        variant=variant,
        epsilon=budget.epsilon,
        delta=budget.delta,
        rounds=rounds,
        workload=Workload(domain, (clique,)),
        participation=1.0,
        seed=noise,
    )
    watched = partial(WatchedSums, homes=homes, evidence=evidence)
    with patch.multiple(federations, Ledger=ledger, FederatedBackend=watched):
        federation.fit([_client(domain, np.flatnonzero(coins & (homes == k)), rng) for k in range(CLIENTS)])
    return evidence, coins


def _client(domain: Domain, canaries: npt.NDArray[np.intp], rng: np.random.Generator) -> Table:
    """Ordinary records have the last code of "a", canaries their own, and the first code of "b"."""
    a = np.append(np.full(ORDINARY, domain.shape[0] - 1), canaries)
    b = np.append(rng.integers(0, 2, ORDINARY), np.zeros_like(canaries))
    return Table(domain, np.stack([a, b][: len(domain)], axis=1))


class WatchedSums(FederatedBackend):
    """FLAIM's backend with an auditor, who adds up ``evidence``: log-likelihood ratios of measurements, (canaries,).

    ``homes``: (canaries,) the client of each.
    """

    def __init__(self, clients: Clients, workload: Workload, ledger: Ledger, source: Source, **terms: Any) -> None:
        self._homes: npt.NDArray[np.intp] = terms.pop("homes")
        self._evidence: Floats = terms.pop("evidence")
        super().__init__(clients, workload, ledger, source, **terms)

    def initialise(self, cliques: Sequence[Clique], step: Step, ledger: Ledger) -> list[Measurement]:
        """Watched: every client is in every sum."""
        released = super().initialise(cliques, step, ledger)
        everyone = tuple(range(len(self._clients)))
        return self._watched(released, [everyone] * len(released))

    def measure(self, selection: Selection, step: Step, ledger: Ledger) -> list[Measurement]:
        """Watched: first what clients picked, then the 1-way marginals of all."""
        released = super().measure(selection, step, ledger)
        picked = list(selection.picks.values())
        return self._watched(released, picked + [selection.participants] * (len(released) - len(picked)))

    def _watched(self, released: list[Measurement], cohorts: list[tuple[int, ...]]) -> list[Measurement]:
        for measurement, cohort in zip(released, cohorts, strict=True):
            if "a" in measurement.clique:
                rows = measurement.counts.reshape(len(self._homes) + 1, -1)
                ratios = (2 * rows[:-1, 0] - 1) / (2 * measurement.sigma**2)  # count_evidence of each canary's cell
                self._evidence += np.where(np.isin(self._homes, cohort), ratios, 0.0)
        return released
