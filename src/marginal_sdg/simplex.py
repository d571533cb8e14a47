"""Post-processing of one noisy marginal: the nearest table with non-negative counts and a known sum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def onto_simplex(counts: npt.ArrayLike, total: float) -> Floats:
    """The non-negative vector with sum ``total`` (positive) that is nearest (Euclidean) to ``counts``: (n,) float64.

    Source: Duchi et al. 2008, figure 1.
    """
    vector = np.asarray(counts, dtype=np.float64)
    descending = np.sort(vector)[::-1]
    excess = (np.cumsum(descending) - total) / np.arange(1, len(vector) + 1)
    threshold = excess[np.flatnonzero(descending > excess)[-1]]
    projected: Floats = np.maximum(vector - threshold, 0.0)
    return projected
