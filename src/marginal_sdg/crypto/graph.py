"""Who shares masks and secrets with whom in a secure sum: everybody, or few neighbours drawn at random.

With k neighbours instead of all n - 1, a client's work and traffic hardly grow with the cohort. Neighbours are drawn by
public randomness after the corrupt clients are fixed; degree and threshold are the smallest k and then the largest t
such that, with up to ``CORRUPT`` of the cohort colluding with the server and up to ``DROPOUTS`` of it vanishing, all of
the following hold but for a probability of 2^-40:

* nobody has t corrupt neighbours, who could give both of its secrets to the server;
* everybody has t neighbours that stay, so that the sum can be unmasked;
* honest clients that stay are connected, so that the server learns one sum and not those of parts.

Source: Bell, Bonawitz, Gascón, Lepoint, Raykova 2020, §3; hypergeometric tails and a union bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import comb, perm

import numpy as np

from marginal_sdg.crypto.prg import Stream

DROPOUTS = Fraction(1, 3)
CORRUPT = Fraction(1, 10)
FAILURE = Fraction(1, 2**40)
COMPLETE = 32  # cohorts up to this size have no reason to be sparse


@dataclass(frozen=True)
class Graph:
    """``neighbours``: of every client of the cohort; ``threshold``: how many shares give a client's secret.

    A client's shares are held by its neighbours and by itself.
    """

    neighbours: Mapping[int, tuple[int, ...]]
    threshold: int

    def holds(self, owners: Iterable[int], holders: Iterable[int]) -> bool:
        """Whether enough shares of each owner's secrets are with ``holders``."""
        there = set(holders)
        return all(len(there & {u, *self.neighbours[u]}) >= self.threshold for u in owners)

    @classmethod
    def draw(cls, cohort: Sequence[int], key: bytes) -> Graph:
        """Everybody at a random place of a circle, neighbour of the k / 2 nearest on either side (Harary's graph)."""
        size = len(cohort)
        degree, threshold = topology(size)
        if degree == size - 1:
            return cls({u: tuple(v for v in cohort if v != u) for u in cohort}, threshold)
        circle = [cohort[i] for i in np.argsort(Stream(key).draw(size), kind="stable")]
        reach = [step for step in range(-(degree // 2), degree // 2 + 1) if step]
        around = {u: tuple(circle[(i + step) % size] for step in reach) for i, u in enumerate(circle)}
        return cls({u: around[u] for u in cohort}, threshold)


@lru_cache(maxsize=4096)
def topology(size: int) -> tuple[int, int]:
    """(degree, threshold) for a cohort of ``size`` clients.

    In a complete graph every share is within reach and nothing is left to chance: two thirds of the clients, rounded
    up, must stay, and fewer learn nothing together.
    """
    if size > COMPLETE:
        high = 2
        while high < size - 1 and _largest_threshold(size, high) is None:
            high *= 2
        low = high // 2
        while high - low > 2:  # by halves: both even, too few neighbours at the low end
            middle = (low + high) // 4 * 2
            low, high = (middle, high) if _largest_threshold(size, middle) is None else (low, middle)
        threshold = _largest_threshold(size, high) if high < size - 1 else None
        if threshold is not None:
            return high, threshold
    return size - 1, size - int(DROPOUTS * size)


def _largest_threshold(size: int, degree: int) -> int | None:
    """The largest threshold that keeps the promise with ``degree`` neighbours, if there is one."""
    if degree >= size - 1:
        return size - int(DROPOUTS * size)
    left = FAILURE - divided_failure(size, degree)
    fitting = [t for t, failure in enumerate(threshold_failures(size, degree), start=1) if failure <= left]
    return fitting[-1] if fitting else None


def threshold_failures(size: int, degree: int) -> list[Fraction]:
    """At most this probability that anybody has t corrupt neighbours, or fewer that stay: for t = 1, 2, ..., degree."""
    others, corrupt, stay = size - 1, int(CORRUPT * size), size - int(DROPOUTS * size)
    bad = [comb(corrupt, i) * comb(others - corrupt, degree - i) for i in range(degree + 1)]
    good = [comb(stay, i) * comb(others - stay, degree - i) for i in range(degree + 1)]
    at_least = list(accumulate(reversed(bad)))[-2::-1]  # 1, 2, ... corrupt ones or more
    fewer = accumulate(good)  # less than 1, 2, ... that stay
    drawn = comb(others, degree)
    return [Fraction(size * (many + few), drawn) for many, few in zip(at_least, fewer, strict=False)]


def divided_failure(size: int, degree: int) -> Fraction:
    """At most this probability that those who are neither corrupt nor gone are in two parts without an edge between.

    A circle whose members see k / 2 on either side falls apart only where two runs of k / 2 are missing.
    """
    missing = int(CORRUPT * size) + int(DROPOUTS * size)
    if missing < degree:
        return Fraction(0)
    return Fraction(comb(size, 2) * perm(missing, degree), perm(size, degree))
