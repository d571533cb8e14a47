"""FHAIM as an estimator: tables that stay encrypted, of one or several data holders."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marginal_sdg import __version__
from marginal_sdg.backends.distance import NAMES, Distance
from marginal_sdg.backends.encrypted import EncryptedBackend
from marginal_sdg.backends.holders import Records, joined, split_columns, split_rows
from marginal_sdg.backends.plaintext import AIM_COSTS
from marginal_sdg.backends.vault import LARGEST_COUNT, ClearVault, Vault
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, DataError
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.ledger_file import FiledLedger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import plan_schedule
from marginal_sdg.synthesizers import Synthesizer
from marginal_sdg.workload import Workload

if TYPE_CHECKING:
    from marginal_sdg.crypto.notes import Notes

_PAPER_SCORES = (
    "paper's protocol: the key holder sees every noisy score, and only the winner's place is paid for; against it, "
    "a selection costs up to {:.1f} times what is charged, and pure zCDP does not hold"
)

_LONG = 60  # characters of a parameter; of a longer one a session that is kept has a digest


@dataclass(eq=False)
class FHAIM(Synthesizer):
    """FHAIM: AIM over tables that stay encrypted from their data holders to the releases (2026).

    Counts 1- and 2-way marginals, so an integer ``workload`` draws 2-way ones. Takes every parameter of :class:`AIM`
    (``calibration`` must be "sound") but ``adaptive_bins`` and ``bins_share``, and

    Parameters
    ----------
    max_records : int
        Public cap on the number of records; a larger table is refused by its holder. Where rows are split between c
        holders, each may have a c-th of it.
    score : "l2", "l2_squared", "l1_exact" or "l1_poly"
        Candidates are ranked by the L2 norm of the model's error; by its square as in the paper, which needs far more
        noise; by its L1 norm as in AIM; or by the paper's polynomial of degree 10 for that (not with "bgv").
    engine : "ideal", "bgv" or "ckks"
        Compute in the clear what the roles would, or run them on ciphertexts (needs the extra ``fhe``): exactly,
        the same results; or as in the paper, on CKKS with "l2_squared" or "l1_poly", approximately.
    upload : "records" or "marginals"
        What a data holder encrypts: its table, for any workload later, or its marginals, which is far cheaper.
    release : "index" or "scores"
        Of a selection, server and key holder learn the winner; or, with "ckks" as in the paper, the key holder decrypts
        all noisy scores, which the budget does not cover: the ledger then has a caveat.
    split : "rows" or "columns"
        What several data holders have: different records; or different columns of the same records in the same order.
        Each adds a part of the noise: the ledger charges what the others add, so no single holder can tell more about
        the others' data, at up to twice the variance. Holders that collude are not covered.
    threshold : bool
        With "bgv": the secret key is in two halves, at the key holder and at the first data holder. Then server and
        key holder together cannot decrypt a table; what they can still add up are its marginals.
    server, keyholder : str, optional
        With "bgv": addresses, "host:port", of ``python -m marginal_sdg.roles``; this process is the data holder's.
        Both roles run in this process by default.
    others : sequence of str
        With ``server`` and ``keyholder``: addresses of data holders elsewhere (``python -m marginal_sdg.roles holder
        --listen``), who have other records or columns, by ``split``. Each encrypts its own, and pays for and draws its
        part of the noise.
    identity : str, optional
        Folder with this process's certificate and key, made by ``python -m marginal_sdg.roles certificates``. Without
        one, connections are neither encrypted nor authenticated, and both roles must be on this machine.
    timeout : float
        Seconds to wait for an answer of theirs, and for one that keeps its session on disk (``--store``) to come back.

    Examples
    --------
    >>> import pandas as pd
    >>> from marginal_sdg import Domain
    >>> frame = pd.DataFrame({"a": [0, 0, 1, 1] * 250, "b": [0, 1, 1, 1] * 250})
    >>> fhaim = FHAIM(Domain.from_shape({"a": 2, "b": 2}), epsilon=1.0, max_records=2000, seed=0).fit(frame)
    >>> fhaim.sample(500).shape, fhaim.ledger.spent == fhaim.ledger.budget.rho
    ((500, 2), True)
    """

    _ways = 2

    max_records: int = field(default=50_000, kw_only=True)
    score: str = field(default="l2", kw_only=True)
    engine: str = field(default="ideal", kw_only=True)
    upload: str = field(default="records", kw_only=True)
    release: str = field(default="index", kw_only=True)
    split: str = field(default="rows", kw_only=True)
    threshold: bool = field(default=False, kw_only=True)
    server: str | None = field(default=None, kw_only=True)
    keyholder: str | None = field(default=None, kw_only=True)
    others: Sequence[str] = field(default=(), kw_only=True)
    identity: Path | str | None = field(default=None, kw_only=True)
    timeout: float = field(default=600.0, kw_only=True)

    def fit(
        self, table: Records | Sequence[Records], *, ledger: Ledger | None = None, notes: Notes | None = None
    ) -> FHAIM:
        """Spend the budget on ``table``, or on one table for each data holder.

        Raises before anything is spent where a table or a parameter is wrong, or where a role cannot be reached.
        ``ledger``: a ledger that several fits on the same records share; it must be able to pay this one's budget.
        ``notes``: with ``server`` and ``keyholder``, keeps the session on disk, so that the same fit goes on when its
        process was killed, and pays nothing again; ``communication_`` and ``encryption_`` then leave out the uploads of
        earlier processes.
        """
        budget, workload = self._checked()
        given: list[Any] = list(table) if isinstance(table, list | tuple) else [table]
        holders = len(given) + len(self.others)
        self._check_roles(holders)
        plan_schedule(self.rounds, AIM_COSTS, budget.rho, self.gaussian_share, 1)
        if self.split == "rows":
            tables = split_rows(given, self.domain, self.max_records, holders)
        else:
            tables = split_columns(given, self.domain, self.max_records, elsewhere=bool(self.others))
        self._keep_types(given)
        noise, _ = self._sources(None if notes is None else self._resumed(notes, workload, tables, ledger))
        account = Ledger(budget, noise, group=self.records_per_person, parent=ledger)
        if self.release == "scores":
            account.warn(_PAPER_SCORES.format(((workload.importance / workload.importance.max()) ** 2).sum()))
        with ExitStack() as connections:
            vault = self._vault(tables, workload, connections, notes)
            distance = Distance(self.score, self.max_records, approximate=self.engine == "ckks")
            backend = EncryptedBackend(vault, workload, distance, holders=holders, elsewhere=len(self.others))
            self._run(backend, workload, account)
            if notes is not None:
                notes.finish()
        self.communication_ = vault.traffic
        self.encryption_ = vault.costs()
        return self

    def _check_roles(self, holders: int) -> None:
        """Find what does not fit together before any data is touched."""
        self._check_choice("score", *NAMES)
        self._check_choice("engine", "ideal", "bgv", "ckks")
        self._check_choice("upload", "records", "marginals")
        self._check_choice("release", "index", "scores")
        self._check_choice("split", "rows", "columns")
        if self.split == "columns" and self.upload == "marginals":
            raise ConfigError("upload: no holder of some columns has the marginals; split='columns' needs 'records'")
        if (self.server is None) != (self.keyholder is None):
            raise ConfigError("server: needs the key holder's address as well; give both or none")
        if self.others and (self.server is None or holders != 1 + len(self.others)):
            raise ConfigError("others: need server and keyholder, and one table here")
        addresses = [self.server, self.keyholder, *self.others]
        if self.server is not None and len(set(addresses)) < len(addresses):
            raise ConfigError("server: every role needs an address of its own, and one of them is given twice")
        self._check_engine(holders)
        if not self.timeout > 0:
            raise ConfigError(f"timeout: must be a positive number of seconds, got {self.timeout}")
        self._check_positive("max_records")
        if not self._sound:
            raise ConfigError("calibration: FHAIM has only 'sound'; drop the parameter")
        if self.max_records > LARGEST_COUNT:
            raise ConfigError(f"max_records: {self.max_records:,} records need scores beyond 2^32; at most 50,000")
        if holders < 1:
            raise DataError("fit: needs a table, or a non-empty list with one table for each data holder")

    def _check_engine(self, holders: int) -> None:
        """Find what the engine cannot do."""
        if self.engine == "bgv" and self.score == "l1_poly":
            raise ConfigError("score: 'l1_poly' is for 'ckks' and 'ideal'; 'bgv' has what it stands for, 'l1_exact'")
        ckks = self.score in ("l2_squared", "l1_poly") and self.upload == "records" and holders == 1
        if self.engine == "ckks" and not ckks:
            raise ConfigError(
                "engine: 'ckks' needs score='l2_squared' or 'l1_poly', upload='records' and one data holder; or 'bgv'"
            )
        if self.release == "scores" and self.engine != "ckks":
            raise ConfigError("release: 'scores' is the paper's protocol, for engine='ckks' only; drop the parameter")
        if self.engine != "bgv" and (self.threshold or self.server is not None):
            raise ConfigError(f"engine: {self.engine!r} has no such roles; threshold, server and keyholder need 'bgv'")

    def _resumed(self, notes: Notes, workload: Workload, tables: Sequence[Table], ledger: Ledger | None) -> Source:
        """Begin a session that is kept, or go on with it; its random bits."""
        if self.server is None:
            raise ConfigError("notes: keep a session with server and keyholder, and there are none; drop them")
        records = (
            part
            for table in tables
            for part in (repr((table.domain.names, len(table))).encode(), table.codes.astype(np.int64).tobytes())
        )
        notes.begin(self._terms(workload), records, Source.system().key)
        if isinstance(ledger, FiledLedger):
            ledger.session = notes.key("ledger").hex()
        return Source.keyed(notes.key("noise"))

    def _terms(self, workload: Workload) -> dict[str, str]:
        """Everything public that the releases depend on, as text; not where the roles are, nor how long they wait."""
        given = self.get_params()
        for name in ("server", "keyholder", "identity", "timeout", "secure", "on_event"):
            del given[name]
        known = [(m.clique, m.counts.tolist(), m.sigma) for m in self._public(self.domain).known]
        given |= {"domain": self.domain.to_dict(), "known": known, "others": list(self.others)}
        given["workload"] = [workload.cliques, workload.weights, workload.closed]
        texts = {name: str(value) for name, value in given.items()}
        return {"marginal_sdg": __version__} | {
            name: text if len(text) < _LONG else sha256(text.encode()).hexdigest() for name, text in texts.items()
        }

    def _vault(self, tables: list[Table], workload: Workload, connections: ExitStack, notes: Notes | None) -> Vault:
        if self.engine == "ideal":
            return ClearVault(joined(tables, self.domain))
        measurements = len(workload.one_way) + self._planned_rounds
        limits: dict[str, Any] = {"max_records": self.max_records, "measurements": measurements}
        if self.engine == "ckks":
            from marginal_sdg.backends.ckks_vault import CkksVault

            return CkksVault(tables[0], workload, self._keys.key, score=self.score, release=self.release, **limits)
        from marginal_sdg.backends.sealed import SealedVault

        vault = SealedVault(
            tables,
            workload,
            self._keys.key,
            upload=self.upload,
            threshold=self.threshold,
            **self._elsewhere(len(tables[0]), connections, notes),
            **limits,
        )
        if notes is None:
            return vault
        from marginal_sdg.backends.noted import NotedVault

        return NotedVault(vault, notes)

    def _elsewhere(self, records: int, connections: ExitStack, notes: Notes | None) -> dict[str, Any]:
        """The roles that are not in this process. ``records``: of this data holder."""
        if self.server is None or self.keyholder is None:
            return {}
        from marginal_sdg.backends.agreement import Agreement
        from marginal_sdg.backends.others import Others
        from marginal_sdg.crypto.channel import Channel
        from marginal_sdg.crypto.fhe.parties import HOLDER, KEY_HOLDER, SERVER
        from marginal_sdg.crypto.identity import Identity
        from marginal_sdg.crypto.steady import Steady

        identity = Identity.given(self.identity)

        def steady(where: str, role: str, place: str = "") -> Steady:
            name = notes.key(role + place) if notes else Source.system().key()  # never of a seed: it names the session
            told = notes.told(role + place) if notes else None

            def connect() -> Channel:
                return Channel.connect(where, role, self.timeout, identity)

            return connections.enter_context(Steady(connect, name, self.timeout, told))

        agreement = Agreement(
            domain=self.domain.to_dict(),
            epsilon=self.epsilon,
            delta=self.delta,
            group=self.records_per_person,
            holders=1 + len(self.others),
            max_records=self.max_records,
            split=self.split,
            records=records if self.split == "columns" else 0,
            upload=self.upload,
            score=self.score,
        )
        roles = [(self.server, SERVER, ""), (self.keyholder, KEY_HOLDER, "")]
        roles += [(where, HOLDER, f" {place}") for place, where in enumerate(self.others, 1)]
        with ThreadPoolExecutor(len(roles)) as pool:  # at once: none gives a session up while another lets us wait
            server, keyholder, *others = pool.map(lambda role: steady(*role), roles)
        return {
            "parties": (server, keyholder),
            "others": Others(others, agreement),
            "memory": notes.memory if notes else None,
        }
