"""Pages: self-contained, escaped, and loud about what is not private."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from marginal_sdg.page import Page, Picture
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.report import Spending, ledger_section
from marginal_sdg.report.svg import drawing, label, rect


class Balance(HTMLParser):
    """Fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


PARTS = [
    "title",
    "heading",
    "text",
    "code",
    "head",
    "cell",
    "caption",
    "caveat",
    "item",
    "label",
    "notice",
    "what",
    "value",
]
PARTS += ["figure", "summary", "inner", "mark", "svg", "say", "tip", "name", "note"]


def everything() -> Page:
    """A page with one of each part, whose texts are all hostile."""
    t = {name: f"<x-{name}>" for name in PARTS}
    page = Page(t["title"]).heading(t["heading"]).text(t["text"]).code(t["code"])
    page.table([t["head"]], [[t["cell"]]], t["caption"]).caveats([t["caveat"]]).items([t["item"]])
    page.notice(t["label"], t["notice"], "bad").cards([(t["what"], t["value"])]).image(b"PNG", t["figure"])
    page.details(t["summary"], Page("").text(t["inner"])).key([("real", t["mark"])])
    svg = drawing(9, 9, t["svg"], label(0, 0, t["say"]) + rect(0, 0, 1, 1, "s", t["tip"]))
    return page.gallery([Picture(svg, t["name"], t["note"], [], [])])


def test_a_page_is_whole_loads_nothing_and_fits_a_phone() -> None:
    text = everything().html()
    Balance(text)
    assert not re.search(r"https?:|<script|src=\"(?!data:)|url\(", text)
    assert "default-src 'none'" in text and 'name="viewport"' in text
    assert Page("x").heading("one").heading("two").html().count('href="#part-') == 2


def test_every_text_is_escaped_in_html_and_in_markdown() -> None:
    text, markdown = everything().html(), everything().markdown()
    assert [name for name in PARTS if f"&lt;x-{name}&gt;" not in text] == [] and "<x-" not in text
    assert re.findall(r"(?<!\\)<x-\w+", markdown) == ["<x-code"]  # inside a fence
    drawn = {"mark", "svg", "say", "tip"}
    assert {name for name in PARTS if f"x-{name}" not in markdown} == drawn


def test_markdown_says_what_was_said() -> None:
    page = Page("a | b").text("*not* [bold](x)").table(["x"], [["1 | 2\n3"]]).code("``` fence")
    assert page.markdown() == (
        "# a \\| b\n\n\\*not\\* \\[bold\\](x)\n\n| x |\n| --- |\n| 1 \\| 2 3 |\n\n````\n``` fence\n````\n"
    )


def test_columns_of_numbers_are_aligned_and_only_privacy_labels_are_badges() -> None:
    text = (
        Page("x")
        .table(["name", "mean", "private?"], [["yes", "0.1 ± 0.2", "yes"], ["3-way", "", "NOT PRIVATE"]])
        .html()
    )
    assert '<td>yes</td><td class="number">0.1 ± 0.2</td><td><span class="badge good">yes</span></td>' in text
    assert '<td>3-way</td><td class="number"></td><td><span class="badge bad">NOT PRIVATE</span></td>' in text


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text(Page("\ud800").html(), encoding="utf-8")


def test_the_ledger_says_what_was_promised_and_spent() -> None:
    ledger = Ledger(Budget(1.0, 1e-5), Source.seeded(0))
    ledger.gaussian([np.zeros(3, dtype=np.int64)], Fraction(50), what="a marginal")
    text = ledger_section(Page("x"), ledger.to_dict()).html()
    Balance(text)
    assert "Promised: (1, 1e-05)-differential privacy" in text
    assert "Spent: rho 0.01 of 0.0305566" in text
    assert "sigma 7.071" in text


def test_no_promise_is_printed_for_what_is_not_private() -> None:
    ledger = Ledger(Budget(1.0, 1e-5), Source.seeded(0), private=False)
    text = ledger_section(Page("x"), ledger.to_dict()).html()
    assert "Promised" not in text
    assert '<li class="bad">NOT PRIVATE' in text


def test_the_best_guess_is_that_of_randomised_response() -> None:
    """Answer truthfully with probability e^eps / (1 + e^eps): a coin is told from its opposite exactly that often."""
    ledger = Ledger(Budget(math.log(3), 1e-9), Source.seeded(0))
    assert Spending.of(ledger.to_dict()).best_guess == pytest.approx(3 / 4, abs=1e-8)
    for epsilon, delta in ((1e-6, 0.5), (50.0, 1e-5)):
        guess = Spending.of(Ledger(Budget(epsilon, delta), Source.seeded(0)).to_dict()).best_guess
        assert guess == pytest.approx((1 + delta) / 2 if epsilon < 1 else 1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("caveat", "void"),
    [("NOT PRIVATE as it stands: x", True), ("paper calibration: x", True), ("simulation: x", False)],
)
def test_a_caveat_that_voids_the_promise_is_told_from_one_that_does_not(caveat: str, void: bool) -> None:
    ledger = Ledger(Budget(1.0, 1e-5), Source.system())
    ledger.warn(caveat)
    assert Spending.of(ledger.to_dict()).void is void
