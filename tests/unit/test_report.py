"""Report pages: self-contained, escaped, and loud about what is not private."""

from __future__ import annotations

from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.report import Page, ledger_section, synthesis_report
from marginal_sdg.synthesizers import AIM


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


@pytest.fixture(scope="module")
def table() -> Table:
    domain = Domain.from_shape({"a": 3, "b<b>": 30})
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 3, 200), rng.integers(0, 30, 200)], axis=1)
    return Table(domain, codes.astype(np.int32))


@pytest.fixture(scope="module")
def fitted(table: Table) -> AIM:
    return AIM(table.domain, rounds=2, seed=1).fit(table)


def test_a_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    page = Page("Title").heading("Part").text("words").table(["a"], [[1], ["x"]]).code("run")
    page.image(b"\x89PNG", "a figure").details("more", Page("").text("inner"))
    text = page.save(tmp_path / "page.html").read_text()
    Balance(text)
    assert "http" not in text
    assert "<script" not in text
    assert "inner" in text


def test_every_text_is_escaped() -> None:
    page = Page("<t>").heading("<h>").text("<p>x").code("<c>").table(["<head>"], [["<cell>"]]).caveats(["<warn>"])
    text = page.html()
    Balance(text)
    for name in ("t", "h", "p", "c", "head", "cell", "warn"):
        assert f"&lt;{name}&gt;" in text


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


def test_a_report_without_the_real_table_is_a_function_of_the_release(fitted: AIM, table: Table) -> None:
    text = synthesis_report(fitted).html()
    Balance(text)
    assert "NOT PRIVATE" not in text
    assert "20 commonest of 30 codes" in text
    private = synthesis_report(fitted, table).html()
    Balance(private)
    assert "NOT PRIVATE" in private
    assert "L1 distance" in private
    assert "L1 distance" not in text
