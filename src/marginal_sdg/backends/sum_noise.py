"""Noise on secure sums that the clients add, each a part, so that a server which sees the sums sees no exact one.

Every client of a cohort adds a discrete Gaussian of the same variance v to each cell of its own vector, before that is
masked, whether it counts anything there or not. Of the vectors of a sum at least ``needed`` must arrive, or the sum is
never unmasked; up to ``colluding`` of them may be of clients that tell the server their part, or that look at the
release themselves. What the others have added, n = needed - colluding parts at least, is what the ledgers charge for:
their sum is almost a discrete Gaussian of variance n v, and v is a little above 1/n of the variance that is paid for,
so that a record which is counted in a cell costs at most what one discrete Gaussian of that variance would
(:func:`~marginal_sdg.privacy.joint.part_variance`; Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian
Mechanism for Federated Learning with Secure Aggregation", Proposition 14). More parts only help: convolving with
independent noise is post-processing.

The price: when all of a cohort stay, the noise is larger than was paid for, by cohort / n in variance. How many have
stayed is public, and a measurement says its true variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.graph import DROPOUTS
from marginal_sdg.privacy.joint import part_variance
from marginal_sdg.privacy.ledger import Ledger

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SumNoise:
    """``colluding``: clients whose noise the server may know. ``least``: no cohort is smaller; more than those."""

    colluding: int
    least: int

    def needed(self, cohort: int) -> int:
        """How many of a cohort's vectors must arrive: two thirds, as the masks want of small cohorts, and ``least``."""
        return max(cohort - int(DROPOUTS * cohort), self.least)

    def honest(self, cohort: int, paid: Fraction) -> int:
        """Parts that are counted on: in every sum which is unmasked, and unknown to the server.

        Fewer where ``paid`` is so small that a part's variance would be below 2: sums of integers that are nearly all
        0 are no discrete Gaussian. Then each part is as large as those few need.
        """
        return min(self.needed(cohort) - self.colluding, max(int(paid / 2), 1))

    def variance(self, paid: Fraction, cohort: int, survivors: int) -> Fraction:
        """Of a sum's noise, per cell, where ``paid`` is charged."""
        return survivors * part_variance(paid, self.honest(cohort, paid) + 1)

    def add(
        self, pieces: Mapping[int, Counts], ends: Sequence[int], paid: Fraction, cohort: int, ledger: Ledger
    ) -> dict[int, Counts]:
        """A client's pieces of a vector, those of all requests, with its part of the noise on their counts.

        ``pieces``: where those that it contributes to begin, and what it adds there; ``ends``: as ``ends_of`` gives
        them. The client's own ``ledger`` draws and charges; it charges one cell where the client adds noise alone.
        """
        spans = list(pairwise(ends))
        whole = [pieces.get(start, np.zeros(end - start, dtype=np.int64)) for start, end in spans]
        noisy = ledger.gaussian(
            [piece[:-2] for piece in whole],
            paid,
            per_record=max(len(pieces), 1),
            honest=self.honest(cohort, paid),
            what="part of a sum",
            by="client",
        )
        return {
            start: np.concatenate([counts, piece[-2:]])
            for (start, _), counts, piece in zip(spans, noisy, whole, strict=True)
        }
