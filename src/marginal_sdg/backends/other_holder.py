"""A data holder that another one asks: it encrypts its own records and noise, and pays from a ledger of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np

from marginal_sdg.backends.agreement import Agreement
from marginal_sdg.backends.distance import Distance
from marginal_sdg.crypto.box import seal
from marginal_sdg.crypto.fhe.holder import DataHolder
from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.parties import KEY_HOLDER, SERVER, Seal, Step, Terms
from marginal_sdg.crypto.identity import Identity
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import DomainError, ProtocolError
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source

Answer = Callable[[Iterator[bytes]], Iterable[bytes]]


@dataclass
class OtherHolder:
    """Answers one session of questions in bytes; ``ProtocolError`` ends it.

    ========  ==========================================================  ==========================================
    step      question                                                    answer
    ========  ==========================================================  ==========================================
    OPEN      agreement, terms, public key, seals of key holder, server   none
    UPLOAD    none                                                        its frames, as they are made
    CHOOSE    how many candidates, epsilon squared                        shares of its noise, each in its box
    MEASURE   which marginals, variance                                   encrypted noise for one after the other
    ========  ==========================================================  ==========================================

    ``table``: its records by its own domain file, which declares all columns, or those that it has of records that
    others have as well; ``limit``: what it agrees to spend in one session; ``account``: the ledger that a session of
    such a budget and group is booked to as well; ``source``: in a session that is repeated, the same bits, so that a
    question has the noise that it had. ``identity``: without one, it is only for one
    machine, and believes whoever asks. Whoever asks learns nothing of the records but what is released, as long as it,
    the server and the key holder do what they should: sensitivities and numbers of cells are worked out here, but that
    scores and sums are made as agreed has to be believed.
    """

    table: Table
    limit: Budget
    account: Callable[[Budget, int], Ledger | None]
    source: Source
    identity: Identity | None = None

    def __post_init__(self) -> None:
        self.partner: Callable[[bytes], bytes] | None = None  # asks nobody
        self._steps: dict[int, Answer] = {Step.OPEN: self._open}

    def ask(self, step: int, chunks: Iterable[bytes]) -> Iterable[bytes]:
        """The answer to one question."""
        if step not in self._steps:
            raise ProtocolError(f"step {step}: not now; a session is opened once, and this role may not have that step")
        return self._steps[step](iter(chunks))

    def _open(self, chunks: Iterator[bytes]) -> list[bytes]:
        question = list(chunks)
        if len(question) != 5:
            raise ProtocolError(f"open: needs 5 byte strings, got {len(question)}")
        agreement, terms = Agreement.unpack(question[0]), Terms.unpack(question[1])
        public_key, seals = question[2], {r: Seal.unpack(m) for r, m in zip(_SEALED, question[3:], strict=True)}
        table = self._agreed(agreement, terms)
        if self.identity is not None:
            for role, sealed in seals.items():
                sealed.check(role, public_key, self.identity)
        budget = Budget(agreement.epsilon, agreement.delta)
        parent = self.account(budget, agreement.group)
        ledger = Ledger(budget, self.source, group=agreement.group, parent=parent)
        session = _Session(table, self.source.key, agreement, terms.layout, public_key, seals, ledger)
        self._steps = {Step.UPLOAD: session.upload, Step.CHOOSE: session.choose, Step.MEASURE: session.measure}
        return []

    def _agreed(self, agreement: Agreement, terms: Terms) -> Table:
        """The table, its columns in the order of all; everything that could be wrong, before anything is encrypted."""
        table = self._in_order(agreement, terms)
        if agreement.split == "columns" and agreement.upload == "marginals":
            raise ProtocolError("upload: no holder of some columns has the marginals; ask for 'records'")
        if agreement.epsilon > self.limit.epsilon or agreement.delta > self.limit.delta:
            raise ProtocolError(
                f"budget: epsilon {agreement.epsilon:g} and delta {agreement.delta:g} are planned, this data holder "
                f"agrees to {self.limit.epsilon:g} and {self.limit.delta:g}"
            )
        if terms.layout.profile.records < agreement.max_records or len(table) > agreement.cap:
            raise ProtocolError(f"records: this data holder has more than its part of the cap, {agreement.cap:,}")
        if agreement.split == "columns" and len(table) != agreement.records:
            raise ProtocolError(
                "records: holders of columns have different numbers; agree on the records and their order"
            )
        return table

    def _in_order(self, agreement: Agreement, terms: Terms) -> Table:
        own = self.table.domain
        try:
            everything = Domain.from_dict(agreement.domain)
        except DomainError as error:
            raise ProtocolError(f"domain: cannot be read ({error})") from None
        names = [name for name in everything if name in own]
        needed = everything if agreement.split == "rows" else own
        if everything.shape != terms.layout.shape or not set(needed) == set(own) == set(names):
            raise ProtocolError(_OTHER_DOMAIN)
        if any(everything[name].to_dict() != own[name].to_dict() for name in names):
            raise ProtocolError(_OTHER_DOMAIN)
        return Table(everything.project(names), np.stack([self.table.column(name) for name in names], axis=1))


class _Session:
    """What an opened session can be asked."""

    def __init__(
        self,
        table: Table,
        keys: Callable[[], bytes],
        agreement: Agreement,
        layout: Layout,
        public_key: bytes,
        seals: dict[str, Seal],
        ledger: Ledger,
    ) -> None:
        self._table, self._keys = table, keys
        self._agreement, self._layout, self._seals, self._ledger = agreement, layout, seals, ledger
        self._holder = DataHolder(layout, public_key, agreement.cap)
        self._distance = Distance(agreement.score, agreement.max_records)
        self._here = (agreement.place,)

    def upload(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The table, or its marginals, encrypted."""
        list(chunks)
        if self._agreement.upload == "records":
            everywhere = list(self._agreement.domain)
            held = [everywhere.index(name) for name in self._table.domain]
            return self._holder.upload_records(self._table.codes.astype(np.int64), held)
        names = self._table.domain.names
        cliques = [tuple(names[attribute] for attribute in clique) for clique in self._layout.cliques]
        return self._holder.upload_counts([contingency(self._table, clique) for clique in cliques])

    def choose(self, chunks: Iterator[bytes]) -> list[bytes]:
        """This holder's part of the noise of a selection: a share for the key holder, one for the server."""
        count, epsilon2 = _fields(chunks, "candidates", "epsilon2")
        if not isinstance(count, int) or not 1 <= count <= len(self._layout.cliques):
            raise ProtocolError(f"choose: {count} candidates of {len(self._layout.cliques)}")
        (noise,) = self._ledger.gumbel_parts(
            count,
            _fraction(epsilon2),
            sensitivity=self._distance.sensitivity,
            bits=self._distance.grid,
            servers=self._agreement.holders,
            by="holders",
            here=self._here,
            what="select a clique",
        ).parts
        mask = Stream(self._keys()).draw(count)
        shares = {KEY_HOLDER: mask, SERVER: noise.view(np.uint64) - mask}
        return [seal(shares[role].tobytes(), self._seals[role].box) for role in _SEALED]

    def measure(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """This holder's part of the noise of some marginals, encrypted."""
        candidates, variance = _fields(chunks, "candidates", "variance")
        known = range(len(self._layout.cliques))
        if not isinstance(candidates, list) or len(set(candidates)) < len(candidates) or set(candidates) - set(known):
            raise ProtocolError("measure: the candidates are not different ones of the agreed cliques")
        noise = self._ledger.gaussian_parts(
            [self._layout.size(candidate) for candidate in candidates],
            _fraction(variance),
            per_record=max(len(candidates), 1),
            servers=self._agreement.holders,
            by="holders",
            here=self._here,
            what=f"measure {len(candidates)} marginals",
        )
        encrypted = map(self._holder.encrypt_noise_of, candidates, noise.parts[0])
        return chain.from_iterable(encrypted)


_SEALED = (KEY_HOLDER, SERVER)
_OTHER_DOMAIN = "domain: this holder's file declares other columns than the one asking; use the same"


def _fields(chunks: Iterable[bytes], *names: str) -> list[Any]:
    try:
        fields = json.loads(b"".join(chunks))
        return [fields[name] for name in names]
    except (ValueError, LookupError, TypeError):
        raise ProtocolError(f"question: does not name {' and '.join(names)}") from None


def _fraction(text: Any) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, TypeError, ZeroDivisionError):
        raise ProtocolError(f"question: {text!r} is no fraction") from None
