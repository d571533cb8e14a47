"""Where records and marginals sit among the N coefficients of a ciphertext.

A row block has n1 = N / m^2 rows. Row r with value v (group v div m, i = v mod m) of attribute a is one monomial:
``X^(r + n1 i)`` in a left role, ``X^(n1 m j - r) / n1`` in a right role. In the product of a left and a right
polynomial the coefficient at n1 (i + m j) counts the rows with both values; two different rows fall in between.
Ring packing then brings the k = g_a g_b products of a candidate into one ciphertext, at stride n1 / 2^ceil(log2 k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.fhe.profile import Profile
from marginal_sdg.errors import ProtocolError

Ints = npt.NDArray[np.int64]
Clique = tuple[int, ...]

WIDTHS = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Polynomial:
    """One ciphertext of a row block: attribute, group of values, and role in products."""

    attribute: int
    group: int
    right: bool


@dataclass(frozen=True)
class Part:
    """The cells of a candidate marginal in one ciphertext: all of them, or those that fit.

    ``sources``: the polynomials whose products it is packed from. ``carrier``: the number of the ciphertext. ``cells``:
    (c,) flat cell numbers of the candidate, in C order; ``places``: (c,) their coefficients, multiples of ``stride``.
    """

    candidate: int
    sources: tuple[tuple[Polynomial, ...], ...]
    carrier: int
    cells: Ints
    places: Ints
    stride: int


class _Piece(NamedTuple):
    """A part before it has a ciphertext. ``source``: which of the sources a cell comes from, and where in it."""

    candidate: int
    sources: tuple[tuple[Polynomial, ...], ...]
    cells: Ints
    within: Ints
    source: Ints


@dataclass(frozen=True)
class Slot:
    """Where a part takes part in scoring: shifted by ``shift`` into ciphertext ``source``, its score at ``target``."""

    source: int
    shift: int
    target: int


@dataclass(frozen=True)
class Group:
    """Parts that share one output: ``members`` (numbers of parts) and ``slots``, and which sources it is added from."""

    members: tuple[int, ...]
    slots: tuple[Slot, ...]
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Public: the attributes' sizes, the candidate cliques (1 or 2 attributes by place, ascending), and the width m.

    ``dense`` packs as many candidates as fit into a ciphertext: least work for marginals that are then shared. Scores
    under encryption need each candidate in ciphertexts of its own.
    """

    profile: Profile
    shape: tuple[int, ...]
    cliques: tuple[Clique, ...]
    width: int
    dense: bool = False

    def __post_init__(self) -> None:
        if self.width not in WIDTHS or self.width**2 > self.profile.ring // 2:
            raise ProtocolError(f"width: {self.width} is not among {WIDTHS} or too large for the ring")
        if not self.shape or min(self.shape) < 1:
            raise ProtocolError(f"shape: {self.shape} must have at least one value for every attribute")
        for clique in self.cliques:
            inside = all(0 <= attribute < len(self.shape) for attribute in clique)
            if not (1 <= len(clique) <= 2 and inside and tuple(sorted(set(clique))) == clique):
                raise ProtocolError(f"cliques: {clique} needs one or two of {len(self.shape)} attributes, ascending")
        if not self.cliques or len(set(self.cliques)) < len(self.cliques):
            raise ProtocolError("cliques: needs at least one, and each only once")

    @property
    def rows(self) -> int:
        """Rows of a block, n1."""
        return int(self.profile.ring // self.width**2)

    def blocks(self, cap: int) -> int:
        """Row blocks of a holder with at most ``cap`` records."""
        return -(-cap // self.rows)

    def groups(self, attribute: int) -> int:
        """Groups of ``width`` values of an attribute."""
        return -(-self.shape[attribute] // self.width)

    def size(self, candidate: int) -> int:
        """Cells of a candidate, by its place among the cliques."""
        self.check(candidate)
        return math.prod(self.shape[attribute] for attribute in self.cliques[candidate])

    def check(self, candidate: int) -> None:
        """``ProtocolError`` unless there is such a candidate."""
        if not 0 <= candidate < len(self.cliques):
            raise ProtocolError(f"candidate: {candidate} is not among the {len(self.cliques)} of the layout")

    def polynomials(self, attributes: Sequence[int]) -> tuple[Polynomial, ...]:
        """What a holder of these attributes encrypts of every row block, in order: any pair can be counted from it."""
        first, *_, last = (*self._order, -1) if len(self.shape) == 1 else self._order
        roles = [(a, right) for a in attributes for right in (False, True) if a != (first if right else last)]
        return tuple(Polynomial(a, group, right) for a, right in roles for group in range(self.groups(a)))

    def exponents(self, polynomial: Polynomial, values: Ints) -> tuple[Ints, Ints]:
        """Of one row block: which rows have a value in the group, and their signed exponents; see the module."""
        rows = np.flatnonzero(values // self.width == polynomial.group)
        place = values[rows] % self.width
        if polynomial.right:
            return rows, self.rows * self.width * place - rows
        return rows, self.rows * place + rows

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """The attributes: of two, the earlier has the left role. The largest lie at the ends: one role will do."""
        large, *others = sorted(range(len(self.shape)), key=lambda attribute: -self.groups(attribute))
        return (large, *others[1:], *others[:1])

    @property
    def sparse(self) -> Layout:
        """The same with ciphertexts of its own for each candidate."""
        return replace(self, dense=False) if self.dense else self

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The pieces of all candidates, in their order."""
        pieces = [piece for candidate in range(len(self.cliques)) for piece in self._pieces(candidate)]
        loads = [len(piece.sources) for piece in pieces]
        carriers, offsets = self._carriers(loads)
        totals = np.bincount(carriers, weights=loads).astype(int)
        found = []
        for piece, carrier, offset in zip(pieces, carriers, offsets, strict=True):
            stride = self.rows // (1 << (int(totals[carrier]) - 1).bit_length())
            places = piece.within + (offset + piece.source) * stride
            found.append(Part(piece.candidate, piece.sources, carrier, piece.cells, places, stride))
        return tuple(found)

    def _carriers(self, loads: Sequence[int]) -> tuple[list[int], list[int]]:
        """The ciphertext that every piece goes into, and how many sources lie before it there; n1 sources fit."""
        if not self.dense:
            return list(range(len(loads))), [0] * len(loads)
        carriers, offsets, carrier, used = [], [], 0, 0
        for load in loads:
            if used + load > self.rows:
                carrier, used = carrier + 1, 0
            carriers.append(carrier)
            offsets.append(used)
            used += load
        return carriers, offsets

    @cached_property
    def parts_of(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of the parts of every candidate."""
        return _inverse([part.candidate for part in self.parts])

    @cached_property
    def carriers(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of the parts in every ciphertext."""
        return _inverse([part.carrier for part in self.parts])

    def _pieces(self, candidate: int) -> list[_Piece]:
        clique, width = self.cliques[candidate], self.width
        ranks = [self._order.index(attribute) for attribute in clique]
        last = 0 < len(self.shape) - 1 == ranks[0]
        roles = (ranks[0] > ranks[1], ranks[0] < ranks[1]) if len(clique) == 2 else (last,)
        grid = list(product(*(range(self.groups(attribute)) for attribute in clique)))
        values = np.indices([self.shape[attribute] for attribute in clique]).reshape(len(clique), -1)
        source: Ints = np.zeros(values.shape[1], dtype=np.int64)
        within = np.zeros_like(source)
        for row, attribute, role in zip(values, clique, roles, strict=True):
            source = source * self.groups(attribute) + row // width
            within += self.rows * (row % width) * (width if role else 1)
        found = []
        for start in range(0, len(grid), self.rows):
            chunk = grid[start : start + self.rows]
            cells = np.flatnonzero((source >= start) & (source < start + len(chunk)))
            sources = tuple(
                tuple(Polynomial(a, g, r) for a, g, r in zip(clique, groups, roles, strict=True)) for groups in chunk
            )
            found.append(_Piece(candidate, sources, cells, within[cells], source[cells] - start))
        return found

    @cached_property
    def scoring(self) -> tuple[Group, ...]:
        """Parts grouped so that one product with public weights gives several scores.

        With all cells of a group at multiples of kq and targets T in [0, kq), the product of the sum of cells
        ``M_c X^(place)`` and of weights ``w_c X^(T - place)`` has part T's score at coefficient T without cross-talk.
        Parts of wide stride also share a ciphertext, shifted by multiples of kq. An output costs about ten products:
        kq is near the square root of eight strides.
        """
        if self.dense:
            raise ProtocolError("scores: need a layout that is not dense")
        order = sorted(range(len(self.parts)), key=lambda number: (self.parts[number].stride, number))
        groups, start, sources = [], 0, 0
        while start < len(order):
            stride = self.parts[order[start]].stride
            wide = min(stride, 1 << ((8 * stride).bit_length() - 1) // 2)
            members = tuple(order[start : start + wide])
            capacity = stride // wide
            slots = tuple(
                Slot(sources + target // capacity, target % capacity * wide, target) for target in range(len(members))
            )
            used = -(-len(members) // capacity)
            groups.append(Group(members, slots, tuple(range(sources, sources + used))))
            sources += used
            start += wide
        return tuple(groups)

    @cached_property
    def shared(self) -> tuple[tuple[int, int], ...]:
        """Of every part: which ciphertext it is shared from, and by how much it is shifted there."""
        if self.dense:
            return tuple((part.carrier, 0) for part in self.parts)
        slots = {
            member: (slot.source, slot.shift)
            for group in self.scoring
            for member, slot in zip(group.members, group.slots, strict=True)
        }
        return tuple(slots[number] for number in range(len(self.parts)))


def _inverse(images: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """For every image, the numbers that have it."""
    numbers: list[list[int]] = [[] for _ in range(max(images) + 1)]
    for number, image in enumerate(images):
        numbers[image].append(number)
    return tuple(map(tuple, numbers))
