"""Sums of products on raw residues are OpenFHE's, bit for bit, or are not used."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marginal_sdg.crypto.fhe import library, products
from marginal_sdg.crypto.fhe.holder import DataHolder
from marginal_sdg.crypto.fhe.keyholder import KeyHolder
from marginal_sdg.crypto.fhe.keys import WholeKey
from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.products import LibraryProducts, RawProducts, choose_products, raw_works
from marginal_sdg.crypto.fhe.profile import choose_profile
from marginal_sdg.crypto.fhe.public import dump
from marginal_sdg.crypto.fhe.residues import Form
from marginal_sdg.crypto.fhe.server import Server
from marginal_sdg.crypto.fhe.wire import Frame, Kind
from marginal_sdg.errors import ProtocolError

try:
    library.openfhe()
except ProtocolError as error:
    pytest.skip(str(error), allow_module_level=True)
kernel = pytest.importorskip("marginal_sdg.crypto.fhe.kernel")

SHAPE = (3, 5, 2)
CLIQUES = ((0,), (1,), (2,), *combinations(range(3), 2))
LAYOUT = Layout(choose_profile(48_842), SHAPE, CLIQUES, 32, dense=True)  # blocks of 8 rows
SOURCES = list(dict.fromkeys(source for part in LAYOUT.parts for source in part.sources))


@pytest.fixture(scope="module")
def secret():
    return WholeKey(LAYOUT)


@pytest.fixture
def always_raw(monkeypatch):
    monkeypatch.setattr(products, "COMPILED_FROM", 0)


@settings(deadline=None)  # the first call compiles
@given(st.integers(2, 2**61 - 1), st.integers(1, 16), st.integers(0, 2**32))
def test_the_kernel_adds_products_mod_any_modulus(modulus, count, seed):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, modulus, (count, 3, 2, 8), dtype=np.uint64)
    blocks[rng.random(blocks.shape) < 0.5] = modulus - 1  # the largest sums
    pairs = np.array([[0, 1], [2, 2]], dtype=np.uint64)
    sums = rng.integers(0, modulus, (2, 2, 3, 4), dtype=np.uint64)
    wide, expected = blocks.astype(object).reshape(count, 3, 2, 2, 4), sums.astype(object)
    for number, (first, second) in enumerate(pairs.astype(int)):
        a, b = wide[:, first], wide[:, second]
        for k, terms in enumerate([((0, 0),), ((0, 1), (1, 0)), ((1, 1),)]):
            expected[:, number, k] += sum((a[:, i] * b[:, j]).sum(0) for i, j in terms)
    kernel.add_products(blocks, pairs, sums, modulus)
    assert (sums == expected % modulus).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_on_residues_equal_openfhes_bit_for_bit(secret, threads):
    """Eleven blocks: more than are multiplied at once."""
    public = secret.public
    raw, plain = (kind(public, SOURCES, threads) for kind in (RawProducts, LibraryProducts))
    rng = np.random.default_rng(3)
    for _ in range(11):
        messages = {}
        for polynomial in LAYOUT.polynomials(range(3)):
            values = rng.integers(-(2**31) + 5, 2**31 - 5, LAYOUT.profile.ring)
            messages[polynomial] = public.frame(Kind.RECORDS, 0, public.encrypt(values, 0))
        for kind in (raw, plain):
            kind.add({polynomial: kind.open(message)[1] for polynomial, message in messages.items()})
    raw.finish()
    for source in SOURCES:
        assert dump(raw.take(source)) == dump(plain.take(source))


def test_marginals_are_exact_on_residues(secret, always_raw):
    codes = np.random.default_rng(8).integers(0, SHAPE, (150, 3))
    keyholder = KeyHolder(secret, decryptions=100)
    server = Server(LAYOUT, keyholder.public_key, keyholder.evaluation_keys, bytes(32))
    for part in (codes[:90], codes[90:]):
        server.receive(DataHolder(LAYOUT, keyholder.public_key, len(part)).upload_records(part))
    server.compute()
    messages, halves = server.share()
    for clique, ours, theirs in zip(CLIQUES, halves, keyholder.share(messages), strict=True):
        counts = np.zeros([SHAPE[a] for a in clique], dtype=np.int64)
        np.add.at(counts, tuple(codes[:, a] for a in clique), 1)
        assert ((ours + theirs) % LAYOUT.profile.plaintext == counts.ravel()).all()


def test_residues_are_used_where_they_pay_and_work(secret, monkeypatch):
    large = Layout(LAYOUT.profile, (32, 32, 32, 32), tuple(combinations(range(4), 2)), 4)
    public = WholeKey(large).public
    sources = list(dict.fromkeys(source for part in large.parts for source in part.sources))
    assert isinstance(choose_products(public, sources, 1), RawProducts)
    assert isinstance(choose_products(secret.public, SOURCES[:4], 1), LibraryProducts)
    monkeypatch.setattr(products, "raw_works", lambda public: False)
    assert isinstance(choose_products(public, sources, 1), LibraryProducts)


def test_without_numba_openfhe_does_the_work(secret, monkeypatch):
    monkeypatch.setitem(sys.modules, "marginal_sdg.crypto.fhe.kernel", None)
    assert not raw_works(secret.public)


def test_another_form_of_ciphertexts_or_wrong_sums_are_noticed(secret, monkeypatch):
    assert raw_works(secret.public)
    with monkeypatch.context() as patched:
        patched.setattr(kernel, "add_products", lambda *_: None)
        assert not raw_works(secret.public)
    monkeypatch.setattr("marginal_sdg.crypto.fhe.residues.dump", lambda thing: dump(thing)[:-100])
    with pytest.raises(ValueError, match="unknown form"):
        RawProducts(secret.public, SOURCES, 1)
    assert not raw_works(secret.public)


def test_residues_come_back_and_what_is_no_ciphertext_of_the_run_does_not(secret):
    public = secret.public
    some = public.encrypt(np.arange(5), 0)
    form, payload = Form(public, some), dump(some)
    residues = form.read(payload)
    assert residues.shape == (2, 3, LAYOUT.profile.ring)
    assert public.read(secret.decrypt(form.write(residues)))[:5].tolist() == [0, 1, 2, 3, 4]
    assert form.read(payload[:-1]) is None and form.read(b"\x00" + payload[1:]) is None


def test_a_foreign_ciphertext_is_refused_as_by_openfhe(secret):
    public, raw = secret.public, RawProducts(secret.public, SOURCES, 1)
    other = WholeKey(LAYOUT).public.encrypt(np.arange(5), 0)
    with pytest.raises(ProtocolError, match="does not fit the parameters"):
        raw.open(public.frame(Kind.RECORDS, 0, other))
    form = Form(public, public.encrypt(np.arange(5), 0))
    payload = bytearray(dump(public.encrypt(np.arange(5), 0)))
    start = form._starts[0]
    payload[start : start + 8] = b"\xff" * 8
    with pytest.raises(ProtocolError, match="not below their moduli"):
        raw.open(Frame(Kind.RECORDS, 0, public.run, bytes(payload)).pack())
