"""Coding a table: every type that pandas has, every wrong table refused before anything else happens."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from marginal_sdg.domain import Attribute, Domain
from marginal_sdg.encoding import Table, decode, encode
from marginal_sdg.errors import DataError, DomainError

DOMAIN = Domain(
    (
        Attribute("job", categories=("cook", "nurse", "?")),
        Attribute("age", lower=18, upper=99, integer=True),
        Attribute("pay", lower=0, upper=10, bins=5),
    )
)
FRAME = pd.DataFrame({"job": ["nurse", "?", "cook"], "age": [18, 99, 40], "pay": [0.0, 10.0, 3.9]})


def one(attribute: Attribute, values: object) -> list[int]:
    """Codes of a single column."""
    frame = pd.DataFrame({attribute.name: values})
    return [int(code) for code in encode(frame, Domain((attribute,))).codes[:, 0]]


def test_codes_are_a_read_only_contiguous_int32_array():
    table = encode(FRAME, DOMAIN)
    assert table.codes.tolist() == [[1, 0, 0], [2, 81, 4], [0, 22, 1]]
    assert table.codes.dtype == np.int32
    assert table.codes.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        table.codes[0, 0] = 1


def test_column_order_and_index_of_the_frame_do_not_matter():
    shuffled = FRAME[["pay", "job", "age"]].set_axis([7, 7, 3])
    assert (encode(shuffled, DOMAIN).codes == encode(FRAME, DOMAIN).codes).all()


STRINGS = ["b", "a", "b"]


@pytest.mark.parametrize(
    "values",
    [
        STRINGS,
        pd.Series(STRINGS, dtype=object),
        pd.Series(STRINGS, dtype="string"),
        pd.Series(STRINGS, dtype="string[pyarrow]"),
        pd.Series(STRINGS, dtype=pd.ArrowDtype(pa.string())),
        pd.Series(STRINGS, dtype="category"),
        pd.Categorical(STRINGS, categories=["unused", "b", "a"]),
        pd.Series(STRINGS, dtype="string").astype("category"),
    ],
)
def test_every_kind_of_text_column_encodes_alike(values):
    assert one(Attribute("x", categories=("a", "b")), values) == [1, 0, 1]


@pytest.mark.parametrize(
    "values",
    [
        [3, 1],
        np.array([3, 1], dtype=np.uint8),
        np.array([3.0, 1.0]),
        pd.Series([3, 1], dtype="Int64"),
        pd.Series([3, 1], dtype="int64[pyarrow]"),
        pd.Series([3, 1], dtype=object),
        pd.Series([3, 1], dtype="category"),
    ],
)
@pytest.mark.parametrize(
    "attribute", [Attribute("x", categories=(1, 2, 3)), Attribute("x", lower=1, upper=3, integer=True)]
)
def test_every_kind_of_integer_column_encodes_alike(attribute, values):
    assert one(attribute, values) == [2, 0]


@pytest.mark.parametrize("values", [[True, False], pd.Series([True, False], dtype="boolean"), np.array([1, 0]) == 1])
def test_every_kind_of_boolean_column_encodes_alike(values):
    assert one(Attribute("x", categories=(False, True)), values) == [1, 0]


@pytest.mark.parametrize(
    ("attribute", "values", "codes"),
    [
        (Attribute("x", categories=("a", "b"), missing="category"), ["b", None, "a"], [1, 2, 0]),
        (
            Attribute("x", categories=("a", "b"), missing="category"),
            pd.Categorical(["b", None, "a"]),
            [1, 2, 0],
        ),
        (Attribute("x", categories=(1, 2), missing="category"), [2, np.nan, 1], [1, 2, 0]),
        (Attribute("x", categories=(False, True), missing="category"), [True, None, False], [1, 2, 0]),
        (Attribute("x", lower=0, upper=3, integer=True, missing="category"), [2, np.nan, 0], [2, 4, 0]),
        (
            Attribute("x", lower=0, upper=1, bins=2, missing="category"),
            pd.Series([0.7, None, 0.1], dtype="Float64"),
            [1, 2, 0],
        ),
        (Attribute("x", categories=("a",), missing="category"), [None, np.nan, None], [1, 1, 1]),
    ],
)
def test_missing_values_have_the_last_code_where_declared(attribute, values, codes):
    assert one(attribute, values) == codes


@pytest.mark.parametrize(
    ("attribute", "values", "codes"),
    [
        (Attribute("x", lower=0, upper=1, bins=4, outside="clip"), [-9.0, 0.3, np.inf], [0, 1, 3]),
        (Attribute("x", lower=0, upper=9, integer=True, outside="clip"), [-9, 3, 10.5], [0, 3, 9]),
        (
            Attribute("x", lower=0, upper=1, bins=4, missing="category", outside="missing"),
            [2.0, 1.0, np.nan],
            [4, 3, 4],
        ),
        (
            Attribute("x", categories=("a",), missing="category", outside="missing"),
            ["a", "z", None],
            [0, 1, 1],
        ),
    ],
)
def test_values_outside_are_clipped_or_missing_where_declared(attribute, values, codes):
    assert one(attribute, values) == codes


def test_bins_are_closed_below_and_the_last_one_holds_the_upper_bound():
    attribute = Attribute("x", lower=-1, upper=1, bins=4)
    assert one(attribute, [-1, -0.51, -0.5, 0, 0.499, 0.5, 1]) == [0, 0, 1, 2, 2, 3, 3]


def test_integer_bins_agree_with_the_floor_formula():
    attribute = Attribute("x", lower=-7, upper=93, bins=13, integer=True)
    x = np.arange(-7, 94)
    expected = np.minimum((x + 7) * 13 // 100, 12)
    assert one(attribute, x) == expected.tolist()


REFUSED = [
    ([1, 2], "must be a pandas DataFrame, got list"),
    (FRAME.drop(columns="age"), "lacks column 'age'"),
    (FRAME.rename(columns={"age": "Age"}), "(did you mean 'Age'?)"),
    (FRAME.drop(columns=["age", "pay"]), "lacks columns 'age', 'pay'"),
    (FRAME.assign(name="x"), "does not declare column 'name'"),
    (pd.concat([FRAME, FRAME[["age"]]], axis=1), "has column 'age' more than once"),
    (FRAME.assign(job=["cook", "nurse", "SECRET"]), "'job' holds values outside its 3 categories"),
    (FRAME.assign(job=[1, 2, 3]), "'job' holds integer values, but is declared string"),
    (FRAME.assign(job=["cook", 2, "nurse"]), "'job' holds mixed-integer values, but is declared string"),
    (
        FRAME.assign(job=pd.Categorical(["cook", "SECRET", "cook"])),
        "'job' holds values outside its 3 categories",
    ),
    (FRAME.assign(job=["cook", None, "nurse"]), "'job' has missing values"),
    (FRAME.assign(job=pd.Categorical(["cook", None, "nurse"])), "'job' has missing values"),
    (FRAME.assign(age=[18, 17, 20]), "'age' leaves its bounds [18, 99]; widen them, or set outside: clip"),
    (FRAME.assign(age=[18, 20.5, 20]), "'age' is declared integer but holds fractions"),
    (FRAME.assign(age=["18", "20", "20"]), "'age' holds string values, but is declared integer"),
    (FRAME.assign(age=[True, False, True]), "'age' holds boolean values, but is declared integer"),
    (FRAME.assign(age=pd.to_datetime(["2020", "2021", "2022"])), "'age' holds datetime64 values"),
    (FRAME.assign(pay=[0, 10.1, 2]), "'pay' leaves its bounds [0, 10]"),
    (FRAME.assign(pay=[0, -np.inf, 2]), "'pay' leaves its bounds [0, 10]"),
    (FRAME.assign(pay=[0, np.nan, 2]), "'pay' has missing values"),
]


@pytest.mark.parametrize(("frame", "message"), REFUSED)
def test_a_wrong_table_is_refused_in_one_line_without_its_values(frame, message):
    with pytest.raises(DataError) as caught:
        encode(frame, DOMAIN)
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zero_one_integers_are_not_booleans():
    with pytest.raises(DataError, match="holds integer values, but is declared boolean"):
        one(Attribute("x", categories=(False, True)), [0, 1])


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_tables_encode_and_decode(rows):
    table = encode(FRAME.iloc[:rows], DOMAIN)
    back = decode(table, np.random.default_rng(0))
    assert len(table) == len(back) == rows
    assert list(back.columns) == list(DOMAIN.names)
    assert back["age"].dtype == np.int64
    assert back["pay"].dtype == np.float64


def test_decoded_columns_have_the_type_of_their_labels():
    domain = Domain(
        (
            Attribute("text", categories=("a", "b")),
            Attribute("flag", categories=(False, True)),
            Attribute("maybe", categories=(False, True), missing="category"),
            Attribute("count", lower=0, upper=9, integer=True),
            Attribute("gaps", lower=0, upper=9, integer=True, missing="category"),
            Attribute("real", lower=0, upper=1, bins=2, missing="category"),
            Attribute("words", categories=("a",), missing="category"),
        )
    )
    codes = np.array([[0, 1, 2, 5, 10, 2, 1], [1, 0, 1, 9, 3, 0, 0]])
    back = decode(Table(domain, codes), np.random.default_rng(0))
    assert pd.api.types.is_string_dtype(back["text"])
    assert [str(back[c].dtype) for c in ("flag", "maybe", "count", "gaps", "real")] == [
        "bool",
        "boolean",
        "int64",
        "Int64",
        "float64",
    ]
    assert back.isna().to_numpy().tolist() == [[False, False, True, False, True, True, True], [False] * 7]
    assert (encode(back, domain).codes == codes).all()


def test_draws_in_a_bin_are_uniform_and_reproducible():
    domain = Domain((Attribute("x", lower=0, upper=10, bins=2), Attribute("n", lower=0, upper=9, bins=3, integer=True)))
    table = Table(domain, np.ones((30_000, 2), dtype=int))
    back = decode(table, np.random.default_rng(1))
    assert back.equals(decode(table, np.random.default_rng(1)))
    assert abs(back["x"].mean() - 7.5) < 0.05  # sd of the mean: 0.008
    assert set(back["n"]) == {3, 4, 5}
    assert back["n"].value_counts(normalize=True).between(0.31, 0.36).all()


def test_a_table_refuses_codes_that_leave_its_domain():
    domain = Domain.from_shape({"a": 2, "b": 3})
    for codes, message in [
        ([[0, 3]], "column 'b' leave 0..2"),
        ([[-1, 0]], "column 'a' leave 0..1"),
        ([[0]], r"shape \(rows, 2\)"),
        ([0, 1], r"shape \(rows, 2\)"),
        ([[0.0, 1.0]], "must be integers"),
        ([[2**32, 0]], "column 'a' leave"),
    ]:
        with pytest.raises(DataError, match=message):
            Table(domain, np.array(codes))


def test_a_table_owns_its_codes():
    codes = np.zeros((2, 1), dtype=np.int32)
    table = Table(Domain.from_shape({"a": 2}), codes)
    codes[0, 0] = 1
    assert table.codes.tolist() == [[0], [0]]


def test_rows_and_columns_can_be_taken():
    table = encode(FRAME, DOMAIN)
    assert table.take([2, 0]).column("job").tolist() == [0, 1]
    assert table.take(np.array([True, False, True])).column("age").tolist() == [0, 22]
    assert len(table.take([])) == 0
    narrow = table.select(["pay", "job"])
    assert narrow.domain.names == ("job", "pay")
    assert narrow.codes.tolist() == [[1, 0], [2, 4], [0, 1]]
    with pytest.raises(DomainError, match="unknown attribute 'jobs'"):
        table.column("jobs")


def test_encoding_is_fast_enough_for_interactive_use():
    rows = 50_000
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "job": np.array(["cook", "nurse", "?"], dtype=object)[rng.integers(0, 3, rows)],
            "age": rng.integers(18, 100, rows),
            "pay": rng.random(rows) * 10,
        }
    )
    start = time.perf_counter()
    encode(frame, DOMAIN)
    assert time.perf_counter() - start < 1  # about 0.02 s; loose, for a loaded machine
