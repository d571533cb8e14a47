"""Contingency tables against counting one record at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import DomainError
from marginal_sdg.marginals import Answers, Layout, contingency
from marginal_sdg.workload import Workload


@st.composite
def tables(draw, max_rows=30):
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    domain = Domain.from_shape({f"x{i}": n for i, n in enumerate(shape)})
    rows = draw(st.integers(0, max_rows))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    codes = np.stack([rng.integers(0, n, rows) for n in shape], axis=1).astype(np.int32)
    return Table(domain, codes)


def by_hand(table: Table, clique) -> np.ndarray:
    """Count with a dictionary."""
    columns = [table.domain.index(name) for name in clique]
    counter = Counter(tuple(row[i] for i in columns) for row in table.codes.tolist())
    shape = [table.domain.shape[i] for i in columns]
    return np.array([counter[cell] for cell in np.ndindex(*shape)])


@given(tables())
def test_marginals_count_every_record_once_and_in_the_right_cell(table):
    workload = Workload.random(table.domain, 5, ways=3, seed=1)
    answers = Answers(workload.layout, table)
    for clique in workload.closure:
        expected = by_hand(table, clique)
        np.testing.assert_array_equal(contingency(table, clique), expected)
        np.testing.assert_array_equal(answers.counts(clique), expected)
        assert answers.counts(clique).dtype == np.int64


@given(tables(), st.floats(0.0, 50.0))
def test_sparse_distances_equal_dense_ones(table, scale):
    layout = Workload.random(table.domain, 5, ways=2, seed=2).layout
    rng = np.random.default_rng(3)
    model = np.concatenate([rng.dirichlet(np.ones(n)) for n in layout.sizes])
    expected = [np.abs(by_hand(table, q) - scale * model[layout.cells_of(q)]).sum() for q in layout.cliques]
    np.testing.assert_allclose(Answers(layout, table).l1_distances(model, scale), expected, atol=1e-9)


def test_large_and_small_tables_take_different_paths_to_the_same_answers(table):
    workload = Workload.random(table.domain, 4)
    big = Table(table.domain, np.tile(table.codes, (3, 1)))
    once, thrice = Answers(workload.layout, table), Answers(workload.layout, big)
    assert once.records < 4096 < thrice.records
    for clique in workload.closure:
        np.testing.assert_array_equal(3 * once.counts(clique), thrice.counts(clique))


def test_counts_beyond_sixteen_bits_do_not_wrap():
    table = Table(Domain.from_shape({"x": 2}), np.zeros((200_000, 1), dtype=np.int32))
    assert contingency(table, ("x",)).tolist() == [200_000, 0]


def test_a_clique_too_large_to_number_its_cells_is_refused():
    domain = Domain.from_shape({f"x{i}": 10_000 for i in range(4)})
    with pytest.raises(DomainError, match="cells, more than"):
        Layout(domain, (domain.names,))
