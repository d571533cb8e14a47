"""Junction trees over cliques, with attributes as bits of an integer: cheap enough to build one per candidate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod


@lru_cache(maxsize=65536)
def bits(mask: int) -> tuple[int, ...]:
    """The set bits of ``mask``, ascending."""
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


def mask_of(attributes: Iterable[int]) -> int:
    """The integer with the given bits set."""
    mask = 0
    for attribute in attributes:
        mask |= 1 << attribute
    return mask


class Sizes:
    """Codes per attribute; ``cells(mask)`` is the size of a table over the attributes of ``mask``."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        self._cells: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.sizes)

    def cells(self, mask: int) -> int:
        """Number of cells of a table over ``mask``."""
        cells = self._cells.get(mask)
        if cells is None:
            cells = self._cells[mask] = prod(self.sizes[i] for i in bits(mask))
        return cells

    def shape(self, mask: int) -> tuple[int, ...]:
        """Axis lengths of a table over ``mask``, attributes ascending."""
        return tuple(self.sizes[i] for i in bits(mask))

    def broadcast(self, mask: int, onto: int) -> tuple[int, ...]:
        """The shape that lets a table over ``mask`` multiply a table over ``onto`` (a superset)."""
        return tuple(self.sizes[i] if mask >> i & 1 else 1 for i in bits(onto))


def maximal_cliques(sizes: Sizes, cliques: Iterable[int]) -> list[int]:
    """Triangulate the graph of ``cliques`` by greedy elimination (smallest table first); its maximal cliques.

    An attribute outside all cliques becomes a clique of its own.
    """
    neighbours = [1 << i for i in range(len(sizes))]
    for clique in cliques:
        for i in bits(clique):
            neighbours[i] |= clique
    cells = sizes.cells
    cost = [cells(mask) for mask in neighbours]
    remaining = list(range(len(sizes)))
    found: list[int] = []
    while remaining:
        vertex = min(remaining, key=cost.__getitem__)
        remaining.remove(vertex)
        clique = neighbours[vertex]
        for other in found:
            if clique & other == clique:
                break
        else:
            found.append(clique)
        rest = clique ^ (1 << vertex)
        for i in bits(rest):
            neighbours[i] = (neighbours[i] | rest) & ~(1 << vertex)
            cost[i] = cells(neighbours[i])
    return found


def model_cells(sizes: Sizes, cliques: Iterable[int]) -> int:
    """Cells of all node tables of the junction tree that covers ``cliques``: the model's memory in float64."""
    return sum(map(sizes.cells, maximal_cliques(sizes, cliques)))


@dataclass(frozen=True)
class JunctionTree:
    """A rooted tree of maximal cliques with the running-intersection property.

    ``order`` visits parents before children; ``separators[i]`` is the mask shared with the parent, 0 at the root
    and between unconnected components (which are independent).
    """

    sizes: Sizes
    nodes: tuple[int, ...]
    parents: tuple[int, ...]
    separators: tuple[int, ...]
    order: tuple[int, ...]
    neighbours: tuple[tuple[int, ...], ...] = field(repr=False)

    @classmethod
    def covering(cls, sizes: Sizes, cliques: Iterable[int]) -> JunctionTree:
        """Build the tree whose nodes cover all ``cliques``: a maximum spanning tree on separator size (Prim)."""
        nodes = maximal_cliques(sizes, cliques)
        count = len(nodes)
        root = max(range(count), key=lambda i: sizes.cells(nodes[i]))
        best = [(-1, -1)] * count  # (attributes shared with the tree so far, through which node)
        best[root] = (0, -1)
        outside = set(range(count))
        order: list[int] = []
        while outside:
            i = max(outside, key=lambda k: (best[k][0], -k))
            outside.remove(i)
            order.append(i)
            for k in outside:
                shared = (nodes[i] & nodes[k]).bit_count()
                if shared > best[k][0]:
                    best[k] = (shared, i)
        parents = tuple(parent for _, parent in best)
        separators = tuple(nodes[i] & nodes[p] if p >= 0 else 0 for i, p in enumerate(parents))
        neighbours: list[list[int]] = [[] for _ in nodes]
        for i in order[1:]:
            neighbours[i].append(parents[i])
            neighbours[parents[i]].append(i)
        return cls(sizes, tuple(nodes), parents, separators, tuple(order), tuple(map(tuple, neighbours)))

    @property
    def cells(self) -> int:
        """Cells of all node tables together."""
        return sum(map(self.sizes.cells, self.nodes))

    def home(self, mask: int) -> int | None:
        """The smallest node that contains ``mask``, or None."""
        holders = [i for i, node in enumerate(self.nodes) if mask & node == mask]
        return min(holders, key=lambda i: self.sizes.cells(self.nodes[i])) if holders else None
