"""DistAIM's pool in three server processes that compute with SPU. Nothing here needs SPU itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from marginal_sdg.backends.pool import Ballot, paper_upload_bytes
from marginal_sdg.backends.spu_client import share
from marginal_sdg.backends.spu_servers import Servers
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.identity import Identity
from marginal_sdg.crypto.rss import SERVERS
from marginal_sdg.crypto.spu.questions import (
    Admission,
    Head,
    Holding,
    Measuring,
    Opening,
    Selecting,
    Sharing,
    Step,
    Terms,
    Upload,
    client_role,
    integers,
    pack,
)
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.crypto.upload import RECEIVERS, payload_bytes
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.errors import MarginalSDGError, ProtocolError
from marginal_sdg.marginals import Counts, Layout
from marginal_sdg.schedule import Step as Round
from marginal_sdg.workload import Workload

_AT_ONCE = 32  # clients elsewhere that share
_COHORTS = 3  # of which nobody comes end a pool that is empty


class Clients(Protocol):
    """All clients, wherever they are."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def share(self, asked: Sequence[Sharing]) -> list[MarginalSDGError | None]:
        """Have each of these shared with servers 0 and 1; why not, where that fails."""
        ...


class SpuPool:
    """A ``Pool`` of three servers, which draw the noise. Clients share all 1-way marginals, and more when asked.

    Clients whose answers do not arrive are left out, and ``tell`` hears of each. The first error of any server ends the
    pool; what it had paid for stays paid. ``traffic``: between servers, the bytes that they say they sent, both in the
    "ideal" and in the "wire" accounting; from clients, what has arrived.
    """

    def __init__(
        self,
        clients: Clients,
        workload: Workload,
        servers: Servers,
        terms: Terms,
        size_variance: Fraction,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self.traffic = Traffic(len(clients), SERVERS)
        self._clients = clients
        self._workload = workload
        self._servers = servers
        self._tell = tell
        self._members: list[int] = []
        self._shared = Layout(workload.domain, workload.one_way)  # what every member has shared
        self._waves = 0  # how often clients were asked for answers
        opening = pack(Opening(terms=terms, clients=len(clients), variance=str(size_variance)))
        names = [b"".join(answer).decode() for answer in self._all(Step.OPEN, opening)]
        self._terms = terms.model_copy(update={"session": " ".join(names)})

    # -- clients -----------------------------------------------------------------------------------------------

    def join(self, clients: Sequence[int]) -> tuple[int, ...]:
        """Clients share their answers with servers 0 and 1, which share the sums with server 2."""
        arrived = self._collect(clients, self._shared)
        if arrived:
            self._admit(arrived, self._shared, joins=True)
            self._members += arrived
            self.traffic.to_server("paper", arrived, paper_upload_bytes(self._workload))
        elif not self._members and self._waves >= _COHORTS:
            raise ProtocolError(f"clients: none of those asked came, {self._waves} times; start them first")
        return tuple(arrived)

    def prepare(self, cliques: Sequence[Clique]) -> tuple[Clique, ...]:
        """Members share what they have not shared yet; all or none of it. Returns the cliques that all have shared."""
        shared = self._shared.positions
        if missing := tuple(clique for clique in cliques if clique not in shared):
            layout = Layout(self._workload.domain, missing)
            if self._collect(self._members, layout) != self._members:
                return tuple(clique for clique in cliques if clique in shared)
            self._admit(self._members, layout, joins=False)
            self._shared = Layout(self._workload.domain, (*self._shared.cliques, *missing))
        return tuple(cliques)

    def _collect(self, clients: Sequence[int], layout: Layout) -> list[int]:
        """Those whose answers have come to both receiving servers."""
        self._waves += 1
        domain = self._workload.domain.to_dict()
        asked = Sharing(terms=self._terms, client=0, wave=self._waves, cliques=layout.cliques, domain=domain)
        question = [pack(asked)[0] + np.array(clients, dtype=np.int64).tobytes()]
        ((found,),) = self._servers.once("share", question, lambda _: [[self._shared_now(clients, asked, layout)]])
        arrived = _numbers(found)
        for client in arrived:
            head = Upload(terms=self._terms, client=client, wave=self._waves, sizes=layout.sizes)
            for server in range(RECEIVERS):
                size = payload_bytes(server, int(layout.offsets[-1]))
                self.traffic.to_server("ideal", [client], size, server)
                self.traffic.to_server("wire", [client], len(pack(head)[0]) + size, server)
        return arrived

    def _shared_now(self, clients: Sequence[int], asked: Sharing, layout: Layout) -> bytes:
        """Ask for what the servers do not have; once more where one of them had gone."""
        missing, errors = self._missing(clients, asked.wave, layout), {}
        while missing:
            breaks = self._servers.breaks
            results = self._clients.share([asked.model_copy(update={"client": client}) for client in missing])
            errors = dict(zip(missing, results, strict=True))
            missing = self._missing(missing, asked.wave, layout)
            if self._servers.breaks == breaks:
                break
        for client in missing:
            why = errors[client] or f"client {client}: its answers are not at both servers"
            self._tell({"event": "absent", "client": client, "why": str(why)})
        return np.array([client for client in clients if client not in missing], dtype=np.int64).tobytes()

    def _missing(self, clients: Sequence[int], wave: int, layout: Layout) -> list[int]:
        """Those whose answers are not at both."""
        held = self._servers.live(Step.HELD, pack(Holding(wave=wave, sizes=layout.sizes)))
        both = set.intersection(*(set(_numbers(b"".join(answer[:-1]))) for answer in held[:RECEIVERS]))
        return [client for client in clients if client not in both]

    def _admit(self, clients: Sequence[int], layout: Layout, *, joins: bool) -> None:
        self._all(
            Step.ADMIT, pack(Admission(clients=tuple(clients), wave=self._waves, sizes=layout.sizes, joins=joins))
        )

    # -- servers -----------------------------------------------------------------------------------------------

    def size(self, parts: Sequence[Counts]) -> int:
        """Noisy number of records of the clients that joined last."""
        (size,) = self._open(Step.SIZE, pack(Head()), 1)
        return int(size)

    def select(self, ballot: Ballot, parts: Sequence[Counts], step: Round | None = None) -> int:
        """The winner's place; nothing else is opened."""
        assert step is not None
        vectors = [vector.tobytes() for vector in (ballot.weights, ballot.penalties, ballot.expected)]
        head = Selecting(cliques=self._places(ballot.layout.cliques), epsilon2=str(step.epsilon2))
        (place,) = self._open(Step.SELECT, pack(head, *vectors), 1)
        return int(place)

    def measure(
        self, cliques: Sequence[Clique], parts: Sequence[Sequence[Counts]], step: Round | None = None
    ) -> list[Counts]:
        """Noisy marginals."""
        assert step is not None
        head = Measuring(cliques=self._places(cliques), variance=str(step.variance))
        ends = Layout(self._workload.domain, tuple(cliques)).offsets[1:]
        return np.split(self._open(Step.MEASURE, pack(head), int(ends[-1])), ends[:-1])

    def _places(self, cliques: Sequence[Clique]) -> tuple[int, ...]:
        return tuple(self._shared.positions[clique] for clique in cliques)

    def _open(self, step: Step, question: list[bytes], count: int) -> Counts:
        """What the servers opened, the same at all three: (count,) int64."""
        first, *others = self._all(step, question)
        if any(other != first for other in others):
            raise ProtocolError("servers: they opened different values; one of them did not follow the protocol")
        return integers(b"".join(first), count, "opened values").copy()

    def _all(self, step: Step, question: list[bytes]) -> list[list[bytes]]:
        """Every server's answer."""
        answers = self._servers.ask(step, question)
        sent = [int.from_bytes(answer[-1], "little") if answer else 0 for answer in answers]
        for kind in ("ideal", "wire"):
            self.traffic.between_servers(kind, sent)
        return [answer[:-1] for answer in answers]


def _numbers(words: bytes) -> list[int]:
    """Of clients."""
    return [int(number) for number in integers(words, len(words) // 8, "clients")]


class Here:
    """Clients that the coordinator plays: it has their tables. ``key``: 32 secret bytes."""

    def __init__(self, tables: Sequence[Table], servers: Servers, key: bytes) -> None:
        self._tables = tables
        self._servers = servers
        self._key = key

    def __len__(self) -> int:
        return len(self._tables)

    def share(self, asked: Sequence[Sharing]) -> list[MarginalSDGError | None]:
        """One after the other."""
        return [self._share(one) for one in asked]

    def _share(self, asked: Sharing) -> MarginalSDGError | None:
        try:
            share(self._tables[asked.client], asked, self._key, self._servers.send)
        except ProtocolError as error:
            return error
        return None


class Elsewhere:
    """Clients in processes of their own, at "host:port" in the order of their numbers.

    Each has a quarter of ``timeout``, seconds: servers wait as well, for the coordinator, who must not lose them.
    """

    def __init__(self, addresses: Sequence[str], timeout: float, identity: Path | str | None) -> None:
        self._addresses = addresses
        self._timeout = timeout / 4
        self._identity = Identity.given(identity)

    def __len__(self) -> int:
        return len(self._addresses)

    def share(self, asked: Sequence[Sharing]) -> list[MarginalSDGError | None]:
        """Many at once; one that says nothing is given up."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(self._ask, asked))

    def _ask(self, asked: Sharing) -> MarginalSDGError | None:
        where, name = self._addresses[asked.client], client_role(asked.client)
        try:
            with Channel.connect(where, name, self._timeout, self._identity) as client:
                client.ask(Step.SHARE, pack(asked))
        except ProtocolError as error:
            return error
        return None
