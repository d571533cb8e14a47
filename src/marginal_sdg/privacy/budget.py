"""Privacy budgets: (epsilon, delta) differential privacy and its zCDP equivalent rho.

A rho-zCDP release is (epsilon, delta)-DP whenever some order a > 1 gives

    delta >= exp((a - 1)(a rho - epsilon)) (1 - 1/a)^a / (a - 1).

Source: Canonne, Kamath, Steinke 2020, "The Discrete Gaussian for Differential Privacy", Corollary 13. Solved
for epsilon or for rho this is a bound for *every* a, so a slightly wrong a is still sound: the search below
can only lose accuracy, never privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from ..errors import BudgetError

EPSILON_RANGE = (1e-6, 1e6)
DELTA_RANGE = (1e-100, 1 - 1e-6)
_LOG_ORDERS = (-60.0, 600.0)  # log(a - 1) searched; the best order is of size sqrt(log(1/delta) / rho)


def rho_from_eps_delta(epsilon: float, delta: float) -> float:
    """Largest rho (rounded down by 1e-11 of itself) whose zCDP gives (epsilon, delta)-DP."""
    epsilon, delta = _checked("epsilon", epsilon, EPSILON_RANGE), _checked("delta", delta, DELTA_RANGE)
    order, log_ratio, spread = _terms(_best_for_rho(epsilon, delta), delta)
    return (epsilon - log_ratio - spread) / order * (1 - 1e-11)


def eps_from_rho_delta(rho: float, delta: float) -> float:
    """Smallest epsilon (rounded up by about 1e-12 of itself) such that rho-zCDP gives (epsilon, delta)-DP."""
    rho, delta = _checked("rho", rho, (0.0, 1e9)), _checked("delta", delta, DELTA_RANGE)
    if rho == 0:
        return 0.0

    def eps_at(log_order: float) -> float:
        order, log_ratio, spread = _terms(log_order, delta)
        return order * rho + log_ratio + spread

    def slope(log_order: float) -> float:
        order, log_ratio, _ = _terms(log_order, delta)
        return (2 * order - 1) * rho - eps_at(log_order) + log_ratio

    best = _root(slope)
    order, _, _ = _terms(best, delta)
    return max(0.0, eps_at(best) + 1e-12 * order * rho)


@dataclass(frozen=True)
class Budget:
    """What one run may reveal in total: (epsilon, delta) for adding or removing one record.

    Examples
    --------
    >>> float(Budget(epsilon=1.0, delta=1e-5).rho)
    0.030556595197334006
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", _checked("epsilon", self.epsilon, EPSILON_RANGE))
        object.__setattr__(self, "delta", _checked("delta", self.delta, DELTA_RANGE))

    @property
    def rho(self) -> Fraction:
        """The zCDP budget as an exact rational, rounded down so that epsilon is never exceeded."""
        return Fraction(rho_from_eps_delta(self.epsilon, self.delta))

    @property
    def order(self) -> float:
        """The order a at which ``rho`` is largest."""
        return _terms(_best_for_rho(self.epsilon, self.delta), self.delta)[0]

    def rho_at(self, order: float) -> Fraction:
        """What releases may cost whose Renyi divergence is known at one order only, divided by that order.

        Rounded down; at most ``rho``. Raises BudgetError where that order gives no guarantee for this budget.
        """
        _, log_ratio, spread = _terms(math.log(order - 1), self.delta)
        rho = (self.epsilon - log_ratio - spread) / order * (1 - 1e-11)
        if not rho > 0:
            raise BudgetError(f"order {order:g} gives no epsilon of {self.epsilon:g} at delta {self.delta:g}; raise it")
        return Fraction(rho)

    def epsilon_at(self, rho: float, order: float) -> float:
        """Epsilon of releases whose Renyi divergence at ``order`` is at most ``rho`` times it, rounded up."""
        _, log_ratio, spread = _terms(math.log(order - 1), self.delta)
        return max(0.0, order * rho * (1 + 1e-12) + log_ratio + spread)


def _best_for_rho(epsilon: float, delta: float) -> float:
    """log(a - 1) of the order a that allows the largest rho."""

    def slope(log_order: float) -> float:
        order, log_ratio, spread = _terms(log_order, delta)
        return (2 * order - 1) * (epsilon - log_ratio - spread) / order - epsilon + log_ratio

    return _root(slope)


def _terms(log_order: float, delta: float) -> tuple[float, float, float]:
    """Order a, log(1 - 1/a) and (log(1/delta) - log a) / (a - 1), where a = 1 + exp(log_order)."""
    above_one = math.exp(log_order)
    return 1 + above_one, -math.log1p(1 / above_one), -(math.log(delta) + math.log1p(above_one)) / above_one


def _root(slope: Callable[[float], float]) -> float:
    """Bisect for the sign change of an exponent's derivative in the order a, negative first.

    The exponent's logarithm is convex in a, so the sign changes once.
    """
    low, high = _LOG_ORDERS
    for _ in range(60):
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _checked(name: str, value: float, allowed: tuple[float, float]) -> float:
    low, high = allowed
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool | str) or not low <= number <= high:
        raise BudgetError(f"{name} must be a number between {low:g} and {high:g}, got {value!r}")
    return number
