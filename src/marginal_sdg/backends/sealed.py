"""FHAIM's data holders at work with a server and a key holder, which are in this process or in others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

import numpy as np

from marginal_sdg.backends.meter import Meter
from marginal_sdg.backends.others import Others
from marginal_sdg.backends.vault import Ballot, EncryptionCosts
from marginal_sdg.crypto.deviation import LargestDeviation
from marginal_sdg.crypto.fhe.holder import DataHolder
from marginal_sdg.crypto.fhe.parties import KeyParty, Party, Question, ServerParty, Step, Terms, integers
from marginal_sdg.crypto.fhe.plan import Plan, choose_layout
from marginal_sdg.crypto.fhe.profile import choose_profile
from marginal_sdg.crypto.fhe.threshold import Partner
from marginal_sdg.crypto.fhe.upload import Opening
from marginal_sdg.crypto.kept import Memory
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.crypto.question import NoisyArgmax
from marginal_sdg.domain import Clique
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.marginals import Counts, contingency
from marginal_sdg.schedule import Step as Round
from marginal_sdg.workload import Workload

PHASES = ("keys", "upload", "compute", "share", "select", "measure")


class SealedVault:
    """A ``Vault`` under BGV. ``upload``: "records" (the encrypted tables) or "marginals" (encrypted counts).

    The server computes all marginals under encryption; then server and key holder get additive halves of them, once.
    Squared distances to public counts are local arithmetic on halves; a garbled circuit turns them, or for "l1_exact"
    the halves of all cells, into scores and gives the winner's place. There is no "l1_poly". Measurements are
    decrypted sums of a marginal and the data holders' noise.

    ``tables``: one for each data holder, of the workload's whole domain where rows are split between holders, of parts
    of it where columns are. ``max_records``: public cap on all records; holders of rows may have equal parts of it.
    ``measurements``: how many marginals will be measured at most; the key holder refuses to decrypt more.
    ``threshold``: the first holder keeps a half of the secret key. ``parties``: server and key holder, made here by
    default. ``others``: data holders elsewhere, who have rows, or columns, that are not in ``tables``. ``memory`` of
    the half of the key, where it outlives this process.

    ``seconds``: CPU seconds of this process, and ``traffic``: bytes of messages, by phase; what the holders pass on
    counts once.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        workload: Workload,
        keys: Callable[[], bytes],
        *,
        max_records: int,
        measurements: int,
        upload: str,
        threshold: bool = False,
        parties: tuple[Party, Party] | None = None,
        others: Others | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._meter = Meter(PHASES)
        self.seconds, self.traffic = self._meter.seconds, self._meter.traffic
        domain = workload.domain
        cliques = [tuple(map(domain.index, clique)) for clique in workload.closure]
        if max(map(len, cliques)) > 2:
            raise ConfigError("workload: FHAIM counts 1- and 2-way marginals; give it cliques of one or two attributes")
        counted = upload == "marginals"
        self._layout = choose_layout(choose_profile(max_records), domain.shape, cliques, dense=True, counts=counted)
        self._place = {clique: place for place, clique in enumerate(workload.closure)}
        self._max_records = max_records
        self._keys, self._memory = keys, memory or Memory(keys)
        self._by_rows = all(table.domain == domain for table in tables)
        self._server, self._keyholder = parties or (ServerParty(keys), KeyParty(keys))
        self._others = others or Others()
        self.plan = Plan.of(self._layout, counts=counted)
        with self._meter.phase("keys"):
            self._open(len(tables), self.plan.decryptions(0, measurements, shared=True), threshold=threshold)
        with self._meter.phase("upload"):
            for question in self._uploads(tables, workload, counted=counted):
                self._server.ask(Step.UPLOAD, self._meter.uploaded(question))
        with self._meter.phase("compute"):
            self._server.ask(Step.COMPUTE, [])
        with self._meter.phase("share"):
            padded = self._meter.sent("share", self._server.ask(Step.SHARE, []))
            encrypted = self._meter.sent("share", self._keyholder.ask(Step.SHARE, padded))
            products = self._meter.sent("share", self._server.ask(Step.CROSS, encrypted))
            self._keyholder.ask(Step.CROSS, products)

    def _open(self, holders: int, decryptions: int, *, threshold: bool) -> None:
        """Keys, and a session of garbled circuits."""
        terms = Terms(self._layout, decryptions, threshold)
        if threshold:
            self._keyholder.partner = Partner(self._layout, decryptions, self._memory)
        public, evaluation, sealed = self._meter.sent("keys", self._keyholder.ask(Step.OPEN, [terms.pack()]))
        self._evaluation_key_bytes = len(evaluation)
        (theirs,) = self._meter.sent("keys", self._server.ask(Step.OPEN, [terms.pack(), public, evaluation]))
        self._others.open(terms, public, [sealed, theirs])
        cap = self._max_records // (holders + self._others.count) if self._by_rows else self._max_records
        self._holders = [DataHolder(self._layout, public, cap) for _ in range(holders)]
        hello = self._meter.sent("keys", self._keyholder.ask(Step.HELLO, []))
        reply = self._meter.sent("keys", self._server.ask(Step.HELLO, hello))
        self._keyholder.ask(Step.HELLO, reply)

    def _uploads(self, tables: Sequence[Table], workload: Workload, *, counted: bool) -> Iterator[Iterator[bytes]]:
        """Every upload, or all uploads of columns together."""

        def upload(holder: DataHolder, table: Table) -> Iterator[bytes]:
            if counted:
                return holder.upload_counts([contingency(table, q) for q in workload.closure])
            held = [workload.domain.index(name) for name in table.domain]
            return holder.upload_records(table.codes.astype(np.int64), held)

        uploads = chain(map(upload, self._holders, tables), self._others.uploads())
        if self._by_rows:
            yield from (self._together([frames]) for frames in uploads)
        else:
            yield self._together(list(uploads))

    def _together(self, uploads: Sequence[Iterator[bytes]]) -> Iterator[bytes]:
        """The question of a server's ``UPLOAD``: openings first, then a block of rows of every upload in turn."""
        yield len(uploads).to_bytes(4, "little")
        openings = [next(frames) for frames in uploads]
        held = [Opening.unpack(opening, None, self._layout).attributes for opening in openings]
        if sorted(chain(*held)) != list(range(len(self._layout.shape))):
            raise ProtocolError("columns: every declared one needs exactly one data holder")
        yield from openings
        if len(uploads) == 1:
            yield from uploads[0]
            return
        counts = [len(self._layout.polynomials(attributes)) for attributes in held]
        while turn := [f for frames, count in zip(uploads, counts, strict=True) for f in islice(frames, count)]:
            yield from turn

    def costs(self) -> EncryptionCosts:
        """What the upload and the marginals took, in this process."""
        return self._meter.costs("bgv", self._layout.profile.ring, self._evaluation_key_bytes)

    def select(self, ballot: Ballot, noise: Sequence[Counts], largest_noise: int, step: Round | None = None) -> int:
        """Only the place of the winner comes out."""
        with self._meter.phase("select"):
            question = self._question(ballot, largest_noise).pack()
            masks = [Stream(self._keys()).draw(len(part)) for part in noise]  # each by its data holder
            masked = [part.view(np.uint64) - mask for part, mask in zip(noise, masks, strict=True)]
            shares = [[share.tobytes() for share in shares] for shares in (masks, masked)]
            first, second = map(list.__add__, shares, self._others.choose(len(ballot.cliques), step))
            self._meter.sent("select", [*question, *question, *first, *second])
            request = self._meter.sent("select", self._keyholder.ask(Step.CHOOSE, [*question, *first]))
            garbled = self._meter.sent("select", self._server.ask(Step.CHOOSE, [*question, *request, *second]))
            labels = self._meter.sent("select", self._keyholder.ask(Step.REVEAL, garbled))
            (index,) = self._meter.sent("select", self._server.ask(Step.REVEAL, labels))
            return int.from_bytes(index, "little")

    def _question(self, ballot: Ballot, largest_noise: int) -> Question:
        """What is asked about a ballot: about squares, or about all cells."""
        distance, modulus = ballot.distance, self._layout.profile.plaintext
        weights, penalties = tuple(map(int, ballot.weights)), tuple(map(int, ballot.penalties))
        models = {self._place[q]: counts for q, counts in zip(ballot.cliques, ballot.expected, strict=True)}
        if distance.name == "l1_exact":
            cells = LargestDeviation(modulus, distance.records, ballot.expected, weights, penalties, largest_noise)
            return Question(models, cells)
        squares = NoisyArgmax(
            modulus=modulus,
            low=0,
            high=ballot.largest_square + 1,
            weights=weights,
            penalties=penalties,
            noise_bound=largest_noise,
            fraction=distance.fraction if distance.name == "l2" else None,
        )
        return Question(models, squares)

    def measure(
        self, cliques: Sequence[Clique], noise: Sequence[Sequence[Counts]], step: Round | None = None
    ) -> list[Counts]:
        """Marginal and noise are added under encryption; the key holder decrypts the sum."""
        with self._meter.phase("measure"):
            places = [self._place[clique] for clique in cliques]
            theirs = self._others.measure(places, [len(self._layout.parts_of[place]) for place in places], step)
            return [self._measured(*asked) for asked in zip(places, theirs, zip(*noise, strict=True), strict=True)]

    def _measured(self, candidate: int, theirs: list[bytes], noise: Sequence[Counts]) -> Counts:
        ours = [holder.encrypt_noise_of(candidate, own) for holder, own in zip(self._holders, noise, strict=True)]
        named, frames = candidate.to_bytes(4, "little"), [*chain(*ours), *theirs]
        sums = self._server.ask(Step.MEASURE, [named, *self._meter.sent("measure", frames)])
        answer = self._keyholder.ask(Step.MEASURE, [named, *self._meter.sent("measure", sums)])
        (counts,) = self._meter.sent("measure", answer)
        return integers(counts, self._layout.size(candidate))
