"""Secure aggregation: the server learns the sum of the clients' integer vectors and nothing else of them.

Two engines with one signature: :class:`IdealSecureSum` adds in the clear and counts what the protocol would send;
:class:`~marginal_sdg.crypto.masking.MaskedSum` is the protocol.

*Protected*: a client's vector, but for what the sum over the survivors says about it, from a server that follows the
protocol and colludes with up to a tenth of a large cohort, or with fewer than two thirds of a small one
(``crypto/graph.py``), and from the other clients. Clients may vanish at any step.
*Assuming*: authentic channels between every client and the server, and a server that relays public keys and names the
survivors honestly. *Not claimed*: anything against a server that puts its own public keys in place of the clients'
(that needs a key infrastructure), that tells different clients different survivors (that needs a round of
signatures), or clients that send wrong vectors. The sum itself is exact: over a cohort in which one vector is not zero
it *is* that vector, and of one client it is the client's own. Where FLAIM's server adds the noise it sees such sums;
with ``noise="clients"`` every vector has its client's part of the noise in it (``backends/sum_noise.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.graph import Graph, topology
from marginal_sdg.crypto.shamir import SHARE_BYTES
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.errors import ProtocolError

Counts = npt.NDArray[np.int64]
Pieces = Mapping[int, Counts]  # where each piece of a vector begins -> its cells; zero elsewhere
Stage = Literal["keys", "shares", "relay", "masked"]
Dropout = Callable[[int, Stage], bool]

STAGES: tuple[Stage, ...] = get_args(Stage)
LARGEST = 2**63 - 1  # the bound on sums of which nothing is known but that they are int64
HEADER_BYTES, ID_BYTES, KEY_BYTES, TAG_BYTES = 8, 4, 32, 16
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES


@dataclass(frozen=True)
class Aggregate:
    """``total``: (length,) int64, the exact sum over ``survivors``, whose vectors arrived."""

    total: Counts
    survivors: tuple[int, ...]


class SecureSum(Protocol):
    """One aggregation among the clients of a cohort."""

    def __call__(
        self, contributions: Mapping[int, Pieces], length: int, *, bound: int, traffic: Traffic, least: int = 0
    ) -> Aggregate:
        """Sum the vectors of ``length`` cells of all clients that stay long enough to send theirs.

        ``bound``: public; no cell of a vector or of the sum exceeds it in absolute value, so it decides the ring.
        ``least``: where fewer vectors arrive, ``ProtocolError``, and nothing is unmasked.
        """
        ...


class IdealSecureSum:
    """The ideal functionality: an exact integer sum, computed in the clear by the simulation.

    ``dropout(client, stage)`` makes a client vanish after a stage of the protocol: it has sent its ``keys``, its
    ``shares``, has received the others' (``relay``), or has sent its ``masked`` vector, which is then in the sum.
    """

    def __init__(self, dropout: Dropout | None = None) -> None:
        self._dropout = dropout or stays

    def __call__(
        self, contributions: Mapping[int, Pieces], length: int, *, bound: int, traffic: Traffic, least: int = 0
    ) -> Aggregate:
        """The sum of the survivors' vectors; a zero vector when none survives."""
        payload = length * ring_bytes(bound)
        check(contributions, length, bound)
        left = {u: stage for u in contributions if (stage := next((s for s in STAGES if self._dropout(u, s)), None))}
        survivors = tuple(u for u in contributions if left.get(u, "masked") == "masked")
        enough(len(survivors), least)
        total = np.zeros(length, dtype=np.int64)
        for client in survivors:
            for start, cells in contributions[client].items():
                total[start : start + len(cells)] += cells
        traffic.to_server("ideal", survivors, payload)
        if left:
            graph = Graph.draw(tuple(contributions), bytes(KEY_BYTES))
            costs = [([u], cost) for u, cost in secagg_cost(graph, left, payload).items()]
        else:  # all have as many neighbours, so the bytes of one are those of all
            degree, _ = topology(len(contributions))
            costs = [(list(contributions), client_cost(degree, degree, len(STAGES), payload))]
        for clients, (sent, received) in costs:
            traffic.to_server("wire", clients, sent)
            traffic.to_clients("wire", clients, received)
        return Aggregate(total, survivors)


def stays(client: int, stage: Stage) -> bool:
    """The dropout of clients that never vanish."""
    return False


def enough(vectors: int, least: int) -> None:
    """Raise ``ProtocolError`` where fewer vectors than ``least`` have arrived: the sum must not be unmasked."""
    if vectors < least:
        raise ProtocolError(
            f"secure aggregation: {vectors} clients are left in a sum, {least} must stay; it is given up, masked"
        )


def check(contributions: Mapping[int, Pieces], length: int, bound: int) -> None:
    """Raise ``ProtocolError`` for what no honest client sends; the message tells nothing of its values."""
    if not contributions:
        raise ProtocolError("secure aggregation: the cohort is empty")
    for pieces in contributions.values():
        for start, cells in pieces.items():
            if start < 0 or start + len(cells) > length:
                raise ProtocolError(f"secure aggregation: a client's vector does not fit into {length} cells")
            if bound < LARGEST and len(cells) and (cells.min() < -bound or cells.max() > bound):
                raise ProtocolError(f"secure aggregation: a client's vector exceeds the public bound {bound}")


def ring_bytes(bound: int) -> int:
    """Bytes of a ring element that holds every sum between -``bound`` and ``bound``: 4 or 8."""
    if not 0 < bound <= LARGEST:
        raise ProtocolError(f"bound: must be positive and below 2^63, got {bound}")
    return 4 if bound < 2**31 else 8


def secagg_cost(graph: Graph, left: Mapping[int, Stage], payload: int) -> dict[int, tuple[int, int]]:
    """Bytes that every client (sends, receives) in one aggregation by masks, all included.

    ``left``: after which stage a client vanished, for those that did; ``payload``: bytes of a masked vector.
    """
    stages = {u: STAGES.index(left[u]) if u in left else len(STAGES) for u in graph.neighbours}
    return {
        u: client_cost(len(around), sum(stages[v] >= 1 for v in around), stages[u], payload)
        for u, around in graph.neighbours.items()
    }


def client_cost(near: int, sharing: int, stage: int, payload: int) -> tuple[int, int]:
    """Bytes that a client (sends, receives) with ``near`` neighbours of which ``sharing`` have sent their shares.

    ``stage``: the place in ``STAGES`` of the one after which it vanished; 4 where it stayed. One that stayed sends
    ``4 * 8 + 64 + 86 near + payload + 37 (sharing + 1)`` bytes and receives ``3 * 8 + 68 near + 90 sharing``.
    """
    sent = (
        (0, 2 * KEY_BYTES),
        (1, near * (ID_BYTES + SEALED_BYTES)),
        (3, payload),
        (4, (sharing + 1) * (ID_BYTES + SHARE_BYTES)),
    )
    received = (
        (1, near * (ID_BYTES + 2 * KEY_BYTES)),
        (2, sharing * (ID_BYTES + SEALED_BYTES)),
        (4, sharing * ID_BYTES),
    )
    return (
        sum(HEADER_BYTES + size for needed, size in sent if stage >= needed),
        sum(HEADER_BYTES + size for needed, size in received if stage >= needed),
    )
