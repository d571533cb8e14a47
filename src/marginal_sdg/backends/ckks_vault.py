"""FHAIM's three roles on CKKS slots, as in its paper: data holder, server, key holder; here in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from marginal_sdg.backends.distance import Distance
from marginal_sdg.backends.meter import Meter
from marginal_sdg.backends.vault import Ballot, EncryptionCosts
from marginal_sdg.crypto.ckks.holder import DataHolder
from marginal_sdg.crypto.ckks.keyholder import KeyHolder
from marginal_sdg.crypto.ckks.layout import Layout
from marginal_sdg.crypto.ckks.profile import choose_profile
from marginal_sdg.crypto.ckks.server import Server
from marginal_sdg.crypto.garbled import Evaluator, Garbler, connect, noisy_argmax
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.crypto.question import NoisyArgmax
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.marginals import Counts
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

_MODULUS = 2**62  # of the shares of scores
_SHARE_BITS = 28  # of a score of 1 in shares
PHASES = ("keys", "upload", "compute", "select", "measure")


class CkksVault:
    """A ``Vault`` under CKKS. ``measurements``: how many marginals will be measured, and selected, at most.

    ``score``: "l2_squared" or "l1_poly"; ``comp``: as in ``crypto.ckks``; the same results. ``release``:

    * "index": server and key holder get additive shares of the scores, and a garbled circuit adds the noise and gives
      the winner's place;
    * "scores", as in the paper: the key holder decrypts the noisy scores of all candidates in every round. The noise of
      a selection pays for the winner's place only, so against the key holder the ledger's privacy does not hold.

    Decryptions are flooded. Measurements are rounded to integers: exact counts plus noise. Scores have errors of up to
    2^-15 of the cap (squared: of its square), so close ones may swap. Almost all of it is the rounding of pads and the
    flooding, which do not depend on the records and so cost no privacy; the rest is, by OpenFHE's
    estimate, below 2^-40.

    ``seconds``: CPU seconds of all roles together, and ``traffic``: bytes sent, by phase.
    """

    def __init__(
        self,
        table: Table,
        workload: Workload,
        keys: Callable[[], bytes],
        *,
        max_records: int,
        measurements: int,
        comp: str = "packed",
        score: str = "l2_squared",
        release: str = "index",
    ) -> None:
        self._meter = Meter(PHASES)
        self.seconds, self.traffic = self._meter.seconds, self._meter.traffic
        domain = workload.domain
        cliques = tuple(tuple(map(domain.index, clique)) for clique in workload.closure)
        if max(map(len, cliques)) > 2:
            raise ConfigError("workload: FHAIM counts 1- and 2-way marginals; give it cliques of one or two attributes")
        self._layout = Layout(choose_profile(comp, score, flooded=True), tuple(domain.shape), cliques, max_records)
        self._place = {clique: place for place, clique in enumerate(workload.closure)}
        self._score = score
        self._keys = keys
        self._release = release
        distance = Distance(score, max_records)
        self._steps = (max_records**2 if distance.is_square else max_records) << distance.fraction  # in a score of 1
        self._shift = max(0, self._steps.bit_length() - _SHARE_BITS)  # shares count steps of 2^shift of them
        decryptions = measurements * (1 + len(self._layout.groups(range(len(cliques)))))
        with self._meter.phase("keys"):
            self._keyholder = KeyHolder(self._layout, decryptions)
            public, evaluation = self._keyholder.public_key, self._keyholder.evaluation_keys
            self.traffic["keys"] = len(public) + len(evaluation)
            self._evaluation_key_bytes = len(evaluation)
            self._server = Server(self._layout, public, evaluation, keys())
            self._holder = DataHolder(self._layout, public)
            self._garbler, self._evaluator = Garbler(keys), Evaluator(keys)
            self.traffic["keys"] += sum(connect(self._garbler, self._evaluator).values())
        with self._meter.phase("upload"):
            self._server.receive(self._meter.uploaded(self._holder.upload_records(table.codes.astype(np.int64))))
        with self._meter.phase("compute"):
            self._server.compute()

    def costs(self) -> EncryptionCosts:
        """What the upload and the marginals took."""
        return self._meter.costs("ckks", self._layout.profile.ring, self._evaluation_key_bytes)

    def select(self, ballot: Ballot, noise: Sequence[Counts], largest_noise: int, step: Step | None = None) -> int:
        """The winner's place."""
        if ballot.distance.name != self._score:
            raise ProtocolError(f"score: this vault has levels for {self._score!r}, not for {ballot.distance.name!r}")
        with self._meter.phase("select"):
            places = [self._place[q] for q in ballot.cliques]
            models = dict(zip(places, ballot.expected, strict=True))
            (own,) = noise
            if self._release == "scores":
                return self._by_scores(ballot, models, own, largest_noise)
            return self._by_shares(ballot, models, own, largest_noise)

    def _by_shares(self, ballot: Ballot, models: dict[int, Counts], noise: Counts, largest_noise: int) -> int:
        """Shares of scores without noise, which the circuit adds; the data holder sends its halves."""
        distance, steps = ballot.distance, self._steps / 2**self._shift
        messages, server = self._server.share_scores(models, steps)
        holder = self._keyholder.share_scores(models, self._meter.sent("select", messages), steps)
        norm = max(int(counts.sum()) for counts in ballot.expected) + distance.records
        largest = ballot.largest_square if distance.is_square else 2 * norm << distance.fraction
        question = NoisyArgmax(
            modulus=_MODULUS,
            low=-int(steps),  # room for errors
            high=int(steps) + (largest >> self._shift),
            weights=tuple(int(weight) << self._shift for weight in ballot.weights),
            penalties=tuple(map(int, ballot.penalties)),
            noise_bound=largest_noise,
        )
        order = np.argsort(np.argsort(list(models)))  # the shares are in ascending order
        mask = Stream(self._keys()).draw(len(noise))  # the data holder's, who sends the halves
        shares = server[order] % _MODULUS, holder[order] % _MODULUS
        halves = noise.view(np.uint64) - mask, mask
        winner, sizes = noisy_argmax(question, self._garbler, self._evaluator, shares, halves)
        self.traffic["select"] += sum(sizes.values()) + 16 * len(noise)
        return winner

    def _by_scores(self, ballot: Ballot, models: dict[int, Counts], noise: Counts, largest_noise: int) -> int:
        """The key holder sees all noisy scores, divided by their public weights."""
        weights = ballot.weights.astype(np.float64)
        if weights.min() <= 0 or largest_noise / weights.min() / self._steps >= self._layout.profile.room / 2:
            raise ProtocolError(
                "weights: noise may be too large for its weight and would wrap around; raise the cap or epsilon"
            )
        drowning = dict(zip(models, (noise / weights / self._steps).tolist(), strict=True))
        groups, rows = self._layout.groups(models), self._layout.rows
        frames = [self._holder.score_noise({c % rows: drowning[c] for c in group}) for group in groups]
        answers = self._server.select(models, self._meter.sent("select", frames))
        found = self._keyholder.scores(models, self._meter.sent("select", answers))
        noisy = dict(zip(sorted(models), found, strict=True))
        scores = np.array([noisy[c] for c in models]) * self._steps * weights - ballot.penalties
        return int(np.argmax(scores))

    def measure(
        self, cliques: Sequence[Clique], noise: Sequence[Sequence[Counts]], step: Step | None = None
    ) -> list[Counts]:
        """Marginal and noise are added under encryption; the key holder decrypts and rounds the sum."""
        (own,) = noise
        with self._meter.phase("measure"):
            return [self._measured(self._place[q], part) for q, part in zip(cliques, own, strict=True)]

    def _measured(self, candidate: int, noise: Counts) -> Counts:
        frames = self._meter.sent("measure", [self._holder.count_noise(candidate, noise)])
        sums = self._meter.sent("measure", [self._server.measure(candidate, frames[0])])
        return self._keyholder.measurement(candidate, sums[0])
