"""Shamir's sharing: any threshold shares give the secret, and fewer are consistent with every secret."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginal_sdg.crypto.prg import Stream
from marginal_sdg.crypto.shamir import PRIME, SHARE_BYTES, combine, split
from marginal_sdg.errors import ProtocolError

SECRETS = st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xff" * 32]))


def shares_of(secret: bytes, threshold: int, holders: int, key: bytes = bytes(32)) -> dict[int, bytes]:
    points = range(1, holders + 1)
    return dict(zip(points, split(secret, threshold, points, Stream(key)), strict=True))


def is_prime(n: int) -> bool:
    """Miller and Rabin, to the first forty bases."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(
        (x := pow(base, odd, n)) in (1, n - 1) or any(pow(x, 2**i, n) == n - 1 for i in range(1, twos))
        for base in range(2, 42)
    )


def test_the_field_is_a_field_and_holds_every_secret():
    assert is_prime(PRIME) and not is_prime(PRIME + 2)
    assert 2**256 < PRIME < 2 ** (8 * SHARE_BYTES)


@given(secret=SECRETS, data=st.data(), key=st.binary(min_size=32, max_size=32))
def test_any_threshold_shares_give_the_secret(secret, data, key):
    holders = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, holders))
    shares = shares_of(secret, threshold, holders, key)
    assert all(len(share) == SHARE_BYTES for share in shares.values())
    some = data.draw(st.permutations(sorted(shares)))[: data.draw(st.integers(threshold, holders))]
    assert combine({point: shares[point] for point in some}) == secret


def test_every_subset_of_a_small_sharing_behaves():
    secret = bytes(range(32))
    shares = shares_of(secret, 3, 5)
    for size in range(1, 6):
        for some in combinations(shares, size):
            try:
                found = combine({point: shares[point] for point in some})
            except ProtocolError:  # garbage above 2^256 is recognised
                found = None
            assert (found == secret) is (size >= 3)


@given(secret=SECRETS, other=SECRETS)
def test_too_few_shares_fit_every_other_secret_as_well(secret, other):
    """Given threshold - 1 shares and any secret there is a last share that leads to it: they say nothing."""
    threshold = 4
    known = dict(list(shares_of(secret, threshold, 6).items())[: threshold - 1])
    target = int.from_bytes(other, "little")
    points = [*known, 9]
    weights = {}
    for x in points:
        weight = 1
        for y in points:
            weight = weight * (y * pow(y - x, -1, PRIME) if y != x else 1) % PRIME
        weights[x] = weight
    rest = target - sum(weights[x] * int.from_bytes(share, "little") for x, share in known.items())
    last = rest * pow(weights[9], -1, PRIME) % PRIME
    assert combine({**known, 9: last.to_bytes(SHARE_BYTES, "little")}) == other


def test_shares_of_one_secret_differ_from_sharing_to_sharing():
    random = Stream(bytes(32))
    first, second = (split(bytes(32), 2, [1, 2], random) for _ in range(2))
    assert not set(first) & set(second)


@pytest.mark.stat
def test_single_shares_are_uniform():
    """Chi-square over the low byte of 4,000 shares of one secret; false alarms 1e-6."""
    random = Stream(b"u" * 32)
    low = [split(bytes(32), 2, [1, 2], random)[0][0] for _ in range(4000)]
    expected = len(low) / 256
    statistic = sum((low.count(value) - expected) ** 2 / expected for value in range(256))
    assert statistic < 375  # the 1 - 1e-6 quantile at 255 degrees of freedom


@pytest.mark.parametrize(
    ("secret", "threshold", "points", "message"),
    [
        (bytes(31), 1, [1], "secret: needs 32 bytes, got 31"),
        (bytes(32), 0, [1], "threshold: must be from 1"),
        (bytes(32), 3, [1, 2], "threshold: must be from 1 to the number of shares, 2; got 3"),
        (bytes(32), 1, [1, 1], "distinct and positive"),
        (bytes(32), 1, [0, 1], "distinct and positive"),
    ],
)
def test_bad_sharings_are_refused(secret, threshold, points, message):
    with pytest.raises(ProtocolError, match=message):
        split(secret, threshold, points, Stream(bytes(32)))


def test_bad_shares_are_refused():
    with pytest.raises(ProtocolError, match="none was given"):
        combine({})
    with pytest.raises(ProtocolError, match="do not belong together"):
        combine({1: (PRIME - 1).to_bytes(SHARE_BYTES, "little")})
