"""DistAIM's pool as an ideal functionality: the answers of three servers, computed in the clear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from marginal_sdg.backends.pool import Ballot, measure_cost, paper_upload_bytes, select_cost
from marginal_sdg.crypto.rss import SERVERS
from marginal_sdg.crypto.rss_cost import Cost, replicate
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.crypto.upload import RECEIVERS, payload_bytes, wire_bytes
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.marginals import Counts, contingency
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload


class IdealPool:
    """The same functions computed in the clear: for sweeps, and as the oracle of the protocol."""

    def __init__(self, tables: Sequence[Table], workload: Workload) -> None:
        self.traffic = Traffic(len(tables), SERVERS)
        self._tables = tables
        self._workload = workload
        self._shared = set(workload.one_way)  # what every member has shared
        self._members: list[int] = []
        self._latest: tuple[int, ...] = ()
        self._counts: dict[Clique, Counts] = {}

    def join(self, clients: Sequence[int]) -> tuple[int, ...]:
        """Everybody who wants to join does."""
        self._latest = tuple(clients)
        self._members += clients
        self.traffic.to_server("paper", clients, paper_upload_bytes(self._workload))
        self._upload(clients, self._shared)
        newcomers = self._pooled(clients)
        for clique, counts in self._counts.items():
            counts += contingency(newcomers, clique)
        return self._latest

    def prepare(self, cliques: Sequence[Clique]) -> tuple[Clique, ...]:
        """All answers are at hand."""
        if missing := set(cliques) - self._shared:
            self._shared |= missing
            self._upload(self._members, missing)
        return tuple(cliques)

    def _upload(self, clients: Sequence[int], cliques: Iterable[Clique]) -> None:
        cells = sum(map(self._workload.domain.size, cliques))
        for server in range(RECEIVERS):
            self.traffic.to_server("ideal", clients, payload_bytes(server, cells), server)
            self.traffic.to_server("wire", clients, wire_bytes(server, cells), server)
        self._compute(replicate(cells))

    def _compute(self, cost: Cost) -> None:
        self.traffic.between_servers("ideal", cost.payload)
        self.traffic.between_servers("wire", cost.wire)

    def size(self, parts: Sequence[Counts]) -> int:
        """Exact number plus noise."""
        self._compute(measure_cost(1))
        return sum(len(self._tables[client]) for client in self._latest) + sum(int(part[0]) for part in parts)

    def select(self, ballot: Ballot, parts: Sequence[Counts], step: Step | None = None) -> int:
        """Scores in exact integers."""
        self._compute(select_cost(ballot))
        counts = np.concatenate([self._answer(clique) for clique in ballot.layout.cliques])
        norms = np.add.reduceat(np.abs(counts - ballot.expected), ballot.layout.offsets[:-1])
        return int(np.argmax(ballot.weights * norms - ballot.penalties + np.sum(parts, axis=0)))

    def measure(
        self, cliques: Sequence[Clique], parts: Sequence[Sequence[Counts]], step: Step | None = None
    ) -> list[Counts]:
        """Exact counts plus noise."""
        self._compute(measure_cost(sum(map(self._workload.domain.size, cliques))))
        return [self._answer(clique) + np.sum(noise, axis=0) for clique, *noise in zip(cliques, *parts, strict=True)]

    def _answer(self, clique: Clique) -> Counts:
        if clique not in self._counts:
            self._counts[clique] = contingency(self._pooled(self._members), clique)
        return self._counts[clique]

    def _pooled(self, clients: Sequence[int]) -> Table:
        codes = [self._tables[client].codes for client in clients]
        return Table(self._tables[0].domain, np.concatenate(codes))
