"""DistAIM's pool in three server processes that compute with SPU. Nothing here needs SPU itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

import numpy as np

from marginal_sdg.backends.pool import Ballot, paper_upload_bytes
from marginal_sdg.backends.spu_client import share
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.identity import Identity
from marginal_sdg.crypto.rss import SERVERS
from marginal_sdg.crypto.spu.questions import (
    Admission,
    Head,
    Measuring,
    Opening,
    Selecting,
    Sharing,
    Step,
    Terms,
    client_role,
    integers,
    pack,
    role,
)
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.crypto.upload import payload_bytes
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, MarginalSDGError, ProtocolError
from marginal_sdg.marginals import Counts, Layout
from marginal_sdg.schedule import Step as Round
from marginal_sdg.workload import Workload

_AT_ONCE = 32  # clients elsewhere that share
_COHORTS = 3  # of which nobody comes end a pool that is empty


class Service(Protocol):
    """A server, wherever it runs: a ``Channel`` to it."""

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """Its answer; ``ProtocolError`` where it has none."""
        ...


class Clients(Protocol):
    """All clients, wherever they are."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def share(self, asked: Sequence[Sharing]) -> list[list[int] | MarginalSDGError]:
        """Have each of these shared with servers 0 and 1: how many bytes went to each, or why not."""
        ...


class SpuPool:
    """A ``Pool`` of three services, which draw the noise. Clients share all 1-way marginals, and more when asked.

    Clients whose answers do not arrive are left out, and ``tell`` hears of each. The first error of any server ends the
    pool; what it had paid for stays paid. ``traffic``: between servers, the bytes that they say they sent, both in the
    "ideal" and in the "wire" accounting.
    """

    def __init__(
        self,
        clients: Clients,
        workload: Workload,
        services: Sequence[Service],
        terms: Terms,
        size_variance: Fraction,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self.traffic = Traffic(len(clients), SERVERS)
        self._clients = clients
        self._workload = workload
        self._services = services
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
        asked = partial(Sharing, terms=self._terms, wave=self._waves, cliques=layout.cliques, domain=domain)
        arrived = []
        results = self._clients.share([asked(client=client) for client in clients])
        for client, sent in zip(clients, results, strict=True):
            if isinstance(sent, MarginalSDGError):
                self._tell({"event": "absent", "client": client, "why": str(sent)})
                continue
            arrived.append(client)
            for server, size in enumerate(sent):
                self.traffic.to_server("ideal", [client], payload_bytes(server, int(layout.offsets[-1])), server)
                self.traffic.to_server("wire", [client], size, server)
        return arrived

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
        """Every server's answer: they need each other for it. The first error of any is raised at once."""
        done: SimpleQueue[tuple[int, list[bytes] | Exception]] = SimpleQueue()

        def ask(rank: int) -> None:
            try:
                done.put((rank, self._services[rank].ask(step, question)))
            except Exception as error:
                done.put((rank, error))

        for rank in range(SERVERS):
            Thread(target=ask, args=(rank,), daemon=True).start()
        answers: list[list[bytes]] = [[]] * SERVERS
        for _ in range(SERVERS):
            rank, answer = done.get()
            if isinstance(answer, Exception):
                raise answer
            answers[rank] = answer
        sent = [int.from_bytes(answer[-1], "little") if answer else 0 for answer in answers]
        for kind in ("ideal", "wire"):
            self.traffic.between_servers(kind, sent)
        return [answer[:-1] for answer in answers]


class Here:
    """Clients that the coordinator plays: it has their tables. ``keys``: 32 fresh bytes a call."""

    def __init__(self, tables: Sequence[Table], services: Sequence[Service], keys: Callable[[], bytes]) -> None:
        self._tables = tables
        self._services = services
        self._keys = keys

    def __len__(self) -> int:
        return len(self._tables)

    def share(self, asked: Sequence[Sharing]) -> list[list[int] | MarginalSDGError]:
        """One after the other."""
        return [share(self._tables[one.client], one, self._keys(), self._send) for one in asked]

    def _send(self, rank: int, question: list[bytes]) -> None:
        self._services[rank].ask(Step.UPLOAD, question)


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

    def share(self, asked: Sequence[Sharing]) -> list[list[int] | MarginalSDGError]:
        """Many at once; one that says nothing is given up."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(self._ask, asked))

    def _ask(self, asked: Sharing) -> list[int] | MarginalSDGError:
        where, name = self._addresses[asked.client], client_role(asked.client)
        try:
            with Channel.connect(where, name, self._timeout, self._identity) as client:
                answer = client.ask(Step.SHARE, pack(asked))
        except ProtocolError as error:
            return error
        return [int(size) for size in integers(b"".join(answer), 2, name)]


def connected(
    addresses: Sequence[str], timeout: float, connections: ExitStack, identity: Path | str | None
) -> list[Channel]:
    """Channels to servers 0, 1 and 2, which end with ``connections``."""
    if len(addresses) != SERVERS or isinstance(addresses, str):
        raise ConfigError(f"servers: engine 'spu' needs a list with the addresses of three, got {addresses!r}")
    if not timeout > 0:
        raise ConfigError(f"timeout: must be a positive number of seconds, got {timeout}")
    own = Identity.given(identity)
    return [
        connections.enter_context(Channel.connect(where, role(rank), timeout, own))
        for rank, where in enumerate(addresses)
    ]
