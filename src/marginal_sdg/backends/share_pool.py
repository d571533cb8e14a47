"""DistAIM's pool on secret shares: clients upload, three servers compute, and only what is paid for is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from marginal_sdg.backends.pool import Ballot, one_each, paper_upload_bytes
from marginal_sdg.crypto.rss import SERVERS, Party, Shares, Words, bits_for, end_to_end
from marginal_sdg.crypto.rss_compare import absolute_sums, argmax
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.crypto.transport import Faults, LocalNetwork, Transcript, Transport, links, run_parties
from marginal_sdg.crypto.upload import RECEIVERS, Desk, Message, Sender, payload_bytes
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ProtocolError
from marginal_sdg.marginals import Counts, Layout, contingencies
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

Uploads = Callable[[int, int, Message], Sequence[Message]]  # client, server, message: what arrives of it
Program = Callable[..., Any]

ATTEMPTS = 3


class SharePool:
    """A ``Pool`` of three servers, in one process. Clients share all 1-way marginals, and more when asked for more.

    ``keys``: 32 fresh bytes a call. A protocol run that fails on the way is repeated with new keys and the same noise:
    whatever is opened is the same, so nothing is released twice. After three failures its error is raised. ``faults``
    (see ``LocalNetwork``) and ``uploads`` inject faults, the latter into clients' messages.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        workload: Workload,
        keys: Callable[[], bytes],
        *,
        timeout: float = 60.0,
        faults: Faults | None = None,
        uploads: Uploads | None = None,
    ) -> None:
        self.traffic = Traffic(len(tables), SERVERS)
        self._tables = tables
        self._workload = workload
        self._keys = keys
        self._timeout = timeout
        self._faults = faults
        self._uploads = uploads or _arrive
        pairs = [[keys() for _ in tables] for _ in range(RECEIVERS)]
        self._desks = [Desk(rank, pairs[rank]) for rank in range(RECEIVERS)]
        self._senders = [Sender(client, [pair[client] for pair in pairs], keys) for client in range(len(tables))]
        self._members: list[int] = []
        self._shared = Layout(workload.domain, workload.one_way)  # what every member has shared
        nothing = np.zeros(self._shared.offsets[-1], dtype=np.uint64)
        self._pool = [Shares(nothing, nothing)] * SERVERS  # each server's, of the members' answers
        self._newest = self._pool  # of those of the members that joined last
        self._servers: _Servers | None = None  # those of the last run, unless it failed
        self._requests = 0  # how often clients were asked for answers
        self.transcripts = [Transcript() for _ in range(SERVERS)]
        self.incidents: list[str] = []  # what went wrong and was survived

    # -- clients -----------------------------------------------------------------------------------------------

    def join(self, clients: Sequence[int]) -> tuple[int, ...]:
        """Clients share their answers; one whose messages did not all arrive stays outside and may try again."""
        joined, sums = self._collect(clients, self._shared)
        self._newest = self._replicate(sums)
        self._pool = [pool + newest for pool, newest in zip(self._pool, self._newest, strict=True)]
        self._members += joined
        self.traffic.to_server("paper", joined, paper_upload_bytes(self._workload))
        return tuple(joined)

    def prepare(self, cliques: Sequence[Clique]) -> tuple[Clique, ...]:
        """Members share what they have not shared yet; all or none of it. Returns the cliques that all have shared."""
        shared = self._shared.positions
        if missing := tuple(clique for clique in cliques if clique not in shared):
            layout = Layout(self._workload.domain, missing)
            arrived, sums = self._collect(self._members, layout)
            if arrived != self._members:
                return tuple(clique for clique in cliques if clique in shared)
            self._pool = [end_to_end(parts) for parts in zip(self._pool, self._replicate(sums), strict=True)]
            self._shared = Layout(self._workload.domain, (*self._shared.cliques, *missing))
        return tuple(cliques)

    def _collect(self, clients: Sequence[int], layout: Layout) -> tuple[list[int], list[Words]]:
        """The clients whose answers reached both receiving servers, and what each of these has added up."""
        self._requests += 1
        sums = [np.zeros(layout.offsets[-1], dtype=np.uint64) for _ in self._desks]
        complete = []
        for client in clients:
            payloads = self._upload(client, contingencies(self._tables[client], layout).view(np.uint64))
            if len(payloads) == RECEIVERS:
                complete.append(client)
                for desk, payload, total in zip(self._desks, payloads, sums, strict=True):
                    desk.add(payload, total)
            else:
                self.incidents.append(f"upload of client {client}: did not reach both servers; it does not count")
        return complete, sums

    def _upload(self, client: int, answers: Words) -> list[bytes]:
        """What one receiving server after the other got and took."""
        payloads = []
        for rank, message in enumerate(self._senders[client].messages(self._requests, answers)):
            self.traffic.to_server("ideal", [client], payload_bytes(rank, len(answers)), rank)
            self.traffic.to_server("wire", [client], len(message), rank)
            for arrived in self._uploads(client, rank, message):
                try:
                    payloads.append(self._desks[rank].take(client, self._requests, len(answers), arrived))
                except ProtocolError as error:
                    self.incidents.append(str(error))
        return payloads

    # -- servers -----------------------------------------------------------------------------------------------

    def _replicate(self, sums: Sequence[Words]) -> list[Shares]:
        """Each server's replicated shares of what the receiving servers have added up."""
        return self._run(_replicate, [*sums, np.zeros_like(sums[0])])

    def size(self, parts: Sequence[Counts]) -> int:
        """Noisy number of records of the clients that joined last."""
        cells = self._shared.sizes[0]
        sums = [newest[:cells].sums(np.zeros(1, dtype=np.int64)) for newest in self._newest]
        (size,) = self._open(_measure, sums, _one_each(parts))
        return int(size)

    def select(self, ballot: Ballot, parts: Sequence[Counts], step: Step | None = None) -> int:
        """The winner's place; nothing else is opened."""
        return int(self._open(_select, self._gather(ballot.layout.cliques), _one_each(parts), [ballot] * SERVERS))

    def measure(
        self, cliques: Sequence[Clique], parts: Sequence[Sequence[Counts]], step: Step | None = None
    ) -> list[Counts]:
        """Noisy marginals."""
        released = self._open(_measure, self._gather(cliques), _one_each([np.concatenate(part) for part in parts]))
        return np.split(released, Layout(self._workload.domain, tuple(cliques)).offsets[1:-1])

    def _gather(self, cliques: Sequence[Clique]) -> list[Shares]:
        """Each server's shares of the pool's answers to some cliques, end to end."""
        cells = [self._shared.cells_of(clique) for clique in cliques]
        if all(before.stop == after.start for before, after in pairwise(cells)):
            return [pool[cells[0].start : cells[-1].stop] for pool in self._pool]  # nothing to copy
        return [end_to_end([pool[part] for part in cells]) for pool in self._pool]

    def _open(self, program: Program, *arguments: Sequence[Any]) -> Any:
        """The result of a protocol, the same at all servers."""
        first, *others = self._run(program, *arguments)
        if not all(np.array_equal(first, other) for other in others):
            raise ProtocolError("servers: they opened different values; one of them did not follow the protocol")
        return first

    def _run(self, program: Program, *arguments: Sequence[Any]) -> list[Any]:
        """Every server's result of a protocol."""
        for attempt in range(ATTEMPTS):
            servers, self._servers = self._servers or _Servers(self._keys, self._faults), None
            try:
                results = run_parties(servers.network, program, servers.parties, *arguments)
            except ProtocolError as error:
                if attempt + 1 == ATTEMPTS:
                    raise
                self.incidents.append(str(error))
            else:
                self._servers = servers  # nothing failed: their keys serve on
                return results
            finally:
                latest = servers.network.take_transcripts()
                self.traffic.between_servers("ideal", [part.payload_bytes for part in latest])
                self.traffic.between_servers("wire", [part.wire_bytes for part in latest])
                for transcript, part in zip(self.transcripts, latest, strict=True):
                    transcript.add(part)
        raise AssertionError("unreachable")


class _Servers:
    """Three servers that have agreed on fresh keys."""

    def __init__(self, keys: Callable[[], bytes], faults: Faults | None) -> None:
        self.network = LocalNetwork(SERVERS, {link: keys() for link in links(SERVERS)}, faults=faults)
        streams = [keys() for _ in range(SERVERS)]
        self.parties = [
            Party(rank, endpoint, (streams[rank], streams[(rank + 1) % SERVERS]))
            for rank, endpoint in enumerate(self.network.endpoints)
        ]


# -- what each server runs -------------------------------------------------------------------------------------


def _replicate(_: Transport, party: Party, summand: Words) -> Shares:
    """Shares of the sum of what the receiving servers hold."""
    return party.replicate(summand)


def _select(_: Transport, party: Party, shares: Shares, noise: Words, ballot: Ballot) -> int:
    """argmax of weights * ||M - expected||_1 - penalties + noise."""
    counts = shares[ballot.compared]
    difference = party.add_public(counts, -ballot.expected[ballot.compared])
    norms = absolute_sums(party, difference, ballot.compared_starts, bits_for(ballot.largest_difference))
    norms = norms + shares.sums(ballot.layout.offsets[:-1]) - counts.sums(ballot.compared_starts)
    scores = party.add_public(norms.scaled(ballot.weights), -ballot.penalties) + party.reshare(noise)
    return argmax(party, scores, bits_for(2 * ballot.largest_score))


def _measure(_: Transport, party: Party, shares: Shares, noise: Words) -> Counts:
    """The values plus every server's noise."""
    return party.open(shares + party.reshare(noise), "noisy counts")


def _one_each(parts: Sequence[Counts]) -> list[Words]:
    """The noise of each server, as words."""
    return [part.view(np.uint64) for part in one_each(parts)]


def _arrive(client: int, server: int, message: Message) -> Sequence[Message]:
    return (message,)
