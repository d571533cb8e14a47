"""A domain says which values are possible; a wrong declaration is refused by name, in one line."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

from marginal_sdg.domain import Attribute, Domain, nearest
from marginal_sdg.errors import DomainError

AGE = Attribute("age", lower=16, upper=100, integer=True)
SEX = Attribute("sex", categories=("F", "M"), missing="category")
PAY = Attribute("pay", lower=0.0, upper=1.5, bins=3, outside="clip")


@pytest.fixture
def domain() -> Domain:
    return Domain((AGE, SEX, PAY))


@pytest.mark.parametrize(
    ("attribute", "size", "kind"),
    [
        (AGE, 85, "integer"),
        (SEX, 3, "string"),
        (PAY, 3, "floating"),
        (Attribute("e", edges=(0, 10, 12, 99), integer=True), 3, "integer"),
        (Attribute("e", edges=("2020-01-01", "2020-01-05", "2021-01-01"), missing="category"), 3, "date"),
        (Attribute("n", lower=0, upper=99, bins=10, integer=True), 10, "integer"),
        (Attribute("n", lower=5, upper=5, integer=True), 1, "integer"),
        (Attribute("b", categories=(False, True)), 2, "boolean"),
        (Attribute("c", categories=(3, 1, 2)), 3, "integer"),
        (Attribute("f", categories=(0.5, 1.5)), 2, "floating"),
        (Attribute("x", lower=0, upper=1, bins=4, missing="category", outside="missing"), 5, "floating"),
    ],
)
def test_an_attribute_has_a_code_per_category_integer_or_bin_and_one_for_missing(attribute, size, kind):
    assert (attribute.size, attribute.kind) == (size, kind)


BAD = [
    ({}, "needs categories, or both lower and upper"),
    ({"lower": 0}, "needs categories, or both lower and upper"),
    ({"lower": 0, "upper": 9}, "needs bins"),
    ({"lower": 0, "upper": 9, "bins": 0}, "bins must be an integer of at least 1, got 0"),
    ({"lower": 0, "upper": 9, "bins": 2.5}, "bins must be an integer"),
    ({"lower": 0, "upper": 9, "bins": True}, "bins must be an integer"),
    ({"lower": 9, "upper": 0, "bins": 2}, "upper (0) must be above lower (9)"),
    ({"lower": 3, "upper": 3, "bins": 2}, "upper (3) must be above lower (3)"),
    ({"lower": "0", "upper": 9, "bins": 2}, "lower must be a number, a date such as 2020-12-31"),
    ({"lower": 0, "upper": float("inf"), "bins": 2}, "upper must be a finite number"),
    ({"lower": float("nan"), "upper": 1, "bins": 2}, "lower must be a finite number"),
    ({"lower": True, "upper": 9, "bins": 2}, "lower must be a finite number"),
    ({"lower": 0.5, "upper": 9, "integer": True}, "integer bounds must be integers"),
    ({"lower": 0, "upper": 9, "bins": 10, "integer": True}, "10 bins are more than upper - lower = 9"),
    ({"lower": 0, "upper": 9, "bins": 2, "integer": "yes"}, "integer must be true or false"),
    ({"lower": 0, "upper": 10_000_000, "integer": True}, "codes are too many; set bins"),
    ({"lower": 0, "upper": 9, "bins": 2, "missing": "drop"}, "missing must be one of error, category"),
    ({"lower": 0, "upper": 9, "bins": 2, "outside": "cilp"}, "did you mean 'clip'"),
    ({"lower": 0, "upper": 9, "bins": 2, "outside": "missing"}, "needs missing: category"),
    ({"edges": [0]}, "edges must be two or more in ascending order, got ['0']"),
    ({"edges": [0, 5, 5]}, "edges must be two or more in ascending order"),
    ({"edges": "0, 5"}, "edges must be a list"),
    ({"edges": [0, "2020-12-31"]}, "edges must all be numbers, dates or times"),
    ({"edges": [0, "x"]}, "edges must be a number, a date such as 2020-12-31"),
    ({"edges": [0, 1.5], "integer": True}, "integer edges must be integers"),
    ({"edges": [0, 5], "upper": 9}, "give edges, or lower, upper and bins, not both; drop upper"),
    ({"edges": [0, 5], "categories": ["a"]}, "not both"),
    ({"categories": []}, "categories are empty"),
    ({"categories": "abc"}, "categories must be a list"),
    ({"categories": ["a", "b", "a"]}, "category 'a' is listed twice"),
    ({"categories": ["a", 1]}, "categories mix integer and string labels"),
    ({"categories": [True, "unknown"]}, "quote yes, no, on, off in YAML"),
    ({"categories": ["a", None]}, "a category must be a string, a finite number or a boolean"),
    ({"categories": ["a"], "bins": 2}, "not both"),
    ({"categories": ["a"], "integer": True}, "not both"),
    ({"categories": ["a"], "outside": "clip"}, "clip is for numbers only"),
    ({"categorise": ["a"]}, "unknown key 'categorise' (did you mean 'categories'?)"),
    (["a", "b"], "must be a mapping"),
]


@pytest.mark.parametrize(("declaration", "message"), BAD)
def test_a_wrong_declaration_is_refused_in_one_line_that_names_the_attribute(declaration, message):
    with pytest.raises(DomainError) as caught:
        Domain.from_dict({"x": declaration})
    assert message in str(caught.value)
    assert "'x'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", 3, None])
def test_an_attribute_needs_a_name(name):
    with pytest.raises(DomainError, match="non-empty string"):
        Attribute(name, categories=("a",))


def test_a_domain_is_an_ordered_mapping_of_its_attributes(domain):
    assert list(domain) == ["age", "sex", "pay"] == list(domain.names)
    assert len(domain) == 3
    assert domain["sex"] is SEX
    assert "sex" in domain and "job" not in domain
    assert domain.shape == (85, 3, 3)
    assert domain.index("pay") == 2
    assert dict(domain.items())["age"] is AGE


def test_cliques_are_put_in_domain_order(domain):
    assert domain.clique(["pay", "age"]) == ("age", "pay")
    assert domain.clique("sex") == ("sex",)
    assert domain.clique([]) == ()


def test_size_counts_cells_without_overflow(domain):
    assert domain.size(("age", "sex")) == 255
    assert domain.size(()) == 1
    assert domain.size() == 85 * 9
    wide = Domain.from_shape({f"a{i}": 1000 for i in range(20)})
    assert wide.size() == 1000**20


@pytest.mark.parametrize(
    ("clique", "message"),
    [
        (["age", "sexx"], "unknown attribute 'sexx' (did you mean 'sex'?)"),
        (["zzzz"], "unknown attribute 'zzzz'"),
        (["age", "age"], "'age' comes twice in a clique"),
    ],
)
def test_a_bad_clique_is_refused_by_name(domain, clique, message):
    with pytest.raises(DomainError) as caught:
        domain.clique(clique)
    assert message in str(caught.value)


def test_project_keeps_the_domain_order(domain):
    assert domain.project(["pay", "age"]) == Domain((AGE, PAY))


def test_equal_domains_are_equal_hashable_and_survive_pickle(domain):
    same = Domain.from_dict(domain.to_dict())
    assert same == domain
    assert hash(same) == hash(domain)
    assert domain != domain.project(["age"])
    assert pickle.loads(pickle.dumps(domain)) == domain == copy.deepcopy(domain)


def test_two_attributes_of_one_name_are_refused():
    with pytest.raises(DomainError, match="'age' is declared twice"):
        Domain((AGE, AGE))
    with pytest.raises(DomainError, match="made of Attributes"):
        Domain(("age",))


def test_from_shape_gives_integer_codes():
    domain = Domain.from_shape({"a": 3, "b": np.int64(2)})
    assert domain.shape == (3, 2)
    assert domain["a"].categories == (0, 1, 2)
    with pytest.raises(DomainError, match="'a': size must be an integer of at least 1, got 0"):
        Domain.from_shape({"a": 0})


@pytest.mark.parametrize("name", ["domain.yaml", "domain.yml", "domain.json"])
def test_files_round_trip(domain, tmp_path, name):
    tricky = Domain(
        (
            *domain.attributes,
            Attribute("answer", categories=("yes", "no", "1", "null", "~", "ü: x")),
            Attribute("flag", categories=(True, False)),
            Attribute("on", lower=np.float64(0.1), upper=np.int64(2), bins=np.int32(4)),
        )
    )
    tricky.save(tmp_path / name, header="two\nlines")
    assert Domain.load(tmp_path / name) == tricky


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.yaml", "a: {categories: [x}", "not valid YAML at line 1"),
        ("d.yaml", "a: {categories: [x]}\na: {categories: [y]}\n", "'a' comes twice at line 2"),
        ("d.yaml", "", "must map attribute names"),
        ("d.yaml", "- a\n- b\n", "must map attribute names"),
        ("d.yaml", "answer: {categories: [yes, no, unknown]}", "quote yes, no, on, off"),
        ("d.json", "{", "not valid JSON at line 1"),
        ("d.csv", "a", "ends in .yaml, .yml or .json"),
        ("d.yaml", None, "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_by_its_path(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(DomainError) as caught:
        Domain.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_notebook_view_escapes_labels(domain):
    html = Domain((Attribute("<b>", categories=("<i>",)), AGE))._repr_html_()
    assert "<b>" not in html and "<i>" not in html and "&lt;i&gt;" in html and "[16, 100]" in html


def test_nearest_says_nothing_when_nothing_is_near():
    assert nearest("zzz", ["age"]) == ""
    assert nearest("agee", ["age"]) == " (did you mean 'age'?)"


def test_a_domain_reads_as_json_too(domain):
    assert Domain.from_json(json.dumps(domain.to_dict())) == domain
