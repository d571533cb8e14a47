"""One attribute of a table: its public values, and how they are coded."""

from __future__ import annotations

import datetime as dt
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from marginal_sdg.errors import DomainError

Label = str | int | float | bool
"""A category as it stands in the table."""

Bound = float | dt.date
"""A bound of a number, of a day (``date``) or of a moment to the second (``datetime``, no time zone)."""

_MAX_CODES = 1_000_000  # beyond it, not even a 1-way marginal is worth its noise
_MAX_BOUND = 2.0**53  # beyond it, neighbouring integers are one float
EPOCH = dt.datetime(1970, 1, 1)


def nearest(name: object, known: Iterable[object]) -> str:
    """``" (did you mean 'x'?)"``, or nothing when no known name is close to ``name``."""
    match = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


@dataclass(frozen=True)
class Attribute:
    """One column: either ``categories``, or a number or a date in [``lower``, ``upper``] cut into equal ``bins``.

    Parameters
    ----------
    name: the column's name.
    categories: the labels, in code order; all strings, all integers, all floats or all booleans.
    lower, upper: public bounds, both inclusive: two numbers; or two dates, or two times to the second without a time
        zone, each as Python's ``date`` or ``datetime`` or in ISO 8601.
    bins: number of equal-width bins [a, b), the last one [a, b]; without it an integer or day has a code per value.
    integer: the number is an integer; it decodes to integers.
    missing: "error", or "category": one more code, the last one, for missing values.
    outside: what a value outside the domain does: "error", "clip" (numbers: moves to the bound), or
        "missing" (becomes the missing code).
    other: the category that stands for every value that is not listed; it must be one of ``categories``.
    edges: instead of lower, upper and bins: where bins [a, b) of any width begin, ascending, and where the last one,
        [a, b], ends.

    Raises
    ------
    DomainError: the declaration is incomplete or contradicts itself.
    """

    name: str
    categories: tuple[Label, ...] | None = None
    lower: Bound | None = None
    upper: Bound | None = None
    bins: int | None = None
    integer: bool = False
    missing: str = "error"
    outside: str = "error"
    other: Label | None = None
    edges: tuple[Bound, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise DomainError(f"an attribute's name must be a non-empty string, got {self.name!r}")
        if self.categories is not None:
            self._check_categories()
        else:
            self._check_number()
        self._one_of("missing", ("error", "category"))
        self._one_of("outside", ("error", "clip", "missing"))
        if self.outside == "clip" and self.categories is not None:
            raise self._error("outside: clip is for numbers only; use error or missing")
        if self.outside == "missing" and self.missing != "category":
            raise self._error("outside: missing needs missing: category")
        if self.other is not None and self.outside != "error":
            raise self._error(f"other says what an unlisted value becomes; drop outside: {self.outside}")
        if self.size > _MAX_CODES:
            raise self._error(f"{self.size} codes are too many; set bins")

    @property
    def size(self) -> int:
        """Number of codes, the missing code included."""
        return self.values + (self.missing == "category")

    @property
    def values(self) -> int:
        """Number of codes that stand for a value, so that a missing code, if there is one, is ``values``."""
        if self.categories is not None:
            return len(self.categories)
        lower, upper = self.bounds
        return self.bins if self.bins is not None else int(upper) - int(lower) + 1

    @property
    def bounds(self) -> tuple[float, float]:
        """``(lower, upper)`` as numbers, dates in days and times in seconds since 1970; DomainError for categories."""
        if self.lower is None or self.upper is None:
            raise self._error("has categories, not bounds")
        return _as_number(self.lower), _as_number(self.upper)

    @property
    def cuts(self) -> tuple[float, ...]:
        """The ``edges`` as numbers, as in ``bounds``; empty where bins have equal widths."""
        return tuple(map(_as_number, self.edges or ()))

    @property
    def kind(self) -> str:
        """What the column's values are: string, boolean, integer, floating, date or datetime."""
        if self.categories is not None:
            return _label_kind(self.categories[0])
        if isinstance(self.lower, dt.date):
            return "datetime" if isinstance(self.lower, dt.datetime) else "date"
        return "integer" if self.integer else "floating"

    @property
    def whole(self) -> bool:
        """Whether values between the bounds are whole: integers, days or seconds."""
        return self.integer or self.kind in ("date", "datetime")

    def to_dict(self) -> dict[str, Any]:
        """The declaration as plain values (dates in ISO 8601), defaults and name left out."""
        given = {f.name: _iso(getattr(self, f.name)) for f in fields(self)[1:]}
        if self.categories is not None:
            given["categories"] = list(self.categories)
        if self.edges is not None:
            given |= {"lower": None, "upper": None, "bins": None, "edges": [_iso(edge) for edge in self.edges]}
        return {f.name: given[f.name] for f in fields(self)[1:] if given[f.name] != f.default}

    @classmethod
    def from_dict(cls, name: str, declaration: Mapping[str, Any]) -> Attribute:
        """Read one declaration; an unknown key is refused by name."""
        known = [f.name for f in fields(cls)[1:]]
        if not isinstance(declaration, Mapping):
            raise DomainError(
                f"attribute {name!r}: must be a mapping such as {{categories: [a, b]}}, "
                f"got {type(declaration).__name__}"
            )
        for key in declaration:
            if key not in known:
                raise DomainError(
                    f"attribute {name!r}: unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}"
                )
        options = dict(declaration)
        for key in ("categories", "edges"):
            if options.get(key) is not None:
                if isinstance(options[key], str) or not isinstance(options[key], Iterable):
                    raise DomainError(f"attribute {name!r}: {key} must be a list")
                options[key] = tuple(options[key])
        return cls(name, **options)

    def _error(self, what: str) -> DomainError:
        return DomainError(f"attribute {self.name!r}: {what}")

    def _one_of(self, field: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, field)
        if value not in allowed:
            raise self._error(f"{field} must be one of {', '.join(allowed)}, got {value!r}{nearest(value, allowed)}")

    def _check_categories(self) -> None:
        assert self.categories is not None
        object.__setattr__(self, "categories", tuple(plain(label) for label in self.categories))
        if any(bound is not None for bound in (self.lower, self.upper, self.bins, self.edges)) or self.integer:
            raise self._error("give either categories, or lower and upper, not both")
        if not self.categories:
            raise self._error("categories are empty")
        kinds = {_label_kind(label) for label in self.categories}
        if "other" in kinds:
            raise self._error("a category must be a string, a finite number or a boolean (missing: category)")
        if len(kinds) > 1:
            hint = "; quote yes, no, on, off in YAML" if "boolean" in kinds else ""
            raise self._error(f"categories mix {' and '.join(sorted(kinds))} labels{hint}")
        if len(set(self.categories)) < len(self.categories):
            twice = next(c for i, c in enumerate(self.categories) if c in self.categories[:i])
            raise self._error(f"category {twice!r} is listed twice")

        if self.other is not None and self.other not in self.categories:
            raise self._error(f"other ({self.other!r}) must be one of the categories; add it to them")

    def _check_number(self) -> None:
        if self.edges is not None:
            self._take_edges()
        if self.lower is None or self.upper is None:
            raise self._error("needs categories, or both lower and upper")
        if self.other is not None:
            raise self._error("other is for categories only; use outside: clip")
        for field in ("bins", "integer"):
            object.__setattr__(self, field, plain(getattr(self, field)))
        self._check_bounds()
        if self.bins is not None and (not is_integer(self.bins) or self.bins < 1):
            raise self._error(f"bins must be an integer of at least 1, got {self.bins!r}")
        if not isinstance(self.integer, bool):
            raise self._error(f"integer must be true or false, got {self.integer!r}")
        if self.integer and isinstance(self.lower, dt.date):
            raise self._error("integer is for numbers; dates and times are whole anyway, drop it")
        if self.whole:
            self._check_whole()
        elif self.bins is None:
            raise self._error("a number needs bins, or integer: true for one code per integer")

    def _take_edges(self) -> None:
        """Bounds and number of bins follow from the edges; a copy of an attribute has them already."""
        edges = tuple(self._checked_bound("edges", edge) for edge in self.edges or ())
        if len({type(edge) if isinstance(edge, dt.date) else float for edge in edges}) > 1:
            raise self._error("edges must all be numbers, dates or times")
        if len(edges) < 2 or any(b <= a for a, b in pairwise(map(_as_number, edges))):
            raise self._error(f"edges must be two or more in ascending order, got {list(map(str, edges))}")
        if self.integer is True and any(_as_number(edge) % 1 for edge in edges):
            raise self._error(f"integer edges must be integers, got {list(map(str, edges))}")
        ends = {"lower": edges[0], "upper": edges[-1], "bins": len(edges) - 1}
        for field, value in ends.items():
            if getattr(self, field) not in (None, value):
                raise self._error(f"give edges, or lower, upper and bins, not both; drop {field}")
            object.__setattr__(self, field, value)
        object.__setattr__(self, "edges", edges)

    def _check_bounds(self) -> None:
        for field in ("lower", "upper"):
            object.__setattr__(self, field, self._checked_bound(field, getattr(self, field)))
        kinds = {type(bound) if isinstance(bound, dt.date) else float for bound in (self.lower, self.upper)}
        if len(kinds) > 1:
            raise self._error(f"lower ({self.lower}) and upper ({self.upper}) must both be numbers, dates or times")
        lower, upper = self.bounds
        if upper < lower or (upper == lower and not self.whole):
            raise self._error(f"upper ({self.upper}) must be above lower ({self.lower})")

    def _checked_bound(self, field: str, given: Any) -> Bound:
        value = plain(given)
        if isinstance(value, str):
            try:
                value = dt.date.fromisoformat(value) if len(value) == 10 else dt.datetime.fromisoformat(value)
            except ValueError:
                raise self._error(
                    f"{field} must be a number, a date such as 2020-12-31 or a time such as 2020-12-31T23:59:59, "
                    f"got {value!r}"
                ) from None
        if isinstance(value, dt.datetime):
            if value.tzinfo is not None or value.microsecond:
                raise self._error(f"{field} must be a time in whole seconds without a time zone, got {value}")
            return dt.datetime(*value.timetuple()[:6])  # not pandas' own kind of datetime
        if isinstance(value, dt.date):
            return value
        if not is_number(value) or not abs(value) <= _MAX_BOUND:
            raise self._error(f"{field} must be a finite number of at most 2^53, or a date, got {value!r}")
        return float(value) if isinstance(value, float) else int(value)

    def _check_whole(self) -> None:
        lower, upper = self.bounds
        if lower != int(lower) or upper != int(upper):
            raise self._error(f"integer bounds must be integers, got [{self.lower}, {self.upper}]")
        # an equal-width bin of width 1 or more holds an integer, so every code can be decoded
        if self.bins is not None and self.bins > max(1, upper - lower):
            raise self._error(f"{self.bins} bins are more than upper - lower = {upper - lower:.10g}; use fewer or none")


def is_integer(value: object) -> bool:
    """Whether a declared value is a whole number (a boolean is not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a declared value is a number (a boolean is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """A NumPy scalar as the Python value that YAML and JSON can hold."""
    return value.item() if hasattr(value, "item") else value


def _label_kind(label: object) -> str:
    if isinstance(label, str):
        return "string"
    if isinstance(label, bool):
        return "boolean"
    if isinstance(label, int):
        return "integer"
    return "floating" if isinstance(label, float) and math.isfinite(label) else "other"


def _as_number(bound: Bound) -> float:
    """A number as it is, a day as days since 1970, a moment as seconds since 1970."""
    if isinstance(bound, dt.datetime):
        return (bound - EPOCH) // dt.timedelta(seconds=1)
    return bound.toordinal() - EPOCH.toordinal() if isinstance(bound, dt.date) else bound


def _iso(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date) else value
