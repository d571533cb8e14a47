"""L1 deviations on shares: the index of the largest comes out, for every difference and every way shares can wrap."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marginal_sdg.crypto.circuit import Plain, from_bits, to_bits
from marginal_sdg.crypto.deviation import LargestDeviation, sums
from marginal_sdg.crypto.garbled import Evaluator, Garbler, connect, noisy_argmax
from marginal_sdg.errors import ProtocolError
from marginal_sdg.privacy.noise import Source

PRIME = 4294967291


def asked(question, cells, noise, own, own_noise) -> int:
    """The answer in the clear, for the server's shares of cells and noise."""
    server = question.server_bits(own, own_noise)
    holder = question.holder_bits((cells - own) % question.modulus, noise.astype(np.uint64) - own_noise)
    return int(from_bits(question.circuit(Plain(), server, holder))[0])


def answer(question, cells, noise) -> int:
    gaps = abs(cells - np.concatenate(question.expected))
    starts = np.cumsum([0, *(len(counts) for counts in question.expected[:-1])])
    scores = np.add.reduceat(gaps, starts) * question.weights - np.array(question.penalties) + noise
    return int(np.argmax(scores))


@pytest.mark.parametrize("modulus", [17, 13, 16])
def test_every_difference_in_every_sharing(modulus):
    """2 |d| against 2 threshold + 1, for every threshold."""
    records = 3
    nothing = np.zeros(2, dtype=np.uint64)
    for count, expected, threshold in product(range(records + 1), range(records + 1), range(records + 1)):
        counts = np.array([expected]), np.array([0])
        question = LargestDeviation(modulus, records, counts, (2, 0), (2 * threshold + 1, 0), 0)
        for share in range(modulus):
            own = np.array([share, 0])
            found = asked(question, np.array([count, 0]), nothing.astype(np.int64), own, nothing)
            assert found == (abs(count - expected) <= threshold)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32))
def test_groups_of_words_and_carries_are_summed(sizes, seed):
    rng = np.random.default_rng(seed)
    words, ones = rng.integers(0, 16, sum(sizes)), rng.integers(0, 2, sum(sizes))
    starts = np.cumsum([0, *sizes[:-1]])
    exact = np.add.reduceat(words + ones, starts)
    for width in (4, 8):
        found = sums(Plain(), to_bits(words.astype(np.uint64), 4), ones.astype(bool), sizes, width)
        assert from_bits(found).tolist() == (exact % 2**width).tolist()


def drawn(seed, modulus=PRIME, records=500):
    """A question, the cells of some tables of at most so many records, and noise."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, rng.integers(1, 9))
    tables = [rng.multinomial(rng.integers(0, records + 1), rng.dirichlet(np.ones(n))) for n in sizes]
    expected = tuple(np.maximum(table + rng.integers(-9, 10, table.size), 0) for table in tables)
    weights, penalties = rng.integers(0, 2**10, len(sizes)), rng.integers(-(2**12), 2**12, len(sizes))
    question = LargestDeviation(
        modulus, records, expected, tuple(weights.tolist()), tuple(penalties.tolist()), noise_bound=5000
    )
    return question, np.concatenate(tables), rng.integers(-5000, 5001, len(sizes)), rng


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.sampled_from([PRIME, 2039, 2**22 - 3, 2**32]))
def test_the_index_of_the_largest_noisy_deviation(seed, modulus):
    question, cells, noise, rng = drawn(seed, modulus)
    own = rng.integers(0, modulus, len(cells))
    own_noise = rng.integers(0, 2**63, len(noise)).astype(np.uint64)
    assert asked(question, cells, noise, own, own_noise) == answer(question, cells, noise)


def test_garbled_it_is_the_same():
    source = Source.seeded(0)
    server, holder = Garbler(source.key), Evaluator(source.key)
    connect(server, holder)
    for seed in range(5):
        question, cells, noise, rng = drawn(seed)
        own = rng.integers(0, PRIME, len(cells))
        own_noise = rng.integers(0, 2**63, len(noise)).astype(np.uint64)
        shares = (own, (cells - own) % PRIME), (own_noise, noise.astype(np.uint64) - own_noise)
        assert noisy_argmax(question, server, holder, *shares)[0] == answer(question, cells, noise)


def test_a_cell_costs_three_conjunctions_per_bit():
    question = LargestDeviation(PRIME, 1000, (np.zeros(256, dtype=np.int64),) * 20, (1,) * 20, (0,) * 20, 0)
    gates = Plain()
    cells, noise = np.zeros(256 * 20, dtype=np.int64), np.zeros(20, dtype=np.int64)
    question.circuit(gates, question.server_bits(cells, noise), question.holder_bits(cells, noise))
    assert 30 < gates.conjunctions / len(cells) < 36  # k = 11 bits


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"expected": (np.array([1]),)}, "expected: needs counts for each of 2"),
        ({"expected": (np.array([1]), np.array([-1]))}, "expected: counts must not be negative"),
        ({"records": 26}, "records: differences up to 26 need a modulus above 104"),
        ({"penalties": (0,)}, "weights: needs as many as penalties"),
        ({"noise_bound": 2**62}, "62; lower"),
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(change, named):
    good = {
        "modulus": 103,
        "records": 25,
        "expected": (np.array([1]), np.array([2])),
        "weights": (1, 1),
        "penalties": (0, 0),
        "noise_bound": 5,
    }
    task = LargestDeviation(**good)
    with pytest.raises(ProtocolError, match=named):
        LargestDeviation(**{**good, **change})
    with pytest.raises(ProtocolError, match="needs an integer share for each of 2 cells"):
        task.server_bits(np.array([1]), np.zeros(2, dtype=np.int64))
    with pytest.raises(ProtocolError, match="from 0 to the modulus 103"):
        task.holder_bits(np.array([1, 103]), np.zeros(2, dtype=np.int64))
    assert task.digest != LargestDeviation(**{**good, "expected": (np.array([2]), np.array([1]))}).digest
