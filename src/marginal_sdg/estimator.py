"""What every estimator shares, in the manner of scikit-learn: parameters, randomness, sampling and the report."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from marginal_sdg.backends.holders import Records, coded
from marginal_sdg.domain import Domain
from marginal_sdg.dtypes import kept_dtypes, with_dtypes
from marginal_sdg.encoding import Table, decode, merged
from marginal_sdg.errors import ConfigError, NotFittedError
from marginal_sdg.loop import OnEvent
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.noise import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from marginal_sdg.report import Report


@dataclass(eq=False)
class Estimator:
    """A fit leaves ``model_``, with ``sample``, ``marginal`` and ``log_likelihood``, and ``ledger``."""

    domain: Domain
    epsilon: float = field(default=1.0, kw_only=True)
    delta: float = field(default=1e-5, kw_only=True)
    seed: int | np.random.SeedSequence | None = field(default=None, kw_only=True)
    secure: bool = field(default=False, kw_only=True)
    on_event: OnEvent | None = field(default=None, kw_only=True, repr=False)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments; an unknown name raises ``ConfigError``."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ConfigError(f"{name}: {type(self).__name__} has no such parameter; see get_params()")
            setattr(self, name, value)
        return self

    def _checked_budget(self) -> Budget:
        """Find what can be wrong with the parameters that every estimator has."""
        if not isinstance(self.domain, Domain):
            raise ConfigError(f"domain: needs a Domain, got {type(self.domain).__name__}; see Domain.load")
        if self.secure and self.seed is not None:
            raise ConfigError("seed: secure=True draws from the operating system and takes no seed; drop one of them")
        return Budget(self.epsilon, self.delta)

    def _check_choice(self, name: str, *options: str) -> None:
        if getattr(self, name) not in options:
            raise ConfigError(f"{name}: must be {' or '.join(map(repr, options))}, got {getattr(self, name)!r}")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}: must be a positive integer, got {value!r}")

    def _sources(self, system: Source | None = None) -> tuple[Source, Source]:
        """Independent randomness for the ledger and for public choices; others for synthetic rows and for keys.

        ``system``: what it comes from without a seed, by default the operating system.
        """
        source = (system or Source.system()) if self.seed is None else Source.seeded(self.seed)
        noise, public, self._rows, self._keys = source.spawn(4)
        return noise, public

    def _encoded(self, records: Records) -> Table:
        """Code the records of a fit, and remember their columns' types."""
        table = coded(records, self.domain)
        self._keep_types([records])
        return table

    def _keep_types(self, tables: Sequence[Records]) -> None:
        self._dtypes: dict[str, Any] = {}
        for frame in tables:
            if isinstance(frame, pd.DataFrame):
                self._dtypes |= kept_dtypes(frame, self.domain.project(frame.columns))

    def _fitted(self) -> Any:
        if not hasattr(self, "model_"):
            raise NotFittedError(f"{type(self).__name__}: call fit first")
        return self.model_

    def sample_table(self, rows: int | None = None, seed: int | None = None) -> Table:
        """Synthetic records as codes; ``rows`` defaults to the model's own, noisy number of records."""
        model = self._fitted()
        table: Table = model.sample(rows, self._rows.generator() if seed is None else np.random.default_rng(seed))
        return table

    def sample(self, rows: int | None = None, seed: int | None = None) -> pd.DataFrame:
        """Synthetic records that look like the input: its types, labels, and numbers drawn inside their bins."""
        table = self.sample_table(rows, seed)
        rng = self._rows.generator() if seed is None else np.random.default_rng([seed, 1])
        return with_dtypes(decode(table, rng), self._dtypes)

    def report(self, real: Records | None = None, target: str | None = None) -> Report:
        """What was spent and what it protects, what the model looks like, and how to make it again.

        With ``real``, the holder's table, also exact errors, and with ``target``, a column with categories, scores of
        classifiers that predict it. Such a report is itself private: it is for the holder's eyes only.
        """
        from marginal_sdg.report import synthesis_report

        model = self._fitted()
        coarse = None if real is None else merged(coded(real, self.domain), model.domain)
        return synthesis_report(self, coarse, target=target)

    def _repr_html_(self) -> str:
        from marginal_sdg.page import Page

        page = Page("").code(repr(self))
        return page._repr_html_() + self.ledger._repr_html_() if hasattr(self, "ledger") else page._repr_html_()
