"""The samplers return what exact inversion of the distribution function returns, bit for bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from marginal_sdg.errors import BudgetError
from marginal_sdg.privacy import noise
from marginal_sdg.privacy.noise import DiscreteGaussian, Source, exact_choice

FULL = 2**64 - 1
VARIANCES = [Fraction(1, 100), Fraction(1, 4), Fraction(1), Fraction(22, 7), Fraction(100)]
DIGITS = Context(prec=150)


class Script(Source):
    """A source that plays back given words, and only those."""

    def __init__(self, words: Iterable[int]) -> None:
        super().__init__(None)
        self.left = list(words)

    def words(self, n: int) -> np.ndarray:
        taken, self.left = self.left[:n], self.left[n:]
        assert len(taken) == n, "the sampler asked for more bits than the script holds"
        return np.array(taken, dtype=np.uint64)


def gaussian_cdf(variance: Fraction, largest: int) -> list[Decimal]:
    """P(|X| <= k) for k = 0..largest to about 140 digits, each term computed on its own."""
    with localcontext(DIGITS):
        exponent = -Decimal(variance.denominator) / (2 * variance.numerator)
        reach = largest + 30 * math.isqrt(math.ceil(variance)) + 30  # 30 sigma: e^-450
        weights = [(exponent * k * k).exp() * (1 if k == 0 else 2) for k in range(reach)]
        total = sum(weights)
        return [running / total for running in itertools.accumulate(weights[: largest + 1])]


def choice_cdf(log_weights: list[float]) -> list[Decimal]:
    with localcontext(DIGITS):
        top = Decimal(max(log_weights))
        weights = [Decimal(0) if w == -math.inf else (Decimal(w) - top).exp() for w in log_weights]
        total = sum(weights)
        return [running / total for running in itertools.accumulate(weights)]


def invert(cdf: list[Decimal], bits: str) -> int:
    """First k with U < F(k), for U = 0.bits read to its last digit."""
    with localcontext(DIGITS):
        uniform = Decimal(int(bits, 2)) / Decimal(2 ** len(bits))
        return next(k for k, boundary in enumerate(cdf) if uniform < boundary)


def given_to_bracket(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> tuple[list[int], int, int, int]:
    """The arguments that ``call`` hands to ``_bracket``: running sums, their error, the largest total, bits."""
    seen: list[tuple[list[int], int, int, int]] = []
    bracket = noise._bracket
    monkeypatch.setattr(noise, "_bracket", lambda *given: seen.append(given) or bracket(*given))
    call()
    return seen[0]


def leading_bits(boundary: Decimal, n: int) -> int:
    with localcontext(DIGITS):
        return int(boundary * 2**n)


# --- discrete Gaussian ----------------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("negative", [0, 1])
def test_gaussian_with_a_six_bit_prefix_inverts_every_bit_string(variance: Fraction, negative: int) -> None:
    # The prefix takes 64 values and ties are common; the continuations include the extreme ones.
    cdf = gaussian_cdf(variance, 12 * math.isqrt(math.ceil(variance)) + 12)
    random = np.random.default_rng(1).integers(0, FULL, size=4, endpoint=True, dtype=np.uint64)
    sampler = DiscreteGaussian(variance, prefix_bits=6)
    for prefix, more in itertools.product(range(64), [0, FULL - 1, *map(int, random)]):
        source = Script([prefix << 58 | negative, more, 0])
        (drawn,) = sampler.sample(1, source)
        size = invert(cdf, f"{prefix:06b}{more:064b}{0:064b}")
        assert drawn == (-size if negative else size)


@pytest.mark.parametrize("variance", VARIANCES[1:])
def test_gaussian_reads_on_when_the_bits_follow_a_boundary_exactly(variance: Fraction) -> None:
    # The script spells out a boundary's own first 134 bits, so that only the last word can decide.
    cdf = gaussian_cdf(variance, 60)
    for boundary in cdf[:6]:
        head = leading_bits(boundary, 6 + 128)
        words = [(head >> 128) << 58, head >> 64 & FULL, head & FULL]
        for last in (0, FULL):
            source = Script([*words, last])
            (drawn,) = DiscreteGaussian(variance, prefix_bits=6).sample(1, source)
            assert not source.left
            assert drawn == invert(cdf, f"{head:0134b}{last:064b}")


@pytest.mark.parametrize("sigma", [1, 20, 300])
def test_gaussian_with_the_full_prefix_inverts_words_near_and_far_from_boundaries(sigma: int) -> None:
    variance = Fraction(sigma * sigma)
    cdf = gaussian_cdf(variance, 10 * sigma)
    tops = [leading_bits(boundary, 63) for boundary in cdf[: 6 * sigma : sigma // 4 + 1]]
    near = [top + shift for top in tops for shift in (-1, 1)]
    far = np.random.default_rng(2).integers(0, 2**63 - 1, size=500).tolist()
    prefixes = near + far
    drawn = DiscreteGaussian(variance).sample(len(prefixes), Script([prefix << 1 for prefix in prefixes]))
    assert drawn.tolist() == [invert(cdf, f"{prefix:063b}") for prefix in prefixes]


def test_gaussian_reads_no_more_bits_than_a_boundary_needs() -> None:
    _, high = noise._gaussian_boundaries(Fraction(22, 7), 63)
    for k, boundary in enumerate(high[:5]):
        drawn = DiscreteGaussian(Fraction(22, 7)).sample(1, Script([boundary << 1]))
        assert drawn.tolist() == [k + 1]


@pytest.mark.parametrize("variance", [*VARIANCES, Fraction(2500), Fraction(10**5, 3)])
def test_gaussian_table_brackets_the_true_boundaries_tightly(variance: Fraction) -> None:
    low, high = noise._gaussian_boundaries(variance, 63)
    with localcontext(DIGITS):
        scaled = [boundary * 2**63 for boundary in gaussian_cdf(variance, len(low) - 1)]
    assert all(a <= true <= b for a, true, b in zip(low, scaled, high, strict=True))
    assert max(b - a for a, b in zip(low, high, strict=True)) <= 2
    assert high[-1] == 2**63
    assert len(low) == 1 or high[-2] < 2**63


@pytest.mark.parametrize("variance", [*VARIANCES, Fraction(2500), Fraction(10**5, 3)])
def test_gaussian_sums_and_their_total_keep_within_their_proven_bounds(
    monkeypatch: pytest.MonkeyPatch, variance: Fraction
) -> None:
    sums, error, largest_total, _ = given_to_bracket(monkeypatch, lambda: noise._gaussian_boundaries(variance, 63))
    cdf = gaussian_cdf(variance, 30 * math.isqrt(math.ceil(variance)) + 29)
    with localcontext(DIGITS):
        total = sums[0] / cdf[0]  # the first weight, exp(0), is exact
        assert all(value <= total * true <= value + error for value, true in zip(sums[1:], cdf[1:], strict=False))
        assert sums[-1] <= total <= largest_total


@pytest.mark.parametrize("variance", [*VARIANCES, Fraction(10**5, 3)])
@pytest.mark.parametrize("bits", [6, 63])
def test_gaussian_bounds_are_those_of_the_proof_and_no_looser(
    monkeypatch: pytest.MonkeyPatch, variance: Fraction, bits: int
) -> None:
    # Looser ones would cost bits in every comparison; tighter ones are not proven, whether or not a sample shows it.
    given = given_to_bracket(monkeypatch, lambda: noise._gaussian_boundaries(variance, bits))
    sums, error, largest_total, given_bits = given
    assert (sums[0], given_bits) == (1 << (bits + 96), bits)
    weights = [(after - before) // 2 for before, after in itertools.pairwise(sums)]
    tails = [2 * math.ceil(variance / k) * (w + 2 * k * (k + 1)) for k, w in enumerate(weights, 1)]
    negligible = [tail * 2 ** (bits + 16) <= running for tail, running in zip(tails, sums[1:], strict=True)]
    assert negligible.index(True) == len(tails) - 1  # stops at the first k whose tail is negligible
    assert error == 2 * len(sums) ** 3
    assert largest_total == sums[-1] + error + tails[-1]


def test_choice_claims_three_units_of_error_for_each_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    sums, error, largest_total, _ = given_to_bracket(
        monkeypatch, lambda: noise._choice_boundaries([Fraction(0), Fraction(-1), Fraction(-5)], 63)
    )
    assert (error, largest_total) == (3 * 3, sums[-1] + 3 * 3)


@pytest.mark.parametrize("bits", [64, 160, 6000])
@pytest.mark.parametrize("x", [Fraction(0), Fraction(-1, 10**12), Fraction(-1, 3), Fraction(-40), Fraction(-(10**9))])
def test_exponentials_are_rounded_down_by_less_than_three_units(x: Fraction, bits: int) -> None:
    rounded = noise._exp_below(x, bits)
    with localcontext(Context(prec=2000)):
        true = (Decimal(x.numerator) / x.denominator).exp() * 2**bits
        assert 0 <= rounded <= true < rounded + 3


def test_brackets_cover_all_values_and_totals_they_are_told_of_and_no_more() -> None:
    for value in range(20):
        low, high = noise._bracket([value, 20], 3, 26, 5)
        ratios = [Fraction(32 * v, t) for v in range(value, value + 4) for t in range(20, 27)]
        assert (low[0], high[0]) == (math.floor(min(ratios)), math.ceil(max(ratios)))


def test_gaussian_table_of_more_bits_refines_the_coarser_one() -> None:
    coarse, fine = (noise._gaussian_boundaries(Fraction(7), bits) for bits in (20, 84))
    for k in range(len(coarse[0])):
        assert coarse[0][k] << 64 <= fine[1][k]
        assert fine[0][k] <= coarse[1][k] << 64


@pytest.mark.parametrize("variance", [Fraction(1, 100), Fraction(1, 10**30)])
def test_gaussian_of_tiny_variance_is_almost_surely_zero(variance: Fraction) -> None:
    assert not DiscreteGaussian(variance).sample(10_000, Source.seeded(0)).any()


def test_gaussian_of_large_variance_has_that_variance() -> None:
    drawn = DiscreteGaussian(Fraction(10_000**2)).sample(40_000, Source.seeded(0))
    assert drawn.std() == pytest.approx(10_000, rel=0.02)
    assert abs(drawn.mean()) < 6 * 10_000 / 200


@pytest.mark.parametrize("shape", [0, 7, (3, 4), (2, 0), ()])
def test_gaussian_fills_the_asked_shape_with_int64(shape: int | tuple[int, ...]) -> None:
    drawn = DiscreteGaussian(Fraction(4)).sample(shape, Source.seeded(0))
    assert drawn.shape == (shape if isinstance(shape, tuple) else (shape,))
    assert drawn.dtype == np.int64


@pytest.mark.parametrize("variance", [0, Fraction(-1), 2.5, "4", None])
def test_gaussian_refuses_what_is_not_a_positive_fraction(variance: object) -> None:
    with pytest.raises(BudgetError, match="variance must be a positive Fraction"):
        DiscreteGaussian(variance)  # type: ignore[arg-type]


def test_gaussian_takes_an_integer_and_the_largest_variance() -> None:
    assert isinstance(DiscreteGaussian(4).variance, Fraction)  # type: ignore[arg-type]
    assert DiscreteGaussian(Fraction(noise.LARGEST_VARIANCE)).variance == 2**34


def test_gaussian_fills_a_shape_from_the_operating_system() -> None:
    assert DiscreteGaussian(Fraction(4)).sample((3, 4), Source.system()).shape == (3, 4)


def test_gaussian_refuses_tables_that_would_not_fit_in_memory() -> None:
    with pytest.raises(BudgetError, match=r"variance 1e\+12 is above .*: raise epsilon or ask for fewer releases$"):
        DiscreteGaussian(Fraction(10**12))


# --- exact choice ---------------------------------------------------------------------------------

CANDIDATES = {
    "one": [3.0],
    "equal": [0.0, 0.0, 0.0],
    "mixed": [-1.5, 0.25, -math.inf, 0.0, -7.0],
    "zero first and last": [-math.inf, -1.0, 0.5, -math.inf],
    "far apart": [-40.0, 0.0, -800.0, -40.0],
    "large": [1e6 + 0.5, 1e6, 1e6 - 2.0],
    "many": np.random.default_rng(3).normal(0, 4, size=161).tolist(),
}
each_candidate_list = pytest.mark.parametrize("log_weights", CANDIDATES.values(), ids=list(CANDIDATES))


@each_candidate_list
def test_choice_agrees_with_exact_inversion_everywhere_and_beside_every_boundary(
    log_weights: list[float],
) -> None:
    cdf = choice_cdf(log_weights)
    words = np.random.default_rng(4).integers(0, FULL, size=200, endpoint=True, dtype=np.uint64).tolist()
    for boundary in cdf[:: len(cdf) // 20 + 1]:
        words += [leading_bits(boundary, 64) + shift for shift in (-(2**12), -1, 1, 2**12)]
    for word in words:
        if 0 <= word < FULL:  # the all-ones word reads on: tested below
            drawn = exact_choice(log_weights, Script([word, 2**63, 0]))
            assert drawn == invert(cdf, f"{word:064b}{2**63:064b}")


@each_candidate_list
def test_choice_with_a_six_bit_prefix_inverts_every_bit_string(log_weights: list[float]) -> None:
    cdf = choice_cdf(log_weights)
    for prefix, more in itertools.product(range(64), [0, FULL - 2**40]):
        drawn = noise._choose_slowly(np.array(log_weights), prefix, 6, Script([more, 1]))
        assert drawn == invert(cdf, f"{prefix:06b}{more:064b}{1:064b}")


@each_candidate_list
def test_choice_sums_and_their_total_keep_within_their_proven_bounds(
    monkeypatch: pytest.MonkeyPatch, log_weights: list[float]
) -> None:
    exact = [Fraction(weight) for weight in log_weights if weight > -math.inf]
    sums, error, largest_total, _ = given_to_bracket(monkeypatch, lambda: noise._choice_boundaries(exact, 63))
    with localcontext(DIGITS):
        weights = [(Decimal(float(weight)) - Decimal(float(max(exact)))).exp() * 2 ** (63 + 64) for weight in exact]
        true = list(itertools.accumulate(weights))
        assert all(a <= b <= a + error for a, b in zip(sums, true, strict=True))
        assert true[-1] <= largest_total


def test_choice_reads_on_when_the_bits_follow_a_boundary_exactly() -> None:
    cdf = choice_cdf(CANDIDATES["mixed"])
    for boundary in cdf[:2]:
        head = leading_bits(boundary, 192)
        for last in (0, FULL):
            source = Script([head >> 128, head >> 64 & FULL, head & FULL, last])
            assert exact_choice(CANDIDATES["mixed"], source) == invert(cdf, f"{head:0192b}{last:064b}")
            assert not source.left


def test_choice_settles_nearly_all_draws_without_extra_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_choose_slowly", None)
    source = Source.seeded(5)
    for _ in range(2_000):
        exact_choice(CANDIDATES["many"], source)
        exact_choice(CANDIDATES["large"], source)


def test_choice_does_not_mind_that_numpy_raises_on_underflow() -> None:
    with np.errstate(all="raise"):
        assert exact_choice([-800.0, 0.0], Source.seeded(0)) == 1


def test_choice_trusts_no_more_of_numpy_exp_than_it_claims() -> None:
    # The slack of exact_choice allows 16 units of 2^-53; numpy must stay well inside.
    exponents = np.concatenate([-np.random.default_rng(6).exponential(30, size=4_000), [-0.0, -1e-300, -700.0]])
    with localcontext(DIGITS):
        for exponent, value in zip(exponents.tolist(), np.exp(exponents).tolist(), strict=True):
            assert abs(Decimal(value) / Decimal(exponent).exp() - 1) < Decimal(8) / 2**53


def test_choice_takes_single_precision_weights_as_exact_numbers() -> None:
    log_weights = np.array([0.1, -1.3, 2.7, 0.4], dtype=np.float32)
    for boundary in choice_cdf(log_weights.tolist())[:-1]:
        for shift in (-(2**20), 2**20):
            word = leading_bits(boundary, 64) + shift
            assert exact_choice(log_weights, Script([word, 0])) == invert(
                choice_cdf(log_weights.tolist()), f"{word:064b}"
            )


def test_choice_ignores_a_common_shift_of_the_weights() -> None:
    log_weights = np.array([-3.0, 0.0, 2.0, 1.0])
    for seed in range(50):
        assert exact_choice(log_weights, Source.seeded(seed)) == exact_choice(log_weights + 1024.0, Source.seeded(seed))


def test_choice_never_takes_a_candidate_of_weight_zero() -> None:
    source = Source.seeded(7)
    assert {exact_choice([-math.inf, 0.0, -math.inf, 0.0], source) for _ in range(500)} == {1, 3}


@pytest.mark.parametrize("log_weights", [[1e308, -1e308], [0.0, -1e300, -5e-324], [5e-324, -math.inf]])
def test_choice_survives_extreme_weights(log_weights: list[float]) -> None:
    source = Source.seeded(8)
    for _ in range(20):
        assert log_weights[exact_choice(log_weights, source)] > -1e300


@pytest.mark.parametrize(
    "log_weights", [[], [math.nan], [0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf], [[0.0]]]
)
def test_choice_refuses_weights_that_are_no_distribution(log_weights: list[float]) -> None:
    message = "^log_weights must be a non-empty vector below .inf, without NaN, not all -inf$"
    with pytest.raises(BudgetError, match=message):
        exact_choice(log_weights, Source.seeded(0))


# --- sources --------------------------------------------------------------------------------------


def test_seeded_source_repeats_itself_and_a_secure_one_does_not() -> None:
    assert (Source.seeded(3).words(5) == Source.seeded(3).words(5)).all()
    assert (Source.seeded(3).words(5) != Source.seeded(4).words(5)).all()
    assert (Source.system().words(5) != Source.system().words(5)).all()


@pytest.mark.parametrize("source", [Source.seeded(1), Source.system()])
def test_words_are_64_random_bits(source: Source) -> None:
    words = source.words(200)
    assert words.dtype == np.uint64
    assert words.shape == (200,)
    ones = (words[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).sum(axis=0)
    assert (np.abs(ones.astype(int) - 100) < 7 * math.sqrt(50)).all()


def test_keys_are_the_next_32_bytes_of_the_source() -> None:
    source, same = Source.seeded(3), Source.seeded(3)
    assert [source.key(), source.key()] == [same.words(4).tobytes(), same.words(4).tobytes()]
    assert len({source.key(), Source.system().key(), Source.system().key()}) == 3
    assert len(Source.system().key()) == 32


def test_source_tells_its_kind_and_children_inherit_it() -> None:
    assert Source.system().secure is True
    assert Source.seeded(1).secure is False
    for parent in (Source.system(), Source.seeded(1)):
        children = parent.spawn(3)
        assert [child.secure for child in children] == [parent.secure] * 3
        assert len({int(source.words(1)[0]) for source in (parent, *children)}) == 4


def test_seeded_children_and_generators_are_reproducible_and_distinct() -> None:
    first, second = Source.seeded(9), Source.seeded(9)
    assert [int(s.words(1)[0]) for s in first.spawn(2)] == [int(s.words(1)[0]) for s in second.spawn(2)]
    assert first.generator().integers(2**62) == second.generator().integers(2**62)
    assert first.generator().integers(2**62) != first.generator().integers(2**62)
    assert Source.system().generator().integers(2**62) != Source.system().generator().integers(2**62)


def test_a_key_gives_the_same_bits_again_and_different_ones_to_each_that_it_is_split_into() -> None:
    first, again, other = (Source.keyed(bytes([byte]) * 32) for byte in (1, 1, 2))
    drawn = [source.words(4096).tolist() for source in (first, *first.spawn(2), other)]
    assert drawn[:3] == [source.words(4096).tolist() for source in (again, *again.spawn(2))]
    assert len({word for words in drawn for word in words}) == 4 * 4096
    assert first.generator().random(3).tolist() == again.generator().random(3).tolist()
    assert first.generator().random() != other.generator().random()
    assert first.secure and first.seed is None and first.spawn(1)[0].secure
    assert abs(np.unpackbits(first.words(1000).view(np.uint8)).mean() - 0.5) < 0.02


def test_generators_are_numpys_own_children_of_the_seed() -> None:
    source = Source.seeded(9)
    for child in np.random.SeedSequence(9).spawn(2):
        assert source.generator().integers(2**62) == np.random.default_rng(child).integers(2**62)


def test_source_takes_a_seed_sequence_or_a_fresh_seed() -> None:
    sequence = np.random.SeedSequence(11)
    assert (Source.seeded(sequence).words(3) == Source.seeded(11).words(3)).all()
    assert (Source.seeded(None).words(3) != Source.seeded(None).words(3)).all()


@pytest.mark.parametrize("seed", [-1, 1.5, "1"])
def test_seeded_source_refuses_what_is_no_seed(seed: object) -> None:
    with pytest.raises(BudgetError, match="seed must be"):
        Source.seeded(seed)  # type: ignore[arg-type]


def test_a_seed_can_be_told_and_makes_the_same_source_again():
    assert Source.system().seed is None
    source = Source.seeded(5).spawn(2)[1]
    entropy, branch = source.seed
    again = Source.seeded(np.random.SeedSequence(entropy, spawn_key=branch))
    np.testing.assert_array_equal(source.words(9), again.words(9))
    with pytest.raises(BudgetError, match="whole number"):
        _ = Source.seeded(np.random.SeedSequence([1, 2])).seed
