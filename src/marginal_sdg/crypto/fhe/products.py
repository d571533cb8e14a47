"""Sums of products over row blocks: by OpenFHE, or on raw residues, which takes a quarter of the time."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from marginal_sdg.crypto.fhe.layout import Polynomial
from marginal_sdg.crypto.fhe.public import Ciphertext, Public, dump
from marginal_sdg.crypto.fhe.residues import Form, Words
from marginal_sdg.crypto.fhe.threads import each
from marginal_sdg.crypto.fhe.wire import Kind, unpack
from marginal_sdg.errors import ProtocolError

Source = tuple[Polynomial, ...]

COMPILED_FROM = 20_000  # products: OpenFHE needs some 6 s for them, compiling the kernel 3
_BLOCKS = 8  # row blocks that are multiplied at once
_TILE = 32  # coefficients that are multiplied at once: all ciphertexts' fit a core's cache


class Products(Protocol):
    """What the marginals are packed from: for every source the sum over all row blocks of its product.

    A source is one polynomial, which stands for itself, or two.
    """

    def open(self, message: bytes) -> tuple[int, Any]:
        """The number of a frame of records and its ciphertext; ``ProtocolError`` as in ``Public.open``."""
        ...

    def add(self, held: Mapping[Polynomial, Any]) -> None:
        """The opened ciphertexts of one row block."""
        ...

    def finish(self) -> None:
        """All blocks have come."""
        ...

    def take(self, source: Source) -> Ciphertext:
        """A sum, not relinearised, and of scale 1; once, after :meth:`finish`."""
        ...


def choose_products(public: Public, sources: Sequence[Source], threads: int) -> Products:
    """Raw residues where there are enough products and a test of them succeeds, otherwise OpenFHE's calls."""
    layout = public.layout
    planned = layout.blocks(layout.profile.records) * sum(len(source) == 2 for source in sources)
    if planned * layout.profile.ring >= COMPILED_FROM * 8192 and raw_works(public):
        return RawProducts(public, sources, threads)
    return LibraryProducts(public, sources, threads)


class LibraryProducts:
    """``Products`` by OpenFHE."""

    def __init__(self, public: Public, sources: Sequence[Source], threads: int) -> None:
        self._public = public
        self._threads = threads
        self._sums: dict[Source, Ciphertext] = {}
        self._shares = [list(sources)[k::threads] for k in range(threads)]

    def open(self, message: bytes) -> tuple[int, Ciphertext]:
        """See ``Products``."""
        return self._public.open(message, Kind.RECORDS, 0)

    def add(self, held: Mapping[Polynomial, Ciphertext]) -> None:
        """See ``Products``."""
        list(each(partial(self._add, held), self._shares, self._threads))

    def _add(self, held: Mapping[Polynomial, Ciphertext], sources: Sequence[Source]) -> None:
        context = self._public.context
        for source in sources:
            factors = [held[polynomial] for polynomial in source]
            term = self._public.unscaled(context.EvalMultNoRelin(*factors)) if len(factors) == 2 else factors[0]
            if source in self._sums:
                context.EvalAddInPlace(self._sums[source], term)
            else:
                self._sums[source] = term.Clone() if len(factors) == 1 else term

    def finish(self) -> None:
        """See ``Products``."""

    def take(self, source: Source) -> Ciphertext:
        """See ``Products``."""
        return self._sums.pop(source)


class RawProducts:
    """``Products`` on residues. Raises ``ValueError`` where OpenFHE writes ciphertexts in an unknown form.

    Needs Numba. Memory: a sum of three polynomials per pair, as OpenFHE's would be, and eight row blocks.
    """

    def __init__(self, public: Public, sources: Sequence[Source], threads: int) -> None:
        self._public, self._threads = public, threads
        self._kernel = importlib.import_module("marginal_sdg.crypto.fhe.kernel")
        fresh = public.encrypt(np.zeros(1, dtype=np.int64), 0)
        self._single = Form(public, fresh)
        self._double = Form(public, public.unscaled(public.context.EvalMultNoRelin(fresh, fresh)))
        pairs = [source for source in sources if len(source) == 2]
        self._places = {source: place for place, source in enumerate(pairs)}
        self._numbers = {polynomial: k for k, polynomial in enumerate(dict.fromkeys(p for pair in pairs for p in pair))}
        self._pairs = np.array([[self._numbers[p] for p in pair] for pair in pairs], dtype=np.uint64).reshape(-1, 2)
        self._alone: dict[Source, Words] = {
            s: np.zeros(self._single.shape, dtype=np.uint64) for s in sources if len(s) == 1
        }
        polynomials, towers, ring = self._double.shape
        self._sums: Words = np.zeros((towers, ring // _TILE, len(pairs), polynomials, _TILE), dtype=np.uint64)
        self._blocks: Words = np.empty((_BLOCKS, len(self._numbers), *self._single.shape), dtype=np.uint64)
        self._waiting = 0

    def open(self, message: bytes) -> tuple[int, Words]:
        """See ``Products``. What does not look as expected goes through OpenFHE, which says what is wrong with it."""
        frame = unpack(message, Kind.RECORDS, self._public.run)
        residues = self._single.read(frame.payload)
        if residues is None:
            residues = self._single.read(dump(self._public.open(message, Kind.RECORDS, 0)[1]))
        if residues is None:
            raise ProtocolError("records: the ciphertext has residues that are not below their moduli")
        return frame.number, residues

    def add(self, held: Mapping[Polynomial, Words]) -> None:
        """See ``Products``."""
        for polynomial, number in self._numbers.items():
            self._blocks[self._waiting, number] = held[polynomial]
        for source, total in self._alone.items():
            total += held[source[0]]  # at most nine residues before they are reduced
        self._waiting += 1
        if self._waiting == _BLOCKS:
            self._multiply()

    def _multiply(self) -> None:
        """Add the products of the blocks that wait."""
        bounds = np.linspace(0, len(self._pairs), self._threads + 1).astype(int)
        list(each(self._multiply_some, pairwise(bounds), self._threads))
        for total in self._alone.values():
            total %= self._single.moduli[:, None]
        self._waiting = 0

    def _multiply_some(self, bounds: tuple[int, int]) -> None:
        some = slice(*bounds)
        for tower, modulus in enumerate(self._single.moduli):
            blocks, sums = self._blocks[: self._waiting, :, :, tower], self._sums[tower, :, some]
            self._kernel.add_products(blocks, self._pairs[some], sums, int(modulus))

    def finish(self) -> None:
        """See ``Products``."""
        if self._waiting:
            self._multiply()
        self._blocks = np.empty(0, dtype=np.uint64)

    def take(self, source: Source) -> Ciphertext:
        """See ``Products``."""
        if len(source) == 2:
            tiles = self._sums[:, :, self._places[source]]
            return self._double.write(tiles.transpose(2, 0, 1, 3).reshape(self._double.shape))
        return self._single.write(self._alone[source])


def raw_works(public: Public) -> bool:
    """Whether two sums on residues, of random ciphertexts, equal OpenFHE's bit for bit; False without Numba."""
    left, right = Polynomial(0, 0, False), Polynomial(1, 0, True)
    sources: list[Source] = [(left, right), (left,)]
    try:
        raw = RawProducts(public, sources, 1)
    except (ImportError, ValueError):
        return False
    library = LibraryProducts(public, sources, 1)
    for value in (1, 2):
        held = {polynomial: public.encrypt(np.array([value]), 0) for polynomial in (left, right)}
        frames = {polynomial: public.frame(Kind.RECORDS, 0, ciphertext) for polynomial, ciphertext in held.items()}
        raw.add({polynomial: raw.open(frame)[1] for polynomial, frame in frames.items()})
        library.add(held)
    raw.finish()
    return all(dump(library.take(source)) == dump(raw.take(source)) for source in sources)
