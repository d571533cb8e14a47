"""What DistAIM's servers and clients elsewhere agree to: a budget for a session, and one for all, booked in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from marginal_sdg.crypto.spu.questions import Terms
from marginal_sdg.errors import ProtocolError
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.privacy.ledger_file import LedgerFile


@dataclass(frozen=True)
class Limits:
    """``session``: the most that one session may spend; ``total``: all of them, of which a file keeps account.

    ``simulate``: take part in experiments, whose noise comes from a seed that the coordinator knows.
    """

    session: Budget
    total: Budget
    ledger: Path
    simulate: bool = False

    def book(self, terms: Terms, run: str) -> Budget:
        """Reserve the whole budget of a session, durably and once; raises where it is not agreed to, or not left.

        ``run``: its name, in which a server that keeps to the protocol has a fresh part.
        """
        if terms.epsilon > self.session.epsilon or terms.delta > self.session.delta:
            raise ProtocolError(
                f"budget: epsilon {terms.epsilon:g} and delta {terms.delta:g} are planned, this process agrees to "
                f"{self.session.epsilon:g} and {self.session.delta:g}"
            )
        if terms.seed is not None and not self.simulate:
            raise ProtocolError("seed: who knows it knows the noise; drop it, or start all with --simulate")
        budget = Budget(terms.epsilon, terms.delta)
        LedgerFile(self.ledger, self.total, terms.group).reserve(budget, f"session {run[:8]}", run)
        return budget
