"""Between tables of values and tables of integer codes, as a public domain says.

Everything that can be wrong with a table is found here, in one line, before any privacy budget is touched.
Messages name columns and declared bounds, never a value that stands in the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from marginal_sdg.domain import Attribute, Domain, nearest
from marginal_sdg.errors import DataError

Codes = npt.NDArray[np.int32]
_Integers = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]

# What a column may hold for each kind of attribute. Integers with gaps come as floats in pandas.
_FITTING = {
    "string": {"string"},
    "boolean": {"boolean"},
    "integer": {"integer", "floating", "mixed-integer-float"},
    "floating": {"integer", "floating", "mixed-integer-float"},
    "date": {"date", "datetime", "datetime64"},
    "datetime": {"date", "datetime", "datetime64"},
}
_UNITS = {"date": "D", "datetime": "s"}


@dataclass(frozen=True, eq=False)
class Table:
    """A table in integer codes.

    Parameters
    ----------
    domain: what the codes mean.
    codes: (n, d) int32, column j in 0..domain.shape[j]-1; kept C-contiguous and read-only.

    Raises
    ------
    DataError: the codes have another shape or leave the domain.
    """

    domain: Domain
    codes: Codes

    def __post_init__(self) -> None:
        given = np.asarray(self.codes)
        if given.ndim != 2 or given.shape[1] != len(self.domain):
            raise DataError(f"codes must have shape (rows, {len(self.domain)}), got {given.shape}")
        if given.dtype.kind not in "iu":
            raise DataError(f"codes must be integers, got {given.dtype}")
        if len(given):
            wrong = (given.min(axis=0) < 0) | (given.max(axis=0) >= np.array(self.domain.shape, dtype=np.int64))
            if wrong.any():
                name = self.domain.names[int(np.argmax(wrong))]
                raise DataError(f"codes of column {name!r} leave 0..{self.domain[name].size - 1}")
        codes = np.array(given, dtype=np.int32, order="C")
        codes.flags.writeable = False
        object.__setattr__(self, "codes", codes)

    def __len__(self) -> int:
        return len(self.codes)

    def column(self, name: str) -> Codes:
        """Codes of one attribute: (n,) int32, a read-only view."""
        return self.codes[:, self.domain.index(name)]

    def take(self, rows: npt.ArrayLike) -> Table:
        """Some rows, by position (in that order) or by a mask of length n."""
        return Table(self.domain, self.codes[np.asarray(rows)] if np.size(rows) else self.codes[:0])

    def select(self, names: Iterable[str]) -> Table:
        """Some columns, in domain order."""
        clique = self.domain.clique(names)
        return Table(self.domain.project(clique), self.codes[:, [self.domain.index(name) for name in clique]])


def encode(frame: pd.DataFrame, domain: Domain) -> Table:
    """Code a table; its columns may come in any order, its index is ignored.

    A number x has code floor((x - lower) / (upper - lower) * bins), or that of the last edge at or below it, and upper
    has the last code.

    Examples
    --------
    >>> domain = Domain.from_dict({"age": {"lower": 0, "upper": 100, "bins": 10}, "sex": {"categories": ["F", "M"]}})
    >>> encode(pd.DataFrame({"sex": ["M", "F"], "age": [37, 100]}), domain).codes
    array([[3, 1],
           [9, 0]], dtype=int32)

    Raises
    ------
    DataError: a column is missing, extra, double or of a wrong type, or a value leaves the domain.
    """
    _check_columns(frame, domain)
    codes = np.empty((len(frame), len(domain)), dtype=np.int32)
    for position, attribute in enumerate(domain.attributes):
        codes[:, position] = _encode_column(frame[attribute.name], attribute)
    return Table(domain, codes)


def decode(table: Table, rng: np.random.Generator) -> pd.DataFrame:
    """Values of a coded table; a bin gives a uniform value (integer: a uniform integer) inside it.

    Labels keep their type. A missing code gives a missing value; integers and booleans that may be missing
    come as pandas' ``Int64`` and ``boolean``.
    """
    columns = {
        attribute.name: _decode_column(table.codes[:, position], attribute, rng)
        for position, attribute in enumerate(table.domain.attributes)
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(table)))


def merged(table: Table, domain: Domain) -> Table:
    """The same records where ``domain`` has wider bins: each a run of the bins of the table's domain."""
    codes = table.codes.copy()
    for place, (fine, wide) in enumerate(zip(table.domain.attributes, domain.attributes, strict=True)):
        if fine != wide:
            lookup = np.searchsorted(bin_edges(wide)[1:-1], bin_edges(fine)[:-1], side="right")
            codes[:, place] = np.append(lookup, wide.values)[codes[:, place]]  # the last one: missing
    return Table(domain, codes)


def _check_columns(frame: pd.DataFrame, domain: Domain) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"a table must be a pandas DataFrame, got {type(frame).__name__}")
    columns = list(frame.columns)
    missing = [name for name in domain if name not in columns]
    if missing:
        hint = nearest(missing[0], columns)
        raise DataError(f"the table lacks {_listed(missing)}, which the domain declares{hint}")
    extra = [column for column in columns if column not in domain]
    if extra:
        raise DataError(f"the domain does not declare {_listed(extra)}; drop or declare what is extra")
    if len(columns) > len(domain):
        double = [name for name in domain if columns.count(name) > 1]
        raise DataError(f"the table has {_listed(double)} more than once")


def _listed(names: list[Any]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"column{'s' if len(names) > 1 else ''} {shown}{more}"


def _encode_column(column: pd.Series[Any], attribute: Attribute) -> _Integers:
    if isinstance(column.dtype, pd.CategoricalDtype):
        labels = column.cat.categories.to_series()
        used = np.unique(column.cat.codes.to_numpy())
        used = used[used >= 0]  # a level that no row has may lie outside the domain
        codes = np.full(len(labels) + 1, attribute.values, dtype=np.int64)  # position -1: missing
        codes[used] = _encode_column(labels.iloc[used], attribute)
        if attribute.missing == "error" and column.isna().any():
            raise _missing(attribute)
        return codes[column.cat.codes.to_numpy()]
    absent = column.isna().to_numpy(dtype=bool)
    if absent.any() and attribute.missing == "error":
        raise _missing(attribute)
    codes = np.full(len(column), attribute.values, dtype=np.int64)
    if absent.all():
        return codes
    present = column[~absent] if absent.any() else column
    holds = pd.api.types.infer_dtype(present, skipna=True)
    if holds not in _FITTING[attribute.kind]:
        raise DataError(
            f"column {attribute.name!r} holds {holds} values, but is declared {attribute.kind}; "
            f"convert it or change its declaration"
        )
    to_codes = _label_codes if attribute.categories is not None else _bin_codes
    codes[~absent] = to_codes(present, attribute)
    return codes


def _label_codes(column: pd.Series[Any], attribute: Attribute) -> _Integers:
    """Codes of labels without gaps."""
    # numbers by value: integers with gaps come as floats
    dtype: Any = np.float64 if attribute.kind in ("integer", "floating") else object
    labels = pd.Index(list(attribute.categories or ()), dtype=dtype)
    values = column.to_numpy(dtype=dtype)
    codes: _Integers = labels.get_indexer(pd.Index(values, dtype=dtype)).astype(np.int64)
    unknown = codes < 0
    if unknown.any():
        if attribute.other is not None:
            codes[unknown] = (attribute.categories or ()).index(attribute.other)
            return codes
        if attribute.outside == "error":
            raise DataError(
                f"column {attribute.name!r} holds values outside its {attribute.values} categories; "
                f"declare them, name one of them as other, or set outside: missing"
            )
        codes[unknown] = attribute.values
    return codes


def _bin_codes(column: pd.Series[Any], attribute: Attribute) -> _Integers:
    """Codes of numbers, days or times without gaps."""
    lower, upper = attribute.bounds
    x = _moments(column, attribute) if attribute.kind in _UNITS else column.to_numpy(dtype=np.float64)
    outside = (x < lower) | (x > upper)
    if outside.any() and attribute.outside == "error":
        raise DataError(
            f"column {attribute.name!r} leaves its bounds [{attribute.lower}, {attribute.upper}]; "
            f"widen them, or set outside: clip"
        )
    x = np.clip(x, lower, upper)
    if attribute.whole:
        if (x != np.floor(x)).any():
            raise DataError(f"column {attribute.name!r} is declared integer but holds fractions; round it, or set bins")
        codes = np.searchsorted(bin_edges(attribute)[:-1], x, side="right") - 1
    else:
        codes = _floor_bin(x, attribute)
    if attribute.outside == "missing":
        codes[outside] = attribute.values
    return codes.astype(np.int64)


def _moments(column: pd.Series[Any], attribute: Attribute) -> _Reals:
    """Days or seconds since 1970, rounded down."""
    times = column if pd.api.types.is_datetime64_any_dtype(column.dtype) else pd.to_datetime(column)
    if isinstance(times.dtype, pd.DatetimeTZDtype):
        raise DataError(f"column {attribute.name!r} has a time zone; convert it to local times (dt.tz_localize(None))")
    return times.to_numpy().astype(f"datetime64[{_UNITS[attribute.kind]}]").astype(np.float64)


def _floor_bin(x: _Reals, attribute: Attribute) -> _Integers:
    if attribute.cuts:
        return np.searchsorted(attribute.cuts[1:-1], x, side="right").astype(np.int64)
    lower, upper = attribute.bounds
    share = (x - lower) * attribute.values / (upper - lower)
    return np.minimum(share.astype(np.int64), attribute.values - 1)


def bin_edges(attribute: Attribute) -> npt.NDArray[Any]:
    """(values + 1,): where the bins of a number begin, and where the last one ends.

    Of integers, days and seconds: the first one of every bin, then one past the last, int64 and exact.
    """
    if attribute.cuts:
        cuts = np.array(attribute.cuts)
        return np.append(cuts[:-1], cuts[-1] + 1).astype(np.int64) if attribute.whole else cuts
    if not attribute.whole:
        lower, upper = attribute.bounds
        return lower + np.arange(attribute.values + 1) * ((upper - lower) / attribute.values)
    first, last = (int(bound) for bound in attribute.bounds)
    if attribute.bins is None:
        return np.arange(first, last + 2, dtype=np.int64)
    bins = attribute.bins
    return np.array([first - (-k * (last - first) // bins) for k in range(bins)] + [last + 1], dtype=np.int64)


def _decode_column(codes: Codes, attribute: Attribute, rng: np.random.Generator) -> pd.Series[Any]:
    absent = codes == attribute.values if attribute.missing == "category" else None
    known = np.minimum(codes, attribute.values - 1)
    values: pd.Series[Any]
    if attribute.categories is not None:
        values = pd.Series(list(attribute.categories)).take(known).reset_index(drop=True)
    elif attribute.whole:
        first = bin_edges(attribute)
        drawn = rng.integers(first[known], first[known + 1])
        unit = _UNITS.get(attribute.kind)
        # pandas has no days: a day is its midnight
        values = pd.Series(drawn.astype(f"datetime64[{unit}]").astype("datetime64[s]") if unit else drawn)
    else:
        values = pd.Series(_draw_in_bins(known, attribute, rng))
    if absent is None:
        return values
    nullable: Any = {"integer": "Int64", "boolean": "boolean"}.get(attribute.kind)
    gapped: pd.Series[Any] = (values.astype(nullable) if nullable else values).mask(absent)
    return gapped


def _draw_in_bins(codes: Codes, attribute: Attribute, rng: np.random.Generator) -> _Reals:
    lower, upper = attribute.bounds
    if attribute.cuts:
        edges = np.array(attribute.cuts)
        x = edges[codes] + rng.random(len(codes)) * np.diff(edges)[codes]
        return np.where(_floor_bin(x, attribute) == codes, x, edges[codes])
    width = (upper - lower) / attribute.values
    x = np.clip(lower + (codes + rng.random(len(codes))) * width, lower, upper)
    # rounding may carry a draw over its bin's edge: the middle of the bin is safely inside
    return np.where(_floor_bin(x, attribute) == codes, x, lower + (codes + 0.5) * width)


def _missing(attribute: Attribute) -> DataError:
    return DataError(f"column {attribute.name!r} has missing values; fill or drop them, or set missing: category")
