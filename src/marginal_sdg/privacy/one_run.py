"""A lower bound on epsilon from one run: many canaries, a fair coin for each, and an auditor who guesses the coins.

Each of m canaries is put in with probability 1/2. The auditor sees what the run releases, guesses "in" or "out" for
the r canaries it is surest about and abstains on the others. If adding or removing one record is
(epsilon, delta)-private, then, with W ~ Binomial(r, e^epsilon / (1 + e^epsilon)),

    P(at least v guesses are right) <= P(W >= v) + 2 m delta max_{i >= 1} P(v > W >= v - i) / i.

Source: Steinke, Nasr, Jagielski 2023, "Privacy auditing with one (1) training run", main theorem, for records
that are added or removed. r is fixed before the run; several r share the error probability (Bonferroni).

The delta term limits what can be shown: with v right it is about 2 m delta / (v - r e^epsilon / (1 + e^epsilon)). At
delta 1e-2 and confidence 0.95 even m right guesses out of m show 1.01 at most (m = 25), and 0.57 at m = 1000. Such a
claim is audited at another delta of its zCDP curve (``claim_at``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from .budget import Budget, eps_from_rho_delta

CONFIDENCE = 0.95
_LARGEST_EPSILON = 30.0


@dataclass(frozen=True)
class OneRun:
    """What one run showed: ``epsilon_low`` is at most the true epsilon at ``delta`` with probability ``confidence``."""

    canaries: int
    guesses: int
    correct: int
    delta: float
    confidence: float
    epsilon_low: float
    claimed_epsilon: float

    @property
    def flagged(self) -> bool:
        """Does the lower bound exceed the claim?"""
        return self.epsilon_low > self.claimed_epsilon


def claim_at(budget: Budget, delta: float) -> Budget:
    """What the zCDP that ``budget`` buys promises at another delta."""
    return Budget(eps_from_rho_delta(float(budget.rho), delta), delta)


def judge_one_run(
    evidence: npt.ArrayLike,
    included: npt.ArrayLike,
    claim: Budget,
    guesses: Sequence[int],
    confidence: float = CONFIDENCE,
) -> OneRun:
    """Guess from the evidence, compare with the coins and bound epsilon at the claim's delta.

    Parameters
    ----------
    evidence : (m,) scores of the canaries, best log-likelihood ratios: positive speaks for "in", size is sureness.
    included : (m,) bool, the coins. They must not have touched the evidence but through the run.
    guesses : numbers of guesses to try, each at most m and chosen before the run; the one that shows most is returned.
    """
    scores, coins = np.asarray(evidence, dtype=np.float64), np.asarray(included, dtype=bool)
    if scores.shape != coins.shape or scores.ndim != 1:
        raise ValueError(f"judge_one_run: needs one coin per score, got shapes {scores.shape} and {coins.shape}")
    if not guesses or not all(0 < r <= len(scores) for r in guesses):
        raise ValueError(f"judge_one_run: guesses must lie in 1..{len(scores)}, got {tuple(guesses)}")
    surest = np.argsort(-np.abs(scores), kind="stable")
    right = np.cumsum(((scores > 0) == coins)[surest])
    level = 1 - (1 - confidence) / len(guesses)
    found = [(epsilon_low(len(scores), r, int(right[r - 1]), claim.delta, level), -r) for r in guesses]
    low, r = max(found)[0], -max(found)[1]
    return OneRun(len(scores), r, int(right[r - 1]), claim.delta, confidence, low, claim.epsilon)


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The bound above: the most probable that (epsilon, delta)-privacy can make so many right guesses."""
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"p_value: needs correct <= guesses <= canaries, got {correct}, {guesses}, {canaries}")
    rate = 1 / (1 + math.exp(-epsilon))
    bound = float(binom.sf(correct - 1, guesses, rate))
    if delta > 0 and correct > 0:
        just_below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, rate))
        bound += 2 * canaries * delta * float((just_below / np.arange(1, correct + 1)).max())
    return min(bound, 1.0)


def epsilon_low(canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """The largest epsilon found whose p-value is at most 1 - ``confidence``; 0 if there is none.

    Bisection keeps such an epsilon at its lower end. Privacy at a smaller epsilon implies it at this one, so all
    smaller ones are refuted with it, whether or not the p-value is monotone.
    """
    low, high = 0.0, _LARGEST_EPSILON
    if p_value(canaries, guesses, correct, low, delta) > 1 - confidence:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        refuted = p_value(canaries, guesses, correct, middle, delta) <= 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low
