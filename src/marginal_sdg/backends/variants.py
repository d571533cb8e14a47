"""The members of the FLAIM family, and what each costs a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from marginal_sdg.domain import Clique
from marginal_sdg.release import Counts, Measurement
from marginal_sdg.schedule import Costs


@dataclass(frozen=True)
class Variant:
    """What distinguishes the members of the FLAIM family.

    ``picks``: every client selects from its own data, or the server draws one candidate at random for all of them.
    ``smallest`` and ``largest``: how many attributes a candidate may have.
    ``heterogeneity``: the term that clients subtract from their scores, "private" by comparing 1-way marginals.
    ``census``: the first 1-way marginals are those of all clients, not of a sample each; ``refresh``: all 1-way
    marginals are measured again in every round but the last, for the heterogeneity term; ``combine``: and for the fit.
    ``weighting``: what a measurement's weight in the fit follows: nothing, the exact or the estimated number of
    contributing records.
    """

    picks: Literal["clients", "server"] = "clients"
    smallest: int = 1
    largest: int = 99
    heterogeneity: Literal["none", "oracle", "private"] = "none"
    census: bool = False
    refresh: bool = False
    combine: bool = False
    weighting: Literal["equal", "exact", "estimated"] = "equal"

    @property
    def private(self) -> bool:
        """False where exact global counts steer the method: a reference for research, not a release."""
        return self.heterogeneity != "oracle" and self.weighting != "exact"

    @property
    def skewed(self) -> bool:
        """Whether clients subtract a heterogeneity term from their scores."""
        return self.heterogeneity != "none"

    @property
    def ways(self) -> range:
        """How many attributes a candidate may have."""
        return range(self.smallest, self.largest + 1)

    def measurement(self, clique: Clique, counts: Counts, sigma: float, size: float, *, sound: bool) -> Measurement:
        """A noisy marginal of clients with ``size`` records, noisy ones (``sound``) or exact, with its weight."""
        records = max(size, 1.0) if sound else float(counts.sum()) or None
        confidence = {"equal": None, "exact": size, "estimated": records}[self.weighting]
        return Measurement(clique, counts, sigma, records, confidence)


VARIANTS = {
    "naive": Variant(),
    "oracle": Variant(heterogeneity="oracle", weighting="exact"),
    "private": Variant(smallest=2, heterogeneity="private", refresh=True, combine=True, weighting="estimated"),
    "census": Variant(smallest=2, heterogeneity="private", census=True, weighting="estimated"),
    "proxy": Variant(heterogeneity="private", refresh=True, weighting="estimated"),
    "oracle_combined": Variant(smallest=2, heterogeneity="oracle", refresh=True, combine=True, weighting="exact"),
    "random": Variant(picks="server"),
    "naive_bayes": Variant(largest=1),
}


def flaim_costs(variant: Variant, attributes: int, local_steps: int, *, sound: bool) -> Costs:
    """Gaussians and selections that one record meets.

    The paper's Lemma 4.1 counts s Gaussians a round. The noisy local marginals that steer the next local step are
    releases of their own, so the sound count is 2 s - 1.
    """
    gaussians = 2 * local_steps - 1 if sound else local_steps
    return Costs(
        initial=attributes,
        gaussians=gaussians + (attributes if variant.refresh else 0),
        last_gaussians=gaussians,
        selections=0 if variant.picks == "server" else local_steps,
    )
