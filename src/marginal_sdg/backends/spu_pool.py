"""DistAIM's pool in three server processes that compute with SPU. Nothing here needs SPU itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

import numpy as np

from marginal_sdg.backends.pool import Ballot, one_each, paper_upload_bytes
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.identity import Identity
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.crypto.rss import SERVERS, bits_for
from marginal_sdg.crypto.spu.questions import Admission, Opening, Parts, Size, Step, Upload, integers, pack, role
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.crypto.upload import payload_bytes
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.marginals import Counts, Layout, contingencies
from marginal_sdg.workload import Workload


class Service(Protocol):
    """A server, wherever it runs: a ``Channel`` to it."""

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """Its answer; ``ProtocolError`` where it has none."""
        ...


class SpuPool:
    """A ``Pool`` of three services. Clients share all 1-way marginals, and more when asked for more.

    ``keys``: 32 fresh bytes a call. The first error of any server ends the pool; what it had paid for stays paid.
    ``traffic``: between servers, the bytes that they say they sent, both in the "ideal" and in the "wire" accounting.
    """

    def __init__(
        self, tables: Sequence[Table], workload: Workload, services: Sequence[Service], keys: Callable[[], bytes]
    ) -> None:
        self.traffic = Traffic(len(tables), SERVERS)
        self._tables = tables
        self._workload = workload
        self._services = services
        self._keys = keys
        self._members: list[int] = []
        self._shared = Layout(workload.domain, workload.one_way)  # what every member has shared
        self._waves = 0  # how often clients were asked for answers
        self._all(Step.OPEN, [pack(Opening(session=keys().hex()))] * SERVERS)

    # -- clients -----------------------------------------------------------------------------------------------

    def join(self, clients: Sequence[int]) -> tuple[int, ...]:
        """Clients share their answers with servers 0 and 1, which share the sums with server 2."""
        self._collect(clients, self._shared, joins=True)
        self._members += clients
        self.traffic.to_server("paper", clients, paper_upload_bytes(self._workload))
        return tuple(clients)

    def prepare(self, cliques: Sequence[Clique]) -> tuple[Clique, ...]:
        """Members share what they have not shared yet."""
        shared = self._shared.positions
        if missing := tuple(clique for clique in cliques if clique not in shared):
            self._collect(self._members, Layout(self._workload.domain, missing), joins=False)
            self._shared = Layout(self._workload.domain, (*self._shared.cliques, *missing))
        return tuple(cliques)

    def _collect(self, clients: Sequence[int], layout: Layout, *, joins: bool) -> None:
        self._waves += 1
        cells = int(layout.offsets[-1])
        for client in clients:
            answers = contingencies(self._tables[client], layout).view(np.uint64)
            seed = self._keys()
            Stream(seed).combine(answers, np.subtract)
            for server, share in enumerate((seed, answers.tobytes())):
                question = pack(Upload(client=client, wave=self._waves, cells=cells), share)
                self._services[server].ask(Step.UPLOAD, question)
                self.traffic.to_server("ideal", [client], payload_bytes(server, cells), server)
                self.traffic.to_server("wire", [client], sum(map(len, question)), server)
        admission = Admission(clients=tuple(clients), wave=self._waves, cells=cells, joins=joins)
        self._all(Step.ADMIT, [pack(admission)] * SERVERS)

    # -- servers -----------------------------------------------------------------------------------------------

    def size(self, parts: Sequence[Counts]) -> int:
        """Noisy number of records of the clients that joined last."""
        head = Size(cells=self._shared.sizes[0])
        (size,) = self._open(Step.SIZE, [pack(head, part.tobytes()) for part in one_each(parts)], 1)
        return int(size)

    def select(self, ballot: Ballot, parts: Sequence[Counts]) -> int:
        """The winner's place; nothing else is opened."""
        bits_for(2 * ballot.largest_score)  # no difference of scores wraps
        public = [vector.tobytes() for vector in (ballot.weights, ballot.penalties)]
        head, expected = self._parts(ballot.layout.cliques), ballot.expected.tobytes()
        questions = [pack(head, *public, part.tobytes(), expected) for part in one_each(parts)]
        (place,) = self._open(Step.SELECT, questions, 1)
        return int(place)

    def measure(self, cliques: Sequence[Clique], parts: Sequence[Sequence[Counts]]) -> list[Counts]:
        """Noisy marginals."""
        head = self._parts(cliques)
        ends = Layout(self._workload.domain, tuple(cliques)).offsets[1:]
        noise = one_each([np.concatenate(part) for part in parts])
        released = self._open(Step.MEASURE, [pack(head, part.tobytes()) for part in noise], int(ends[-1]))
        return np.split(released, ends[:-1])

    def _parts(self, cliques: Sequence[Clique]) -> Parts:
        cells = [self._shared.cells_of(clique) for clique in cliques]
        return Parts(parts=tuple((part.start, part.stop) for part in cells))

    def _open(self, step: Step, questions: Sequence[list[bytes]], count: int) -> Counts:
        """What the servers opened, the same at all three: (count,) int64."""
        first, *others = self._all(step, questions)
        if any(other != first for other in others):
            raise ProtocolError("servers: they opened different values; one of them did not follow the protocol")
        return integers(b"".join(first), count, "opened values").copy()

    def _all(self, step: Step, questions: Sequence[list[bytes]]) -> list[list[bytes]]:
        """Every server's answer: they need each other for it. The first error of any is raised at once."""
        done: SimpleQueue[tuple[int, list[bytes] | Exception]] = SimpleQueue()

        def ask(rank: int) -> None:
            try:
                done.put((rank, self._services[rank].ask(step, questions[rank])))
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
