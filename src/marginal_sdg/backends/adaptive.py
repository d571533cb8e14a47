"""Bins of about equal count, released under the same ledger as everything else, from fine bins that are public."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import cast

import numpy as np
import numpy.typing as npt

from marginal_sdg.attribute import EPOCH, Attribute, Bound
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table, bin_edges, merged
from marginal_sdg.errors import ConfigError
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy.ledger import Ledger

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def levels(bins: int) -> int:
    """How many times records are asked where to cut, each time halving the number of bins to come."""
    return (bins - 1).bit_length()


def check_bins(domain: Domain, bins: Mapping[str, int]) -> None:
    """ConfigError where an attribute has no fine bins that could be merged into so many."""
    if not isinstance(bins, Mapping):
        raise ConfigError(f"adaptive_bins: needs numbers of bins by column, such as {{'income': 16}}, got {bins!r}")
    for name, count in bins.items():
        attribute = domain[name]
        if attribute.categories is not None:
            raise ConfigError(f"adaptive_bins: {name!r} has categories; only bins of numbers and dates can adapt")
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count < attribute.values:
            raise ConfigError(
                f"adaptive_bins: {name!r} needs a number of bins from 2 to {attribute.values - 1}, one less than are "
                f"declared, got {count!r}"
            )


def adapt(table: Table, bins: Mapping[str, int], rho: Fraction, ledger: Ledger) -> Table:
    """The table with the fine bins of some attributes merged into ``bins`` wider ones; spends ``rho`` in equal parts.

    See :func:`cuts`. Its domain is public: it has ``edges`` where it had fine bins.
    """
    epsilon2 = 8 * rho / sum(map(levels, bins.values()))
    domain = table.domain
    for name, count in bins.items():
        places = cuts(contingency(table, (name,))[: domain[name].values], count, epsilon2, ledger, name)
        adapted = _with_edges(domain[name], places)
        domain = Domain(tuple(adapted if a.name == name else a for a in domain.attributes))
    return merged(table, domain)


def cuts(counts: Counts, bins: int, epsilon2: Fraction, ledger: Ledger, name: str) -> list[int]:
    """Where to cut ``counts`` of fine bins into ``bins`` runs of about equal count: the first fine bin of each but one.

    A run that shall become n bins is cut where it has about n // 2 shares of its records below and the others above,
    by the exponential mechanism with the score of :func:`cut_scores`; then its two parts are cut, until every one is
    a bin. Each level is one charge of epsilon^2 / 8.

    Privacy: neighbouring tables differ in one record, whose value lies in one run of each level (in none where it is
    missing), given the cuts before. So in each level it moves the scores of one run, each by at most 1, and the other
    runs' cuts do not depend on it: parallel composition within a level, adaptive composition between levels. A score
    weighs records below against records above, so that the number of records, which is private, is not needed.
    Source: Kaplan, Schnapp, Stemmer, Differentially Private Approximate Quantiles, ICML 2022, for any number of bins.
    """
    runs, found = [(0, len(counts), bins)], []
    for level in range(levels(bins)):
        open_runs = [run for run in runs if run[2] > 1]
        chosen = ledger.select(
            [cut_scores(counts[start:stop], pieces) for start, stop, pieces in open_runs],
            epsilon2,
            sensitivity=1.0,
            what=f"bins of {name}: cuts {level + 1} of {levels(bins)}",
        )
        runs = []
        for (start, stop, pieces), choice in zip(open_runs, chosen, strict=True):
            below = pieces // 2
            cut = start + below + choice
            found.append(cut)
            runs += [(start, cut, below), (cut, stop, pieces - below)]
    return sorted(found)


def cut_scores(counts: Counts, pieces: int) -> Floats:
    """u(c) = -|above * B(c) - below * A(c)| / above for every cut that leaves a fine bin for each of ``pieces``.

    B and A: records below and above the cut; ``below``, ``above``: pieces on either side, above >= below, so that one
    record moves u by at most 1. The division is the only rounding, which the ledger's reserve pays for.
    """
    below = pieces // 2
    above = pieces - below
    under = np.cumsum(counts)[below - 1 : len(counts) - above]
    scores: Floats = -np.abs(above * under - below * (counts.sum() - under)) / above
    return scores


def _with_edges(attribute: Attribute, places: list[int]) -> Attribute:
    """The attribute with bins that begin at some of its fine bins."""
    inner = [_bound(attribute.kind, number) for number in bin_edges(attribute)[places].tolist()]
    ends = attribute.lower, *inner, attribute.upper
    return replace(attribute, lower=None, upper=None, bins=None, edges=cast("tuple[Bound, ...]", ends))


def _bound(kind: str, number: float) -> Bound:
    """A number as a declaration has it: days and seconds since 1970 as dates and times."""
    if kind == "date":
        return (EPOCH + dt.timedelta(days=number)).date()
    return EPOCH + dt.timedelta(seconds=number) if kind == "datetime" else number
