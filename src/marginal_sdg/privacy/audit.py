"""Empirical lower bounds on privacy loss: two worlds, one canary record, an auditor who sees every release.

A run releases something in the world without the canary, or in the world with it. The auditor turns what it sees into
one number, best the log-likelihood ratio of the two worlds; how well that number tells the worlds apart bounds the
privacy loss from below, whatever the number is.

* Gaussian trade-off (Dong, Roth, Su 2022): under mu-GDP no score separates a pair of runs, one from each world, with
  a probability above Phi(mu / sqrt 2). Pairs are independent, so Clopper-Pearson bounds that probability exactly. A
  zCDP budget rho spent on Gaussian noise is mu-GDP with mu = sqrt(2 rho). With selections among the releases this is
  no theorem, but right to 0.0025 in that probability (0.0003 at a gaussian_share of 0.9): see the tests.
* (epsilon, delta): a threshold with true and false positive rates TPR and FPR shows epsilon >= log((TPR - delta) /
  FPR). It is chosen on the first half of the runs and judged on the second. Source: Jagielski, Ullman, Oprea 2020.

A bound above the claim shows a flaw, up to the stated confidence. A bound below it shows nothing but what this auditor
could see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, log_softmax, ndtr, ndtri

from .budget import Budget
from .ledger import Counts, Ledger
from .noise import Source

Floats = npt.NDArray[np.float64]
OpenLedger = Callable[[Budget, Source], Ledger]

CONFIDENCE = 0.999


@dataclass(frozen=True)
class Audit:
    """What an auditor found in ``runs`` runs of each world, next to what was claimed.

    ``mu``: point estimate; ``mu_low``, ``epsilon_low``: lower bounds that each hold with probability ``confidence``.
    """

    runs: int
    claimed_mu: float
    mu: float
    mu_low: float
    claimed_epsilon: float
    epsilon_low: float
    delta: float
    confidence: float

    @property
    def flagged(self) -> bool:
        """Does a lower bound exceed its claim?"""
        return self.mu_low > self.claimed_mu or self.epsilon_low > self.claimed_epsilon


def judge(without: npt.ArrayLike, present: npt.ArrayLike, budget: Budget, confidence: float = CONFIDENCE) -> Audit:
    """Bound the loss behind independent scores, (runs,) of each world; high scores speak for the canary."""
    low, high = np.asarray(without, dtype=np.float64), np.asarray(present, dtype=np.float64)
    if low.shape != high.shape or low.ndim != 1 or len(low) < 2:
        raise ValueError(f"judge: needs two equally long score vectors, got shapes {low.shape} and {high.shape}")
    coins = np.arange(len(low)) % 2 == 1  # decide ties; fair, since runs are independent of their number
    wins = int(((high > low) | ((high == low) & coins)).sum())
    return Audit(
        runs=len(low),
        claimed_mu=claimed_mu(budget),
        mu=_mu(_separation(low, high)),
        mu_low=max(0.0, _mu(float(at_least(wins, len(low), confidence)))),
        claimed_epsilon=budget.epsilon,
        epsilon_low=_epsilon_low(low, high, budget.delta, confidence),
        delta=budget.delta,
        confidence=confidence,
    )


def claimed_mu(budget: Budget) -> float:
    """The Gaussian trade-off curve that a zCDP budget spent on Gaussian noise stands for: sqrt(2 rho)."""
    return math.sqrt(2 * budget.rho)


def power(mu: float, claimed: float, runs: int, confidence: float = CONFIDENCE) -> float:
    """Probability that the bound on mu exceeds ``claimed`` when the scores' true trade-off is Gaussian with ``mu``."""
    wins = np.arange(runs + 1)
    needed = int(np.count_nonzero(at_least(wins, runs, confidence) <= ndtr(claimed / math.sqrt(2))))
    if needed > runs:
        return 0.0
    from scipy.stats import binom

    return float(binom.sf(needed - 1, runs, ndtr(mu / math.sqrt(2))))


def epsilon_of(mu: float, delta: float) -> float:
    """The epsilon of mu-GDP at ``delta``. Source: Dong, Roth, Su 2022, corollary 2.13, solved by bisection."""
    if mu <= 0:
        return 0.0

    def excess(epsilon: float) -> float:
        second = math.exp(min(epsilon, 700.0)) * ndtr(-epsilon / mu - mu / 2)
        return float(ndtr(-epsilon / mu + mu / 2) - second) - delta

    low, high = 0.0, 1.0
    while excess(high) > 0:
        high *= 2
    if excess(low) <= 0:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def at_least(successes: npt.ArrayLike, trials: int, confidence: float) -> Floats:
    """Clopper-Pearson: lower confidence bound of a success probability, for each number of successes."""
    k = np.asarray(successes, dtype=np.float64)
    bound: Floats = np.where(k > 0, betaincinv(np.maximum(k, 1), trials - k + 1, 1 - confidence), 0.0)
    return bound


def _mu(separation: float) -> float:
    return math.sqrt(2) * float(ndtri(separation))


def _separation(low: Floats, high: Floats) -> float:
    """P(score with > score without) + P(tie) / 2, over all pairs of runs."""
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left") + np.searchsorted(ordered, high, side="right")
    return float(below.mean()) / (2 * len(low))


def _epsilon_low(low: Floats, high: Floats, delta: float, confidence: float) -> float:
    half = len(low) // 2
    confidence = (1 + confidence) / 2  # two rates are bounded at once

    def bounds(positive: Floats, negative: Floats, thresholds: Floats) -> Floats:
        hits = (positive[:, None] > thresholds).sum(axis=0)
        misses = (negative[:, None] <= thresholds).sum(axis=0)
        rate = at_least(hits, len(positive), confidence) - delta
        false = 1 - at_least(misses, len(negative), confidence)
        found: Floats = np.log(np.maximum(rate, 1e-300) / false)
        return found

    best = (-math.inf, 0.0, 1)
    for sign in (1, -1):  # "the canary is there" and "the canary is not there" are both events
        positive, negative = (high, low) if sign == 1 else (-low, -high)
        grid = np.unique(negative[:half])[-200:]
        first = bounds(positive[:half], negative[:half], grid)
        place = int(np.argmax(first))
        best = max(best, (float(first[place]), float(grid[place]), sign))
    _, threshold, sign = best
    positive, negative = (high, low) if sign == 1 else (-low, -high)
    return max(0.0, float(bounds(positive[half:], negative[half:], np.array([threshold]))[0]))


# -- evidence: log-likelihood ratios of the two worlds ---------------------------------------------------------


def count_evidence(excess: float, variance: float) -> float:
    """log P(release | canary) / P(release | no canary) of a noisy cell that the canary raises by one.

    ``excess``: the released count minus the exact count without the canary. The same for the discrete Gaussian as for
    the continuous one; all other cells have the ratio 1.
    """
    return (2 * excess - 1) / (2 * variance)


def choice_evidence(without: Floats, present: Floats, choice: int, epsilon2: float, sensitivity: float) -> float:
    """The same of one draw of the exponential mechanism, from the scores of both worlds."""
    factor = math.sqrt(epsilon2) / (2 * sensitivity)
    return float((log_softmax(factor * present) - log_softmax(factor * without))[choice])


# -- games on the ledger's two mechanisms ----------------------------------------------------------------------


def play_measure(
    open_ledger: OpenLedger, budget: Budget, runs: int, seed: int, tables: int = 4
) -> tuple[Floats, Floats]:
    """Spend the budget on marginals that all count the canary in an otherwise empty cell; scores of both worlds."""
    variance = Fraction(tables) / (2 * budget.rho)

    def run(world: int, source: Source) -> float:
        exact: list[Counts] = [np.array([7, 3, world], dtype=np.int64) for _ in range(tables)]
        released = open_ledger(budget, source).gaussian(exact, variance, per_record=tables, what="audit: measure")
        return sum(count_evidence(float(counts[-1]), float(variance)) for counts in released)

    return play(run, runs, seed)


def play_select(
    open_ledger: OpenLedger,
    budget: Budget,
    runs: int,
    seed: int,
    *,
    scores: tuple[Floats, Floats] = (np.array([0.0, 1.0]), np.array([1.0, 0.0])),
    sensitivity: float = 1.0,
    draws: int = 20,
) -> tuple[Floats, Floats]:
    """Spend the budget on draws from fixed scores of both worlds: by default the worst that the sensitivity allows."""
    epsilon2 = 8 * budget.rho / draws
    evidence = [choice_evidence(*scores, choice, float(epsilon2), sensitivity) for choice in range(len(scores[0]))]

    def run(world: int, source: Source) -> float:
        vectors: Sequence[Floats] = [scores[world]] * draws
        ledger = open_ledger(budget, source)
        chosen = ledger.select(vectors, epsilon2, sensitivity=sensitivity, per_record=draws, what="audit: select")
        return math.fsum(evidence[choice] for choice in chosen)  # in any order: equal choices are ties

    return play(run, runs, seed)


def play(run: Callable[[int, Source], float], runs: int, seed: int) -> tuple[Floats, Floats]:
    """Scores of ``runs`` independent runs without (world 0) and with the canary (world 1)."""
    sources = Source.seeded(seed).spawn(2 * runs)
    scores = np.array([run(i % 2, source) for i, source in enumerate(sources)])
    return scores[0::2], scores[1::2]


# -- planted faults: an auditor that finds nothing in these is no auditor --------------------------------------


class Skimping(Ledger):
    """A broken ledger: charges what it is asked for, but draws noise of a smaller variance or a larger epsilon."""

    variance_factor = Fraction(1)
    epsilon_factor = 1

    def gaussian(self, tables: Sequence[Counts], variance: Fraction, **terms: object) -> list[Counts]:
        """Charge ``variance``, draw ``variance_factor`` times as much."""
        super().gaussian([], variance, **terms)  # type: ignore[arg-type]
        free = Ledger(None, self.source)
        return free.gaussian(tables, variance * self.variance_factor, **terms)  # type: ignore[arg-type]

    def select(self, scores: Sequence[Floats], epsilon2: Fraction, **terms: object) -> list[int]:
        """Charge ``epsilon2``, draw with ``epsilon_factor`` times its root."""
        super().select([], epsilon2, **terms)  # type: ignore[arg-type]
        free = Ledger(None, self.source)
        return free.select(scores, epsilon2 * self.epsilon_factor**2, **terms)  # type: ignore[arg-type]
