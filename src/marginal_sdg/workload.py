"""Workloads: the marginal queries that the synthetic data shall answer well, and how they weigh candidates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique, Domain
from marginal_sdg.errors import ConfigError
from marginal_sdg.marginals import Layout


@dataclass(frozen=True)
class Workload:
    """A list of cliques with positive weights.

    ``Workload(domain, [("age", "sex")])`` weighs every clique 1. ``closed``: what may be measured is every subset of a
    clique (as in AIM), or (as in MWEM) the cliques themselves. Raises ``DomainError`` for an attribute that the
    domain does not have, ``ConfigError`` for an empty list or a weight that is not positive.

    Examples
    --------
    >>> workload = Workload(Domain.from_shape({"a": 3, "b": 4, "c": 2}), [("b", "a"), ("c",)])
    >>> workload.cliques, workload.closure
    ((('a', 'b'), ('c',)), (('a',), ('b',), ('c',), ('a', 'b')))
    """

    domain: Domain
    cliques: tuple[Clique, ...]
    weights: tuple[float, ...] = field(default=())
    closed: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        cliques = tuple(self.domain.clique(clique) for clique in self.cliques)
        weights = tuple(float(w) for w in self.weights) or (1.0,) * len(cliques)
        if not cliques or not all(cliques):
            raise ConfigError("workload: needs at least one clique, and no empty clique")
        if len(weights) != len(cliques):
            raise ConfigError(f"workload: {len(weights)} weights for {len(cliques)} cliques; give one per clique")
        if not all(math.isfinite(w) and w > 0 for w in weights):
            raise ConfigError("workload: weights must be positive and finite")
        object.__setattr__(self, "cliques", cliques)
        object.__setattr__(self, "weights", weights)

    @classmethod
    def random(cls, domain: Domain, count: int = 64, ways: int = 3, seed: int = 123) -> Workload:
        """Draw ``count`` distinct ``ways``-way cliques uniformly; all of them where there are fewer.

        The draw is the papers' own: ``default_rng(seed).choice`` over the combinations in column order.
        """
        ways = min(ways, len(domain))
        if count < 1 or ways < 1:
            raise ConfigError(f"workload: count and ways must be at least 1, got {count} and {ways}")
        total = math.comb(len(domain), ways)
        everything = list(combinations(domain.names, ways))
        chosen = np.random.default_rng(seed).choice(total, min(total, count), replace=False)
        return cls(domain, tuple(everything[i] for i in chosen))

    def covering(self) -> Workload:
        """The same with every attribute that it leaves out as a clique of its own, so that none stays unmeasured."""
        covered = {name for clique in self.cliques for name in clique}
        alone = tuple((name,) for name in self.domain.names if name not in covered)
        return replace(self, cliques=self.cliques + alone, weights=self.weights + (1.0,) * len(alone))

    def favouring(self, target: str, factor: float = 4.0) -> Workload:
        """For predicting ``target``: its pairs with all other attributes join, and cliques with it weigh more."""
        self.domain.index(target)
        present = set(self.cliques)
        pairs = [self.domain.clique((target, name)) for name in self.domain.names if name != target]
        new = tuple(pair for pair in pairs if pair not in present)
        cliques, weights = self.cliques + new, self.weights + (1.0,) * len(new)
        heavier = tuple(w * factor if target in clique else w for clique, w in zip(cliques, weights, strict=True))
        return replace(self, cliques=cliques, weights=heavier)

    @cached_property
    def closure(self) -> tuple[Clique, ...]:
        """What may be selected and measured, smallest first: all non-empty subsets of the cliques, if closed."""
        found: set[Clique] = set()
        for clique in self.cliques:
            for ways in range(1 if self.closed else len(clique), len(clique) + 1):
                found.update(combinations(clique, ways))
        return tuple(sorted(found, key=lambda c: (len(c), tuple(self.domain.index(name) for name in c))))

    @cached_property
    def one_way(self) -> tuple[Clique, ...]:
        """The single attributes that occur in the workload."""
        return tuple((name,) for name in self.domain.names if any(name in clique for clique in self.cliques))

    @cached_property
    def importance(self) -> npt.NDArray[np.float64]:
        """(Q,) weight of every candidate of the closure: w_q = sum_r (weight of r) |q ∩ r|. Source: AIM §4.1.

        Without closure, its own weight.
        """
        if not self.closed:
            own: dict[Clique, float] = dict.fromkeys(self.closure, 0.0)
            for clique, weight in zip(self.cliques, self.weights, strict=True):
                own[clique] += weight
            return np.array(list(own.values()))
        sets = [frozenset(clique) for clique in self.cliques]
        return np.array(
            [
                sum(w * len(members.intersection(q)) for members, w in zip(sets, self.weights, strict=True))
                for q in self.closure
            ]
        )

    @cached_property
    def masks(self) -> tuple[int, ...]:
        """Every candidate of the closure as an integer with the bits of its attributes set."""
        return tuple(sum(1 << self.domain.index(name) for name in clique) for clique in self.closure)

    @cached_property
    def cells(self) -> npt.NDArray[np.float64]:
        """(Q,) cells of every candidate of the closure, for arithmetic with scores."""
        return np.array([self.domain.size(clique) for clique in self.closure], dtype=np.float64)

    def layout(self, places: npt.NDArray[np.int64]) -> Layout:
        """The cells of some candidates of the closure end to end."""
        return Layout(self.domain, tuple(self.closure[place] for place in places))
