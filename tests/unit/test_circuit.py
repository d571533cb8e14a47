"""Boolean circuits: every one of them is the integer function it stands for, and a question is its scores' argmax."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marginal_sdg.crypto import circuit
from marginal_sdg.crypto.circuit import Plain, from_bits, to_bits
from marginal_sdg.crypto.question import NoisyArgmax
from marginal_sdg.crypto.ranking import signed_digits
from marginal_sdg.errors import ProtocolError

PRIME = 4294967291  # below 2^32


def word(values, width):
    return to_bits(np.array(values, dtype=np.uint64), width)


def numbers(bits) -> list[int]:
    return from_bits(bits).tolist()


words = st.integers(1, 12).flatmap(
    lambda width: st.tuples(
        st.just(width), st.lists(st.tuples(*[st.integers(0, 2**width - 1)] * 3), min_size=1, max_size=40)
    )
)


def test_words_are_read_as_they_are_written():
    values = [0, 1, 2**61 + 5, 2**62 - 1]
    assert numbers(word(values, 62)) == values
    assert word([6], 4)[:, 0].tolist() == [False, True, True, False]


# --- adders, comparison, selection ----------------------------------------------------------------


def test_the_adder_adds_and_carries():
    cases = np.array(list(product(range(16), range(16), range(2))))
    x, y, carry = (word(column, 4) for column in cases.T)
    into = circuit.carries(Plain(), x, y, carry[0])
    assert numbers(into[-1:]) == (cases.sum(axis=1) >> 4).tolist()
    assert numbers(circuit.add(Plain(), x, y, carry[0])) == (cases.sum(axis=1) % 16).tolist()


@given(words)
def test_comparison_and_selection_agree_with_integers(case):
    """Up to 16 lanes the carry is a tree, above it a ripple."""
    width, rows = case
    x, y, _ = (list(column) for column in zip(*rows, strict=True))
    assert numbers(circuit.greater(Plain(), word(x, width), word(y, width))[None]) == [
        a > b for a, b in zip(x, y, strict=True)
    ]
    assert numbers(circuit.overflow(Plain(), word(x, width), word(y, width))[None]) == [
        (a + b) >> width for a, b in zip(x, y, strict=True)
    ]
    larger = circuit.select(
        Plain(), circuit.greater(Plain(), word(x, width), word(y, width)), word(x, width), word(y, width)
    )
    assert numbers(larger) == [max(a, b) for a, b in zip(x, y, strict=True)]


@given(words, st.integers(2, 7))
def test_any_number_of_words_is_added(case, terms):
    width, rows = case
    columns = [[row[k % 3] for row in rows] for k in range(terms)]
    total = circuit.add_all(Plain(), [word(column, width) for column in columns])
    assert numbers(total) == [sum(values) % 2**width for values in zip(*columns, strict=True)]


# --- square root ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0, 1, 4])
@pytest.mark.parametrize("width", [12, 13])
def test_the_root_is_exact_for_every_small_value(width, fraction):
    values = range(2**width)
    root = circuit.square_root(Plain(), word(values, width), fraction)
    assert numbers(root) == [math.isqrt(v << 2 * fraction) for v in values]


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), st.integers(0, 8))
def test_the_root_is_exact_around_squares(roots, fraction):
    values = [min(max(r * r + d, 0), 2**62 - 1) for r in roots for d in (-1, 0, 1)] + [2**62 - 1]
    root = circuit.square_root(Plain(), word(values, 62), fraction)
    assert numbers(root) == [math.isqrt(v << 2 * fraction) for v in values]


@given(st.lists(st.integers(0, 2**62 - 1), min_size=1, max_size=20))
def test_the_root_is_exact_for_any_value(values):
    assert numbers(circuit.square_root(Plain(), word(values, 62))) == [math.isqrt(v) for v in values]


# --- argmax ---------------------------------------------------------------------------------------


def argmax(scores, width) -> int:
    bits = circuit.argmax(Plain(), word(scores, width))
    assert bits.shape[1] == 1
    return int(from_bits(bits)[0])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_first_of_the_largest_wins_in_every_small_case(count):
    for scores in product(range(3), repeat=count):
        assert argmax(scores, 2) == scores.index(max(scores))


@given(st.lists(st.integers(0, 7), min_size=1, max_size=150))
def test_the_first_of_the_largest_wins(scores):
    assert argmax(scores, 3) == scores.index(max(scores))


def test_the_index_costs_a_conjunction_per_candidate():
    gates = Plain()
    circuit.argmax(gates, word([0] * 1024, 1))
    comparisons, choices = 1023, 1022  # of one bit; trees of one bit cost no more
    assert gates.conjunctions - comparisons - choices <= 1024


# --- public factors -------------------------------------------------------------------------------


@given(st.integers(-(2**62), 2**62))
def test_signed_digits_are_the_number_and_never_neighbours(number):
    digits = signed_digits(number)
    assert sum(sign << power for power, sign in digits) == number
    assert all(b[0] - a[0] > 1 for a, b in pairwise(digits))


# --- the whole question ---------------------------------------------------------------------------


def scores_of(task: NoisyArgmax, values, noise) -> list[int]:
    """What the circuit is to compare, in Python integers."""
    f = values if task.fraction is None else [math.isqrt(v << 2 * task.fraction) for v in values]
    return [w * x - p + z for w, x, p, z in zip(task.weights, f, task.penalties, noise, strict=True)]


def shared(total, modulus, first) -> list[int]:
    return [(v - a) % modulus for v, a in zip(total, first, strict=True)]


def uint64(values):
    return np.array(values, dtype=np.uint64)


@st.composite
def questions(draw):
    """A question, values and noise within its bounds, and the server's shares of both."""
    modulus = draw(st.sampled_from([2, 17, 256, 1009, PRIME, 2**32, 2**59 - 55]) | st.integers(2, 2**40))
    fraction = draw(st.sampled_from([None, 0, 3]))
    low = 0 if fraction is not None else draw(st.integers(-modulus, modulus))
    high = low + draw(st.integers(1, modulus))
    count = draw(st.integers(1, 20))
    largest = 2 ** draw(st.integers(0, 12)) if modulus < 2**41 else 1

    def many(smallest, greatest):
        near = st.sampled_from([smallest, greatest]) | st.integers(smallest, greatest)
        return draw(st.lists(near, min_size=count, max_size=count))

    noise_bound = draw(st.sampled_from([0, 1, 1000, 2**40]))
    penalties = tuple(many(-(2**20), 2**20))
    weights = tuple(many(-largest if fraction is None or modulus > 2**20 else 0, largest))
    task = NoisyArgmax(modulus, low, high, weights, penalties, noise_bound, fraction)
    return task, many(low, high - 1), many(-noise_bound, noise_bound), many(0, modulus - 1), many(0, 2**64 - 1)


def check(question) -> None:
    task, values, noise, a, n = question
    server = task.server_bits(uint64(a), uint64(n))
    holder = task.holder_bits(uint64(shared(values, task.modulus, a)), uint64(shared(noise, 2**64, n)))
    scores = scores_of(task, values, noise)
    assert numbers(task.circuit(Plain(), server, holder)) == [scores.index(max(scores))]


@settings(max_examples=50)
@given(questions())
def test_a_question_is_the_argmax_of_its_scores(question):
    check(question)


@pytest.mark.slow
@settings(max_examples=1000)
@given(questions())
def test_a_thousand_questions_are_the_argmax_of_their_scores(question):
    check(question)


def test_noise_may_be_shared_in_the_ring_of_the_scores():
    task = NoisyArgmax(PRIME, -500, 500, (1, 1), (0, 0), 100)
    noise = shared([-90, 80], 2**task.width, [5, 2**task.width - 1])
    bits = task.server_bits(uint64([7, 7]), uint64([5, 2**task.width - 1]))
    values = shared([100, -100], PRIME, [7, 7])
    assert numbers(task.circuit(Plain(), bits, task.holder_bits(uint64(values), uint64(noise)))) == [0]


def test_a_modulus_that_scores_do_not_reach_costs_no_reduction():
    """2^40 W is 0 in the ring of the scores, so the shares need only be added."""
    assert NoisyArgmax(2**40, -(2**20), 2**20, (3, 5), (0, 0), 1000).share_width == 0
    assert NoisyArgmax(2**40 - 1, -(2**20), 2**20, (3, 5), (0, 0), 1000).share_width == 40


@pytest.mark.parametrize(
    ("weights", "fraction", "most", "layers"),
    [(1, None, 180, 180), (10, None, 195, 190), (1, 0, 300, 300), (1000, 8, 700, 500)],
)
def test_a_candidate_costs_what_the_documentation_says(weights, fraction, most, layers):
    drawn = np.random.default_rng(1).integers(1, weights + 1, 105)
    task = NoisyArgmax(PRIME, 0, 2**32 - 5, tuple(drawn.tolist()), (0,) * 105, 2**20, fraction)
    gates = Plain()
    zeros = np.zeros(105, dtype=np.uint64)
    task.circuit(gates, task.server_bits(zeros, zeros), task.holder_bits(zeros, zeros))
    assert 0.8 * most < gates.conjunctions / 105 <= most
    assert gates.layers <= layers  # the time of a round grows with these: trees end the knock-out


# --- refusals -------------------------------------------------------------------------------------

GOOD = {"modulus": 101, "low": -50, "high": 51, "weights": (1, 2), "penalties": (0, 3), "noise_bound": 9}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"modulus": 1}, "modulus"),
        ({"modulus": 2**62 + 1}, "modulus"),
        ({"high": -50}, "high"),
        ({"high": 52}, "high"),
        ({"weights": ()}, "weights"),
        ({"weights": (1,)}, "weights"),
        ({"weights": (1, 2**56)}, "62; lower the weights or the bounds"),
        ({"penalties": (0, 2**62)}, "62; lower"),
        ({"noise_bound": -1}, "noise_bound"),
        ({"noise_bound": 2**61}, "62; lower"),
        ({"fraction": 2}, "fraction"),
        ({"fraction": -1, "low": 0}, "fraction"),
        ({"fraction": 60, "low": 0}, "62; lower"),
        ({"modulus": 101.0}, "modulus: needs integers"),
        ({"weights": (1, 0.5)}, "weights: needs integers"),
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(change, named):
    NoisyArgmax(**GOOD)
    with pytest.raises(ProtocolError, match=named):
        NoisyArgmax(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("values", "noise", "named"),
    [
        ([1, 101], [0, 0], "values: shares must be from 0"),
        ([1, -1], [0, 0], "values: shares must be from 0"),
        ([1, 2, 3], [0, 0], "values: needs an integer share"),
        ([1, 2], [0.0, 0.0], "noise: needs an integer share"),
        ([1, 2], [[0, 0]], "noise: needs an integer share"),
    ],
)
def test_shares_that_are_none_are_refused(values, noise, named):
    task = NoisyArgmax(**GOOD)
    for enter in (task.server_bits, task.holder_bits):
        with pytest.raises(ProtocolError, match=named):
            enter(np.array(values), np.array(noise))


def test_two_questions_have_two_digests():
    others = [{"low": -49}, {"high": 50}, {"weights": (2, 1)}, {"penalties": (3, 0)}, {"noise_bound": 8}]
    tasks = [NoisyArgmax(**{**GOOD, **change}) for change in [{}, *others, {"low": 0, "fraction": 0}]]
    assert len({task.digest for task in tasks}) == len(tasks)
    assert NoisyArgmax(**{**GOOD, "weights": tuple(np.array([1, 2]))}).digest == tasks[0].digest
