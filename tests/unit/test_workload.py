"""Workloads: the papers' random draw, the closure and its weights."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from marginal_sdg.domain import Domain
from marginal_sdg.errors import ConfigError, DomainError
from marginal_sdg.workload import Workload

ADULT_SIZED = Domain.from_shape({f"x{i}": 2 for i in range(14)})


def test_the_draw_is_the_papers():
    chosen = np.random.default_rng(123).choice(364, 64, replace=False)
    everything = list(combinations(ADULT_SIZED.names, 3))
    assert Workload.random(ADULT_SIZED).cliques == tuple(everything[i] for i in chosen)


@pytest.mark.parametrize(("attributes", "closure"), [(14, 161), (11, 130), (30, 254), (10, 119), (21, 203)])
def test_closure_sizes_are_the_papers(attributes, closure):
    domain = Domain.from_shape({f"x{i}": 2 for i in range(attributes)})
    assert len(Workload.random(domain).closure) == closure


def test_importance_sums_shared_attributes_over_the_workload():
    domain = Domain.from_shape(dict.fromkeys("abcd", 2))
    workload = Workload(domain, (("a", "b"), ("b", "c")), weights=(1.0, 3.0))
    weights = dict(zip(workload.closure, workload.importance, strict=True))
    assert weights == {("a",): 1, ("b",): 4, ("c",): 3, ("a", "b"): 5, ("b", "c"): 7}
    assert workload.one_way == (("a",), ("b",), ("c",))


def test_cliques_are_put_into_domain_order():
    domain = Domain.from_shape(dict.fromkeys("abc", 2))
    assert Workload(domain, (("c", "a"),)).cliques == (("a", "c"),)


@pytest.mark.parametrize(
    ("cliques", "weights", "error", "message"),
    [
        ((), (), ConfigError, "at least one clique"),
        (((),), (), ConfigError, "no empty clique"),
        ((("a", "nope"),), (), DomainError, "nope"),
        ((("a",),), (1.0, 2.0), ConfigError, "2 weights for 1 cliques"),
        ((("a",),), (0.0,), ConfigError, "positive"),
        ((("a",),), (float("nan"),), ConfigError, "positive"),
    ],
)
def test_bad_workloads_get_one_clear_line(cliques, weights, error, message):
    with pytest.raises(error, match=message) as caught:
        Workload(Domain.from_shape(dict.fromkeys("abc", 2)), cliques, weights)
    assert "\n" not in str(caught.value)
