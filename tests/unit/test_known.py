"""Public marginals: how they are read, that they cost nothing, steer the model, and which are refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from marginal_sdg import AIM, FLAIM, MWEM, Budget, Domain, Table, Workload
from marginal_sdg.backends.plaintext import first_cliques
from marginal_sdg.errors import ConfigError
from marginal_sdg.generators.pgm import PGM
from marginal_sdg.known import known_measurements
from marginal_sdg.marginals import contingency
from marginal_sdg.release import Measurement, typical_sigma

MIXED = Domain.from_yaml("""
age: {lower: 18, upper: 98, bins: 4, integer: true}
pay: {lower: 0, upper: 1, bins: 2, missing: category}
job: {categories: [cook, nurse]}
owner: {categories: [false, true]}
day: {lower: 2020-01-01, upper: 2020-12-31, bins: 12}
""")


def exact(table: Table, *clique: str) -> pd.DataFrame:
    """The table's own marginal, as if it had been published."""
    names = table.domain.clique(clique)
    codes = np.indices([table.domain[name].size for name in names]).reshape(len(names), -1)
    return pd.DataFrame(dict(zip(names, codes, strict=True)) | {"count": contingency(table, names)})


def shares(tables, domain=MIXED) -> np.ndarray:
    (measurement,) = known_measurements(domain, [tables])
    return measurement.scaled(1.0)[0]


def test_labels_values_and_series_say_the_same():
    frame = pd.DataFrame({"age": ["18..37", "38..57", "58..77", "78..98"], "count": [1, 2, 3, 4]})
    years = pd.DataFrame({"age": np.arange(18, 99), "count": np.repeat([0.05, 0.1, 0.15, 4 / 21], [20, 20, 20, 21])})
    series = pd.Series([4, 3, 2, 1], index=pd.Index(["78..98", "58..77", "38..57", "18..37"], name="age"))
    text = years.astype(str)  # as from a file
    for given in (frame, years, series, text):
        np.testing.assert_allclose(shares(given), [0.1, 0.2, 0.3, 0.4], atol=1e-9)


def test_every_kind_of_column_is_read_as_values_and_as_text_of_a_file():
    owners = pd.DataFrame({"owner": ["True", "false"], "count": ["3", "1"]})
    np.testing.assert_allclose(shares(owners), [0.25, 0.75])
    np.testing.assert_allclose(shares(owners.assign(owner=[True, False])), [0.25, 0.75])
    pay = pd.DataFrame({"pay": ["[0, 0.5)", "[0.5, 1]", None], "count": [1, 2, 1]})
    np.testing.assert_allclose(shares(pay), [0.25, 0.5, 0.25])
    days = pd.DataFrame({"day": [f"2020-{month:02}-05" for month in range(1, 13)], "count": range(1, 13)})
    np.testing.assert_allclose(shares(days), np.arange(1, 13) / 78)
    both = pd.DataFrame({"job": ["nurse", "cook"] * 2, "owner": [True, True, False, False], "count": [1, 2, 3, 4]})
    np.testing.assert_allclose(shares(both), [0.4, 0.2, 0.3, 0.1])  # cook, nurse x false, true


def test_a_fits_own_marginal_can_be_given_to_the_next_one(domain, table):
    first = AIM(domain, epsilon=1.0, rounds=1, workload=4, seed=0).fit(table)
    marginal = first.marginal(["a"])
    (measurement,) = known_measurements(domain, [marginal])
    counts, sigma = measurement.scaled(first.model_.total)
    np.testing.assert_allclose(counts, marginal["count"], atol=1e-6)
    assert sigma == pytest.approx(marginal["standard_error"].iloc[0])


def test_standard_errors_add_up_in_a_bin_and_become_their_quadratic_mean():
    frame = pd.DataFrame({"job": ["cook", "cook", "nurse"], "count": [10, 20, 70], "standard_error": [3, 4, 1]})
    (measurement,) = known_measurements(MIXED, [frame])
    assert measurement.scaled(100.0)[1] == pytest.approx(((3**2 + 4**2 + 1) / 2) ** 0.5)


def test_what_is_known_exactly_is_met_and_not_measured_again(domain, table):
    free = AIM(domain, epsilon=0.5, rounds=2, workload=4, seed=0).fit(table)
    fitted = AIM(domain, epsilon=0.5, rounds=2, workload=4, seed=0, known=[exact(table, "a", "b")]).fit(table)
    truth = contingency(table, ("a", "b")) / len(table)
    np.testing.assert_allclose(fitted.model_.probabilities(("a", "b")), truth, atol=1e-3)
    assert np.abs(free.model_.probabilities(("a", "b")) - truth).max() > 1e-2
    first = [m.clique for m in fitted.measurements_ if not m.public][:2]
    assert first == [("c",), ("d",)] and fitted.sigma_ < free.sigma_
    assert fitted.ledger.spent == Budget(0.5, 1e-5).rho  # all of it, on less
    assert (fitted.marginal(["a"])["standard_error"] == 0).all()


def test_the_number_of_records_is_measured_where_the_marginal_that_tells_it_best_is_known():
    one_way = [("a",), ("b",), ("c",)]
    domain = Domain.from_shape({"a": 2, "b": 50, "c": 3})
    assert first_cliques(domain, one_way, set()) == one_way
    assert first_cliques(domain, one_way, {"b", "c"}) == [("a",)]
    assert first_cliques(domain, one_way, {"a"}) == [("b",), ("c",), ()]
    assert first_cliques(domain, one_way, {"a", "b", "c"}) == [()]


@pytest.mark.parametrize("make", [AIM, MWEM])
def test_where_all_attributes_are_known_only_the_number_of_records_is_measured_first(domain, table, make):
    known = [exact(table, name) for name in domain]
    fitted = make(domain, epsilon=5.0, rounds=2, workload=4, seed=0, known=known).fit(table)
    paid = [m for m in fitted.measurements_ if not m.public]
    assert paid[0].clique == () and len(paid) == 3
    assert fitted.model_.total == pytest.approx(2000, abs=30)


@pytest.mark.parametrize("make", [AIM, MWEM])
def test_a_large_known_marginal_leaves_the_rest_of_the_model_its_room(make):
    """The model may grow with the budget spent: what is public does not use that up before the first round."""
    domain = Domain.from_shape({"a": 40, "b": 40, "c": 2, "d": 2})
    table = Table(domain, np.repeat(np.random.default_rng(0).integers(0, 2, (500, 2)), 2, axis=1))
    params = {"workload": [("c", "d")], "rounds": 8, "max_model_mb": 1900 * 8 / 2**20, "epsilon": 50.0, "seed": 0}
    fitted = make(domain, known=[exact(table, "a", "b")], **params).fit(table)
    assert ("c", "d") in [m.clique for m in fitted.measurements_]


def test_a_federation_uses_what_is_known(domain, table, clients):
    params = {"epsilon": 0.5, "rounds": 1, "workload": 4, "seed": 0, "participation": 1.0}
    fitted = FLAIM(domain, known=[exact(table, "a")], **params).fit(clients)
    np.testing.assert_allclose(fitted.model_.probabilities(("a",)), contingency(table, ("a",)) / 2000, atol=1e-3)


def test_public_knowledge_is_in_the_ledger_and_the_report_without_a_charge(domain, table):
    known = [exact(table, "a"), exact(table, "b").assign(standard_error=20.0)]
    fitted = AIM(domain, rounds=1, workload=4, seed=0, known=known).fit(table)
    told = [caveat for caveat in fitted.ledger.caveats if caveat.startswith("public, no charge")]
    assert "the marginal of a (exact)" in told[0] and "b (standard error 0.01 of all records)" in told[1]
    report = fitted.report()
    assert told[0] in report.html() and "known exactly" in report.html()
    sigma = 0.01 * fitted.model_.total
    assert f"{sigma:.4g}, known" in report.html() and f"{sigma:.4g}, known" in report.markdown()
    assert sum(marginal["public"] for marginal in json.loads(report.json())["measured"]) == 2
    assert not any("known" in charge.what for charge in fitted.ledger.charges)


def test_noisy_knowledge_is_weighted_by_its_error():
    two = Domain.from_shape({"a": 2})
    paid = Measurement(("a",), np.array([400, 600]), 10.0)
    (precise,) = known_measurements(two, [pd.DataFrame({"a": [0, 1], "count": [0.5, 0.5], "standard_error": 0.001})])
    (vague,) = known_measurements(two, [pd.DataFrame({"a": [0, 1], "count": [0.5, 0.5], "standard_error": 0.03})])
    fitted = [PGM(two).fit([paid, extra], 1000.0, final=True).marginal(("a",))[0] for extra in (precise, vague)]
    assert fitted[0] == pytest.approx((400 / 100 + 500 / 1) / (1 / 100 + 1 / 1), abs=1)
    assert fitted[1] == pytest.approx((400 / 100 + 500 / 900) / (1 / 100 + 1 / 900), abs=1)


def test_exact_knowledge_leaves_the_weights_among_paid_measurements_alone():
    paid = [Measurement(("a",), np.array([1, 2]), 10.0), Measurement(("b",), np.array([1, 2]), 30.0)]
    public = Measurement(("c",), np.array([1, 2]), 0.0, public=True)
    assert (
        typical_sigma([*paid, public], 3.0)
        == typical_sigma(paid, 3.0)
        == pytest.approx((0.5 / 100 + 0.5 / 900) ** -0.5)
    )
    assert typical_sigma([public], 3.0) == 1.0


def test_exact_marginals_with_empty_cells_are_met_together(domain, table):
    """Zeros pull log-potentials far down; three overlapping exact marginals are still met to a record or two."""
    cliques = [("a", "b"), ("b", "c"), ("a", "c", "d")]
    known = known_measurements(domain, [exact(table, *clique) for clique in cliques])
    fitted = PGM(domain).fit([*known, Measurement(("d",), contingency(table, ("d",)), 30.0)], 2000.0, final=True)
    for clique in cliques:
        np.testing.assert_allclose(fitted.marginal(clique).ravel(), contingency(table, clique), atol=2.0)


ONE = {"job": ["cook", "nurse"], "count": [1, 1]}
WRONG = [
    (ONE, "known: needs a list of frames"),
    ([ONE], "known[0]: must be a DataFrame or a Series with at least one row, got dict"),
    ([pd.Series([1, 2], index=["cook", "nurse"])], "known[0]: name the levels of the Series' index"),
    ([pd.DataFrame({"job": ["cook", "nurse"]})], "known[0]: needs a column for every attribute, each once, and"),
    ([pd.DataFrame({"jb": ["cook", "nurse"], "count": [1, 1]})], "unknown attribute 'jb' (did you mean 'job'?)"),
    ([pd.DataFrame({"job": ["cook", "smith"], "count": [1, 1]})], "known[0]: column 'job' holds values outside its 2"),
    ([pd.DataFrame({"age": ["young", "old"], "count": [1, 1]})], "is neither a label, such as '18..37', nor a value"),
    ([pd.DataFrame({"age": [7, 18], "count": [1, 1]})], "known[0]: column 'age' leaves its bounds [18, 98]"),
    ([pd.DataFrame({"job": ["cook"], "count": [1]})], "lacks 1 of 2 cells, such as job=nurse; give each one"),
    ([pd.DataFrame(ONE).assign(count=["many", "few"])], "count must be a finite number in every row, got 'many'"),
    ([pd.DataFrame(ONE).assign(count=[0, 0])], "known[0] (job): counts must sum to more than 0"),
    ([pd.DataFrame(ONE).assign(count=[3, -1])], "an exact one must not be negative"),
    ([pd.DataFrame(ONE).assign(standard_error=-1)], "standard_error must not be negative, got -1"),
    (
        [pd.DataFrame(ONE), pd.DataFrame(ONE).assign(count=[1, 2])],
        "known[0] and known[1]: disagree on job=cook, 0.5 and 0.333333 of all records; correct one, or give its",
    ),
]


@pytest.mark.parametrize(("known", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_wrong_knowledge_is_named_in_one_line_before_anything_is_spent(known, message):
    aim = AIM(MIXED, known=known)
    with pytest.raises(ConfigError) as caught:
        aim.fit(pd.DataFrame())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_knowledge_that_no_model_has_room_for_is_refused():
    big = Domain.from_shape({"a": 400, "b": 400})
    cells = np.indices((400, 400)).reshape(2, -1)
    known = [pd.DataFrame({"a": cells[0], "b": cells[1], "count": 1})]
    with pytest.raises(ConfigError, match=r"what is known and impossible needs a model of 1\.22 MB, the limit is 1;"):
        AIM(big, known=known, max_model_mb=1.0, workload=Workload(big, (("a",),))).fit(pd.DataFrame())
