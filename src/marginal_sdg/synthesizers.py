"""The estimator AIM in the manner of scikit-learn, ``fit`` then ``sample``, and what all of its kind share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from marginal_sdg.backends.adaptive import adapt, check_bins
from marginal_sdg.backends.base import Backend
from marginal_sdg.backends.holders import Records
from marginal_sdg.backends.plaintext import AIM_COSTS, PlaintextBackend
from marginal_sdg.backends.tally import Tally
from marginal_sdg.crypto.traffic import COLUMNS
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, DomainError
from marginal_sdg.estimator import Estimator
from marginal_sdg.generators import make_generator
from marginal_sdg.generators.base import Generator
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.known import Known, exactly_known, statement
from marginal_sdg.loop import synthesise
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.public import PublicKnowledge
from marginal_sdg.release import Measurement
from marginal_sdg.schedule import annealing_start, plan_schedule
from marginal_sdg.stored import StoredTable
from marginal_sdg.workload import Workload

if TYPE_CHECKING:
    from typing_extensions import Self


PAPER_SIZES = (
    "paper calibration: exact numbers of records are used and released, which no finite epsilon covers; "
    "with them hidden, selection would still cost up to 4 times what is charged"
)


@dataclass(eq=False)
class Synthesizer(Estimator):
    """Parameters, checks and the run: what AIM and FLAIM share."""

    rounds: int | str = field(default=10, kw_only=True)
    gaussian_share: float = field(default=0.9, kw_only=True)
    workload: Workload | int | Iterable[Iterable[str]] = field(default=64, kw_only=True)
    calibration: str = field(default="sound", kw_only=True)
    generator: str = field(default="pgm", kw_only=True)
    max_model_mb: float = field(default=80.0, kw_only=True)
    records_per_person: int = field(default=1, kw_only=True)
    known: Sequence[Known] = field(default=(), kw_only=True, repr=False)
    impossible: Sequence[str] = field(default=(), kw_only=True)

    _ways: ClassVar[int] = 3  # of the marginals that an integer workload draws

    @property
    def _sound(self) -> bool:
        return self.calibration == "sound"

    def _checked(self) -> tuple[Budget, Workload]:
        """Find everything that can be wrong with the parameters before any data is touched."""
        budget = self._checked_budget()
        if self.calibration not in ("sound", "paper"):
            raise ConfigError(f"calibration: must be 'sound' or 'paper', got {self.calibration!r}")
        if not self.max_model_mb > 0:
            raise ConfigError(f"max_model_mb: must be positive, got {self.max_model_mb}")
        public = self._public(self.domain)
        public.check(self.max_model_mb)
        self._generator(public)
        return budget, _workload(self.workload, self.domain, self._ways)

    def check(self) -> None:
        """Raise what ``fit`` would raise for wrong parameters; nothing is spent."""
        self._checked()

    def _public(self, domain: Domain) -> PublicKnowledge:
        return PublicKnowledge.read(domain, self.known, self.impossible)

    def _generator(self, public: PublicKnowledge) -> Generator:
        zeros = public.zeros
        return make_generator(
            self.generator,
            zeros.domain,
            self.max_model_mb,
            zeros.log_potentials,
            annealing=self.rounds == "adaptive",
        )

    @property
    def _planned_rounds(self) -> int:
        """The number of rounds, or the one that annealing starts from."""
        return self.rounds if isinstance(self.rounds, int) else self._start_rounds

    @property
    def _start_rounds(self) -> int:
        """Annealing starts with the noise of so many rounds."""
        return annealing_start(len(self.domain), sound=self._sound)

    def _run(self, backend: Backend, workload: Workload, ledger: Ledger) -> None:
        schedule = plan_schedule(self.rounds, backend.costs, ledger.allowance, self.gaussian_share, self._start_rounds)
        public = self._public(workload.domain)
        for measurement in public.known:
            ledger.warn(statement(measurement))
        result = synthesise(
            backend,
            workload,
            schedule,
            self._generator(public),
            ledger,
            max_model_mb=self.max_model_mb,
            on_event=self.on_event or (lambda event: None),
            known=public.known,
        )
        self.model_: GraphicalModel = result.model
        self.measurements_: tuple[Measurement, ...] = result.measurements
        self.rounds_ = result.rounds
        self.sigma_ = result.sigma
        self.timings_ = result.seconds
        self.ledger = ledger

    def marginal(self, clique: Iterable[str]) -> pd.DataFrame:
        """A marginal of the model as a frame: labels, expected ``count`` and its ``standard_error``, in records."""
        from marginal_sdg.estimates import marginal_frame

        return marginal_frame(self._fitted(), self.measurements_, clique)


@dataclass(eq=False)
class AIM(Synthesizer):
    """AIM: a trusted curator holds the table (McKenna et al. 2022).

    Parameters
    ----------
    domain : Domain
        The declared columns. Nothing about them is read off the private rows.
    epsilon : float
        The privacy budget, for adding or removing one record.
    delta : float
        Of (epsilon, delta)-differential privacy.
    rounds : int or "adaptive"
        T rounds with equal noise (FLAIM Lemma 4.1), or AIM's budget annealing, from the noise of 8 rounds an attribute
        (with ``calibration="paper"`` of 16).
    gaussian_share : float
        Share of the budget that measurements get; the rest pays for selections.
    workload : Workload, int or list of cliques
        What shall be answered well; an integer draws that many random 3-way marginals.
    calibration : "sound" or "paper"
        "paper" repeats the published calibration, which treats the number of records as public.
    generator : "pgm" or "mbi"
        Our engine, or the private-pgm package.
    max_model_mb : float
        Cap on the graphical model; it grows with the budget spent.
    records_per_person : int
        Protect people with up to that many records: group privacy, charged exactly (k squared times a record's).
    known : list of DataFrame or Series
        Marginals that are public: a column for every attribute, ``count`` (or shares), and ``standard_error`` unless
        exact. They cost nothing, and AIM does not measure again what is known of a single attribute exactly. You assert
        that they were not made from ``table``; see ``known.py``.
    impossible : list of str
        Conditions that no record satisfies, such as "age < 16 and marital == married": the model gives such cells a
        probability of exactly 0. For your knowledge of the world, not of the table: counts in ``table`` are moved.
    adaptive_bins : dict, optional
        Number of bins by column, fewer than declared: before all else, a column's bins are merged into that many of
        about equal count, which is released and paid for. The fit's domain is ``model_.domain`` then.
    bins_share : float
        Share of the budget that adaptive bins get; must be stated with them.
    seed : int, optional
        Makes an experiment repeatable. Without one, all randomness comes from the operating system.
    secure : bool
        Refuse to run with a seed.
    on_event : callable
        Is told of every round, as a dict.

    Examples
    --------
    >>> domain = Domain.from_shape({"a": 2, "b": 2})
    >>> frame = pd.DataFrame({"a": [0, 0, 1, 1] * 250, "b": [0, 1, 1, 1] * 250})
    >>> aim = AIM(domain, epsilon=1.0, seed=0).fit(frame)
    >>> aim.marginal(["a", "b"]).round()
       a  b  count  standard_error
    0  0  0  245.0             9.0
    1  0  1  255.0             9.0
    2  1  0    6.0             9.0
    3  1  1  491.0             9.0
    >>> aim.sample(500).shape, aim.ledger.spent == aim.ledger.budget.rho
    ((500, 2), True)
    """

    adaptive_bins: Mapping[str, int] | None = field(default=None, kw_only=True)
    bins_share: float | None = field(default=None, kw_only=True)

    def fit(self, table: Records | StoredTable, *, ledger: Ledger | None = None) -> Self:
        """Spend the budget on ``table``. Raises before anything is spent where table or parameters are wrong.

        A ``StoredTable`` is read once; all marginals of the workload are kept, none of the records.
        ``ledger``: a ledger that several fits on the same records share; it must be able to pay this one's budget.
        """
        budget, workload = self._checked()
        plan_schedule(self.rounds, AIM_COSTS, budget.rho, self.gaussian_share, 1)
        encoded = self._counted(table, workload) if isinstance(table, StoredTable) else self._encoded(table)
        noise, _ = self._sources()
        account = Ledger(budget, noise, group=self.records_per_person, parent=ledger)
        if not self._sound:
            account.warn(PAPER_SIZES)
        if self.adaptive_bins and isinstance(encoded, Table):
            share = Fraction(str(self.bins_share))
            encoded = adapt(encoded, self.adaptive_bins, share * account.allowance, account)
            workload = replace(workload, domain=encoded.domain)
        self._run(self._backend(encoded, workload), workload, account)
        self.communication_ = dict.fromkeys(COLUMNS, 0.0)
        return self

    def _checked(self) -> tuple[Budget, Workload]:
        checked = super()._checked()
        if self.adaptive_bins:
            self._check_bins(self.adaptive_bins)
        elif self.bins_share is not None:
            raise ConfigError("bins_share: pays for adaptive_bins, of which there are none; drop it")
        return checked

    def _check_bins(self, bins: Mapping[str, int]) -> None:
        check_bins(self.domain, bins)
        if self.bins_share is None or not 0 < self.bins_share < 1:
            raise ConfigError(
                "bins_share: adaptive bins are paid from the budget; say which share of it they get, between 0 and 1 "
                f"such as 0.05, got {self.bins_share}"
            )
        named = [name for clique in self._public(self.domain).cliques for name in clique if name in bins]
        if named:
            raise ConfigError(
                f"adaptive_bins: {named[0]!r} is in known or impossible, whose bins must be public; declare its edges"
            )

    def _counted(self, table: StoredTable, workload: Workload) -> Tally:
        if table.domain != self.domain:
            raise DomainError("fit: the stored table is declared by another domain than this estimator's")
        if self.adaptive_bins:
            raise ConfigError("adaptive_bins: a stored table is read only once, by its declared bins; declare edges")
        self._keep_types([])
        return table.count([*workload.cliques, *workload.one_way])

    def _backend(self, table: Table | Tally, workload: Workload) -> PlaintextBackend:
        return PlaintextBackend(
            table, workload, sound=self._sound, known=exactly_known(self._public(workload.domain).known)
        )


def _workload(workload: Workload | int | Iterable[Iterable[str]], domain: Domain, ways: int) -> Workload:
    if isinstance(workload, Workload):
        if workload.domain != domain:
            raise ConfigError("workload: was made for another domain than the estimator's")
        return workload
    if isinstance(workload, int):
        return Workload.random(domain, workload, ways)
    return Workload(domain, tuple(domain.clique(clique) for clique in workload))
