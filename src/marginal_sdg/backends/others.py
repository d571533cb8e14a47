"""The first data holder's view of the others, which are in processes of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from marginal_sdg.backends.agreement import Agreement
from marginal_sdg.crypto.fhe.parties import Step, Terms
from marginal_sdg.schedule import Step as Round

Frames = list[bytes]


class Asked(Protocol):
    """A data holder behind a connection: see :class:`~marginal_sdg.backends.other_holder.OtherHolder`."""

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """Its answer."""
        ...

    def stream(self, step: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same as it comes, to be passed on."""
        ...


class Others:
    """Asks every other holder the same; what they answer is for the server or the key holder, and passed on."""

    def __init__(self, holders: Sequence[Asked] = (), agreement: Agreement | None = None) -> None:
        self.count = len(holders)
        self._holders = holders
        self._agreement = agreement

    def open(self, terms: Terms, public_key: bytes, seals: Sequence[bytes]) -> None:
        """Agree. ``seals``: of the key holder and of the server."""
        for place, holder in enumerate(self._holders, 1):
            assert self._agreement is not None
            question = [self._agreement.of(place).pack(), terms.pack(), public_key, *seals]
            holder.ask(Step.OPEN, question)

    def uploads(self) -> Iterator[Iterator[bytes]]:
        """The frames of each, as they are made."""
        return (holder.stream(Step.UPLOAD, []) for holder in self._holders)

    def choose(self, candidates: int, step: Round | None) -> list[Frames]:
        """Sealed shares of everybody's noise: those for the key holder, and those for the server."""
        if not self._holders:
            return [[], []]
        assert step is not None
        question = json.dumps({"candidates": candidates, "epsilon2": str(step.epsilon2)}).encode()
        answers = [holder.ask(Step.CHOOSE, [question]) for holder in self._holders]
        return [[answer[place] for answer in answers] for place in range(2)]

    def measure(self, candidates: Sequence[int], parts: Sequence[int], step: Round | None) -> list[Frames]:
        """For every candidate, everybody's encrypted noise. ``parts``: of how many ciphertexts each consists."""
        if not self._holders:
            return [[] for _ in candidates]
        assert step is not None
        question = json.dumps({"candidates": list(candidates), "variance": str(step.variance)}).encode()
        answers = [iter(holder.ask(Step.MEASURE, [question])) for holder in self._holders]
        return [[next(answer) for answer in answers for _ in range(count)] for count in parts]
