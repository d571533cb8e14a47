"""A first version of a domain, read off a private table, for someone to review who knows what is public."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marginal_sdg.attribute import Attribute
from marginal_sdg.domain import Domain
from marginal_sdg.errors import DomainError

if TYPE_CHECKING:
    import pandas as pd

WARNING = "DRAFT, read off a private table. NOT public knowledge: used as it stands, it leaks records."
"""How the header of a saved draft begins."""


@dataclass(frozen=True)
class DraftDomain:
    """A first domain that was read off a table, and ``notes`` on what needs public knowledge before use.

    ``left_out``: columns that cannot be declared: identifiers, free text, and those without any value.
    """

    domain: Domain
    notes: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write a YAML file to review; its header says what is not public yet."""
        path = Path(path)
        if path.suffix == ".json":
            raise DomainError(f"{path}: save a draft as .yaml, so that its warnings stay with it")
        header = (
            f"{WARNING}\n"
            "Replace every value named below by one that is known without the data (a code book, a unit's\n"
            "range), then delete this header.\n"
        )
        self.domain.save(path, header + "".join(f"- {note}\n" for note in self.notes))


def is_draft(path: Path) -> bool:
    """Whether a domain file still has the header of a draft."""
    return path.read_text(encoding="utf-8").startswith(f"# {WARNING}")


def draft_domain(frame: pd.DataFrame, bins: int = 32) -> DraftDomain:
    """Draft a domain for a table, to be reviewed by someone who knows the data.

    Parameters
    ----------
    frame: the private table; what is read off it is listed in the notes.
    bins: equal-width bins of a number or date; an integer or day of a smaller range gets a code per value.

    Raises
    ------
    DomainError: the table is empty, or a column holds other things than text, numbers, booleans, dates or times.
    """
    if not len(frame) or not len(frame.columns):
        raise DomainError("a domain cannot be drafted from an empty table; write it by hand")
    attributes, notes, left_out = [], [], []
    for i, name in enumerate(map(str, frame.columns)):
        column = frame.iloc[:, i]
        reason = _undeclarable(name, column.dropna())
        if reason:
            left_out.append(name)
            notes.append(f"{name}: {reason}; it is left out, drop the column from the table")
            continue
        attribute, remarks = _drafted(name, column, bins)
        attributes.append(attribute)
        notes += [f"{name}: {remark}" for remark in remarks]
    if not attributes:
        raise DomainError("every column is empty or looks like an identifier or free text; nothing can be declared")
    return DraftDomain(Domain(tuple(attributes)), tuple(notes), tuple(left_out))


def _undeclarable(name: str, values: pd.Series[Any]) -> str:
    """Why a column should not be synthesised at all; empty where it may be."""
    holds = _holds(values)
    if not len(values):
        return "has no values"
    different = int(values.nunique())
    if holds == "string" and (different > max(100, len(values) // 10) or different == len(values) >= 20):
        return "looks like an identifier or free text"
    if holds == "integer":
        span = float(values.max()) - float(values.min()) + 1
        if different == len(values) >= 20 and (span <= 2 * different or name.lower().endswith("id")):
            return "looks like an identifier"
        if max(abs(float(values.max())), abs(float(values.min()))) > 2.0**53:
            return "holds integers beyond 2^53, as identifiers do"
    return ""


def _holds(values: pd.Series[Any]) -> str:
    import pandas as pd

    kind = pd.api.types.infer_dtype(values, skipna=True)
    if isinstance(values.dtype, pd.CategoricalDtype):
        kind = pd.api.types.infer_dtype(values.cat.categories)
    return {"datetime64": "datetime", "date": "datetime", "mixed-integer-float": "floating"}.get(kind, kind)


def _drafted(name: str, column: pd.Series[Any], bins: int) -> tuple[Attribute, list[str]]:
    """A declaration, and what it gives away."""
    import pandas as pd

    values = column.dropna()
    gaps = len(values) < len(column)
    terms: dict[str, Any] = {"missing": "category"} if gaps else {}
    notes = ["has missing values, and so a missing code"] if gaps else []
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = pd.Series(values.cat.categories)
    holds = _holds(values)
    if holds == "boolean":
        return Attribute(name, categories=(False, True), **terms), notes
    if holds == "string":
        labels = sorted(str(label) for label in values.unique())
        notes.append(f"its {len(labels)} categories are those that occur; list all that may occur")
        return Attribute(name, categories=tuple(labels), **terms), notes
    if holds not in ("integer", "floating", "datetime"):
        raise DomainError(f"column {name!r} holds {holds} values; convert it to text, numbers, dates or booleans")
    notes.append("its bounds are its smallest and largest value; give public ones")
    if holds == "datetime":
        return _dates(name, values, bins, terms), notes
    numbers = values.astype(float)
    finite = numbers[np.isfinite(numbers)]
    if len(finite) < len(numbers):
        notes.append("has infinite values, which are clipped to its bounds")
        terms["outside"] = "clip"
    lower, upper = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if bool((finite == finite.round()).all()):  # integers with gaps come as floats
        cut = bins if upper - lower > bins else None
        return Attribute(name, lower=int(lower), upper=int(upper), bins=cut, integer=True, **terms), notes
    if upper == lower:
        upper = lower + 1
        notes.append("has one value only")
    return Attribute(name, lower=lower, upper=upper, bins=bins, **terms), notes


def _dates(name: str, values: pd.Series[Any], bins: int, terms: dict[str, Any]) -> Attribute:
    """Days where all times are midnight, else seconds."""
    import pandas as pd

    times = pd.to_datetime(values)
    if times.dt.tz is not None:
        raise DomainError(f"column {name!r} has a time zone; convert it to local times (dt.tz_localize(None))")
    low, high = times.min().to_pydatetime().replace(microsecond=0), times.max().to_pydatetime().replace(microsecond=0)
    if bool((times == times.dt.normalize()).all()):
        return Attribute(
            name,
            lower=low.date(),
            upper=high.date(),
            bins=bins if (high - low).days > bins else None,
            **terms,
        )
    return Attribute(name, lower=low, upper=high, bins=bins if (high - low).total_seconds() > bins else None, **terms)
