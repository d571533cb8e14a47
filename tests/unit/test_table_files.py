"""Tables in files: text becomes what the domain declares, and comes back with the same codes."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from marginal_sdg import table_files
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import DataError
from marginal_sdg.table_files import read_frame, read_table, write_table

DOMAIN = Domain.from_yaml("""
age: {lower: 18, upper: 99, integer: true, missing: category}
pay: {lower: 0, upper: 10, bins: 5}
job: {categories: ["NA", cook, "a, b", x], missing: category}
own: {categories: [false, true], missing: category}
day: {lower: 1890-01-01, upper: 2020-12-31, missing: category}
seen: {lower: 2020-01-01T00:00:00, upper: 2020-12-31T23:59:59, bins: 366}
""")
ROWS = """age,pay,job,own,day,seen
18,9.9,NA,True,1890-01-01,2020-01-01T00:00:00
,0,cook,,2020-12-31,2020-01-02 23:59:59.9
 99 ,1e1,"a, b",no,null,2020-12-31
20.0,.5,x,1,NaT,2020-03-01 10:00:00
"""
DAYS = (dt.date(2020, 12, 31) - dt.date(1890, 1, 1)).days
CODES = [[0, 4, 0, 1, 0, 0], [82, 0, 1, 2, DAYS, 1], [81, 4, 2, 0, DAYS + 1, 365], [2, 0, 3, 1, DAYS + 1, 60]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_text_becomes_what_the_domain_declares(tmp_path, separator):
    path = tmp_path / "t.csv"
    text = ROWS.replace('"a, b"', "@").replace(",", separator).replace("@", '"a, b"')
    path.write_text(text)
    assert read_table(path, DOMAIN).codes.tolist() == CODES
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # as spreadsheets write it
    assert read_table(path, DOMAIN).codes.tolist() == CODES


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_what_is_written_is_read_back_with_the_same_codes_in_chunks(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(table_files, "_ROWS", 100)
    monkeypatch.setattr(table_files, "_BLOCK", 2000)
    rng = np.random.default_rng(0)
    table = Table(DOMAIN, np.stack([rng.integers(0, size, 1234) for size in DOMAIN.shape], axis=1))
    path = tmp_path / f"t{ending}"
    write_table(path, table, rng)
    assert (read_table(path, DOMAIN).codes == table.codes).all()
    assert len(read_frame(path)) == 1234
    write_table(path, table.take([]), rng)
    assert len(read_table(path, DOMAIN)) == 0


def test_a_missing_word_is_a_label_where_it_is_declared(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\nNA,NA\n?,a\n")
    domain = Domain.from_yaml('x: {categories: ["NA", "?"]}\ny: {categories: [a], missing: category}')
    assert read_table(path, domain).codes.tolist() == [[0, 1], [1, 0]]


def test_parquet_keeps_its_types_and_time_zones_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    columns = {
        "job": pa.array(["cook", None]).dictionary_encode(),
        "pay": pa.array([Decimal("1.50"), Decimal("9.00")]),
        "day": pa.array([dt.date(2000, 1, 1), dt.date(2000, 1, 2)]),
    }
    pyarrow.parquet.write_table(pa.table(columns), path)
    domain = Domain.from_yaml(
        "job: {categories: [cook], missing: category}\npay: {lower: 0, upper: 10, bins: 10}\n"
        "day: {lower: 2000-01-01, upper: 2000-01-31}"
    )
    assert read_table(path, domain).codes.tolist() == [[0, 1, 0], [1, 9, 1]]
    pd.DataFrame({"day": pd.to_datetime(["2000-01-01"]).tz_localize("UTC")}).to_parquet(path)
    with pytest.raises(DataError, match="column 'day' has a time zone"):
        read_table(path, domain.project(["day"]))


def test_no_message_quotes_a_value(tmp_path):
    path = tmp_path / "t.csv"
    for text in ("age\nsecret\n", "age\n1,secret\n", "age\n20\n1000007\n"):
        path.write_text(text)
        with pytest.raises(DataError) as caught:
            read_table(path, DOMAIN.project(["age"]))
        assert "secret" not in str(caught.value) and "1000007" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(table_files, "_to_arrow", fail)
    with pytest.raises(KeyboardInterrupt):
        write_table(path, Table(DOMAIN, np.array(CODES)), np.random.default_rng(0))
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"] and path.read_text() == "old"
