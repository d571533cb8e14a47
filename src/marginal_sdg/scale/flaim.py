"""FLAIM: clients select at home, and a server adds up what they mask for each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from marginal_sdg.backends.variants import VARIANTS
from marginal_sdg.crypto.graph import topology
from marginal_sdg.crypto.secagg import HEADER_BYTES, ID_BYTES, LARGEST, SEALED_BYTES, STAGES, client_cost, ring_bytes
from marginal_sdg.scale.party import Load, Prediction
from marginal_sdg.scale.timing import COUNT, MASK, NEIGHBOUR, UNMASK
from marginal_sdg.workload import Workload

WORD = 8  # bytes


@dataclass(frozen=True)
class Wire:
    """Bytes that a client sends and receives."""

    sent: int
    received: int

    def __add__(self, other: Wire) -> Wire:
        """One after the other."""
        return Wire(self.sent + other.sent, self.received + other.received)


def secure_sum(cohort: int, cells: int, bound: int = LARGEST) -> Wire:
    """Of one client in a secure sum from which nobody drops out."""
    degree, _ = topology(cohort)
    return Wire(*client_cost(degree, degree, len(STAGES), cells * ring_bytes(bound)))


def size_message() -> Wire:
    """A client's noisy number of records, the first time that it takes part."""
    return Wire(HEADER_BYTES + WORD, 0)


def a_round(cohort: int, votes: int, picked: int, cells: int, model_cells: int, local_steps: int = 1) -> Wire:
    """Of one client in a round with padded cohorts.

    ``votes``: candidates that can be voted for; ``picked``: different cliques that were; ``cells``: those of all
    marginals that are summed, with two more for each; ``model_cells``: of the model that the client is sent.
    """
    model = Wire(0, HEADER_BYTES + WORD * model_cells)
    voted = secure_sum(cohort, votes, bound=cohort)
    told = Wire(0, HEADER_BYTES + ID_BYTES * picked)
    return model + voted + told + (secure_sum(cohort, cells) if cells else Wire(0, 0))


def predict(
    workload: Workload, *, clients: int, rows: int, rounds: int, participation: float, max_model_mb: float
) -> Prediction:
    """AugFLAIM (Private), one local step, at most: every participant picks another of the largest candidates.

    The model is as large as it may be. Cohorts have their expected size; loads of a client are those of one that takes
    part as often as expected.
    """
    variant = VARIANTS["private"]
    cohort = max(math.ceil(clients * participation), 1)
    sizes = np.sort(
        [int(n) for q, n in zip(workload.closure, workload.cells, strict=True) if len(q) >= variant.smallest]
    )
    picked = min(cohort, len(sizes))
    one_way = [workload.domain.size(clique) + 2 for clique in workload.one_way]
    cells = int(sizes[len(sizes) - picked :].sum()) + 2 * picked
    model_cells = int(max_model_mb * 2**20 / 8)
    candidates = len(workload.closure)
    middle = a_round(cohort, candidates, picked, cells + sum(one_way), model_cells)
    last = a_round(cohort, candidates, picked, cells, model_cells)
    starts = [secure_sum(cohort, length) for length in one_way]
    wires = [*starts, *[middle] * (rounds - 1), *[last] * min(rounds, 1)]
    share = cohort / clients
    sent, received = sum(wire.sent for wire in wires), sum(wire.received for wire in wires)

    degree, threshold = topology(cohort)
    summed = [*one_way, *[cells + sum(one_way)] * (rounds - 1), *[cells] * min(rounds, 1)]
    masked = WORD * sum(summed) + 4 * candidates * rounds  # bytes that a client masks
    sums = len(summed) + rounds
    records = rows / clients
    counted = records * candidates * rounds
    own = COUNT * counted + MASK * masked * (degree + 1) + NEIGHBOUR * degree * sums
    longest = WORD * max(summed)
    return Prediction(
        (
            Load(
                "client",
                clients,
                sent=share * sent + size_message().sent,
                received=share * received,
                memory=4 * records * len(workload.domain) + 3 * longest + WORD * model_cells + 3 * WORD * sum(sizes),
                seconds=share * own,
                small=True,
            ),
            Load(
                "server",
                1,
                sent=cohort * received,
                received=cohort * sent + clients * size_message().sent,
                memory=2 * longest + cohort * degree * (ID_BYTES + SEALED_BYTES),
                seconds=cohort * (MASK * masked + UNMASK * threshold * sums),
            ),
        )
    )
