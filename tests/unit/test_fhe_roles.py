"""Exact marginals, scores and measurements of a table that neither server nor key holder can read."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from marginal_sdg.crypto.fhe import library, wire
from marginal_sdg.crypto.fhe.flooding import Covers
from marginal_sdg.crypto.fhe.holder import DataHolder
from marginal_sdg.crypto.fhe.keyholder import KeyHolder
from marginal_sdg.crypto.fhe.keys import WholeKey
from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.plan import Plan, choose_layout
from marginal_sdg.crypto.fhe.profile import Profile, choose_profile
from marginal_sdg.crypto.fhe.public import Public
from marginal_sdg.crypto.fhe.server import Server
from marginal_sdg.crypto.fhe.shares import local_scores
from marginal_sdg.crypto.fhe.threshold import FirstHalf, Partner
from marginal_sdg.crypto.fhe.wire import HEADER_BYTES, Frame, Kind
from marginal_sdg.crypto.kept import Memory
from marginal_sdg.errors import ProtocolError
from marginal_sdg.privacy import Source

try:
    library.openfhe()
except ProtocolError as error:
    pytest.skip(str(error), allow_module_level=True)

SHAPE = (3, 5, 2, 4)
CLIQUES = tuple((a,) for a in range(4)) + tuple(combinations(range(4), 2))
CODES = np.random.default_rng(5).integers(0, SHAPE, (120, 4))
LAYOUT = choose_layout(choose_profile(150), SHAPE, CLIQUES)
T = LAYOUT.profile.plaintext
SERVER_KEY = bytes(range(32))


def marginals(codes, layout=LAYOUT):
    found = []
    for clique in layout.cliques:
        counts = np.zeros([layout.shape[a] for a in clique], dtype=np.int64)
        np.add.at(counts, tuple(codes[:, a] for a in clique), 1)
        found.append(counts.ravel())
    return found


class Run:
    """All roles of one run; ``upload(run)`` hands the server what the data holders send."""

    def __init__(self, layout, upload, secret=None, threads=1):
        self.layout = layout
        self.secret = secret or WholeKey(layout)
        self.keyholder = KeyHolder(self.secret, decryptions=1000)
        self.server = Server(
            layout, self.keyholder.public_key, self.keyholder.evaluation_keys, SERVER_KEY, threads=threads
        )
        upload(self)
        self.server.compute()

    def holder(self, records, threads=1):
        return DataHolder(self.layout, self.keyholder.public_key, records, threads)

    def marginals(self):
        messages, halves = self.server.share()
        t = self.layout.profile.plaintext
        return [(a + b) % t for a, b in zip(halves, self.keyholder.share(messages), strict=True)]

    def budget(self, ciphertext):
        """Bits that the noise of a ciphertext may still grow before decryption goes wrong.

        Doubling a ciphertext doubles its noise: how often can that be done? Needs the secret key.
        """
        public, t = self.secret.public, self.layout.profile.plaintext
        expected = public.read(self.secret.decrypt(ciphertext))
        double = public.encode(np.array([2]), ciphertext.GetLevel())
        bits = 0
        while True:
            ciphertext = public.weigh(ciphertext, double)
            expected = 2 * expected % t
            if not np.array_equal(public.read(self.secret.decrypt(ciphertext)), expected):
                return bits
            bits += 1

    def noise_bits(self, ciphertext):
        """Bits of the noise itself: it and the budget make up half the modulus that is left."""
        profile = self.layout.profile
        return (profile.towers - ciphertext.GetLevel()) * profile.tower_bits - 1 - self.budget(ciphertext)


def two_holders(run):
    run.server.receive(run.holder(90).upload_records(CODES[:80]))
    run.server.receive(run.holder(60).upload_records(CODES[80:]))


@pytest.fixture(scope="module")
def run():
    return Run(LAYOUT, two_holders)


@pytest.fixture(scope="module")
def scored(run):
    """A run whose squared norms have been shared."""
    run.keyholder.norms(run.server.norms())
    return run


# --- marginals ------------------------------------------------------------------------------------


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_marginals_of_two_holders_equal_the_counts_of_the_joined_table(run):
    assert same(run.marginals(), marginals(CODES))


def test_uploaded_counts_add_to_uploaded_records():
    def upload(run):
        run.server.receive(run.holder(70).upload_counts(marginals(CODES[:70])))
        run.server.receive(run.holder(50).upload_records(CODES[70:]))

    assert same(Run(LAYOUT, upload).marginals(), marginals(CODES))


def test_columns_may_be_split_between_holders_of_the_same_records():
    def upload(run):
        left = run.holder(120).upload_records(CODES[:, [0, 2]], attributes=[0, 2])
        right = run.holder(120).upload_records(CODES[:, [1, 3]], attributes=[1, 3])
        run.server.receive(left, right)

    assert same(Run(LAYOUT, upload).marginals(), marginals(CODES))


def test_threads_change_nothing():
    def upload(run):
        run.server.receive(run.holder(120, threads=2).upload_records(CODES))

    assert same(Run(LAYOUT, upload, threads=2).marginals(), marginals(CODES))


def test_one_attribute_and_an_empty_table():
    layout = Layout(choose_profile(10), (5,), ((0,),), 4)
    run = Run(layout, lambda run: run.server.receive(run.holder(10).upload_records(np.empty((0, 1), np.int64))))
    assert run.marginals()[0].tolist() == [0] * 5


def test_a_marginal_larger_than_a_ciphertext_is_split_over_several():
    layout = Layout(choose_profile(60), (100, 100), ((0, 1), (1,)), 32)
    codes = np.random.default_rng(2).integers(0, 100, (60, 2))
    assert [len(numbers) for numbers in layout.parts_of] == [2, 1]
    run = Run(layout, lambda run: run.server.receive(run.holder(60).upload_records(codes)))
    assert same(run.marginals(), marginals(codes, layout))
    holder = run.holder(60)
    noise = [np.full(layout.profile.ring, value) for value in (5, -7)]
    messages = run.server.measure(0, [holder.encrypt_noise(values) for values in noise])
    added = run.keyholder.measurement(0, messages) - marginals(codes, layout)[0]
    assert sorted(set(added)) == [-7, 5]


# --- scores ---------------------------------------------------------------------------------------


def random_models(seed, counts):
    rng = np.random.default_rng(seed)
    return {c: rng.integers(0, 2 * cells.mean() + 2, cells.size) for c, cells in enumerate(counts)}


def test_halves_of_scores_add_up_to_squared_distances_in_every_round(scored):
    exact = marginals(CODES)
    for seed in range(12):
        models = random_models(seed, exact)
        scores = scored.server.scores(models)
        halves = scored.keyholder.scores(list(models), scores.messages)
        expected = [int(((exact[c] - model) ** 2).sum()) for c, model in models.items()]
        assert ((scores.shares + halves) % T).tolist() == expected


def test_scores_of_some_candidates_in_any_order(scored):
    exact = marginals(CODES)
    models = {c: random_models(1, exact)[c] for c in (7, 0, 5)} | {4: np.zeros(15, np.int64)}
    scores = scored.server.scores(models)
    halves = scored.keyholder.scores(list(models), scores.messages)
    expected = [int(((exact[c] - model) ** 2).sum()) for c, model in models.items()]
    assert ((scores.shares + halves) % T).tolist() == expected


def test_halves_of_scores_look_uniform(scored):
    """Each party's halves of one and the same score: fresh in every round, spread over all of [0, t)."""
    models = {0: np.array([40, 40, 40])}
    halves = []
    for _ in range(12):
        halves.append(int(scored.keyholder.scores([0], scored.server.scores(models).messages)[0]))
    assert len(set(halves)) == 12 and max(halves) > T / 2 > min(halves)


@pytest.mark.parametrize("layout", [LAYOUT, replace(LAYOUT, dense=True)])
@pytest.mark.parametrize("counts", [False, True])
def test_scores_can_be_had_from_halves_of_marginals_without_a_message(layout, counts):
    """Marginals and norms are shared once; after that every round is local."""
    exact = marginals(CODES)

    def upload(run):
        holder = run.holder(120)
        run.server.receive(holder.upload_counts(exact) if counts else holder.upload_records(CODES))

    run = Run(layout, upload)
    assert len(layout.carriers) == (1 if layout.dense else 10)
    messages, ours = run.server.share()
    theirs = run.keyholder.share(messages)
    assert same([(a + b) % T for a, b in zip(ours, theirs, strict=True)], exact)
    norms = run.keyholder.cross_norms(run.server.cross(run.keyholder.cross()))
    assert ((norms + run.server.norm_halves) % T).tolist() == [int(cells @ cells) for cells in exact]
    used = Plan.of(layout, counts=counts).decryptions(rounds=99, measurements=0, shared=True)
    assert run.keyholder.decryptions_left == 1000 - used
    for seed in range(50):
        models = random_models(seed, exact)
        mine = local_scores(layout, run.server.norm_halves, ours, models, constant=True)
        other = local_scores(layout, norms, theirs, models, constant=False)
        assert ((mine + other) % T).tolist() == [int(((exact[c] - model) ** 2).sum()) for c, model in models.items()]
    noise = np.arange(LAYOUT.profile.ring) - 4000
    for candidate, cells in enumerate(exact):
        found = run.keyholder.measurement(
            candidate, run.server.measure(candidate, [run.holder(9).encrypt_noise(noise)])
        )
        part = layout.parts[layout.parts_of[candidate][0]]
        assert (found - cells)[part.cells].tolist() == noise[part.places].tolist()


def test_shares_work_at_the_largest_plaintext_modulus():
    layout = Layout(choose_profile(48_842), SHAPE, CLIQUES, LAYOUT.width, dense=True)
    big = [cells * 400 for cells in marginals(CODES)]  # 48,000 records
    run = Run(layout, lambda run: run.server.receive(run.holder(48_842).upload_counts(big)))
    messages, ours = run.server.share()
    theirs = run.keyholder.share(messages)
    norms = run.keyholder.cross_norms(run.server.cross(run.keyholder.cross()))
    t = layout.profile.plaintext
    assert ((norms + run.server.norm_halves) % t).tolist() == [int(cells @ cells) % t for cells in big]
    models = {c: cells // 2 for c, cells in enumerate(big)}
    mine = local_scores(layout, run.server.norm_halves, ours, models, constant=True)
    other = local_scores(layout, norms, theirs, models, constant=False)
    assert ((mine + other) % t).tolist() == [int(((big[c] - model) ** 2).sum()) for c, model in models.items()]


def test_scores_under_encryption_at_the_largest_plaintext_modulus():
    layout = Layout(choose_profile(48_842), SHAPE, CLIQUES, LAYOUT.width)
    big = [cells * 400 for cells in marginals(CODES)]
    run = Run(layout, lambda run: run.server.receive(run.holder(48_842).upload_counts(big)))
    run.keyholder.norms(run.server.norms())
    models = {c: cells // 2 for c, cells in enumerate(big)}
    scores = run.server.scores(models)
    halves = run.keyholder.scores(list(models), scores.messages)
    expected = [int(((big[c] - model) ** 2).sum()) for c, model in models.items()]
    assert ((scores.shares + halves) % layout.profile.plaintext).tolist() == expected


def test_a_step_out_of_order_is_refused():
    layout = replace(LAYOUT, dense=True)
    run = Run(layout, two_holders)
    fresh = KeyHolder(run.secret, 9)
    for step, match in [
        (run.server.norms, "a layout that is not dense"),
        (lambda: run.server.scores({0: [1, 1, 1]}), "squared norms come first"),
        (lambda: run.server.cross([]), r"needs share\(\) first"),
        (fresh.cross, r"needs share\(\) first"),
        (lambda: fresh.scores([0], []), "squared norms come first"),
        (lambda: Server(LAYOUT, *keys_of(run), SERVER_KEY), "another layout"),
    ]:
        with pytest.raises(ProtocolError, match=match):
            step()
    run.keyholder.share(run.server.share()[0])
    with pytest.raises(ProtocolError, match="are missing"):
        run.server.cross([])


def keys_of(run):
    return run.keyholder.public_key, run.keyholder.evaluation_keys


@pytest.mark.parametrize(
    ("models", "match"),
    [
        ({0: [1, 2]}, "needs 3 integers"),
        ({0: [1.0, 2.0, 3.0]}, "needs 3 integers"),
        ({0: [1, 2, -3]}, "0 or more"),
        ({0: [10**6, 0, 0]}, "may exceed"),
        ({10: [1, 2, 3]}, "candidate: 10"),
    ],
)
def test_models_that_cannot_be_scored_exactly_are_refused(scored, models, match):
    with pytest.raises(ProtocolError, match=match):
        scored.server.scores(models)


# --- measurements ---------------------------------------------------------------------------------


def test_a_measurement_is_counts_plus_noise_exactly(run):
    holder = run.holder(90)
    rng = np.random.default_rng(3)
    for candidate, counts in enumerate(marginals(CODES)):
        first, second = rng.integers(-1000, 1001, (2, LAYOUT.profile.ring))
        frames = [holder.encrypt_noise(noise) for noise in (first, second)]
        found = run.keyholder.measurement(candidate, run.server.measure(candidate, frames))
        part = LAYOUT.parts[LAYOUT.parts_of[candidate][0]]
        expected = counts.copy()
        expected[part.cells] += (first + second)[part.places]
        assert found.tolist() == expected.tolist()


def test_what_is_no_cell_of_a_measurement_is_uniform_to_the_key_holder(run):
    [message] = run.server.measure(0, [run.holder(90).encrypt_noise(np.zeros(LAYOUT.profile.ring, np.int64))])
    level = LAYOUT.profile.output_level
    values = run.secret.public.read(run.secret.decrypt(run.secret.public.open(message, Kind.MEASUREMENT, level)[1]))
    others = np.delete(values, LAYOUT.parts[0].places)
    deciles = np.bincount(others * 10 // T, minlength=10)
    assert ((deciles - len(others) / 10) ** 2 / (len(others) / 10)).sum() < 33.7  # chi-square, 9 degrees, 1e-4


def test_noise_hides_one_measurement_only(run):
    noise = run.holder(90).encrypt_noise(np.zeros(LAYOUT.profile.ring, np.int64))
    run.server.measure(1, [noise])
    with pytest.raises(ProtocolError, match="second one"):
        run.server.measure(2, [noise])
    with pytest.raises(ProtocolError, match="0 ciphertexts for the 1"):
        run.server.measure(2, [])


# --- security parameters, noise budgets -----------------------------------------------------------


@pytest.mark.parametrize("records", [100, 768, 48_842])
@pytest.mark.parametrize("flood_norms", [False, True])
def test_openfhe_asserts_128_bits_of_security(records, flood_norms):
    profile = choose_profile(records, flood_norms=flood_norms)
    context = profile.context()
    assert context.GetRingDimension() == profile.ring
    assert math.log2(context.GetModulus()) <= profile.modulus_bits + 0.5 <= {8192: 218.5, 16384: 438.5}[profile.ring]
    assert context.GetPlaintextModulus() == profile.plaintext


def test_parameters_below_128_bits_are_refused():
    with pytest.raises(ProtocolError, match="ring dimension 4096 with 3 moduli of 60 bits has less than 128 bits"):
        Profile(100, 65537, 4096, 3, 60).context()


@pytest.mark.parametrize("records", [150, 48_842])
def test_outputs_are_flooded_by_forty_bits_and_stay_exact(records):
    """The noise that depends on data is 2^40 times smaller than what is added; and what is added leaves a margin."""
    layout = Layout(choose_profile(records), SHAPE, CLIQUES, LAYOUT.width)
    run = Run(layout, lambda run: run.server.receive(run.holder(120).upload_records(CODES)))
    flood = layout.profile.flood_bits
    models = {c: counts * (records // 200 + 1) for c, counts in enumerate(marginals(CODES))}
    level = layout.profile.output_level
    linear = run.server._weighed(layout.scoring[0], dict(enumerate(run.server._prepared())), models, -2, level)
    assert flood - run.noise_bits(run.server._marginals[-1]) >= 60
    assert flood - run.noise_bits(linear) >= 40
    run.keyholder.share(run.server.share()[0])
    sources = dict(run.secret.public.open(message, Kind.CROSS, 0) for message in run.keyholder.cross())
    cross = run.server._weighed(layout.scoring[0], sources, dict(enumerate(run.server._halves)), 2, 0)
    assert flood - run.noise_bits(run.secret.public.drop(cross, level)) >= 60
    covered = run.server._padded(Kind.SCORES, 0, linear)[0]
    _, output = run.secret.public.open(covered, Kind.SCORES, layout.profile.output_level)
    assert run.budget(output) >= 2


def test_norms_are_flooded_by_forty_bits_with_a_fourth_tower():
    layout = Layout(choose_profile(1000, flood_norms=True), SHAPE, CLIQUES, LAYOUT.width)
    run = Run(layout, lambda run: run.server.receive(run.holder(120).upload_records(CODES)))
    packed = run.server._packed_norms()[0]
    dropped = run.secret.public.drop(packed, layout.profile.output_level)
    assert layout.profile.flood_bits - run.noise_bits(dropped) >= 40
    exact = marginals(CODES)
    run.keyholder.norms(run.server.norms())
    scores = run.server.scores({9: exact[9]})
    assert (scores.shares + run.keyholder.scores([9], scores.messages)) % layout.profile.plaintext == 0


def test_a_cover_decrypts_to_its_pads(run):
    covers = Covers(run.secret.public, bytes(32))
    pads = covers.pads()
    cover = covers.cover(pads)
    assert pads.min() >= 0 and pads.max() < T and len(set(pads)) > 0.99 * len(pads)
    np.testing.assert_array_equal(run.secret.public.read(run.secret.decrypt(cover)), pads)
    assert LAYOUT.profile.flood_bits - 2 <= run.noise_bits(cover) <= LAYOUT.profile.flood_bits + 1


# --- what goes wrong ------------------------------------------------------------------------------


def test_another_key_another_layout_and_cut_messages_are_refused(run):
    stranger = WholeKey(LAYOUT)
    foreign = DataHolder(LAYOUT, stranger.public_key, 90).encrypt_noise(np.zeros(LAYOUT.profile.ring, np.int64))
    with pytest.raises(ProtocolError, match="another key"):
        run.server.measure(0, [foreign])
    renamed = Frame(Kind.NOISE, 1, run.secret.public.run, foreign[HEADER_BYTES:]).pack()
    with pytest.raises(ProtocolError, match="does not fit the parameters"):
        run.server.measure(0, [renamed])
    own = run.holder(90).encrypt_noise(np.zeros(LAYOUT.profile.ring, np.int64))
    with pytest.raises(ProtocolError, match="or some were changed"):
        run.server.measure(0, [own[:-1]])
    garbled = Frame(Kind.NOISE, 1, run.secret.public.run, own[HEADER_BYTES:-1]).pack()
    with pytest.raises(ProtocolError, match="OpenFHE cannot read"):
        run.server.measure(0, [garbled])
    other = Layout(choose_profile(5000), SHAPE, CLIQUES, LAYOUT.width)
    with pytest.raises(ProtocolError, match="another layout or parameter set"):
        DataHolder(other, run.keyholder.public_key, 90)
    with pytest.raises(ProtocolError, match="another key"):
        Server(LAYOUT, run.keyholder.public_key, stranger.evaluation_keys, SERVER_KEY)


def test_a_key_that_contradicts_its_frame_is_refused(run):
    other = Layout(choose_profile(5000), SHAPE, CLIQUES, LAYOUT.width)
    _, lie = Public.of(other, run.secret.public.context, run.secret.public.key)
    with pytest.raises(ProtocolError, match="does not fit the parameters"):
        Public.load(other, lie)


def test_a_ciphertext_at_the_wrong_level_is_refused(run):
    public = run.secret.public
    fresh = public.frame(Kind.NOISE, 1, public.encrypt(np.zeros(1, np.int64), 0))
    with pytest.raises(ProtocolError, match="does not fit the parameters"):
        run.server.measure(0, [fresh])


@pytest.mark.parametrize("rows", [91, 500])
def test_a_table_above_the_declared_cap_is_refused_before_anything_is_sent(run, rows):
    codes = np.zeros((rows, 4), dtype=np.int64)
    with pytest.raises(ProtocolError, match="more than the declared cap of 90") as caught:
        run.holder(90).upload_records(codes)
    assert str(rows) not in str(caught.value)
    with pytest.raises(ProtocolError, match="more than the declared cap of 90"):
        run.holder(90).upload_counts(marginals(codes))


def test_caps_of_all_holders_together_stay_below_the_profile():
    def upload(run):
        run.server.receive(run.holder(90).upload_records(CODES[:80]))
        with pytest.raises(ProtocolError, match="caps of 90 so far and 61 now exceed the 150"):
            run.server.receive(run.holder(61).upload_records(CODES[80:]))

    Run(LAYOUT, upload)
    with pytest.raises(ProtocolError, match="cap of 151 is not between 1 and the 150"):
        DataHolder(LAYOUT, b"", 151)


@pytest.mark.parametrize(
    ("codes", "match"),
    [
        (np.array([[0, 0, 2, 0]]), "outside the declared shape"),
        (np.array([[0, -1, 0, 0]]), "outside the declared shape"),
        (np.zeros((3, 3), np.int64), r"shape \(n, 4\)"),
        (np.zeros((3, 4)), "need integers"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(run, codes, match):
    with pytest.raises(ProtocolError, match=match):
        run.holder(90).upload_records(codes)


def test_uploads_that_do_not_fit_are_refused(run):
    server = Server(LAYOUT, run.keyholder.public_key, run.keyholder.evaluation_keys, SERVER_KEY)
    with pytest.raises(ProtocolError, match="no upload has come"):
        server.compute()
    part = run.holder(20).upload_records(CODES[:20, :2], attributes=[0, 1])
    with pytest.raises(ProtocolError, match="each of 4 is needed once"):
        server.receive(part)
    frames = list(run.holder(20).upload_records(CODES[:20]))
    with pytest.raises(ProtocolError, match="cut short"):
        server.receive([])
    with pytest.raises(ProtocolError, match="more came"):
        server.receive([*frames, frames[-1]])
    with pytest.raises(ProtocolError, match="one broke off"):
        server.compute()
    server = Server(LAYOUT, run.keyholder.public_key, run.keyholder.evaluation_keys, SERVER_KEY)
    with pytest.raises(ProtocolError, match="ends early, or its ciphertexts are out of order"):
        server.receive(frames[:-1])
    with pytest.raises(ProtocolError, match="one broke off"):
        server.receive(frames)
    with pytest.raises(ProtocolError, match="uploads come before"):
        run.server.receive(frames)
    with pytest.raises(ProtocolError, match="computed before"):
        run.server.compute()


def test_the_key_holder_counts_its_decryptions(run):
    careful = KeyHolder(run.secret, decryptions=1)
    noise = [run.holder(90).encrypt_noise(np.zeros(LAYOUT.profile.ring, np.int64)) for _ in range(2)]
    first, second = (run.server.measure(0, [frame]) for frame in noise)
    careful.measurement(0, first)
    assert careful.decryptions_left == 0
    with pytest.raises(ProtocolError, match="1 ciphertexts came, and 0 may still be decrypted"):
        careful.measurement(0, second)


def test_a_refused_message_costs_no_decryption_and_releases_nothing(run):
    left = run.keyholder.decryptions_left
    noise = run.holder(90).encrypt_noise(np.zeros(LAYOUT.profile.ring, np.int64))
    [message] = run.server.measure(0, [noise])
    with pytest.raises(ProtocolError):
        run.keyholder.measurement(0, [message[:-5]])
    with pytest.raises(ProtocolError, match="of kind 10 where 8"):
        KeyHolder(run.secret, 5)._open([message], Kind.SCORES)
    assert run.keyholder.decryptions_left == left


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, where another test has imported it
def test_a_forked_process_makes_no_ciphertext(run):
    """Its random numbers would be those of its parent."""
    holder = run.holder(90)
    child = os.fork()
    if child == 0:
        try:
            holder.encrypt_noise(np.zeros(LAYOUT.profile.ring, np.int64))
        except ProtocolError as error:
            os._exit(0 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    holder.encrypt_noise(np.zeros(LAYOUT.profile.ring, np.int64))


def test_where_openfhe_cannot_be_imported_one_line_says_what_to_do(monkeypatch):
    def missing(name):
        raise ImportError("libOPENFHEpke.so.1: undefined symbol")

    library.openfhe.cache_clear()
    monkeypatch.setattr(library.importlib, "import_module", missing)
    with pytest.raises(ProtocolError, match=r"install marginal-sdg\[fhe\] under Python 3.10 on Debian 12") as caught:
        library.openfhe()
    assert "\n" not in str(caught.value)


# --- what each party sees -------------------------------------------------------------------------


def transcript(codes):
    """All that crosses a boundary in one run, in order: (to whom, message)."""
    seen = []

    def upload(run):
        frames = list(run.holder(120).upload_records(codes))
        seen.extend(("server", frame) for frame in frames)
        run.server.receive(frames)

    run = Run(LAYOUT, upload)
    norms = run.server.norms()
    run.keyholder.norms(norms)
    scores = run.server.scores({c: np.full(LAYOUT.size(c), 3) for c in range(len(CLIQUES))})
    noise = run.holder(120).encrypt_noise(np.zeros(LAYOUT.profile.ring, np.int64))
    measured = run.server.measure(4, [noise])
    seen.append(("server", noise))
    seen.extend(("key holder", message) for message in [norms, *scores.messages, *measured])
    return seen


def test_number_kind_and_size_of_messages_do_not_depend_on_the_records():
    """G3: the same for a full table, for an empty one, and in every run."""
    shapes = []
    for codes in (CODES, CODES[:0]):
        messages = transcript(codes)
        assert all(type(message) is bytes for _, message in messages)
        shapes.append([(to, len(message), message[: HEADER_BYTES - 28]) for to, message in messages])
    assert shapes[0] == shapes[1]


def test_equal_tables_give_unequal_ciphertexts(run):
    holder = run.holder(120)
    first, second = list(holder.upload_records(CODES)), list(holder.upload_records(CODES))
    assert first[0] == second[0] and not set(first[1:]) & set(second[1:])


def test_the_plan_says_what_is_sent_and_decrypted():
    plan = Plan.of(LAYOUT)
    messages = transcript(CODES[:100])
    run_blocks = LAYOUT.blocks(120) * len(LAYOUT.polynomials(range(4)))
    uploads = [message for to, message in messages if to == "server"][1:-1]
    assert len(uploads) == run_blocks and plan.upload_ciphertexts >= run_blocks
    assert all(plan.ciphertext_bytes < len(message) < 1.01 * plan.ciphertext_bytes for message in uploads)
    decrypted = sum(to == "key holder" for to, _ in messages)
    assert decrypted == plan.decryptions(rounds=1, measurements=1)


HOLDER = """
layout = Layout(choose_profile(150), SHAPE, CLIQUES, WIDTH)
holder = DataHolder(layout, (folder / "public").read_bytes(), 120)
wire.write(folder / "upload", holder.upload_records(np.load(folder / "codes.npy")))
(folder / "noise").write_bytes(holder.encrypt_noise(np.full(layout.profile.ring, 7)))
"""
SERVER = """
layout = Layout(choose_profile(150), SHAPE, CLIQUES, WIDTH)
server = Server(layout, (folder / "public").read_bytes(), (folder / "evaluation").read_bytes(), bytes(32))
server.receive(wire.read(folder / "upload"))
server.compute()
wire.write(folder / "measured", server.measure(6, [(folder / "noise").read_bytes()]))
"""
PREPARE = """
import sys
from pathlib import Path
import numpy as np
from marginal_sdg.crypto.fhe import wire
from marginal_sdg.crypto.fhe.holder import DataHolder
from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.profile import choose_profile
from marginal_sdg.crypto.fhe.server import Server
folder = Path(sys.argv[1])
"""


def test_three_processes_exchange_files(tmp_path):
    """Nothing but files of frames passes between key holder (here), data holder and server."""
    keyholder = KeyHolder(WholeKey(LAYOUT), decryptions=1)
    (tmp_path / "public").write_bytes(keyholder.public_key)
    (tmp_path / "evaluation").write_bytes(keyholder.evaluation_keys)
    np.save(tmp_path / "codes.npy", CODES)
    names = f"SHAPE, CLIQUES, WIDTH = {SHAPE}, {CLIQUES}, {LAYOUT.width}"
    for role in (HOLDER, SERVER):
        subprocess.run([sys.executable, "-c", PREPARE + names + role, str(tmp_path)], check=True)
    found = keyholder.measurement(6, list(wire.read(tmp_path / "measured")))
    assert found.tolist() == (marginals(CODES)[6] + 7).tolist()


# --- a key in two halves --------------------------------------------------------------------------


def test_two_halves_of_a_key_decrypt_together_and_not_alone():
    partner = Partner(LAYOUT, 20, Memory(Source.system().key))
    first = FirstHalf(LAYOUT, partner)
    second = partner._half
    run = Run(LAYOUT, two_holders, secret=first)
    exact = marginals(CODES)
    assert same(run.marginals(), exact)
    run.keyholder.norms(run.server.norms())
    models = random_models(8, exact)
    scores = run.server.scores(models)
    halves = run.keyholder.scores(list(models), scores.messages)
    assert ((scores.shares + halves) % T).tolist() == [int(((exact[c] - w) ** 2).sum()) for c, w in models.items()]
    public = first.public
    ciphertext = public.encrypt(np.arange(100), LAYOUT.profile.output_level)
    for half in (first, second):
        alone = public.read(public.context.Decrypt(half._secret, ciphertext))
        assert not np.array_equal(alone[:100], np.arange(100))
    assert public.read(first.decrypt(ciphertext))[:100].tolist() == list(range(100))
    second._left = 0
    with pytest.raises(ProtocolError, match="no ciphertext may be decrypted any more"):
        first.decrypt(public.encrypt(np.arange(100), LAYOUT.profile.output_level))


def test_halves_of_a_key_outlive_their_processes():
    """What was decrypted is not decrypted again, with other noise on the half; what was not still can be."""
    kept = [{}, {}]

    def memory(place):
        def remember(name, make):
            if name not in kept[place]:
                kept[place][name] = make()
            return kept[place][name]

        def known(beginning):
            return sum(name.startswith(beginning) for name in kept[place])

        return Memory(Source.system().key, remember, known)

    asked = []

    def halves():
        partner = Partner(LAYOUT, 2, memory(1))

        def asks(message):
            asked.append((message, partner(message)))
            return asked[-1][1]

        return FirstHalf(LAYOUT, asks, memory(0).remember), partner

    first, _ = halves()
    ciphertexts = [first.public.encrypt(np.full(9, n), LAYOUT.profile.output_level) for n in range(3)]

    def opened(first, number):
        return first.public.read(first.decrypt(ciphertexts[number]))[:9].tolist()

    assert opened(first, 0) == [0] * 9
    again, partner = halves()
    assert (again.public_key, again.evaluation_keys) == (first.public_key, first.evaluation_keys)
    assert opened(again, 0) == [0] * 9 and len(asked) == 2  # the invitation and the first ciphertext
    assert [partner(message) for message, _ in asked] == [answer for _, answer in asked]
    kept[0].popitem()  # the key holder died before it had the answer on disk
    assert opened(again, 0) == [0] * 9 and asked[2] == asked[1]
    assert opened(again, 1) == [1] * 9
    last, _ = halves()
    with pytest.raises(ProtocolError, match="no ciphertext may be decrypted any more"):
        opened(last, 2)
