"""pi_COMP: encrypted marginals from encrypted one-hot columns."""

from __future__ import annotations

import numpy as np

from marginal_sdg.crypto.ckks.layout import Column, Layout
from marginal_sdg.crypto.ckks.public import Public
from marginal_sdg.crypto.fhe.public import Ciphertext

Block = dict[Column, Ciphertext]


class Packed:
    """Products that hold all cells of a marginal, summed over row blocks before they are relinearised once."""

    def __init__(self, public: Public) -> None:
        self._public = public
        self._sums: dict[int, Ciphertext] = {}

    def add(self, block: Block) -> None:
        """The next rows."""
        context, layout = self._public.context, self._public.layout
        for candidate in range(len(layout.cliques)):
            first, second = layout.pair(candidate)
            product = context.EvalMultNoRelin(block[first, 0], block[second, 1])
            if candidate in self._sums:
                context.EvalAddInPlace(self._sums[candidate], product)
            else:
                self._sums[candidate] = product

    def marginal(self, candidate: int) -> Ciphertext:
        """At level 1, not yet rescaled: counts over the cap, in row 0. What is no cell is 0."""
        public, layout = self._public, self._public.layout
        total = public.fold(public.context.Relinearize(self._sums.pop(candidate)), 1, layout.rows)
        return _masked(public, public.context.Rescale(total), candidate, range(layout.size(candidate)))


class Cells:
    """One cell after the other; its count comes to be in all slots, of which a mask takes one."""

    def __init__(self, public: Public) -> None:
        self._public = public
        self._blocks: list[Block] = []

    def add(self, block: Block) -> None:
        """The next rows."""
        self._blocks.append(block)

    def marginal(self, candidate: int) -> Ciphertext:
        """At level 1, not yet rescaled: counts over the cap, in row 0. What is no cell is 0."""
        context, layout = self._public.context, self._public.layout
        first, second = layout.pair(candidate)
        total = None
        for number, (i, j) in enumerate(layout.cells(candidate)):
            count = self.count((first, i), (second, j))
            cell = _masked(self._public, count, candidate, [number])
            total = cell if total is None else context.EvalAdd(total, cell)
        return total

    def count(self, first: Column, second: Column) -> Ciphertext:
        """At level 1: records with both values, in all slots."""
        if self._public.layout.profile.comp == "plain":
            return self._plain(first, second)
        context = self._public.context
        total = context.EvalMultNoRelin(self._blocks[0][first], self._blocks[0][second])
        for block in self._blocks[1:]:
            context.EvalAddInPlace(total, context.EvalMultNoRelin(block[first], block[second]))
        folded = self._public.fold(context.Relinearize(total), 1, self._public.layout.period)
        return context.Rescale(folded)

    def _plain(self, first: Column, second: Column) -> Ciphertext:
        context = self._public.context
        total = None
        for block in self._blocks:
            product = context.Rescale(context.EvalMult(block[first], block[second]))
            total = product if total is None else context.EvalAdd(total, product)
        return self._public.fold(total, 1, self._public.layout.period)


def comp(public: Public) -> Packed | Cells:
    """The COMP of a run's profile."""
    return Packed(public) if public.layout.packed else Cells(public)


def _masked(public: Public, ciphertext: Ciphertext, candidate: int, cells: range | list[int]) -> Ciphertext:
    layout: Layout = public.layout
    mask = np.zeros(layout.profile.slots)
    mask[layout.places(candidate)[cells]] = 1 / layout.records
    return public.context.EvalMult(ciphertext, public.encode(mask, ciphertext.GetLevel()))
