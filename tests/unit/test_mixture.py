"""The fitted GAN as a mixture: mass, marginals and samples against enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from marginal_sdg import Domain, Table
from marginal_sdg.baselines.mixture import ProductMixture

DOMAIN = Domain.from_shape({"a": 3, "b": 2, "c": 4})
EVERYTHING = Table(DOMAIN, np.array(list(product(range(3), range(2), range(4)))))


@pytest.fixture(scope="module")
def mixture() -> ProductMixture:
    rng = np.random.default_rng(0)
    parts = [np.log(rng.dirichlet(np.full(size, 0.3), 5) + 1e-12) for size in DOMAIN.shape]
    normalised = [part - np.log(np.exp(part).sum(axis=1, keepdims=True)) for part in parts]
    return ProductMixture(DOMAIN, np.concatenate(normalised, axis=1).astype(np.float32), 1000.0)


def by_definition(mixture: ProductMixture) -> np.ndarray:
    columns = EVERYTHING.codes + np.array([0, 3, 5])
    return np.exp(mixture._logs[:, columns].sum(axis=2)).mean(axis=0)


def test_mass_is_the_mean_product_and_sums_to_one(mixture):
    mass = np.exp(mixture.log_likelihood(EVERYTHING))
    np.testing.assert_allclose(mass, by_definition(mixture), rtol=1e-4)
    assert mass.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("clique", [(), ("b",), ("a", "c"), ("c", "a"), ("a", "b", "c")])
def test_marginals_are_sums_of_the_mass(mixture, clique):
    joint = 1000 * by_definition(mixture).reshape(3, 2, 4)
    others = tuple(k for k, name in enumerate("abc") if name not in clique)
    np.testing.assert_allclose(mixture.marginal(clique), joint.sum(axis=others).ravel(), rtol=1e-4)


@pytest.mark.stat
def test_samples_follow_the_mass(mixture):
    rows = mixture.sample(20_000, np.random.default_rng(1))
    counts = np.bincount(rows.codes @ [8, 4, 1], minlength=24)
    expected = 20_000 * by_definition(mixture)

    def statistic(expected: np.ndarray) -> float:
        kept = expected > 5
        return float(((counts - expected)[kept] ** 2 / expected[kept]).sum())

    assert statistic(expected) < 80  # chi-square, 23 degrees of freedom: 1e-7
    assert statistic(20_000 * np.roll(by_definition(mixture), 1)) > 80


def test_default_number_of_rows_is_the_models_own(mixture):
    assert len(mixture.sample()) == 1000
    assert len(mixture.sample(0)) == 0
