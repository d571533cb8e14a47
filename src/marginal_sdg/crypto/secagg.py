"""Secure aggregation: the server learns the sum of the clients' integer vectors and nothing else of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from marginal_sdg.errors import ProtocolError

Counts = npt.NDArray[np.int64]


class SecureSum(Protocol):
    """One aggregation among the clients of a cohort."""

    def __call__(self, contributions: Mapping[int, Counts]) -> tuple[Counts, tuple[int, ...]]:
        """Return the exact sum over the clients that stayed to the end, and who they were."""
        ...


class IdealSecureSum:
    """The ideal functionality: an exact integer sum, computed in the clear by the simulation.

    ``dropout(client) -> bool`` makes a client vanish after it has joined; its vector is then not in the sum.
    """

    def __init__(self, dropout: Callable[[int], bool] | None = None) -> None:
        self._dropout = dropout or (lambda client: False)

    def __call__(self, contributions: Mapping[int, Counts]) -> tuple[Counts, tuple[int, ...]]:
        """Sum the vectors of the surviving clients; a zero vector when none survives."""
        if not contributions:
            raise ProtocolError("secure aggregation: the cohort is empty")
        shapes = {vector.shape for vector in contributions.values()}
        if len(shapes) != 1:
            raise ProtocolError("secure aggregation: the clients' vectors have different lengths")
        survivors = tuple(client for client in contributions if not self._dropout(client))
        total = np.zeros(shapes.pop(), dtype=np.int64)
        for client in survivors:
            total += contributions[client]
        return total, survivors
