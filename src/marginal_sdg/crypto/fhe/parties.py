"""Server and key holder as parties that answer questions in bytes: in this process, or behind a connection.

Who asks is a data holder: it passes on what the two have for each other, ciphertexts and garbled labels that it cannot
read, and so needs no third connection. Nothing else than byte strings goes in or out.

=================  ======================================================  ==========================================
step               question                                                answer
=================  ======================================================  ==========================================
key holder OPEN    terms                                                   public key, evaluation keys, its seal
server     OPEN    terms, public key, evaluation keys                      its seal
key holder HELLO   none; then the server's reply                           hello of the garbled circuits; none
server     HELLO   the key holder's hello                                  reply
server     UPLOAD  how many uploads go together, their frames in turn      none
server     COMPUTE none                                                    none: all marginals under encryption
server     SHARE   none                                                    padded marginals
key holder SHARE   padded marginals                                        its halves, encrypted
server     CROSS   these                                                   padded products
key holder CROSS   padded products                                         none
key holder CHOOSE  question, a share of every holder's noise               request of labels
server     CHOOSE  question, model, request, the other shares of noise     garbled circuit
key holder REVEAL  garbled circuit                                         labels of the index
server     REVEAL  labels of the index                                     the index
server     MEASURE number of the candidate, encrypted noise                encrypted sums
key holder MEASURE number of the candidate, encrypted sums                 noisy counts
=================  ======================================================  ==========================================

Shares of the noise of data holders elsewhere come sealed, through the hands of the one who asks. A :class:`Seal` says
for which box.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from operator import index
from typing import Any, Protocol

import numpy as np

from marginal_sdg.crypto.box import OVERHEAD, PUBLIC_BYTES, Box
from marginal_sdg.crypto.deviation import LargestDeviation
from marginal_sdg.crypto.fhe.keyholder import KeyHolder
from marginal_sdg.crypto.fhe.keys import Remember, Secret, WholeKey, forget
from marginal_sdg.crypto.fhe.layout import Ints, Layout
from marginal_sdg.crypto.fhe.profile import choose_profile
from marginal_sdg.crypto.fhe.server import Server
from marginal_sdg.crypto.fhe.shares import local_scores
from marginal_sdg.crypto.fhe.threshold import FirstHalf
from marginal_sdg.crypto.garbled import Evaluator, Garbler
from marginal_sdg.crypto.identity import Identity
from marginal_sdg.crypto.prg import Words
from marginal_sdg.crypto.question import NoisyArgmax
from marginal_sdg.errors import ProtocolError

SERVER, KEY_HOLDER, HOLDER = "server", "key holder", "data holder"
Answer = Callable[[Iterator[bytes]], list[bytes]]
Sign = Callable[[bytes], bytes]


class Step(IntEnum):
    """What is asked."""

    OPEN = 1
    HELLO = 2
    UPLOAD = 3
    COMPUTE = 4
    SHARE = 5
    CROSS = 6
    CHOOSE = 7
    REVEAL = 8
    MEASURE = 9


class Party(Protocol):
    """Answers questions in the order of the table above; ``ProtocolError`` for anything else.

    ``partner`` answers where a key holder that has half a key asks back for the other half's help.
    """

    partner: Callable[[bytes], bytes] | None

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """The answer to one question."""
        ...


@dataclass(frozen=True)
class Terms:
    """What all roles agree on in public. ``decryptions``: ciphertexts that may be decrypted in the whole run."""

    layout: Layout
    decryptions: int
    threshold: bool

    def pack(self) -> bytes:
        """As bytes. The profile follows from the cap on records."""
        layout = self.layout
        fields = {
            "records": layout.profile.records,
            "shape": layout.shape,
            "cliques": layout.cliques,
            "width": layout.width,
            "decryptions": self.decryptions,
            "threshold": self.threshold,
        }
        return json.dumps(fields).encode()

    @classmethod
    def unpack(cls, message: bytes) -> Terms:
        """From bytes; ``ProtocolError`` where they name no layout."""
        try:
            fields = json.loads(message)
            cliques = tuple(tuple(map(int, clique)) for clique in fields["cliques"])
            shape = tuple(map(int, fields["shape"]))
            profile, width = choose_profile(int(fields["records"])), int(fields["width"])
            layout = Layout(profile, shape, cliques, width, dense=True)
            return cls(layout, int(fields["decryptions"]), bool(fields["threshold"]))
        except (ValueError, KeyError, TypeError, OverflowError):
            raise ProtocolError("terms: the message names no layout and number of decryptions") from None


@dataclass(frozen=True)
class Seal:
    """What a role says to data holders elsewhere: its box of this session, signed where the role has an identity.

    The signature covers the public key of the encryption as well: who asks cannot put another in its place.
    """

    box: bytes
    signature: bytes

    @classmethod
    def of(cls, box: Box, public_key: bytes, sign: Sign) -> Seal:
        """Signed, if there is something to sign with."""
        return cls(box.public, sign(_sealed(box.public, public_key)))

    def pack(self) -> bytes:
        """As bytes."""
        return self.box + self.signature

    @classmethod
    def unpack(cls, message: bytes) -> Seal:
        """From bytes."""
        return cls(message[:PUBLIC_BYTES], message[PUBLIC_BYTES:])

    def check(self, role: str, public_key: bytes, identity: Identity) -> None:
        """``ProtocolError`` unless the role has signed it, with this public key."""
        identity.check(role, _sealed(self.box, public_key), self.signature)


def _sealed(box: bytes, public_key: bytes) -> bytes:
    return b"marginal_sdg session" + box + hashlib.sha256(public_key).digest()


def unsigned(message: bytes) -> bytes:
    """Of a role without an identity."""
    return b""


@dataclass(frozen=True)
class Question:
    """What is public about a selection: the candidates' numbers and expected counts (cells,), and what is asked.

    A :class:`NoisyArgmax` is about squared distances to the counts, a :class:`LargestDeviation` about all cells.
    """

    models: dict[int, Ints]
    task: NoisyArgmax | LargestDeviation

    def pack(self) -> tuple[bytes, bytes]:
        """The question without counts, and the counts."""
        fields = {"candidates": list(self.models), **asdict(self.task)}
        fields.pop("expected", None)  # the counts
        return json.dumps(fields).encode(), np.concatenate(list(self.models.values())).tobytes()

    @classmethod
    def unpack(cls, message: bytes, counts: bytes, layout: Layout) -> Question:
        """From bytes; ``ProtocolError`` where they do not fit the layout."""
        try:
            fields = json.loads(message)
            candidates = [int(number) for number in fields.pop("candidates")]
            sizes = [layout.size(candidate) for candidate in candidates]
            models = np.split(integers(counts, sum(sizes)), np.cumsum(sizes, dtype=np.int64)[:-1])
            task = _deviation(fields, models) if "records" in fields else NoisyArgmax(**fields)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise ProtocolError("choose: the message does not name candidates, bounds and weights") from None
        if not len(set(candidates)) == len(candidates) == len(task.weights) or task.modulus != layout.profile.plaintext:
            raise ProtocolError("choose: the question is for another number of candidates, or another modulus")
        return cls(dict(zip(candidates, models, strict=True)), task)

    def shares(self, layout: Layout, norms: Ints, halves: Sequence[Ints], *, constant: bool) -> Ints:
        """One party's shares of what is asked about, from those of all norms and marginals: see ``local_scores``."""
        if isinstance(self.task, LargestDeviation):
            return np.concatenate([halves[candidate] for candidate in self.models])
        return local_scores(layout, norms, halves, self.models, constant=constant)


def _deviation(fields: dict[str, Any], models: Sequence[Ints]) -> LargestDeviation:
    """From fields without counts; ``TypeError`` where they are no integers."""
    numbers: dict[str, Any] = {
        name: tuple(map(index, v)) if isinstance(v, list) else index(v) for name, v in fields.items()
    }
    return LargestDeviation(expected=tuple(models), **numbers)


def integers(message: bytes, count: int) -> Ints:
    """(count,) int64 from bytes; ``ProtocolError`` where they are not so many."""
    if len(message) != 8 * count:
        raise ProtocolError(f"integers: needs {8 * count} bytes, got {len(message)}")
    return np.frombuffer(message, dtype=np.int64)


class ServerParty:
    """The server: holds ciphertexts, its halves of marginals, and the garbler's secrets.

    The same ``keys``, 32 random bytes at a time, and the same questions give the same halves, pads, labels and index.
    """

    def __init__(self, keys: Callable[[], bytes], sign: Sign = unsigned) -> None:
        self.partner: Callable[[bytes], bytes] | None = None  # asks nobody
        self._keys, self._sign = keys, sign
        self._steps: dict[int, Answer] = {Step.OPEN: self._open}

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """The answer to one question."""
        return _known(self._steps, step)(iter(chunks))

    def _open(self, chunks: Iterator[bytes]) -> list[bytes]:
        terms, public_key, evaluation_keys = _exactly(3, chunks)
        layout = Terms.unpack(terms).layout
        server = Server(layout, public_key, evaluation_keys, self._keys())
        garbler, box = Garbler(self._keys), Box(self._keys())
        halves: list[Ints] = []

        def upload(chunks: Iterator[bytes]) -> list[bytes]:
            together = int.from_bytes(next(chunks, b""), "little")
            if not 1 <= together <= len(layout.shape):
                raise ProtocolError(f"upload: {together} uploads cannot share {len(layout.shape)} attributes")
            server.receive(*[chunks] * together)  # they come in the order in which the server takes them
            return []

        def compute(chunks: Iterator[bytes]) -> list[bytes]:
            _exactly(0, chunks)
            server.compute()
            return []

        def share(chunks: Iterator[bytes]) -> list[bytes]:
            _exactly(0, chunks)
            messages, halves[:] = server.share()
            return messages

        def choose(chunks: Iterator[bytes]) -> list[bytes]:
            question, counts, request, *noise = _at_least(4, chunks)
            asked = Question.unpack(question, counts, layout)
            scores = asked.shares(layout, server.norm_halves, halves, constant=True)
            return [garbler.garble(asked.task, scores, _total(noise, asked.task, box), request)]

        def measure(chunks: Iterator[bytes]) -> list[bytes]:
            candidate, *noise = _at_least(2, chunks)
            return server.measure(int.from_bytes(candidate, "little"), noise)

        self._steps = {
            Step.HELLO: lambda chunks: [garbler.accept(*_exactly(1, chunks))],
            Step.UPLOAD: upload,
            Step.COMPUTE: compute,
            Step.SHARE: share,
            Step.CROSS: lambda chunks: server.cross(list(chunks)),
            Step.CHOOSE: choose,
            Step.REVEAL: lambda chunks: [garbler.decode(*_exactly(1, chunks)).to_bytes(4, "little")],
            Step.MEASURE: measure,
        }
        return [Seal.of(box, public_key, self._sign).pack()]


class KeyParty:
    """The key holder: holds the secret key or a half of it, its halves of marginals, and the evaluator's secrets.

    The same as for the server holds of ``keys``, where ``remember`` has the secret key, and what the other half
    has answered.
    """

    def __init__(self, keys: Callable[[], bytes], sign: Sign = unsigned, remember: Remember = forget) -> None:
        self.partner: Callable[[bytes], bytes] | None = None
        self._keys, self._sign, self._remember = keys, sign, remember
        self._steps: dict[int, Answer] = {Step.OPEN: self._open}

    def ask(self, step: int, chunks: Iterable[bytes]) -> list[bytes]:
        """The answer to one question."""
        return _known(self._steps, step)(iter(chunks))

    def _open(self, chunks: Iterator[bytes]) -> list[bytes]:
        terms = Terms.unpack(*_exactly(1, chunks))
        layout = terms.layout
        keyholder = KeyHolder(self._secret(terms), terms.decryptions)
        evaluator, box = Evaluator(self._keys), Box(self._keys())
        halves: list[Ints] = []
        norms: list[Ints] = []

        def hello(chunks: Iterator[bytes]) -> list[bytes]:
            reply = next(chunks, None)
            if reply is None:
                return [evaluator.hello()]
            evaluator.finish(reply)
            return []

        def share(chunks: Iterator[bytes]) -> list[bytes]:
            halves[:] = keyholder.share(list(chunks))
            return keyholder.cross()

        def cross(chunks: Iterator[bytes]) -> list[bytes]:
            norms[:] = [keyholder.cross_norms(list(chunks))]
            return []

        def choose(chunks: Iterator[bytes]) -> list[bytes]:
            question, counts, *noise = _at_least(3, chunks)
            if not norms:
                raise ProtocolError("choose: the marginals have not been shared")
            asked = Question.unpack(question, counts, layout)
            scores = asked.shares(layout, norms[0], halves, constant=False)
            return [evaluator.request(asked.task, scores, _total(noise, asked.task, box))]

        def measure(chunks: Iterator[bytes]) -> list[bytes]:
            candidate, *sums = _at_least(2, chunks)
            return [keyholder.measurement(int.from_bytes(candidate, "little"), sums).tobytes()]

        self._steps = {
            Step.HELLO: hello,
            Step.SHARE: share,
            Step.CROSS: cross,
            Step.CHOOSE: choose,
            Step.REVEAL: lambda chunks: [evaluator.evaluate(*_exactly(1, chunks))],
            Step.MEASURE: measure,
        }
        public_key = keyholder.public_key
        return [public_key, keyholder.evaluation_keys, Seal.of(box, public_key, self._sign).pack()]

    def _secret(self, terms: Terms) -> Secret:
        if not terms.threshold:
            return WholeKey(terms.layout, self._remember)
        if self.partner is None:
            raise ProtocolError("open: half a key needs a partner with the other half")
        return FirstHalf(terms.layout, self.partner, self._remember)


def _known(steps: dict[int, Answer], step: int) -> Answer:
    if step not in steps:
        raise ProtocolError(f"step {step}: not now; a session is opened once, and this role may not have that step")
    return steps[step]


def _exactly(count: int, chunks: Iterable[bytes]) -> list[bytes]:
    found = list(chunks)
    if len(found) != count:
        raise ProtocolError(f"a question of {len(found)} byte strings came where one of {count} is needed")
    return found


def _at_least(count: int, chunks: Iterable[bytes]) -> list[bytes]:
    found = list(chunks)
    if len(found) < count:
        raise ProtocolError(f"a question of {len(found)} byte strings came where at least {count} are needed")
    return found


def _total(noise: list[bytes], task: NoisyArgmax | LargestDeviation, box: Box) -> Words:
    """(candidates,) the sum mod 2^64 of shares of all holders' noise, some of which are sealed."""
    count = len(task.weights)
    total = np.zeros(count, dtype=np.uint64)
    for share in noise:
        opened = box.open(share) if len(share) == 8 * count + OVERHEAD else share
        total += integers(opened, count).view(np.uint64)
    return total
