"""The federated backend: participation, dropouts, references and weights, against the papers' definitions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from marginal_sdg import FLAIM, Domain, Table
from marginal_sdg.backends.base import PublicState, pick_from
from marginal_sdg.backends.federated import FederatedBackend
from marginal_sdg.backends.local_clients import LocalClients
from marginal_sdg.backends.variants import VARIANTS
from marginal_sdg.crypto.masking import MaskedSum
from marginal_sdg.crypto.secagg import IdealSecureSum
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.generators.pgm import PGM
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

STEP = Step(0, variance=Fraction(1, 10_000), epsilon2=Fraction(1))


def make(domain, tables, *, variant="private", sound=True, secure_sum=None, participation=1.0, **terms):
    ledger = Ledger(Budget(900_000.0, 1e-5), Source.seeded(0))
    workload, source = Workload.random(domain, 4), Source.seeded(1)
    members = LocalClients(tables, workload, source, variant=VARIANTS[variant], local_steps=1, secure_sum=secure_sum)
    backend = FederatedBackend(
        members,
        workload,
        ledger,
        source,
        variant=VARIANTS[variant],
        participation=participation,
        local_steps=1,
        size_variance=Fraction(1, 10_000) if sound else None,
        **terms,
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
    backend, ledger = make(domain, clients, sound=sound, secure_sum=IdealSecureSum(lambda k, stage: k in lost))
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


def test_a_census_counts_every_client_once_and_no_one_way_marginal_again(domain, clients, table):
    """All records are in the first marginals, whoever takes part later; weights and references follow."""
    backend, ledger = make(domain, clients, variant="census", participation=0.2)
    measured = backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger)
    for m in measured:
        assert m.counts.tolist() == contingency(table, m.clique).tolist()
        assert m.confidence == pytest.approx(len(table), abs=1)
    selection = backend.select(public(backend, domain, measured), STEP, ledger)
    assert all(len(m.clique) > 1 for m in backend.measure(selection, STEP, ledger))


def test_the_proxy_alone_is_refreshed_but_not_fitted(domain, clients):
    """Its 1-way marginals are paid for in every round, and steer clients only."""
    paid = {}
    for variant in ("naive", "proxy"):
        backend, ledger = make(domain, clients, variant=variant)
        state = public(backend, domain, backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger))
        before = ledger.spent
        selection = backend.select(state, STEP, ledger)
        assert len(backend.measure(selection, STEP, ledger)) == len(selection.picks)
        paid[variant] = ledger.spent - before
    assert paid["proxy"] - paid["naive"] == len(domain) / (2 * STEP.variance)


def test_the_combined_oracle_measures_one_way_marginals_and_never_picks_them(domain, clients):
    _, selection, measured = one_round(domain, clients, variant="oracle_combined")
    assert all(len(clique) > 1 for clique in selection.picks)
    assert sum(len(m.clique) == 1 for m in measured) == len(domain)


def test_naive_bayes_picks_one_way_marginals_only(domain, clients):
    _, selection, _ = one_round(domain, clients, variant="naive_bayes")
    assert all(len(clique) == 1 for clique in selection.picks)


def test_random_draws_one_affordable_clique_a_round_for_everybody_and_pays_nothing(domain, clients):
    backend, ledger = make(domain, clients, variant="random")
    state = public(backend, domain, backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger))
    before, drawn = ledger.spent, []
    for _ in range(2000):
        ((clique, cohort),) = backend.select(state, STEP, ledger).picks.items()
        assert cohort == tuple(range(10))
        drawn.append(clique)
    assert ledger.spent == before
    closure = state.workload.closure
    counts = np.array([drawn.count(clique) for clique in closure])
    assert ((counts - 2000 / len(closure)) ** 2 / (2000 / len(closure))).sum() < 45  # chi-square, 13 degrees: 2e-5


def test_where_the_server_draws_there_is_one_step_a_round(domain, clients):
    with pytest.raises(ConfigError, match="local_steps: must be 1"):
        FLAIM(domain, variant="random", local_steps=2).fit(clients)


def test_no_rounds_leave_the_one_way_marginals_with_the_whole_budget(domain, clients):
    fitted = FLAIM(domain, variant="naive", rounds=0, workload=4, participation=1.0, seed=0).fit(clients)
    assert {len(m.clique) for m in fitted.measurements_} == {1}
    assert fitted.ledger.remaining == 0 and fitted.rounds_ == 0


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
    backend, ledger = make(domain, clients, secure_sum=IdealSecureSum(lambda k, stage: True))
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
    backend, ledger = make(domain, clients, secure_sum=IdealSecureSum(lambda k, stage: True))
    state = public(backend, domain, backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger))
    assert backend.measure(backend.select(state, STEP, ledger), STEP, ledger) == []


# --- secure sums ----------------------------------------------------------------------------------


class Watched(IdealSecureSum):
    """Keeps what every secure sum was asked for."""

    def __init__(self, dropout=None):
        super().__init__(dropout)
        self.asked = []

    def __call__(self, contributions, length, *, bound, traffic, least=0):
        aggregate = super().__call__(contributions, length, bound=bound, traffic=traffic, least=least)
        self.asked.append((contributions, length, bound, aggregate))
        return aggregate


def one_round(domain, clients, before_measure=lambda: None, **terms):
    """A backend, its selection in one round, and what it measured; all clients take part."""
    backend, ledger = make(domain, clients, **terms)
    state = public(backend, domain, backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger))
    selection = backend.select(state, STEP, ledger)
    before_measure()
    return backend, selection, backend.measure(selection, STEP, ledger)


def released(fitted):
    return [(m.clique, m.counts.tolist(), m.records, m.confidence) for m in fitted.measurements_]


@pytest.mark.parametrize(("variant", "calibration"), [("naive", "sound"), ("private", "sound"), ("oracle", "paper")])
def test_how_sums_are_made_does_not_change_them(domain, clients, variant, calibration):
    """Masks or in the clear, padded or by clique: the same seed gives the same model and the same paper accounting."""
    ways = [
        {},
        {"secagg": "masks"},
        {"cohort": "per_query", "min_cohort": 1},
        {"cohort": "per_query", "min_cohort": 1, "secagg": "masks"},
    ]
    terms = {"participation": 0.5, "rounds": 2, "workload": 4, "seed": 3, "local_steps": 2, "epsilon": 3.0}
    first, *others = [
        FLAIM(domain, variant=variant, calibration=calibration, **terms, **way).fit(clients) for way in ways
    ]
    for other in others:
        assert released(other) == released(first)
        assert other.sample_table(50, seed=1).codes.tolist() == first.sample_table(50, seed=1).codes.tolist()
        assert other.ledger.charges == first.ledger.charges
    paper, ideal = ({k: v for k, v in first.communication_.items() if kind in k} for kind in ("paper", "wire"))
    assert all({k: v for k, v in other.communication_.items() if "paper" in k} == paper for other in others)
    assert {k: v for k, v in others[0].communication_.items() if "wire" in k} == ideal
    assert others[1].communication_ == others[2].communication_ != first.communication_


def test_masks_take_keys_from_the_operating_system_in_a_real_run(domain, clients):
    terms = {"participation": 0.5, "rounds": 1, "workload": 4, "secagg": "masks", "secure": True}
    fitted = FLAIM(domain, **terms).fit(clients)
    assert fitted.ledger.remaining == 0 and fitted.ledger.caveats == ()


def test_padded_rounds_ask_the_same_of_every_participant(domain, clients):
    """Two sums a round, of votes and of all that was picked; every client is in both, and sends as much."""
    watched = Watched()
    backend, selection, _ = one_round(domain, clients, secure_sum=watched)
    *_, (votes, candidates, bound, counted), (vectors, length, _, _) = watched.asked
    assert len(watched.asked) == len(domain) + 2
    assert set(votes) == set(vectors) == set(range(10))
    places = Workload.random(domain, 4).closure
    assert candidates == len(places) and bound == len(clients)
    assert dict(zip(places, counted.total.tolist(), strict=True)) == {
        clique: len(selection.picks.get(clique, ())) for clique in places
    }
    assert length == sum(domain.size(clique) + 2 for clique in [*selection.picks, *((name,) for name in domain)])
    for kind in ("ideal", "wire"):
        assert len(set(backend._clients.traffic.of(kind, "client", "sent").tolist())) == 1
    assert len(set(backend._clients.traffic.of("paper", "client", "sent").tolist())) > 1


def test_by_clique_only_those_contribute_who_picked_it(domain, clients):
    watched = Watched()
    backend, selection, _ = one_round(domain, clients, secure_sum=watched, padded=False, min_cohort=1)
    sums = watched.asked[len(domain) :]
    assert [set(contributions) for contributions, *_ in sums[:-1]] == [set(who) for who in selection.picks.values()]
    assert set(sums[-1][0]) == set(range(10))  # the 1-way marginals are of everybody
    assert len(set(backend._clients.traffic.of("wire", "client", "sent").tolist())) > 1


def test_a_clique_that_too_few_picked_is_paid_for_and_not_measured(domain, clients):
    terms = {"variant": "naive", "padded": False}
    _, every, all_measured = one_round(domain, clients, min_cohort=1, **terms)
    assert {len(who) for who in every.picks.values()} > {1}
    for least in (2, 4):
        _, common, measured = one_round(domain, clients, min_cohort=least, **terms)
        assert common.picks == {clique: who for clique, who in every.picks.items() if len(who) >= least}
        assert [m.clique for m in measured] == list(common.picks) != [m.clique for m in all_measured]
    charges = [
        FLAIM(domain, cohort="per_query", min_cohort=least, rounds=2, workload=4, seed=0).fit(clients).ledger.charges
        for least in (1, 11)
    ]
    assert charges[0] == charges[1]


@pytest.mark.parametrize("engine", [IdealSecureSum, lambda dropout: MaskedSum(Source.seeded(2).key, dropout)])
def test_who_vanishes_in_a_padded_sum_is_missing_in_all_cliques_of_the_round(domain, clients, engine):
    lost = set()
    secure_sum = engine(lambda k, stage: k in lost and stage == "relay")
    _, selection, measured = one_round(domain, clients, lambda: lost.update({0, 7}), secure_sum=secure_sum)
    cohorts = [who for who in selection.picks.values() if set(who) - lost] + [range(10)] * len(domain)
    assert len(measured) == len(cohorts)
    for measurement, cohort in zip(measured, cohorts, strict=True):
        stayed = [clients[k] for k in cohort if k not in lost]
        exact = sum(contingency(client, measurement.clique) for client in stayed)
        assert measurement.counts.tolist() == exact.tolist()
        assert measurement.records == pytest.approx(sum(map(len, stayed)), abs=1)


def test_who_vanishes_while_votes_are_counted_has_none(domain, clients):
    lost = set()
    backend, ledger = make(domain, clients, secure_sum=IdealSecureSum(lambda k, stage: k in lost))
    state = public(backend, domain, backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger))
    lost.update(range(5))
    selection = backend.select(state, STEP, ledger)
    assert {k for who in selection.picks.values() for k in who} == set(range(5, 10))
    assert selection.participants == tuple(range(10))


def test_too_few_left_for_masks_end_a_run(domain, clients):
    backend, ledger = make(domain, clients, secure_sum=MaskedSum(Source.seeded(0).key, lambda k, stage: k < 4))
    with pytest.raises(ProtocolError, match="must stay"):
        backend.initialise(Workload.random(domain, 4).one_way, STEP, ledger)
