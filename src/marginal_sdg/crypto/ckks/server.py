"""The server: counts, scores and measures what it cannot read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from marginal_sdg.crypto.ckks.compute import comp
from marginal_sdg.crypto.ckks.layout import Floats, Group, Ints, Layout
from marginal_sdg.crypto.ckks.polynomial import absolute
from marginal_sdg.crypto.ckks.profile import MARGINAL_LEVEL
from marginal_sdg.crypto.ckks.public import Public, load_evaluation_keys
from marginal_sdg.crypto.fhe.public import Ciphertext
from marginal_sdg.crypto.fhe.wire import Kind
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.errors import ProtocolError

_PAD_BITS = 34  # of the pads of scores, before the point


class Server:
    """``public_key`` and ``evaluation_keys``: the key holder's announcements; ``key``: 32 fresh bytes for flooding."""

    def __init__(self, layout: Layout, public_key: bytes, evaluation_keys: bytes, key: bytes) -> None:
        self._layout = layout
        self._public = Public.load(layout, public_key)
        load_evaluation_keys(self._public, evaluation_keys)
        self._comp = comp(self._public)
        self._random = Stream(key)
        self._marginals: list[Ciphertext] = []  # at level 1, not yet rescaled
        self._grouped: dict[Group, Ciphertext] = {}

    def receive(self, upload: Iterable[bytes]) -> None:
        """The encrypted table, in row blocks."""
        columns, stream = self._layout.columns, enumerate(upload)
        for _ in range(self._layout.blocks):
            block = {}
            for column, (place, message) in zip(columns, stream, strict=False):
                number, block[column] = self._public.open(message, Kind.RECORDS, 0)
                if number != place:
                    raise ProtocolError(f"records: ciphertext {number} came where {place} is due")
            if len(block) < len(columns):
                raise ProtocolError("records: the upload ends early")
            self._comp.add(block)

    def compute(self) -> None:
        """pi_COMP: all marginals, once."""
        self._marginals = [self._comp.marginal(candidate) for candidate in range(len(self._layout.cliques))]

    def share_scores(self, models: Mapping[int, Ints], steps: float) -> tuple[list[bytes], Ints]:
        """pi_SELECT without noise: padded scores for the key holder, and the server's shares, ascending by candidate.

        The shares add up to the score, in ``steps`` of a score of 1, at most 2^28. Pads are uniform over 2^34 times
        that: scores of up to 16 are hidden up to a statistical distance of 2^-30. Needs a profile that is ``flooded``.
        """
        if not self._layout.profile.flooded:
            raise ProtocolError("profile: pads of scores need the spare level of a flooded one")
        frames, shares = [], []
        level, largest = self._layout.profile.scored_level, np.uint64(int(steps * 2**_PAD_BITS))
        for number, (group, scores) in enumerate(self._scores(models)):
            pads = (self._random.draw(self._layout.profile.slots) % largest).astype(np.int64)
            padded = self._public.context.EvalAdd(scores, self._public.encode(pads / steps, level))
            frames.append(self._public.frame(Kind.SCORES, number, padded))
            shares.append(-pads[[c % self._layout.rows for c in group]])
        return frames, np.concatenate(shares)

    def select(self, models: Mapping[int, Ints], noise: Iterable[bytes]) -> list[bytes]:
        """pi_SELECT: scores against public counts, plus the holder's noise: one ciphertext for R candidates.

        ``models``: (cells,) public counts by candidate; ``noise``: one frame for each of :meth:`Layout.groups`. Slots
        that are no candidate's score are hidden by uniform pads.
        """
        frames, level = [], self._layout.profile.scored_level
        for number, ((group, scores), message) in enumerate(zip(self._scores(models), noise, strict=True)):
            _, drowning = self._public.open(message, Kind.NOISE, level)
            pads = self._uniform(self._layout.profile.room / 2)
            pads[[c % self._layout.rows for c in group]] = 0
            total = self._public.context.EvalAdd(scores, drowning)
            total = self._public.context.EvalAdd(total, self._public.encode(pads, level))
            frames.append(self._public.frame(Kind.SCORES, number, total))
        return frames

    def _scores(self, models: Mapping[int, Ints]) -> Iterator[tuple[Group, Ciphertext]]:
        """Candidates that share a ciphertext, and their scores, each in its row and in every lane."""
        self._computed()
        for group in self._layout.groups(models):
            expected = self._expected(group, models)
            context = self._public.context
            difference = context.EvalSub(self._group(group), self._public.encode(expected, MARGINAL_LEVEL))
            squared = self._layout.profile.score == "l2_squared"
            cells = context.EvalMult(difference, difference) if squared else self._polynomial(difference)
            yield group, context.Rescale(self._public.fold(cells, self._layout.rows, self._layout.lanes))

    def measure(self, candidate: int, noise: bytes) -> bytes:
        """pi_MEASURE: a marginal plus the holder's noise.

        Every cell is flooded with a uniform quarter of a count, which rounding removes and which hides most of the
        approximation error from the key holder: statistical distance about four errors. Other slots are padded.
        """
        self._computed()
        context, level = self._public.context, self._layout.profile.measured_level
        marginal = self._public.lowered(context.Rescale(self._marginals[candidate]), level)
        _, drowning = self._public.open(noise, Kind.NOISE, level)
        pads, places = self._uniform(self._layout.profile.room / 2), self._layout.places(candidate)
        pads[places] = self._uniform(0.5 / self._layout.records)[places]
        flood = self._public.encode(pads, level)
        total = context.EvalAdd(context.EvalAdd(marginal, drowning), flood)
        return self._public.frame(Kind.MEASUREMENT, candidate, total)

    def _uniform(self, width: float) -> Floats:
        """(slots,) between plus and minus half the width."""
        drawn = (self._random.draw(self._layout.profile.slots) >> np.uint64(11)) / 2.0**53
        return (drawn - 0.5) * width

    def _computed(self) -> None:
        if not self._marginals:
            raise ProtocolError("marginals: compute() comes first")

    def _group(self, group: Group) -> Ciphertext:
        """The marginals of a group, each in its row, at level 2; kept, as selections repeat."""
        if group not in self._grouped:
            rows = dict(zip((c % self._layout.rows for c in group), group, strict=True))
            total = None
            for row in range(max(rows), -1, -1):
                total = None if total is None else self._public.turn(total, -1)
                if row in rows:
                    own = self._marginals[rows[row]]
                    total = own if total is None else self._public.context.EvalAdd(total, own)
            self._grouped[group] = self._public.context.Rescale(total)
        return self._grouped[group]

    def _expected(self, group: Group, models: Mapping[int, Ints]) -> Floats:
        values = np.zeros(self._layout.profile.slots)
        for candidate in group:
            counts = np.asarray(models[candidate]).reshape(-1)
            if counts.size != self._layout.size(candidate):
                raise ProtocolError(f"models: candidate {candidate} needs {self._layout.size(candidate)} counts")
            if counts.min() < 0 or np.linalg.norm(counts) > 2 * self._layout.records:
                raise ProtocolError(
                    f"models: candidate {candidate} has counts below 0, or more than twice the cap of "
                    f"{self._layout.records} records, and its score could wrap around"
                )
            if self._layout.profile.score == "l1_poly" and counts.max() > self._layout.records:
                raise ProtocolError(
                    f"models: candidate {candidate} has a count above the cap of {self._layout.records}, outside of "
                    "the range where the polynomial is near the absolute value"
                )
            values[self._layout.places(candidate, candidate % self._layout.rows)] = counts / self._layout.records
        return values

    def _polynomial(self, x: Ciphertext) -> Ciphertext:
        """``y (c1 + c2 y + y^2 (c3 + c4 y + c5 y^2))`` with y = x^2: five levels, of which the last is not rescaled."""
        context, lowered = self._public.context, self._public.lowered
        c1, c2, c3, c4, c5 = absolute().coefficients
        y = context.Rescale(context.EvalMult(x, x))
        y2 = context.Rescale(context.EvalMult(y, y))
        y = lowered(y, y2.GetLevel())
        inner = context.EvalAdd(context.EvalMult(y2, c5), context.EvalMult(y, c4))
        inner = context.EvalAdd(context.Rescale(inner), c3)
        inner = context.Rescale(context.EvalMult(inner, lowered(y2, inner.GetLevel())))
        outer = context.EvalAdd(context.Rescale(context.EvalMult(y, c2)), c1)
        outer = context.EvalAdd(inner, lowered(outer, inner.GetLevel()))
        return context.EvalMult(outer, lowered(y, outer.GetLevel()))
