"""The report on a fitted synthesizer: true numbers, hostile names, and exact facts only where they were asked for."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import marginal_sdg
from marginal_sdg import AIM, FHAIM, FLAIM, MWEM, DistAIM, Domain, Table, Workload
from marginal_sdg.baselines.ctgan import DPCTGAN, FedDPCTGAN
from marginal_sdg.datasets.split import split_rows
from marginal_sdg.errors import ConfigError
from marginal_sdg.evaluation import evaluate
from marginal_sdg.graphical.junction import JunctionTree, Sizes
from marginal_sdg.report import Report, synthesis_report
from marginal_sdg.report.associations import Associations
from marginal_sdg.report.columns import MOST_BARS, Column
from marginal_sdg.report.facts import _nodes
from marginal_sdg.report.trust import trust_of

HOSTILE = Domain.from_yaml("""
"<script>alert(1)</script>": {categories: ['"><img src=x onerror=alert(1)>', "a|b`c*", "</title></svg>"]}
"x' onload='y": {lower: 0, upper: 60, integer: true, missing: category}
"https://example.org/](": {lower: 2000-01-01, upper: 2019-12-31, bins: 20}
plain: {categories: [no, yes]}
many: {categories: [a, b, c, d, e, f, g, h, i, j, k, l, m, n]}
""")


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 800) for size in HOSTILE.shape], axis=1)
    codes[:, 3] = codes[:, 1] > rng.integers(10, 50, 800)
    return Table(HOSTILE, codes)


@pytest.fixture(scope="module")
def fitted(table: Table) -> AIM:
    return AIM(HOSTILE, epsilon=3.0, rounds=4, seed=1).fit(table)


@pytest.fixture(scope="module")
def public(fitted: AIM) -> Report:
    return fitted.report()


@pytest.fixture(scope="module")
def private(fitted: AIM, table: Table) -> Report:
    return fitted.report(table, target="plain")


class Elements(HTMLParser):
    """All elements with their attributes, all text, and what each element holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.path: list[str] = []
        self.captioned = 0
        self.feed(text)
        assert self.path == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "caption":
            assert self.path[-1] == "table"
            self.captioned += 1
        if tag not in ("meta", "img", "br"):
            self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def values(report: Report) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    loaded: dict[str, Any] = json.loads(report.json(), parse_constant=refuse)
    return loaded


# -- safe and readable


@pytest.mark.parametrize("which", ["public", "private"])
def test_hostile_names_and_labels_are_only_ever_text(which: str, request: pytest.FixtureRequest) -> None:
    report = request.getfixturevalue(which)
    page = Elements(report.html())
    assert {"script", "img", "link", "iframe", "object", "image", "use"}.isdisjoint(tag for tag, _ in page.found)
    for _, attributes in page.found:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#") and not {"src", "srcset", "action"} & set(attributes)
    assert "url(" not in report.html() and "@import" not in report.html()
    for name in HOSTILE.names:
        assert name in page.text
    markdown = report.markdown().replace(report.facts.recipe.domain, "")
    assert not re.search(r"(?<!\\)<", markdown)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) >= 3 for row in rows)


def test_pictures_have_names_and_tables_have_captions(private: Report) -> None:
    page = Elements(private.html())
    drawings = [attributes for tag, attributes in page.found if tag == "svg"]
    assert len(drawings) == len(HOSTILE) + 3 + 1  # distributions, heat maps, the junction tree
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings)
    assert page.captioned == sum(tag == "table" for tag, _ in page.found)


def test_colours_come_from_the_style_so_that_they_follow_light_and_dark(private: Report) -> None:
    body = private.html().split("</style>")[1]
    assert not re.search(r"fill=|stroke=|#[0-9a-f]{6}", body)
    assert "prefers-color-scheme: dark" in private.html()


# -- true


def test_the_numbers_are_those_of_evaluate(fitted: AIM, table: Table, private: Report) -> None:
    synthetic = fitted.model_.sample(None, np.random.default_rng(0))
    found = evaluate(table, synthetic, "plain")
    told = values(private)["utility"]
    page, markdown = private.html(), private.markdown()
    for ways, errors in found.errors.items():
        assert told["errors"][str(ways)]["mean"] == found.mean(ways)
        assert told["errors"][str(ways)]["compared"] == len(errors)
        for clique, error in found.worst(ways, 10):
            assert {"columns": list(clique), "error": error} in told["errors"][str(ways)]["worst"]
            assert f"{error:.4f}" in page and f"{error:.4f}" in markdown
        assert f"{found.mean(ways):.4f}" in page and f"{found.mean(ways):.4f}" in markdown
    for name, scores in found.scores.items():
        assert told["scores"][name] == scores._asdict()
        assert f"{scores.auc:.3f}" in page and f"{scores.accuracy:.3f}" in markdown


def test_html_markdown_and_json_hold_the_same_numbers(private: Report) -> None:
    told = values(private)
    page, markdown = Elements(private.html()).text, private.markdown()
    for column in told["columns"]:
        for bar in column["bars"]:
            tip = (
                f"{bar['label']}: synthetic {bar['synthetic']:.1%} (noise ± {bar['noise']:.1%}), real {bar['real']:.1%}"
            )
            assert tip in page
            assert f"| {bar['synthetic']:.1%} | {bar['real']:.1%} |" in markdown
        assert sum(bar["synthetic"] for bar in column["bars"]) == pytest.approx(1)
        assert sum(bar["real"] for bar in column["bars"]) == pytest.approx(1)
    spending = told["spending"]
    assert spending["epsilon"] == 3.0 and spending["rho_spent"] == pytest.approx(spending["rho"])
    for charge in spending["charges"]:
        assert charge["what"] in page and f"{charge['rho']:.4g}" in page and f"{charge['rho']:.4g}" in markdown
    for measured in told["measured"]:
        assert f"{measured['sigma']:.4g}" in page and f"{measured['noise']:.3g}" in markdown
    names, real = told["associations"]["columns"], np.array(told["associations"]["real"])
    for i, name in enumerate(names):
        for j, other in enumerate(names[:i]):
            assert f"{name}, {other}: {real[i, j]:.2f}" in page


def test_shares_of_a_column_are_those_of_the_rows_also_where_codes_are_merged(table: Table, private: Report) -> None:
    merged = private.facts.columns[1]
    exact = np.bincount(table.column(merged.name), minlength=62) / len(table)
    assert len(merged.bars) == 32 <= MOST_BARS and merged.missing and merged.ends == ("0", "60")
    assert [bar.real for bar in merged.bars[:2]] == pytest.approx([exact[:2].sum(), exact[2:4].sum()])
    assert merged.bars[0].label == "0 … 1" and merged.bars[-1].label == "missing"
    assert merged.bars[-1].real == pytest.approx(exact[61])
    labels = private.facts.columns[4]
    assert len(labels.bars) == 12 and labels.bars[-1].label == "3 others" and labels.ends is None


def test_whiskers_are_the_noise_of_the_measurements(fitted: AIM, public: Report) -> None:
    frame = fitted.marginal(["plain"])
    own = [m for m in fitted.measurements_ if m.clique == ("plain",)]
    expected = sum(m.sigma**-2 for m in own) ** -0.5
    assert public.facts.columns[3].bars[0].noise == pytest.approx(expected / fitted.model_.total)
    assert frame["standard_error"][0] <= expected * (1 + 1e-9)  # larger marginals can only add to it


def test_the_expected_error_of_the_noise_is_what_noise_does(public: Report, fitted: AIM) -> None:
    measured = max(public.facts.measured, key=lambda m: m.cells)
    drawn = np.random.default_rng(0).normal(0, measured.sigma, (400, measured.cells))
    assert measured.noise == pytest.approx(np.abs(drawn).sum(axis=1).mean() / fitted.model_.total, rel=0.05)


def test_the_drawn_tree_is_a_junction_tree_depth_first() -> None:
    sizes = Sizes([2, 3, 4, 2, 2, 5, 2])
    tree = JunctionTree.covering(sizes, [0b11, 0b110, 0b1100, 0b110000, 0b10010])
    names = tuple("abcdefg")
    nodes = _nodes(tree, names)
    assert {node.columns for node in nodes} == {
        tuple(names[i] for i in range(7) if mask >> i & 1) for mask in tree.nodes
    }
    for place, node in enumerate(nodes):
        if node.parent is None:
            assert not node.separator
        else:
            assert node.parent < place
            assert set(node.separator) == set(node.columns) & set(nodes[node.parent].columns) != set()
            above: int | None = place - 1
            while above != node.parent:  # the node before is the parent, or below it
                assert above is not None
                above = nodes[above].parent
    assert sum(node.parent is None for node in nodes) == 2  # g is on its own


def test_the_recipe_makes_the_same_release(tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for workload in (5, Workload(HOSTILE, (("plain", "many"),), (2.0,)), [("plain",), ("plain", "many")]):
        made = MWEM(HOSTILE, epsilon=2.0, rounds=2, seed=7, workload=workload).fit(table)
        recipe = made.report().facts.recipe
        Path("domain.yaml").write_text(recipe.domain, encoding="utf-8")
        names: dict[str, Any] = {"table": table}
        exec(recipe.code, names)
        again = names["synthesizer"].measurements_
        assert [m.counts.tolist() for m in again] == [m.counts.tolist() for m in made.measurements_]
    assert recipe.seeded and "Who knows the seed knows the noise" in made.report().html()


# -- honest


def test_exact_facts_appear_only_when_they_are_asked_for(public: Report, private: Report) -> None:
    told, exact = values(public), values(private)
    assert not told["for_the_holder_only"] and exact["for_the_holder_only"]
    assert told["utility"] is told["seconds"] is told["associations"]["real"] is None
    assert all(bar["real"] is None for column in told["columns"] for bar in column["bars"])
    for text in (public.html(), public.markdown()):
        assert "NOT PRIVATE" not in text and "AUC" not in text and "Running times depend on the private rows" in text
    text = private.html()
    top, *parts = re.split(r"<h2", text)
    assert "NOT PRIVATE, FOR THE HOLDER" in top
    titles = [re.match(r"[^>]*>([^<]+)", part)[1] for part in parts]
    assert titles == ["Privacy", "Utility", "Columns", "Model", "Time", "How to reproduce"]
    assert [title for title, part in zip(titles, parts, strict=True) if "NOT PRIVATE" in part] == ["Utility", "Columns"]
    assert "is not private" in parts[4]


def test_similarity_is_never_called_privacy(private: Report) -> None:
    privacy = private.markdown().split("## Privacy")[1].split("## Utility")[0]
    assert not re.search(r"AUC|similar|distance|Cramér|classifier", privacy)
    assert "says nothing about privacy" in private.markdown()


def test_a_report_is_the_same_each_time_and_leaves_the_estimator_as_it_was(fitted: AIM) -> None:
    twin = AIM(**fitted.get_params()).fit(fitted.sample_table(500, seed=0))
    assert fitted.report().html() == fitted.report().html()
    reported = AIM(**twin.get_params()).fit(fitted.sample_table(500, seed=0))
    reported.report()
    assert (twin.sample_table(50).codes == reported.sample_table(50).codes).all()


def test_what_is_promised_is_said_in_words_and_numbers(public: Report, table: Table) -> None:
    text = Elements(public.html()).text
    assert "Promised: (3, 1e-05)-differential privacy" in text
    assert "e^3 = 20.1 times" in text and f"probability {np.exp(3) / (1 + np.exp(3)):.1%} at most" in text
    assert "The promise below holds with caveats only." in text  # a seed
    person = AIM(HOSTILE, rounds=0, records_per_person=3).fit(table).report().html()
    assert "with or without one person&#x27;s records (3 at most), no outcome" in person
    assert "Private." in person and "no caveats" in person


def test_nothing_is_promised_where_nothing_is_private(table: Table) -> None:
    clients = [table.take(np.arange(k, 800, 4)) for k in range(4)]
    oracle = FLAIM(HOSTILE, variant="oracle", rounds=1, participation=1.0).fit(clients).report()
    text = Elements(oracle.html()).text
    assert "nothing is promised" in text and "nobody: exact values are used" in text
    assert "In words" not in text and oracle.facts.spending.epsilon is None and "Promised" not in text
    assert "the server adds" not in text or "Anything against the server" in text


def test_every_mechanism_has_a_trust_model() -> None:
    for kind in (AIM, MWEM, FLAIM, DistAIM, FHAIM, DPCTGAN, FedDPCTGAN):
        trust = trust_of(kind)
        assert trust.protected and trust.not_promised and trust.assuming
    assert trust_of(MWEM) is trust_of(AIM)
    assert "the server, also with" in trust_of(FLAIM, "clients").protected
    assert trust_of(FLAIM, "server") is trust_of(FLAIM)
    with pytest.raises(KeyError, match="int: no trust model"):
        trust_of(int)
    estimators = {n for n in marginal_sdg.__all__ if hasattr(getattr(marginal_sdg, n), "fit")}
    assert estimators == {"AIM", "MWEM", "FLAIM", "DistAIM", "FHAIM"}  # a new one belongs into this test


# -- many columns, few columns, files


def test_many_columns_are_folded_and_capped() -> None:
    rng = np.random.default_rng(0)
    domain = Domain.from_shape({f"column {j}": 3 for j in range(40)})
    codes = rng.integers(0, 3, (300, 40))
    codes[:, 31] = codes[:, 7]
    wide = Table(domain, codes)
    shown = Associations.of([wide], "column 3")
    assert shown is not None and len(shown.columns) == 16 and shown.among == 40
    assert {"column 7", "column 31", "column 3"} <= set(shown.columns)
    assert abs(shown.columns.index("column 7") - shown.columns.index("column 31")) == 1
    text = AIM(domain, rounds=1, seed=0, workload=20).fit(wide).report().html()
    assert "16 most associated of 40 columns" in text
    assert "<details><summary>Distributions of 40 columns" in text


def test_one_column_one_row_and_one_value_make_a_report() -> None:
    domain = Domain.from_yaml("only: {lower: 0, upper: 5, bins: 1, missing: category}")
    frame = pd.DataFrame({"only": [3.5]})
    report = AIM(domain, rounds=0, seed=0).fit(frame).report(frame)
    assert report.facts.associations is None and "No classifier was compared" in report.html()
    assert values(report)["utility"]["errors"].keys() == {"1"}


def test_a_score_that_does_not_exist_is_null_and_undefined() -> None:
    """All held-out rows have one label; and a table too small to hold any out."""
    domain = Domain.from_shape({"x": 3, "y": 2})
    codes = np.random.default_rng(0).integers(0, 2, (50, 2))
    codes[split_rows(50, 0.8, 0)[1], 1] = 0
    rows = Table(domain, codes)
    fitted = AIM(domain, rounds=0, seed=0).fit(rows)
    report = fitted.report(rows, target="y")
    assert [scores["auc"] for scores in values(report)["utility"]["scores"].values()] == [None, None]
    assert "undefined" in report.html() and "--share:0.000" in report.html() and "nan" not in report.markdown()
    assert values(fitted.report(rows.take([0]), target="y"))["utility"]["scores"] == {}


def test_an_ordered_column_ends_where_its_declaration_does() -> None:
    domain = Domain.from_yaml("""
    date: {lower: 2020-01-01, upper: 2020-12-31, bins: 3}
    number: {lower: -1.5, upper: 2, bins: 2}
    codes: {categories: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]}
    few: {categories: [1, 2]}
    """)
    rows = Table(domain, np.zeros((3, 4), dtype=int))
    columns = [Column.of(attribute, [rows], [], 3.0, None) for attribute in domain.attributes]
    assert [column.ends for column in columns] == [("2020-01-01", "2020-12-31"), ("-1.5", "2"), ("1", "13"), None]
    assert columns[0].bars[0].synthetic == 1 and columns[0].bars[0].noise is None


@pytest.mark.parametrize("suffix", [".html", ".md", ".json"])
def test_a_report_is_saved_as_what_its_file_is_called(suffix: str, public: Report, tmp_path: Path) -> None:
    text = public.save(tmp_path / f"r{suffix}").read_text(encoding="utf-8")
    assert text == {".html": public.html, ".md": public.markdown, ".json": public.json}[suffix]()
    assert len({public.html(), public.markdown(), public.json()}) == 3


def test_a_file_of_another_kind_is_refused(public: Report, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report: 'r\.pdf' must end in \.html, \.md or \.json"):
        public.save(tmp_path / "r.pdf")


def test_a_notebook_shows_the_same_page_and_its_style_stays_inside(public: Report) -> None:
    shown = public._repr_html_()
    Elements(shown)
    style = re.search(r"<style>(.*?)</style>", shown, re.DOTALL)[1]
    selectors = re.findall(r"(?:^|[{}])\s*([^{}@]+?)\s*{", re.sub(r"@media[^{]*{", "", style))
    assert selectors and all(selector.startswith(".msdg") for selector in selectors)
    assert "<html" not in shown and "Promised" in shown


def test_the_rows_of_a_release_can_be_given(fitted: AIM, table: Table) -> None:
    rows = fitted.sample_table(30, seed=1)
    facts = synthesis_report(fitted, table, synthetic=rows).facts
    assert facts.synthetic_rows == 30 and facts.utility == evaluate(table, rows)
