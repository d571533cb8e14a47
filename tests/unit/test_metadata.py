"""What is not noised must be public: G1 to G5 of ``backends/base.py`` on pairs of tables that differ in one row.

A record that brings a new category, lies outside its bounds, is missing in every column or is the only one of its
kind must not change a schema, a candidate, a charge, an event or an error.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from marginal_sdg import AIM, FLAIM, MWEM, Domain, Ledger, encode, federations, synthesizers
from marginal_sdg.errors import DataError, MarginalSDGError

DOMAIN = Domain.from_dict(
    {
        "colour": {"categories": ["red", "green", "blue"], "missing": "category", "outside": "missing"},
        "age": {"lower": 18, "upper": 90, "bins": 4, "integer": True, "missing": "category", "outside": "clip"},
        "income": {"lower": 0.0, "upper": 1e5, "bins": 3, "missing": "category", "outside": "missing"},
        "smoker": {"categories": [True, False], "missing": "category"},
    }
)
WORKLOAD = [("colour", "age"), ("age", "income", "smoker")]


def base(rows: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "colour": pd.Series(rng.choice(["red", "green"], rows), dtype=object),
            "age": rng.integers(18, 91, rows).astype(float),
            "income": rng.uniform(0, 1e5, rows),
            "smoker": pd.Series(rng.choice([True, False], rows), dtype=object),
        }
    )


def row(**values) -> pd.DataFrame:
    usual = {"colour": "red", "age": 30.0, "income": 100.0, "smoker": True}
    frame = pd.DataFrame([{**usual, **values}])
    return frame.astype({"colour": object, "smoker": object})


def joined(frame: pd.DataFrame, extra: pd.DataFrame) -> pd.DataFrame:
    """Rows end to end, with the column types of ``frame``."""
    columns = {name: [*frame[name].tolist(), *extra[name].tolist()] for name in frame.columns}
    return pd.DataFrame({name: pd.Series(values, dtype=frame[name].dtype) for name, values in columns.items()})


NEIGHBOURS = {
    "a category outside the domain": (base(), joined(base(), row(colour="ultraviolet"))),
    "a number below its bounds": (base(), joined(base(), row(age=3.0))),
    "a number far above its bounds": (base(), joined(base(), row(income=1e12))),
    "an infinite number": (base(), joined(base(), row(age=float("inf"), income=float("-inf")))),
    "all missing": (base(), joined(base(), row(colour=None, age=None, income=None, smoker=None))),
    "the only record of its category": (base(), joined(base(), row(colour="blue"))),
    "the only record there is": (base(0), row()),
    "the only record there is, all missing": (
        base(0),
        joined(base(0), row(colour=None, age=None, income=None, smoker=None)),
    ),
}


class Watched(Ledger):
    """Notes everything about its calls that is not a count or a score."""

    calls: list

    def gaussian(self, tables, variance, **terms):
        released = super().gaussian(tables, variance, **terms)
        self.calls.append(("gaussian", [table.shape for table in tables], variance, terms))
        return released

    def select(self, scores, epsilon2, **terms):
        # The first candidate, always: what follows may then depend on noisy values only through their values.
        super().select(scores, epsilon2, **terms)
        self.calls.append(("select", [vector.shape for vector in scores], epsilon2, terms))
        return [0] * len(scores)


def metadata(monkeypatch, estimator, data) -> dict:
    """All that a run shows, but for the numbers that are paid for."""
    events = []
    monkeypatch.setattr(Watched, "calls", [], raising=False)
    for module in (synthesizers, federations):
        monkeypatch.setattr(module, "Ledger", Watched)
    fitted = estimator.set_params(on_event=events.append).fit(data)
    sample = fitted.sample(30)
    return {
        "calls": list(Watched.calls),
        "events": [(event["event"], event.get("selected"), event["rho_spent"]) for event in events],
        "charges": fitted.ledger.charges,
        "caveats": fitted.ledger.caveats,
        "measured": [(m.clique, m.counts.shape, m.sigma) for m in fitted.measurements_],
        "rounds": fitted.rounds_,
        "schema": [(name, str(dtype)) for name, dtype in sample.dtypes.items()],
        "traffic": fitted.communication_,
    }


@pytest.mark.parametrize("neighbours", NEIGHBOURS)
@pytest.mark.parametrize("method", ["AIM", "MWEM", "naive", "private", "census", "random"])
def test_one_record_changes_no_metadata(monkeypatch, method, neighbours):
    """G1, G3, G4: shapes, order and number of calls, candidates, charges and schema are functions of public inputs."""
    smaller, larger = NEIGHBOURS[neighbours]
    common = {"workload": WORKLOAD, "rounds": 3, "epsilon": 5.0, "seed": 0}
    seen = []
    for frame in (smaller, larger):
        if method in ("AIM", "MWEM"):
            seen.append(metadata(monkeypatch, {"AIM": AIM, "MWEM": MWEM}[method](DOMAIN, **common), frame))
        else:
            flaim = FLAIM(DOMAIN, variant=method, participation=1.0, **common)
            seen.append(metadata(monkeypatch, flaim, [base(10), frame, base(0)]))
    for part, value in seen[0].items():
        assert value == seen[1][part], part


@pytest.mark.parametrize("neighbours", NEIGHBOURS)
def test_encoding_gives_every_record_one_code_in_a_fixed_schema(neighbours):
    smaller, larger = (encode(frame, DOMAIN) for frame in NEIGHBOURS[neighbours])
    assert len(larger) == len(smaller) + 1
    assert np.array_equal(larger.codes[:-1], smaller.codes)
    assert smaller.domain == larger.domain


@pytest.mark.parametrize("federated", [False, True])
def test_the_default_number_of_synthetic_rows_is_noisy(federated):
    """G5: it is a paid estimate, the same function of releases for any data; never the number of records."""
    totals = []
    for seed in range(20):
        if federated:
            fitted = FLAIM(DOMAIN, workload=WORKLOAD, rounds=1, epsilon=1.0, seed=seed, participation=1.0)
            fitted.fit([base(200), base(100)])
        else:
            fitted = AIM(DOMAIN, workload=WORKLOAD, rounds=1, epsilon=1.0, seed=seed).fit(base(300))
        assert len(fitted.sample_table()) == round(fitted.model_.total)
        totals.append(fitted.model_.total)
    assert len(set(totals)) > 15
    assert sum(round(total) == 300 for total in totals) <= 3


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("method", ["AIM", "naive", "private"])
@pytest.mark.parametrize("rounds", [2, "adaptive"])
def test_empty_and_one_row_tables_work(rows, method, rounds):
    common = {"workload": WORKLOAD, "rounds": rounds, "epsilon": 2.0, "seed": 1}
    if method == "AIM":
        fitted = AIM(DOMAIN, **common).fit(base(rows))
    else:
        fitted = FLAIM(DOMAIN, variant=method, participation=1.0, **common).fit([base(rows), base(0)])
    assert fitted.ledger.remaining == Fraction(0)
    assert list(fitted.sample(5).columns) == list(DOMAIN)


# --- errors ---------------------------------------------------------------------------------------

SECRET_LABEL, SECRET_NUMBER = "hiv positive", 987654.25
STRICT = Domain.from_dict(
    {
        "colour": {"categories": ["red", "green"]},
        "age": {"lower": 18, "upper": 90, "integer": True},
        "income": {"lower": 0.0, "upper": 1e5, "bins": 3},
        "smoker": {"categories": [True, False]},
    }
)
REFUSED = {
    "a category outside the domain": row(colour=SECRET_LABEL),
    "a number outside its bounds": row(income=SECRET_NUMBER),
    "an integer outside its bounds": row(age=float(int(SECRET_NUMBER))),
    "a fraction where integers are declared": row(age=33.25),
    "a missing label": row(colour=None),
    "a missing number": row(income=None),
    "text in a number": row(income=SECRET_LABEL).astype({"income": object}),
    "a number among labels": row(colour=SECRET_NUMBER),
}


def mixed(extra: pd.DataFrame, before: int) -> pd.DataFrame:
    """The row after ``before`` others, in columns of whatever type holds both."""
    frame = base(before)
    return pd.DataFrame({name: [*frame[name].tolist(), *extra[name].tolist()] for name in frame.columns})


@pytest.mark.parametrize("reason", REFUSED)
def test_errors_never_tell_a_private_value(monkeypatch, reason):
    """One line that names the column and what is declared, whatever the row holds and however many rows there are."""
    for module in (synthesizers, federations):
        monkeypatch.setattr(module, "Ledger", None)  # nothing is spent: a ledger is not even opened
    messages = set()
    for rows in (7, 23):
        for fit in (AIM(STRICT).fit, lambda frame: FLAIM(STRICT).fit([frame])):
            with pytest.raises(DataError) as caught:
                fit(mixed(REFUSED[reason], rows))
            messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message and "column" in message
    values = [SECRET_LABEL, "987654", "33.25", "30.0"]
    assert not [value for value in values if value in message]
    counts = {"8", "24", "7", "23", "1 row", "1 value"}
    declared = {"18", "90"}
    assert not [number for number in counts - declared if number in message.replace("18", "").replace("90", "")]


@pytest.mark.parametrize("reason", ["a category outside the domain", "a number outside its bounds", "a missing label"])
def test_an_error_is_the_same_for_other_private_values(reason):
    """G3: the message is a function of the column's declaration."""
    others = {
        "a category outside the domain": row(colour="something else"),
        "a number outside its bounds": row(income=-1.0),
        "a missing label": row(colour=float("nan")),
    }
    messages = []
    for extra in (REFUSED[reason], others[reason]):
        with pytest.raises(MarginalSDGError) as caught:
            encode(mixed(extra, 9), STRICT)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_an_unused_level_of_a_categorical_column_is_no_error():
    """Levels are metadata of the holder's frame; a table and its neighbour may or may not use one."""
    frame = base(6)
    frame["colour"] = pd.Categorical(frame["colour"], categories=["red", "green", SECRET_LABEL])
    assert np.array_equal(encode(frame, STRICT.project(STRICT.names)).codes, encode(base(6), STRICT).codes)
