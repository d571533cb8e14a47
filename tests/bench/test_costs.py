"""Costs that are counted, not timed: bytes by accounting, rounds, homomorphic operations. Equal to the last unit.

After a change that is meant to change them, write them anew and commit them with the change:

    python tests/bench/test_costs.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from marginal_sdg import FLAIM, DistAIM, Domain, Table, Workload
from marginal_sdg.crypto.fhe.plan import Plan, choose_layout
from marginal_sdg.crypto.fhe.profile import choose_profile

COSTS = Path(__file__).with_name("costs.json")
DOMAIN = Domain.from_shape({"a": 3, "b": 4, "c": 2, "d": 5})


def costs() -> dict[str, dict[str, Any]]:
    """Every cost by name."""
    clients = [
        Table(DOMAIN, np.tile(np.array([[k % 3, k % 4, k % 2, k % 5]], dtype=np.int32), (50, 1))) for k in range(12)
    ]
    terms: dict[str, Any] = {"rounds": 3, "participation": 0.5, "workload": 4, "seed": 5, "epsilon": 3.0}
    # NaiveFLAIM's picks steer its bytes, and after contradicting measurements they hang on how a processor rounds.
    naive = {"naive": {"rounds": 1}}
    federated = {
        f"FLAIM {variant}, {secagg}": FLAIM(DOMAIN, variant=variant, secagg=secagg, **terms | naive.get(variant, {}))
        for variant in ("naive", "private", "census")
        for secagg in ("ideal", "masks")
    }
    sent: dict[str, dict[str, Any]] = {name: method.fit(clients).communication_ for name, method in federated.items()}
    sent["DistAIM"] = DistAIM(DOMAIN, **terms).fit(clients).communication_
    pairs = Workload.random(DOMAIN, 6, 2)
    cliques = [tuple(map(DOMAIN.index, clique)) for clique in pairs.closure]
    for counts in (False, True):
        layout = choose_layout(choose_profile(1000), DOMAIN.shape, cliques, dense=True, counts=counts)
        plan = Plan.of(layout, counts=counts).items()
        sent[f"FHAIM, {'marginals' if counts else 'records'}"] = {
            name: value for name, value in plan.items() if isinstance(value, int)
        }
    return sent


def test_costs_are_the_committed_ones():
    assert json.loads(json.dumps(costs())) == json.loads(COSTS.read_text())


def main() -> None:
    """Write the costs of this checkout."""
    COSTS.write_text(json.dumps(costs(), indent=1) + "\n")


if __name__ == "__main__":
    main()
