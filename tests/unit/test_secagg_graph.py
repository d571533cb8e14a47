"""The graph of a secure sum: who is whose neighbour, and the probability that this was not enough."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from marginal_sdg.crypto.graph import (
    COMPLETE,
    CORRUPT,
    DROPOUTS,
    FAILURE,
    Graph,
    divided_failure,
    threshold_failures,
    topology,
)


def circle(size: int, degree: int) -> dict[int, set[int]]:
    reach = range(1, degree // 2 + 1)
    return {i: {(i + step) % size for step in reach} | {(i - step) % size for step in reach} for i in range(size)}


def connected(neighbours: dict[int, set[int]], left: set[int]) -> bool:
    if not left:
        return True
    seen, frontier = set(), {min(left)}
    while frontier:
        seen |= frontier
        frontier = {v for u in frontier for v in neighbours[u]} & left - seen
    return seen == left


def test_shares_are_held_by_a_client_and_its_neighbours():
    graph = Graph({0: (1, 3), 1: (0, 2), 2: (1, 3), 3: (2, 0)}, threshold=2)
    assert graph.holds([0, 1, 2, 3], [0, 1, 2])  # 3 by 0 and 2
    assert graph.holds([1], [0, 2]) and graph.holds([1], [1, 2])
    assert not graph.holds([0, 1], [2, 3])  # 0 by 3 alone
    assert not graph.holds([2], [2, 0])


@pytest.mark.parametrize("size", [1, 2, 3, 10, COMPLETE])
def test_small_cohorts_are_complete_and_leave_nothing_to_chance(size):
    graph = Graph.draw(range(100, 100 + size), bytes(32))
    everybody = set(graph.neighbours)
    assert all(set(around) == everybody - {u} for u, around in graph.neighbours.items())
    assert size - int(DROPOUTS * size) == graph.threshold > int(CORRUPT * size)


@pytest.mark.parametrize("size", [33, 60, 100, 257])
def test_large_cohorts_have_few_neighbours_and_every_edge_has_two_ends(size):
    cohort = [3 * k for k in range(size)]
    graph = Graph.draw(cohort, b"k" * 32)
    degree, threshold = topology(size)
    assert degree < size - 1 and graph.threshold == threshold
    assert list(graph.neighbours) == cohort
    for u, around in graph.neighbours.items():
        assert len(set(around) - {u}) == degree
        assert all(u in graph.neighbours[v] for v in around)
    assert graph.neighbours == Graph.draw(cohort, b"k" * 32).neighbours != Graph.draw(cohort, b"l" * 32).neighbours


@pytest.mark.parametrize("size", [33, 50, 100, 300, 1000])
def test_degree_and_threshold_are_the_smallest_and_largest_that_keep_the_promise(size):
    degree, threshold = topology(size)

    def failures(k: int) -> list[Fraction]:
        return [failure + divided_failure(size, k) for failure in threshold_failures(size, k)]

    assert failures(degree)[threshold - 1] <= FAILURE < failures(degree)[threshold]
    assert min(failures(degree - 2)) > FAILURE


def test_the_figures_of_the_documentation():
    assert {size: topology(size) for size in (32, 100, 1000)} == {32: (31, 22), 100: (42, 12), 1000: (126, 43)}


@pytest.mark.parametrize("threshold", [1, 2, 3, 4, 5])
def test_bad_neighbourhoods_are_counted_exactly(threshold):
    """Brute force over all neighbourhoods of client 0 of ten, of which one is corrupt and three vanish."""
    size, degree = 10, 5
    around = [set(some) for some in combinations(range(1, size), degree)]
    many = sum(len(some & {1}) >= threshold for some in around)
    few = sum(len(some - {2, 3}) < threshold for some in around)  # client 0 vanishes, and two others
    assert threshold_failures(size, degree)[threshold - 1] == Fraction(size * (many + few), len(around))
    few_if_it_stays = sum(len(some - {2, 3, 4}) + 1 < threshold for some in around)  # it has a share of its own
    assert few_if_it_stays <= few


def test_a_circle_falls_apart_no_more_often_than_the_bound_says():
    """Brute force: all ways to lose as many of the clients as the bound assumes."""
    for size, degree in [(9, 2), (10, 2), (10, 4), (12, 4), (14, 4)]:
        neighbours = circle(size, degree)
        missing = int(CORRUPT * size) + int(DROPOUTS * size)
        cases = [set(range(size)) - set(lost) for lost in combinations(range(size), missing)]
        apart = sum(not connected(neighbours, left) for left in cases)
        assert Fraction(apart, len(cases)) <= divided_failure(size, degree)


@pytest.mark.stat
def test_neighbourhoods_are_uniform():
    """Each other client is a neighbour equally often: 400 graphs, binomial counts within five standard deviations."""
    size, graphs = 40, 400
    degree, _ = topology(size)
    counts = np.zeros(size)
    for i in range(graphs):
        counts[list(Graph.draw(range(size), i.to_bytes(32, "little")).neighbours[0])] += 1
    share = degree / (size - 1)
    assert counts[0] == 0
    assert np.all(np.abs(counts[1:] - graphs * share) < 5 * np.sqrt(graphs * share * (1 - share)))
