"""How good synthetic data is: the papers' metrics. All of them look at real data and are not private."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from marginal_sdg.encoding import Table
from marginal_sdg.errors import DataError
from marginal_sdg.marginals import Answers, Counts, Layout, cell_numbers, contingency
from marginal_sdg.workload import Workload


def workload_error(real: Table, synthetic: Table, workload: Workload) -> float:
    """Mean over the workload of the L1 distance of the two normalised marginals; between 0 and 2.

    Source: FLAIM Definition 2.2, with marginals normalised as in the paper's figures.
    """
    _not_empty("workload_error", real, synthetic)
    distances = [
        np.abs(contingency(real, q) / len(real) - contingency(synthetic, q) / len(synthetic)).sum()
        for q in workload.cliques
    ]
    return float(np.mean(distances))


class Likelihood(Protocol):
    """A model that gives records a mass."""

    def log_likelihood(self, table: Table) -> npt.NDArray[np.float64]:
        """Natural logarithm of the mass of every record: (n,)."""


def nll(model: Likelihood, table: Table) -> float:
    """Mean negative log-likelihood of the table's records under the model, nats a record."""
    _not_empty("nll", table)
    return -float(model.log_likelihood(table).mean())


def kde_nll(synthetic: Table, table: Table) -> float:
    """Mean negative log-density of the table's codes under a Gaussian kernel estimate on synthetic rows; NaN for none.

    Codes are taken as points in space, whatever their order means, and columns in which the synthetic rows are
    constant are left out. It is a density, so it may be negative, depends on the codes' scale, and compares with no
    :func:`nll`. Only there to compare with CTGAN's published values. Source: FLAIM Table 1 and its code.
    """
    from scipy.stats import gaussian_kde

    _not_empty("kde_nll", synthetic, table)
    varies = (synthetic.codes != synthetic.codes[0]).any(axis=0)
    try:
        kernel = gaussian_kde(synthetic.codes[:, varies].T)
    except (ValueError, np.linalg.LinAlgError):  # no column left, too few rows, or columns that determine each other
        return float("nan")
    return -float(kernel.logpdf(table.codes[:, varies].T).mean())


class ClassifierScores(NamedTuple):
    """Of a classifier on held-out records: area under the ROC curve, and the share of right answers."""

    auc: float
    accuracy: float


def classifier_scores(train: Table, test: Table, target: str) -> ClassifierScores:
    """Gradient boosting (100 trees of depth 4) trained on ``train``, tested on ``test``.

    Features are the integer codes; the AUC is one-versus-one for more than two classes. It is 0.5 when ``train`` has
    one class only, 0 when it lacks a class of ``test``, NaN when ``test`` has one class only. Source: FLAIM Appendix B.
    """
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    _not_empty("classifier_scores", train, test)
    features = [i for i, name in enumerate(train.domain.names) if name != target]
    labels, truth = train.column(target), test.column(target)
    if len(np.unique(labels)) == 1:
        return ClassifierScores(0.5, float((truth == labels[0]).mean()))
    forest = GradientBoostingClassifier(n_estimators=100, max_depth=4, random_state=0)
    scores = forest.fit(train.codes[:, features], labels).predict_proba(test.codes[:, features])
    accuracy = float((forest.classes_[scores.argmax(axis=1)] == truth).mean())
    if len(np.unique(truth)) == 1:
        return ClassifierScores(math.nan, accuracy)
    if not set(np.unique(truth)) <= set(forest.classes_):
        return ClassifierScores(0.0, accuracy)
    if scores.shape[1] == 2:
        return ClassifierScores(float(roc_auc_score(truth, scores[:, 1])), accuracy)
    auc = float(roc_auc_score(truth, scores, multi_class="ovo", labels=forest.classes_))
    return ClassifierScores(auc, accuracy)


def heterogeneity(clients: Sequence[Table], ways: Sequence[int] = (1, 2, 3)) -> float:
    """Mean over clients of the mean total variation to the pooled table, over all marginals of the given sizes.

    Between 0 and 1. Source: FLAIM Table 5.
    """
    _not_empty("heterogeneity", *clients)
    domain = clients[0].domain
    everyone = Table(domain, np.concatenate([client.codes for client in clients]))
    layout = Layout(domain, tuple(c for k in ways for c in combinations(domain.names, k)))
    pooled = np.concatenate([contingency(everyone, clique) for clique in layout.cliques]) / len(everyone)
    variations = [
        Answers(layout, [client]).l1_distances(pooled, [len(client)]).mean() / (2 * len(client)) for client in clients
    ]
    return float(np.mean(variations))


def associations(table: Table) -> npt.NDArray[np.float64]:
    """Cramér's V of all pairs of columns, corrected for its bias: (d, d) float64, from 0 to 1, with 1 on the diagonal.

    Counts occupied codes only; it is 0 where a column is constant. Source: Bergsma, A
    bias-correction for Cramér's V and Tschuprow's T, 2013.
    """
    rows, names, shape = len(table), table.domain.names, table.domain.shape
    result = np.eye(len(names))
    counts = [np.bincount(table.column(name)).astype(float) for name in names]
    occupied = [np.count_nonzero(count) for count in counts]
    for i, j in combinations(range(len(names)), 2):
        r, k = occupied[i], occupied[j]
        if min(r, k) < 2:
            continue
        cells, joint = _occupied(cell_numbers(table, (names[i], names[j])), shape[i] * shape[j])
        first, second = np.divmod(cells, shape[j])
        mean_square = float((joint.astype(float) ** 2 / (counts[i][first] * counts[j][second])).sum()) - 1
        excess = max(mean_square - (r - 1) * (k - 1) / (rows - 1), 0.0)
        smaller = min(r - (r - 1) ** 2 / (rows - 1), k - (k - 1) ** 2 / (rows - 1)) - 1
        result[i, j] = result[j, i] = min((excess / smaller) ** 0.5, 1.0) if smaller > 0 else 0.0
    return result


def _occupied(cells: Counts, size: int) -> tuple[Counts, Counts]:
    """The cells that hold records, and how many."""
    if size > 4 * len(cells):
        return np.unique(cells, return_counts=True)
    counts = np.bincount(cells)
    places = np.flatnonzero(counts)
    return places, counts[places]


def _not_empty(metric: str, *tables: Table) -> None:
    if not tables or not all(len(table) for table in tables):
        raise DataError(f"{metric}: every table needs at least one record")
