"""Exact inference on a junction tree: from log-potentials on cliques to all their marginals and log Z."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from marginal_sdg.errors import DataError
from marginal_sdg.graphical.junction import JunctionTree
from marginal_sdg.graphical.reduction import Reduction, plan

Floats = npt.NDArray[np.float64]

# exp() of anything above this log-range is kept away from the limits of float64 (about e**+-708)
_SAFE_LOG_RANGE = 600.0


@dataclass(frozen=True)
class Calibrated:
    """``marginals``: (n,) probabilities of the parametrised cliques, end to end; ``nodes``: probability tables."""

    log_partition: float
    marginals: Floats
    nodes: list[Floats]


class Calibrator:
    """Belief propagation for a fixed tree and fixed cliques; only the potentials change from call to call.

    Hugin propagation in the linear domain on max-shifted potentials. Where the log-range of the potentials could
    under- or overflow, every node is first max-normalised over its separator, an exact reparametrisation after
    which all messages are at least 1. A log-potential of -inf makes a cell impossible: its probability, and that of
    all that follows from it, is exactly 0.
    """

    def __init__(self, tree: JunctionTree, cliques: Sequence[int]) -> None:
        self.tree = tree
        self.cliques = tuple(cliques)
        sizes = tree.sizes
        cells = [sizes.cells(clique) for clique in self.cliques]
        self.starts = np.concatenate([[0], np.cumsum(cells)]).astype(np.int64)
        self.slices = [slice(int(a), int(b)) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]
        homes: list[list[int]] = [[] for _ in tree.nodes]
        for k, clique in enumerate(self.cliques):
            home = tree.home(clique)
            if home is None:
                raise ValueError("the junction tree does not cover every clique")
            homes[home].append(k)
        self._potentials = [
            [(k, sizes.broadcast(self.cliques[k], node)) for k in homes[i]] for i, node in enumerate(tree.nodes)
        ]
        self._shapes = [sizes.shape(node) for node in tree.nodes]
        self._upward = [plan(sizes, node, sep) for node, sep in zip(tree.nodes, tree.separators, strict=True)]
        self._in_child = [sizes.broadcast(s, node) for s, node in zip(tree.separators, tree.nodes, strict=True)]
        self._in_parent = [
            sizes.broadcast(sep, tree.nodes[p]) if p >= 0 else ()
            for sep, p in zip(tree.separators, tree.parents, strict=True)
        ]
        self._children = [[k for k in tree.neighbours[i] if k != tree.parents[i]] for i in range(len(tree.nodes))]
        self._recipes = [
            self._recipe(node, [self.cliques[k] for k in homes[i]] + [tree.separators[c] for c in self._children[i]])
            for i, node in enumerate(tree.nodes)
        ]
        self._homes = homes

    def _recipe(self, node: int, wanted: list[int]) -> list[tuple[int, int, Reduction]]:
        """(target, source, reduction) for all wanted sub-tables of a node, each from its smallest known superset."""
        sizes, known, recipe = self.tree.sizes, [node], []
        for mask in sorted({m for m in wanted if m}, key=sizes.cells, reverse=True):
            if mask not in known:
                source = min((m for m in known if m & mask == mask), key=sizes.cells)
                recipe.append((mask, source, plan(sizes, source, mask)))
                known.append(mask)
        return recipe

    def __call__(self, theta: Floats) -> Calibrated:
        """Calibrate for log-potentials ``theta``: (n,) float64, below +inf; DataError where no record is possible."""
        tree = self.tree
        holes = bool(np.isneginf(theta).any())
        nodes, log_partition = self._exponentials(theta, holes)
        messages: list[Floats | None] = [None] * len(nodes)
        for i in reversed(tree.order[1:]):
            message = self._upward[i](nodes[i])
            peak = float(message.max())
            _check_possible(peak > 0)
            log_partition += float(np.log(peak))
            messages[i] = message
            if tree.separators[i]:
                nodes[tree.parents[i]] *= (message / peak).reshape(self._in_parent[i])
        root = nodes[tree.order[0]]
        mass = float(root.sum())
        _check_possible(mass > 0)
        root /= mass
        log_partition += float(np.log(mass))
        marginals = np.empty(self.starts[-1])
        arrived: list[Floats | None] = [None] * len(nodes)
        for i in tree.order:
            sent = messages[i]
            if sent is not None:
                above = arrived[i]
                if above is not None:
                    ratio = np.divide(above, sent, out=np.zeros_like(sent), where=sent > 0) if holes else above / sent
                    nodes[i] *= ratio.reshape(self._in_child[i])
                else:
                    nodes[i] /= nodes[i].sum()
            tables: dict[int, Floats] = {tree.nodes[i]: nodes[i].ravel()}
            for mask, source, reduction in self._recipes[i]:
                tables[mask] = reduction(tables[source])
            for k in self._homes[i]:
                marginals[self.slices[k]] = tables[self.cliques[k]]
            for child in self._children[i]:
                arrived[child] = tables[tree.separators[child]] if tree.separators[child] else None
        return Calibrated(log_partition, marginals, nodes)

    def _exponentials(self, theta: Floats, holes: bool) -> tuple[list[Floats], float]:
        """exp of the node potentials, shifted so that nothing under- or overflows, and the log of the shift."""
        if not len(self.cliques):
            return [np.ones(shape) for shape in self._shapes], 0.0
        peaks = np.maximum.reduceat(theta, self.starts[:-1])
        _check_possible(not holes or bool(np.isfinite(peaks).all()))
        lows = np.minimum.reduceat(np.where(np.isneginf(theta), np.inf, theta) if holes else theta, self.starts[:-1])
        shifted = [theta[where] - peak for where, peak in zip(self.slices, peaks.tolist(), strict=True)]
        shift = float(peaks.sum())
        if float((peaks - lows).sum()) < _SAFE_LOG_RANGE:  # then exp of the small tables is enough
            factors = [np.exp(table) for table in shifted]
            return self._combined(factors, np.multiply, 1.0), shift
        logs = self._combined(shifted, np.add, 0.0)
        shift += self._normalise(logs)
        for log in logs:
            np.exp(log, out=log)
        return logs, shift

    def _combined(self, tables: list[Floats], operation: np.ufunc, neutral: float) -> list[Floats]:
        """Fold the tables of the cliques that live in a node into one table over the node, for every node."""
        nodes = []
        for shape, potentials in zip(self._shapes, self._potentials, strict=True):
            if not potentials:
                nodes.append(np.full(shape, neutral))
                continue
            (first, broadcast), *others = potentials
            node = np.broadcast_to(tables[first].reshape(broadcast), shape).copy()
            for k, broadcast in others:
                operation(node, tables[k].reshape(broadcast), out=node)
            nodes.append(node)
        return nodes

    def _normalise(self, logs: list[Floats]) -> float:
        """Move every node's maximum over each separator cell into its parent; return what is left at the roots."""
        tree, shift = self.tree, 0.0
        for i in reversed(tree.order):
            axes = tuple(a for a, n in enumerate(self._in_child[i]) if n == 1)
            peaks = logs[i].max(axis=axes, keepdims=True)
            logs[i] -= np.where(np.isneginf(peaks), 0.0, peaks)
            if tree.separators[i]:
                logs[tree.parents[i]] += peaks.reshape(self._in_parent[i])
            else:
                _check_possible(bool(np.isfinite(peaks).all()))
                shift += float(peaks.ravel()[0])
        return shift


def _check_possible(possible: bool) -> None:
    if not possible:
        raise DataError("model: its impossible cells leave no record that is possible")
