"""The key holder: decrypts padded scores and noisy marginals, so many of them and no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from marginal_sdg.crypto.fhe.keys import Secret
from marginal_sdg.crypto.fhe.layout import Ints
from marginal_sdg.crypto.fhe.shares import gather, squares, sum_parts, times
from marginal_sdg.crypto.fhe.wire import Kind
from marginal_sdg.errors import ProtocolError


class KeyHolder:
    """``decryptions``: ciphertexts that may be decrypted in the whole run; ``Plan.decryptions`` gives the number.

    It sees values under the server's uniform pads, and marginals under the data holders' noise.
    """

    def __init__(self, secret: Secret, decryptions: int) -> None:
        self._secret = secret
        self._layout = secret.public.layout
        self._left = decryptions
        self._halves: list[Ints] = []  # of the marginals
        self._norms: Ints | None = None

    @property
    def public_key(self) -> bytes:
        """The announcement for data holders and server."""
        return self._secret.public_key

    @property
    def evaluation_keys(self) -> bytes:
        """The announcement for the server."""
        return self._secret.evaluation_keys

    @property
    def decryptions_left(self) -> int:
        """Ciphertexts that may still be decrypted."""
        return self._left

    def norms(self, message: bytes) -> Ints:
        """(candidates,) its halves, mod t, of the squared norms; they are kept for :meth:`scores`."""
        opened = self._open([message], Kind.NORMS)
        ring, t, parts = self._layout.profile.ring, self._layout.profile.plaintext, len(self._layout.parts)
        packed = 1 << (parts - 1).bit_length()
        stride = ring // packed
        padded = self._of(opened, 0, Kind.NORMS)[: parts * stride : stride]
        self._norms = sum_parts(self._layout, times(padded, pow(packed, -1, t), t))
        return self._norms

    def scores(self, candidates: Sequence[int], messages: Sequence[bytes]) -> Ints:
        """(c,) its halves, mod t, of the scores of these candidates, in this order."""
        if self._norms is None:
            raise ProtocolError("scores: the squared norms come first")
        order = list(candidates)
        halves = self._targets(self._open(messages, Kind.SCORES), Kind.SCORES, order)
        return (halves[order] + self._norms[order]) % self._layout.profile.plaintext

    def share(self, messages: Sequence[bytes]) -> list[Ints]:
        """(cells,) its halves, mod t, of every marginal; they are kept for :meth:`cross`."""
        opened = self._open(messages, Kind.SHARES)
        self._halves = gather(self._layout, lambda number: self._of(opened, number, Kind.SHARES))
        return self._halves

    def cross(self) -> list[bytes]:
        """Its halves of the marginals, encrypted for the server, which multiplies them by its own."""
        if not self._halves:
            raise ProtocolError("cross: needs share() first")
        public, layout = self._secret.public, self._layout.sparse
        polynomials: dict[int, Ints] = {}
        for part, (source, shift) in zip(layout.parts, layout.shared, strict=True):
            row = polynomials.setdefault(source, np.zeros(layout.profile.ring, dtype=np.int64))
            row[part.places + shift] = public.centred(self._halves[part.candidate][part.cells])
        return [public.frame(Kind.CROSS, source, public.encrypt(row, 0)) for source, row in polynomials.items()]

    def cross_norms(self, messages: Sequence[bytes]) -> Ints:
        """(candidates,) its halves, mod t, of the squared norms, from the server's answers to :meth:`cross`."""
        layout = self._layout.sparse
        products = self._targets(self._open(messages, Kind.CROSS), Kind.CROSS, range(len(layout.cliques)))
        self._norms = (products + squares(layout, self._halves)) % layout.profile.plaintext
        return self._norms

    def measurement(self, candidate: int, messages: Sequence[bytes]) -> Ints:
        """(cells,) the noisy counts of a candidate, in C order: what is released."""
        opened = self._open(messages, Kind.MEASUREMENT)
        counts = np.zeros(self._layout.size(candidate), dtype=np.int64)
        for number in self._layout.parts_of[candidate]:
            part = self._layout.parts[number]
            counts[part.cells] = self._of(opened, number, Kind.MEASUREMENT)[part.places]
        return self._secret.public.centred(counts)

    def _open(self, messages: Iterable[bytes], kind: Kind) -> dict[int, Ints]:
        """Coefficients by number. Nothing is decrypted unless all messages are sound and the count allows them."""
        public = self._secret.public
        parsed = dict(public.open(message, kind, self._layout.profile.output_level) for message in messages)
        if len(parsed) > self._left:
            raise ProtocolError(
                f"{kind.name.lower()}: {len(parsed)} ciphertexts came, and {self._left} may still be decrypted; "
                "declare enough for the run"
            )
        self._left -= len(parsed)
        return {number: public.read(self._secret.decrypt(ciphertext)) for number, ciphertext in parsed.items()}

    def _targets(self, opened: dict[int, Ints], kind: Kind, candidates: Iterable[int]) -> Ints:
        """(candidates,) what lies at the targets of the wanted candidates, added up over their parts."""
        layout, wanted = self._layout.sparse, set(candidates)
        halves = np.zeros(len(layout.parts), dtype=np.int64)
        for number, group in enumerate(layout.scoring):
            for member, slot in zip(group.members, group.slots, strict=True):
                if layout.parts[member].candidate in wanted:
                    halves[member] = self._of(opened, number, kind)[slot.target]
        return sum_parts(layout, halves)

    def _of(self, opened: dict[int, Ints], number: int, kind: Kind) -> Ints:
        if number not in opened:
            raise ProtocolError(f"{kind.name.lower()}: ciphertext {number} is missing")
        return opened[number]
