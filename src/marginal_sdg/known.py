"""Marginals that are public already: they enter the model as measurements that cost nothing.

A known marginal is a frame as :meth:`AIM.marginal` gives it: a column for every attribute, ``count``, and perhaps
``standard_error`` in the unit of the counts. It says how records are shared out, not how many there are: counts of
another population, or shares that sum to 1, are scaled to the noisy number of records. Nothing here looks at private
rows, and nothing can check that the table was not made from them: its author asserts it, and the ledger says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from marginal_sdg.attribute import Attribute
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import encode
from marginal_sdg.errors import ConfigError, DataError, DomainError
from marginal_sdg.estimates import cell_label, code_labels
from marginal_sdg.marginals import Layout, project
from marginal_sdg.release import Measurement

Floats = npt.NDArray[np.float64]
Known = pd.DataFrame | pd.Series

COUNT, ERROR = "count", "standard_error"

_UNIT = 2**40  # shares of all records are integers in this unit
_AGREE = 1e-6  # of all records: how far exact marginals may differ in a cell that they share


def known_measurements(domain: Domain, tables: Sequence[Known]) -> tuple[Measurement, ...]:
    """Every table as a measurement that is public.

    A Series is a frame whose index has the attributes and whose values are the counts. A label is a category, a value,
    or a bin as ``marginal`` writes it; several rows of one cell add up (values in the same bin). Every cell must
    occur. Without standard errors, or with 0, a table is exact; different ones in a table become their quadratic mean.

    Raises
    ------
    ConfigError: a table cannot be read, lacks cells, or contradicts another exact one.
    """
    if not isinstance(tables, list | tuple):
        raise ConfigError("known: needs a list of frames, one for each marginal that is known")
    found = tuple(_measurement(domain, table, f"known[{place}]") for place, table in enumerate(tables))
    exact = [(place, m) for place, m in enumerate(found) if not m.sigma]
    for position, (place, one) in enumerate(exact):
        for other_place, other in exact[:position]:
            _check_agreement(domain, other, one, f"known[{other_place}] and known[{place}]")
    return found


def exactly_known(measurements: Iterable[Measurement]) -> set[str]:
    """The attributes whose own marginal follows from exact ones."""
    return {name for m in measurements if not m.sigma for name in m.clique}


def statement(measurement: Measurement) -> str:
    """What the ledger says about a marginal that nobody paid for."""
    error = measurement.scaled(1.0)[1]
    how = "exact" if not error else f"standard error {error:.3g} of all records"
    names = ", ".join(measurement.clique)
    return (
        f"public, no charge: the marginal of {names} ({how}) was given as known; the guarantee holds if it was not "
        "made from the private rows, as its author asserts"
    )


def _measurement(domain: Domain, table: Known, where: str) -> Measurement:
    frame = _as_frame(table, where)
    names = [str(name) for name in frame.columns if name not in (COUNT, ERROR)]
    if COUNT not in frame or not names or frame.columns.duplicated().any():
        raise ConfigError(f"{where}: needs a column for every attribute, each once, and the column {COUNT!r}")
    try:
        clique = domain.clique(names)
        codes = [_codes(frame[name], domain[name]) for name in clique]
    except (DomainError, DataError) as error:
        raise ConfigError(f"{where}: {error}") from None
    where = f"{where} ({', '.join(clique)})"
    counts = _numbers(frame, COUNT, where)
    errors = _numbers(frame, ERROR, where) if ERROR in frame else np.zeros(len(frame))
    if errors.min(initial=0) < 0:
        raise ConfigError(f"{where}: {ERROR} must not be negative, got {errors.min():g}")
    (size,) = Layout(domain, (clique,)).sizes  # refused where they are too many to number
    cells = np.ravel_multi_index(codes, [domain[name].size for name in clique])
    occurring = np.append(np.unique(cells), -1)
    if len(occurring) <= size:
        absent = int(np.flatnonzero(occurring != np.arange(len(occurring)))[0])
        lacking, example = size - len(occurring) + 1, cell_label(domain, clique, absent)
        raise ConfigError(
            f"{where}: lacks {lacking} of {size} cells, such as {example}; give each one, with count 0 where nobody is"
        )
    summed = np.bincount(cells, weights=counts, minlength=size)
    total = float(summed.sum())
    sigma = float(np.sqrt(np.bincount(cells, weights=errors**2, minlength=size).mean()))
    if not total > 0 or (not sigma and summed.min() < 0):
        raise ConfigError(f"{where}: counts must sum to more than 0, and an exact one must not be negative")
    shares = np.rint(summed / total * _UNIT).astype(np.int64)
    return Measurement(clique, shares, sigma / total * _UNIT, records=_UNIT, confidence=_UNIT, public=True)


def _as_frame(table: Known, where: str) -> pd.DataFrame:
    if isinstance(table, pd.Series):
        if any(name is None for name in table.index.names):
            raise ConfigError(f"{where}: name the levels of the Series' index after its attributes (rename_axis)")
        return table.rename(COUNT).reset_index()
    if not isinstance(table, pd.DataFrame) or not len(table):
        raise ConfigError(f"{where}: must be a DataFrame or a Series with at least one row, got {type(table).__name__}")
    return table


def _numbers(frame: pd.DataFrame, column: str, where: str) -> Floats:
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        wrong = frame[column].iloc[int(np.argmin(np.isfinite(numbers)))]
        raise ConfigError(f"{where}: {column} must be a finite number in every row, got {wrong!r}")
    return numbers


def _codes(column: pd.Series[Any], attribute: Attribute) -> npt.NDArray[np.int64]:
    """Codes of labels or values; text that is no label, as from a file, is read as what the attribute holds."""
    column = column.astype(object)
    if attribute.kind != "string" and column.map(lambda value: isinstance(value, str)).any():
        labels = {str(label).lower(): code for code, label in enumerate(code_labels(attribute)) if label is not None}
        codes = column.map(lambda value: attribute.values if pd.isna(value) else labels.get(str(value).lower(), -1))
        if codes.between(0, attribute.size - 1).all():
            return codes.to_numpy(dtype=np.int64)
        column = _parsed(column, attribute, next(iter(labels)))
    return encode(column.to_frame(), Domain((attribute,))).codes[:, 0].astype(np.int64)


def _parsed(column: pd.Series[Any], attribute: Attribute, example: str) -> pd.Series[Any]:
    try:
        if attribute.kind in ("date", "datetime"):
            return pd.to_datetime(column, format="ISO8601")
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        raise DataError(
            f"column {attribute.name!r} has text that is neither a label, such as {example!r}, nor a value"
        ) from None


def _check_agreement(domain: Domain, one: Measurement, other: Measurement, where: str) -> None:
    shared = domain.clique(set(one.clique) & set(other.clique))
    if not shared:
        return
    first, second = (project(m.scaled(1.0)[0], domain, m.clique, shared) for m in (one, other))
    cell = int(np.argmax(np.abs(first - second)))
    if abs(first[cell] - second[cell]) > _AGREE:
        raise ConfigError(
            f"{where}: disagree on {cell_label(domain, shared, cell)}, {first[cell]:.6g} and {second[cell]:.6g} of all "
            f"records; correct one, or give its {ERROR}"
        )
