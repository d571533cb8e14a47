"""The engine against brute force: the full joint table of tiny domains tells every answer."""

from __future__ import annotations

from itertools import combinations
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import DataError
from marginal_sdg.graphical.contraction import contract
from marginal_sdg.graphical.junction import JunctionTree, Sizes, bits, mask_of, maximal_cliques
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.graphical.reduction import plan


@st.composite
def potentials(draw, spread=3.0):
    """A tiny domain with random log-potentials on random cliques: nested, disjoint, repeated shapes, full, none."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    names = [f"x{i}" for i in range(len(shape))]
    domain = Domain.from_shape(dict(zip(names, shape, strict=True)))
    subsets = [c for k in range(1, len(names) + 1) for c in combinations(names, k)]
    cliques = draw(st.lists(st.sampled_from(subsets), max_size=6, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return domain, {c: rng.normal(0, spread, domain.size(c)) for c in cliques}


def joint(domain: Domain, potentials) -> tuple[np.ndarray, float]:
    """The normalised joint table and log Z, by enumeration."""
    log = np.zeros(domain.shape)
    for clique, theta in potentials.items():
        axes = [domain.size((name,)) if name in clique else 1 for name in domain.names]
        log = log + theta.reshape(axes)
    peak = log.max()
    table = np.exp(log - peak)
    return table / table.sum(), float(np.log(table.sum()) + peak)


def summed(table: np.ndarray, domain: Domain, clique) -> np.ndarray:
    return table.sum(axis=tuple(a for a, name in enumerate(domain.names) if name not in clique)).ravel()


@settings(max_examples=300, deadline=None)
@given(potentials())
def test_every_marginal_and_the_partition_function_equal_brute_force(case):
    domain, theta = case
    model = GraphicalModel(domain, theta, total=1.0)
    table, log_partition = joint(domain, theta)
    assert model.log_partition == pytest.approx(log_partition, abs=1e-9)
    for ways in range(1, len(domain) + 1):
        for clique in combinations(domain.names, ways):
            np.testing.assert_allclose(
                model.probabilities(clique), summed(table, domain, clique), rtol=1e-9, atol=1e-12
            )


@settings(max_examples=100, deadline=None)
@given(potentials(spread=400.0))
def test_extreme_potentials_neither_overflow_nor_underflow(case):
    domain, theta = case
    model = GraphicalModel(domain, theta, total=1.0)
    table, log_partition = joint(domain, theta)
    assert model.log_partition == pytest.approx(log_partition, rel=1e-12, abs=1e-6)
    for clique in [(name,) for name in domain.names] + list(theta):
        np.testing.assert_allclose(model.probabilities(clique), summed(table, domain, clique), atol=1e-9)


@settings(max_examples=300, deadline=None)
@given(potentials(), st.sampled_from([1.0, 400.0]), st.integers(0, 2**32))
def test_impossible_cells_get_exactly_no_mass_and_the_rest_equals_brute_force(case, spread, seed):
    """Log-potentials of -inf anywhere, moderate and extreme ones beside them; samples keep out of the holes."""
    domain, theta = case
    rng = np.random.default_rng(seed)
    theta = {c: np.where(rng.random(len(t)) < 0.3, -np.inf, spread * t) for c, t in theta.items()}
    possible = np.ones(domain.shape, dtype=bool)
    for clique, values in theta.items():
        possible &= (values > -np.inf).reshape([domain.size((n,)) if n in clique else 1 for n in domain.names])
    if not possible.any():
        with pytest.raises(DataError, match="no record that is possible"):
            GraphicalModel(domain, theta, total=1.0)
        return
    model = GraphicalModel(domain, theta, total=1.0)
    table, log_partition = joint(domain, theta)
    assert model.log_partition == pytest.approx(log_partition, rel=1e-12, abs=1e-6)
    for ways in range(1, len(domain) + 1):
        for clique in combinations(domain.names, ways):
            found = model.probabilities(clique)
            np.testing.assert_allclose(found, summed(table, domain, clique), rtol=1e-7, atol=1e-12)
            assert not found[summed(possible, domain, clique) == 0].any()
    for rounded in (True, False):
        codes = model.sample(50, np.random.default_rng(0), rounded=rounded).codes
        assert possible[tuple(codes.T)].all()
        assert (model.log_likelihood(Table(domain, codes)) > -np.inf).all()


@settings(max_examples=100, deadline=None)
@given(potentials())
def test_log_likelihood_equals_the_log_of_the_joint_table(case):
    domain, theta = case
    table, _ = joint(domain, theta)
    every = np.stack([axis.ravel() for axis in np.indices(domain.shape)], axis=1).astype(np.int32)
    model = GraphicalModel(domain, theta, total=1.0)
    np.testing.assert_allclose(model.log_likelihood(Table(domain, every)), np.log(table.ravel()), atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(potentials(), st.data())
def test_a_conditional_model_is_the_joint_table_restricted_and_renormalised(case, data):
    domain, theta = case
    allowed = {
        name: data.draw(st.sets(st.integers(0, domain.size((name,)) - 1), min_size=1))
        for name in data.draw(st.sets(st.sampled_from(domain.names)))
    }
    table, _ = joint(domain, theta)
    for axis, name in enumerate(domain.names):
        outside = [code for code in range(domain.shape[axis]) if code not in allowed.get(name, range(99))]
        np.moveaxis(table, axis, 0)[outside] = 0.0
    conditional = GraphicalModel(domain, theta, total=50.0).given(allowed)
    assert conditional.probability == pytest.approx(table.sum(), rel=1e-9)
    for clique in [(name,) for name in domain.names] + list(theta):
        np.testing.assert_allclose(
            conditional.marginal(clique).ravel(), 50.0 * summed(table, domain, clique), rtol=1e-8, atol=1e-10
        )
    drawn = conditional.sample(20, np.random.default_rng(0))
    for name, codes in allowed.items():
        assert set(drawn.column(name).tolist()) <= codes


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_a_planned_reduction_is_a_sum_over_axes(shape, data):
    sizes = Sizes(shape)
    keep = data.draw(st.integers(0, 2 ** len(shape) - 1))
    table = np.random.default_rng(0).normal(size=shape)
    axes = tuple(i for i in range(len(shape)) if not keep >> i & 1)
    result = plan(sizes, 2 ** len(shape) - 1, keep)(table)
    np.testing.assert_allclose(result.ravel(), table.sum(axis=axes).ravel(), atol=1e-12)
    assert not np.shares_memory(result, table)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=4, max_size=5), st.data())
def test_a_contraction_is_an_einsum(shape, data):
    sizes = Sizes(shape)
    everything = 2 ** len(shape) - 1
    masks = data.draw(st.lists(st.integers(1, everything), min_size=1, max_size=4))
    union = 0
    for mask in masks:
        union |= mask
    keep = data.draw(st.integers(0, everything)) & union
    rng = np.random.default_rng(1)
    factors = [(mask, rng.normal(size=sizes.shape(mask))) for mask in masks]
    operands = [part for mask, table in factors for part in (table, list(bits(mask)))]
    np.testing.assert_allclose(contract(sizes, factors, keep), np.einsum(*operands, list(bits(keep))), atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
def test_junction_trees_cover_every_clique_and_have_the_running_intersection_property(shape, data):
    sizes = Sizes(shape)
    masks = data.draw(st.lists(st.integers(1, 2 ** len(shape) - 1), max_size=6))
    tree = JunctionTree.covering(sizes, masks)
    assert all(tree.home(mask) is not None for mask in masks)
    assert set(tree.nodes) == set(maximal_cliques(sizes, masks))
    for attribute in range(len(shape)):
        holders = [i for i, node in enumerate(tree.nodes) if node >> attribute & 1]
        links = [i for i in holders if tree.parents[i] >= 0 and tree.separators[i] >> attribute & 1]
        assert len(links) == len(holders) - 1  # the holders of an attribute form one connected subtree
    assert tree.cells == sum(prod(sizes.shape(node)) for node in tree.nodes)
    assert mask_of(bits(masks[0])) == masks[0] if masks else True
