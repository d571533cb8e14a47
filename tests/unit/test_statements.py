"""Verdicts on the paper's statements: rules can fail, and the committed ones are those of the committed runs."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def statements(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return importlib.import_module("statements")


def test_the_committed_verdicts_are_those_of_the_committed_runs(statements):
    text = (statements.RESULTS / "statements.md").read_text(encoding="utf-8")
    assert statements.markdown_table(statements.verdicts()) in text


def test_a_rule_fails_at_a_single_place_and_only_where_it_applies(statements):
    errors = {"AIM": {"": 0.2}, "DistAIM": {1.0: 0.3, 2.0: 0.21}, "NaiveFLAIM": {1.0: 0.29, 2.0: 0.5}}
    assert statements.below("DistAIM", "NaiveFLAIM", where=lambda x: x > 1)(errors)
    assert not statements.below("DistAIM", "NaiveFLAIM")(errors)
    assert statements.below("DistAIM", "NaiveFLAIM", 1.15)(errors)
    assert statements.below("DistAIM", "AIM", 2)(errors) and not statements.below("DistAIM", "AIM")(errors)
    assert statements.ends(errors, "DistAIM") == (0.3, 0.21) and statements.best(errors, "DistAIM") == (0.21, 2.0)


def test_no_statement_holds_for_every_outcome(statements):
    """Swap good and bad: what holds where methods order as the paper says must fail in the reverse order."""
    combined, proxy = statements.COMBINED, statements.PROXY
    order = [statements.AIM, statements.DIST, combined, statements.PRIVATE, statements.ORACLE, proxy, statements.NAIVE]
    for statement in statements.STATEMENTS:
        seen = set()
        for ranks, slope, many in itertools.product((order, order[::-1]), (-1, 1), (0.5, 1.05)):
            places = {
                x: 1 + slope * 0.08 * i for i, x in enumerate((0.05, 0.2, 1.0, 2.0, 8.0, 10.0, 16.0, 32.0, 64.0, 100.0))
            }
            line = {method: {x: (k + 1) * e for x, e in places.items()} for k, method in enumerate(ranks)}
            for method in statements.FLAIMS:
                line[f"{method}, s = 1"] = line[method]
                line[f"{method}, s = 4"] = {x: many * e for x, e in line[method].items()}
            for k, method in enumerate(ranks):
                annealed = 0.1 if (method == statements.AIM) is (slope < 0) else 99.0
                line[method] = line[method] | {"adaptive": annealed, "": 1.0 + k}
            seen.add(statement.holds(line))
        assert seen == {True, False}, statement.said
