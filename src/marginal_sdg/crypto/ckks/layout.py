"""Which slot holds what: public, and the same for all roles.

A slot is (lane, row): slot ``lane R + row`` of ``R = slots / K``. Lane ``i m + j`` stands for the cell (i, j) of a pair
of attributes, m a power of two that no attribute exceeds, K = m^2 lanes. A single attribute counts as its pair with
itself: cells (i, i). After COMP a marginal lies in row 0; for SELECT, R marginals share a ciphertext, one in each row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.ckks.profile import Profile
from marginal_sdg.errors import ProtocolError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Clique = tuple[int, ...]
Group = tuple[int, ...]
Column = tuple[int, int]  # attribute and value; packed: attribute and side, 0 for i and 1 for j

LARGEST_CAP = 2**17  # records: with more, approximation errors of a count would come near the quarter that hides them


@dataclass(frozen=True)
class Layout:
    """``shape``: values of each attribute; ``cliques``: one or two attributes, ascending; ``records``: public cap."""

    profile: Profile
    shape: tuple[int, ...]
    cliques: tuple[Clique, ...]
    records: int

    def __post_init__(self) -> None:
        if not 1 <= self.records <= LARGEST_CAP:
            raise ProtocolError(
                f"records: a cap of {self.records} is not between 1 and {LARGEST_CAP}, beyond which "
                "CKKS counts are not safe; use the exact scheme"
            )
        if self.records >= self.profile.largest_count:
            raise ProtocolError(
                f"records: counts up to {self.records} would wrap around in silence from {self.profile.largest_count} "
                "on; take a profile of more levels or a smaller scale"
            )
        for clique in self.cliques:
            if len(clique) not in (1, 2) or list(clique) != sorted(set(clique) & set(range(len(self.shape)))):
                raise ProtocolError(f"cliques: {clique} must be one or two of {len(self.shape)} attributes, ascending")
        if self.lanes > self.profile.slots:
            raise ProtocolError(
                f"shape: attributes of {max(self.shape)} values need {self.lanes} slots, and there are "
                f"{self.profile.slots}; use fewer bins"
            )

    @cached_property
    def width(self) -> int:
        """m: values of an attribute, as a power of two."""
        return 1 << (max(self.shape) - 1).bit_length()

    @property
    def lanes(self) -> int:
        """K: cells that a marginal has room for."""
        return self.width**2

    @property
    def rows(self) -> int:
        """R: slots of a lane."""
        return self.profile.slots // self.lanes

    @property
    def packed(self) -> bool:
        """Whether columns repeat a value for every cell that it is part of."""
        return self.profile.comp == "packed"

    @property
    def period(self) -> int:
        """Records in one ciphertext; columns of one value each repeat them until all slots are full."""
        return self.rows if self.packed else min(self.profile.slots, 1 << (self.records - 1).bit_length())

    @property
    def blocks(self) -> int:
        """Ciphertexts that a column needs, however many records there really are."""
        return -(-self.records // self.period)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What a data holder encrypts for each block, in this order."""
        return tuple((a, k) for a, size in enumerate(self.shape) for k in range(2 if self.packed else size))

    def one_hot(self, column: Column, values: Ints) -> Floats:
        """(slots,) of one column, for the (<= period,) values that its attribute has in a block."""
        held = np.zeros((self.lanes if self.packed else 1, self.period))
        if self.packed:
            sides = np.divmod(np.arange(self.lanes), self.width)
            held[:, : len(values)] = sides[column[1]][:, None] == values
        else:
            held[0, : len(values)] = values == column[1]
        return np.resize(held, self.profile.slots)

    def pair(self, candidate: int) -> tuple[int, int]:
        """The two attributes of a candidate; of a single one, twice itself."""
        return self.cliques[candidate][0], self.cliques[candidate][-1]

    def size(self, candidate: int) -> int:
        """Cells of a candidate."""
        return int(np.prod([self.shape[a] for a in self.cliques[candidate]]))

    def cells(self, candidate: int) -> list[tuple[int, int]]:
        """The pairs of values of a candidate's cells, in C order."""
        first, second = (self.shape[a] for a in self.pair(candidate))
        if len(self.cliques[candidate]) == 1:
            return [(i, i) for i in range(first)]
        return [(i, j) for i in range(first) for j in range(second)]

    def places(self, candidate: int, row: int = 0) -> Ints:
        """(cells,) slots of a candidate's cells in a row."""
        pairs = np.array(self.cells(candidate), dtype=np.int64)
        return (pairs[:, 0] * self.width + pairs[:, 1]) * self.rows + row

    def groups(self, candidates: Iterable[int]) -> list[Group]:
        """Candidates that share a ciphertext of scores, ascending."""
        return [tuple(members) for _, members in groupby(sorted(candidates), lambda c: c // self.rows)]

    def turns(self) -> list[int]:
        """Every rotation that the server makes: the rest need no key."""
        within = self.stages(1, self.period)
        across = self.stages(self.rows, self.lanes)
        return sorted({turn for stage in [*within, *across] for turn in stage} | ({-1} if self.rows > 1 else set()))

    def stages(self, step: int, count: int) -> list[list[int]]:
        """Rotations that sum ``count`` slots, ``step`` apart; those of a stage are of the same ciphertext."""
        stages = []
        while count > 1:
            size = min(count, 4 if self.profile.hoisted else 2)
            stages.append([step * k for k in range(1, size)])
            step, count = step * size, count // size
        return stages
