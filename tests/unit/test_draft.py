"""Drafting a domain: everything that was read off the table is named, and what cannot be declared is left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from marginal_sdg.domain import Domain
from marginal_sdg.draft import draft_domain
from marginal_sdg.encoding import encode
from marginal_sdg.errors import DomainError

PRIVATE = pd.DataFrame(
    {
        "job": ["cook", "nurse", None, "cook"],
        "age": [23, 61, 18, 90],
        "rooms": [1.0, 2.0, np.nan, 3.0],
        "height": [1.6, 1.8, 1.75, 1.9],
        "owner": [True, False, True, True],
    }
)


def test_a_draft_codes_its_own_table_and_lists_what_it_read_off_it():
    draft = draft_domain(PRIVATE, bins=8)
    assert len(encode(PRIVATE, draft.domain)) == 4
    assert draft.domain.shape == (3, 8, 4, 8, 2)
    assert [note.split(":")[0] for note in draft.notes] == ["job", "job", "age", "rooms", "rooms", "height"]


def test_a_saved_draft_warns_that_it_is_not_public_and_loads_as_a_domain(tmp_path):
    draft = draft_domain(PRIVATE)
    draft.save(tmp_path / "draft.yaml")
    text = (tmp_path / "draft.yaml").read_text()
    assert text.startswith("# DRAFT, read off a private table. NOT public knowledge")
    assert all(f"# - {note}" in text for note in draft.notes)
    assert Domain.load(tmp_path / "draft.yaml") == draft.domain
    with pytest.raises(DomainError, match=r"save a draft as \.yaml"):
        draft.save(tmp_path / "draft.json")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([f"p{i}" for i in range(500)], "identifier or free text"),
        (range(1, 501), "looks like an identifier"),
        ([2**60 + i % 3 for i in range(500)], "beyond 2^53"),
        ([None] * 500, "has no values"),
    ],
)
def test_what_looks_like_an_identifier_is_left_out(values, reason):
    frame = pd.DataFrame({"key": list(values), "sex": ["f", "m"] * 250})
    draft = draft_domain(frame)
    assert draft.left_out == ("key",) and draft.domain.names == ("sex",)
    assert any(note.startswith("key: ") and reason in note for note in draft.notes)


def test_numbers_that_differ_in_every_row_are_no_identifiers():
    frame = pd.DataFrame({"pay": np.random.default_rng(0).choice(100_000, 500, replace=False)})
    assert draft_domain(frame).domain.names == ("pay",)


def test_dates_times_constants_and_infinities_are_declared_so_that_the_table_can_be_coded():
    moments = ["2020-01-01 10:00:00.5", "2020-01-01 12:00:00", "2020-01-01 12:00:00.9"]
    frame = pd.DataFrame(
        {
            "day": pd.to_datetime(["2020-01-01", "2024-02-29", None]),
            "moment": pd.to_datetime(moments, format="ISO8601"),
            "one": [0.5, 0.5, 0.5],
            "wild": [0.5, np.inf, -1.0],
        }
    )
    draft = draft_domain(frame)
    kinds = [attribute.kind for attribute in draft.domain.attributes]
    assert kinds == ["date", "datetime", "floating", "floating"]
    assert len(encode(frame, draft.domain)) == 3
    assert Domain.from_yaml(draft.domain.to_yaml()) == draft.domain


def test_a_draft_of_categorical_data_keeps_declared_levels():
    frame = pd.DataFrame({"c": pd.Categorical(["b", "b"], categories=["b", "a"])})
    assert draft_domain(frame).domain["c"].categories == ("a", "b")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame(), "empty table"),
        (PRIVATE.iloc[:0], "empty table"),
        (pd.DataFrame({"day": pd.to_datetime(["2020-01-01"]).tz_localize("UTC")}), "'day' has a time zone"),
        (pd.DataFrame({"gap": [None, None]}), "every column is empty"),
        (pd.DataFrame({"both": [0.5, "a"]}), "'both' holds mixed values"),
    ],
)
def test_a_table_that_cannot_be_drafted_is_refused(frame, message):
    with pytest.raises(DomainError) as caught:
        draft_domain(frame)
    assert message in str(caught.value)
