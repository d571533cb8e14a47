"""Budgets, the ledger that pays for every release, and the exact noise behind it."""

from __future__ import annotations

from .budget import Budget, eps_from_rho_delta, rho_from_eps_delta
from .ledger import Charge, Ledger
from .noise import DiscreteGaussian, Source, exact_choice

__all__ = [
    "Budget",
    "Charge",
    "DiscreteGaussian",
    "Ledger",
    "Source",
    "eps_from_rho_delta",
    "exact_choice",
    "rho_from_eps_delta",
]
