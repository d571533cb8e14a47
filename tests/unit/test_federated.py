"""The federated backend: participation, dropouts, references and weights, against the papers' definitions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from marginal_sdg import FLAIM, Domain, Table
from marginal_sdg.backends.base import PublicState, pick_from
from marginal_sdg.backends.federated import VARIANTS, FederatedBackend
from marginal_sdg.crypto.secagg import IdealSecureSum
from marginal_sdg.generators.pgm import PGM
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

STEP = Step(0, variance=Fraction(1, 10_000), epsilon2=Fraction(1))


def make(domain, tables, *, variant="private", sound=True, secure_sum=None, participation=1.0):
    ledger = Ledger(Budget(900_000.0, 1e-5), Source.seeded(0))
    backend = FederatedBackend(
        tables,
        Workload.random(domain, 4),
        ledger,
        Source.seeded(1),
        variant=VARIANTS[variant],
        participation=participation,
        local_steps=1,
        size_variance=Fraction(1, 10_000) if sound else None,
        secure_sum=secure_sum,
    )
    return backend, ledger


def public(backend, domain, measurements) -> PublicState:
    total = backend.total(measurements)
    generator = PGM(domain)
    return PublicState(
        Workload.random(domain, 4), generator.fit(measurements, total), tuple(measurements), generator, total, 1e6
    )


@pytest.mark.parametrize("sound", [True, False])
def test_a_measurement_counts_the_clients_that_stayed(domain, clients, sound):
    lost = {0, 1, 2}
    backend, ledger = make(domain, clients, sound=sound, secure_sum=IdealSecureSum(lambda k: k in lost))
    measured = backend.initialise([("a",)], STEP, ledger)[0]
    stayed = [client for k, client in enumerate(clients) if k not in lost]
    assert measured.counts.tolist() == sum(contingency(client, ("a",)) for client in stayed).tolist()
    assert measured.records == pytest.approx(sum(map(len, stayed)), abs=1)


def test_participation_is_independent_of_the_records(domain, clients, table):
    nobody = [table.take(np.arange(0)) for _ in clients]
    states = []
    for tables in (clients, nobody):
        backend, ledger = make(domain, tables, participation=0.3)
        measured = backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger)
        chosen = [backend.select(public(backend, domain, measured), STEP, ledger).participants for _ in range(5)]
        states.append(chosen)
    assert states[0] == states[1]


def test_the_private_variant_measures_all_one_way_marginals_every_round_but_the_last(domain, clients):
    backend, ledger = make(domain, clients)
    state = public(backend, domain, backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger))
    selection = backend.select(state, STEP, ledger)
    assert all(len(clique) > 1 for clique in selection.cliques)
    ways = [len(m.clique) for m in backend.measure(selection, STEP, ledger)]
    assert ways.count(1) == len(domain)
    last = Step(1, STEP.variance, STEP.epsilon2, last=True)
    assert all(len(m.clique) > 1 for m in backend.measure(selection, last, ledger))


def test_weights_follow_the_variant(domain, clients):
    for variant, sound in [("naive", True), ("naive", False)]:
        backend, ledger = make(domain, clients, variant=variant, sound=sound)
        assert backend.initialise([("a",)], STEP, ledger)[0].confidence is None
    for variant, sound in [("oracle", False), ("private", False), ("private", True)]:
        backend, ledger = make(domain, clients, variant=variant, sound=sound)
        assert backend.initialise([("a",)], STEP, ledger)[0].confidence == pytest.approx(2000, abs=2)


def test_the_sound_total_extrapolates_the_noisy_sizes_of_the_clients_seen(domain, clients):
    backend, ledger = make(domain, clients, participation=0.2)
    measured = backend.initialise([("a",)], STEP, ledger)
    assert backend.total(measured) == pytest.approx(2000, abs=5)  # all clients have 200 records
    exact, ledger = make(domain, clients, sound=False)
    assert exact.total([]) == 2000


@pytest.mark.parametrize("sound", [True, False])
def test_weights_are_relative_to_the_papers_or_to_the_plausible_candidates(domain, clients, sound):
    backend, ledger = make(domain, clients, sound=sound)
    state = public(backend, domain, backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger))
    noisy = Step(0, variance=Fraction(100), epsilon2=Fraction(10_000))  # too noisy for a marginal of many cells
    candidates = pick_from(state, noisy, 10.0, sound=sound, heterogeneity=False)
    assert 0 < len(candidates.weights) < len(state.workload.closure)
    assert bool(candidates.weights.max() == 1.0) is sound


def test_a_cohort_of_which_nobody_stayed_is_paid_for_and_left_out(domain, clients):
    backend, ledger = make(domain, clients, secure_sum=IdealSecureSum(lambda k: True))
    before = ledger.spent
    assert backend.initialise([("a",)], STEP, ledger) == []
    assert ledger.spent > before


@pytest.mark.parametrize("seed", [342, 463, 725])
def test_a_noisy_size_far_below_zero_does_not_stop_a_run(seed):
    domain = Domain.from_shape({"a": 3})
    empty = Table(domain, np.zeros((0, 1), dtype=np.int32))
    params = {"participation": 1.0, "rounds": 1, "gaussian_share": 0.05, "workload": [("a",)]}
    fitted = FLAIM(domain, variant="naive", seed=seed, **params).fit([empty])
    assert fitted.ledger.remaining == 0


def test_a_run_in_which_everybody_drops_out_still_ends(domain, clients):
    backend, ledger = make(domain, clients, secure_sum=IdealSecureSum(lambda k: True))
    state = public(backend, domain, backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger))
    assert backend.measure(backend.select(state, STEP, ledger), STEP, ledger) == []
