"""FHAIM's three roles on CKKS slots, as in its paper: data holder, server, key holder; here in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from marginal_sdg.backends.vault import Ballot, EncryptionCosts
from marginal_sdg.crypto.ckks.holder import DataHolder
from marginal_sdg.crypto.ckks.keyholder import KeyHolder
from marginal_sdg.crypto.ckks.layout import Layout
from marginal_sdg.crypto.ckks.profile import Comp, Score, choose_profile
from marginal_sdg.crypto.ckks.server import Server
from marginal_sdg.crypto.fhe.profile import SECURITY_BITS
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.marginals import Counts
from marginal_sdg.workload import Workload

PHASES = ("keys", "upload", "compute", "select", "measure")


class CkksVault:
    """A ``Vault`` under CKKS. ``measurements``: how many marginals will be measured, and selected, at most.

    ``score``: "l2_squared", or "l1_poly": the sum over cells of a polynomial near the absolute difference, in records,
    whose sensitivity is ``absolute().sensitivity(max_records)`` of ``crypto.ckks.polynomial``; ballots' f is then
    that. ``comp``: as in ``crypto.ckks``; the same results.

    The release is that of the paper: the key holder decrypts the noisy scores of all candidates in every round. The
    noise of a selection pays for the winner's place only, so against the key holder the privacy of the ledger does not
    hold. Measurements are rounded to integers: exact counts plus noise. Scores have errors near 10^-9 of the cap
    (squared: of its square), so close ones may swap.

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
        comp: Comp = "packed",
        score: Score = "l2_squared",
    ) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.traffic: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._encrypting = 0.0  # CPU seconds of the data holder, a part of the phase "upload"
        domain = workload.domain
        cliques = tuple(tuple(map(domain.index, clique)) for clique in workload.closure)
        if max(map(len, cliques)) > 2:
            raise ConfigError("workload: FHAIM counts 1- and 2-way marginals; give it cliques of one or two attributes")
        self._layout = Layout(choose_profile(comp, score), tuple(domain.shape), cliques, max_records)
        self._place = {clique: place for place, clique in enumerate(workload.closure)}
        self._score = score
        self._unit = float(max_records**2 if score == "l2_squared" else max_records)
        decryptions = measurements * (1 + len(self._layout.groups(range(len(cliques)))))
        with self._phase("keys"):
            self._keyholder = KeyHolder(self._layout, decryptions)
            public, evaluation = self._keyholder.public_key, self._keyholder.evaluation_keys
            self.traffic["keys"] = len(public) + len(evaluation)
            self._evaluation_key_bytes = len(evaluation)
            self._server = Server(self._layout, public, evaluation, keys())
            self._holder = DataHolder(self._layout, public)
        with self._phase("upload"):
            self._server.receive(self._metered(self._holder.upload_records(table.codes.astype(np.int64))))
        with self._phase("compute"):
            self._server.compute()

    def costs(self) -> EncryptionCosts:
        """What the upload and the marginals took."""
        spent = self.seconds["upload"] - self._encrypting + self.seconds["compute"]
        return EncryptionCosts(
            seconds_keygen=self.seconds["keys"],
            seconds_encrypt=self._encrypting,
            seconds_compute=spent,
            upload_bytes=int(self.traffic["upload"]),
            eval_key_bytes=self._evaluation_key_bytes,
            scheme="ckks",
            ring_dim=self._layout.profile.ring,
            security_bits=SECURITY_BITS,
        )

    def select(self, ballot: Ballot, noise: Sequence[Counts], largest_noise: int) -> int:
        """The winner's place; the key holder sees all noisy scores, divided by their public weights."""
        if ballot.distance.name != self._score:
            raise ProtocolError(f"score: this vault has levels for {self._score!r}, not for {ballot.distance.name!r}")
        weights = ballot.weights.astype(np.float64)
        if weights.min() <= 0 or largest_noise / weights.min() >= self._unit * self._layout.profile.room / 2:
            raise ProtocolError(
                "weights: noise may be too large for its weight and would wrap around; raise the cap or epsilon"
            )
        with self._phase("select"):
            places = [self._place[q] for q in ballot.cliques]
            models = dict(zip(places, ballot.expected, strict=True))
            (own,) = noise
            drowning = dict(zip(places, (own / weights / self._unit).tolist(), strict=True))
            groups, rows = self._layout.groups(places), self._layout.rows
            frames = [self._holder.score_noise({c % rows: drowning[c] for c in group}) for group in groups]
            answers = self._server.select(models, self._count("select", frames))
            found = self._keyholder.scores(places, self._count("select", answers))
            noisy = dict(zip(sorted(places), found, strict=True))
            scores = np.array([noisy[c] for c in places]) * self._unit * weights - ballot.penalties
            return int(np.argmax(scores))

    def measure(self, cliques: Sequence[Clique], noise: Sequence[Sequence[Counts]]) -> list[Counts]:
        """Marginal and noise are added under encryption; the key holder decrypts and rounds the sum."""
        (own,) = noise
        with self._phase("measure"):
            return [self._measured(self._place[q], part) for q, part in zip(cliques, own, strict=True)]

    def _measured(self, candidate: int, noise: Counts) -> Counts:
        frames = self._count("measure", [self._holder.count_noise(candidate, noise)])
        sums = self._count("measure", [self._server.measure(candidate, frames[0])])
        return self._keyholder.measurement(candidate, sums[0])

    def _count(self, phase: str, messages: Sequence[bytes]) -> Sequence[bytes]:
        self.traffic[phase] += sum(map(len, messages))
        return messages

    def _metered(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        """The data holder's upload, and what it takes."""
        start = time.process_time()
        for message in messages:
            self._encrypting += time.process_time() - start
            self.traffic["upload"] += len(message)
            yield message
            start = time.process_time()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.process_time() - start
