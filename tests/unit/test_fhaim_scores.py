"""The privacy loss of noisy scores: the closed form is the integral, and it is more than a selection's."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate

from marginal_sdg.privacy.budget import eps_from_rho_delta


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    return importlib.import_module("fhaim_scores")


@pytest.mark.parametrize("shift", [0.02, 0.3, -0.3])
@pytest.mark.parametrize("order", [1.5, 2.0, 3.0])
def test_the_divergence_is_the_integral(script, shift, order):
    def integrand(x, moved):
        first, second = -x - math.exp(-x), -(x - moved) - math.exp(-(x - moved))
        return math.exp(order * first + (1 - order) * second)

    both = [math.log(integrate.quad(integrand, -8, 60, args=(m,), limit=500)[0]) / (order - 1) for m in (shift, -shift)]
    assert script.divergence(order, shift) == pytest.approx(max(both), rel=1e-6)


def test_scores_have_no_divergence_of_high_order(script):
    assert script.divergence(1 + 0.99 / math.expm1(0.3), 0.3) < script.divergence(1 + 1.01 / math.expm1(0.3), 0.3)
    assert script.divergence(1 + 1.01 / math.expm1(0.3), 0.3) == math.inf


def test_small_shifts_cost_what_a_selection_is_charged_each(script):
    """epsilon^2 / 8 for a shift of epsilon / 2; and nothing but Gaussians costs what the ledger says."""
    assert script.divergence(2.0, 0.005) / 2.0 == pytest.approx(0.01**2 / 8, rel=0.02)
    assert script.epsilon(0.02, np.zeros(0), 1, 1e-5) == pytest.approx(eps_from_rho_delta(0.02, 1e-5), rel=1e-3)
    assert script.epsilon(0.02, np.full(45, 0.01), 10, 1e-5) > 1.1 * script.epsilon(0.02, np.full(1, 0.01), 10, 1e-5)
