"""What users of scikit-learn and pandas expect: clones, types that stay, labelled marginals, named weights."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from marginal_sdg import AIM, DistAIM, Domain, Workload
from marginal_sdg.dtypes import kept_dtypes
from marginal_sdg.encoding import Table, bin_edges, encode
from marginal_sdg.errors import ConfigError, DataError, DomainError, NotFittedError
from marginal_sdg.estimates import code_labels
from marginal_sdg.evaluation import evaluate

DOMAIN = Domain.from_yaml("""
age: {lower: 18, upper: 98, bins: 4, integer: true}
pay: {lower: 0, upper: 1, bins: 2, missing: category}
job: {categories: [cook, nurse]}
owner: {categories: [false, true]}
day: {lower: 2020-01-01, upper: 2020-12-31, bins: 12}
""")


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 99, 300).astype(np.int16),
            "pay": rng.random(300),
            "job": pd.Categorical(rng.choice(["cook", "nurse"], 300)),
            "owner": rng.random(300) < 0.5,
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 366, 300), unit="D"),
        }
    )


def test_an_estimator_can_be_cloned_and_says_what_it_lacks(frame):
    aim = AIM(DOMAIN, epsilon=2.0, rounds=2, seed=1)
    fresh = clone(aim.fit(frame))
    assert fresh.get_params() == aim.get_params() and fresh is not aim
    with pytest.raises(NotFittedError, match="AIM: call fit first"):
        fresh.sample()
    with pytest.raises(NotFittedError):
        fresh.marginal(["age"])
    assert fresh.set_params(epsilon=3.0) is fresh and aim.epsilon == 2.0


def test_rows_come_back_with_the_types_of_the_input(frame):
    aim = AIM(DOMAIN, rounds=1, seed=0).fit(frame)
    assert (aim.sample(20).dtypes == frame.dtypes).all()
    aim.report(frame.astype({"age": "int64"}))  # looking at another table changes nothing
    assert aim.sample(20)["age"].dtype == np.int16
    federation = DistAIM(DOMAIN, rounds=1, seed=0, participation=1.0).fit([frame, frame])
    assert (federation.sample(20).dtypes == frame.dtypes).all()


def test_a_type_that_depends_on_the_records_or_cannot_hold_the_domain_is_not_kept():
    domain = Domain.from_yaml("x: {lower: 0, upper: 200, integer: true, missing: category}")
    whole, gapped = pd.DataFrame({"x": [1, 2]}), pd.DataFrame({"x": [1, None]})
    assert kept_dtypes(whole, domain) == kept_dtypes(gapped, domain) == {}
    assert kept_dtypes(whole.astype("Int16"), domain) == {"x": pd.Int16Dtype()}
    certain = Domain.from_yaml("x: {lower: 0, upper: 200, integer: true}")
    assert kept_dtypes(whole.astype("int8"), certain) == {}
    early = Domain.from_yaml("x: {lower: 1500-01-01, upper: 2020-01-01, bins: 2}")
    assert kept_dtypes(pd.DataFrame({"x": pd.to_datetime(["2000-01-01"]).as_unit("ns")}), early) == {}


def test_codes_have_labels():
    assert code_labels(DOMAIN["age"]) == ["18..37", "38..57", "58..77", "78..98"]
    assert code_labels(DOMAIN["pay"]) == ["[0, 0.5)", "[0.5, 1]", None]
    assert code_labels(DOMAIN["job"]) == ["cook", "nurse"]
    assert code_labels(DOMAIN["day"])[0] == "2020-01-01..2020-01-31"


def test_bins_of_unequal_widths_hold_what_their_labels_say():
    domain = Domain.from_yaml("""
    age: {edges: [0, 16, 18, 65, 120], integer: true}
    pay: {edges: [0, 0.5, 10], missing: category}
    day: {edges: [2020-01-01, 2020-02-01, 2020-12-31]}
    """)
    assert code_labels(domain["age"]) == ["0..15", "16..17", "18..64", "65..120"]
    assert code_labels(domain["pay"]) == ["[0, 0.5)", "[0.5, 10]", None]
    assert code_labels(domain["day"]) == ["2020-01-01..2020-01-31", "2020-02-01..2020-12-31"]
    frame = pd.DataFrame(
        {
            "age": [0, 15, 16, 17, 18, 64, 65, 120],
            "pay": [0, 0.49, 0.5, 10, None, 3, 0.1, 9.9],
            "day": pd.to_datetime(["2020-01-01", "2020-01-31", "2020-02-01", "2020-12-31"] * 2),
        }
    )
    codes = encode(frame, domain).codes.T.tolist()
    assert codes == [[0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 1, 2, 1, 0, 1], [0, 0, 1, 1] * 2]


@pytest.mark.parametrize("name", ["age", "pay", "day"])
def test_bins_are_monotone(name):
    """A larger number never has a smaller code, and labels come in the order of the numbers."""
    domain = DOMAIN.project([name])
    low, high = domain[name].bounds
    values = np.sort(np.random.default_rng(0).uniform(low, high, 500))
    if domain[name].whole:
        values = np.floor(values)
    column = values.astype("datetime64[D]").astype("datetime64[s]") if name == "day" else values
    codes = encode(pd.DataFrame({name: column}), domain).column(name)
    assert (np.diff(codes) >= 0).all() and set(codes) == set(range(domain[name].values))
    edges = bin_edges(domain[name])
    assert (np.diff(edges) > 0).all()
    assert ((edges[codes] <= values) & (values <= edges[codes + 1])).all()


def test_a_marginal_has_labels_and_the_standard_error_of_its_own_measurements():
    domain = Domain.from_shape({"a": 2, "b": 3})
    table = Table(domain, np.random.default_rng(0).integers(0, [2, 3], (500, 2)))
    aim = AIM(domain, workload=[("a",)], rounds=1, seed=0).fit(table)
    frame = aim.marginal(["a"])
    assert frame["a"].tolist() == [0, 1] and frame["count"].sum() == pytest.approx(aim.model_.total)
    sigmas = [m.sigma for m in aim.measurements_ if m.clique == ("a",)]
    assert frame["standard_error"].iloc[0] == pytest.approx(sum(s**-2 for s in sigmas) ** -0.5)
    assert aim.marginal(["a", "b"])["standard_error"].isna().all()


@pytest.mark.stat
def test_counts_lie_within_their_standard_errors():
    """With all of the budget on one clique the model has nothing else to go by: chi-square over 40 fits."""
    domain = Domain.from_shape({"a": 4})
    table = Table(domain, np.repeat([0, 1, 2, 3], [100, 200, 300, 400])[:, None])
    fits = [AIM(domain, workload=[("a",)], rounds=1, epsilon=1.0, seed=seed).fit(table) for seed in range(40)]
    frames = [fit.marginal(["a"]) for fit in fits]
    z = np.concatenate([(f["count"] - [100, 200, 300, 400]) / f["standard_error"] for f in frames])
    assert 0.7 < np.mean(z**2) < 1.4


def test_a_workload_covers_what_it_leaves_out_and_favours_a_target():
    workload = Workload(DOMAIN, (("age", "job"), ("pay", "job", "owner")))
    assert workload.covering().cliques == (*workload.cliques, ("day",))
    favoured = workload.favouring("age")
    weights = dict(zip(favoured.cliques, favoured.weights, strict=True))
    assert weights[("age", "job")] == weights[("age", "day")] == 4 and weights[("pay", "job", "owner")] == 1
    assert favoured.cliques.count(("age", "job")) == 1
    with pytest.raises(DomainError):
        workload.favouring("wage")


def test_weights_decide_which_of_two_equally_wrong_marginals_is_measured():
    domain = Domain.from_shape(dict.fromkeys("abcd", 4))
    codes = np.repeat(np.random.default_rng(0).integers(0, 4, (400, 2)), 2, axis=1)  # a = b and c = d
    picked = {}
    for weights in ((1.0, 5.0), (5.0, 1.0)):
        workload = Workload(domain, (("a", "b"), ("c", "d")), weights)
        fits = [
            AIM(domain, workload=workload, epsilon=1.0, rounds=1, seed=k).fit(Table(domain, codes)) for k in range(8)
        ]
        picked[weights] = [fit.measurements_[-1].clique for fit in fits]
    assert picked[1.0, 5.0].count(("c", "d")) >= 7 and picked[5.0, 1.0].count(("a", "b")) >= 7


def test_an_evaluation_is_zero_for_the_same_rows_and_finds_the_column_that_is_wrong():
    rng = np.random.default_rng(0)
    domain = Domain.from_shape({"a": 3, "b": 400, "c": 400, "d": 2})
    table = Table(domain, rng.integers(0, domain.shape, (300, 4)))
    same = evaluate(table, table, "a")
    assert {ways: same.mean(ways) for ways in (1, 2, 3)} == {1: 0, 2: 0, 3: 0}
    assert set(same.scores) == {"real", "synthetic"}
    wrong = table.codes.copy()
    wrong[:, 3] = 0
    found = evaluate(table, Table(domain, wrong))
    assert found.worst(1, 1)[0][0] == ("d",) and found.scores == {}
    expected = 2 * np.mean(table.column("d"))
    assert found.errors[1]["d",] == pytest.approx(expected)
    assert found.errors[3]["b", "c", "d"] == pytest.approx(expected)  # 320,000 cells: only the occupied ones
    with pytest.raises(DataError, match="at least one row"):
        evaluate(table, table.take([]))
    with pytest.raises(DataError, match="same domain"):
        evaluate(table, table.select(["a"]))
    with pytest.raises(ConfigError, match="'x' is a number"):
        numbers = Table(Domain.from_yaml("x: {lower: 0, upper: 1, bins: 2}"), np.zeros((2, 1), dtype=int))
        evaluate(numbers, numbers, "x")


def test_dates_are_declared_in_python_too():
    from marginal_sdg import Attribute

    days = Attribute("x", lower=dt.date(2020, 1, 1), upper=dt.date(2020, 12, 31), bins=12)
    assert days == Attribute("x", lower="2020-01-01", upper="2020-12-31", bins=12)
    assert days.kind == "date" and days.bounds == (18262, 18627)
    times = Attribute("x", lower=pd.Timestamp("2020-01-01"), upper=pd.Timestamp("2020-01-02"), bins=3)
    assert times.kind == "datetime" and type(times.lower) is dt.datetime
    for terms, message in [
        ({"lower": "2020-01-01", "upper": 5, "bins": 2}, "must both be numbers, dates or times"),
        ({"lower": "2020-01-01", "upper": "2020-01-09", "bins": 2, "integer": True}, "integer is for numbers"),
        ({"lower": "2020-01-01T00:00:00+01:00", "upper": "2020-01-09T00:00:00", "bins": 2}, "without a time zone"),
        ({"lower": "2020-01-01T00:00:00", "upper": "2020-12-31T00:00:00"}, "codes are too many; set bins"),
        ({"categories": ("a", "b"), "other": "c"}, "other ('c') must be one of the categories"),
        ({"categories": ("a", "b"), "other": "b", "missing": "category", "outside": "missing"}, "drop outside"),
        ({"lower": 0, "upper": 9, "bins": 2, "other": 3}, "other is for categories only"),
    ]:
        with pytest.raises(DomainError) as caught:
            Attribute("x", **terms)
        assert message in str(caught.value)
