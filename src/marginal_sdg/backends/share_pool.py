"""DistAIM's pool on secret shares: clients upload, three servers compute, and only what is paid for is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from marginal_sdg.backends.pool import Ballot, paper_upload_bytes
from marginal_sdg.crypto.rss import SERVERS, Party, Shares, Words, bits_for
from marginal_sdg.crypto.rss_compare import absolute_sums, argmax
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.crypto.transport import Faults, LocalNetwork, Transcript, Transport, links, run_parties
from marginal_sdg.crypto.upload import Desk, Sender, payload_bytes
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ProtocolError
from marginal_sdg.marginals import Counts, Layout, contingencies
from marginal_sdg.workload import Workload

Uploads = Callable[[int, int, bytes], Sequence[bytes]]  # client, server, message: what arrives of it
Program = Callable[..., Any]

RING = np.dtype(np.uint64)
ATTEMPTS = 3


class _Server:
    """One server's memory: its desk, and its shares of the pooled answers, wave by wave."""

    def __init__(self, rank: int, clients: Sequence[bytes]) -> None:
        self.desk = Desk(rank, clients)
        self.waves: list[Shares] = []
        self.newest = _zeros(0)  # of the clients that joined last, their answers to the first clique

    def gather(self, waves: Sequence[Layout], cliques: Sequence[Clique]) -> Shares:
        """Shares of some cliques' marginals, end to end."""
        if cliques == waves[-1].cliques:
            return self.waves[-1]
        home = {clique: wave for wave, layout in enumerate(waves) for clique in layout.cliques}
        parts = [self.waves[home[clique]][waves[home[clique]].cells_of(clique)] for clique in cliques]
        return Shares(np.concatenate([part.own for part in parts]), np.concatenate([part.next for part in parts]))


class SharePool:
    """A ``Pool`` of three servers, in one process. Clients share answers in waves: all 1-way marginals, then more.

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
        pairs = [[keys() for _ in tables] for _ in range(SERVERS)]
        self._servers = [_Server(rank, pairs[rank]) for rank in range(SERVERS)]
        self._senders = [Sender(client, [pair[client] for pair in pairs], keys) for client in range(len(tables))]
        self._members: list[int] = []
        self._waves: list[Layout] = []
        self._open_wave(Layout(workload.domain, workload.one_way))
        self.transcripts = [Transcript() for _ in range(SERVERS)]
        self.incidents: list[str] = []  # what went wrong and was survived

    # -- clients -----------------------------------------------------------------------------------------------

    def join(self, clients: Sequence[int]) -> tuple[int, ...]:
        """Clients share their answers; one whose messages did not all arrive stays outside and may try again."""
        cells = self._waves[0].sizes[0]
        for server in self._servers:
            server.newest = _zeros(cells)
        joined = []
        for client in clients:
            shared = [self._upload(client, wave) for wave in range(len(self._waves))]
            if all(shared):
                joined.append(client)
                for wave, parts in enumerate(shared):
                    self._pool(wave, parts)
                for server, part in zip(self._servers, shared[0], strict=True):
                    _add(server.newest, part[:cells])
            else:
                self._forget(client, range(len(self._waves)))
        self._members += joined
        self.traffic.to_server("paper", joined, paper_upload_bytes(self._workload))
        return tuple(joined)

    def prepare(self, cliques: Sequence[Clique]) -> tuple[Clique, ...]:
        """Members share what they have not shared yet; all or none of it. Returns the cliques that all have shared."""
        known = {clique for layout in self._waves for clique in layout.cliques}
        if missing := tuple(clique for clique in cliques if clique not in known):
            layout = Layout(self._workload.domain, missing)
            wave = len(self._waves)
            self._open_wave(layout)
            for member in self._members:
                parts = self._upload(member, wave)
                if not parts:
                    self._close_wave(wave)
                    return tuple(clique for clique in cliques if clique in known)
                self._pool(wave, parts)
        return tuple(cliques)

    def _upload(self, client: int, wave: int) -> list[Shares]:
        """One server's shares after the other; an empty list if a server did not get them."""
        answers = contingencies(self._tables[client], self._waves[wave])
        messages = self._senders[client].messages(wave, answers.astype(RING))
        parts = []
        for rank, message in enumerate(messages):
            self.traffic.to_server("ideal", [client], payload_bytes(rank, len(answers), RING.itemsize), rank)
            self.traffic.to_server("wire", [client], len(message), rank)
            for arrived in self._uploads(client, rank, message):
                try:
                    own, following = self._servers[rank].desk.take(client, wave, len(answers), RING, arrived)
                except ProtocolError as error:
                    self.incidents.append(str(error))
                else:
                    parts.append(Shares(own, following))
        if len(parts) < SERVERS:
            self.incidents.append(f"upload of client {client}: did not reach all servers; the client stays outside")
            return []
        return parts

    def _pool(self, wave: int, parts: Sequence[Shares]) -> None:
        for server, part in zip(self._servers, parts, strict=True):
            _add(server.waves[wave], part)

    def _open_wave(self, layout: Layout) -> None:
        self._waves.append(layout)
        for server in self._servers:
            server.waves.append(_zeros(int(layout.offsets[-1])))

    def _close_wave(self, wave: int) -> None:
        del self._waves[wave]
        for member in self._members:
            self._forget(member, [wave])
        for server in self._servers:
            del server.waves[wave]

    def _forget(self, client: int, waves: Sequence[int]) -> None:
        for server in self._servers:
            for wave in waves:
                server.desk.forget(client, wave)

    # -- servers -----------------------------------------------------------------------------------------------

    def size(self, parts: Sequence[Counts]) -> int:
        """Noisy number of records of the clients that joined last."""
        sums = [server.newest.sums(np.zeros(1, dtype=np.int64)) for server in self._servers]
        (size,) = self._run(_measure, sums, _one_each(parts))
        return int(size)

    def select(self, ballot: Ballot, parts: Sequence[Counts]) -> int:
        """The winner's place; nothing else is opened."""
        shares = [server.gather(self._waves, ballot.layout.cliques) for server in self._servers]
        return int(self._run(_select, shares, _one_each(parts), [ballot] * SERVERS))

    def measure(self, cliques: Sequence[Clique], parts: Sequence[Sequence[Counts]]) -> list[Counts]:
        """Noisy marginals."""
        shares = [server.gather(self._waves, tuple(cliques)) for server in self._servers]
        released = self._run(_measure, shares, _one_each([np.concatenate(part) for part in parts]))
        return np.split(released, Layout(self._workload.domain, tuple(cliques)).offsets[1:-1])

    def _run(self, program: Program, *arguments: Sequence[Any]) -> Any:
        """The result of a protocol, the same at all servers."""
        for attempt in range(ATTEMPTS):
            network = LocalNetwork(
                SERVERS, {link: self._keys() for link in links(SERVERS)}, timeout=self._timeout, faults=self._faults
            )
            streams = [self._keys() for _ in range(SERVERS)]
            pairs = [(streams[rank], streams[(rank + 1) % SERVERS]) for rank in range(SERVERS)]
            try:
                results = run_parties(network, program, pairs, *arguments)
            except ProtocolError as error:
                if attempt + 1 == ATTEMPTS:
                    raise
                self.incidents.append(str(error))
            else:
                if not all(np.array_equal(results[0], result) for result in results):
                    raise ProtocolError(
                        "servers: they opened different values; one of them did not follow the protocol"
                    )
                return results[0]
            finally:
                self.traffic.between_servers("ideal", [latest.payload_bytes for latest in network.transcripts])
                self.traffic.between_servers("wire", [latest.wire_bytes for latest in network.transcripts])
                for transcript, latest in zip(self.transcripts, network.transcripts, strict=True):
                    transcript.add(latest)
        raise AssertionError("unreachable")


# -- what each server runs -------------------------------------------------------------------------------------


def _select(net: Transport, keys: tuple[bytes, bytes], shares: Shares, noise: Words, ballot: Ballot) -> int:
    """argmax of weights * ||M - expected||_1 - penalties + noise. Where nothing is expected, |M - 0| is M itself."""
    party = Party(net.rank, net, keys)
    offsets = ballot.layout.offsets
    expecting = ballot.expected > 0
    compared = np.flatnonzero(expecting)
    starts = np.concatenate([[0], np.cumsum(expecting)])[offsets[:-1]]
    difference = party.add_public(shares[compared], -ballot.expected[compared])
    norms = absolute_sums(party, difference, starts, bits_for(ballot.largest_difference))
    norms = norms + shares.sums(offsets[:-1]) - shares[compared].sums(starts)
    scores = party.add_public(norms.scaled(ballot.weights), -ballot.penalties) + party.reshare(noise)
    return argmax(party, scores, bits_for(2 * ballot.largest_score))


def _measure(net: Transport, keys: tuple[bytes, bytes], shares: Shares, noise: Words) -> Counts:
    """The values plus every server's noise."""
    party = Party(net.rank, net, keys)
    return party.open(shares + party.reshare(noise), "noisy counts")


def _one_each(parts: Sequence[Counts]) -> list[Words]:
    """The noise of each server; a single dealer's goes through server 0."""
    silent = [np.zeros_like(parts[0])] * (SERVERS - len(parts))
    return [part.view(np.uint64) for part in (*parts, *silent)]


def _zeros(cells: int) -> Shares:
    return Shares(np.zeros(cells, dtype=RING), np.zeros(cells, dtype=RING))


def _add(total: Shares, part: Shares) -> None:
    np.add(total.own, part.own, out=total.own)
    np.add(total.next, part.next, out=total.next)


def _arrive(client: int, server: int, message: bytes) -> Sequence[bytes]:
    return (message,)
