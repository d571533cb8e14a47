"""Quality scores of candidates for the exponential mechanism, with their sensitivities."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NOISE_PENALTY = math.sqrt(2 / math.pi)  # E|x| of a standard Gaussian: the L1 error that measuring a cell leaves


def quality(
    weights: Floats, distances: Floats, sigma: float, cells: Floats, heterogeneity: Floats | float = 0.0
) -> Floats:
    """u(q) = w_q (||M_q - model_q||_1 - sqrt(2/pi) sigma n_q - tau_q), records, of the shape of ``distances``.

    ``weights``: w_q divided by the largest candidate's, so that the sensitivity does not depend on them; ``sigma``:
    noise per cell that a measurement would get; ``cells``: n_q. Source: AIM (McKenna et al. 2022) equation 1;
    FLAIM Algorithm 1 line 7.

    Rounding: distances and the penalty, at most 2^32, are multiples of 2^-20 records, so with tables and sizes of up
    to 2^31 records their difference is exact, and the product with a weight is the only rounding: by at most 2^-53
    of the score, which is 2^-23 sensitivities at the 2^31 where the ledger cuts scores. The ledger's reserve pays
    for that. A heterogeneity term off the grid adds the rounding of its own sums.
    """
    scores: Floats = weights * (distances - _penalty(sigma, cells) - heterogeneity)
    return scores


def sensitivity(*, heterogeneity: bool) -> float:
    """How much one record can change any score: 1 per L1 norm in it.

    ||M_q - c p||_1 changes by at most 1 when a record is added or removed, *if* c p does not depend on the records;
    the heterogeneity term is a second such norm. Where c is the exact number of records the true value is twice as
    large: that is the published calibration, offered as ``calibration="paper"`` only.
    """
    return 2.0 if heterogeneity else 1.0


def quality_bounds(
    weights: Floats, sigma: float, cells: Floats, size: float, *, heterogeneity: bool
) -> tuple[Floats, Floats]:
    """(smallest, largest) score that each candidate can get for a table of about ``size`` records: public values only.

    Every L1 norm lies between 0 and ``2 * size``.
    """
    norm, penalty = 2.0 * size, _penalty(sigma, cells)
    return weights * (-penalty - (norm if heterogeneity else 0.0)), weights * (norm - penalty)


def negligible_gap(epsilon: float, *, heterogeneity: bool) -> float:
    """A candidate that trails another's score by this much is selected with a probability below e^-40."""
    return 80.0 * sensitivity(heterogeneity=heterogeneity) / epsilon


def _penalty(sigma: float, cells: Floats) -> Floats:
    """The L1 error that measuring leaves, on the grid of 2^-20 records; cut at 2^32, where nobody would pick it."""
    penalty: Floats = np.rint(np.minimum(NOISE_PENALTY * sigma * cells, 2.0**32) * 2.0**20) * 2.0**-20
    return penalty
