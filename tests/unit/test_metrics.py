"""The papers' metrics against small cases worked by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from marginal_sdg import Domain, Table, Workload
from marginal_sdg.errors import DataError
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.metrics import associations, classifier_scores, heterogeneity, kde_nll, nll, workload_error


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


def test_associations_are_cramers_v_with_bergsmas_correction():
    """The formula as printed, with chi-squared by scipy; and its ends."""
    from scipy.stats import chi2_contingency

    rng = np.random.default_rng(0)
    domain = Domain.from_shape({"a": 4, "b": 5, "same": 4, "one": 2, "many": 3000})
    a = rng.integers(0, 3, 500)  # code 3 is not used
    b = np.where(rng.random(500) < 0.3, a, rng.integers(0, 5, 500))
    table = Table(domain, np.stack([a, b, (a + 1) % 3, 0 * a, 10 * b + rng.integers(0, 2, 500)], axis=1))
    found = associations(table)
    counts = np.zeros((3, 5))
    np.add.at(counts, (a, b), 1)
    n, (r, k) = 500, counts.shape
    square = max(chi2_contingency(counts, correction=False).statistic / n - (r - 1) * (k - 1) / (n - 1), 0)
    smaller = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    assert found[0, 1] == found[1, 0] == pytest.approx((square / smaller) ** 0.5) and 0.1 < found[0, 1] < 0.5
    assert found[0, 2] == pytest.approx(1) and found[1, 4] == pytest.approx(1, abs=0.01)
    assert found[0, 3] == 0 and (np.diag(found) == 1).all()
    assert (associations(table.take([0, 1])) <= 1).all() and (associations(table.take([0])) == np.eye(5)).all()


def test_the_association_of_independent_columns_is_not_inflated_by_few_rows():
    rng = np.random.default_rng(1)
    tables = [Table(Domain.from_shape({"x": 5, "y": 5}), rng.integers(0, 5, (60, 2))) for _ in range(40)]
    assert np.mean([associations(table)[0, 1] for table in tables]) < 0.1  # 0.25 without the correction
