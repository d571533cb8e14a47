"""The estimators FLAIM and DistAIM: AIM over the records of many clients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from marginal_sdg import __version__
from marginal_sdg.backends.clients import Clients, Federation
from marginal_sdg.backends.federated import FederatedBackend
from marginal_sdg.backends.holders import Records
from marginal_sdg.backends.ideal_pool import IdealPool
from marginal_sdg.backends.local_clients import LocalClients
from marginal_sdg.backends.plaintext import AIM_COSTS
from marginal_sdg.backends.pool import Pool
from marginal_sdg.backends.share_pool import SharePool
from marginal_sdg.backends.shared import SharedBackend
from marginal_sdg.backends.sum_noise import SumNoise
from marginal_sdg.backends.variants import VARIANTS, flaim_costs
from marginal_sdg.crypto.masking import MaskedSum
from marginal_sdg.crypto.secagg import IdealSecureSum
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, DataError
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.ledger_file import FiledLedger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import Costs, plan_schedule
from marginal_sdg.synthesizers import PAPER_SIZES, Synthesizer
from marginal_sdg.workload import Workload

if TYPE_CHECKING:
    from marginal_sdg.backends.spu_servers import Journal

_OF_A_PROCESS = ("servers", "identity", "timeout", "store", "on_event")  # may differ where a fit goes on
SIZE_SHARE = Fraction(1, 50)  # of the budget: one noisy size per client, under FLAIM's sound calibration


@dataclass(eq=False)
class _Federation(Synthesizer):
    """What methods over many clients share."""

    participation: float = field(default=0.1, kw_only=True)
    client_level: bool = field(default=False, kw_only=True)

    def _prepare(
        self,
        clients: Sequence[Any] | Federation,
        costs: Costs,
        budget: Budget,
        ledger: Ledger | None,
        *,
        private: bool = True,
        elsewhere: bool = False,
    ) -> tuple[list[Table], Ledger, Source]:
        """Tables of clients that are here, this fit's ledger, public randomness; what can be wrong is found first."""
        if not 0 < self.participation <= 1:
            raise ConfigError(f"participation: must be above 0 and at most 1, got {self.participation}")
        plan_schedule(self.rounds, costs, budget.rho, self.gaussian_share, 1)
        tables: list[Table] = []
        if elsewhere or isinstance(clients, Federation):
            self._keep_types([])
        elif isinstance(clients, pd.DataFrame | Table) or not len(clients):
            raise DataError("fit: needs a non-empty list with one table per client")
        else:
            tables = [self._encoded(table) for table in clients]
        noise, public = self._sources()
        if self.client_level:
            tables = [_at_most(self.records_per_person, table, public) for table in tables]
        account = Ledger(budget, noise, private=private, group=self.records_per_person, parent=ledger)
        if not self._sound:
            account.warn(PAPER_SIZES)
        return tables, account, public


@dataclass(eq=False)
class FLAIM(_Federation):
    """FLAIM: clients select locally, sums of marginals are released through secure aggregation (KDD 2024).

    Takes every parameter of :class:`AIM` but ``adaptive_bins`` and ``bins_share``, and

    Parameters
    ----------
    variant : str
        "private", AugFLAIM (Private); "naive", NaiveFLAIM; "oracle", AugFLAIM (Oracle), which is not private and serves
        as a reference. "census" (ours): like "private", but all clients take part once in the first 1-way marginals,
        which are then not measured again: a third of the noise. Baselines: "random", the server draws what all measure;
        "naive_bayes", 1-way marginals only. For ablations: "proxy", the private heterogeneity term without the filter
        and the combined 1-way marginals; "oracle_combined", the exact term with both, not private.
    participation : float
        Probability that a client takes part in a round.
    local_steps : int
        Selections per client and round.
    client_level : bool
        Protect whole clients: each enters with at most ``records_per_person`` of its records, drawn at random.
    secagg : "ideal" or "masks"
        Sum in the clear and count the bytes of the protocol, or run it: the same sums, exactly.
    cohort : "padded" or "per_query"
        In a round, everybody contributes to one sum of all that was picked, so that nobody learns who picked what; or
        those who picked a clique to a sum of their own, as in the paper: fewer bytes, and the server knows whose it is.
    min_cohort : int
        With ``cohort="per_query"``, drop cliques that fewer clients picked: the sum over one client is its marginal.
    noise : "server" or "clients"
        Who adds it to sums. The clients' is in a sum before the server can see it, and in part wasted: when a third of
        a cohort may leave, all that stay make its variance half as large again as what is paid for, and more with
        ``colluding`` ones. A round that too many leave ends the fit.
    colluding : int
        With ``noise="clients"``, so many clients may tell the server what they added. One always knows its own.

    Examples
    --------
    >>> frame = pd.DataFrame({"a": [0, 0, 1, 1] * 250, "b": [0, 1, 1, 1] * 250})
    >>> from marginal_sdg import Domain
    >>> flaim = FLAIM(Domain.from_shape({"a": 2, "b": 2}), participation=0.5, epsilon=1.0, seed=0)
    >>> flaim.fit([frame.iloc[k::10] for k in range(10)]).sample(500).shape
    (500, 2)
    >>> sorted(set(flaim.ledger.to_frame()["by"]))
    ['client', 'server']
    """

    variant: str = field(default="private", kw_only=True)
    local_steps: int = field(default=1, kw_only=True)
    secagg: str = field(default="ideal", kw_only=True)
    cohort: str = field(default="padded", kw_only=True)
    min_cohort: int = field(default=2, kw_only=True)
    noise: str = field(default="server", kw_only=True)
    colluding: int = field(default=1, kw_only=True)

    def fit(self, clients: Sequence[Records] | Federation, *, ledger: Ledger | None = None) -> FLAIM:
        """Spend the budget on the clients' tables. Raises before anything is spent where an input is wrong.

        ``clients``: their tables, or clients elsewhere, which are asked by messages; see ``flower``.
        ``ledger``: a ledger that several fits on the same records share; it must be able to pay this one's budget.
        """
        budget, workload = self._checked()
        self._check_choice("variant", *VARIANTS)
        self._check_choice("secagg", "ideal", "masks")
        self._check_choice("cohort", "padded", "per_query")
        self._check_positive("local_steps")
        self._check_positive("min_cohort")
        self._check_choice("noise", "server", "clients")
        self._check_positive("colluding")
        if self.noise == "clients" and (self.cohort != "padded" or not self._sound):
            raise ConfigError("noise: that of the clients needs cohort='padded' and calibration='sound'")
        variant = VARIANTS[self.variant]
        if variant.picks == "server" and self.local_steps > 1:
            raise ConfigError(f"local_steps: must be 1 where the server draws the cliques, got {self.local_steps}")
        if isinstance(clients, Federation):
            self._check_elsewhere()
        costs = flaim_costs(variant, len(workload.one_way), self.local_steps, sound=self._sound)
        tables, account, public = self._prepare(clients, costs, budget, ledger, private=variant.private)
        members: Clients
        if isinstance(clients, Federation):
            if clients.public is not None:
                public, self._keys = clients.public.spawn(2)
            least, colluding = clients.least, self.colluding if self.noise == "clients" else None
            members = clients.recruit(workload, variant, budget, self.records_per_person, self._keys, colluding)
        else:
            noise = SumNoise(self.colluding, self.colluding + 1) if self.noise == "clients" else None
            least = noise.least if noise is not None else 1
            members = LocalClients(
                tables,
                workload,
                public,
                variant=variant,
                local_steps=self.local_steps,
                secure_sum=IdealSecureSum() if self.secagg == "ideal" else MaskedSum(self._keys.key),
                noise=noise,
            )
        backend = FederatedBackend(
            members,
            workload,
            account,
            public,
            variant=variant,
            participation=self.participation,
            local_steps=self.local_steps,
            size_variance=1 / (2 * SIZE_SHARE * account.allowance) if self._sound else None,
            padded=self.cohort == "padded",
            min_cohort=self.min_cohort,
            least=least,
            noise=self.noise,
        )
        self._run(backend, workload, account)
        self.communication_ = members.traffic.summary()
        return self

    @property
    def _start_rounds(self) -> int:
        return 8 * len(self.domain)  # FLAIM Appendix B.4

    def _check_elsewhere(self) -> None:
        """What clients can do that share nothing with the server but messages."""
        needed = {
            "calibration": "sound",
            "secagg": "masks",
            "cohort": "padded",
            "local_steps": 1,
            "client_level": False,
        }
        for name, value in needed.items():
            if getattr(self, name) != value:
                raise ConfigError(f"{name}: must be {value!r} where clients are elsewhere, got {getattr(self, name)!r}")
        if not VARIANTS[self.variant].private:
            raise ConfigError(
                f"variant: {self.variant!r} needs all records in one place; with clients elsewhere, 'private'"
            )


@dataclass(eq=False)
class DistAIM(_Federation):
    """DistAIM: clients secret-share their marginals to three servers that select and measure on shares (KDD 2024).

    Takes every parameter of :class:`AIM` but ``adaptive_bins`` and ``bins_share``, and

    Parameters
    ----------
    participation : float
        Probability that a client that has not shared its answers yet does so in a round.
    client_level : bool
        Protect whole clients: each enters with at most ``records_per_person`` of its records, drawn at random.
    weighting : "records" or "equal"
        Whether a measurement of a larger pool of clients weighs more in the fit, or all weigh the same as in the paper.
    engine : "ideal", "shares" or "spu"
        Compute in the clear what the servers would and count their bytes, run their protocol in this process, or ask
        three servers that compute with SPU (``python -m marginal_sdg.spu server``): the same results. These draw the
        noise themselves, and with a ``seed`` only where they are started for experiments.
    servers : list of str
        With "spu": "host:port" of servers 0, 1 and 2.
    identity : str, optional
        Folder with this process's certificate and key, made by ``python -m marginal_sdg.spu certificates``. Without
        one, connections are neither encrypted nor authenticated, and all servers must be on this machine.
    timeout : float
        Seconds to wait for an answer of theirs, and until one that has gone is started again; for an answer of a
        client elsewhere, a quarter of it.
    store : str, optional
        With "spu": a file for what servers have been asked and have answered. The same fit, killed and run again with
        it, goes on where it was; one that is done is not paid for again. Another fit needs another file.

    Examples
    --------
    >>> frame = pd.DataFrame({"a": [0, 0, 1, 1] * 250, "b": [0, 1, 1, 1] * 250})
    >>> from marginal_sdg import Domain
    >>> clients = [frame.iloc[k::10] for k in range(10)]
    >>> ideal, shares = (
    ...     DistAIM(Domain.from_shape({"a": 2, "b": 2}), participation=0.5, engine=engine, seed=0).fit(clients)
    ...     for engine in ("ideal", "shares")
    ... )
    >>> shares.sample(500).equals(ideal.sample(500))
    True
    """

    weighting: str = field(default="records", kw_only=True)
    engine: str = field(default="ideal", kw_only=True)
    servers: Sequence[str] = field(default=(), kw_only=True)
    identity: Path | str | None = field(default=None, kw_only=True)
    timeout: float = field(default=600.0, kw_only=True)
    store: Path | str | None = field(default=None, kw_only=True)

    def fit(self, clients: Sequence[Records] | Sequence[str], *, ledger: Ledger | None = None) -> DistAIM:
        """Spend the budget on the clients' tables. Raises before anything is spent where an input is wrong.

        ``clients``: their tables; or with "spu", for clients in processes of their own (``python -m marginal_sdg.spu
        client``), "host:port" of each, in the order of their numbers.
        ``ledger``: a ledger that several fits on the same records share; it must be able to pay this one's budget.
        """
        budget, workload = self._checked()
        self._check_choice("weighting", "records", "equal")
        self._check_choice("engine", "ideal", "shares", "spu")
        elsewhere = isinstance(clients, list | tuple) and bool(clients) and all(isinstance(c, str) for c in clients)
        self._check_elsewhere(elsewhere)
        with ExitStack() as connections:
            journal = self._journal(workload, len(clients), connections)
            if journal is not None and isinstance(ledger, FiledLedger):
                ledger.session = journal.file.fit
            self._repeated = None if journal is None or self.seed is not None else journal.file.source()
            tables, account, public = self._prepare(clients, AIM_COSTS, budget, ledger, elsewhere=elsewhere)
            variance = 1 / (2 * SIZE_SHARE * account.allowance)
            pool = self._pool(tables, clients, workload, account, variance, journal, connections)
            backend = SharedBackend(
                pool,
                len(clients),
                workload,
                account,
                public,
                participation=self.participation,
                rounds=self._planned_rounds,
                weighted=self.weighting == "records",
                size_variance=variance,
                exact_sizes=None if self._sound else [len(table) for table in tables],
                elsewhere=self.engine == "spu",
            )
            self._run(backend, workload, account)
        self.communication_ = pool.traffic.summary()
        return self

    def _journal(self, workload: Workload, clients: int, stack: ExitStack) -> Journal | None:
        """What this fit has asked before, where that is kept."""
        if self.store is None:
            return None
        from marginal_sdg.backends.spu_servers import Journal

        terms = {name: str(value) for name, value in self.get_params().items() if name not in _OF_A_PROCESS}
        terms["workload"] = json.dumps(workload.cliques)
        terms["domain"] = json.dumps(self.domain.to_dict())
        terms["known"] = json.dumps([known.to_json() for known in self.known])
        return Journal(Path(self.store), {**terms, "clients": clients, "version": __version__}, stack)

    def _sources(self, system: Source | None = None) -> tuple[Source, Source]:
        """Who takes part, and with which records, is drawn again as it was where a fit goes on."""
        noise, public = super()._sources(system)
        return noise, self._repeated or public

    def _check_elsewhere(self, addresses: bool) -> None:
        """What servers and clients can do that share nothing but messages."""
        if self.store is not None and self.engine != "spu":
            raise ConfigError(f"store: {self.engine!r} computes in this process; it needs engine='spu'")
        if self.servers and self.engine != "spu":
            raise ConfigError(f"servers: {self.engine!r} computes in this process; they need engine='spu'")
        if self.engine == "spu" and not self._sound:
            raise ConfigError("calibration: must be 'sound' with engine 'spu', whose servers draw their own noise")
        if addresses and self.engine != "spu":
            raise ConfigError(f"clients: {self.engine!r} needs their tables; addresses need engine='spu'")
        if addresses and self.client_level:
            raise ConfigError("client_level: clients elsewhere enter with all their records; drop it")

    def _pool(
        self,
        tables: list[Table],
        clients: Sequence[Any],
        workload: Workload,
        account: Ledger,
        size_variance: Fraction,
        journal: Journal | None,
        connections: ExitStack,
    ) -> Pool:
        if self.engine == "ideal":
            return IdealPool(tables, workload)
        if self.engine == "shares":
            return SharePool(tables, workload, self._keys.key)
        from marginal_sdg.backends import spu_pool
        from marginal_sdg.backends.spu_servers import Servers, connected
        from marginal_sdg.crypto.spu.questions import Seed, Terms

        servers = connections.enter_context(
            Servers(lambda stack: connected(self.servers, self.timeout, stack, self.identity), self.timeout, journal)
        )
        members: spu_pool.Clients
        if tables:
            ((key,),) = servers.once("key", [], lambda _: [[Source.system().key()]])
            members = spu_pool.Here(tables, servers, key)
        else:
            members = spu_pool.Elsewhere(clients, self.timeout, self.identity)
        known, budget = account.source.seed, Budget(self.epsilon, self.delta)
        terms = Terms(
            session=servers.name,
            epsilon=budget.epsilon,
            delta=budget.delta,
            group=self.records_per_person,
            seed=None if known is None else Seed(entropy=known[0], branch=known[1]),
        )
        tell = self.on_event or (lambda event: None)
        return spu_pool.SpuPool(members, workload, servers, terms, size_variance, tell)


def _at_most(records: int, table: Table, source: Source) -> Table:
    """A random subset of a client's records, so that the whole client is a bounded group."""
    if len(table) <= records:
        return table
    return table.take(source.generator().choice(len(table), records, replace=False))
