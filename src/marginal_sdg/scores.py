"""Quality scores of candidates for the exponential mechanism, with their sensitivities."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NOISE_PENALTY = math.sqrt(2 / math.pi)  # E|x| of a standard Gaussian: the L1 error that measuring a cell leaves


def quality(
    importance: Floats, distances: Floats, sigma: float, cells: Floats, heterogeneity: Floats | float = 0.0
) -> Floats:
    """u(q) = w_q / max(w) (||M_q - model_q||_1 - sqrt(2/pi) sigma n_q - tau_q): (Q,) float64, records.

    All arrays hold the candidates only. ``distances``, ``heterogeneity``: records; ``sigma``: noise per cell that a
    measurement would get; ``cells``: n_q. Weights are brought to a maximum of 1, so that the sensitivity does not
    depend on them. Source: AIM (McKenna et al. 2022) equation 1; FLAIM Algorithm 1 line 7.
    """
    scores: Floats = importance / importance.max() * (distances - NOISE_PENALTY * sigma * cells - heterogeneity)
    return scores


def sensitivity(*, heterogeneity: bool) -> float:
    """How much one record can change any score: 1 per L1 norm in it.

    ||M_q - c p||_1 changes by at most 1 when a record is added or removed, *if* c p does not depend on the records;
    the heterogeneity term is a second such norm. Where c is the exact number of records the true value is twice as
    large: that is the published calibration, offered as ``calibration="paper"`` only.
    """
    return 2.0 if heterogeneity else 1.0
