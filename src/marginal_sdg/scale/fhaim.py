"""FHAIM: holders encrypt their tables; a server computes on them; a key holder decrypts what is released."""

from __future__ import annotations

import math
from collections.abc import Sequence

from marginal_sdg.backends.vault import LARGEST_COUNT
from marginal_sdg.crypto.fhe.plan import Plan, choose_layout
from marginal_sdg.crypto.fhe.profile import Profile, choose_profile
from marginal_sdg.domain import Clique
from marginal_sdg.scale.party import Load, Prediction
from marginal_sdg.workload import Workload


def plan_for(workload: Workload, records: int, *, counts: bool = False) -> tuple[Profile, Plan]:
    """Profile and plan of uploads of at most ``records`` records, or (``counts``) of encrypted marginals."""
    profile = choose_profile(records)
    cliques: Sequence[Clique] = workload.closure
    layout = choose_layout(
        profile,
        workload.domain.shape,
        [tuple(map(workload.domain.index, clique)) for clique in cliques],
        dense=True,
        counts=counts,
    )
    return profile, Plan.of(layout, counts=counts)


def predict(workload: Workload, *, clients: int, rows: int, rounds: int) -> Prediction:
    """Uploads of records, which grow with them; selections by garbled circuits are small beside these and left out.

    Beyond the largest number of records that can be counted exactly, blocks of them are multiplied.
    """
    capped = min(rows, LARGEST_COUNT)
    profile, plan = plan_for(workload, capped)
    more = rows / capped
    walls: tuple[str, ...] = ()
    if rows > LARGEST_COUNT:
        walls = (
            f"the plaintexts: {rows:,.3g} records have squared distances of {2 * math.log2(rows):.0f} bits and more, "
            f"where BGV's have 32; exact up to {LARGEST_COUNT:,} records",
        )
    measured = (len(workload.one_way) + rounds) * plan.measured_outputs
    outputs = measured * profile.output_bytes
    upload = more * plan.upload_bytes
    return Prediction(
        (
            Load(
                "data holder",
                clients,
                sent=upload / clients + outputs,
                received=0,
                memory=8 * rows / clients * len(workload.domain) + plan.ciphertext_bytes,
                seconds=more * plan.holder_seconds / clients,
                small=clients > 1,
            ),
            Load(
                "server",
                1,
                sent=outputs,
                received=upload + clients * outputs + plan.evaluation_key_bytes,
                memory=plan.server_bytes + plan.evaluation_key_bytes,
                seconds=more * plan.compute_seconds + plan.share_seconds + measured * plan.measure_seconds,
            ),
            Load(
                "key holder",
                1,
                sent=plan.evaluation_key_bytes,
                received=outputs + plan.share_outputs * profile.output_bytes,
                memory=plan.evaluation_key_bytes,
                seconds=plan.share_seconds,
            ),
        ),
        walls,
    )
