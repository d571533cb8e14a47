"""What every client sends and receives, in bytes of the papers' accounting: 8 a word."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

WORD = 8


class Traffic:
    """Bytes per client. A marginal costs its cells and a number of records; a download the model's cells.

    Source: FLAIM §5.3, as its code counts them.
    """

    def __init__(self, clients: int) -> None:
        self.sent = np.zeros(clients, dtype=np.int64)
        self.received = np.zeros(clients, dtype=np.int64)

    def upload(self, clients: Iterable[int], cells: int) -> None:
        """Each of ``clients`` sends the name of a clique, its marginal and its size."""
        self.sent[list(clients)] += WORD * (cells + 2)

    def download(self, clients: Iterable[int], cells: int) -> None:
        """Each of ``clients`` receives the model."""
        self.received[list(clients)] += WORD * cells

    def summary(self) -> dict[str, float]:
        """Mean bytes over the clients that took part, and what passed through the server."""
        active = self.sent > 0
        if not active.any():
            return {"client_sent_bytes": 0.0, "client_received_bytes": 0.0, "server_bytes": 0.0}
        return {
            "client_sent_bytes": float(self.sent[active].mean()),
            "client_received_bytes": float(self.received[active].mean()),
            "server_bytes": float(self.sent.sum() + self.received.sum()),
        }
