"""Coding and decoding undo each other, for every domain."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from marginal_sdg.domain import Attribute, Domain
from marginal_sdg.encoding import Table, decode, encode

finite = st.floats(-1e6, 1e6).map(lambda x: x + 0.0)  # no -0.0


@st.composite
def attributes(draw, name="x"):
    missing = draw(st.sampled_from(["error", "category"]))
    kind = draw(
        st.sampled_from(["labels", "integer", "binned integer", "float", "dates", "times", "edges", "dated edges"])
    )
    if kind == "labels":
        labels = draw(
            st.one_of(
                st.lists(st.text(max_size=5), min_size=1, max_size=8, unique=True),
                st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=8, unique=True),
                st.lists(st.booleans(), min_size=1, max_size=2, unique=True),
                st.lists(finite, min_size=1, max_size=8, unique=True),
            )
        )
        other = draw(st.sampled_from([None, labels[-1]]))
        return Attribute(name, categories=tuple(labels), missing=missing, other=other)
    if kind == "float":
        lower, width = draw(finite), draw(st.floats(1e-3, 1e6))
        bins = draw(st.integers(1, 300))
        return Attribute(name, lower=lower, upper=lower + width, bins=bins, missing=missing)
    if kind == "edges":
        whole = draw(st.booleans())
        edges = draw(st.lists(st.integers(-(10**9), 10**9) if whole else finite, min_size=2, max_size=9, unique=True))
        return Attribute(name, edges=tuple(sorted(edges)), integer=whole, missing=missing)
    if kind == "dated edges":
        return Attribute(name, edges=tuple(sorted(draw(st.lists(st.dates(), min_size=2, max_size=9, unique=True)))))
    if kind in ("dates", "times"):
        ends = draw(st.lists(st.dates() if kind == "dates" else st.datetimes(), min_size=2, max_size=2, unique=True))
        low, high = sorted(end if kind == "dates" else end.replace(microsecond=0) for end in ends)
        assume(low < high)
        return Attribute(name, lower=low, upper=high, bins=1, missing=missing)
    lower, span = draw(st.integers(-(10**9), 10**9)), draw(st.integers(0, 500))
    bins = draw(st.integers(1, max(1, span))) if kind == "binned integer" else None
    return Attribute(name, lower=lower, upper=lower + span, bins=bins, integer=True, missing=missing)


@st.composite
def tables(draw):
    domain = Domain(tuple(draw(attributes(f"x{j}")) for j in range(draw(st.integers(1, 4)))))
    rows = draw(st.integers(0, 20))
    columns = [draw(st.lists(st.integers(0, n - 1), min_size=rows, max_size=rows)) for n in domain.shape]
    return Table(domain, np.array(columns, dtype=np.int64).T.reshape(rows, len(domain)))


@given(tables(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_encoding_a_decoded_table_gives_back_its_codes(table, seed):
    back = decode(table, np.random.default_rng(seed))
    assert (encode(back, table.domain).codes == table.codes).all()


@given(attributes())
@settings(max_examples=150, deadline=None)
def test_every_declaration_survives_yaml_and_json(attribute):
    domain = Domain((attribute,))
    assert Domain.from_yaml(domain.to_yaml()) == domain
    assert Domain.from_json(json.dumps(domain.to_dict())) == domain


@given(finite, st.floats(1e-3, 1e6), st.integers(1, 300), st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_a_decoded_number_lies_in_the_bin_and_the_bounds_of_the_original(lower, width, bins, shares):
    attribute = Attribute("x", lower=lower, upper=lower + width, bins=bins)
    x = np.clip(lower + np.array(shares) * width, lower, lower + width)
    domain = Domain((attribute,))
    back = decode(encode(pd.DataFrame({"x": x}), domain), np.random.default_rng(0))["x"].to_numpy()
    step = width / bins
    assert (np.abs(back - x) <= step * (1 + 1e-6) + 1e-9 * abs(lower)).all()
    assert ((lower <= back) & (back <= lower + width)).all()
