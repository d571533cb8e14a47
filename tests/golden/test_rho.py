"""(epsilon, delta) <-> rho against published values, an independent minimiser and two other accountants."""

from __future__ import annotations

import itertools
import math
import warnings
from decimal import Context, Decimal, localcontext

import numpy as np
import pytest
from scipy import optimize, stats

from marginal_sdg.privacy import eps_from_rho_delta, rho_from_eps_delta

GOLDEN = [
    (0.1, 1e-9, 1.7713844718502e-4),
    (1.0, 1e-9, 0.0149730576735885),
    (1.0, 1e-5, 0.0305565951976396),
    (1.0, 1e-2, 0.103412831433483),
    (5.0, 1e-5, 0.550973474939339),
    (10.0, 1e-9, 1.09078570439702),
]
PAIRS = list(itertools.product([0.01, 0.1, 1.0, 10.0, 100.0], [1e-12, 1e-9, 1e-5, 1e-2]))


@pytest.mark.parametrize(("epsilon", "delta", "rho"), GOLDEN)
def test_conversion_matches_the_golden_values(epsilon: float, delta: float, rho: float) -> None:
    assert rho_from_eps_delta(epsilon, delta) == pytest.approx(rho, rel=1e-9)
    assert eps_from_rho_delta(rho, delta) == pytest.approx(epsilon, rel=1e-9)


def delta_of(rho: float, epsilon: float) -> Decimal:
    """The formula as printed: scipy finds the best order, 60 digits evaluate it."""

    def log_delta(log_order: float) -> float:
        a = 1 + math.exp(log_order)
        return (a - 1) * (a * rho - epsilon) + a * math.log1p(-1 / a) - math.log(a - 1)

    found = optimize.minimize_scalar(log_delta, bounds=(-12, 15), method="bounded", options={"xatol": 1e-9})
    with localcontext(Context(prec=60)):
        a = 1 + Decimal(found.x).exp()
        return ((a - 1) * (a * Decimal(rho) - Decimal(epsilon)) + a * (1 - 1 / a).ln()).exp() / (a - 1)


@pytest.mark.parametrize(("epsilon", "delta"), PAIRS)
def test_rounding_never_favours_the_budget(epsilon: float, delta: float) -> None:
    # To 60 digits, the converted rho keeps to delta, and so does the epsilon reported for a rho.
    rho = rho_from_eps_delta(epsilon, delta)
    assert delta_of(rho, epsilon) <= Decimal(delta)
    for spent in (rho, 0.1 * rho):
        assert delta_of(spent, eps_from_rho_delta(spent, delta)) <= Decimal(delta)


@pytest.mark.parametrize(("epsilon", "delta"), PAIRS)
def test_conversion_solves_the_published_formula_for_delta(epsilon: float, delta: float) -> None:
    assert float(delta_of(rho_from_eps_delta(epsilon, delta), epsilon)) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize(("epsilon", "delta"), PAIRS)
def test_conversion_lies_between_the_exact_gaussian_and_the_older_bound(epsilon: float, delta: float) -> None:
    # A Gaussian of 1/(2 sigma^2) = rho is one rho-zCDP mechanism, so its exact epsilon cannot be larger
    # (Balle, Wang 2018, Theorem 8); the bound of Bun, Steinke 2016, Proposition 1.3 cannot be smaller.
    rho = rho_from_eps_delta(epsilon, delta)
    mu = math.sqrt(2 * rho)
    exact = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu))
    assert exact <= delta
    assert rho + 2 * math.sqrt(rho * math.log(1 / delta)) >= epsilon * (1 - 1e-10)


@pytest.mark.parametrize(("epsilon", "delta"), PAIRS)
def test_dp_accounting_on_a_grid_of_orders_is_never_below_ours(epsilon: float, delta: float) -> None:
    # The same bound, minimised over a grid instead of all orders: larger, and close for a fine grid.
    from dp_accounting.rdp import compute_epsilon

    rho = rho_from_eps_delta(epsilon, delta)
    orders = 1 + np.geomspace(0.0101, 1e6, 4_000)  # it ignores orders below 1.01
    theirs, _ = compute_epsilon(orders, rho * orders, delta)
    assert theirs >= epsilon * (1 - 1e-10)
    assert theirs <= epsilon * (1 + 1e-4)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-9), (1.0, 1e-5), (5.0, 1e-5)])
def test_dp_accounting_loss_distribution_of_a_gaussian_is_never_above_ours(epsilon: float, delta: float) -> None:
    from dp_accounting.pld import privacy_loss_distribution

    rho = rho_from_eps_delta(epsilon, delta)
    loss = privacy_loss_distribution.from_gaussian_mechanism(
        math.sqrt(1 / (2 * rho)), value_discretization_interval=1e-4
    )
    assert epsilon * 0.7 < loss.get_epsilon_for_delta(delta) <= epsilon


@pytest.mark.parametrize(("epsilon", "delta", "rho"), GOLDEN)
def test_autodp_agrees_for_zcdp_and_is_never_above_ours_for_the_gaussian(
    epsilon: float, delta: float, rho: float
) -> None:
    # autodp minimises the same bound (Balle et al. 2020) for an RDP curve, up to its optimiser's tolerance;
    # for the Gaussian it has the exact curve.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from autodp import converter, mechanism_zoo

        zcdp = converter.rdp_to_approxdp(lambda order: rho * order)(delta)
        gaussian = mechanism_zoo.ExactGaussianMechanism(math.sqrt(1 / (2 * rho))).get_approxDP(delta)
    ours = eps_from_rho_delta(rho, delta)
    assert ours * (1 - 1e-10) <= zcdp <= ours * (1 + 1e-6)
    assert gaussian <= ours
