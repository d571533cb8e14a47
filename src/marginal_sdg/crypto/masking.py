"""Secure aggregation by masks that cancel: Bonawitz et al. 2017 on the sparse graph of Bell et al. 2020.

Per aggregation, with fresh keys for everything (a mask key may have to be revealed, so it is never used again):

1. every client sends two X25519 public keys, one for masks and one to seal shares; the server passes them on;
2. every client splits its seed b_u and its mask key by Shamir among its neighbours and itself, sealed by AES-GCM;
3. every client sends ``y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv)`` in the ring;
4. the server names the survivors; neighbours send shares of the seeds of those, and of the mask keys of the others,
   never both of one client, so a vector that arrived stays masked whatever the server says; the server unmasks the sum.

What it protects against and what it does not: ``crypto/secagg.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from marginal_sdg.crypto import shamir
from marginal_sdg.crypto.graph import Graph
from marginal_sdg.crypto.prg import Stream
from marginal_sdg.crypto.secagg import (
    HEADER_BYTES,
    ID_BYTES,
    KEY_BYTES,
    SEALED_BYTES,
    Aggregate,
    Counts,
    Dropout,
    Pieces,
    Stage,
    check,
    enough,
    ring_bytes,
    stays,
)
from marginal_sdg.crypto.shamir import SHARE_BYTES
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.errors import ProtocolError

Ring = npt.NDArray[Any]  # uint32 or uint64

_HEADER = struct.Struct("<BxHI")  # kind of message, number of entries or of survivors, client
_KEYS, _SHARES, _MASKED, _SURVIVORS, _UNMASK = range(5)
ANSWERS = {"keys": _KEYS, "shares": _SHARES, "masked": _MASKED, "unmask": _UNMASK}  # a client's, by their first byte
_NONCE = bytes(12)  # every sealing key seals one message


class MaskedSum:
    """The protocol with all its parties in one process; they know of each other what passes as bytes, metered.

    ``keys()`` gives 32 fresh random bytes; ``dropout`` as in :class:`IdealSecureSum`. Raises ``ProtocolError`` when too
    few clients stay to unmask the sum.
    """

    def __init__(self, keys: Callable[[], bytes], dropout: Dropout | None = None) -> None:
        self._keys = keys
        self._dropout = dropout or stays

    def __call__(
        self, contributions: Mapping[int, Pieces], length: int, *, bound: int, traffic: Traffic, least: int = 0
    ) -> Aggregate:
        """Run one aggregation."""
        ring = ring_bytes(bound)
        check(contributions, length, bound)
        graph = Graph.draw(tuple(contributions), self._keys())
        server = MaskingServer(graph, length, ring)
        clients = {
            name: MaskingClient(name, pieces, length, ring, graph.threshold, self._keys())
            for name, pieces in contributions.items()
        }

        def sent(name: int, message: bytes) -> bytes:
            traffic.to_server("wire", [name], len(message))
            return message

        def received(name: int, message: bytes) -> bytes:
            traffic.to_clients("wire", [name], len(message))
            return message

        def staying(names: Iterable[int], stage: Stage) -> list[int]:
            return [name for name in names if not self._dropout(name, stage)]

        keys = server.relay_keys({name: sent(name, client.advertise()) for name, client in clients.items()})
        present = staying(clients, "keys")
        sealed = {name: sent(name, clients[name].share(received(name, keys[name]))) for name in present}
        shares = server.relay_shares(sealed)
        present = staying(present, "shares")
        relayed = {name: received(name, shares[name]) for name in present}
        survivors = staying(present, "relay")
        for name in survivors:
            server.add(sent(name, clients[name].mask(relayed[name])))
        traffic.to_server("ideal", survivors, length * ring)
        enough(len(survivors), least)
        lists = server.survivors()
        present = staying(survivors, "masked")
        opened = [sent(name, clients[name].unmask(received(name, lists[name]))) for name in present]
        return Aggregate(server.unmask(opened), tuple(survivors))


class MaskingClient:
    """One client: its vector, its secrets, and the shares that it holds of its neighbours' secrets."""

    def __init__(self, name: int, pieces: Pieces, length: int, ring: int, threshold: int, key: bytes) -> None:
        self.name = name
        self._pieces = pieces
        self._length = length
        self._ring = ring
        self._threshold = threshold
        self._random = Stream(key)
        self._seed = self._fresh_key()
        self._mask_secret = self._fresh_key()
        self._mask_key = X25519PrivateKey.from_private_bytes(self._mask_secret)
        self._seal_key = X25519PrivateKey.from_private_bytes(self._fresh_key())
        self._mask_keys: dict[int, bytes] = {}  # public ones, of the neighbours
        self._openers: dict[int, bytes] = {}  # keys of what the neighbours seal for this client
        self._held: dict[int, tuple[bytes, bytes]] = {}  # shares of (seed, mask key)
        self._answered = False

    def _fresh_key(self) -> bytes:
        return self._random.draw(KEY_BYTES // 8).tobytes()

    def advertise(self) -> bytes:
        """Step 1: two public keys."""
        keys = (self._mask_key, self._seal_key)
        return _HEADER.pack(_KEYS, 0, self.name) + b"".join(key.public_key().public_bytes_raw() for key in keys)

    def share(self, message: bytes) -> bytes:
        """Step 2: take the neighbours' public keys, give each a sealed share of the seed and of the mask key."""
        keys = _read(message, _KEYS, 2 * KEY_BYTES)
        self._enough(len(keys))
        points = [name + 1 for name in (self.name, *keys)]
        seeds = shamir.split(self._seed, self._threshold, points, self._random)
        secrets = shamir.split(self._mask_secret, self._threshold, points, self._random)
        own, *others = zip(seeds, secrets, strict=True)
        self._held[self.name] = own
        entries = []
        for (name, pair), shares in zip(keys.items(), others, strict=True):
            self._mask_keys[name] = pair[:KEY_BYTES]
            secret = _exchange(self._seal_key, pair[KEY_BYTES:])
            self._openers[name] = _derive(secret, b"seal", name, self.name)
            sealer = AESGCM(_derive(secret, b"seal", self.name, name))
            entries.append((name, sealer.encrypt(_NONCE, b"".join(shares), None)))
        return _write(_SHARES, self.name, entries)

    def mask(self, message: bytes) -> bytes:
        """Step 3: open the shares of those neighbours that have sent theirs, and mask the vector with these."""
        for name, sealed in _read(message, _SHARES, SEALED_BYTES).items():
            if name not in self._openers:
                raise ProtocolError(f"secure aggregation: client {name} is no neighbour of client {self.name}")
            try:
                shares = AESGCM(self._openers[name]).decrypt(_NONCE, sealed, None)
            except InvalidTag:
                raise ProtocolError(f"secure aggregation: the shares of client {name} were changed") from None
            self._held[name] = (shares[:SHARE_BYTES], shares[SHARE_BYTES:])
        self._enough(len(self._held) - 1)
        masked = self._self_mask()
        for start, cells in self._pieces.items():
            masked[start : start + len(cells)] += cells.astype(masked.dtype)
        for name in self._held:
            if name != self.name:
                _add_pair_mask(masked, self._mask_key, self.name, name, self._mask_keys[name])
        return _HEADER.pack(_MASKED, 0, self.name) + masked.tobytes()

    def _self_mask(self) -> Ring:
        return _expand(self._seed, self._length, self._ring)

    def unmask(self, message: bytes) -> bytes:
        """Step 4: shares of the survivors' seeds and of the others' mask keys; once, and never both of one client."""
        alive, gone = _read_survivors(message)
        if self._answered:
            raise ProtocolError(f"secure aggregation: client {self.name} unmasks once, and was asked again")
        if sorted([self.name, *alive, *gone]) != sorted(self._held):
            raise ProtocolError(f"secure aggregation: client {self.name} was not given one status for each neighbour")
        self._enough(len(alive))
        self._answered = True
        seeds = [(name, self._held[name][0]) for name in (self.name, *alive)]
        return _write(_UNMASK, self.name, [*seeds, *((name, self._held[name][1]) for name in gone)])

    def _enough(self, neighbours: int) -> None:
        if neighbours + 1 < self._threshold:
            raise ProtocolError(
                f"secure aggregation: client {self.name} stops, with {neighbours + 1} clients around it where "
                f"{self._threshold} must stay"
            )


class MaskingServer:
    """The server: it relays what it cannot read, and adds what it cannot tell from noise."""

    def __init__(self, graph: Graph, length: int, ring: int) -> None:
        self._graph = graph
        self._length = length
        self._ring = ring
        self._sum: Ring = np.zeros(length, dtype=f"<u{ring}")
        self._mask_keys: dict[int, bytes] = {}
        self._sharing: frozenset[int] = frozenset()
        self._alive: set[int] = set()

    def relay_keys(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """After step 1: every client's public keys, for its neighbours."""
        pairs = {name: message[HEADER_BYTES:] for name, message in messages.items()}
        self._mask_keys = {name: pair[:KEY_BYTES] for name, pair in pairs.items()}
        return {
            name: _write(_KEYS, name, [(other, pairs[other]) for other in neighbours])
            for name, neighbours in self._graph.neighbours.items()
        }

    def relay_shares(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """After step 2: sealed shares, for those who hold them."""
        self._sharing = frozenset(messages)
        sealed = {name: _read(message, _SHARES, SEALED_BYTES) for name, message in messages.items()}
        return {
            name: _write(_SHARES, name, [(other, sealed[other][name]) for other in self._known(name)])
            for name in messages
        }

    def add(self, message: bytes) -> None:
        """During step 3: a masked vector."""
        _, _, name = _HEADER.unpack_from(message)
        self._alive.add(name)
        self._sum += np.frombuffer(message, dtype=self._sum.dtype, offset=HEADER_BYTES)

    def survivors(self) -> dict[int, bytes]:
        """After step 3: for every client that has sent its vector, which of its neighbours have."""
        lists = {}
        for name in self._alive:
            alive = [other for other in self._known(name) if other in self._alive]
            gone = [other for other in self._known(name) if other not in self._alive]
            ids = np.array([*alive, *gone], dtype="<u4").tobytes()
            lists[name] = _HEADER.pack(_SURVIVORS, len(alive), name) + ids
        return lists

    def unmask(self, messages: Sequence[bytes]) -> Counts:
        """After step 4: the sum over the survivors."""
        shares: dict[int, dict[int, bytes]] = {name: {} for name in sorted(self._sharing)}
        for message in messages:
            _, _, holder = _HEADER.unpack_from(message)
            for name, share in _read(message, _UNMASK, SHARE_BYTES).items():
                shares[name][holder + 1] = share
        if not self._alive:
            raise ProtocolError("secure aggregation: no client stayed to send its vector")
        total = self._sum.copy()
        for name, held in shares.items():
            secret = self._secret(name, held)
            if name in self._alive:
                total -= _expand(secret, self._length, self._ring)
            else:
                self._cancel(total, name, X25519PrivateKey.from_private_bytes(secret))
        return total.view(f"<i{self._ring}").astype(np.int64)

    def _secret(self, name: int, held: Mapping[int, bytes]) -> bytes:
        needed = self._graph.threshold
        if len(held) < needed:
            raise ProtocolError(
                f"secure aggregation: {len(held)} shares of client {name} are left where {needed} are needed"
            )
        return shamir.combine(dict(sorted(held.items())[:needed]))

    def _cancel(self, total: Ring, name: int, key: X25519PrivateKey) -> None:
        """Add the pair masks of a client that has vanished, as it would have."""
        if key.public_key().public_bytes_raw() != self._mask_keys[name]:
            raise ProtocolError(f"secure aggregation: the shares of client {name} do not give its key")
        for other in self._known(name):
            if other in self._alive:
                _add_pair_mask(total, key, name, other, self._mask_keys[other])

    def _known(self, name: int) -> list[int]:
        """The neighbours that have sent shares."""
        return [other for other in self._graph.neighbours[name] if other in self._sharing]


def _exchange(key: X25519PrivateKey, public: bytes) -> bytes:
    return key.exchange(X25519PublicKey.from_public_bytes(public))


def _derive(secret: bytes, purpose: bytes, first: int, second: int) -> bytes:
    info = purpose + struct.pack("<II", first, second)
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def _expand(seed: bytes, length: int, ring: int) -> Ring:
    words = Stream(seed).draw(-(-length * ring // 8))
    return words.view(f"<u{ring}")[:length]


def _add_pair_mask(vector: Ring, key: X25519PrivateKey, own: int, other: int, public: bytes) -> None:
    """Add what client ``own`` adds for ``other``, the negative of what ``other`` adds for ``own``."""
    low, high = min(own, other), max(own, other)
    mask = _expand(_derive(_exchange(key, public), b"mask", low, high), len(vector), vector.itemsize)
    if own == low:
        vector += mask
    else:
        vector -= mask


def _write(kind: int, client: int, entries: Sequence[tuple[int, bytes]]) -> bytes:
    body = b"".join(struct.pack("<I", name) + data for name, data in entries)
    return _HEADER.pack(kind, len(entries), client) + body


def _read(message: bytes, kind: int, size: int) -> dict[int, bytes]:
    """Entries of ``size`` bytes by client."""
    found, count, _ = _HEADER.unpack_from(message)
    step = ID_BYTES + size
    starts = range(HEADER_BYTES, len(message), step)
    if found != kind or len(message) != HEADER_BYTES + count * step:
        raise ProtocolError("secure aggregation: a message is not what this step of the protocol needs")
    names = [int.from_bytes(message[start : start + ID_BYTES], "little") for start in starts]
    entries = {name: message[start + ID_BYTES : start + step] for name, start in zip(names, starts, strict=True)}
    if len(entries) != count:
        raise ProtocolError("secure aggregation: a message names a client twice")
    return entries


def _read_survivors(message: bytes) -> tuple[list[int], list[int]]:
    """The neighbours that have sent their vector, and those that have not."""
    kind, count, _ = _HEADER.unpack_from(message)
    ids = np.frombuffer(message, dtype="<u4", offset=HEADER_BYTES).tolist() if kind == _SURVIVORS else []
    return ids[:count], ids[count:]
