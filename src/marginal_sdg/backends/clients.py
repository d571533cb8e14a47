"""What the server of a federation asks of its clients, wherever they are: the only way in which it meets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from marginal_sdg.backends.base import PublicState
from marginal_sdg.backends.variants import Variant
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.domain import Clique, Domain
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Reference = Mapping[Clique, Floats]  # 1-way distributions, from what has been released


@dataclass(frozen=True)
class Request:
    """A marginal to be summed over ``contributors``, and their sizes and number with it.

    ``picked``: it is that of the clients which picked the clique in this round; ``contributors`` names them, or, where
    nobody knows who they are, all that may have: those who did not add zeros.
    """

    clique: Clique
    contributors: tuple[int, ...]
    picked: bool = False


@dataclass(frozen=True)
class Question:
    """One secure sum over ``cohort`` of everything requested; who is no contributor adds zeros.

    ``news``: how many requests the cohort must be told of; None where it knows what it is asked.
    """

    cohort: tuple[int, ...]
    requests: tuple[Request, ...]
    news: int | None = None


@dataclass(frozen=True)
class Ballot:
    """One round's selection by ``participants``, and the public values that it is made with.

    ``reference``: what the private heterogeneity term compares 1-way marginals with. ``padded``: votes are summed
    securely, so that the server learns how many picked what, and not who.
    """

    participants: tuple[int, ...]
    state: PublicState
    reference: Reference
    step: Step
    padded: bool


@dataclass(frozen=True)
class Sum:
    """What the server learns of one clique: ``counts``, the clients' ``size`` and number, all summed.

    ``variance``: of the noise that the clients have added to each count; 0 where the counts are exact.
    """

    clique: Clique
    counts: Counts
    size: float
    contributors: int
    variance: Fraction


class Clients(Protocol):
    """K clients, numbered from 0. Each holds its own table; two kinds of answers leave it.

    Noisy ones, paid for in the ledger before they are drawn: its size, and what it picks. And its part of a secure sum,
    of which the server learns the total alone; the server pays for that, and it or the clients add the noise.
    """

    traffic: Traffic

    def __len__(self) -> int: ...

    def enrol(self, variance: Fraction | None, ledger: Ledger) -> Sequence[float]:
        """(K,) every client's number of records with discrete Gaussian noise; exact without a variance."""
        ...

    def select(self, ballot: Ballot, ledger: Ledger) -> Mapping[Clique, tuple[int, ...]]:
        """What participants pick from their own data by the exponential mechanism: clique -> who contributes to it."""
        ...

    def sums(self, questions: Sequence[Question], step: Step) -> list[Sum]:
        """One secure sum per question; the answers to all their requests in order.

        ``step``: its variance is that of the noise which is paid for.
        """
        ...


@runtime_checkable
class Federation(Protocol):
    """Clients elsewhere that can be asked to take part in a fit."""

    @property
    def least(self) -> int:
        """So many of them must stand behind every sum."""
        ...

    @property
    def public(self) -> Source | None:
        """What a fit started again must draw again (who takes part, who shares masks); None: what it likes."""
        ...

    def recruit(
        self,
        workload: Workload,
        variant: Variant,
        budget: Budget,
        group: int,
        source: Source,
        colluding: int | None,
    ) -> Clients:
        """The clients, as told what the fit is about; ``source`` draws the neighbours of secure sums.

        ``colluding``: the clients add the noise, which that many of them may know; None: the server does.
        """
        ...


def ends_of(domain: Domain, requests: Sequence[Request]) -> list[int]:
    """Where the parts of a question's vector begin, and where the last one ends: cells, a size and a 1 each."""
    ends: list[int] = np.cumsum([0, *(domain.size(request.clique) + 2 for request in requests)]).tolist()
    return ends


def read_sums(requests: Sequence[Request], ends: Sequence[int], total: Counts, variance: Fraction) -> list[Sum]:
    """Take the total of a question's vectors apart."""
    return [
        Sum(request.clique, cells[:-2], float(cells[-2]), int(cells[-1]), variance)
        for request, cells in zip(requests, np.split(total, ends[1:-1]), strict=True)
    ]
