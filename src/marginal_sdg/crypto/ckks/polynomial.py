"""The degree-10 polynomial that stands for the absolute value, and what a record really changes of its sums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import Polynomial
from scipy.optimize import linprog

from marginal_sdg.crypto.ckks.layout import Floats

_DEGREE = 10
_POINTS = 2001
_SLOPE = 1.5


@dataclass(frozen=True)
class Absolute:
    """``p(x) = c_1 x^2 + ... + c_5 x^10`` near |x| for -1 <= x <= 1. p(0) = 0: an empty difference adds nothing.

    ``error``: the largest |p(x) - |x||; times the cap, that of one cell in records.
    """

    coefficients: tuple[float, ...]
    error: float

    def __call__(self, differences: Floats, records: int) -> Floats:
        """``records * p(x / records)`` of differences x of counts, |x| <= records: in records."""
        values = self._polynomial(np.asarray(differences, dtype=np.float64) / records)
        return np.asarray(records * values, dtype=np.float64)

    @property
    def _polynomial(self) -> Polynomial:
        coefficients = np.zeros(_DEGREE + 1)
        coefficients[2::2] = self.coefficients
        return Polynomial(coefficients)

    def sensitivity(self, records: int) -> float:
        """The most that one record more or less changes the score of a marginal: max |q(x + 1) - q(x)|.

        q is the polynomial in counts, as called; over all real x with both ends within ``records``. The score is a sum
        over cells, of which a record changes one by 1. Found at the ends and at the roots of the derivative.
        """
        step = 1 / records
        p = self._polynomial
        difference = p(Polynomial([step, 1])) - p
        roots = difference.deriv().roots()
        inside = roots.real[(abs(roots.imag) < 1e-7) & (roots.real > -1) & (roots.real < 1 - step)]
        places = np.concatenate([inside, [-1.0, 1.0 - step]])
        return float(records * abs(difference(places)).max())


@cache
def absolute() -> Absolute:
    """The least error on a fine grid at slopes of at most 1.5, by linear programming.

    Without the bound, the error would be 0.045 instead of 0.050, and one record could change a score by almost 5.
    """
    x = np.sin(np.linspace(0, np.pi / 2, _POINTS))[:, None]
    degrees = np.arange(2, _DEGREE + 1, 2)
    powers, slopes = x**degrees, degrees * x ** (degrees - 1)
    slack, none = np.ones_like(x), np.zeros_like(x)
    found = linprog(
        np.r_[np.zeros(len(degrees)), 1.0],
        A_ub=np.block([[powers, -slack], [-powers, -slack], [slopes, none], [-slopes, none]]),
        b_ub=np.concatenate([x, -x, _SLOPE * slack, _SLOPE * slack]),
        bounds=(None, None),
    )
    best = found.x[:-1]
    return Absolute(tuple(map(float, best)), float(abs(powers @ best - x[:, 0]).max()))
