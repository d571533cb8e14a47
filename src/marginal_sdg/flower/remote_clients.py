"""Clients that share nothing with the server but messages: they pick and pay at home, their sums are masked.

The sums are our own protocol (``crypto/masking.py``) and not Flower's SecAgg+, whose masks come from 28 or 32 bits by a
Mersenne Twister, and which has no sum when a client leaves early (docs/pages/concepts/flaim.md compares them).

A client that does not answer in time has dropped out of the sum. Where fewer stay than the threshold (two thirds, of
small cohorts), or than ``least``, those who are missing are asked the same again, until they answer or ``patience`` is
over: then the fit ends, and nothing is released. They are never replaced, and no sum is begun anew without them: all
have paid for it, and two sums of other clients, or of other noise, would say what neither says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from marginal_sdg.backends.base import pick_from
from marginal_sdg.backends.clients import Ballot, Clients, Counts, Question, Sum, ends_of, read_sums
from marginal_sdg.backends.sum_noise import SumNoise
from marginal_sdg.backends.variants import VARIANTS, Variant
from marginal_sdg.crypto.graph import Graph
from marginal_sdg.crypto.masking import ANSWERS, MaskingServer
from marginal_sdg.crypto.secagg import HEADER_BYTES, ID_BYTES, KEY_BYTES, LARGEST, enough, ring_bytes
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.domain import Clique
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.flower.journal import Journal
from marginal_sdg.flower.messages import (
    ENROL,
    KEYS,
    MASKED,
    SELECT,
    SHARES,
    UNMASK,
    Fields,
    Value,
    Wire,
    packed,
    size_of,
    take,
)
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Charge, Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

PAUSE = 1.0  # seconds before those who are missing are asked again
Check = Callable[[Collection[int]], None]  # raises ProtocolError where those who have answered are too few


@dataclass(frozen=True)
class RemoteFederation:
    """Clients at the other end of ``wire``; ``least`` of them must stand behind every sum.

    ``journal``: keeps what they answer, so that the fit can be started again; then they must add the noise.
    ``patience``: seconds that a question waits, beyond the wire's own, for clients without whom the fit would end.
    """

    wire: Wire
    least: int = 2
    journal: Journal | None = None
    patience: float = 0.0

    @property
    def public(self) -> Source | None:
        """The journal's."""
        return None if self.journal is None else self.journal.source()

    def recruit(
        self,
        workload: Workload,
        variant: Variant,
        budget: Budget,
        group: int,
        source: Source,
        colluding: int | None,
    ) -> Clients:
        """The clients, as told what the fit is about."""
        if len(self.wire) < self.least:
            raise ProtocolError(f"clients: {len(self.wire)} are there, and {self.least} must stand behind every sum")
        if colluding is not None and self.least <= colluding:
            raise ConfigError(f"colluding: {colluding} of least={self.least} clients leave none to add noise; lower it")
        if colluding is None and self.journal is not None:
            raise ConfigError("noise: the server's would be drawn again by a server that goes on; it must be 'clients'")
        noise = None if colluding is None else SumNoise(colluding, self.least)
        return RemoteClients(self, workload, variant, budget, group, source, noise)


class RemoteClients:
    """The clients of one fit; they are numbered as the wire numbers them.

    ``traffic``: under ``wire`` what is in the messages, without what Flower adds; under ``paper`` nothing.
    """

    def __init__(
        self,
        federation: RemoteFederation,
        workload: Workload,
        variant: Variant,
        budget: Budget,
        group: int,
        source: Source,
        noise: SumNoise | None,
    ) -> None:
        self.traffic = Traffic(len(federation.wire))
        self._wire = federation.wire
        self._least = federation.least
        self._journal = federation.journal
        self._patience = federation.patience
        self._workload = workload
        self._variant = variant
        self._source = source
        self._noise = noise
        self._sums = 0
        self._sizes: list[float] = []
        self._terms: dict[str, Any] = {
            "fit": "" if federation.journal is None else federation.journal.fit,
            "domain": workload.domain.to_dict(),
            "cliques": workload.cliques,
            "weights": workload.weights,
            "closed": workload.closed,
            "variant": next(name for name, known in VARIANTS.items() if known == variant),
            "epsilon": budget.epsilon,
            "delta": budget.delta,
            "group": group,
            "noise": None if noise is None else vars(noise),
        }

    def __len__(self) -> int:
        return len(self._wire)

    def _ask(self, kind: str, questions: Mapping[int, Fields], check: Check) -> dict[int, Fields]:
        """One question to some clients; those who answer in time. An error at any of them ends the fit."""
        sent: dict[int, Fields] = {k: {"kind": kind, **fields} for k, fields in questions.items()}
        self._count(sent)

        def enough(there: Collection[int]) -> None:
            if len(there) < self._least:
                raise ProtocolError(
                    f"{kind}: {len(there)} of {len(sent)} clients answered, {self._least} must; run it again"
                )
            check(there)

        def ask() -> dict[int, Fields]:
            return self._patiently(sent, enough)

        answers = ask() if self._journal is None else self._journal.ask(kind, sent, ask)
        for k, fields in answers.items():
            self.traffic.to_server("wire", [k], size_of(fields))
        return {k: answers[k] for k in sent if k in answers}

    def _patiently(self, sent: Mapping[int, Fields], enough: Check) -> dict[int, Fields]:
        """Ask the same again of those who have not answered, while they are missed."""
        end = time.monotonic() + self._patience
        answers = self._wire.ask(sent)
        while True:
            self._refuse_errors(answers)
            try:
                enough(answers)
                return answers
            except ProtocolError:
                if time.monotonic() >= end:
                    raise
            time.sleep(PAUSE)
            missing = {k: fields for k, fields in sent.items() if k not in answers}
            self._count(missing)
            answers |= self._wire.ask(missing)

    def _count(self, sent: Mapping[int, Fields]) -> None:
        for k, fields in sent.items():
            self.traffic.to_clients("wire", [k], size_of(fields))

    def _refuse_errors(self, answers: Mapping[int, Fields]) -> None:
        for k, fields in answers.items():
            if "error" in fields:
                raise ProtocolError(f"client {k}: {take(fields, 'error', str)}")

    def enrol(self, variance: Fraction | None, ledger: Ledger) -> list[float]:
        """Every client's noisy size, drawn by itself. All must answer: who is there is settled by this."""
        assert variance is not None, "clients elsewhere have noisy sizes only"
        ledger.charge(Charge("size of each client", "gaussian", variance, 1, "client", ledger.group))
        terms = {**self._terms, "variance": str(variance)}
        questions = {k: {"terms": json.dumps({**terms, "client": k})} for k in range(len(self))}
        answers = self._ask(ENROL, questions, self._all_there)
        self._sizes = [float(take(answers[k], "size", int)) for k in range(len(self))]
        return self._sizes

    def _all_there(self, there: Collection[int]) -> None:
        missing = [k for k in range(len(self)) if k not in there]
        if missing:
            raise ProtocolError(f"enrol: client {missing[0]} did not answer in time; start it, or run with fewer")

    def select(self, ballot: Ballot, ledger: Ledger) -> dict[Clique, tuple[int, ...]]:
        """What was picked, most votes first; nobody learns by whom, so all participants may contribute to all of it."""
        assert ballot.padded, "clients elsewhere vote"
        participants, state, step = ballot.participants, ballot.state, ballot.step
        scale = max(1.0, *(self._sizes[k] for k in participants))
        skewed, ways = self._variant.skewed, self._variant.ways
        candidates = pick_from(state, step, scale, sound=True, heterogeneity=skewed, ways=ways)
        places = {clique: place for place, clique in enumerate(self._workload.closure)}
        what = f"round {step.index + 1}: clients select"
        ledger.charge(Charge(what, "exponential", step.epsilon2, 1, "client", ledger.group))
        question: Fields = {
            "round": step.index,
            "variance": str(step.variance),
            "epsilon2": str(step.epsilon2),
            "places": [places[clique] for clique in candidates.layout.cliques],
            "model": packed(state.model.distribution(candidates.layout)),
            "reference": packed(np.concatenate(list(ballot.reference.values()) or [np.empty(0)])),
        }
        voters = tuple(self._ask(SELECT, dict.fromkeys(participants, question), lambda there: None))
        ((votes, _, _),) = self._add([_Vector(voters, len(places), len(voters), {"cliques": None})])
        picked = sorted(np.flatnonzero(votes).tolist(), key=lambda place: -int(votes[place]))
        return {self._workload.closure[place]: voters for place in picked}

    def sums(self, questions: Sequence[Question], step: Step) -> list[Sum]:
        """All secure sums at once."""
        asked = [question for question in questions if question.requests]
        ends = [ends_of(self._workload.domain, question.requests) for question in asked]
        vectors = [
            _Vector(
                question.cohort,
                end[-1],
                LARGEST,
                {"cliques": [(r.clique, r.picked) for r in question.requests], "variance": str(step.variance)},
            )
            for question, end in zip(asked, ends, strict=True)
        ]
        totals = self._add(vectors) if vectors else []
        parts = zip(asked, ends, totals, strict=True)
        return [
            found
            for question, end, (total, cohort, survivors) in parts
            for found in read_sums(question.requests, end, total, self._variance(step, cohort, survivors))
        ]

    def _variance(self, step: Step, cohort: int, survivors: int) -> Fraction:
        return Fraction(0) if self._noise is None else self._noise.variance(step.variance, cohort, survivors)

    def _add(self, vectors: Sequence[_Vector]) -> list[tuple[Counts, int, int]]:
        """Run the protocol of ``crypto/masking.py`` for all vectors, with one question to each client and step.

        For each: the sum, of how many clients it was to be, and of how many it is.
        """
        first, self._sums = self._sums, self._sums + len(vectors)
        runs = dict(enumerate(vectors, start=first))
        keys = self._step(KEYS, {n: dict.fromkeys(vector.cohort, b"") for n, vector in runs.items()}, _any)
        graphs = {n: Graph.draw(tuple(found), self._source.key()) for n, found in keys.items()}
        servers = {n: MaskingServer(graphs[n], vector.length, vector.ring) for n, vector in runs.items()}
        specs = {n: {**vector.spec, "cohort": len(keys[n])} for n, vector in runs.items()}

        def holding(number: int, there: Collection[int], owners: Collection[int] | None = None) -> None:
            if not graphs[number].holds(there if owners is None else owners, there):
                raise ProtocolError(
                    f"secure aggregation: {len(there)} clients are left in a sum, and one has fewer around it than the "
                    f"{graphs[number].threshold} that must stay; run it again"
                )

        def noisy(number: int, there: Collection[int]) -> None:
            if self._noise is not None:
                enough(len(there), self._noise.needed(len(keys[number])))
            holding(number, there)

        relayed = {n: servers[n].relay_keys(found) for n, found in keys.items()}
        sealed = self._step(SHARES, relayed, holding, specs)
        masked = self._step(MASKED, {n: servers[n].relay_shares(found) for n, found in sealed.items()}, noisy)
        for number, found in masked.items():
            for k, message in found.items():
                if len(message) != HEADER_BYTES + runs[number].length * runs[number].ring:
                    raise ProtocolError(f"client {k}: its vector is not of the length that was asked for")
                servers[number].add(message)
                self.traffic.to_server("ideal", [k], len(message) - HEADER_BYTES)
        lists = {n: server.survivors() for n, server in servers.items()}
        opened = self._step(UNMASK, lists, lambda n, there: holding(n, there, sealed[n]))
        return [
            (server.unmask(list(opened[n].values())), len(keys[n]), len(masked[n])) for n, server in servers.items()
        ]

    def _step(
        self,
        kind: str,
        messages: Mapping[int, Mapping[int, bytes]],
        check: Callable[[int, Collection[int]], None],
        specs: Mapping[int, Any] | None = None,
    ) -> dict[int, dict[int, bytes]]:
        """A message of every sum to each of its clients, and theirs back: sum -> client -> message.

        ``check`` raises where those who stay are too few for a sum.
        """
        questions: dict[int, Fields] = {}
        sums: dict[int, list[int]] = {}
        for k in sorted({k for found in messages.values() for k in found}):
            sums[k] = [number for number, found in messages.items() if k in found]
            fields: dict[str, Value] = {"sums": sums[k]}
            if kind != KEYS:
                fields["messages"] = [messages[number][k] for number in sums[k]]
            if specs is not None:
                fields["specs"] = json.dumps([specs[number] for number in sums[k]])
            questions[k] = fields

        def every(there: Collection[int]) -> None:
            left = {number: [k for k in found if k in there] for number, found in messages.items()}
            fewest = min(map(len, left.values()))
            if fewest < self._least:
                raise ProtocolError(f"{kind}: {fewest} clients are left in a sum, {self._least} must; run it again")
            for number, clients in left.items():
                check(number, clients)

        answers: dict[int, dict[int, bytes]] = {number: {} for number in messages}
        for k, reply in self._ask(kind, questions, every).items():
            found = take(reply, "messages", list)
            if len(found) != len(sums[k]) or not all(_fits(message, kind, k) for message in found):
                raise ProtocolError(f"client {k}: {kind!r} was answered for another step, sum or client")
            for number, message in zip(sums[k], found, strict=True):
                answers[number][k] = message
        return answers


@dataclass(frozen=True)
class _Vector:
    """One sum: over ``cohort``, of ``length`` cells up to ``bound``; ``spec`` tells the clients what to put in."""

    cohort: tuple[int, ...]
    length: int
    bound: int
    spec: Mapping[str, Any]

    @property
    def ring(self) -> int:
        return ring_bytes(self.bound)


def _any(number: int, there: Collection[int]) -> None:
    """Of a sum that is being begun, as many as there are."""


def _fits(message: object, kind: str, client: int) -> bool:
    """Whether a client sends such a message in a step of the protocol; of keys, whether they can be passed on."""
    if not isinstance(message, bytes) or len(message) < HEADER_BYTES or message[0] != ANSWERS[kind]:
        return False
    sender = int.from_bytes(message[ID_BYTES:HEADER_BYTES], "little")
    return sender == client and (kind != KEYS or len(message) == HEADER_BYTES + 2 * KEY_BYTES)
