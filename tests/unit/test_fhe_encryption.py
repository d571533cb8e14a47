"""Encoding on raw residues gives what OpenFHE gives, bit for bit, or is not used."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marginal_sdg.crypto.fhe import encryption, library
from marginal_sdg.crypto.fhe.encryption import RawEncoding, choose_encrypt
from marginal_sdg.crypto.fhe.holder import DataHolder
from marginal_sdg.crypto.fhe.keyholder import KeyHolder
from marginal_sdg.crypto.fhe.keys import WholeKey
from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.profile import choose_profile
from marginal_sdg.crypto.fhe.public import dump
from marginal_sdg.crypto.fhe.server import Server
from marginal_sdg.errors import ProtocolError

try:
    library.openfhe()
except ProtocolError as error:
    pytest.skip(str(error), allow_module_level=True)
kernel = pytest.importorskip("marginal_sdg.crypto.fhe.kernel")

LAYOUT = Layout(choose_profile(48_842), (3, 5), ((0,), (1,), (0, 1)), 32, dense=True)
RING, BOUND = LAYOUT.profile.ring, LAYOUT.profile.plaintext // 2


@pytest.fixture(scope="module")
def secret():
    return WholeKey(LAYOUT)


@settings(deadline=None)  # the first call compiles
@given(st.sampled_from([17, 97, 2**61 - 799]), st.integers(0, 2**32))
def test_the_kernel_adds_the_values_at_all_odd_powers_of_the_root(modulus, seed):
    """Oracle: the polynomial of 8 coefficients at every root of X^8 + 1, in whole numbers."""
    candidates = (pow(g, (modulus - 1) // 16, modulus) for g in range(2, 99))
    root = next(r for r in candidates if pow(r, 8, modulus) == modulus - 1)
    rng = np.random.default_rng(seed)
    values, sums = rng.integers(1 - modulus, modulus, 8), rng.integers(0, modulus, 8, dtype=np.uint64)
    order = [0, 4, 2, 6, 1, 5, 3, 7]
    expected = [
        (int(sums[place]) + sum(int(v) * pow(root, (2 * r + 1) * e, modulus) for e, v in enumerate(values))) % modulus
        for place, r in enumerate(order)
    ]
    powers = [pow(root, r, modulus) for r in order]
    quotients = [(power << 64) // modulus for power in powers]
    kernel.add_transform(values, np.array(powers, np.uint64), np.array(quotients, np.uint64), np.uint64(modulus), sums)
    assert sums.tolist() == expected


@given(st.integers(0, 2**32), st.booleans())
def test_what_is_encrypted_comes_back(secret, seed, extreme):
    values = np.random.default_rng(seed).integers(-BOUND, BOUND + 1, RING)
    if extreme:
        values = np.where(values < 0, -BOUND, BOUND)
    payload = raw(secret).encrypt(values)
    ciphertext = library.openfhe().DeserializeCiphertextString(payload, library.openfhe().BINARY)
    assert (secret.public.read(secret.decrypt(ciphertext)) == values % LAYOUT.profile.plaintext).all()
    assert len(payload) == len(dump(secret.public.encrypt(values, 0)))


def test_equal_values_never_give_equal_ciphertexts(secret):
    values = np.zeros(RING, dtype=np.int64)
    assert len({raw(secret).encrypt(values) for _ in range(5)}) == 5


def test_residues_are_used_where_they_pay_and_work(secret, monkeypatch):
    def is_raw(planned):
        return isinstance(getattr(choose_encrypt(secret.public, planned), "__self__", None), RawEncoding)

    assert is_raw(encryption.COMPILED_FROM) and not is_raw(encryption.COMPILED_FROM - 1)
    with monkeypatch.context() as patched:  # a transform that is not OpenFHE's
        patched.setattr(kernel, "add_transform", lambda *_: None)
        assert not is_raw(encryption.COMPILED_FROM)
    with monkeypatch.context() as patched:
        patched.setattr("marginal_sdg.crypto.fhe.residues.dump", lambda thing: dump(thing)[:-100])
        assert not is_raw(encryption.COMPILED_FROM)
    monkeypatch.setitem(sys.modules, "marginal_sdg.crypto.fhe.kernel", None)  # no Numba
    assert not is_raw(encryption.COMPILED_FROM)


def test_the_server_counts_what_was_encoded_on_residues(secret, monkeypatch):
    monkeypatch.setattr(encryption, "COMPILED_FROM", 0)
    codes = np.random.default_rng(8).integers(0, (3, 5), (60, 2))
    keyholder = KeyHolder(secret, decryptions=100)
    server = Server(LAYOUT, keyholder.public_key, keyholder.evaluation_keys, bytes(32))
    server.receive(DataHolder(LAYOUT, keyholder.public_key, len(codes)).upload_records(codes))
    server.compute()
    messages, halves = server.share()
    counts = np.zeros((3, 5), dtype=np.int64)
    np.add.at(counts, tuple(codes.T), 1)
    shared = [ours + theirs for ours, theirs in zip(halves, keyholder.share(messages), strict=True)]
    assert (shared[2] % LAYOUT.profile.plaintext == counts.ravel()).all()


_RAW = {}


def raw(secret):
    return _RAW.setdefault(id(secret), RawEncoding(secret.public))
