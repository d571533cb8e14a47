"""FHAIM on CKKS slots: approximate inside, exact where it is rounded, and loud where it would wrap around."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from marginal_sdg import Domain, Table, Workload
from marginal_sdg.backends.ckks_vault import CkksVault
from marginal_sdg.backends.distance import Distance
from marginal_sdg.backends.vault import Ballot, ClearVault
from marginal_sdg.crypto.ckks.holder import DataHolder
from marginal_sdg.crypto.ckks.keyholder import KeyHolder
from marginal_sdg.crypto.ckks.layout import LARGEST_CAP, Layout
from marginal_sdg.crypto.ckks.polynomial import absolute
from marginal_sdg.crypto.ckks.profile import NOISE_BITS, Profile, choose_profile
from marginal_sdg.crypto.ckks.server import Server
from marginal_sdg.crypto.fhe import library
from marginal_sdg.crypto.fhe.wire import Kind
from marginal_sdg.errors import ProtocolError
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy.noise import Source

try:
    library.openfhe()
except ProtocolError as error:
    pytest.skip(str(error), allow_module_level=True)

SHAPE, CAP = (3, 4, 2), 100
CLIQUES = tuple((a,) for a in range(3)) + tuple(combinations(range(3), 2))
CODES = np.random.default_rng(5).integers(0, SHAPE, (80, 3))
COUNTS = [np.histogramdd(CODES[:, q], [np.arange(SHAPE[a] + 1) for a in q])[0].astype(int).ravel() for q in CLIQUES]
SILENT = [np.zeros_like(counts) for counts in COUNTS]
rng = np.random.default_rng(6)
MODELS = {c: np.clip(counts + rng.integers(-9, 10, counts.size), 0, CAP) for c, counts in enumerate(COUNTS)}


class Run:
    """All roles of one run; the lower-level access of the tests needs the secret key."""

    def __init__(self, comp="packed", score="l2_squared", cap=CAP, cliques=CLIQUES, codes=CODES, flooded=False):
        self.layout = Layout(choose_profile(comp, score, flooded=flooded), SHAPE, cliques, cap)
        self.keyholder = KeyHolder(self.layout, decryptions=100)
        self.server = Server(self.layout, self.keyholder.public_key, self.keyholder.evaluation_keys, bytes(32))
        self.holder = DataHolder(self.layout, self.keyholder.public_key)
        self.server.receive(self.holder.upload_records(codes))
        self.server.compute()

    def raw(self, candidate):
        """Slots of a marginal in counts, before noise and rounding."""
        public, secret = self.keyholder._public, self.keyholder._secret
        opened = public.context.Decrypt(secret, public.context.Rescale(self.server._marginals[candidate]))
        opened.SetLength(self.layout.profile.slots)
        return np.array(opened.GetRealPackedValueArray()) * self.layout.records

    def measure(self, candidate, noise):
        return self.keyholder.measurement(
            candidate, self.server.measure(candidate, self.holder.count_noise(candidate, noise))
        )

    def scores(self, models):
        rows = self.layout.rows
        noise = [self.holder.score_noise({c % rows: 0.0 for c in group}) for group in self.layout.groups(models)]
        return self.keyholder.scores(models, self.server.select(models, noise))


@pytest.fixture(scope="module")
def run():
    return Run()


def assert_near_and_then_exact(run, counts=COUNTS):
    for candidate, expected in enumerate(counts):
        rest = run.raw(candidate)
        rest[run.layout.places(candidate)] -= expected
        assert abs(rest).max() < 1e-4  # 0.01 would do; slots that are no cell are 0
        noise = np.arange(expected.size) * 7 - 20
        np.testing.assert_array_equal(run.measure(candidate, noise), expected + noise)


def test_marginals_are_near_the_counts_and_measurements_exact(run):
    assert_near_and_then_exact(run)


def test_counts_of_several_row_blocks_add_up():
    codes = np.random.default_rng(1).integers(0, SHAPE, (600, 3))
    run = Run(cap=600, cliques=((0,), (0, 1)), codes=codes)
    assert run.layout.blocks > 1
    cells = np.bincount(codes[:, 0], minlength=3), np.bincount(codes[:, 0] * 4 + codes[:, 1], minlength=12)
    assert_near_and_then_exact(run, cells)


@pytest.mark.parametrize("comp", ["lazy", "plain"])
def test_cell_by_cell_gives_the_same(comp):
    run = Run(comp, cliques=((2,), (0, 2)))
    assert_near_and_then_exact(run, [COUNTS[2], COUNTS[4]])
    assert abs(run.scores({1: MODELS[4]}) * CAP**2 - ((COUNTS[4] - MODELS[4]) ** 2).sum()).max() < 0.01


def test_squared_distances_are_near_the_exact_ones(run):
    exact = [((COUNTS[c] - model) ** 2).sum() for c, model in MODELS.items()]
    np.testing.assert_allclose(run.scores(MODELS) * CAP**2, exact, atol=0.01)


def test_slots_that_are_no_score_and_no_cell_are_padded(run):
    """What the key holder decrypts besides the answer is uniform over the room, not the other lanes and candidates."""
    profile = run.layout.profile
    some = {c: MODELS[c] for c in (1, 4)}
    scores = run.server.select(some, [run.holder.score_noise({1: 0.0, 4: 0.0})])[0]
    answers = [(scores, Kind.SCORES, 0, profile.scored_level, np.array([1, 4]))]
    counts = run.server.measure(4, run.holder.count_noise(4, SILENT[4]))
    answers.append((counts, Kind.MEASUREMENT, 4, profile.measured_level, run.layout.places(4)))
    for message, kind, number, level, read in answers:
        rest = np.delete(run.keyholder._open(message, kind, number, level), read)
        assert stats.kstest(rest / profile.room, stats.uniform(-0.25, 0.5).cdf).pvalue > 1e-6


@pytest.mark.parametrize("score", ["l2_squared", pytest.param("l1_poly", marks=pytest.mark.slow)])
def test_flooded_decryptions_are_near_enough_to_round(score):
    """Both phases of OpenFHE's flooding: the estimate is below what is declared; then counts are within 0.01."""
    run = Run(score=score, flooded=True)
    assert_near_and_then_exact(run)
    exact = np.array([Distance(score, CAP).of(COUNTS[c] - model) for c, model in MODELS.items()])
    steps = 2.0**20
    messages, own = run.server.share_scores(MODELS, steps)
    shared = own + run.keyholder.share_scores(MODELS, messages, steps)
    unit = CAP**2 if score == "l2_squared" else CAP << 12
    assert abs(shared / steps - exact / unit).max() < 2.0**-14
    with pytest.MonkeyPatch.context() as patch:
        context = Profile.context
        patch.setattr(Profile, "context", lambda profile: context(profile, estimating=True))
        trial = Run(score=score, flooded=True)
        public, secret = trial.keyholder._public, trial.keyholder._secret
        _, counts = public.open(
            trial.server.measure(4, trial.holder.count_noise(4, SILENT[4])),
            Kind.MEASUREMENT,
            trial.layout.profile.measured_level,
        )
        ((_, scores),) = trial.server._scores(MODELS)  # pads of 34 bits add rounding of their own, which tells nothing
        for ciphertext in (counts, scores):
            estimate = public.context.Decrypt(secret, ciphertext).GetLogError()
            assert 0 < estimate < NOISE_BITS


def test_shared_scores_need_the_spare_level(run):
    with pytest.raises(ProtocolError, match="spare level"):
        run.server.share_scores(MODELS, 1.0)


def test_polynomial_scores_equal_the_polynomial_of_the_counts():
    run = Run(score="l1_poly", cliques=CLIQUES[3:5])
    models = {c: MODELS[c + 3] for c in range(2)}
    exact = [absolute()(COUNTS[c + 3] - model, CAP).sum() for c, model in models.items()]
    np.testing.assert_allclose(run.scores(models) * CAP, exact, atol=1e-3)
    assert_near_and_then_exact(run, COUNTS[3:5])


# --- the polynomial -------------------------------------------------------------------------------


def test_the_polynomial_is_near_the_absolute_value_and_0_at_0():
    x = np.linspace(-1, 1, 20_001)
    gap = abs(absolute()(x, 1) - abs(x)).max()
    assert gap == pytest.approx(absolute().error, abs=1e-5) and gap < 0.05
    assert absolute()(np.zeros(1), 1)[0] == 0


@pytest.mark.parametrize("records", [1, 2, 10, 100, 5000])
def test_the_sensitivity_is_what_a_record_changes_at_most(records):
    x = np.unique(np.r_[np.linspace(-records, records - 1, 50_001), np.arange(-records, records)])
    changes = abs(absolute()(x + 1, records) - absolute()(x, records)).max()
    assert absolute().sensitivity(records) == pytest.approx(changes, rel=1e-4)


def test_the_sensitivity_of_the_polynomial_is_not_1():
    assert absolute().sensitivity(768) == pytest.approx(1.5, abs=0.01)


# --- the vault ------------------------------------------------------------------------------------

DOMAIN = Domain.from_shape({"a": 3, "b": 4, "c": 2})
TABLE = Table(DOMAIN, CODES.astype(np.int32))
WORKLOAD = Workload(DOMAIN, tuple(combinations(DOMAIN.names, 2)))


def vault(score="l2_squared", **params):
    source = Source.seeded(3)
    return CkksVault(TABLE, WORKLOAD, source.key, **{"max_records": CAP, "measurements": 50, "score": score, **params})


def ballot(seed, score="l2_squared"):
    """Public counts, and noise that separates the scores by more than their error."""
    rng = np.random.default_rng(seed)
    cliques = tuple(rng.permutation(np.array(WORKLOAD.closure, dtype=object))[: rng.integers(1, 7)])
    expected = tuple(np.clip(contingency(TABLE, q) + rng.integers(-9, 10, DOMAIN.size(q)), 0, CAP) for q in cliques)
    weights, penalties = rng.integers(1000, 5000, len(cliques)), rng.integers(0, 10**5, len(cliques))
    noise = rng.integers(-(10**6), 10**6, len(cliques))
    return Ballot(cliques, expected, weights, penalties, Distance(score, CAP)), noise


@pytest.mark.parametrize("release", ["index", "scores"])
@pytest.mark.parametrize("score", ["l2_squared", pytest.param("l1_poly", marks=pytest.mark.slow)])
def test_the_vault_selects_and_measures_as_in_the_clear(score, release):
    sealed, clear = vault(score, release=release), ClearVault(TABLE)
    for seed in range(8):
        question, noise = ballot(seed, score)
        assert sealed.select(question, [noise], 10**6) == clear.select(question, [noise], 10**6)
    noise = [np.arange(DOMAIN.size(q)) - 3 for q in WORKLOAD.closure]
    found = zip(sealed.measure(WORKLOAD.closure, [noise]), clear.measure(WORKLOAD.closure, [noise]), strict=True)
    assert all((a == b).all() for a, b in found)
    assert all(sealed.seconds.values()) and all(
        sealed.traffic[phase] for phase in ("keys", "upload", "select", "measure")
    )


def test_the_vault_refuses_square_roots_and_noise_that_would_wrap_around():
    sealed = vault(release="scores")
    question, noise = ballot(0)
    with pytest.raises(ProtocolError, match="levels for 'l2_squared', not for 'l2'"):
        sealed.select(replace(question, distance=Distance("l2", CAP)), [noise], 10**6)
    with pytest.raises(ProtocolError, match="wrap around"):
        sealed.select(question, [noise], 10**13)


# --- what would fail in silence -------------------------------------------------------------------


def test_every_parameter_set_has_128_bits_of_security():
    scores = ("l2_squared", "l1_poly")
    sets = {choose_profile(comp, score) for comp in ("plain", "lazy", "packed") for score in scores}
    sets |= {choose_profile("packed", score, flooded=True) for score in scores}
    for profile in sets:
        assert profile.context().GetRingDimension() == profile.ring
        with pytest.raises(ProtocolError, match="128 bits"):
            replace(profile, ring=profile.ring // 2).context()


def test_a_table_above_the_cap_is_refused(run):
    with pytest.raises(ProtocolError, match="declared cap of 100"):
        run.holder.upload_records(np.tile(CODES, (2, 1)))
    with pytest.raises(ProtocolError, match="cap"):
        replace(run.layout, records=LARGEST_CAP + 1)


def test_counts_beyond_what_one_modulus_holds_are_refused_by_the_cap():
    shallow = Profile("lazy", "l2_squared", 4096, 1, "BV", scale_bits=45)
    assert shallow.largest_count == 2 ** (60 - 45 - 1)
    Layout(shallow, SHAPE, CLIQUES, 2**14 - 1)
    with pytest.raises(ProtocolError, match="would wrap around"):
        Layout(shallow, SHAPE, CLIQUES, 2**14)


def test_values_beyond_the_room_wrap_around_and_are_refused(run):
    """Noise of the room times the cap decrypts as another number; the guard is at half of it."""
    public, profile = run.keyholder._public, run.layout.profile
    assert profile.room == 2 ** (profile.first_bits - profile.scale_bits - 1)
    large = np.full(profile.slots, 1.5 * profile.room)
    opened = public.context.Decrypt(run.keyholder._secret, public.encrypt(large, profile.depth))
    opened.SetLength(1)
    assert abs(opened.GetRealPackedValue()[0] - large[0]) > profile.room
    with pytest.raises(ProtocolError, match="wrap around"):
        run.holder.count_noise(0, np.full(3, CAP * profile.room))
    with pytest.raises(ProtocolError, match="wrap around"):
        run.holder.score_noise({0: float("nan")})
    with pytest.raises(ProtocolError, match="wrap around"):
        run.scores({0: np.array([0, 0, 300])})


def test_a_rotation_after_the_rescaling_is_refused_under_bv(run):
    public = run.keyholder._public
    with pytest.raises(ProtocolError, match="before the rescaling"):
        public.fold(public.encrypt(np.ones(8), 0), 1, 4)


def test_what_is_not_near_integers_is_not_released(run):
    message = run.server.measure(3, run.holder.count_noise(3, SILENT[3]))
    _, ciphertext = run.keyholder._public.open(message, Kind.MEASUREMENT, 2)
    half = run.keyholder._public.context.EvalAdd(ciphertext, 0.5 / CAP)
    with pytest.raises(ProtocolError, match="not near integers"):
        run.keyholder.measurement(3, run.keyholder._public.frame(Kind.MEASUREMENT, 3, half))


def test_other_parameters_keys_and_broken_messages_are_refused(run):
    other = replace(run.layout, records=90)
    with pytest.raises(ProtocolError, match="another layout or parameter set"):
        DataHolder(other, run.keyholder.public_key)
    stranger = KeyHolder(run.layout, 1)
    message = run.holder.count_noise(0, SILENT[0])
    with pytest.raises(ProtocolError, match="another key"):
        stranger.measurement(0, run.server.measure(0, message))
    with pytest.raises(ProtocolError, match="bytes came of"):
        run.server.measure(0, message[:-1])
    with pytest.raises(ProtocolError, match="does not fit"):
        run.server.measure(0, run.holder._encrypted(np.zeros(8), 0))
    with pytest.raises(ProtocolError, match="ends early"):
        run.server.receive([])


def test_the_key_holder_decrypts_no_more_than_declared(run):
    keyholder = KeyHolder(run.layout, 0)
    empty = keyholder._public.frame(Kind.MEASUREMENT, 0, keyholder._public.encrypt(np.zeros(8), 2))
    with pytest.raises(ProtocolError, match="no ciphertext may be decrypted any more"):
        keyholder.measurement(0, empty)


@pytest.mark.parametrize("params", [("fast", "l2_squared"), ("packed", "l2")])
def test_unknown_modes_are_refused(params):
    with pytest.raises(ProtocolError, match=r"none of|neither of"):
        choose_profile(*params)


@pytest.mark.parametrize("shape", [(65, 2)])
def test_attributes_too_large_for_a_ciphertext_are_refused(shape):
    with pytest.raises(ProtocolError, match="use fewer bins"):
        Layout(choose_profile(), shape, ((0, 1),), CAP)


def test_cliques_must_be_pairs_or_single_attributes():
    with pytest.raises(ProtocolError, match="ascending"):
        Layout(Profile("packed", "l2_squared", 8192, 3, "BV"), SHAPE, ((1, 0),), CAP)
