"""What every client and server sends and receives, in bytes, under three accountings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Accounting = Literal["paper", "ideal", "wire"]
ACCOUNTINGS: tuple[Accounting, ...] = get_args(Accounting)
PARTIES, WAYS = ("client", "server"), ("sent", "received")
WORD = 8  # bytes, of every number in the papers' accounting
COLUMNS = tuple(f"{party}_{way}_{kind}_bytes" for kind in ACCOUNTINGS for party in PARTIES for way in WAYS)


class Traffic:
    """Bytes by party and direction.

    * ``paper``: what the FLAIM paper's code counts: 8-byte words, six times as many for secret shares.
    * ``ideal``: the payload that the protocol cannot do without: ring elements of masked vectors and of shares.
    * ``wire``: all that is sent, with keys, shares of keys, headers and authentication tags.

    Source of the paper's accounting: FLAIM §5.3 and its code.
    """

    def __init__(self, clients: int, servers: int = 1) -> None:
        self._bytes = {
            (kind, party, way): np.zeros(parties, dtype=np.int64)
            for kind in ACCOUNTINGS
            for party, parties in zip(PARTIES, (clients, servers), strict=True)
            for way in WAYS
        }

    def to_server(self, kind: Accounting, clients: Iterable[int], size: int, server: int = 0) -> None:
        """Each of ``clients`` (named once) sends ``size`` bytes to a server."""
        senders = list(clients)
        self._bytes[kind, "client", "sent"][senders] += size
        self._bytes[kind, "server", "received"][server] += size * len(senders)

    def beside(self, clients: Iterable[int], payload: int, header: int) -> None:
        """Each of ``clients`` sends the server a message that the paper's accounting leaves out."""
        senders = list(clients)
        self.to_server("ideal", senders, payload)
        self.to_server("wire", senders, header + payload)

    def to_clients(self, kind: Accounting, clients: Iterable[int], size: int, server: int = 0) -> None:
        """Each of ``clients`` (named once) receives ``size`` bytes from a server."""
        receivers = list(clients)
        self._bytes[kind, "client", "received"][receivers] += size
        self._bytes[kind, "server", "sent"][server] += size * len(receivers)

    def between_servers(self, kind: Accounting, sizes: Sequence[int]) -> None:
        """Every server sends so many bytes to others; what they receive is spread evenly."""
        total, servers = sum(sizes), len(sizes)
        self._bytes[kind, "server", "sent"] += sizes
        self._bytes[kind, "server", "received"] += np.diff([total * rank // servers for rank in range(servers + 1)])

    def of(
        self, kind: Accounting, party: Literal["client", "server"], way: Literal["sent", "received"]
    ) -> npt.NDArray[np.int64]:
        """Bytes of every client, or of every server."""
        return self._bytes[kind, party, way].copy()

    def summary(self) -> dict[str, float]:
        """Mean over the clients that sent anything, and over the servers; the names are in ``COLUMNS``."""
        return {
            f"{party}_{way}_{kind}_bytes": _mean(counts, self._bytes[kind, party, "sent"])
            for (kind, party, way), counts in self._bytes.items()
        }


def _mean(counts: npt.NDArray[np.int64], sent: npt.NDArray[np.int64]) -> float:
    active = sent > 0
    return float(counts[active].mean()) if active.any() else 0.0
