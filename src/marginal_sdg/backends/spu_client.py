"""A client of DistAIM's servers: it shares its marginals with servers 0 and 1, and whoever asks it for them gets none.

Server 0 gets a seed, server 1 the marginals less what the seed expands to: each looks random by itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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


def share(table: Table, asked: Sharing, key: bytes, send: Send) -> None:
    """Share a client's answers. ``key``: 32 secret bytes of the client.

    The seed is made of it, of the question and of the answers: who is asked the same once more, as a server did not
    hear it, sends the same, and nothing else is ever hidden by the same seed.
    """
    layout = Layout(table.domain, asked.cliques)
    answers = contingencies(table, layout).view(np.uint64)
    seed = hmac.digest(key, b"".join([*pack(asked), answers.tobytes()]), "sha256")
    Stream(seed).combine(answers, np.subtract)
    head = Upload(terms=asked.terms, client=asked.client, wave=asked.wave, sizes=layout.sizes)
    for rank, part in enumerate((seed, answers.tobytes())):
        send(rank, pack(head, part))


@dataclass
class SpuClient:
    """A client in a process of its own: the coordinator asks when, the shares go straight to the servers.

    ``servers``: "host:port" of servers 0 and 1; ``key``: 32 fresh secret bytes. Before a client shares anything in a
    session, it books the session's whole budget, once. Of its table, errors tell nothing that is not in its domain
    file.
    """

    number: int
    table: Table
    limits: Limits
    servers: Sequence[str]
    identity: Identity | None
    timeout: float
    key: bytes

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """Share what is asked for."""
        kind, asked, _ = unpack(step, chunks)
        if kind is not Step.SHARE:
            raise ProtocolError(f"{kind.name.lower()}: is for servers; this is a client")
        if asked.client != self.number:
            raise ProtocolError(f"share: this is client {self.number}, not {asked.client}; check the order of clients")
        if asked.domain != self.table.domain.to_dict():
            raise ProtocolError("domain: the client's file declares other columns than the coordinator's; use the same")
        self.limits.book(asked.terms, asked.terms.session)
        share(self.table, asked, self.key, self._send)
        return []

    def _send(self, rank: int, question: list[bytes]) -> None:
        with Channel.connect(self.servers[rank], role(rank), self.timeout, self.identity) as server:
            server.ask(Step.UPLOAD, question)
