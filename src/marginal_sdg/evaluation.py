"""How close a synthetic table is to the real one. It looks at the real rows, so its result is itself private."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marginal_sdg.datasets.split import split
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, DataError
from marginal_sdg.marginals import cell_numbers
from marginal_sdg.metrics import ClassifierScores, classifier_scores
from marginal_sdg.workload import Workload

PRIVATE = "This was computed on the real rows and is itself private: it is for their holder's eyes, not for release."

MOST = 300  # marginals of each size; more are sampled
MOST_ROWS = 20_000


@dataclass(frozen=True)
class Evaluation:
    """What was found. Errors are L1 distances of normalised marginals: 0 for the same, 2 for disjoint ones.

    ``errors``: size of a marginal -> L1 distance of each that was compared; ``scores``: of classifiers that were
    trained on real and on synthetic rows, and tested on the same held-out real rows; none without a target, or with
    too few real rows to hold some out.
    """

    errors: dict[int, dict[Clique, float]]
    target: str | None
    scores: dict[str, ClassifierScores]

    def mean(self, ways: int) -> float:
        """Mean error of the marginals of one size."""
        return float(np.mean(list(self.errors[ways].values())))

    def worst(self, ways: int, count: int = 5) -> list[tuple[Clique, float]]:
        """The marginals of one size with the largest errors."""
        return sorted(self.errors[ways].items(), key=lambda pair: -pair[1])[:count]


def evaluate(real: Table, synthetic: Table, target: str | None = None) -> Evaluation:
    """Compare marginals of one, two and three columns, and with ``target`` classifiers that predict it.

    Of more than 300 marginals of a size, 300 are drawn, the same ones in every call.

    Raises
    ------
    DataError: a table is empty, or the two are coded differently.
    ConfigError: the target is a number, not a category.
    """
    domain = real.domain
    if synthetic.domain != domain:
        raise DataError("evaluate: the tables must be coded with the same domain")
    if not len(real) or not len(synthetic):
        raise DataError("evaluate: both tables need at least one row")
    if target is not None and domain[target].categories is None:
        raise ConfigError(f"target: {target!r} is a number; a classifier needs a column with categories")
    errors = {
        ways: {clique: _distance(real, synthetic, clique) for clique in Workload.random(domain, MOST, ways).cliques}
        for ways in range(1, min(3, len(domain)) + 1)
    }
    return Evaluation(errors, target, {} if target is None else _scores(real, synthetic, target))


def _distance(real: Table, synthetic: Table, clique: Clique) -> float:
    """L1 distance of two normalised marginals, over the occupied cells only."""
    cells = real.domain.size(clique)
    numbers = [cell_numbers(table, clique) for table in (real, synthetic)]
    if cells > 4 * (len(real) + len(synthetic)):
        _, joint = np.unique(np.concatenate(numbers), return_inverse=True)
        numbers, cells = [joint[: len(real)], joint[len(real) :]], int(joint.max()) + 1
    shares = [np.bincount(n, minlength=cells) / len(n) for n in numbers]
    return float(np.abs(shares[0] - shares[1]).sum())


def _scores(real: Table, synthetic: Table, target: str) -> dict[str, ClassifierScores]:
    train, test = split(real, 0.8, 0)
    if not len(train) or not len(test):
        return {}
    return {
        name: classifier_scores(some_rows(table), some_rows(test), target)
        for name, table in (("real", train), ("synthetic", synthetic))
    }


def some_rows(table: Table) -> Table:
    """At most 20,000 of the rows, the same ones in every call."""
    if len(table) <= MOST_ROWS:
        return table
    return table.take(np.random.default_rng(0).choice(len(table), MOST_ROWS, replace=False))
