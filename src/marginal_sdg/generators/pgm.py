"""Private-PGM on our own junction-tree engine: the penalised maximum-entropy dual, by L-BFGS.

Given noisy marginals y_q with noise sigma_q of a table with N records, the model is p_theta(x) ∝ exp(sum_q
theta_q(x_q)) over the *measured* cliques, where theta minimises

    N log Z(theta) - <theta, y> + sum_q ridge_q sigma_q^2 / sigma B^2 (cosh(theta_q / B) - 1) ,

with 1 / sigma^2 the mean of 1 / sigma_q^2 over all that was paid for.  The gradient is "model marginals minus the
measurement, shrunk by ridge_q sigma_q^2 / sigma B sinh(theta_q / B)": measurements that contradict each other give
way in proportion to their variances. For ridge -> 0 the solution is the maximum-entropy member of the weighted
least-squares fits of Private-PGM (McKenna, Sheldon, Miklau 2019). The ridge keeps the model from following the
noise; beyond B nats it grows exponentially, so that measurements which contradict all others (NaiveFLAIM produces
them) bend the model but do not break it. Public knowledge comes in as further y_q, exact ones with a hundredth of
sigma (``release.PUBLIC``).

Every y_q is pooled from all measurements of q by inverse variance, and moved to the nearest table without negative
counts and with N records first. Cells that are impossible get a log-potential of -inf, outside the optimisation:
there y_q is 0, and "uniform" below means over the records that are possible. The fit stops when its duality gap
proves that the primal loss (N KL(model, uniform) plus the penalty's conjugate at the residuals) lies within a
fraction of its optimum, 0.1% for the final model, or after a fixed number of iterations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique, Domain
from marginal_sdg.errors import ConfigError
from marginal_sdg.generators.lbfgs import minimise
from marginal_sdg.graphical.calibration import Calibrated, Calibrator
from marginal_sdg.graphical.junction import JunctionTree, Sizes, mask_of, model_cells
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.release import Measurement, fit_sigma, typical_sigma
from marginal_sdg.simplex import onto_simplex

Floats = npt.NDArray[np.float64]

# Chosen on the train rows of Adult and Magic at epsilon 1: shrink interactions more than single attributes.
RIDGE_ONE_WAY = 0.1
RIDGE = 0.3
# Between the rounds of budget annealing: what a strong ridge leaves of the measured marginals would be scored as the
# model's error and measured again, with less and less noise. Chosen likewise; with rounds of equal noise nothing is
# gained by it.
RIDGE_ANNEALING = 0.03
BEND = 16.0  # nats: the B above

GAP, ITERATIONS = 0.1, 100  # a model between rounds only steers the selection
FINAL_GAP, FINAL_ITERATIONS = 0.001, 5000


class PGM:
    """The default generator. ``max_model_mb``: refuse to build larger models, before any memory is taken.

    ``zeros``: clique -> (n_q,) -inf where a cell is impossible, else 0; the cliques are part of every model.
    ``annealing``: models between rounds steer budget annealing, and follow the measurements more closely.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        max_model_mb: float = 1024.0,
        zeros: Mapping[Clique, Floats] | None = None,
        annealing: bool = False,
    ) -> None:
        self.domain = domain
        self.max_model_mb = max_model_mb
        self.annealing = annealing
        self.zeros = dict(zeros or {})
        self._possible: dict[Clique, npt.NDArray[np.bool_]] = {}
        self._sizes = Sizes(domain.shape)
        self._masks: dict[Clique, int] = {}

    def _mask(self, clique: Clique) -> int:
        mask = self._masks.get(clique)
        if mask is None:
            mask = self._masks[clique] = mask_of(map(self.domain.index, clique))
        return mask

    def cells(self, cliques: Iterable[Clique]) -> int:
        """Cells of the junction tree over ``cliques``, and over those with impossible cells."""
        return model_cells(self._sizes, map(self._mask, (*self.zeros, *cliques)))

    @cached_property
    def _support(self) -> GraphicalModel:
        """The uniform distribution over the records that are possible."""
        return GraphicalModel(self.domain, self.zeros, 1.0)

    def pool(self, measurements: Sequence[Measurement], total: float) -> dict[Clique, tuple[Floats, float]]:
        """Combine repeated measurements by inverse variance, project: clique -> (non-negative counts, sigma)."""
        sums: dict[Clique, tuple[Floats, float]] = {}
        typical = typical_sigma(measurements, total)
        for m in measurements:
            counts, sigma = m.scaled(total)[0], fit_sigma(m, total, typical)
            weighted, weight = sums.get(m.clique, (np.zeros(len(counts)), 0.0))
            sums[m.clique] = (weighted + counts / sigma**2, weight + 1 / sigma**2)
        return {
            clique: (self._projected(clique, weighted / weight, total), weight**-0.5)
            for clique, (weighted, weight) in sums.items()
        }

    def _projected(self, clique: Clique, counts: Floats, total: float) -> Floats:
        """The nearest non-negative counts with sum ``total``, 0 where no record is possible."""
        if not self.zeros:
            return onto_simplex(counts, total)
        possible = self._possible.get(clique)
        if possible is None:
            possible = self._possible[clique] = self._support.probabilities(clique) > 0
        projected = np.zeros(len(counts))
        projected[possible] = onto_simplex(counts[possible], total)
        return projected

    def fit(
        self,
        measurements: Sequence[Measurement],
        total: float,
        *,
        warm_start: GraphicalModel | None = None,
        final: bool = False,
    ) -> GraphicalModel:
        """Fit the model; ``ConfigError`` before allocation where its tables would exceed ``max_model_mb``."""
        measurements = [m for m in measurements if m.clique]  # the empty clique's is the total
        if not measurements:
            return GraphicalModel(self.domain, self.zeros, total)
        pooled = self.pool(measurements, total)
        self._check_memory(list(pooled))
        problem = _Problem(
            self._sizes,
            {self._mask(clique): value for clique, value in pooled.items()},
            total,
            typical_sigma(measurements, total),
            {self._mask(clique): values for clique, values in self.zeros.items()},
            (RIDGE_ANNEALING,) * 2 if self.annealing and not final else (RIDGE_ONE_WAY, RIDGE),
        )
        gap = FINAL_GAP if final else GAP
        theta = minimise(
            problem.evaluate,
            self._start(list(pooled), problem, warm_start),
            done=lambda theta: problem.gap(theta) <= gap,
            iterations=FINAL_ITERATIONS if final else ITERATIONS,
        )
        potentials = {clique: theta[cells] for clique, cells in zip(pooled, problem.slices, strict=True)}
        for clique, values in self.zeros.items():
            potentials[clique] = potentials.get(clique, 0.0) + values
        return GraphicalModel(
            self.domain,
            potentials,
            total,
            calibrator=problem.calibrator,
            calibrated=problem.calibrate(theta),
        )

    def _check_memory(self, cliques: list[Clique]) -> None:
        limit = self.max_model_mb * 2**20 / 8
        if self.cells(cliques) <= limit:
            return
        first = next(k for k in range(1, len(cliques) + 1) if self.cells(cliques[:k]) > limit)
        needed = self.cells(cliques[:first]) * 8 / 2**20
        raise ConfigError(
            f"max_model_mb: a model that measures {cliques[first - 1]} needs {needed:,.0f} MB, the limit is "
            f"{self.max_model_mb:,.0f}; raise it or measure smaller cliques"
        )

    def _start(self, cliques: list[Clique], problem: _Problem, warm: GraphicalModel | None) -> Floats:
        """Old potentials where a clique was measured before, one exact block update where it is new."""
        theta = np.zeros(len(problem.target))
        for clique, cells in zip(cliques, problem.slices, strict=True):
            known = None if warm is None else warm.potentials.get(clique)
            if known is not None and (clique not in self.zeros or known[np.isfinite(known)].any()):
                theta[cells] = np.where(np.isneginf(known), 0.0, known)
                continue
            n = cells.stop - cells.start
            prior = warm.probabilities(clique) if warm else np.full(n, 1.0 / n)
            update = block_update(prior, problem.target[cells], float(problem.ridge[cells.start]), problem.total)
            theta[cells] = np.clip(update, -2 * BEND, 2 * BEND)
        return theta


class _Problem:
    """Value, gradient and curvature of the dual, over all measured cells end to end.

    ``ridges``: of single attributes, and of more.
    """

    def __init__(
        self,
        sizes: Sizes,
        pooled: dict[int, tuple[Floats, float]],
        total: float,
        typical: float,
        zeros: Mapping[int, Floats],
        ridges: tuple[float, float],
    ) -> None:
        self.total = total
        cliques = [*pooled, *(mask for mask in zeros if mask not in pooled)]
        self.calibrator = Calibrator(JunctionTree.covering(sizes, cliques), cliques)
        self.slices = self.calibrator.slices[: len(pooled)]
        self._fixed = np.concatenate([zeros.get(mask, np.zeros(sizes.cells(mask))) for mask in cliques])
        everything = sum(map(math.log, sizes.sizes))
        self._possible = self.calibrator(self._fixed).log_partition if zeros else everything  # log of kinds of records
        self.target = np.concatenate([counts for counts, _ in pooled.values()])
        self.sigma = np.concatenate([np.full(len(counts), sigma) for counts, sigma in pooled.values()])
        of_one, of_more = ridges
        ridge = [of_one if mask.bit_count() == 1 else of_more for mask in pooled]
        self.ridge = self.sigma**2 / typical * np.repeat(ridge, [len(counts) for counts, _ in pooled.values()])
        self._latest: tuple[Floats, Calibrated] | None = None

    def calibrate(self, theta: Floats) -> Calibrated:
        """Inference at ``theta``; the latest result is kept, so that the optimum is not calibrated twice."""
        if self._latest is None or self._latest[0] is not theta:
            full = self._fixed.copy()
            full[: len(theta)] += theta
            calibrated = self.calibrator(full)
            self._latest = theta, replace(calibrated, marginals=calibrated.marginals[: len(theta)])
        return self._latest[1]

    def evaluate(self, theta: Floats) -> tuple[float, Floats, Floats]:
        """(objective, gradient, diagonal of the Hessian kept away from zero by a fraction of the noise)."""
        calibrated = self.calibrate(theta)
        counts = self.total * calibrated.marginals
        growth = np.exp(theta / BEND)
        decay = 1.0 / growth
        cosh = 0.5 * (growth + decay)
        shrinkage = self.ridge * (0.5 * BEND) * (growth - decay)
        penalty = BEND**2 * float(self.ridge @ (cosh - 1.0))
        value = self.total * calibrated.log_partition - float(theta @ self.target) + penalty
        return value, counts - self.target + shrinkage, counts + self.ridge * cosh + 0.02 * self.sigma

    def bracket(self, theta: Floats) -> tuple[float, float]:
        """(lower, upper) bound of the smallest primal loss; the upper one is the loss of the model at ``theta``.

        The primal is P(p) = N KL(p, uniform) + sum_i h_i*(y_i - N m_i(p)) with the marginals m(p) and the penalty h of
        the dual D. D(0) - D(theta) never exceeds it; at the optimum they are equal.
        """
        calibrated = self.calibrate(theta)
        residual = self.target - self.total * calibrated.marginals
        slope = residual / (self.ridge * BEND)
        conjugate = BEND * residual * np.arcsinh(slope) - self.ridge * BEND**2 * (np.sqrt(1.0 + slope * slope) - 1.0)
        at_zero = self.total * self._possible
        entropy = calibrated.log_partition - float(theta @ calibrated.marginals)
        return at_zero - self.evaluate(theta)[0], at_zero - self.total * entropy + float(conjugate.sum())

    def gap(self, theta: Floats) -> float:
        """How far the primal loss at ``theta`` can be above the optimum, as a fraction of the optimum."""
        lower, upper = self.bracket(theta)
        return (upper - lower) / max(lower, 1e-12)


def block_update(prior: Floats, target: Floats, ridge: float, total: float) -> Floats:
    """Minimiser over one clique of the dual with a plain quadratic penalty, the rest of the model fixed.

    Solves ``total * prior * exp(theta) / Z + ridge * theta = target`` with ``Z = sum(prior * exp(theta))``: for a
    given Z each cell is a scalar equation in u = log(count); an outer Newton iteration, safeguarded by bisection,
    finds the Z for which the counts sum to ``total``.
    """
    log_prior = np.log(np.maximum(total * prior, 1e-9))
    low, high, z = -np.inf, np.inf, 0.0
    for _ in range(60):
        u = _solve_cells(target + ridge * (log_prior - z), ridge)
        counts = np.exp(u)
        excess = float(counts.sum()) - total
        if abs(excess) < 1e-7 * total:
            break
        if excess > 0:
            low = z
        else:
            high = z
        newton = z + excess / float((ridge * counts / (ridge + counts)).sum())
        bracketed = np.isfinite(low) and np.isfinite(high)
        z = 0.5 * (low + high) if bracketed and not low < newton < high else min(max(newton, z - 10), z + 10)
    theta: Floats = u - log_prior + z
    return theta


def _solve_cells(right: Floats, ridge: float) -> Floats:
    """u with exp(u) + ridge * u = right, by Newton from a start above the root (convex: it converges)."""
    u = np.where(right > ridge, np.log(np.maximum(right, ridge)), right / ridge)
    for _ in range(8):
        e = np.exp(u)
        u = u - (e + ridge * u - right) / (e + ridge)
    return u
