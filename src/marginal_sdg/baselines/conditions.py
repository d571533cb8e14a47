"""Where a conditional generator's conditions come from: noisy 1-way marginals, paid for.

A condition asks for one value of one attribute. CTGAN draws it from the training data's exact frequencies, and the
FLAIM authors' federated version builds that sampler from all clients' raw records, which no accounting covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.release import Measurement


def measure_one_way(
    tables: Sequence[Table], domain: Domain, rho: Fraction, ledger: Ledger, by: str
) -> tuple[Measurement, ...]:
    """All 1-way marginals of the pooled tables for ``rho`` together, equal noise on every cell."""
    variance = len(domain) / (2 * rho)
    counts = [np.sum([contingency(table, (name,)) for table in tables], axis=0) for name in domain.names]
    noisy = ledger.gaussian(counts, variance, per_record=len(domain), what="1-way marginals", by=by)
    return tuple(
        Measurement((name,), cells, float(variance) ** 0.5) for name, cells in zip(domain.names, noisy, strict=True)
    )


def frequencies(measurements: Sequence[Measurement]) -> npt.NDArray[np.float64]:
    """Probability of each condition: an attribute uniformly, then its value as the noisy counts say: (cells,)."""
    parts = []
    for measurement in measurements:
        counts = np.maximum(measurement.counts, 0) + 1e-3  # every value can be asked for, whatever the noise
        parts.append(counts / counts.sum())
    joined: npt.NDArray[np.float64] = np.concatenate(parts) / len(parts)
    return joined
