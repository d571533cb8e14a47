"""DistAIM: clients share their answers once; three servers compute on the shares."""

from __future__ import annotations

from marginal_sdg.backends.pool import measure_cost
from marginal_sdg.crypto.rss import WIDTH, bits_for
from marginal_sdg.crypto.rss_cost import noisy_selection, replicate
from marginal_sdg.crypto.upload import RECEIVERS, wire_bytes
from marginal_sdg.privacy.joint import GUMBEL_LIMIT
from marginal_sdg.scale.party import Load, Prediction
from marginal_sdg.scale.timing import COMPARE, COUNT, RECEIVE, SHARE
from marginal_sdg.workload import Workload


def upload(cells: int) -> int:
    """Bytes that a client sends to both receiving servers together, for one part of its answers."""
    return sum(wire_bytes(server, cells) for server in range(RECEIVERS))


def predict(workload: Workload, *, clients: int, rows: int, rounds: int, participation: float, unit: int) -> Prediction:
    """At most: all candidates are shared and stay in question, and the model expects a record in each of their cells.

    ``unit``: steps of the noise's grid that a score of 1 counts, see ``privacy.joint.gumbel_unit``.
    """
    joined = 1 - (1 - participation) ** (rounds + 1)  # the share of clients that join, on average
    one_way = sum(map(workload.domain.size, workload.one_way))
    cells, candidates = int(workload.cells.sum()), len(workload.closure)
    largest = 2 * unit * rows + 2 * GUMBEL_LIMIT
    walls: tuple[str, ...] = ()
    if (2 * largest).bit_length() >= WIDTH:
        walls = (
            f"the servers' ring: a score of {rows:,.3g} records on the noise's grid does not fit into {WIDTH} bits",
        )
        largest = 2 ** (WIDTH - 3)
    compared = noisy_selection(candidates, cells, bits_for(rows), bits_for(2 * largest))
    cost = replicate(one_way) + replicate(cells - one_way)
    for _ in range(rounds):
        cost += replicate(one_way) + compared + measure_cost(int(workload.cells.max()))
    cost += measure_cost(one_way)
    sent = max(cost.wire)
    records, members = rows / clients, joined * clients
    uploads = upload(one_way) + upload(cells - one_way)
    first, second = (
        sum(wire_bytes(server, part) for part in (one_way, cells - one_way)) for server in range(RECEIVERS)
    )
    seconds = rounds * COMPARE * max(compared.wire)
    memory = 8 * cells  # of one vector; a server has about twelve: shares, newcomers' shares, a comparison's bits
    return Prediction(
        (
            Load(
                "client",
                clients,
                sent=joined * uploads,
                received=0,
                memory=4 * records * len(workload.domain) + 2 * memory,
                seconds=joined * (COUNT * records * candidates + SHARE * cells),
                small=True,
            ),
            Load("server 0 (seeds)", 1, sent, sent + members * first, 12 * memory, seconds + members * RECEIVE * cells),
            Load(
                "server 1 (shares)", 1, sent, sent + members * second, 12 * memory, seconds + members * RECEIVE * cells
            ),
            Load("server 2", 1, sent, sent, 12 * memory, seconds),
        ),
        walls,
    )
