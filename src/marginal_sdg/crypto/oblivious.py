"""Oblivious transfer: a receiver gets, for each of its bits, one of a sender's two labels; nobody learns the other's.

*Base transfers*, 128 once per session, on P-256 (Chou and Orlandi 2015, "The simplest protocol for oblivious
transfer"): the sender publishes A = aG, the receiver sends B = rG or rG + A by its choice, which are distributed alike;
the keys are hashes of aB and of a(B - A), of which the receiver knows the one that is rA. *Extension* (Ishai, Kilian,
Nissim and Petrank 2003) with the roles swapped turns these into any number of transfers by AES alone, 16 bytes each.
It is used without its last hash: the two labels of a transfer differ by the sender's secret ``delta``, which is what
garbling with free exclusive or wants of labels (Asharov et al. 2013).

*Assuming*: both follow the protocol. *Not claimed*: anything against a receiver whose extension messages are malformed
on purpose (it could learn ``delta``), nor constant time of the point additions, which are in plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from marginal_sdg.crypto.prg import Stream
from marginal_sdg.errors import ProtocolError

Labels = npt.NDArray[np.uint64]  # (..., 2): 128 bits
Bits = npt.NDArray[np.bool_]
Point = tuple[int, int]

LABEL_BITS = 128
POINT_BYTES = 33
_CURVE = ec.SECP256R1()
_FIELD = 2**256 - 2**224 + 2**192 + 2**96 - 1
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SCALAR_WORDS = 6  # 384 bits: the distance from uniform is below 2^-127


class BaseSender:
    """The sender of base transfers: for every choice of the receiver, it has two keys."""

    def __init__(self, random: Stream) -> None:
        self._secret = _scalar(random)
        self._point = _xy(self._secret.public_key())
        self.hello = _pack(self._point)

    def keys(self, points: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """The pair of 32-byte keys of each of ``count`` transfers."""
        if len(points) != count * POINT_BYTES:
            raise ProtocolError(f"base transfers: needs {count * POINT_BYTES} bytes of points, got {len(points)}")
        minus = (self._point[0], _FIELD - self._point[1])
        pairs = []
        for i in range(count):
            packed = points[i * POINT_BYTES : (i + 1) * POINT_BYTES]
            point = _unpack(packed)
            shifted = _public(_plus(_xy(point), minus))
            first, second = (self._secret.exchange(ec.ECDH(), public) for public in (point, shifted))
            pairs.append((_key(i, self.hello, packed, first), _key(i, self.hello, packed, second)))
        return pairs


def choose_keys(hello: bytes, choices: Sequence[bool], random: Stream) -> tuple[bytes, list[bytes]]:
    """The receiver's side: the message to the sender, and for each choice the 32-byte key that was chosen."""
    public = _unpack(hello)
    offset = _xy(public)
    packed, keys = [], []
    for i, choice in enumerate(choices):
        secret = _scalar(random)
        point = _xy(secret.public_key())
        packed.append(_pack((point, _plus(point, offset))[choice]))
        keys.append(_key(i, hello, packed[-1], secret.exchange(ec.ECDH(), public)))
    return b"".join(packed), keys


class LabelReceiver:
    """Gets one of two labels for each of its bits.

    Steps: send ``hello``, ``finish`` with the sender's reply; then ``choose`` any number of times.
    """

    def __init__(self, keys: Callable[[], bytes]) -> None:
        self._base = BaseSender(Stream(keys()))
        self.hello = self._base.hello
        self._streams: list[tuple[Stream, Stream]] = []

    def finish(self, reply: bytes) -> None:
        """End the set-up."""
        self._streams = [(Stream(a), Stream(b)) for a, b in self._base.keys(reply, LABEL_BITS)]

    def choose(self, bits: Bits) -> tuple[bytes, Labels]:
        """The message to the sender, and the (n, 2) labels of the n bits."""
        if not self._streams:
            raise ProtocolError("choose: the set-up is not finished; call finish with the sender's reply")
        words = -(-len(bits) // 64)
        padded = np.zeros(64 * words, dtype=np.uint8)
        padded[: len(bits)] = bits
        chosen = np.packbits(padded, bitorder="little").view(np.uint64)
        zero = np.stack([first.draw(words) for first, _ in self._streams])
        one = np.stack([second.draw(words) for _, second in self._streams])
        return (zero ^ one ^ chosen).tobytes(), _transposed(zero, len(bits))


class LabelSender:
    """Has two labels for each bit of the receiver: those of 0, and those ``delta`` apart for 1.

    The lowest bit of ``delta``, (2,) uint64, is 1: it tells the two labels of a bit apart, and not which is which.
    """

    def __init__(self, keys: Callable[[], bytes]) -> None:
        self._random = Stream(keys())
        self.delta = self._random.draw(2)
        self.delta[0] |= np.uint64(1)
        self._streams: list[Stream] = []

    def accept(self, hello: bytes) -> bytes:
        """Answer the receiver's hello; ends the set-up."""
        reply, keys = choose_keys(hello, self._choices.tolist(), self._random)
        self._streams = [Stream(key) for key in keys]
        return reply

    @property
    def _choices(self) -> Bits:
        return np.unpackbits(self.delta.view(np.uint8), bitorder="little").astype(bool)

    def labels(self, count: int, message: bytes) -> Labels:
        """(count, 2) labels of 0 of the transfers that the receiver's message asks for."""
        words = -(-count // 64)
        if not self._streams:
            raise ProtocolError("labels: the set-up is not finished; call accept with the receiver's hello")
        if len(message) != 8 * words * LABEL_BITS:
            raise ProtocolError(
                f"transfers: {count} need a message of {8 * words * LABEL_BITS} bytes, got {len(message)}"
            )
        asked = np.frombuffer(message, dtype=np.uint64).reshape(LABEL_BITS, words)
        known = np.stack([stream.draw(words) for stream in self._streams])
        return _transposed(known ^ np.where(self._choices[:, None], asked, np.uint64(0)), count)


def _transposed(columns: npt.NDArray[np.uint64], count: int) -> Labels:
    """(count, 2) uint64 from (128, words): bit j of row i becomes bit i of label j."""
    bits = np.unpackbits(columns.view(np.uint8), axis=1, count=count, bitorder="little")
    return np.packbits(np.ascontiguousarray(bits.T), axis=1, bitorder="little").view(np.uint64)


def _scalar(random: Stream) -> ec.EllipticCurvePrivateKey:
    drawn = int.from_bytes(random.draw(_SCALAR_WORDS).tobytes(), "little")
    return ec.derive_private_key(1 + drawn % (_ORDER - 1), _CURVE)


def _plus(p: Point, q: Point) -> Point:
    """The sum of two points of the curve with different x."""
    if p[0] == q[0]:
        raise ProtocolError("base transfers: a point repeats the sender's; start a new session")
    slope = (q[1] - p[1]) * pow(q[0] - p[0], -1, _FIELD) % _FIELD
    x = (slope * slope - p[0] - q[0]) % _FIELD
    return x, (slope * (p[0] - x) - p[1]) % _FIELD


def _key(number: int, hello: bytes, packed: bytes, shared: bytes) -> bytes:
    return sha256(b"base transfer" + number.to_bytes(4, "little") + hello + packed + shared).digest()


def _xy(public: ec.EllipticCurvePublicKey) -> Point:
    numbers = public.public_numbers()
    return numbers.x, numbers.y


def _public(point: Point) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicNumbers(*point, _CURVE).public_key()


def _pack(point: Point) -> bytes:
    return _public(point).public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _unpack(packed: bytes) -> ec.EllipticCurvePublicKey:
    try:
        if len(packed) != POINT_BYTES:
            raise ValueError
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, packed)
    except ValueError:
        raise ProtocolError(f"base transfers: needs a point of the curve in {POINT_BYTES} bytes") from None
