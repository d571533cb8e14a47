"""The fit: optimality against a generic optimiser, pooling, warm starts, the memory cap, files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, DataError, DomainError
from marginal_sdg.generators import pgm
from marginal_sdg.generators.lbfgs import minimise
from marginal_sdg.generators.pgm import PGM, block_update
from marginal_sdg.graphical.junction import Sizes, mask_of
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.marginals import contingency
from marginal_sdg.release import Measurement, estimate_total, typical_sigma
from marginal_sdg.simplex import onto_simplex

CLIQUES = [("a",), ("b",), ("c",), ("d",), ("a", "b"), ("b", "c"), ("a", "c", "d")]


@pytest.fixture(scope="module")
def noisy(table):
    rng = np.random.default_rng(0)
    return [
        Measurement(q, contingency(table, q) + np.rint(rng.normal(0, s, table.domain.size(q))).astype(np.int64), s)
        for q, s in zip(CLIQUES, [5.0, 5.0, 2.0, 9.0, 5.0, 3.0, 12.0], strict=True)
    ]


def objective(domain, measurements, total, theta):
    """The dual in the docstring, with log Z by enumeration of the joint table."""
    pooled = PGM(domain).pool(measurements, total)
    log = np.zeros(domain.shape)
    value, start = 0.0, 0
    typical = np.mean([sigma**-2 for _, sigma in pooled.values()]) ** -0.5
    for clique, (target, sigma) in pooled.items():
        part = theta[start : start + len(target)]
        start += len(target)
        log = log + part.reshape([domain.size((n,)) if n in clique else 1 for n in domain.names])
        ridge = sigma**2 / typical * (pgm.RIDGE_ONE_WAY if len(clique) == 1 else pgm.RIDGE)
        value += -part @ target + ridge * pgm.BEND**2 * (np.cosh(part / pgm.BEND) - 1).sum()
    return value + total * (np.log(np.exp(log - log.max()).sum()) + log.max())


def test_the_fit_reaches_the_optimum_that_a_generic_optimiser_finds(domain, noisy):
    fitted = PGM(domain).fit(noisy, 2000.0, final=True)
    theta = np.concatenate([fitted.potentials[q] for q in PGM(domain).pool(noisy, 2000.0)])
    best = minimize(lambda t: objective(domain, noisy, 2000.0, t), theta, method="L-BFGS-B", options={"maxfun": 10**6})
    start = objective(domain, noisy, 2000.0, np.zeros_like(theta))
    here = objective(domain, noisy, 2000.0, theta)
    assert here - best.fun <= 1e-3 * (start - best.fun)


def test_precise_measurements_are_reproduced(domain, table):
    exact = [Measurement(q, contingency(table, q), 0.01) for q in CLIQUES]
    fitted = PGM(domain).fit(exact, float(len(table)), final=True)
    for clique in CLIQUES:
        np.testing.assert_allclose(fitted.marginal(clique).ravel(), contingency(table, clique), atol=1.0)


def test_contradicting_measurements_meet_where_inverse_variance_puts_them():
    square = Domain.from_shape({"a": 2, "b": 2})
    precise = Measurement(("a",), np.array([400, 600]), 2.0)
    vague = Measurement(("a", "b"), np.array([350, 350, 150, 150]), 2.0 * 50**0.5)  # sums over b have variance 400
    fitted = PGM(square).fit([precise, vague], 1000.0, final=True)
    weighted = (400 / 4 + 700 / 400) / (1 / 4 + 1 / 400)
    assert fitted.marginal(("a",))[0] == pytest.approx(weighted, abs=2.0)  # the ridge's factors 0.1 and 0.3 move it


def test_a_warm_start_leads_to_the_same_model(domain, noisy):
    cold = PGM(domain).fit(noisy, 2000.0, final=True)
    warm = PGM(domain).fit(noisy, 2000.0, warm_start=PGM(domain).fit(noisy[:5], 2000.0), final=True)
    for clique in CLIQUES:
        np.testing.assert_allclose(warm.marginal(clique), cold.marginal(clique), atol=2.0)


def test_models_that_steer_annealing_keep_closer_to_the_measurements_and_the_final_one_does_not(domain, noisy):
    coarse = [Measurement(m.clique, m.counts, 10 * m.sigma) for m in noisy]  # the ridge grows with sigma
    steering, usual = (PGM(domain, annealing=annealing) for annealing in (True, False))
    targets = usual.pool(coarse, 2000.0)

    def distance(fitted):
        return sum(np.abs(fitted.marginal(q).ravel() - targets[q][0]).sum() for q in CLIQUES)

    assert distance(steering.fit(coarse, 2000.0)) < 0.5 * distance(usual.fit(coarse, 2000.0))
    final = [generator.fit(coarse, 2000.0, final=True).potentials["a", "b"] for generator in (steering, usual)]
    np.testing.assert_array_equal(*final)


def test_repeated_measurements_are_pooled_by_inverse_variance():
    counts = [np.array([100, 300]), np.array([140, 260])]
    repeated = [Measurement(("a",), counts[0], 1.0), Measurement(("a",), counts[1], 2.0)]
    (values, sigma) = PGM(Domain.from_shape({"a": 2})).pool(repeated, 400.0)[("a",)]
    assert sigma == pytest.approx((1 + 0.25) ** -0.5)
    np.testing.assert_allclose(values, (counts[0] + 0.25 * counts[1]) / 1.25)


def test_cohort_counts_are_scaled_to_the_whole_table_and_weighted_by_their_records():
    part = Measurement(("a",), np.array([10, 30]), 2.0, records=40.0, confidence=40.0)
    counts, sigma = part.scaled(400.0)
    assert counts.tolist() == [100, 300] and sigma == 20.0
    assert Measurement(("a",), np.array([10, 30]), 2.0, records=40.0).scaled(400.0)[1] == 2.0


def test_the_total_is_estimated_by_inverse_variance():
    few_cells = Measurement(("a",), np.array([60, 40]), 1.0)
    many_cells = Measurement(("b",), np.full(8, 15), 1.0)
    assert estimate_total([few_cells, many_cells]) == pytest.approx((100 / 2 + 120 / 8) / (1 / 2 + 1 / 8))
    assert estimate_total([Measurement(("a",), np.array([-60, -40]), 1.0)]) == 1.0


@given(st.lists(st.integers(-50, 200), min_size=1, max_size=30), st.integers(1, 1000))
def test_the_simplex_projection_is_the_nearest_point(counts, total):
    vector = np.array(counts)
    projected = onto_simplex(vector, total)
    assert projected.min() >= 0 and projected.sum() == pytest.approx(total)
    rng = np.random.default_rng(0)
    for other in total * rng.dirichlet(np.ones(len(vector)), 20):  # the variational inequality of a projection
        assert (vector - projected) @ (other - projected) <= 1e-6


@given(st.integers(0, 2**32))
def test_a_block_update_solves_its_equation(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    prior, target = rng.dirichlet(np.ones(n)), 1000 * rng.dirichlet(np.ones(n))
    theta = block_update(prior, target, 3.0, 1000.0)
    model = 1000 * prior * np.exp(theta) / (prior * np.exp(theta)).sum()
    np.testing.assert_allclose(model + 3.0 * theta, target, atol=0.05)


def test_a_model_too_large_is_refused_before_allocation_and_the_clique_named(domain, noisy):
    with pytest.raises(ConfigError, match=r"max_model_mb: a model that measures \('a', 'c', 'd'\) needs"):
        PGM(domain, max_model_mb=40 * 8 / 2**20).fit(noisy, 2000.0)


def test_contradicting_measurements_bend_the_model_but_do_not_break_it(domain):
    wild = [
        Measurement(("a", "b"), np.eye(12, dtype=np.int64)[0] * 10**6 - 5 * 10**4, 1.0),
        Measurement(("b", "c"), np.eye(8, dtype=np.int64)[-1] * 10**6, 1.0),
    ]
    fitted = PGM(domain).fit(wild, 1000.0, final=True)
    assert np.isfinite(fitted.log_partition)
    assert max(np.abs(theta).max() for theta in fitted.potentials.values()) < 12 * pgm.BEND


def test_models_survive_a_file_and_damaged_files_are_refused(domain, noisy, table, tmp_path):
    fitted = PGM(domain).fit(noisy, 2000.0)
    path = tmp_path / "model.npz"
    fitted.save(path)
    loaded = GraphicalModel.load(path)
    np.testing.assert_array_equal(loaded.log_likelihood(table), fitted.log_likelihood(table))
    assert (
        loaded.sample(100, np.random.default_rng(0)).codes.tolist()
        == fitted.sample(100, np.random.default_rng(0)).codes.tolist()
    )
    path.write_bytes(path.read_bytes()[:-100])
    for broken in (path, tmp_path / "missing.npz"):
        with pytest.raises(DataError, match="cannot be read as a saved model"):
            GraphicalModel.load(broken)


def test_samples_round_every_marginal_to_within_a_few_records(domain, noisy):
    fitted = PGM(domain).fit(noisy, 2000.0)
    synthetic = fitted.sample(50_000, np.random.default_rng(0))
    for clique in CLIQUES:
        expected = 50_000 * fitted.probabilities(clique)
        spread = np.sqrt(expected + 1)
        assert (np.abs(contingency(synthetic, clique) - expected) < 5 * spread).all()


@pytest.mark.stat
def test_sampling_error_scales_as_theory_says(domain, noisy):
    """Chi-square per cell: 1 for independent draws; far below 1 for rounded ones, which hug the model."""
    fitted = PGM(domain).fit(noisy, 2000.0)
    expected = 5000 * fitted.probabilities(("a", "b"))
    full = expected > 5
    mean = {}
    for rounded in (True, False):
        deviations = [
            (contingency(fitted.sample(5000, np.random.default_rng(seed), rounded=rounded), ("a", "b")) - expected)[
                full
            ]
            for seed in range(60)
        ]
        mean[rounded] = float(np.mean(np.square(deviations) / expected[full] / (1 - expected[full] / 5000)))
    assert 0.8 < mean[False] < 1.25
    assert mean[True] < 0.1


def test_batches_add_up_to_the_rows_asked_for(domain, noisy):
    fitted = PGM(domain).fit(noisy, 2000.0)
    batches = list(fitted.sample_batches(2500, 1000, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [1000, 1000, 500]
    with pytest.raises(ConfigError, match="batch"):
        next(fitted.sample_batches(1, 0, np.random.default_rng(0)))


@pytest.mark.parametrize("allowed", [{"a": []}, {"a": [3]}, {"a": [-1]}, {"nope": [0]}])
def test_an_impossible_restriction_is_refused(domain, noisy, allowed):
    with pytest.raises(DomainError, match=r"nope|given: attribute 'a'"):
        PGM(domain).fit(noisy, 2000.0).given(allowed)


def test_likelihood_needs_a_table_of_the_same_domain(domain, noisy):
    other = Table(Domain.from_shape({"a": 3}), np.zeros((1, 1), dtype=np.int32))
    with pytest.raises(DomainError, match="not the model's"):
        PGM(domain).fit(noisy, 2000.0).log_likelihood(other)
    with pytest.raises(ConfigError, match="rows"):
        PGM(domain).fit(noisy, 2000.0).sample(-1)


def test_the_duality_gap_proves_how_close_the_fit_is(domain, noisy):
    """A long run's loss lies between the bounds of every earlier stop, and the final fit is within 0.1% of it."""
    problem = pgm._Problem(
        Sizes(domain.shape),
        {mask_of(map(domain.index, q)): value for q, value in PGM(domain).pool(noisy, 2000.0).items()},
        2000.0,
        typical_sigma(noisy, 2000.0),
        {},
        (pgm.RIDGE_ONE_WAY, pgm.RIDGE),
    )
    start = np.zeros(len(problem.target))
    best = minimise(problem.evaluate, start, done=lambda theta: problem.gap(theta) < 1e-10, iterations=5000)
    optimum = problem.bracket(best)[1]
    for demand in (1.0, 0.1, 0.01):
        rough = minimise(problem.evaluate, start, done=lambda theta, d=demand: problem.gap(theta) < d, iterations=5000)
        lower, upper = problem.bracket(rough)
        assert lower <= optimum <= upper
        assert upper / optimum - 1 <= problem.gap(rough) < demand
    fitted = PGM(domain).fit(noisy, 2000.0, final=True)
    assert problem.gap(np.concatenate([fitted.potentials[q] for q in PGM(domain).pool(noisy, 2000.0)])) <= 1e-3
