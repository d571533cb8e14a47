"""Distributions of single columns, as bars that people can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Attribute
from marginal_sdg.encoding import Table
from marginal_sdg.estimates import code_labels
from marginal_sdg.marginals import contingency
from marginal_sdg.release import Measurement

MOST_BARS = 40  # of a column whose values have an order; neighbours are merged
MOST_LABELS = 12  # of a column of labels; the rarest are merged

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """One bar: shares of the rows; ``noise``: standard deviation that measuring left, None where it is not known."""

    label: str
    synthetic: float
    noise: float | None
    real: float | None


@dataclass(frozen=True)
class Column:
    """One column's distribution; ``error``: L1 distance to the real one.

    ``ends``: the smallest and the largest value of a column whose values have an order. ``missing``: the last bar of
    such a column stands for missing values.
    """

    name: str
    ends: tuple[str, str] | None
    missing: bool
    bars: tuple[Share, ...]
    note: str
    error: float | None

    @classmethod
    def of(
        cls,
        attribute: Attribute,
        tables: Sequence[Table],
        measurements: Sequence[Measurement],
        total: float,
        error: float | None,
    ) -> Column:
        """``tables``: the synthetic one, and the real one where it may be looked at; ``total``: of the model."""
        name, size, labels = attribute.name, attribute.size, _labels(attribute)
        shares = [contingency(table, (name,)) / len(table) for table in tables]
        ends = _ends(attribute)
        missing = attribute.missing == "category" and ends is not None
        groups, note = _common_groups(shares, size) if ends is None else _ordered_groups(size - missing)
        if missing:
            groups.append(np.array([size - 1]))
        deviation = _deviation(name, measurements, total)
        bars = [
            Share(
                _group_label(group, labels, ordered=ends is not None),
                float(shares[0][group].sum()),
                None if deviation is None else deviation * len(group) ** 0.5,
                float(shares[1][group].sum()) if len(shares) > 1 else None,
            )
            for group in groups
        ]
        return cls(name, ends, missing, tuple(bars), note, error)


def _labels(attribute: Attribute) -> list[str]:
    return ["missing" if label is None else str(label) for label in code_labels(attribute)]


def _ends(attribute: Attribute) -> tuple[str, str] | None:
    """Smallest and largest value; many numbers in ascending order count as such, even if they are categories."""
    labels = attribute.categories
    if labels is None:
        return str(attribute.lower), str(attribute.upper)
    numbers = attribute.kind in ("integer", "floating")
    many = numbers and len(labels) > MOST_LABELS and list(labels) == sorted(labels)
    return (str(labels[0]), str(labels[-1])) if many else None


def _ordered_groups(size: int) -> tuple[list[Codes], str]:
    """Runs of equally many neighbouring codes, and a note where these are several."""
    together = -(-size // MOST_BARS)
    groups: list[Codes] = [np.arange(k, min(k + together, size)) for k in range(0, size, together)]
    return groups, f"{size:,} codes, {together:,} to a bar" if together > 1 else ""


def _common_groups(shares: list[Floats], size: int) -> tuple[list[Codes], str]:
    """The commonest codes, in their order, and all others together."""
    if size <= MOST_LABELS:
        return [np.array([code]) for code in range(size)], ""
    order = np.argsort(-np.max(shares, axis=0), kind="stable")
    groups = [np.array([code]) for code in np.sort(order[: MOST_LABELS - 1])]
    return [*groups, np.sort(order[MOST_LABELS - 1 :])], f"{MOST_LABELS - 1} commonest of {size:,} labels"


def _group_label(group: Codes, labels: list[str], *, ordered: bool) -> str:
    if len(group) == 1:
        return labels[int(group[0])]
    return f"{labels[group[0]]} … {labels[group[-1]]}" if ordered else f"{len(group):,} others"


def _deviation(name: str, measurements: Sequence[Measurement], total: float) -> float | None:
    """Standard deviation of a cell's share in the average of the column's own measurements; None without one."""
    sigmas = [m.scaled(total)[1] for m in measurements if m.clique == (name,)]
    if not sigmas or min(sigmas) == 0:  # known exactly
        return 0.0 if sigmas else None
    return float(sum(sigma**-2 for sigma in sigmas) ** -0.5 / total)
