"""What leaves a backend: selections and measurements, each paid for in the ledger before it exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

PUBLIC = 0.01  # a fit takes no public knowledge for more precise than that, relative to the noise of what was paid for


@dataclass(frozen=True)
class Selection:
    """The cliques picked in one round, each with the contributors whose marginals are to be summed.

    A trusted curator picks one clique and contributes alone (contributor 0); in FLAIM every participating client
    picks its own.
    """

    picks: Mapping[Clique, tuple[int, ...]]
    participants: tuple[int, ...] = (0,)

    @property
    def cliques(self) -> tuple[Clique, ...]:
        """The distinct cliques, most contributors first."""
        return tuple(sorted(self.picks, key=lambda clique: -len(self.picks[clique])))

    def only(self, cliques: Iterable[Clique]) -> Selection:
        """The same selection without the cliques that are not in ``cliques``."""
        return Selection({clique: self.picks[clique] for clique in cliques}, self.participants)


@dataclass(frozen=True)
class Measurement:
    """A noisy marginal, as released.

    ``counts``: (n_q,) int64, records plus exact discrete Gaussian noise; ``sigma``: float, records, noise standard
    deviation per cell. ``records``: how many records were counted, as far as paid releases tell (None: the whole
    table); the fit scales the counts by it. ``confidence``: the number of records that sets the weight in the fit
    (None: every measurement weighs the same, as in NaiveFLAIM).

    ``public``: no release but public knowledge, which may be exact (``sigma`` 0); see ``known.py``.
    """

    clique: Clique
    counts: Counts
    sigma: float
    records: float | None = None
    confidence: float | None = None
    public: bool = False

    def scaled(self, total: float) -> tuple[Floats, float]:
        """(counts, sigma) brought to a table of ``total`` records, as the fit needs them."""
        counts = self.counts.astype(np.float64) * (total / self.records if self.records else 1.0)
        return counts, self.sigma * (total / abs(self.confidence) if self.confidence else 1.0)


def typical_sigma(measurements: Sequence[Measurement], total: float) -> float:
    """The noise of what was paid for (records): 1 / sigma^2 is the mean over measured cliques; 1 where nothing was.

    Repeated measurements of a clique add up their 1 / sigma^2 first.
    """
    precision: dict[Clique, float] = {}
    for m in measurements:
        if not m.public:
            precision[m.clique] = precision.get(m.clique, 0.0) + m.scaled(total)[1] ** -2
    return float(np.mean(list(precision.values())) ** -0.5) if precision else 1.0


def fit_sigma(measurement: Measurement, total: float, typical: float) -> float:
    """The sigma that a fit works with: public knowledge may be exact, and counts as ``PUBLIC`` times typical then."""
    sigma = measurement.scaled(total)[1]
    return max(sigma, PUBLIC * typical) if measurement.public else sigma


def estimate_total(measurements: Sequence[Measurement]) -> float:
    """Best unbiased estimate of the number of records from marginals of the whole table; at least 1.

    The cells of a marginal sum to the total with variance ``n_q sigma**2``; estimates are combined by inverse
    variance.
    """
    weights = np.array([1.0 / (len(m.counts) * m.sigma**2) for m in measurements])
    sums = np.array([float(m.counts.sum()) for m in measurements])
    return max(float(weights @ sums / weights.sum()), 1.0)
