"""Contingency tables against counting one record at a time."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import DomainError
from marginal_sdg.marginals import Answers, Layout, _count, _sort, contingency, grid_step
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


@given(tables(), st.integers(1, 3))
def test_marginals_count_every_record_once_and_in_the_right_cell(table, copies):
    workload = Workload.random(table.domain, 5, ways=3, seed=1)
    parts = [table.take(np.arange(k, len(table), copies)) for k in range(copies)]
    answers = Answers(Layout(table.domain, workload.closure), parts)
    for clique in workload.closure:
        np.testing.assert_array_equal(contingency(table, clique), by_hand(table, clique))
        for k, part in enumerate(parts):
            np.testing.assert_array_equal(answers.counts(k, clique), by_hand(part, clique))
            assert answers.counts(k, clique).dtype == np.int64


@given(tables(), st.floats(0.0, 50.0), st.integers(1, 3))
def test_sparse_distances_equal_dense_ones(table, scale, copies):
    layout = Layout(table.domain, Workload.random(table.domain, 5, ways=2, seed=2).closure)
    parts = [table.take(np.arange(k, len(table), copies)) for k in range(copies)]
    scales = scale * np.arange(1, copies + 1)
    rng = np.random.default_rng(3)
    model = np.concatenate([rng.dirichlet(np.ones(n)) for n in layout.sizes])
    expected = [
        [np.abs(by_hand(part, q) - own * model[layout.cells_of(q)]).sum() for q in layout.cliques]
        for part, own in zip(parts, scales, strict=True)
    ]
    rounding = (len(table) + 1) * grid_step(scale * copies)  # half a step a cell and for the scale
    np.testing.assert_allclose(Answers(layout, parts).l1_distances(model, scales), expected, atol=rounding)


def exact_distance(counts, distribution: np.ndarray, scale: float, step: float) -> Fraction:
    """||counts - scale * p||_1 in rational arithmetic, scale and expected counts rounded to multiples of ``step``."""
    grid, size = Fraction(step), Fraction(scale)

    def nearest(value: Fraction) -> Fraction:
        return round(value / grid) * grid

    expected = {cell: nearest(Fraction(float(scale * distribution[cell]))) for cell in counts}
    return nearest(size) + sum(abs(n - expected[cell]) - expected[cell] for cell, n in counts.items())


@st.composite
def huge_tables(draw):
    """A one-column table as {cell: count}, up to the 2^32 records that distances are proven for, and a scale."""
    cells = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    records = draw(st.integers(1, 2**32 - 1))
    counts = rng.multinomial(records, rng.dirichlet(0.3 * np.ones(cells)))
    scale = draw(st.floats(1.0, 2.0**32) | st.just(float(records)))
    return {int(cell): int(counts[cell]) for cell in np.flatnonzero(counts)}, rng.dirichlet(np.ones(cells)), scale


def distance(counts, distribution, scale) -> Fraction:
    """What :class:`Answers` computes, without holding billions of records."""
    domain = Domain.from_shape({"x": len(distribution)})
    answers = Answers(Layout(domain, (("x",),)), [Table(domain, np.array([[cell] for cell in counts], dtype=np.int32))])
    answers._counts = np.array([counts[cell] for cell in sorted(counts)], dtype=np.int64)
    return Fraction(float(answers.l1_distances(distribution, [scale])[0, 0]))


@given(huge_tables(), st.data())
def test_distances_are_exact_and_one_more_record_changes_them_by_at_most_one(case, data):
    counts, distribution, scale = case
    before = distance(counts, distribution, scale)
    assert before == exact_distance(counts, distribution, scale, grid_step(scale))
    cell = data.draw(st.integers(0, len(distribution) - 1))
    more = dict(sorted({**counts, cell: counts.get(cell, 0) + 1}.items()))
    assert abs(distance(more, distribution, scale) - before) <= 1  # not 1 + 1e-9


def test_without_the_grid_rounded_sums_would_break_the_bound():
    """The reason for the grid, on the same sums of plain floats."""
    rng = np.random.default_rng(0)
    worst = Fraction(0)
    for _ in range(300):
        counts, expected = rng.multinomial(100, np.ones(40) / 40), 70 * rng.dirichlet(np.ones(40))
        before, after = (np.sum(np.abs(n - expected) - expected) for n in (counts, counts + np.eye(40, dtype=int)[0]))
        worst = max(worst, abs(Fraction(float(after)) - Fraction(float(before))))
    assert 1 < worst < 1 + 1e-12


@pytest.mark.parametrize(
    ("scale", "step"), [(0.0, 2.0**-20), (2.0**32 - 1, 2.0**-20), (2.0**32, 2.0**-19), (2.0**40, 2.0**-11)]
)
def test_the_grid_holds_every_scale_in_2_to_the_52_steps(scale, step):
    assert grid_step(scale) == step
    assert scale / step <= 2**52


def test_sorting_and_counting_find_the_same_cells(table):
    layout = Layout(table.domain, Workload.random(table.domain, 4).closure)
    big = Table(table.domain, np.tile(table.codes, (6, 1)))
    for tables in ([table], [table, big]):
        for by_sorting, by_counting in zip(_sort(layout, tables), _count(layout, tables), strict=True):
            np.testing.assert_array_equal(by_sorting, by_counting)


def test_counts_beyond_sixteen_bits_do_not_wrap():
    table = Table(Domain.from_shape({"x": 2}), np.zeros((200_000, 1), dtype=np.int32))
    assert contingency(table, ("x",)).tolist() == [200_000, 0]


def test_a_clique_too_large_to_number_its_cells_is_refused():
    domain = Domain.from_shape({f"x{i}": 10_000 for i in range(4)})
    with pytest.raises(DomainError, match="cells, more than"):
        Layout(domain, (domain.names,))
