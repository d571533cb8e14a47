"""DP-CTGAN and Fed DP-CTGAN as estimators: privacy, budget, parameters, inputs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from marginal_sdg import AIM, Budget, Ledger, Table
from marginal_sdg.baselines import ctgan
from marginal_sdg.baselines.conditions import frequencies, measure_one_way
from marginal_sdg.baselines.ctgan import DPCTGAN, FedDPCTGAN
from marginal_sdg.errors import BudgetError, ConfigError, DataError, DomainError, NotFittedError
from marginal_sdg.metrics import nll
from marginal_sdg.privacy import Source
from marginal_sdg.privacy.sgd import SgdRandomness


def gan(domain, **params):
    return DPCTGAN(domain, **{"epsilon": 5.0, "epochs": 1, "batch_size": 500, "seed": 0, **params})


def federated(domain, **params):
    return FedDPCTGAN(domain, **{"epsilon": 5.0, "epochs": 2, "participation": 0.3, "seed": 0, **params})


@pytest.fixture(scope="module")
def fitted(domain, table):
    return gan(domain).fit(table)


@pytest.fixture(scope="module")
def fitted_clients(domain, clients):
    return federated(domain).fit(clients)


def test_a_fit_spends_its_budget_and_says_on_what(fitted):
    frame = fitted.ledger.to_frame()
    assert frame["what"][0] == "1-way marginals"
    assert frame["what"][1].startswith(f"DP-SGD: {fitted.rounds_} steps, Poisson rate 0.2")
    assert 4.99 < fitted.ledger.epsilon() <= 5
    assert {text.split(":")[0] for text in fitted.ledger.caveats} == {"simulation", "noise in floating point"}
    assert "floating point" in fitted.report().html()


def test_the_model_samples_and_has_a_mass_and_marginals(fitted, table):
    rows = fitted.sample_table(300, seed=1)
    assert rows.domain == table.domain and len(rows) == 300
    assert len(fitted.sample(20)) == 20
    assert abs(len(fitted.sample_table()) - 2000) < 200  # the noisy number of records
    assert fitted.model_.marginal(["a"]).sum() == pytest.approx(fitted.model_.total, rel=1e-3)
    assert 0 < nll(fitted.model_, table) < 2 * np.log(table.domain.size())


def test_a_seed_repeats(domain, table, fitted):
    again = gan(domain).fit(table)
    assert (again.sample_table(50, seed=2).codes == fitted.sample_table(50, seed=2).codes).all()
    assert (
        gan(domain, seed=1).fit(table).sample_table(50, seed=2).codes != fitted.sample_table(50, seed=2).codes
    ).any()


def test_every_client_takes_part_once_an_epoch_and_adds_its_own_noise(domain, clients, fitted_clients):
    assert fitted_clients.rounds_ == 2 * 4  # cohorts of 3, 3, 3 and 1
    frame = fitted_clients.ledger.to_frame()
    assert frame["by"].tolist() == ["server", "clients"]
    assert frame["what"][1].startswith("DP-SGD: 2 steps")  # of each client
    assert 4.99 < fitted_clients.ledger.epsilon() <= 5
    traffic = fitted_clients.communication_
    assert traffic["client_received_ideal_bytes"] > traffic["client_sent_ideal_bytes"] > 8 * sum(domain.shape)


def test_training_moves_the_model_towards_the_data(domain):
    """With a generator that may learn, and a budget that hides little: records that are mostly alike."""
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((2000, 1)) < 0.9, [2, 1, 1, 4], rng.integers(0, domain.shape, (2000, 4)))
    alike = Table(domain, codes)
    untrained = gan(domain).fit(alike)
    trained = gan(domain, epsilon=1000.0, generator_lr=3e-3, epochs=40).fit(alike)
    uniform = np.log(domain.size())
    assert nll(untrained.model_, alike) == pytest.approx(uniform, rel=0.1)
    assert nll(trained.model_, alike) < 0.6 * uniform


# --- privacy -------------------------------------------------------------------------------------


class Deaf(Ledger):
    """Answers without looking: noise on zeros."""

    def gaussian(self, tables, variance, **terms):
        return super().gaussian([0 * table + 500 for table in tables], variance, **terms)


class Blind(SgdRandomness):
    """Batches without records: what is left of training is noise and public randomness."""

    def batch(self, records):
        return super().batch(records)[:0]


@pytest.mark.parametrize("federation", [False, True])
def test_nothing_passes_beside_the_ledger(monkeypatch, domain, table, clients, federation):
    """With answers held fixed and batches empty, two unrelated data sets give the same output, steps and all."""
    monkeypatch.setattr(ctgan, "Ledger", Deaf)
    monkeypatch.setattr(ctgan, "SgdRandomness", Blind)
    other = Table(domain, np.tile([2, 3, 1, 4], (7, 1)))
    inputs = (clients, [other] * 10) if federation else (table, other)
    make = federated if federation else gan
    seen = []
    for data in inputs:
        events = []
        model = make(domain, on_event=events.append).fit(data)
        counts = [m.counts.tolist() for m in model.measurements_]
        seen.append(
            (
                model.model_._logs.tolist(),
                model.sample_table(100).codes.tolist(),
                model.rounds_,
                model.ledger.charges,
                counts,
                events,
            )
        )
    assert seen[0] == seen[1]


def test_conditions_are_a_function_of_paid_counts_only(domain, table):
    books = Ledger(Budget(5.0, 1e-5), Source.seeded(0))
    measured = measure_one_way([table], domain, Fraction(1, 10), books, "curator")
    assert books.spent == Fraction(1, 10)
    shares = frequencies(measured)
    assert shares.sum() == pytest.approx(1) and (shares > 0).all()
    assert shares[:3].sum() == pytest.approx(1 / 4)  # attributes are equally likely
    blind = measure_one_way([table], domain, Fraction(1, 10), Deaf(Budget(5.0, 1e-5), Source.seeded(0)), "curator")
    other = measure_one_way([table.take([])], domain, Fraction(1, 10), Deaf(Budget(5.0, 1e-5), Source.seeded(0)), "c")
    assert frequencies(blind).tolist() == frequencies(other).tolist()


def test_gradients_enter_through_the_batches(monkeypatch, domain, table, fitted):
    """The guard above is not blind itself: other records in the batches give another model."""
    monkeypatch.setattr(ctgan, "SgdRandomness", Blind)
    assert (gan(domain).fit(table).model_._logs != fitted.model_._logs).any()


def test_a_shared_ledger_pays_and_then_refuses(domain, table):
    shared = Ledger(Budget(6.0, 1e-5), Source.seeded(9))
    model = gan(domain, epsilon=4.0).fit(table, ledger=shared)
    assert shared.spent == model.ledger.spent
    charges = shared.charges
    with pytest.raises(BudgetError, match="left in the shared ledger"):
        gan(domain, epsilon=5.0).fit(table, ledger=shared)
    with pytest.raises(BudgetError, match="left in the shared ledger"):
        AIM(domain, epsilon=5.0, seed=1).fit(table, ledger=shared)
    assert shared.charges == charges


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_tables_work(domain, table, rows):
    model = gan(domain, batch_size=2, epochs=1, epsilon=0.5).fit(table.take(np.arange(rows)))
    assert len(model.sample_table(5)) == 5


# --- bad inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epochs": 0}, "epochs: must be a positive integer, got 0"),
        ({"batch_size": 2.5}, "batch_size: must be a positive integer, got 2.5"),
        ({"clip_norm": 0}, "clip_norm: must be a number above 0 and finite, got 0"),
        ({"generator_lr": float("inf")}, "generator_lr: must be a number above 0 and finite, got inf"),
        ({"discriminator_lr": "fast"}, "discriminator_lr: must be a number above 0 and finite, got 'fast'"),
        ({"marginal_share": 1}, "marginal_share: must be a number above 0 and below 1, got 1"),
        ({"secure": True}, "seed: secure=True draws from the operating system"),
    ],
)
def test_bad_parameters_are_named_before_any_data_is_seen(domain, params, message):
    with pytest.raises(ConfigError, match=message):
        gan(domain, **params).fit(None)


def test_bad_budgets_tables_and_federations_are_refused(domain, table, clients):
    with pytest.raises(BudgetError, match="epsilon must be a number"):
        gan(domain, epsilon=-1.0).fit(table)
    with pytest.raises(DataError, match="needs a pandas DataFrame"):
        gan(domain).fit([[1, 2]])
    with pytest.raises(DomainError, match="another domain"):
        gan(domain.project(["a", "b"])).fit(table)
    with pytest.raises(DataError, match="non-empty list"):
        federated(domain).fit(table)
    with pytest.raises(ConfigError, match="participation: must be above 0 and at most 1, got 0"):
        federated(domain, participation=0).fit(clients)
    with pytest.raises(NotFittedError, match="DPCTGAN: call fit first"):
        gan(domain).sample(1)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch, domain, table):
    monkeypatch.setattr(ctgan, "find_spec", lambda name: None if name == "optax" else object())
    with pytest.raises(ConfigError, match=r"DPCTGAN: needs optax; pip install 'marginal-sdg\[ctgan\]'"):
        gan(domain).fit(table)
