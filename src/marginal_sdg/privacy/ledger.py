"""The privacy ledger: the only door through which noise, and so any private value, leaves the data.

Guarantees:

* every charge is recorded before anything is drawn, and a charge that does not fit is refused: then nothing
  is drawn and nothing is recorded;
* charges are exact rationals, so a budget can be used up exactly and not exceeded by any amount;
* errors depend on public values only (types, shapes, parameters, the budget).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import BudgetError, DataError
from .budget import Budget, eps_from_rho_delta
from .joint import GUMBEL_BITS, GUMBEL_LIMIT, SERVERS, NoisyCells, NoisyScores, gumbel, gumbel_unit, part_variance
from .noise import DiscreteGaussian, Source, exact_choice

if TYPE_CHECKING:
    import pandas as pd

Counts = npt.NDArray[np.int64]

_LARGEST_SCORE = 2.0**31  # in sensitivities; see Ledger.select
_RESERVE = Fraction(1, 2**20)


@dataclass(frozen=True)
class Charge:
    """One paid release: who added what noise, and what it costs in zCDP."""

    what: str
    mechanism: Literal["gaussian", "exponential", "renyi"]
    parameter: Fraction  # gaussian: variance per cell; exponential: epsilon squared; renyi: rho at the orders below
    per_record: int  # how many cells, or selections, one record can take part in
    by: str = "curator"
    group: int = 1  # how many records the protected person may have
    orders: tuple[float, ...] = ()  # renyi: the only orders a at which the divergence is at most a rho

    def __post_init__(self) -> None:
        names = {"gaussian": "variance", "exponential": "epsilon2", "renyi": "rho"}
        if self.mechanism not in names:
            raise BudgetError(f"mechanism must be 'gaussian', 'exponential' or 'renyi', got {self.mechanism!r}")
        if not isinstance(self.parameter, int | Fraction) or self.parameter <= 0:
            raise BudgetError(f"{names[self.mechanism]} must be a positive Fraction, got {self.parameter!r}")
        for name, value in (("per_record", self.per_record), ("group", self.group)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BudgetError(f"{name} must be a positive integer, got {value!r}")
        object.__setattr__(self, "parameter", Fraction(self.parameter))
        object.__setattr__(self, "orders", tuple(self.orders))
        if (self.mechanism == "renyi") != bool(self.orders) or (
            self.orders and (self.per_record, self.group) != (1, 1)
        ):
            raise BudgetError("orders: a 'renyi' charge needs them, and is for single records; others take none")

    @property
    def rho(self) -> Fraction:
        """zCDP cost: group^2 times per_record / (2 variance) or per_record epsilon^2 / 8.

        A group of k records moves counts, and scores, k times as far as one record does.

        Source: Canonne, Kamath, Steinke 2020, at squared L2 sensitivity per_record; for the exponential
        mechanism Cesar, Rogers 2021 (bounded range), a quarter of what pure epsilon-DP costs.
        """
        if self.mechanism == "renyi":
            return self.parameter
        times = self.per_record * self.group**2
        return times / (2 * self.parameter) if self.mechanism == "gaussian" else times * self.parameter / 8

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the parameter as an exact fraction in a string."""
        return {**vars(self), "parameter": str(self.parameter)}


class Ledger:
    """Pays for and draws all noise of one run; adjacency is adding or removing up to ``group`` records.

    ``budget=None`` sets no limit (tests, and the non-private ORACLE label); ``caveats`` then says so. With a
    ``parent``, every charge is paid by that ledger as well, and refused where it cannot pay: so several runs on the
    same records share one budget. Some releases (DP-SGD) have a Renyi divergence that is small at low orders only;
    a ledger pays for them at the one order that turns its budget into rho, by default the best for zCDP.

    Examples
    --------
    >>> ledger = Ledger(Budget(epsilon=1.0, delta=1e-5), Source.system())
    >>> noisy = ledger.gaussian([np.array([120, 80])], Fraction(100), what="sex")
    >>> ledger.spent, noisy[0].dtype
    (Fraction(1, 200), dtype('int64'))
    >>> ledger.gaussian([np.array([120, 80])], Fraction(10), what="sex again")
    Traceback (most recent call last):
        ...
    marginal_sdg.errors.BudgetError: sex again: needs rho 0.05 but 0.0255566 of 0.0305566 is left; ...
    """

    def __init__(
        self,
        budget: Budget | None,
        source: Source,
        *,
        private: bool = True,
        group: int = 1,
        parent: Ledger | None = None,
        order: float | None = None,
    ) -> None:
        self.budget = budget
        self.source = source
        if isinstance(group, bool) or not isinstance(group, int) or group < 1:
            raise BudgetError(f"records_per_person must be a positive integer, got {group!r}")
        if parent is not None and parent.group != group:
            raise BudgetError(
                f"records_per_person is {group} here, {parent.group} in the shared ledger; make them equal"
            )
        self.group: int = group
        self.parent: Ledger | None = parent
        self.private = private and budget is not None
        self._charges: list[Charge] = []
        self._order = order
        self._limit = None if budget is None else budget.rho if order is None else budget.rho_at(order)
        self._spent = Fraction(0)
        self._caveats: list[str] = []
        if parent is not None and parent._limit is not None and (self._limit or 0) > parent.remaining:
            need, left = float(self._limit or 0), float(parent.remaining)
            raise BudgetError(f"ledger: this fit may spend rho {need:.6g} but {left:.6g} is left in the shared ledger")
        if budget is None:
            self.warn("NOT PRIVATE: the ledger has no budget")
        elif not private:
            self.warn("NOT PRIVATE: exact values are used outside the ledger")
        if not source.secure:
            self.warn("simulation: the noise comes from a seed, not from the operating system")

    def gaussian(
        self,
        tables: Sequence[Counts],
        variance: Fraction,
        *,
        per_record: int = 1,
        what: str,
        by: str = "curator",
        honest: int = 1,
    ) -> list[Counts]:
        """Add discrete Gaussian noise to every cell of int64 count tables.

        Each record is counted in at most per_record cells of all the tables together, so it moves them by at
        most sqrt(per_record) in L2. Charges per_record / (2 variance). With several ``honest`` parties, tables are seen
        only in a sum to which so many add theirs: each draws a part of the noise, see :func:`part_variance`.
        """
        charge = Charge(what, "gaussian", variance, per_record, by, self.group)
        noise = DiscreteGaussian(part_variance(charge.parameter, honest + 1))
        for table in tables:
            if not isinstance(table, np.ndarray) or table.dtype != np.int64:
                kind = getattr(table, "dtype", type(table).__name__)
                raise DataError(f"{what}: tables must be int64 counts, got {kind}; convert them first")
        self.charge(charge)
        drawn = noise.sample(sum(table.size for table in tables), self.source)
        parts = np.split(drawn, np.cumsum([table.size for table in tables], dtype=np.int64))[:-1]
        return [table + part.reshape(table.shape) for table, part in zip(tables, parts, strict=True)]

    def select(
        self,
        scores: Sequence[npt.NDArray[np.float64]],
        epsilon2: Fraction,
        *,
        sensitivity: float,
        per_record: int = 1,
        what: str,
        by: str = "curator",
    ) -> list[int]:
        """Draw one index per score vector, with P(i) proportional to exp(epsilon score_i / (2 sensitivity)).

        Vectors of different sources belong to disjoint sets of records (parallel composition); one record is
        in at most per_record of the vectors. Charges per_record epsilon^2 / 8.

        Rounding never costs privacy: epsilon is rounded down and lowered by a further 2^-20 of itself, which
        pays for the rounding of the log-weights (scores are cut at 2^31 sensitivities) and for scores that
        are off by up to 2^-23 sensitivities through one rounding (see scores.quality).
        """
        charge = Charge(what, "exponential", epsilon2, per_record, by, self.group)
        if isinstance(sensitivity, bool) or not 0 < sensitivity < math.inf:
            raise BudgetError(f"sensitivity must be a positive number, got {sensitivity!r}")
        vectors = [np.asarray(vector, dtype=np.float64) for vector in scores]
        if any(vector.ndim != 1 or vector.size == 0 or not np.isfinite(vector).all() for vector in vectors):
            raise DataError(f"{what}: scores must be non-empty vectors of finite numbers")
        self.charge(charge)
        factor = _below(_root_below(charge.parameter) * (1 - _RESERVE) / (2 * Fraction(sensitivity)))
        limit = _LARGEST_SCORE * sensitivity
        return [exact_choice(factor * vector.clip(-limit, limit), self.source) for vector in vectors]

    def gaussian_parts(
        self,
        cells: Sequence[int],
        variance: Fraction,
        *,
        servers: int = SERVERS,
        per_record: int = 1,
        what: str,
        by: str = "servers",
        here: Sequence[int] | None = None,
    ) -> NoisyCells:
        """Noise for tables that nobody sees in the clear, in parts of servers or data holders: :func:`part_variance`.

        ``cells``: of each table. Charges per_record / (2 variance), what a server still faces that knows its own part;
        with ``servers=1``, whoever draws it may know it all. Parts not ``here`` are others' to draw and to pay for.
        """
        charge = Charge(what, "gaussian", variance, per_record, by, self.group)
        noise = DiscreteGaussian(part_variance(charge.parameter, servers))
        self.charge(charge)
        drawn = range(servers) if here is None else here
        parts = tuple([noise.sample(size, self.source) for size in cells] for _ in drawn)
        return NoisyCells(parts, servers * noise.variance)

    def gumbel_parts(
        self,
        candidates: int,
        epsilon2: Fraction,
        *,
        sensitivity: float,
        servers: int = SERVERS,
        bits: int = GUMBEL_BITS,
        what: str,
        by: str = "servers",
        here: Sequence[int] | None = None,
    ) -> NoisyScores:
        """Noise for scores that nobody sees in the clear, in one part per server, or per data holder.

        The largest noisy score wins. The first two parts are a complete Gumbel each, so that every server lacks at
        least one: given all else, the winner follows the exponential mechanism. Charges epsilon^2 / 8; with
        ``servers=1`` somebody draws it who may know it. ``bits``: binary places of the noise. ``here``: as above.
        """
        charge = Charge(what, "exponential", epsilon2, 1, by, self.group)
        unit = gumbel_unit(_root_below(charge.parameter), Fraction(sensitivity), bits)
        self.charge(charge)
        silent, limit = np.zeros(candidates, dtype=np.int64), GUMBEL_LIMIT << bits >> GUMBEL_BITS
        drawn = range(servers) if here is None else here
        parts = tuple(gumbel(candidates, self.source, bits) if place < 2 else silent for place in drawn)
        return NoisyScores(parts, unit, limit, limit * min(servers, 2))

    def charge(self, charge: Charge) -> None:
        """Record a charge or raise BudgetError. Called directly only where other parties draw the noise."""
        if charge.orders and not set(self.orders) <= set(charge.orders):
            raise BudgetError(f"{charge.what}: its cost is known at other orders than this ledger's; see Ledger.orders")
        total = self._spent + charge.rho
        if self._limit is not None and total > self._limit:
            cost, left, limit = (float(rho) for rho in (charge.rho, self._limit - self._spent, self._limit))
            raise BudgetError(
                f"{charge.what}: needs rho {cost:.6g} but {left:.6g} of {limit:.6g} is left; "
                "raise epsilon, add more noise or plan fewer releases"
            )
        if self.parent is not None:
            self.parent.charge(charge)
        self._charges.append(charge)
        self._spent = total

    def warn(self, text: str) -> None:
        """Add a caveat that every report of this run must print; repeated ones are kept once."""
        if text not in self._caveats:
            self._caveats.append(text)
        if self.parent is not None:
            self.parent.warn(text)

    @property
    def adjacency(self) -> str:
        """What two neighbouring tables differ in."""
        return (
            "add or remove one record" if self.group == 1 else f"add or remove up to {self.group} records of one person"
        )

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All charges so far, oldest first."""
        return tuple(self._charges)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What weakens or voids the stated guarantee."""
        return tuple(self._caveats)

    @property
    def spent(self) -> Fraction:
        """The zCDP rho charged so far, exact."""
        return self._spent

    @property
    def remaining(self) -> Fraction:
        """The zCDP rho still free, exact; BudgetError for a ledger without a budget."""
        if self._limit is None:
            raise BudgetError("budget: this ledger has none, so nothing can remain; give it a Budget")
        return self._limit - self._spent

    @property
    def orders(self) -> tuple[float, ...]:
        """The Renyi orders at which this ledger, and those that it shares a budget with, turn epsilon into rho."""
        own = () if self.budget is None else (self._order or self.budget.order,)
        return own if self.parent is None else (*own, *self.parent.orders)

    @property
    def allowance(self) -> Fraction:
        """What is left, as the rho that releases may cost a single record: what a plan has to work with."""
        return self.remaining / self.group**2

    def epsilon(self) -> float:
        """Epsilon spent so far at the budget's delta, rounded up; infinite for a non-private ledger."""
        if self.budget is None or not self.private:
            return math.inf
        if self._order is not None or any(charge.orders for charge in self._charges):
            return self.budget.epsilon_at(_above(self._spent), self.orders[0]) if self._charges else 0.0
        return eps_from_rho_delta(_above(self._spent), self.budget.delta)

    def to_frame(self) -> pd.DataFrame:
        """One row per charge: what, mechanism, sigma or epsilon, per_record, rho, cumulative share, by."""
        import pandas as pd

        rows, total = [], Fraction(0)
        for charge in self._charges:
            total += charge.rho
            root = math.sqrt(charge.parameter)
            rows.append(
                {
                    "what": charge.what,
                    "mechanism": charge.mechanism,
                    "sigma": root if charge.mechanism == "gaussian" else math.nan,
                    "epsilon": root if charge.mechanism == "exponential" else math.nan,
                    "per_record": charge.per_record,
                    "rho": float(charge.rho),
                    "share": math.nan if self._limit is None else float(total / self._limit),
                    "by": charge.by,
                }
            )
        columns = ["what", "mechanism", "sigma", "epsilon", "per_record", "rho", "share", "by"]
        return pd.DataFrame(rows, columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the source, for saving; see from_dict."""
        return {
            "budget": None if self.budget is None else vars(self.budget).copy(),
            "private": self.private,
            "group": self.group,
            "order": self._order,
            "adjacency": self.adjacency,
            "charges": [charge.to_dict() for charge in self._charges],
            "caveats": list(self._caveats),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], source: Source) -> Ledger:
        """Restore a saved ledger with its spending. Give a fresh source, never one that repeats old noise."""
        try:
            budget = None if state["budget"] is None else Budget(**state["budget"])
            charges = [Charge(**{**row, "parameter": Fraction(row["parameter"])}) for row in state["charges"]]
            private, group = bool(state["private"]), int(state["group"])
            caveats = [str(text) for text in state["caveats"]]
            order = state.get("order")
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise BudgetError(f"saved ledger is damaged: {error}") from error
        ledger = cls(budget, source, private=private, group=group, order=order)
        for charge in charges:
            ledger.charge(charge)
        for text in caveats:
            ledger.warn(text)
        return ledger

    def __repr__(self) -> str:
        limit = "no budget" if self._limit is None else f"of {float(self._limit):.6g}"
        return f"Ledger(rho {float(self._spent):.6g} {limit}, {len(self._charges)} charges)"

    def _repr_html_(self) -> str:
        from marginal_sdg.page import Page

        frame = self.to_frame()
        rows = [[_shown(value) for value in row] for row in frame.itertuples(index=False)]
        page = Page("").text(f"{self!r}; adjacency: {self.adjacency}").caveats(self._caveats)
        page.table([str(name) for name in frame], rows, "Charges, oldest first; 'share' of the budget is cumulative.")
        return page._repr_html_()


def _shown(value: object) -> str:
    """A cell of the notebook's table; NaN stands for what a charge does not have."""
    return str(value) if not isinstance(value, float) else "" if math.isnan(value) else f"{value:.4g}"


def _root_below(square: Fraction) -> Fraction:
    """A rational at most sqrt(square), right to 60 bits."""
    shift = max(0, 60 - (square.numerator.bit_length() - square.denominator.bit_length()) // 2)
    return Fraction(math.isqrt((square.numerator << 2 * shift) // square.denominator), 1 << shift)


def _below(value: Fraction) -> float:
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


def _above(value: Fraction) -> float:
    return -_below(-value)
