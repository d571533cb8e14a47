"""A client at home: it answers the server's questions from its own table, and pays for each from its own ledger.

Whatever asks keeps the ``state`` between two answers: plain values, which hold what was spent and, while a secure sum
is being made, its secrets; they must not leave the client. Asked again what it was asked last, the client says what it
has said, and neither pays nor draws again: a server that was killed may not have heard it. One state is for one fit, so
that what a client agrees to spend it spends once. The client works out weights, thresholds and costs for
itself, takes part in no sum of fewer than ``least`` clients, and answers nothing that would exceed the budget it has
agreed to. Where the clients add the noise on sums, it opens none with less noise than it has paid for; in a cohort of
more than 32 it takes the server's word for how many have stayed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from marginal_sdg.backends.base import Candidates
from marginal_sdg.backends.client import Client, score
from marginal_sdg.backends.clients import Request, ends_of
from marginal_sdg.backends.sum_noise import SumNoise
from marginal_sdg.backends.variants import VARIANTS, Variant
from marginal_sdg.crypto.graph import topology
from marginal_sdg.crypto.masking import MaskingClient
from marginal_sdg.crypto.secagg import LARGEST, Counts, enough, ring_bytes
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import MarginalSDGError, ProtocolError
from marginal_sdg.flower.messages import (
    ENROL,
    KEYS,
    MASKED,
    SELECT,
    SHARES,
    UNMASK,
    WHO,
    Fields,
    Value,
    floats,
    from_json,
    take,
)
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Charge, Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import Step
from marginal_sdg.scores import sensitivity
from marginal_sdg.workload import Workload

STEPS = (KEYS, SHARES, MASKED, UNMASK)


@dataclass
class Node:
    """``table`` is encoded by the client's own domain file; ``limit`` is what the client agrees to spend in one fit.

    ``colluding``: it takes part only where the clients add the noise, and the server may know that of so many; None: or
    where it leaves the noise to the server.
    """

    table: Table
    limit: Budget
    least: int
    source: Source
    state: dict[str, Value]
    colluding: int | None = None

    def answer(self, question: Fields) -> dict[str, Value]:
        """The answer, or one line ``error``; of the table, errors tell nothing that is not in its domain file."""
        answers: dict[str, Callable[[Fields], dict[str, Value]]] = {
            WHO: self._who,
            ENROL: self._enrol,
            SELECT: self._select,
        }
        try:
            kind = take(question, "kind", str)
            if kind in STEPS:
                return self._step(kind, question)
            if kind not in answers:
                raise ProtocolError(f"message: {kind!r} is no question; both ends need the same marginal_sdg")
            return answers[kind](question)
        except MarginalSDGError as error:
            return {"error": str(error)}
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return {"error": "message: cannot be read; both ends need the same marginal_sdg"}

    # -- what the fit is about ---------------------------------------------------------------------------------

    def _who(self, question: Fields) -> dict[str, Value]:
        """The number that this client was enrolled under in a fit; -1 in one that it does not know."""
        known = "terms" in self.state and self._terms["fit"] == take(question, "fit", str)
        return {"client": self._terms["client"] if known else -1}

    def _enrol(self, question: Fields) -> dict[str, Value]:
        """Agree to a fit, and draw the noisy size; asked again, say it again."""
        terms = take(question, "terms", str)
        if "terms" in self.state:
            if self.state["terms"] != terms:
                raise ProtocolError(
                    "enrol: what this client may spend is for another fit; to spend as much again, name it a new ledger"
                )
            return {"size": self.state["size"]}
        asked = from_json(question, "terms")
        if Domain.from_dict(asked["domain"]) != self.table.domain:
            raise ProtocolError("domain: the client's file declares other columns than the server's; use the same one")
        if asked["epsilon"] > self.limit.epsilon or asked["delta"] > self.limit.delta:
            raise ProtocolError(
                f"budget: the server plans epsilon {asked['epsilon']:g} and delta {asked['delta']:g}, this client "
                f"agrees to {self.limit.epsilon:g} and {self.limit.delta:g}"
            )
        if self.colluding is not None and (asked["noise"] or {}).get("colluding", 0) < self.colluding:
            raise ProtocolError(
                f"noise: this client wants that of the clients, against a server that {self.colluding} of them help; "
                "the server plans for less"
            )
        ledger = Ledger(Budget(asked["epsilon"], asked["delta"]), self.source, group=asked["group"])
        exact = np.array([len(self.table)], dtype=np.int64)
        (size,) = ledger.gaussian([exact], Fraction(asked["variance"]), what="size of each client", by="client")
        self.state.update(terms=terms, size=int(size[0]), ledger=json.dumps(ledger.to_dict()))
        return {"size": int(size[0])}

    @cached_property
    def _terms(self) -> dict[str, Any]:
        terms: dict[str, Any] = from_json(self.state, "terms")
        return terms

    @cached_property
    def _workload(self) -> Workload:
        cliques = tuple(map(tuple, self._terms["cliques"]))
        return Workload(self.table.domain, cliques, tuple(self._terms["weights"]), closed=self._terms["closed"])

    @property
    def _variant(self) -> Variant:
        return VARIANTS[self._terms["variant"]]

    @cached_property
    def _client(self) -> Client:
        return Client(self.table, self._workload, float(take(self.state, "size", int)))

    @property
    def _noise(self) -> SumNoise | None:
        terms = self._terms["noise"]
        return None if terms is None else SumNoise(terms["colluding"], terms["least"])

    def _ledger(self) -> Ledger:
        return Ledger.from_dict(from_json(self.state, "ledger"), self.source)

    def _pay(self, ledger: Ledger) -> None:
        self.state["ledger"] = json.dumps(ledger.to_dict())

    # -- select ------------------------------------------------------------------------------------------------

    def _select(self, question: Fields) -> dict[str, Value]:
        """Pick one candidate, once a round; the pick stays here until votes are summed."""
        if self.state.get("round") == take(question, "round", int):
            return {}
        places = np.array(take(question, "places", list), dtype=np.int64)
        workload, variant = self._workload, self._variant
        if not len(places) or not ((places >= 0) & (places < len(workload.closure))).all():
            raise ProtocolError("select: a candidate is not in the workload's closure")
        layout = workload.layout(places)
        importance = workload.importance[places]
        candidates = Candidates(layout, importance / importance.max(), workload.cells[places])
        variance, epsilon2 = (Fraction(take(question, name, str)) for name in ("variance", "epsilon2"))
        step = Step(take(question, "round", int), variance, epsilon2)
        model = floats(take(question, "model", bytes), int(layout.offsets[-1]))
        skew = self._reference(take(question, "reference", bytes)) if variant.skewed else None
        ledger = self._ledger()
        (choice,) = ledger.select(
            list(score([self._client], candidates, model, step.sigma, skew)),
            step.epsilon2,
            sensitivity=sensitivity(heterogeneity=variant.skewed),
            what=f"round {step.index + 1}: clients select",
            by="client",
        )
        self._pay(ledger)
        self.state.update(pick=int(places[choice]), round=step.index)
        return {}

    def _reference(self, data: bytes) -> dict[tuple[str, ...], Any]:
        sizes = [self.table.domain.size(clique) for clique in self._workload.one_way]
        parts = np.split(floats(data, sum(sizes)), np.cumsum(sizes)[:-1])
        return dict(zip(self._workload.one_way, parts, strict=True))

    # -- secure sums -------------------------------------------------------------------------------------------

    def _step(self, kind: str, question: Fields) -> dict[str, Value]:
        """One step of the secure sums that are being made at once, in the order of ``sums``.

        A client can be built again from its key and the messages it has had; no step is ever done with two messages,
        so no mask hides two vectors.
        """
        sums, answers = take(question, "sums", list), []
        if kind == KEYS:
            known = {name: int(name.split("-")[1]) for name in self.state if name.startswith("sum-")}
            if sums and max(known.values(), default=0) > max(sums):
                raise ProtocolError(f"secure aggregation: sum {max(sums)} is over; this question came too late")
            for name, number in known.items():
                if number not in sums:
                    del self.state[name]  # done, or given up by the server
        given = take(question, "messages", list) if kind != KEYS else [b""] * len(sums)
        specs = from_json(question, "specs") if kind == SHARES else [None] * len(sums)
        for number, message, spec in zip(sums, given, specs, strict=True):
            answers.append(self._one(kind, number, message, spec))
        return {"messages": answers}

    def _one(self, kind: str, number: int, message: bytes, spec: dict[str, Any] | None) -> bytes:
        key, heard, about, said = (f"sum-{number}-{part}" for part in ("key", "heard", "about", "said"))
        past: list[bytes] = take(self.state, heard, list) if heard in self.state else []
        if past[STEPS.index(kind) :] == [message] and (spec is None or self.state[about] == json.dumps(spec)):
            return bytes(take(self.state, said, bytes))
        if len(past) != STEPS.index(kind):
            raise ProtocolError(f"secure aggregation: {kind!r} is not the next step of sum {number}; start it anew")
        answer = self._new(kind, number, message, spec, past)
        self.state.update({heard: [*past, message], said: answer})
        if kind == UNMASK:
            for name in (key, about):
                del self.state[name]
        return answer

    def _new(self, kind: str, number: int, message: bytes, spec: dict[str, Any] | None, past: list[bytes]) -> bytes:
        key, about = (f"sum-{number}-{part}" for part in ("key", "about"))
        if kind == KEYS:
            self.state[key] = self.source.key()
            return self._masking(key, None, 0).advertise()
        if kind == SHARES:
            assert spec is not None
            self._enough(spec["cohort"])
            if _entries(message) != topology(spec["cohort"])[0]:
                raise ProtocolError(
                    f"secure aggregation: sum {number} has other neighbours than {spec['cohort']} clients"
                )
            self.state[about] = json.dumps(spec)
        spec = from_json(self.state, about)
        pieces, length, bound = self._vector(spec) if kind == MASKED else ({}, 0, 1)
        client = self._masking(key, spec["cohort"], length, pieces, bound)
        for step, earlier in zip((client.share, client.mask), past[1:], strict=False):
            step(earlier)
        if kind == UNMASK:
            self._enough(1 + _entries(message))  # neighbours that stayed
            if self._noise is not None and topology(spec["cohort"])[0] == spec["cohort"] - 1:
                enough(1 + _entries(message), self._noise.needed(spec["cohort"]))
        return {SHARES: client.share, MASKED: client.mask, UNMASK: client.unmask}[kind](message)

    def _masking(self, key: str, cohort: int | None, length: int, pieces: Any = None, bound: int = 1) -> MaskingClient:
        threshold = topology(cohort)[1] if cohort else 1
        return MaskingClient(
            self._terms["client"], pieces or {}, length, ring_bytes(bound), threshold, take(self.state, key, bytes)
        )

    def _enough(self, clients: int) -> None:
        if clients < self.least:
            raise ProtocolError(f"secure aggregation: {clients} clients are fewer than the {self.least} of this client")

    def _vector(self, spec: dict[str, Any]) -> tuple[dict[int, Counts], int, int]:
        """What this client adds to a sum, paid for first: (where a piece begins -> its cells, length, bound)."""
        if spec["cliques"] is None:
            pick = take(self.state, "pick", int)
            return {pick: np.ones(1, dtype=np.int64)}, len(self._workload.closure), spec["cohort"]
        domain, closure = self.table.domain, self._workload.closure
        requests = [Request(domain.clique(clique), (), picked) for clique, picked in spec["cliques"]]
        ends = ends_of(domain, requests)
        own = [
            (start, request.clique)
            for request, start in zip(requests, ends, strict=False)
            if not request.picked or request.clique == closure[take(self.state, "pick", int)]
        ]
        pieces = {start: self._client.contribution(clique) for start, clique in own}
        ledger, variance, noise = self._ledger(), Fraction(spec["variance"]), self._noise
        if noise is not None:
            pieces = noise.add(pieces, ends, variance, spec["cohort"], ledger)
        elif own:
            ledger.charge(Charge("part of a sum", "gaussian", variance, len(own), "server", ledger.group))
        self._pay(ledger)
        return pieces, ends[-1], LARGEST


def _entries(message: bytes) -> int:
    """How many other clients a message of the masking protocol is about."""
    return int.from_bytes(message[2:4], "little")
