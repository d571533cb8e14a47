"""The papers' metrics against small cases worked by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from marginal_sdg import Domain, Table, Workload
from marginal_sdg.errors import DataError
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.metrics import classifier_scores, heterogeneity, kde_nll, nll, workload_error


def rows(domain, *records) -> Table:
    return Table(domain, np.array(records, dtype=np.int32).reshape(-1, len(domain)))


TWO = Domain.from_shape({"x": 2, "y": 2})


def test_workload_error_is_the_mean_l1_distance_of_normalised_marginals():
    real, synthetic = rows(TWO, (0, 0), (0, 0), (1, 1), (1, 1)), rows(TWO, (0, 0), (1, 0))
    assert workload_error(real, synthetic, Workload(TWO, (("x", "y"),))) == pytest.approx(1.0)
    assert workload_error(real, synthetic, Workload(TWO, (("x", "y"), ("x",)))) == pytest.approx(0.5)


def test_nll_of_a_uniform_model_is_the_log_of_the_domain_size():
    assert nll(GraphicalModel(TWO, {}, 1.0), rows(TWO, (0, 1))) == pytest.approx(np.log(4))


def test_kde_nll_is_a_density_of_codes_and_leaves_out_constant_columns():
    """Scott's rule on 1,000 rows of one column: a Gaussian mixture with known centres and width."""
    domain = Domain.from_shape({"x": 5, "constant": 3})
    synthetic = rows(domain, *[(k % 5, 1) for k in range(1000)])
    width = np.std(synthetic.column("x"), ddof=1) * 1000 ** (-1 / 5)
    density = np.mean(np.exp(-((2 - np.arange(5)) ** 2) / (2 * width**2))) / (width * np.sqrt(2 * np.pi))
    assert kde_nll(synthetic, rows(domain, (2, 0), (2, 2))) == pytest.approx(-np.log(density))
    assert np.isnan(kde_nll(rows(domain, (1, 1), (1, 1)), synthetic))  # nothing varies
    twins = Domain.from_shape({"x": 5, "y": 5})
    assert np.isnan(kde_nll(rows(twins, *[(k % 5, k % 5) for k in range(50)]), rows(twins, (1, 2))))


def test_heterogeneity_is_the_mean_total_variation_over_all_small_marginals(domain, clients):
    everyone = np.concatenate([client.codes for client in clients])
    variations = []
    for client in clients:
        for ways in (1, 2, 3):
            for subset in combinations(range(len(domain)), ways):
                shape = [domain.shape[i] for i in subset]
                mine, pooled = (
                    np.bincount(np.ravel_multi_index(codes[:, subset].T, shape), minlength=np.prod(shape)) / len(codes)
                    for codes in (client.codes, everyone)
                )
                variations.append(np.abs(mine - pooled).sum() / 2)
    assert heterogeneity(clients) == pytest.approx(np.mean(variations))


def test_auc_tells_a_learnable_target_from_noise(domain, table):
    half = table.take(np.arange(1000)), table.take(np.arange(1000, 2000))
    assert classifier_scores(*half, target="c").auc > 0.85
    shuffled = table.codes.copy()
    shuffled[:, 2] = np.random.default_rng(0).permutation(shuffled[:, 2])
    assert abs(classifier_scores(Table(domain, shuffled), half[1], target="c").auc - 0.5) < 0.1


def test_auc_without_all_classes_says_so_by_its_value(domain, table):
    assert classifier_scores(table.take(table.column("c") == 0), table, target="c").auc == 0.5
    assert classifier_scores(table.take(table.column("a") != 2), table, target="a").auc == 0.0


def test_accuracy_is_the_share_of_right_answers(table):
    only = classifier_scores(table.take(table.column("c") == 0), table, target="c")
    assert only.accuracy == (table.column("c") == 0).mean()
    two_of_three = classifier_scores(table.take(table.column("a") != 2), table, target="a")
    assert two_of_three.accuracy <= (table.column("a") != 2).mean()
    halves = (table.take(np.arange(k, len(table), 2)) for k in (0, 1))
    assert 0.9 < classifier_scores(*halves, target="c").accuracy < 1.0  # c is all but a function of the others


def test_empty_tables_have_no_metrics():
    with pytest.raises(DataError, match="at least one record"):
        workload_error(rows(TWO), rows(TWO, (0, 0)), Workload(TWO, (("x",),)))
