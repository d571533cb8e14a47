"""Preconditioned L-BFGS for smooth convex functions whose diagonal curvature is known and changes slowly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Evaluate = Callable[[Floats], tuple[float, Floats, Floats]]

_MEMORY = 10
_ASK = 5  # iterations between two looks at the stopping rule
_REFRESH = 25  # iterations between two updates of the preconditioner
_MAX_STEP = 10.0  # largest change of a single log-potential in one step


def minimise(
    evaluate: Evaluate,
    start: Floats,
    *,
    done: Callable[[Floats], bool],
    iterations: int,
) -> Floats:
    """Minimise from ``start`` until ``done(point)``, which is asked every few steps, or ``iterations`` are done.

    ``evaluate(x) -> (value, gradient, curvature)``, where curvature is a positive diagonal approximation of the
    Hessian, used to scale the variables. Armijo backtracking with quadratic interpolation. Source: Nocedal and Wright,
    Numerical Optimization, algorithm 7.4.
    """
    point = start
    value, gradient, curvature = evaluate(point)
    pairs: list[tuple[Floats, Floats, float]] = []
    scale = 1 / np.sqrt(curvature)
    for iteration in range(iterations):
        if iteration % _ASK == 0 and done(point):
            break
        if iteration and iteration % _REFRESH == 0:
            fresh = 1 / np.sqrt(curvature)
            change = scale / fresh
            pairs = [(s * change, y / change, r) for s, y, r in pairs]
            scale = fresh
        direction = -scale * _two_loop(scale * gradient, pairs)
        slope = float(gradient @ direction)
        if not slope < 0:
            pairs = []
            direction = -(scale**2) * gradient
            slope = float(gradient @ direction)
        step = min(1.0, _MAX_STEP / max(float(np.abs(direction).max()), 1e-300))
        while True:
            candidate = point + step * direction
            new_value, new_gradient, new_curvature = evaluate(candidate)
            if new_value <= value + 1e-4 * step * slope + 1e-12 * abs(value):
                break
            if step < 1e-8:
                return point
            rise = new_value - value - step * slope
            shrink = -0.5 * slope * step / rise if np.isfinite(new_value) else 0.1
            step *= min(max(shrink, 0.1), 0.5)
        s = (candidate - point) / scale
        y = (new_gradient - gradient) * scale
        sy = float(s @ y)
        if sy > 1e-12 * float(y @ y):
            pairs = [*pairs[-(_MEMORY - 1) :], (s, y, 1 / sy)]
        point, value, gradient, curvature = candidate, new_value, new_gradient, new_curvature
    return point


def _two_loop(gradient: Floats, pairs: list[tuple[Floats, Floats, float]]) -> Floats:
    """Multiply by the inverse Hessian that the pairs imply (identity in the scaled variables at first)."""
    q = gradient.copy()
    alphas = []
    for s, y, r in reversed(pairs):
        alpha = r * float(s @ q)
        alphas.append(alpha)
        q -= alpha * y
    if pairs:
        _, y, r = pairs[-1]
        q /= r * float(y @ y)
    for (s, y, r), alpha in zip(pairs, reversed(alphas), strict=True):
        q += s * (alpha - r * float(y @ q))
    return q
