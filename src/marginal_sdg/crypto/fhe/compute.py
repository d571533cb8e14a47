"""Encrypted marginals from encrypted records: FHAIM's one-time COMP.

Products of one-hot polynomials are added over row blocks without relinearisation, for any number of holders; each sum
is relinearised once and ring-packed with the others of its candidate. Key switches do not depend on the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from marginal_sdg.crypto.fhe.layout import Polynomial
from marginal_sdg.crypto.fhe.packing import Packer
from marginal_sdg.crypto.fhe.products import Products, Source, choose_products
from marginal_sdg.crypto.fhe.public import Ciphertext, Public
from marginal_sdg.crypto.fhe.threads import each
from marginal_sdg.crypto.fhe.upload import Opening
from marginal_sdg.crypto.fhe.wire import Kind
from marginal_sdg.errors import ProtocolError

Upload = Iterable[bytes]


class Tally:
    """Running sums over all uploads: one per product that the candidates need, and one per uploaded marginal."""

    def __init__(self, public: Public, threads: int) -> None:
        self._public = public
        self._threads = threads
        self._products: Products | None = None  # once records come
        self._counts: dict[int, Ciphertext] = {}
        self._records = 0
        self._whole = True

    def add(self, uploads: Sequence[Upload]) -> None:
        """One holder's upload, or those of several holders that have different attributes of the same records."""
        streams = [iter(upload) for upload in uploads]
        layout, run = self._public.layout, self._public.run
        openings = [Opening.unpack(next(stream, b""), run, layout) for stream in streams]
        if len({(opening.mode, opening.records) for opening in openings}) != 1:
            raise ProtocolError("upload: holders of the same records need the same mode and cap")
        attributes = sorted(attribute for opening in openings for attribute in opening.attributes)
        if attributes != list(range(len(layout.shape))):
            raise ProtocolError(f"upload: has attributes {attributes} where each of {len(layout.shape)} is needed once")
        self._count_in(openings[0].records)
        self._whole = False
        if openings[0].mode == "counts":
            self._add_counts(streams[0])
        else:
            self._add_records(streams, openings)
        if any(next(stream, None) is not None for stream in streams):
            raise ProtocolError("upload: more came than the layout has ciphertexts for")
        self._whole = True

    def _count_in(self, records: int) -> None:
        self._check_whole()
        cap = self._public.layout.profile.records
        if self._records + records > cap:
            raise ProtocolError(
                f"records: caps of {self._records} so far and {records} now exceed the {cap} of the profile"
            )
        self._records += records

    def _check_whole(self) -> None:
        if not self._whole:
            raise ProtocolError("upload: one broke off, and a part of it has been added; start again with a new server")

    def _add_counts(self, stream: Iterator[bytes]) -> None:
        def opened(message: bytes) -> tuple[int, Ciphertext]:
            return self._public.open(message, Kind.COUNTS, 0)

        for number, ciphertext in enumerate(self._take(stream, opened, 0, len(self._public.layout.carriers), "counts")):
            self._counts[number] = self._plus(self._counts.get(number), ciphertext)

    def _add_records(self, streams: Sequence[Iterator[bytes]], openings: Sequence[Opening]) -> None:
        layout = self._public.layout
        if self._products is None:
            wanted = dict.fromkeys(source for part in layout.parts for source in part.sources)
            self._products = choose_products(self._public, list(wanted), self._threads)
        polynomials = [layout.polynomials(opening.attributes) for opening in openings]
        for block in range(layout.blocks(openings[0].records)):
            held: dict[Polynomial, Any] = {}
            for stream, own in zip(streams, polynomials, strict=True):
                opened = self._take(stream, self._products.open, block * len(own), len(own), "records")
                held.update(zip(own, opened, strict=True))
            self._products.add(held)

    def _take(
        self, stream: Iterator[bytes], opened: Callable[[bytes], tuple[int, Any]], first: int, count: int, name: str
    ) -> list[Any]:
        """The next ``count`` ciphertexts of an upload, numbered from ``first``."""
        messages = [message for _, message in zip(range(count), stream, strict=False)]
        found = list(each(opened, messages, self._threads))
        if [number for number, _ in found] != list(range(first, first + count)):
            raise ProtocolError(f"{name}: the upload ends early, or its ciphertexts are out of order")
        return [ciphertext for _, ciphertext in found]

    def _plus(self, total: Ciphertext | None, term: Ciphertext) -> Ciphertext:
        """The sum, in place of ``total``; of nothing and a term, the term itself."""
        if total is not None:
            self._public.context.EvalAddInPlace(total, term)
        return term if total is None else total

    def marginals(self, keys: Any) -> list[Ciphertext]:
        """The ciphertexts of the layout, at level 0; everything but their cells is 0. Frees the sums."""
        if self._records == 0:
            raise ProtocolError("marginals: no upload has come yet")
        self._check_whole()
        if self._products is not None:
            self._products.finish()
        packer = Packer(self._public, keys, 0)
        carriers = range(len(self._public.layout.carriers))
        packed = list(each(partial(self._marginal, packer), carriers, self._threads))
        self._counts.clear()
        return packed

    def _marginal(self, packer: Packer, carrier: int) -> Ciphertext:
        layout, counts = self._public.layout, self._counts.get(carrier)
        if self._products is None:
            return counts
        sources = [source for member in layout.carriers[carrier] for source in layout.parts[member].sources]
        packed = packer.pack([self._linear(self._products, source) for source in sources], layout.rows)
        cleared = packer.clear(*packed)
        return cleared if counts is None else self._plus(counts, cleared)

    def _linear(self, products: Products, source: Source) -> Ciphertext:
        """The sum of a product, relinearised; of one polynomial alone, the product with all rows of a public one."""
        total = products.take(source)
        if len(source) == 2:
            return self._public.unscaled(self._public.context.Relinearize(total))
        layout = self._public.layout
        rows = np.arange(layout.rows)
        values = np.zeros(layout.profile.ring, dtype=np.int64)
        if source[0].right:
            values[rows] = 1
        else:
            unit = int(self._public.centred(np.array([pow(layout.rows, -1, layout.profile.plaintext)]))[0])
            values[-rows % layout.profile.ring] = -unit
            values[0] = unit
        return self._public.weigh(total, self._public.encode(values, 0))
