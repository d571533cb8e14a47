"""Shamir's secret sharing of 32-byte secrets: any ``threshold`` shares give the secret, fewer say nothing about it.

Source: Shamir 1979, over the integers modulo a prime just above 2^256.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from marginal_sdg.crypto.prg import KEY_BYTES, Stream
from marginal_sdg.errors import ProtocolError

PRIME = 2**256 + 297
SHARE_BYTES = 33
_DRAWN_WORDS = 6  # 384 bits for a coefficient: its distance from uniform is below 2^-127


def split(secret: bytes, threshold: int, points: Sequence[int], random: Stream) -> list[bytes]:
    """One share of 33 bytes for each of ``points``, which are distinct and positive: values of a random polynomial."""
    if len(secret) != KEY_BYTES:
        raise ProtocolError(f"secret: needs {KEY_BYTES} bytes, got {len(secret)}")
    if not 1 <= threshold <= len(points):
        raise ProtocolError(f"threshold: must be from 1 to the number of shares, {len(points)}; got {threshold}")
    if len(set(points)) != len(points) or not all(0 < point < PRIME for point in points):
        raise ProtocolError("points: must be distinct and positive, one per holder of a share")
    coefficients = [*_coefficients(threshold - 1, random), int.from_bytes(secret, "little")]  # the highest power first
    return [_value(coefficients, point).to_bytes(SHARE_BYTES, "little") for point in points]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret, from at least ``threshold`` of its shares by point. Shares of different secrets give garbage."""
    points = tuple(shares)
    if not points:
        raise ProtocolError("shares: none was given, so there is no secret to combine")
    values = [int.from_bytes(share, "little") for share in shares.values()]
    secret = sum(weight * value for weight, value in zip(_weights(points), values, strict=True)) % PRIME
    if secret >> (8 * KEY_BYTES):
        raise ProtocolError("shares: do not belong together")
    return secret.to_bytes(KEY_BYTES, "little")


def _coefficients(count: int, random: Stream) -> list[int]:
    drawn = random.draw(_DRAWN_WORDS * count).tobytes()
    size = 8 * _DRAWN_WORDS
    return [int.from_bytes(drawn[start : start + size], "little") % PRIME for start in range(0, len(drawn), size)]


def _value(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in coefficients:
        value = (value * point + coefficient) % PRIME
    return value


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's: the value at 0 of a polynomial of lower degree than there are points is sum(weight * value)."""
    product = math.prod(points)
    return tuple(
        product // x * pow(x_differences, -1, PRIME) % PRIME
        for x in points
        for x_differences in [math.prod(other - x for other in points if other != x)]
    )
