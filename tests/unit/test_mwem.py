"""MWEM+PGM: what it measures, how it scores, what it costs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from marginal_sdg import MWEM, Budget
from marginal_sdg.errors import ConfigError
from marginal_sdg.marginals import contingency
from marginal_sdg.workload import Workload

PAIRS = [("a", "b"), ("b", "c"), ("c", "d")]


def test_only_the_number_of_records_and_the_workloads_own_marginals_are_measured(domain, table):
    fitted = MWEM(domain, workload=PAIRS, rounds=3, epsilon=50.0, seed=0).fit(table)
    first, *others = [m.clique for m in fitted.measurements_]
    assert first == ()
    assert set(others) <= set(PAIRS) and len(others) == 3
    assert fitted.measurements_[0].counts == pytest.approx([2000], abs=3)


def test_the_budget_is_spread_over_one_total_and_the_rounds(domain, table):
    fitted = MWEM(domain, workload=PAIRS, rounds=3, seed=0).fit(table)
    variances = {c.parameter for c in fitted.ledger.charges if c.mechanism == "gaussian"}
    assert variances == {(1 + 3) / (2 * Fraction("0.9") * Budget(1.0, 1e-5).rho)}
    assert fitted.ledger.remaining == 0


def test_with_a_large_budget_the_worst_answered_marginal_comes_first(domain, table):
    uniform = {q: len(table) / domain.size(q) for q in PAIRS}
    errors = {q: np.abs(contingency(table, q) - uniform[q]).sum() - domain.size(q) for q in PAIRS}
    fitted = MWEM(domain, workload=PAIRS, rounds=1, epsilon=500.0, seed=0).fit(table)
    assert fitted.measurements_[1].clique == max(errors, key=errors.__getitem__)


def test_it_learns_what_it_measures(domain, table):
    fitted = MWEM(domain, workload=PAIRS, rounds=3, epsilon=100.0, seed=0).fit(table)
    assert np.abs(fitted.model_.marginal(("a", "b")).ravel() - contingency(table, ("a", "b"))).sum() < 40


def test_a_workload_without_closure_has_its_own_cliques_and_weights(domain):
    open_ = Workload(domain, (("b", "a"), ("a", "b"), ("c", "d")), weights=(1, 2, 5), closed=False)
    assert open_.closure == (("a", "b"), ("c", "d"))
    assert open_.importance.tolist() == [3, 5]
    assert open_.one_way == (("a",), ("b",), ("c",), ("d",))


def test_a_model_that_fits_no_marginal_is_refused_in_one_line(domain, table):
    with pytest.raises(ConfigError, match="max_model_mb: no marginal of the workload fits"):
        MWEM(domain, workload=[("a", "b", "d")], max_model_mb=1e-5, rounds=2, seed=0).fit(table)
