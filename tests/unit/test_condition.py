"""Conditions: what they allow, by brute force over the values of a bin, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marginal_sdg.condition import _COMPARE, allowed_codes
from marginal_sdg.domain import Attribute, Domain
from marginal_sdg.errors import ConfigError, MarginalSDGError

DOMAIN = Domain.from_yaml("""
age: {lower: 18, upper: 99, bins: 27, integer: true, missing: category}
hours-per-week: {lower: 0, upper: 10, integer: true}
income: {lower: 0, upper: 100, bins: 4}
region: {categories: [north, "far south"], missing: category}
smoker: {categories: [true, false]}
rooms: {categories: [1, 2, 3]}
born: {lower: 2000-01-01, upper: 2000-01-10}
seen: {lower: 2000-01-01T00:00:00, upper: 2000-01-01T23:59:59, bins: 24}
""")


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        ("hours-per-week > 8", {"hours-per-week": [9, 10]}),
        ("hours-per-week>=3 and hours-per-week<5", {"hours-per-week": [3, 4]}),
        ("hours-per-week in [1, 3] and smoker = TRUE", {"hours-per-week": [1, 3], "smoker": [0]}),
        ("income <= 50", {"income": [0, 1]}),
        ("income > 50", {"income": [2, 3]}),
        ("`region` == 'far south'", {"region": [1]}),
        ("region != north", {"region": [1]}),  # a missing value satisfies no comparison
        ('region in (north, "far south")', {"region": [0, 1]}),
        ("rooms < 3", {"rooms": [0, 1]}),
        ("born > 2000-01-08", {"born": [8, 9]}),
        ("seen < 2000-01-01T02:00:00", {"seen": [0, 1]}),
    ],
)
def test_a_condition_becomes_the_codes_that_satisfy_it(condition, allowed):
    assert allowed_codes(DOMAIN, condition) == allowed


@given(st.sampled_from(list(_COMPARE)), st.integers(15, 105))
@settings(max_examples=100, deadline=None)
def test_a_bin_is_allowed_when_all_its_values_satisfy_the_comparison(sign, value):
    age = DOMAIN["age"]
    numbers = np.arange(18, 100)
    codes = np.minimum((numbers - 18) * 27 // 81, 26)
    expected = [k for k in range(27) if _COMPARE[sign](numbers[codes == k], value).all()]
    try:
        assert allowed_codes(Domain((age,)), f"age {sign} {value}") == {"age": expected}
    except ConfigError:
        assert expected == []


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "a column's name is missing at the end"),
        ("age", "a comparison is missing at the end"),
        ("age ==", "a value is missing at the end"),
        ("age is 3", "'is' is no comparison"),
        ("age > 20 or age < 3", "'or' stands where 'and' should"),
        ("age > 20 and", "a column's name is missing at the end"),
        ("age in 20", "'in' needs a list in brackets"),
        ("age in [20", "a closing bracket is missing"),
        ("age in [20)", "')' stands where ']' should"),
        ("age > ,", "',' stands where a value should"),
        ("(age > 20)", "'(' stands where a column's name should"),
        ("age > old", "'old' is no integer value, which 'age' needs"),
        ("born > soon", "'soon' is no date value"),
        ("smoker == perhaps", "'perhaps' is no boolean value"),
        ("region < north", "the categories of 'region' have no order"),
        ("region == west", "'west' is no category of 'region'; its categories: north, far south"),
        ("region == 'north", "close quotes"),
        ("ago > 3", "unknown attribute 'ago' (did you mean 'age'?)"),
        ("age > 50 and age < 40", "no whole bin of 'age' satisfies it; it has 27 bins from 18 to 99"),
        ("__import__('os').system('x')", "unknown attribute '__import__'"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(condition, message):
    with pytest.raises(MarginalSDGError) as caught:
        allowed_codes(DOMAIN, condition)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_date_attribute_has_a_code_per_day():
    assert Attribute("day", lower="2000-01-01", upper="2000-01-10").size == 10
