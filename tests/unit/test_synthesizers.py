"""The estimators end to end on a small table: budget, totals, repeatability, manners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from marginal_sdg import AIM, FLAIM, Budget, Domain, Ledger, Workload, encode
from marginal_sdg.encoding import Table
from marginal_sdg.errors import (
    BudgetError,
    ConfigError,
    DataError,
    DomainError,
    MarginalSDGError,
    NotFittedError,
)
from marginal_sdg.metrics import workload_error
from marginal_sdg.privacy.noise import Source

FEDERATED = [
    {"variant": variant, "calibration": calibration, "local_steps": local_steps}
    for variant in ("naive", "oracle", "private")
    for calibration in ("sound", "paper")
    for local_steps in (1, 2)
]


def flaim(domain, **params) -> FLAIM:
    return FLAIM(domain, **{"participation": 0.5, "rounds": 3, "epsilon": 5.0, "workload": 4, "seed": 0, **params})


@pytest.mark.parametrize("calibration", ["sound", "paper"])
@pytest.mark.parametrize("rounds", [3, "adaptive"])
def test_aim_spends_exactly_its_budget(domain, table, calibration, rounds):
    fitted = AIM(domain, epsilon=2.0, rounds=rounds, calibration=calibration, seed=0, workload=4).fit(table)
    assert fitted.ledger.spent == Budget(2.0, 1e-5).rho
    assert fitted.ledger.epsilon() == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("params", FEDERATED, ids=str)
def test_flaim_spends_exactly_its_budget(domain, clients, params):
    fitted = flaim(domain, **params).fit(clients)
    assert fitted.ledger.spent == Budget(5.0, 1e-5).rho


@pytest.mark.parametrize(("calibration", "an_attribute"), [("sound", 8), ("paper", 16)])
def test_annealing_starts_with_the_noise_of_so_many_rounds_an_attribute(domain, table, calibration, an_attribute):
    terms = {"epsilon": 1.0, "calibration": calibration, "seed": 0, "workload": 2}
    events = []
    AIM(domain, rounds="adaptive", on_event=events.append, **terms).fit(table)
    equal = AIM(domain, rounds=an_attribute * len(domain), **terms).fit(table)
    assert events[0]["sigma"] == pytest.approx(equal.sigma_)


def test_adaptive_flaim_ends_and_spends_exactly_its_budget(domain, clients):
    fitted = flaim(domain, rounds="adaptive").fit(clients)
    assert fitted.ledger.spent == Budget(5.0, 1e-5).rho
    assert fitted.rounds_ > 1


@pytest.mark.parametrize("make", [AIM, flaim])
def test_much_budget_gives_nearly_the_real_marginals(domain, table, make):
    workload = Workload.random(domain, 4)
    model = make(domain, epsilon=200.0, rounds=6, workload=workload, seed=1)
    data = table if isinstance(model, AIM) else [table.take(np.arange(k, 2000, 5)) for k in range(5)]
    fitted = model.set_params(max_model_mb=100.0).fit(data)
    assert workload_error(table, fitted.sample_table(20_000, seed=0), workload) < 0.12
    independent = AIM(domain, epsilon=0.001, rounds=1, workload=workload, seed=1).fit(table)
    assert workload_error(table, independent.sample_table(20_000, seed=0), workload) > 0.4


def test_a_seed_repeats_a_run_and_another_seed_does_not(domain, table):
    first, again, other = (AIM(domain, workload=4, seed=s).fit(table) for s in (3, 3, 4))
    assert first.sample(50, seed=1).equals(again.sample(50, seed=1))
    assert not np.array_equal(first.measurements_[0].counts, other.measurements_[0].counts)


def test_secure_runs_differ_and_say_nothing_of_a_simulation(domain, table):
    runs = [AIM(domain, workload=4, secure=True).fit(table) for _ in range(2)]
    assert not np.array_equal(runs[0].measurements_[0].counts, runs[1].measurements_[0].counts)
    assert runs[0].ledger.caveats == ()


def test_reports_label_what_is_not_private(domain, table, clients):
    assert any("NOT PRIVATE" in c for c in flaim(domain, variant="oracle").fit(clients).ledger.caveats)
    assert any("paper calibration" in c for c in AIM(domain, calibration="paper").fit(table).ledger.caveats)
    sound = flaim(domain).fit(clients).ledger.caveats
    assert not any("NOT PRIVATE" in c or "paper" in c for c in sound)
    assert any(
        "not charged" in c for c in flaim(domain, calibration="paper", local_steps=2).fit(clients).ledger.caveats
    )


@pytest.mark.parametrize("rows", [0, 1, 2, 2000])
def test_the_number_of_records_stays_private_and_tiny_tables_work(domain, table, rows):
    """G3, G5: the same charges and events whatever the data; the default sample size is the noisy total."""
    events = []
    small = table.take(np.arange(rows))
    fitted = AIM(domain, workload=4, rounds=4, seed=5, on_event=events.append).fit(small)
    reference = AIM(domain, workload=4, rounds=4, seed=6).fit(table)
    assert fitted.ledger.charges == reference.ledger.charges
    assert [e["event"] for e in events] == ["start", *["round"] * 4, "done"]
    noise = fitted.sigma_ * sum(1 / n for n in domain.shape) ** -0.5
    assert abs(fitted.model_.total - max(rows, 1)) < 6 * noise
    assert len(fitted.sample_table()) == round(fitted.model_.total)


def test_clients_may_be_empty(domain, table):
    empty = table.take(np.arange(0))
    fitted = flaim(domain, participation=1.0).fit([empty, table, empty])
    assert fitted.ledger.spent == Budget(5.0, 1e-5).rho


def test_synthetic_rows_look_like_the_input():
    domain = Domain.from_dict(
        {
            "age": {"lower": 18, "upper": 90, "bins": 8, "integer": True},
            "income": {"lower": 0.0, "upper": 1e5, "bins": 10},
            "colour": {"categories": ["red", "green"], "missing": "category"},
        }
    )
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 91, 500),
            "income": rng.uniform(0, 1e5, 500),
            "colour": rng.choice(np.array(["red", "green", None], dtype=object), 500),
        }
    )
    synthetic = AIM(domain, seed=0, workload=1, rounds=2).fit(frame).sample(300, seed=0)
    assert list(synthetic.columns) == list(frame.columns)
    assert synthetic["age"].between(18, 90).all() and synthetic["age"].dtype.kind == "i"
    assert synthetic["income"].between(0, 1e5).all()
    assert set(synthetic["colour"].dropna()) <= {"red", "green"}
    encode(synthetic, domain)


def test_parameters_follow_scikit_learn(domain):
    model = FLAIM(domain, epsilon=2.0)
    assert FLAIM(**model.get_params()).get_params() == model.get_params()
    assert model.set_params(epsilon=3.0).epsilon == 3.0
    with pytest.raises(ConfigError, match="epsilom"):
        model.set_params(epsilom=1.0)
    with pytest.raises(NotFittedError, match="fit first"):
        model.sample(1)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"epsilon": 0.0}, BudgetError, "epsilon"),
        ({"epsilon": -1.0}, BudgetError, "epsilon"),
        ({"epsilon": float("nan")}, BudgetError, "epsilon"),
        ({"delta": 0.0}, BudgetError, "delta"),
        ({"delta": 1.0}, BudgetError, "delta"),
        ({"rounds": -1}, ConfigError, "rounds"),
        ({"gaussian_share": 1.5}, ConfigError, "gaussian_share"),
        ({"workload": 0}, ConfigError, "count"),
        ({"workload": [("a", "nope")]}, DomainError, "nope"),
        ({"workload": []}, ConfigError, "at least one clique"),
        ({"calibration": "honest"}, ConfigError, "calibration"),
        ({"generator": "gan"}, ConfigError, "generator"),
        ({"max_model_mb": 0.0}, ConfigError, "max_model_mb"),
        ({"seed": 1, "secure": True}, ConfigError, "seed"),
        ({"variant": "augmented"}, ConfigError, "variant"),
        ({"participation": 0.0}, ConfigError, "participation"),
        ({"participation": 1.1}, ConfigError, "participation"),
        ({"local_steps": 0}, ConfigError, "local_steps"),
        ({"secagg": "masked"}, ConfigError, "secagg"),
        ({"cohort": "all"}, ConfigError, "cohort"),
        ({"min_cohort": 0}, ConfigError, "min_cohort"),
        ({"min_cohort": True}, ConfigError, "min_cohort"),
    ],
)
def test_bad_parameters_get_one_line_before_any_data_is_touched(domain, params, error, message):
    with pytest.raises(error, match=message) as caught:
        FLAIM(domain, **params).fit([object()])
    assert isinstance(caught.value, MarginalSDGError) and "\n" not in str(caught.value)


def test_bad_tables_are_refused_before_anything_is_spent(domain, table, clients):
    with pytest.raises(DataError, match="list with one table per client"):
        FLAIM(domain).fit(table)
    with pytest.raises(DataError, match="non-empty list"):
        FLAIM(domain).fit([])
    with pytest.raises(DataError, match="DataFrame or an encoded Table"):
        AIM(domain).fit([[1, 2]])
    other = Domain.from_shape({"a": 2})
    with pytest.raises(DomainError, match="another domain"):
        AIM(domain).fit(Table(other, np.zeros((1, 1), dtype=np.int32)))
    with pytest.raises(ConfigError, match="another domain"):
        AIM(domain, workload=Workload(other, (("a",),))).fit(table)
    with pytest.raises(ConfigError, match="needs a Domain"):
        AIM({"a": 2}).fit(table)


def test_traffic_counts_the_papers_bytes(domain, clients):
    """Source: FLAIM section 5.3: 8 bytes a cell, a decision and a size with every marginal."""
    fitted = flaim(domain, variant="naive", participation=1.0, rounds=1).fit(clients)
    picks = [m for m in fitted.measurements_[len(domain) :]]
    sizes = {m.clique: domain.size(m.clique) + 2 for m in picks}
    least, most = min(sizes.values()), max(sizes.values())
    initial = 8 * sum(n + 2 for n in domain.shape)
    assert initial + 8 * least <= fitted.communication_["client_sent_paper_bytes"] <= initial + 8 * most
    assert fitted.communication_["client_received_paper_bytes"] == 8 * sum(domain.shape)


def test_measurements_are_integers(domain, clients):
    fitted = flaim(domain).fit(clients)
    assert all(m.counts.dtype == np.int64 for m in fitted.measurements_)
    assert replace(fitted.measurements_[0], sigma=1.0).sigma == 1.0


@pytest.mark.parametrize("k", [2, 5])
def test_people_with_several_records_cost_exactly_k_squared(domain, table, clients, k):
    single = AIM(domain, workload=4, rounds=3, seed=0).fit(table)
    group = AIM(domain, workload=4, rounds=3, seed=0, records_per_person=k).fit(table)
    assert group.sigma_ == pytest.approx(k * single.sigma_)
    assert group.ledger.spent == single.ledger.spent == Budget(1.0, 1e-5).rho
    assert all(charge.rho == k**2 * replace(charge, group=1).rho for charge in group.ledger.charges)
    assert f"up to {k} records" in group.ledger.adjacency
    federated = flaim(domain, records_per_person=k, local_steps=2).fit(clients)
    assert federated.ledger.spent == Budget(5.0, 1e-5).rho


def test_client_level_privacy_bounds_what_a_client_contributes(domain, clients):
    fitted = flaim(domain, client_level=True, records_per_person=30, participation=1.0, epsilon=1e5).fit(clients)
    initial = fitted.measurements_[0]
    assert initial.counts.sum() == pytest.approx(30 * len(clients), abs=8 * fitted.sigma_)
    assert "up to 30 records" in fitted.ledger.adjacency


def test_several_fits_share_one_ledger_which_refuses_the_one_too_many(domain, table):
    shared = Ledger(Budget(1.0, 1e-5), Source.seeded(0))
    for seed in (0, 1):
        AIM(domain, epsilon=0.5, workload=4, rounds=2, seed=seed).fit(table, ledger=shared)
    assert shared.spent == 2 * Budget(0.5, 1e-5).rho
    assert len(shared.charges) == 2 * 5
    before = shared.spent
    with pytest.raises(BudgetError, match="is left in the shared ledger"):
        AIM(domain, epsilon=0.9, workload=4, rounds=200, seed=2).fit(table, ledger=shared)
    assert shared.spent == before
    with pytest.raises(BudgetError, match="make them equal"):
        AIM(domain, workload=4, records_per_person=2).fit(table, ledger=shared)
