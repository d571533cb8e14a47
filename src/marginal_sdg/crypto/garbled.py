"""The argmax of noisy scores between a server and a key holder that hold shares: only the index comes out.

Yao's protocol: the server garbles the circuit of a :class:`~marginal_sdg.crypto.question.Question`, the key holder
evaluates it under labels that tell it nothing, the server reads the index off the labels that come out. With free
exclusive or (Kolesnikov and Schneider 2008), half gates (Zahur, Rosulek and Evans 2015), which send 32 bytes for a
conjunction, and point-and-permute. The hash is TMMO, ``H(x, i) = pi(pi(x) ^ i) ^ pi(x)`` with AES-128 under the
session's key as pi, which is tweakable circular correlation robust (Guo, Katz, Wang and Yu 2020, "Efficient and secure
multiparty computation from fixed-key block ciphers").

=====  ==================================================  =========================================================
step   who                                                 message
=====  ==================================================  =========================================================
hello  ``Evaluator.hello``, ``Garbler.accept``             33 bytes; the reply has 4,240. Once per session
1      ``Evaluator.request``                               choices of oblivious transfer, 16 bytes for an input bit
2      ``Garbler.garble``                                  seed of the server's labels, 32 bytes for a conjunction
3      ``Evaluator.evaluate``                              labels of the index, 16 bytes for a bit
4      ``Garbler.decode``                                  none: the server announces the index as it does anyway
=====  ==================================================  =========================================================

*Protected*, of parties that follow the protocol and do not collude: the values, the noise and the scores, from both.
*Detected*: messages that are cut, repeated, of another round or of another question; a garbling that was changed on its
way gives labels that the server does not know, so no index. *Not claimed*: anything against a server that garbles
another circuit or a key holder that asks for malformed transfers. A session that raised an error is over.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from marginal_sdg.crypto.circuit import from_bits
from marginal_sdg.crypto.oblivious import LabelReceiver, Labels, LabelSender
from marginal_sdg.crypto.prg import KEY_BYTES, Stream
from marginal_sdg.crypto.question import Question
from marginal_sdg.errors import ProtocolError

LABEL_BYTES = 16
HEADER = struct.Struct("<B3xI8s")  # step, round, digest of the question
_REQUEST, _GARBLED, _RESULT = 1, 2, 3
_STEPS = {_REQUEST: "request", _GARBLED: "garbled circuit", _RESULT: "result"}
_TILED = 4096


class Hash:
    """TMMO under one AES-128 key, on many labels at once."""

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()

    def __call__(self, labels: Labels, tweaks: npt.NDArray[np.uint64]) -> Labels:
        """Hashes of labels (..., 2) under tweaks that broadcast over (...)."""
        inner = self._permuted(labels)
        tweaked = inner.copy()
        tweaked[..., 0] ^= tweaks
        out: Labels = self._permuted(tweaked) ^ inner
        return out

    def _permuted(self, labels: Labels) -> Labels:
        return np.frombuffer(self._cipher.update(labels.data), dtype=np.uint64).reshape(labels.shape)


class Garbling:
    """Gates on labels of 0: every conjunction adds two rows to ``tables``. A wire's label of 1 is ``delta`` apart."""

    def __init__(self, hashed: Hash, delta: Labels, first: int) -> None:
        self.next = first
        self.tables: list[Labels] = []
        self._hash = hashed
        self._deltas = np.tile(delta, (_TILED, 1))  # arithmetic on rows of two words is slow unless all are there

    def inverse(self, x: Labels) -> Labels:
        """Not x: its label of 0 is x's label of 1."""
        return x ^ self._delta(x.size // 2).reshape(x.shape)

    def both(self, x: Labels, y: Labels) -> Labels:
        """Half gates: the garbler knows the lowest bit of y's label of 0, the evaluator that of the label it has."""
        count = x.size // 2
        inputs = np.empty((2, 2, count, 2), dtype=np.uint64)  # value, input, gate
        inputs[0, 0] = x.reshape(count, 2)
        inputs[0, 1] = y.reshape(count, 2)
        delta = self._delta(count)
        np.bitwise_xor(inputs[0], delta, out=inputs[1])
        hashes = self._hash(inputs, _tweaks(self.next, count))
        self.next += count
        colours = _colours(inputs[0])
        rows = hashes[0] ^ hashes[1]
        rows[0] ^= colours[1] & delta
        halves = hashes[0] ^ (colours & rows)
        rows[1] ^= inputs[0, 0]
        self.tables.append(rows)
        out: Labels = (halves[0] ^ halves[1]).reshape(x.shape)
        return out

    def _delta(self, count: int) -> Labels:
        while len(self._deltas) < count:
            self._deltas = np.concatenate([self._deltas, self._deltas])
        return self._deltas[:count]


class Evaluation:
    """Gates on the one label per wire that the evaluator has; takes the rows of ``tables`` in their order."""

    def __init__(self, hashed: Hash, tables: Labels, first: int) -> None:
        self.next = first
        self._hash = hashed
        self._tables = tables
        self._taken = 0

    @property
    def left(self) -> int:
        """Rows that no gate has taken."""
        return len(self._tables) - self._taken

    def inverse(self, x: Labels) -> Labels:
        """Not x: its label is x's."""
        return x

    def both(self, x: Labels, y: Labels) -> Labels:
        """The label of the conjunction; ``ProtocolError`` where the tables end before."""
        count = x.size // 2
        if self.left < 2 * count:
            raise ProtocolError(f"garbled circuit: ends after {len(self._tables) // 2} gates, which are too few")
        rows = self._tables[self._taken : self._taken + 2 * count].reshape(2, count, 2)
        self._taken += 2 * count
        inputs = np.empty((2, count, 2), dtype=np.uint64)
        inputs[0] = x.reshape(count, 2)
        inputs[1] = y.reshape(count, 2)
        hashes = self._hash(inputs, _tweaks(self.next, count))
        self.next += count
        colours = _colours(inputs)
        halves = rows.copy()
        halves[1] ^= inputs[0]
        halves &= colours
        halves ^= hashes
        out: Labels = (halves[0] ^ halves[1]).reshape(x.shape)
        return out


class Garbler:
    """The server: holds shares of values and of noise, learns the index. ``keys()`` gives 32 fresh random bytes."""

    def __init__(self, keys: Callable[[], bytes]) -> None:
        self._keys = keys
        self._sender = LabelSender(keys)
        self._permutation = keys()[:LABEL_BYTES]  # public
        self._hash = Hash(self._permutation)
        self._round = 0
        self._gates = 0
        self._task: Question | None = None
        self._outputs: Labels | None = None

    def accept(self, hello: bytes) -> bytes:
        """Answer the key holder's hello; ends the set-up."""
        return self._permutation + self._sender.accept(hello)

    def garble(self, task: Question, values: npt.ArrayLike, noise: npt.ArrayLike, request: bytes) -> bytes:
        """Step 2: the garbled circuit for the server's shares and the key holder's request."""
        if self._task is not None:
            raise ProtocolError("garble: the index of the last round has not been decoded")
        choices = _opened(_REQUEST, self._round, task, request)
        bits = task.server_bits(values, noise)
        theirs = self._sender.labels(bits.size, choices).reshape(*bits.shape, 2)
        seed = self._keys()
        ours = _from_seed(seed, bits) ^ np.where(bits[..., None], self._sender.delta, np.uint64(0))
        gates = Garbling(self._hash, self._sender.delta, self._gates)
        self._outputs = task.circuit(gates, ours, theirs)
        self._task, self._gates = task, gates.next
        return b"".join([_header(_GARBLED, self._round, task), seed, *(rows.tobytes() for rows in gates.tables)])

    def decode(self, result: bytes) -> int:
        """The index, from the result of step 3; ``ProtocolError`` where its labels are none of the circuit's."""
        if self._task is None or self._outputs is None:
            raise ProtocolError("decode: no garbled circuit is out")
        zero = self._outputs
        sent = _opened(_RESULT, self._round, self._task, result)
        if len(sent) != zero.nbytes:
            raise ProtocolError(f"result: needs {zero.nbytes} bytes of labels, got {len(sent)}")
        difference = np.frombuffer(sent, dtype=np.uint64).reshape(zero.shape) ^ zero
        bits = (difference == self._sender.delta).all(axis=-1)
        if not (bits | (difference == 0).all(axis=-1)).all():
            raise ProtocolError("result: holds labels that the circuit does not have; start a new session")
        self._task = self._outputs = None
        self._round += 1
        return int(from_bits(bits)[0])


class Evaluator:
    """The key holder: holds the other shares, learns nothing. ``keys()`` gives 32 fresh random bytes."""

    def __init__(self, keys: Callable[[], bytes]) -> None:
        self._receiver = LabelReceiver(keys)
        self._hash: Hash | None = None
        self._round = 0
        self._gates = 0
        self._task: Question | None = None
        self._labels: Labels | None = None

    def hello(self) -> bytes:
        """The first message of a session."""
        return self._receiver.hello

    def finish(self, reply: bytes) -> None:
        """Take the server's reply; ends the set-up."""
        self._receiver.finish(reply[LABEL_BYTES:])
        self._hash = Hash(reply[:LABEL_BYTES])

    def request(self, task: Question, values: npt.ArrayLike, noise: npt.ArrayLike) -> bytes:
        """Step 1: ask for the labels of the key holder's shares."""
        if self._task is not None:
            raise ProtocolError("request: the circuit of the last round has not been evaluated")
        bits = task.holder_bits(values, noise)
        choices, labels = self._receiver.choose(bits.ravel())
        self._task, self._labels = task, labels.reshape(*bits.shape, 2)
        return _header(_REQUEST, self._round, task) + choices

    def evaluate(self, garbled: bytes) -> bytes:
        """Step 3: the labels that the circuit gives. A garbled circuit is evaluated once, as each has its labels."""
        if self._task is None or self._labels is None or self._hash is None:
            raise ProtocolError("evaluate: no labels were asked for, or the circuit has been evaluated")
        task, labels = self._task, self._labels
        body = _opened(_GARBLED, self._round, task, garbled)
        if len(body) < KEY_BYTES or (len(body) - KEY_BYTES) % (2 * LABEL_BYTES):
            raise ProtocolError(f"garbled circuit: {len(body)} bytes are no seed and whole gates")
        self._task = self._labels = None
        tables = np.frombuffer(body, dtype=np.uint64, offset=KEY_BYTES).reshape(-1, 2)
        gates = Evaluation(self._hash, tables, self._gates)
        theirs = _from_seed(body[:KEY_BYTES], labels[..., 0])
        out = task.circuit(gates, theirs, labels)
        if gates.left:
            raise ProtocolError(f"garbled circuit: has {gates.left // 2} gates more than the question needs")
        result = _header(_RESULT, self._round, task) + out.tobytes()
        self._gates = gates.next
        self._round += 1
        return result


def connect(server: Garbler, holder: Evaluator) -> dict[str, int]:
    """Set up a session between parties in one process; the bytes of every message."""
    hello = holder.hello()
    reply = server.accept(hello)
    holder.finish(reply)
    return {"hello": len(hello), "reply": len(reply)}


def noisy_argmax(
    task: Question,
    server: Garbler,
    holder: Evaluator,
    values: tuple[npt.ArrayLike, npt.ArrayLike],
    noise: tuple[npt.ArrayLike, npt.ArrayLike],
) -> tuple[int, dict[str, int]]:
    """One round between parties in one process: the index, and the bytes of every message.

    ``values`` and ``noise`` are (the server's, the key holder's).
    """
    request = holder.request(task, values[1], noise[1])
    garbled = server.garble(task, values[0], noise[0], request)
    result = holder.evaluate(garbled)
    sizes = {"request": len(request), "garbled": len(garbled), "result": len(result)}
    return server.decode(result), sizes


def _tweaks(first: int, count: int) -> npt.NDArray[np.uint64]:
    """(2, count) numbers of the hashes of gates, of which no two of a session are equal."""
    return np.arange(2 * first, 2 * (first + count), dtype=np.uint64).reshape(2, count)


def _colours(labels: Labels) -> Labels:
    """All ones where a label's lowest bit is set, else zeros, in the labels' shape."""
    lowest = np.negative(labels[..., 0] & np.uint64(1))
    out = np.empty_like(labels)
    out[..., 0] = lowest
    out[..., 1] = lowest
    return out


def _from_seed(seed: bytes, wires: npt.NDArray[np.generic]) -> Labels:
    """(..., 2) the labels of the server's own bits: drawn from a seed, so that none has to be sent."""
    return Stream(seed).draw(2 * wires.size).reshape(*wires.shape, 2)


def _header(step: int, number: int, task: Question) -> bytes:
    return HEADER.pack(step, number, task.digest)


def _opened(step: int, number: int, task: Question, message: bytes) -> bytes:
    """What follows the header, which must be that of this step."""
    if len(message) < HEADER.size:
        raise ProtocolError(f"{_STEPS[step]}: has {len(message)} bytes, fewer than its header of {HEADER.size}")
    told, round_told, digest = HEADER.unpack_from(message)
    if told != step:
        raise ProtocolError(f"{_STEPS[step]}: got the message of another step, {_STEPS.get(told, told)}")
    if round_told != number:
        raise ProtocolError(f"{_STEPS[step]}: is of round {round_told}, but this is round {number}")
    if digest != task.digest:
        raise ProtocolError(f"{_STEPS[step]}: is for another question; both parties need the same bounds and weights")
    return message[HEADER.size :]
