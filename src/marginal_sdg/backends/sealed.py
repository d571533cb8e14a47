"""FHAIM's three roles at work on one encrypted table: data holder, server, key holder; here in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from marginal_sdg.backends.vault import EncryptionCosts, NormBallot
from marginal_sdg.crypto.circuit import NoisyArgmax
from marginal_sdg.crypto.fhe.holder import DataHolder
from marginal_sdg.crypto.fhe.keyholder import KeyHolder
from marginal_sdg.crypto.fhe.keys import WholeKey
from marginal_sdg.crypto.fhe.plan import Plan, choose_layout
from marginal_sdg.crypto.fhe.profile import SECURITY_BITS, choose_profile
from marginal_sdg.crypto.fhe.server import Server
from marginal_sdg.crypto.fhe.shares import local_scores
from marginal_sdg.crypto.garbled import Evaluator, Garbler, connect, noisy_argmax
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.domain import Clique, Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError
from marginal_sdg.marginals import Counts, contingency
from marginal_sdg.workload import Workload

PHASES = ("keys", "upload", "compute", "share", "select", "measure")


class SealedVault:
    """A ``Vault`` under BGV. ``upload``: "records" (the encrypted table) or "marginals" (encrypted counts).

    The server computes all marginals under encryption; then server and key holder get additive halves of them, once.
    Squared distances to public counts are local arithmetic on halves, a garbled circuit turns them into scores and
    gives the winner's place. Measurements are decrypted sums of a marginal and the data holder's noise.

    ``measurements``: how many marginals will be measured at most; the key holder refuses to decrypt more.
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
        upload: str,
    ) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.traffic: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._encrypting = 0.0  # CPU seconds of the data holder, a part of the phase "upload"
        domain = workload.domain
        cliques = [tuple(map(domain.index, clique)) for clique in workload.closure]
        if max(map(len, cliques)) > 2:
            raise ConfigError("workload: FHAIM counts 1- and 2-way marginals; give it cliques of one or two attributes")
        counted = upload == "marginals"
        self._layout = choose_layout(choose_profile(max_records), domain.shape, cliques, dense=True, counts=counted)
        self._place = {clique: place for place, clique in enumerate(workload.closure)}
        self._max_records = max_records
        self._keys = keys
        self.plan = Plan.of(self._layout, counts=counted)
        with self._phase("keys"):
            self._keyholder = KeyHolder(WholeKey(self._layout), self.plan.decryptions(0, measurements, shared=True))
            public, evaluation = self._keyholder.public_key, self._keyholder.evaluation_keys
            self.traffic["keys"] = len(public) + len(evaluation)
            self._evaluation_key_bytes = len(evaluation)
            self._server = Server(self._layout, public, evaluation, keys())
            self._holder = DataHolder(self._layout, public, max_records)
            self._garbler, self._evaluator = Garbler(keys), Evaluator(keys)
            self.traffic["keys"] += sum(connect(self._garbler, self._evaluator).values())
        with self._phase("upload"):
            frames = self._uploaded(table, domain, workload.closure, counted=counted)
            self._server.receive(self._metered(frames))
        with self._phase("compute"):
            self._server.compute()
        with self._phase("share"):
            self._share()

    def _uploaded(self, table: Table, domain: Domain, cliques: Sequence[Clique], *, counted: bool) -> Iterator[bytes]:
        if counted:
            return self._holder.upload_counts([contingency(table, clique) for clique in cliques])
        return self._holder.upload_records(table.codes.astype(np.int64))

    def _share(self) -> None:
        """Halves of all marginals and of their squared norms, at server and key holder."""
        messages, self._server_halves = self._server.share()
        self._keyholder_halves = self._keyholder.share(self._count("share", messages))
        crossed = self._server.cross(self._count("share", self._keyholder.cross()))
        self._keyholder_norms = self._keyholder.cross_norms(self._count("share", crossed))

    def costs(self) -> EncryptionCosts:
        """What the upload and the marginals took."""
        spent = self.seconds["upload"] - self._encrypting + self.seconds["compute"] + self.seconds["share"]
        return EncryptionCosts(
            seconds_keygen=self.seconds["keys"],
            seconds_encrypt=self._encrypting,
            seconds_compute=spent,
            upload_bytes=int(self.traffic["upload"]),
            eval_key_bytes=self._evaluation_key_bytes,
            scheme="bgv",
            ring_dim=self._layout.profile.ring,
            security_bits=SECURITY_BITS,
        )

    def select(self, ballot: NormBallot, noise: Counts, largest_noise: int) -> int:
        """Only the place of the winner comes out."""
        with self._phase("select"):
            models = {self._place[q]: w for q, w in zip(ballot.cliques, ballot.expected, strict=True)}
            server = local_scores(self._layout, self._server.norm_halves, self._server_halves, models, constant=True)
            holder = local_scores(self._layout, self._keyholder_norms, self._keyholder_halves, models, constant=False)
            question = NoisyArgmax(
                modulus=self._layout.profile.plaintext,
                low=0,
                high=ballot.largest_square(self._max_records) + 1,
                weights=tuple(map(int, ballot.weights)),
                penalties=tuple(map(int, ballot.penalties)),
                noise_bound=largest_noise,
                fraction=ballot.fraction,
            )
            mask = Stream(self._keys()).draw(len(noise))  # the data holder's, who sends the halves
            halves = noise.view(np.uint64) - mask, mask
            winner, sizes = noisy_argmax(question, self._garbler, self._evaluator, (server, holder), halves)
            self.traffic["select"] += sum(sizes.values()) + 16 * len(noise)
            return winner

    def measure(self, cliques: Sequence[Clique], noise: Sequence[Counts]) -> list[Counts]:
        """Marginal and noise are added under encryption; the key holder decrypts the sum."""
        with self._phase("measure"):
            return [self._measured(self._place[q], part) for q, part in zip(cliques, noise, strict=True)]

    def _measured(self, candidate: int, noise: Counts) -> Counts:
        frames = []
        for number in self._layout.parts_of[candidate]:
            part = self._layout.parts[number]
            values = np.zeros(self._layout.profile.ring, dtype=np.int64)  # what is no cell, the server drowns
            values[part.places] = noise[part.cells]
            frames.append(self._holder.encrypt_noise(values))
        sums = self._server.measure(candidate, self._count("measure", frames))
        return self._keyholder.measurement(candidate, self._count("measure", sums))

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
