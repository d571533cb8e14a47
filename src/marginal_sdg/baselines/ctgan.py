"""DP-CTGAN and Fed DP-CTGAN: FLAIM's neural baselines, as estimators."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from marginal_sdg.backends.holders import Records
from marginal_sdg.baselines.conditions import frequencies, measure_one_way
from marginal_sdg.baselines.mixture import ProductMixture
from marginal_sdg.crypto.traffic import COLUMNS, Traffic
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, DataError
from marginal_sdg.estimator import Estimator
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.privacy.sgd import SgdPlan, SgdRandomness, best_order
from marginal_sdg.release import Measurement, estimate_total

if TYPE_CHECKING:
    from marginal_sdg.baselines.training import Batch

_NOMINAL_RECORDS = 50_000  # a public guess, for the choice of a Renyi order


@dataclass(eq=False)
class _CTGAN(Estimator, ABC):
    """Parameters, checks, budget and training: what the central and the federated GAN share."""

    epochs: int = field(default=20, kw_only=True)
    batch_size: int = field(default=128, kw_only=True)
    clip_norm: float = field(default=1.0, kw_only=True)
    generator_lr: float = field(default=1e-5, kw_only=True)
    discriminator_lr: float = field(default=1e-3, kw_only=True)
    marginal_share: float = field(default=0.1, kw_only=True)

    def _checked(self) -> Budget:
        """Find everything that can be wrong with the parameters before any data is touched."""
        budget = self._checked_budget()
        self._check_positive("epochs")
        self._check_positive("batch_size")
        for name in ("clip_norm", "generator_lr", "discriminator_lr"):
            self._check_above_zero(name, math.inf)
        self._check_above_zero("marginal_share", 1)
        missing = [name for name in ("jax", "optax", "autodp") if find_spec(name) is None]
        if missing:
            raise ConfigError(f"{type(self).__name__}: needs {', '.join(missing)}; pip install 'marginal-sdg[ctgan]'")
        return budget

    def _check_above_zero(self, name: str, below: float) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < below:
            limit = "finite" if below == math.inf else f"below {below:g}"
            raise ConfigError(f"{name}: must be a number above 0 and {limit}, got {value!r}")

    def _account(self, budget: Budget, noise: Source, parent: Ledger | None, sharers: int) -> Ledger:
        """This fit's ledger, at the order that suits DP-SGD if it shares no budget; ``sharers`` of the records."""
        if parent is not None:
            return Ledger(budget, noise, parent=parent)
        rate, steps = self._pace(_NOMINAL_RECORDS, sharers)
        order = best_order(budget, 1 - Fraction(self.marginal_share), rate, steps)
        return Ledger(budget, noise, order=order)

    @abstractmethod
    def _pace(self, total: float, sharers: int) -> tuple[Fraction, int]:
        """Poisson rate, and number of steps in which a record can take part."""

    def _measure(self, tables: Sequence[Table], account: Ledger, by: str) -> tuple[Measurement, ...]:
        rho = Fraction(self.marginal_share) * account.remaining
        return measure_one_way(tables, self.domain, rho, account, by)

    def _train(
        self,
        measurements: tuple[Measurement, ...],
        account: Ledger,
        noise: Source,
        public: Source,
        sharers: int,
        batches: Callable[[SgdRandomness], Iterator[Batch]],
        server_lr: float,
    ) -> tuple[int, int]:
        """Spend what is left on training; the numbers of the networks' parameters (generator, discriminator)."""
        import jax
        import jax.numpy as jnp

        from marginal_sdg.baselines.networks import OneHot
        from marginal_sdg.baselines.training import Settings, Trainer

        total = estimate_total(measurements)
        plan = SgdPlan.within(account.remaining, *self._pace(total, sharers), account.orders)
        what = (
            f"DP-SGD: {plan.steps} steps, Poisson rate {float(plan.rate):.3g}, noise multiplier {plan.multiplier:.4g}"
        )
        by = "curator" if sharers == 1 else "clients"
        randomness = SgdRandomness(plan, account, noise, what=what, by=by)
        trainer = Trainer(
            Settings(
                onehot=OneHot(self.domain.shape),
                batch_size=self.batch_size,
                clip=self.clip_norm,
                generator_lr=self.generator_lr,
                discriminator_lr=self.discriminator_lr * server_lr,
            ),
            frequencies(measurements),
            jax.random.wrap_key_data(jnp.asarray(np.frombuffer(public.key()[:8], dtype=np.uint32))),
        )
        trainer.train(batches(randomness), plan.multiplier, randomness.noise_bits)
        self.model_ = ProductMixture(self.domain, trainer.components(), total)
        self.measurements_ = measurements
        self.sigma_ = plan.multiplier
        self.ledger = account
        return trainer.parameters

    def _tell(self, epoch: int, account: Ledger) -> None:
        if self.on_event is not None:
            event = {"event": "round", "round": epoch + 1, "rounds": self.epochs, "rho_spent": float(account.spent)}
            self.on_event(event)


@dataclass(eq=False)
class DPCTGAN(_CTGAN):
    """DP-CTGAN: a conditional tabular GAN with DP-SGD on its discriminator; a trusted curator holds the table.

    The defaults are those of FLAIM, Appendix B.4. Differences to the implementation used there, for privacy: batches
    are Poisson samples, as the accounting assumes; conditions come from noisy 1-way marginals instead of exact
    frequencies; the number of records is not used, but its noisy estimate.

    Parameters
    ----------
    domain : Domain
        The declared columns; every code is one cell of a one-hot row.
    epsilon, delta : float
        The privacy budget, for adding or removing one record. The accounting is Renyi DP at one order.
    epochs : int
        Passes over the records, on average.
    batch_size : int
        Expected number of records in a step, and the number of generated rows.
    clip_norm : float
        Largest L2 norm of one record's gradient.
    generator_lr, discriminator_lr : float
        Of Adam with betas (0.5, 0.9).
    marginal_share : float
        Share of the budget for 1-way marginals: conditions, and the number of records.
    seed : int, optional
        Makes an experiment repeatable. Without one, all randomness comes from the operating system.
    secure : bool
        Refuse to run with a seed.
    on_event : callable
        Is told of every epoch, as a dict.

    After a fit, ``model_`` is a :class:`~marginal_sdg.baselines.mixture.ProductMixture`, and ``sigma_`` the noise
    multiplier.
    """

    def fit(self, table: Records, *, ledger: Ledger | None = None) -> DPCTGAN:
        """Spend the budget on ``table``. Raises before anything is spent where table or parameters are wrong.

        ``ledger``: a ledger that several fits on the same records share; it must be able to pay this one's budget.
        """
        budget = self._checked()
        encoded = self._encoded(table)
        noise, public = self._sources()
        start = time.perf_counter()
        account = self._account(budget, noise, ledger, 1)
        measurements = self._measure([encoded], account, "curator")
        measured = time.perf_counter()

        def batches(randomness: SgdRandomness) -> Iterator[Batch]:
            from marginal_sdg.baselines.training import Batch

            steps = self.rounds_ = randomness.plan.steps
            for step in range(steps):
                yield Batch(encoded.codes[randomness.batch(len(encoded))])
                epoch = (step + 1) * self.epochs // steps
                if epoch > step * self.epochs // steps:
                    self._tell(epoch - 1, account)

        self._train(measurements, account, noise, public, 1, batches, 1.0)
        generated = time.perf_counter()
        self.timings_ = {"select": 0.0, "measure": measured - start, "generate": generated - measured}
        self.communication_ = dict.fromkeys(COLUMNS, 0.0)
        return self

    def _pace(self, total: float, sharers: int) -> tuple[Fraction, int]:
        rate = min(Fraction(self.batch_size) / Fraction(total), Fraction(1))
        return rate, max(round(self.epochs / rate), 1)


@dataclass(eq=False)
class FedDPCTGAN(_CTGAN):
    """Fed DP-CTGAN: the same GAN, its discriminator trained on clients' records by DP-FedSGD.

    In a round, every client of a cohort clips and adds up the gradients of a Poisson sample of its records, adds
    Gaussian noise itself and sends the sum; the server averages, steps the discriminator, then the generator. In an
    epoch every client takes part once. The 1-way marginals are summed over all clients before the server adds noise.
    So gradients are protected from the server too; 1-way marginals are under secure aggregation, as in FLAIM.

    Takes every parameter of :class:`DPCTGAN`, with the defaults of FLAIM, Appendix B.4, and

    Parameters
    ----------
    participation : float
        Share of the clients that make up a cohort.
    server_lr : float
        Scales the server's step.

    ``batch_size`` is the expected number of records of an average client in a round. All clients sample at one rate,
    so that no client's number of records is used; a larger client contributes more.
    """

    epochs: int = field(default=50, kw_only=True)
    clip_norm: float = field(default=0.5, kw_only=True)
    generator_lr: float = field(default=1e-4, kw_only=True)
    discriminator_lr: float = field(default=1e-4, kw_only=True)
    participation: float = field(default=0.1, kw_only=True)
    server_lr: float = field(default=0.5, kw_only=True)

    def fit(self, clients: Sequence[Records], *, ledger: Ledger | None = None) -> FedDPCTGAN:
        """Spend the budget on the clients' tables. Raises before anything is spent where an input is wrong.

        ``ledger``: a ledger that several fits on the same records share; it must be able to pay this one's budget.
        """
        budget = self._checked()
        if not 0 < self.participation <= 1:
            raise ConfigError(f"participation: must be above 0 and at most 1, got {self.participation}")
        self._check_above_zero("server_lr", math.inf)
        if isinstance(clients, pd.DataFrame | Table) or not len(clients):
            raise DataError("fit: needs a non-empty list with one table per client")
        tables = [self._encoded(table) for table in clients]
        noise, public = self._sources()
        start = time.perf_counter()
        account = self._account(budget, noise, ledger, len(tables))
        measurements = self._measure(tables, account, "server")
        measured = time.perf_counter()
        rng = public.generator()
        cohort = max(round(self.participation * len(tables)), 1)
        self.rounds_ = self.epochs * -(-len(tables) // cohort)

        def batches(randomness: SgdRandomness) -> Iterator[Batch]:
            from marginal_sdg.baselines.training import Batch

            for epoch in range(self.epochs):
                order = rng.permutation(len(tables))
                for first in range(0, len(order), cohort):
                    members = [tables[client] for client in order[first : first + cohort]]
                    picked = [table.codes[randomness.batch(len(table))] for table in members]
                    yield Batch(np.concatenate(picked), len(members))
                self._tell(epoch, account)

        sizes = self._train(measurements, account, noise, public, len(tables), batches, self.server_lr)
        generated = time.perf_counter()
        self.timings_ = {"select": 0.0, "measure": measured - start, "generate": generated - measured}
        traffic = Traffic(len(tables))
        everyone = range(len(tables))
        traffic.to_server("ideal", everyone, 8 * sum(self.domain.shape) + 4 * sizes[1] * self.epochs)
        traffic.to_clients("ideal", everyone, 4 * sum(sizes) * self.epochs)
        self.communication_ = {name: value for name, value in traffic.summary().items() if "_ideal_" in name}
        return self

    def _pace(self, total: float, sharers: int) -> tuple[Fraction, int]:
        return min(Fraction(self.batch_size * sharers) / Fraction(total), Fraction(1)), self.epochs
