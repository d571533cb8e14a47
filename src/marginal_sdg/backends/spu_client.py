"""A client of DistAIM's servers: it shares its marginals with servers 0 and 1, and whoever asks it for them gets none.

Server 0 gets a seed, server 1 the marginals less what the seed expands to: each looks random by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from marginal_sdg.backends.spu_limits import Limits
from marginal_sdg.crypto.channel import Channel
from marginal_sdg.crypto.identity import Identity
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.crypto.spu.questions import Sharing, Step, Upload, pack, role, unpack
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ProtocolError
from marginal_sdg.marginals import Layout, contingencies

Send = Callable[[int, list[bytes]], object]  # a question to the server of that rank


def share(table: Table, asked: Sharing, seed: bytes, send: Send) -> list[int]:
    """Share a client's answers. ``seed``: 32 fresh bytes. Returns how many went to servers 0 and 1."""
    layout = Layout(table.domain, asked.cliques)
    answers = contingencies(table, layout).view(np.uint64)
    Stream(seed).combine(answers, np.subtract)
    head = Upload(terms=asked.terms, client=asked.client, wave=asked.wave, sizes=layout.sizes)
    questions = [pack(head, part) for part in (seed, answers.tobytes())]
    for rank, question in enumerate(questions):
        send(rank, question)
    return [sum(map(len, question)) for question in questions]


@dataclass
class SpuClient:
    """A client in a process of its own: the coordinator asks when, the shares go straight to the servers.

    ``servers``: "host:port" of servers 0 and 1; ``keys``: 32 fresh bytes a call. Before a client shares anything in a
    session, it books the session's whole budget. Of its table, errors tell nothing that is not in its domain file.
    """

    number: int
    table: Table
    limits: Limits
    servers: Sequence[str]
    identity: Identity | None
    timeout: float
    keys: Callable[[], bytes]
    _booked: set[str] = field(default_factory=set)

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """Share what is asked for; the answer is how many bytes went to servers 0 and 1."""
        kind, asked, _ = unpack(step, chunks)
        if kind is not Step.SHARE:
            raise ProtocolError(f"{kind.name.lower()}: is for servers; this is a client")
        if asked.client != self.number:
            raise ProtocolError(f"share: this is client {self.number}, not {asked.client}; check the order of clients")
        if asked.domain != self.table.domain.to_dict():
            raise ProtocolError("domain: the client's file declares other columns than the coordinator's; use the same")
        if asked.terms.session not in self._booked:
            self.limits.book(asked.terms)
            self._booked.add(asked.terms.session)
        sent = share(self.table, asked, self.keys(), self._send)
        return [size.to_bytes(8, "little") for size in sent]

    def _send(self, rank: int, question: list[bytes]) -> None:
        with Channel.connect(self.servers[rank], role(rank), self.timeout, self.identity) as server:
            server.ask(Step.UPLOAD, question)
