"""Bins that adapt to the records: what they cost, what the exponential mechanism makes of them, and what is refused."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from marginal_sdg import AIM, MWEM, Budget, Domain, GraphicalModel, Ledger, Table, Workload
from marginal_sdg.backends.adaptive import adapt, cut_scores, cuts, levels
from marginal_sdg.encoding import bin_edges, encode, merged
from marginal_sdg.errors import ConfigError, DomainError
from marginal_sdg.privacy.noise import Source

DOMAIN = Domain.from_yaml("""
pay: {lower: 0, upper: 1000, bins: 200, missing: category, outside: clip}
age: {lower: 0, upper: 99, integer: true}
day: {lower: 2020-01-01, upper: 2023-12-31, bins: 300}
job: {categories: [cook, nurse]}
""")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Skewed columns: equal-width bins put most records of ``pay`` into the first few."""
    rng = np.random.default_rng(0)
    rows = 4000
    pay = rng.lognormal(3, 1, rows)
    return pd.DataFrame(
        {
            "pay": np.where(rng.random(rows) < 0.1, np.nan, pay),
            "age": np.minimum(rng.geometric(0.05, rows), 99),
            "day": pd.Timestamp("2023-12-31") - pd.to_timedelta(np.minimum(rng.geometric(0.01, rows), 1400), unit="D"),
            "job": np.where(pay > 20, "cook", "nurse"),
        }
    )


def free() -> Ledger:
    return Ledger(None, Source.seeded(0))


@pytest.mark.parametrize("bins", [2, 3, 4, 5, 7, 8, 16])
def test_with_much_budget_every_bin_gets_its_share(bins):
    counts = np.random.default_rng(1).integers(0, 50, 500).astype(np.int64)
    found = cuts(counts, bins, Fraction(10**4), free(), "x")
    parts = [part.sum() / counts.sum() for part in np.split(counts, found)]
    assert len(parts) == bins
    np.testing.assert_allclose(parts, 1 / bins, atol=0.01)


def test_every_bin_keeps_a_fine_one_however_the_records_lie():
    for counts in ([0] * 6, [9] + [0] * 5, [0] * 5 + [9]):
        found = cuts(np.array(counts, dtype=np.int64), 5, Fraction(100), free(), "x")
        assert len(set(found)) == 4 and min(found) >= 1 and max(found) <= 5


def test_a_fit_pays_its_share_for_bins_and_all_else_with_the_rest(frame):
    fitted = AIM(DOMAIN, rounds=2, seed=0, adaptive_bins={"pay": 5, "age": 4}, bins_share=0.1).fit(frame)
    bins = [charge for charge in fitted.ledger.charges if charge.what.startswith("bins of")]
    assert [charge.what for charge in bins[:3]] == [f"bins of pay: cuts {k} of 3" for k in (1, 2, 3)]
    assert len(bins) == 3 + 2 == levels(5) + levels(4) and all(c.mechanism == "exponential" for c in bins)
    rho = Budget(1.0, 1e-5).rho
    assert sum(charge.rho for charge in bins) == rho / 10 and fitted.ledger.spent == rho
    assert fitted.ledger.charges[: len(bins)] == tuple(bins)  # before all else


def test_a_person_with_several_records_is_protected_by_the_same_budget(frame):
    fitted = AIM(DOMAIN, rounds=1, records_per_person=3, seed=0, adaptive_bins={"pay": 4}, bins_share=0.1).fit(frame)
    assert fitted.ledger.spent == Budget(1.0, 1e-5).rho
    assert sum(c.rho for c in fitted.ledger.charges if "bins" in c.what) == fitted.ledger.spent / 10


@pytest.mark.parametrize("make", [AIM, MWEM])
def test_bins_follow_the_records_and_rows_look_like_the_input(frame, make, tmp_path):
    params = {"epsilon": 5.0, "rounds": 3, "seed": 0, "workload": Workload.random(DOMAIN, 4)}
    fitted = make(DOMAIN, **params, adaptive_bins={"pay": 6, "age": 4, "day": 5}, bins_share=0.1).fit(frame)
    domain = fitted.model_.domain
    assert domain.shape == (7, 4, 5, 2) and fitted.domain is DOMAIN
    shares = np.bincount(encode(frame, domain).column("pay"), minlength=7)[:6] / frame["pay"].notna().sum()
    assert shares.min() > 0.05 and shares.max() < 0.35
    equal = np.histogram(frame["pay"].dropna(), np.linspace(0, 1000, 7))[0] / frame["pay"].notna().sum()
    assert equal.max() > 0.9
    rows = fitted.sample(1000)
    assert (rows.dtypes == frame.dtypes).all() and rows["pay"].between(0, 1000).sum() == rows["pay"].notna().sum()
    assert abs(np.nanmedian(rows["pay"]) - np.nanmedian(frame["pay"])) < 10
    fitted.model_.save(tmp_path / "m.npz")
    assert GraphicalModel.load(tmp_path / "m.npz").domain == domain
    assert fitted.marginal(["age"])["age"].tolist()[0].startswith("0..")
    for real in (frame, encode(frame, DOMAIN)):
        assert "L1 distance" in fitted.report(real).html()


def test_merged_bins_are_runs_of_the_fine_ones(frame):
    table = encode(frame, DOMAIN)
    wide = adapt(table, {"pay": 4, "age": 3, "day": 7}, Fraction(1), free())
    assert (encode(frame, wide.domain).codes == wide.codes).all()
    assert (merged(table, wide.domain).codes == wide.codes).all()
    for name in ("pay", "age", "day"):
        assert set(bin_edges(wide.domain[name])) <= set(bin_edges(DOMAIN[name]))
    assert (wide.column("pay") == 4).sum() == frame["pay"].isna().sum()


# -- the mechanism

COUNTS = np.array([6, 1, 0, 3, 9, 2], dtype=np.int64)


def distribution(counts: np.ndarray, bins: int, epsilon: float) -> dict[tuple[int, ...], float]:
    """The probability of every set of cuts, level by level, straight from the definition."""
    below = bins // 2
    above = bins - below
    places = range(below, len(counts) - above + 1)
    scores = [-abs(above * counts[:c].sum() - below * counts[c:].sum()) / above for c in places]
    weights = np.exp(epsilon / 2 * np.array(scores))
    found: dict[tuple[int, ...], float] = Counter()
    for place, weight in zip(places, weights / weights.sum(), strict=True):
        left = distribution(counts[:place], below, epsilon) if below > 1 else {(): 1.0}
        right = distribution(counts[place:], above, epsilon) if above > 1 else {(): 1.0}
        for one, p in left.items():
            for other, q in right.items():
                found[(*one, place, *(place + c for c in other))] += weight * p * q
    return found


def p_value(epsilon: float, expected: dict[tuple[int, ...], float], bins: int, runs: int = 1500) -> float:
    ledger = free()
    seen = Counter(tuple(cuts(COUNTS, bins, Fraction(epsilon) ** 2, ledger, "x")) for _ in range(runs))
    assert set(seen) <= set(expected)
    common = [key for key, p in expected.items() if p * runs >= 10]
    observed, wanted = [seen[key] for key in common], [expected[key] * runs for key in common]
    rest = runs - sum(wanted)
    if rest >= 5:
        observed, wanted = [*observed, runs - sum(observed)], [*wanted, rest]
    return float(stats.chisquare(observed, np.array(wanted) * sum(observed) / sum(wanted)).pvalue)


@pytest.mark.stat
@pytest.mark.parametrize("bins", [2, 3, 4])
def test_cuts_have_the_distribution_of_the_exponential_mechanism(bins):
    assert p_value(0.5, distribution(COUNTS, bins, 0.5), bins) > 1e-6
    for wrong in (0.5 * 2 / 3, 0.5 * 3 / 2):  # the test is sharp enough
        assert p_value(wrong, distribution(COUNTS, bins, 0.5), bins) < 1e-6


@pytest.mark.stat
@pytest.mark.parametrize("bins", [2, 3, 4])
def test_one_record_moves_the_distribution_by_no_more_than_is_charged(bins):
    """Renyi divergence of order a is at most a rho, for every neighbour, with one charge of epsilon^2 / 8 a level."""
    epsilon = 0.7
    base = distribution(COUNTS, bins, epsilon)
    rho = levels(bins) * epsilon**2 / 8
    largest = 0.0
    for cell in range(len(COUNTS)):
        other = distribution(COUNTS + (np.arange(len(COUNTS)) == cell), bins, epsilon)
        for one, two in ((base, other), (other, base)):
            for order in (1.5, 2.0, 8.0):
                moment = sum(p**order * two[key] ** (1 - order) for key, p in one.items())
                largest = max(largest, np.log(moment) / (order - 1) / (order * rho))
    assert 0.1 < largest <= 1.0


def test_a_cut_has_its_share_below_and_above():
    counts = np.array([2, 2, 2, 2, 2, 2], dtype=np.int64)
    assert cut_scores(counts, 2).tolist() == [-8, -4, 0, -4, -8]
    assert cut_scores(counts, 3).tolist() == [-3, 0, -3, -6]


# -- what is refused

WRONG = [
    ({"adaptive_bins": {"pay": 5}}, "bins_share: adaptive bins are paid from the budget; say which share of it"),
    ({"adaptive_bins": {"pay": 5}, "bins_share": 1.0}, "between 0 and 1 such as 0.05, got 1.0"),
    ({"bins_share": 0.1}, "bins_share: pays for adaptive_bins, of which there are none; drop it"),
    ({"adaptive_bins": ["pay"]}, "adaptive_bins: needs numbers of bins by column, such as {'income': 16}, got ['pay']"),
    ({"adaptive_bins": {"job": 2}}, "adaptive_bins: 'job' has categories; only bins of numbers and dates can adapt"),
    ({"adaptive_bins": {"pay": 200}}, "adaptive_bins: 'pay' needs a number of bins from 2 to 199, one less than are"),
    ({"adaptive_bins": {"pay": 1}}, "got 1"),
    ({"adaptive_bins": {"pay": 2.5}}, "got 2.5"),
    (
        {"adaptive_bins": {"age": 5}, "bins_share": 0.1, "impossible": ["age < 16 and job == nurse"]},
        "adaptive_bins: 'age' is in known or impossible, whose bins must be public; declare its edges",
    ),
]


@pytest.mark.parametrize(("params", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_wrong_requests_are_named_in_one_line_before_anything_is_spent(params, message):
    with pytest.raises(ConfigError) as caught:
        AIM(DOMAIN, **params).fit(pd.DataFrame())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_column_is_named():
    with pytest.raises(DomainError, match=r"unknown attribute 'pey' \(did you mean 'pay'\?\)"):
        AIM(DOMAIN, adaptive_bins={"pey": 3}, bins_share=0.1).fit(pd.DataFrame())


def test_a_table_that_is_wrong_is_refused_before_bins_are_paid(frame):
    shared = Ledger(Budget(2.0, 1e-5), Source.seeded(0))
    with pytest.raises(ValueError, match="leaves its bounds"):
        AIM(DOMAIN, adaptive_bins={"pay": 3}, bins_share=0.1).fit(frame.assign(age=200), ledger=shared)
    assert shared.charges == ()
    assert (
        len(AIM(DOMAIN, seed=0, rounds=1, adaptive_bins={"pay": 3}, bins_share=0.1).fit(frame, ledger=shared).sample(9))
        == 9
    )


def test_a_coded_table_of_no_records_can_be_fitted():
    empty = Table(DOMAIN, np.empty((0, 4), dtype=np.int32))
    fitted = AIM(DOMAIN, rounds=1, seed=0, adaptive_bins={"pay": 4}, bins_share=0.1).fit(empty)
    assert fitted.model_.domain["pay"].values == 4
