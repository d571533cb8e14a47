"""Marginals of a model as labelled frames, with the noise that their own measurements left in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from marginal_sdg.domain import Attribute, Clique, Domain
from marginal_sdg.encoding import bin_edges
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.release import Measurement


def code_labels(attribute: Attribute) -> list[Any]:
    """What each code stands for: a category, a value, a bin as text, or None for missing."""
    labels: list[Any]
    if attribute.categories is not None:
        labels = list(attribute.categories)
    else:
        edges = bin_edges(attribute)
        first, last = edges[:-1], edges[1:] - 1 if attribute.whole else edges[1:]
        unit = {"date": "D", "datetime": "s"}.get(attribute.kind)
        if unit:
            first, last = (ends.astype(f"datetime64[{unit}]") for ends in (first, last))
        if not attribute.whole:
            labels = [f"[{a:.6g}, {b:.6g})" for a, b in zip(first, last, strict=True)]
            labels[-1] = labels[-1][:-1] + "]"
        elif unit or attribute.bins is not None:
            labels = [str(a) if a == b else f"{a}..{b}" for a, b in zip(first, last, strict=True)]
        else:
            labels = first.tolist()
    return [*labels, None] if attribute.missing == "category" else labels


def cell_label(domain: Domain, clique: Clique, cell: int) -> str:
    """A cell of a marginal in words: ``age=18..37, job=cook``."""
    codes = np.unravel_index(cell, [domain[name].size for name in clique])
    return ", ".join(f"{name}={code_labels(domain[name])[code]}" for name, code in zip(clique, codes, strict=True))


def marginal_frame(model: GraphicalModel, measurements: Sequence[Measurement], clique: Iterable[str]) -> pd.DataFrame:
    """One row per cell: its labels, ``count`` (expected records) and ``standard_error``.

    The standard error (records) is that of the best average of all measurements that contain the clique, each summed
    down to it: the privacy noise in a cell before the model smooths it. It is NaN where no measurement contains the
    clique, because nothing in the release then says how far the model is off, and 0 where it is known exactly.
    """
    names = model.domain.clique(clique)
    cells = model.domain.size(names)
    precision = 0.0
    for measurement in measurements:
        if set(names) <= set(measurement.clique):
            _, sigma = measurement.scaled(model.total)
            precision += cells / (len(measurement.counts) * sigma**2) if sigma else math.inf
    labels = [code_labels(model.domain[name]) for name in names]
    places = np.indices([len(codes) for codes in labels]).reshape(len(names), -1)
    columns: dict[str, Any] = {
        name: [codes[place] for place in row] for name, codes, row in zip(names, labels, places, strict=True)
    }
    columns["count"] = model.marginal(names).ravel()
    columns["standard_error"] = precision**-0.5 if precision else np.nan
    return pd.DataFrame(columns)
