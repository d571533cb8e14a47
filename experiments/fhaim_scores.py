"""What FHAIM's ``release="scores"`` costs the records' privacy, against the key holder, next to what is charged.

    python experiments/fhaim_scores.py [--dataset diabetes_pima] [--out experiments/results/fhaim_scores]

A selection charges for the winner's place alone: epsilon_r^2 / 8 in zCDP. Whoever decrypts all noisy scores sees Q
scores, each of which a record moves by up to w_q sensitivities, under Gumbel noise of scale 2 / epsilon_r of them.
The bound lets all move by that much, in the direction that costs more; it is composed in Renyi divergence, exactly, and
converted to epsilon at delta as the ledger converts rho. Nothing private is read. Writes ``scores.csv`` and
``fhaim_scores.md``.
"""

from __future__ import annotations

import argparse
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import signed_table

from marginal_sdg import Workload
from marginal_sdg.backends.plaintext import AIM_COSTS
from marginal_sdg.experiment.plan import public_domain
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.schedule import plan_schedule

ROUNDS, DELTA, SHARE = (1, 10, 50), 1e-5, 0.9


def divergence(order: float, shift: float) -> float:
    """Renyi divergence between standard Gumbel noise and the same moved by ``shift``, in the direction that is larger.

    The loss is ``c E - shift`` with ``c = e^shift - 1`` and E standard exponential, so it is infinite from the order
    ``1 + 1 / c`` on: unlike the winner's place, scores have no zCDP at all.
    """

    def one_way(moved: float) -> float:
        room = 1 - (order - 1) * math.expm1(moved)
        return -moved - math.log(room) / (order - 1) if room > 0 else math.inf

    return max(one_way(shift), one_way(-shift))


def epsilon(rho: float, shifts: np.ndarray[Any, np.dtype[np.float64]], rounds: int, delta: float) -> float:
    """Of Gaussians of ``rho`` in all, and of ``rounds`` vectors of scores moved by ``shifts``; the best of many orders.

    Source of the conversion: Canonne, Kamath, Steinke 2020, Proposition 12.
    """
    orders = 1 + np.geomspace(1e-2, 1e4, 4000)
    losses = []
    for order in orders:
        total = order * rho + rounds * sum(divergence(order, shift) for shift in shifts)
        losses.append(total + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    return float(min(losses))


def row(workload: Workload, budget: float, rounds: int) -> dict[str, Any]:
    """One budget and number of rounds."""
    weights = workload.importance / workload.importance.max()
    rho = Budget(budget, DELTA).rho
    schedule = plan_schedule(rounds, AIM_COSTS, rho, SHARE, rounds)
    step = schedule.initial
    one = float(step.epsilon2) ** 0.5
    measured = float(rho) - rounds * float(step.epsilon2) / 8
    seen = epsilon(measured, weights * one / 2, rounds, DELTA)
    return {
        "epsilon charged": budget,
        "rounds": rounds,
        "epsilon of a selection": f"{one:.3f}",
        "selections' share of rho": f"{1 - measured / float(rho):.2f}",
        "times the charge, per selection": f"{(weights**2).sum():.1f}",
        "epsilon against the key holder": f"{seen:.2f}",
        "ratio": f"{seen / budget:.2f}",
    }


def main() -> None:
    """Compute, write."""
    parser = argparse.ArgumentParser(description="The privacy loss of releasing all noisy scores.")
    parser.add_argument("--dataset", default="diabetes_pima")
    parser.add_argument("--out", type=Path, default=Path("results/fhaim_scores"))
    options = parser.parse_args()
    domain = public_domain(options.dataset)
    workload = Workload(domain, tuple(combinations(domain.names, 2)))
    rows = [row(workload, budget, rounds) for budget in (0.5, 1.0, 2.0, 5.0) for rounds in ROUNDS]
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "scores.csv", index=False)
    head = (
        f"{options.dataset}: {len(workload.closure)} candidates, all 1- and 2-way marginals; delta {DELTA}, "
        f'{SHARE:.0%} of rho for measurements. What `release="scores"` shows the key holder, next to what is charged '
        '(and true of `release="index"`).\n\n'
    )
    text = signed_table(head, rows, f"python experiments/fhaim_scores.py --dataset {options.dataset}")
    (options.out / "fhaim_scores.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
