"""What one party needs, what it is assumed to have, and which need comes first to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from marginal_sdg.scale.timing import (
    CLIENT_CORES,
    CLIENT_LINK,
    CLIENT_MEMORY,
    DAY,
    SERVER_CORES,
    SERVER_LINK,
    SERVER_MEMORY,
)


@dataclass(frozen=True)
class Load:
    """Of each of ``count`` equal parties in a whole run: bytes ``sent``, ``received``, of ``memory``; CPU ``seconds``.

    Left out is fitting the model, which is no work on private data and does not grow with clients.
    """

    party: str
    count: int
    sent: float
    received: float
    memory: float
    seconds: float
    small: bool = False  # a client's machine and line, not a server's

    @property
    def strains(self) -> dict[str, float]:
        """Every need as a share of what there is: of a day's transfer, of a day's computing, of the memory."""
        link, cores, memory = (
            (CLIENT_LINK, CLIENT_CORES, CLIENT_MEMORY) if self.small else (SERVER_LINK, SERVER_CORES, SERVER_MEMORY)
        )
        return {
            "transfer": (self.sent + self.received) / link / DAY,
            "computing": self.seconds / cores / DAY,
            "memory": self.memory / memory,
        }


@dataclass(frozen=True)
class Prediction:
    """Loads of all parties, and ``walls``: what no machine helps with, such as a number that fits no word."""

    loads: Sequence[Load]
    walls: tuple[str, ...] = ()

    def load(self, party: str) -> Load:
        """Of the party with that name."""
        return next(load for load in self.loads if load.party == party)

    @property
    def bottleneck(self) -> str:
        """What ends first, in one sentence."""
        if self.walls:
            return self.walls[0]
        load, need, strain = max(
            ((load, need, strain) for load in self.loads for need, strain in load.strains.items()),
            key=lambda found: found[2],
        )
        have = {"transfer": "its line carries in a day", "computing": "its cores do in a day", "memory": "its memory"}
        amount = {
            "transfer": amount_of(load.sent + load.received),
            "computing": f"{load.seconds:,.3g} CPU seconds",
            "memory": amount_of(load.memory),
        }[need]
        return f"the {need} of the {load.party}: {amount}, {strain:.2g} times what {have[need]}".replace(
            "what its memory", "its memory"
        )


def amount_of(size: float) -> str:
    """Bytes in a unit that fits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} PB"
