"""The server: adds uploads up, scores and measures marginals that it cannot read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.fhe.compute import Tally, Upload
from marginal_sdg.crypto.fhe.flooding import Covers
from marginal_sdg.crypto.fhe.keys import load_evaluation_keys
from marginal_sdg.crypto.fhe.layout import Group, Ints, Layout
from marginal_sdg.crypto.fhe.packing import Packer
from marginal_sdg.crypto.fhe.profile import NORM_LEVEL
from marginal_sdg.crypto.fhe.public import Ciphertext, Public
from marginal_sdg.crypto.fhe.shares import checked, gather, squares, sum_parts, times
from marginal_sdg.crypto.fhe.threads import each
from marginal_sdg.crypto.fhe.wire import Kind
from marginal_sdg.errors import ProtocolError


@dataclass(frozen=True)
class Scores:
    """``messages`` for the key holder; ``shares``: (c,) the server's halves, mod t, of the candidates' scores."""

    messages: list[bytes]
    shares: Ints


class Server:
    """``public_key`` and ``evaluation_keys`` are the key holder's announcements; ``key``: 32 fresh random bytes.

    Order: :meth:`receive` for every holder, :meth:`compute`, :meth:`norms` once, then :meth:`scores` and
    :meth:`measure` in every round; or :meth:`share` and :meth:`cross` once, and scores from shares. What leaves is
    covered by pads that only the server knows and by flooding.
    """

    def __init__(self, layout: Layout, public_key: bytes, evaluation_keys: bytes, key: bytes, threads: int = 1) -> None:
        self._layout = layout
        self._threads = threads
        self._public = Public.load(layout, public_key)
        self._keys = load_evaluation_keys(self._public, evaluation_keys)
        self._covers = Covers(self._public, key)
        self._tally: Tally | None = Tally(self._public, threads)
        self._packed: list[Ciphertext] = []
        self._marginals: list[Ciphertext] = []  # at the output level
        self._sources: list[Ciphertext] = []  # of the scores, at the output level
        self._halves: list[Ints] = []  # of the marginals
        self._norms: Ints | None = None
        self._noises: set[bytes] = set()

    def receive(self, *uploads: Upload) -> None:
        """One holder's records or counts; several uploads at once are different attributes of the same records."""
        if self._tally is None:
            raise ProtocolError("receive: the marginals have been computed; uploads come before that")
        self._tally.add(uploads)

    def compute(self) -> None:
        """COMP: the encrypted marginals of all candidates over everything that was uploaded."""
        if self._tally is None:
            raise ProtocolError("compute: the marginals have been computed before")
        self._packed = self._tally.marginals(self._keys)
        self._tally = None
        level = self._layout.profile.output_level
        self._marginals = list(each(lambda item: self._public.drop(item, level), self._packed, self._threads))

    @property
    def norm_halves(self) -> Ints:
        """(candidates,) the server's halves, mod t, of the squared norms."""
        if self._norms is None:
            raise ProtocolError("scores: the squared norms come first; call norms(), or share() and cross()")
        return self._norms

    def norms(self) -> bytes:
        """Once: the squared norms of all marginals, padded. The server keeps its halves.

        The message is flooded by 40 bits under a profile with ``flood_norms``, and by some 10 to 16 without.
        """
        if not self._packed or self._layout.dense:
            raise ProtocolError("norms: needs compute() first, only once, and a layout that is not dense")
        packed, stride = self._packed_norms()
        self._packed = []
        message, pads = self._padded(Kind.NORMS, 0, packed)
        t = self._layout.profile.plaintext
        unpacked = pow(self._layout.profile.ring // stride, -1, t)
        padding = times(pads[: len(self._layout.parts) * stride : stride], unpacked, t)
        self._norms = sum_parts(self._layout, -padding)
        return message

    def _packed_norms(self) -> tuple[Ciphertext, int]:
        """The squared norm of part k at coefficient k times the stride, times N / stride.

        The constant coefficient of ``C(X) C(1/X)`` is the sum of squares. Key switching comes before the modulus
        switch, which divides its noise away.
        """
        packer = Packer(self._public, self._keys, NORM_LEVEL)
        ring = self._layout.profile.ring

        def square(ciphertext: Ciphertext) -> Ciphertext:
            turned = self._public.drop(packer.turn(ciphertext, 2 * ring - 1), NORM_LEVEL)
            straight = self._public.drop(ciphertext, NORM_LEVEL)
            product = self._public.context.EvalMultNoRelin(straight, turned)
            return self._public.unscaled(self._public.context.Relinearize(product))

        return packer.pack(list(each(square, self._packed, self._threads)), ring)

    def scores(self, models: Mapping[int, npt.ArrayLike]) -> Scores:
        """SELECT: padded squared distances ``||M - w||^2`` of candidates to public integer counts ``w``.

        Only ``-2 <M, w>`` is new in a round: products with public polynomials, several scores in each. Raises
        ``ProtocolError`` for counts whose distance might exceed t.
        """
        norms = self.norm_halves
        weights = {candidate: checked(self._layout, candidate, model) for candidate, model in models.items()}
        halves = np.zeros(len(self._layout.parts), dtype=np.int64)
        wanted = [
            (number, group)
            for number, group in enumerate(self._layout.scoring)
            if any(self._layout.parts[member].candidate in weights for member in group.members)
        ]
        sources, level = dict(enumerate(self._prepared())), self._layout.profile.output_level

        def score(item: tuple[int, Group]) -> Ciphertext:
            return self._weighed(item[1], sources, weights, -2, level)

        messages = []
        for (number, group), total in zip(wanted, each(score, wanted, self._threads), strict=True):
            message, pads = self._padded(Kind.SCORES, number, total)
            messages.append(message)
            for member, slot in zip(group.members, group.slots, strict=True):
                halves[member] = -pads[slot.target]
        t = self._layout.profile.plaintext
        linear = sum_parts(self._layout, halves)
        squares = [int(model @ model) for model in weights.values()]
        candidates = list(weights)
        return Scores(messages, (linear[candidates] + norms[candidates] + squares) % t)

    def share(self) -> tuple[list[bytes], list[Ints]]:
        """All marginals as additive shares mod t: messages for the key holder, and (cells,) the server's halves.

        An alternative to scores under encryption: with shares, any score of public counts is local arithmetic or a
        small circuit. Server and key holder together could then add up every marginal.
        """
        sources = self._marginals if self._layout.dense else self._prepared()
        if not sources:
            raise ProtocolError("share: needs compute() first")
        messages, pads = [], []
        for number, source in enumerate(sources):
            message, pad = self._padded(Kind.SHARES, number, source)
            messages.append(message)
            pads.append(pad)
        halves = gather(self._layout, lambda number: -pads[number])
        self._halves = halves
        return messages, halves

    def cross(self, messages: Sequence[bytes]) -> list[bytes]:
        """The squared norms from shares: ``2 <a, b>`` for the key holder's encrypted halves a and the server's b.

        With ``||a + b||^2 = <a, a> + 2 <a, b> + <b, b>`` no ciphertexts are multiplied and no keys switched. The
        results are padded; the server keeps its halves.
        """
        if not self._halves:
            raise ProtocolError("cross: needs share() first")
        layout = self._layout.sparse
        sources = dict(self._public.open(message, Kind.CROSS, 0) for message in messages)
        if sorted(sources) != list(range(sum(len(group.sources) for group in layout.scoring))):
            raise ProtocolError("cross: some of the key holder's ciphertexts are missing")
        weights = dict(enumerate(self._halves))
        answers, halves = [], np.zeros(len(layout.parts), dtype=np.int64)
        for number, group in enumerate(layout.scoring):
            message, pads = self._padded(Kind.CROSS, number, self._weighed(group, sources, weights, 2, 0))
            answers.append(message)
            for member, slot in zip(group.members, group.slots, strict=True):
                halves[member] = -pads[slot.target]
        self._norms = (sum_parts(layout, halves) + squares(layout, self._halves)) % layout.profile.plaintext
        return answers

    def measure(self, candidate: int, noise: Sequence[bytes]) -> list[bytes]:
        """MEASURE: the marginal plus encrypted noise, one message per ciphertext of the candidate.

        ``noise``: frames made by data holders, each used once; every ciphertext of the candidate gets the same number
        of them. Coefficients that are not its cells are drowned in uniform pads that nobody keeps.
        """
        if not self._marginals:
            raise ProtocolError("measure: needs compute() first")
        self._layout.check(candidate)
        parts = self._layout.parts_of[candidate]
        if not noise or len(noise) % len(parts):
            raise ProtocolError(f"noise: {len(noise)} ciphertexts for the {len(parts)} of candidate {candidate}")
        used = {sha256(message).digest() for message in noise}
        if len(used) < len(noise) or used & self._noises:
            raise ProtocolError("noise: a ciphertext of noise hides one measurement, and was given for a second one")
        level = self._layout.profile.output_level
        opened = [self._public.open(message, Kind.NOISE, level)[1] for message in noise]
        self._noises |= used
        messages = []
        for order, number in enumerate(parts):
            pads = self._covers.pads()
            part = self._layout.parts[number]
            pads[part.places] = 0
            total = self._public.context.EvalAdd(self._marginals[part.carrier], self._covers.cover(pads))
            for ciphertext in opened[order :: len(parts)]:
                self._public.context.EvalAddInPlace(total, ciphertext)
            messages.append(self._public.frame(Kind.MEASUREMENT, number, total))
        return messages

    def _padded(self, kind: Kind, number: int, ciphertext: Ciphertext) -> tuple[bytes, Ints]:
        """A message with uniform pads on every coefficient, and the pads."""
        pads = self._covers.pads()
        dropped = self._public.drop(ciphertext, self._layout.profile.output_level)
        covered = self._public.context.EvalAdd(dropped, self._covers.cover(pads))
        return self._public.frame(kind, number, covered), pads

    def _prepared(self) -> list[Ciphertext]:
        """The sources of the scores: the parts of every group, shifted and added up; made once."""
        if self._sources or not self._marginals:
            return self._sources
        packer = Packer(self._public, self._keys, self._layout.profile.output_level)
        totals: dict[int, Ciphertext] = {}
        for part, (source, shift) in zip(self._layout.parts, self._layout.shared, strict=True):
            shifted = packer.shift(self._marginals[part.carrier], shift)
            if source in totals:
                self._public.context.EvalAddInPlace(totals[source], shifted)
            else:
                totals[source] = shifted.Clone()
        self._sources = [totals[source] for source in sorted(totals)]
        return self._sources

    def _weighed(
        self, group: Group, sources: Mapping[int, Ciphertext], weights: Mapping[int, Ints], factor: int, level: int
    ) -> Ciphertext:
        """``factor`` times the inner products of cells and weights, of the wanted members, each at its target.

        ``level``: of the sources. Weights as large as t need a tower more, which is dropped with their noise.
        """
        layout, ring = self._layout.sparse, self._layout.profile.ring
        polynomials = np.zeros((len(group.sources), ring), dtype=np.int64)
        for member, slot in zip(group.members, group.slots, strict=True):
            part = layout.parts[member]
            if part.candidate in weights:
                exponents = slot.target - (part.places + slot.shift)
                values = factor * weights[part.candidate][part.cells]
                row = polynomials[slot.source - group.sources[0]]
                row[exponents % ring] = np.where(exponents < 0, -values, values)
        total = None
        for source, row in zip(group.sources, polynomials, strict=True):
            if row.any():
                term = self._public.weigh(sources[source], self._public.encode(self._public.centred(row), level))
                total = term if total is None else self._public.context.EvalAdd(total, term)
        return self._public.zero(level) if total is None else total
