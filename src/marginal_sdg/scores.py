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
    """
    scores: Floats = weights * (distances - NOISE_PENALTY * sigma * cells - heterogeneity)
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
    norm, penalty = 2.0 * size, NOISE_PENALTY * sigma * cells
    return weights * (-penalty - (norm if heterogeneity else 0.0)), weights * (norm - penalty)


def negligible_gap(epsilon: float, *, heterogeneity: bool) -> float:
    """A candidate that trails another's score by this much is selected with a probability below e^-40."""
    return 80.0 * sensitivity(heterogeneity=heterogeneity) / epsilon
