"""What happens when servers and clients fail in the middle of a protocol: a table of injected faults.

    python experiments/faults.py [--out experiments/results/faults]

DistAIM on shares: a fault of server 1 in the middle of each kind of operation (once, and for good), and clients
whose uploads are lost. FLAIM on masks: clients that leave at each stage of the secure sums. Every line is a whole fit
on 5,000 records of Adult at 20 clients; releases and ledger are compared with a fit without faults, or, where clients
leave, with the same sums in the clear. Writes ``faults.csv`` and ``faults.md``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from provenance import signed_table
from rich.progress import track

from marginal_sdg import FLAIM, Budget, DistAIM, Ledger, Table, Workload, federations
from marginal_sdg.backends.share_pool import SharePool
from marginal_sdg.crypto.masking import MaskedSum
from marginal_sdg.crypto.secagg import STAGES, IdealSecureSum
from marginal_sdg.crypto.upload import RECEIVERS
from marginal_sdg.datasets import load_dataset, partition
from marginal_sdg.errors import MarginalSDGError, ProtocolError
from marginal_sdg.privacy.noise import Source

CLIENTS, RECORDS, ROUNDS, BUDGET = 20, 5_000, 3, Budget(1.0, 1e-5)
HIT = {"join": (2, 0), "size": (0, 0), "measure": (0, 0), "select": (0, 6)}  # to whom, which message of server 1
LEAVING = frozenset({3, 7, 12, 18})  # 20% of the clients
DAMAGES = ("killed", "altered", "truncated", "lost", "replayed")


@dataclass
class Storm:
    """Disturbs the second ``operation`` of its kind in a fit; ``lasting``: also every repetition of it."""

    operation: str
    damage: str
    lasting: bool
    _first: list[bytes] = field(default_factory=list)
    struck: bool = False

    def __call__(self, sender: int, receiver: int, number: int, frame: bytes) -> Sequence[bytes]:
        """A hook of ``LocalNetwork``."""
        if (sender, receiver) != (1, HIT[self.operation][0]):
            return (frame,)
        if number == 0:
            self._first = [frame]
        if number != HIT[self.operation][1] or (self.struck and not self.lasting):
            return (frame,)
        self.struck = True
        if self.damage == "killed":
            raise ProtocolError("server 1: killed")
        altered = frame[:-1] + bytes([frame[-1] ^ 1])
        again = [*self._first, frame]  # in place of this message, and before it
        treated = {"altered": [altered], "truncated": [frame[: len(frame) // 2]], "lost": [], "replayed": again}
        return treated[self.damage]


class Disturbed(SharePool):
    """A pool that lets a storm loose on one operation."""

    def __init__(self, storm: Storm | None, lost: Callable[[int, int], bool], *arguments: Any) -> None:
        super().__init__(*arguments, uploads=lambda k, server, m: () if lost(k, server) else (m,))
        self._storm = storm
        self._calls = dict.fromkeys(HIT, 0)

    def join(self, *arguments: Any) -> Any:
        """Disturbed."""
        return self._within("join", super().join, *arguments)

    def size(self, *arguments: Any) -> Any:
        """Disturbed."""
        return self._within("size", super().size, *arguments)

    def select(self, *arguments: Any) -> Any:
        """Disturbed."""
        return self._within("select", super().select, *arguments)

    def measure(self, *arguments: Any) -> Any:
        """Disturbed."""
        return self._within("measure", super().measure, *arguments)

    def _within(self, name: str, operation: Callable[..., Any], *arguments: Any) -> Any:
        self._calls[name] += 1
        hit = self._storm is not None and self._storm.operation == name and self._calls[name] == 2
        self._faults, self._servers = self._storm if hit else None, None  # messages are counted anew
        return operation(*arguments)


@dataclass(frozen=True)
class Outcome:
    """What a fit released, what it charged, and the error that ended it."""

    releases: list[Any]
    charges: list[str]
    error: str = ""

    def against(self, calm: Outcome) -> dict[str, str]:
        """Columns of the table: what happened, and whether the ledger is right."""
        if self.error:
            happened = f"stopped: {self.error}"
        else:
            happened = "same releases" if self.releases == calm.releases else "OTHER RELEASES"
        paid = "nothing twice" if self.charges == calm.charges[: len(self.charges)] else "WRONG"
        return {"outcome": happened, "charges": f"{len(self.charges)} of {len(calm.charges)}, {paid}"}


def fit(method: DistAIM | FLAIM, clients: list[Table]) -> Outcome:
    """Fit and keep what is public; errors of protocols are outcomes."""
    account = Ledger(BUDGET, Source.seeded(0))
    error = ""
    try:
        method.fit(clients, ledger=account)
    except MarginalSDGError as caught:
        error = str(caught)
    released = [] if error else [(m.clique, m.counts.tolist(), m.records) for m in method.measurements_]
    return Outcome(released, [charge.what for charge in account.charges], error)


def distaim(
    clients: list[Table],
    common: dict[str, Any],
    storm: Storm | None = None,
    lost: Callable[[int, int], bool] = lambda client, server: False,
) -> Outcome:
    """DistAIM on shares, disturbed."""
    with patch.object(federations, "SharePool", partial(Disturbed, storm, lost)):
        return fit(DistAIM(participation=0.3, engine="shares", **common), clients)


def _misses(missed: int, client: int, server: int) -> bool:
    return client in LEAVING and server == missed


def _leaves(leaving: frozenset[int], when: str, client: int, stage: str) -> bool:
    return client in leaving and stage == when


def servers_fail(clients: list[Table], common: dict[str, Any]) -> Iterator[dict[str, str]]:
    """DistAIM: one row per fault of a server, or of the clients' uploads."""
    calm = distaim(clients, common)
    for operation, damage, lasting in itertools.product(HIT, DAMAGES, (False, True)):
        fault = "server 1 killed" if damage == "killed" else f"a message of server 1 {damage}"
        row = {"protocol": "DistAIM", "stage": operation, "fault": fault, "for": "good" if lasting else "once"}
        storm = Storm(operation, damage, lasting)
        yield row | distaim(clients, common, storm).against(calm)
        assert storm.struck
    gone = distaim(clients, common, lost=lambda client, server: client in LEAVING)
    for missed in range(RECEIVERS):
        outcome = distaim(clients, common, lost=partial(_misses, missed))
        assert outcome == gone
        row = {"protocol": "DistAIM", "stage": "upload", "fault": f"20% of clients do not reach server {missed}"}
        as_without = {"outcome": "continued, as if they had not been asked"} if not outcome.error else {}
        yield row | {"for": "good"} | outcome.against(calm) | as_without


def clients_leave(clients: list[Table], common: dict[str, Any]) -> Iterator[dict[str, str]]:
    """FLAIM: one row per stage of the secure sums, against sums in the clear over those that stay."""
    for stage, (leaving, share) in itertools.product(STAGES, ((LEAVING, "20%"), (frozenset(range(12)), "60%"))):
        outcomes = []
        for name, sums in (("MaskedSum", MaskedSum), ("IdealSecureSum", IdealSecureSum)):
            vanish = partial(sums, dropout=partial(_leaves, leaving, stage))
            with patch.object(federations, name, vanish):
                secagg = "masks" if sums is MaskedSum else "ideal"
                outcomes.append(fit(FLAIM(participation=1.0, secagg=secagg, **common), clients))
        row = {"protocol": "FLAIM", "stage": f"sum: {stage}", "fault": f"{share} of clients leave", "for": "good"}
        yield row | outcomes[0].against(outcomes[1])


def main() -> None:
    """Inject, compare, write."""
    parser = argparse.ArgumentParser(description="Inject faults into the protocols.")
    parser.add_argument("--out", type=Path, default=Path("results/faults"))
    options = parser.parse_args()
    data = load_dataset("adult")
    table = data.table().take(np.arange(RECORDS))
    owner = partition(table, CLIENTS, "iid", 0, data.target)
    clients = [table.take(np.flatnonzero(owner == k)) for k in range(CLIENTS)]
    common = {
        **{"domain": table.domain, "workload": Workload.random(table.domain, 8), "rounds": ROUNDS, "seed": 1},
        **{"epsilon": BUDGET.epsilon, "delta": BUDGET.delta},
    }
    faults = itertools.chain(servers_fail(clients, common), clients_leave(clients, common))
    rows = list(track(faults, "faults", total=2 * len(HIT) * len(DAMAGES) + RECEIVERS + 2 * len(STAGES)))
    frame = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "faults.csv", index=False)
    text = signed_table("", rows, "python experiments/faults.py", "cryptography")
    (options.out / "faults.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
