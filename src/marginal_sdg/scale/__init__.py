"""What a run among many parties would take, before it is run: bytes, memory and CPU seconds of each, at most.

Bytes come from the formulas that the protocols' tests hold against what is sent; seconds from constants of one machine
(``timing``). Fitting the model is left out: it sees releases only, and does not grow with clients.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from marginal_sdg.errors import ConfigError
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.joint import gumbel_unit
from marginal_sdg.scale import distaim, fhaim, flaim
from marginal_sdg.scale.party import Prediction
from marginal_sdg.workload import Workload

GAUSSIAN_SHARE = Fraction(9, 10)  # of the budget; the rest is for selections


def plan_parties(
    mechanism: str,
    workload: Workload,
    *,
    clients: int,
    rows: int,
    rounds: int,
    participation: float,
    max_model_mb: float,
    epsilon: float,
    delta: float,
) -> Prediction:
    """The loads of "flaim", "distaim" or "fhaim". ``rows``: of all clients together.

    Raises ConfigError for what cannot be planned.
    """
    if rounds < 1:
        raise ConfigError(f"rounds: a plan for many parties needs at least 1, got {rounds}")
    if not 0 < participation <= 1:
        raise ConfigError(f"participation: must be above 0 and at most 1, got {participation}")
    if rows < clients:
        raise ConfigError(f"rows: {rows:,} are fewer than the {clients:,} clients; give each at least one")
    size: dict[str, Any] = {"clients": clients, "rows": rows, "rounds": rounds}
    if mechanism == "fhaim":
        if max(map(len, workload.closure)) > 2:
            raise ConfigError("workload: FHAIM counts 1- and 2-way marginals; give it cliques of one or two attributes")
        return fhaim.predict(workload, **size)
    if mechanism == "flaim":
        return flaim.predict(workload, **size, participation=participation, max_model_mb=max_model_mb)
    each = (1 - GAUSSIAN_SHARE) * Budget(epsilon, delta).rho / rounds  # of zCDP, epsilon^2 / 8
    unit = gumbel_unit(Fraction((8 * float(each)) ** 0.5), Fraction(1))
    return distaim.predict(workload, **size, participation=participation, unit=unit)
