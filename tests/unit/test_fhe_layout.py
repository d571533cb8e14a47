"""Where records and marginals sit in a ciphertext: the algebra without encryption, and frames and plans."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginal_sdg.crypto.fhe import wire
from marginal_sdg.crypto.fhe.layout import Layout
from marginal_sdg.crypto.fhe.plan import Plan, choose_layout
from marginal_sdg.crypto.fhe.profile import Profile, choose_profile
from marginal_sdg.crypto.fhe.wire import Frame, Kind
from marginal_sdg.errors import ProtocolError

TINY = Profile(records=30, plaintext=65537, ring=64, towers=3, tower_bits=60)


def negacyclic(first, second):
    """The product mod X^N + 1."""
    full = np.convolve(first, second)
    ring = len(first)
    return full[:ring] - np.append(full[ring:], 0)


def one_hot(layout, polynomial, values):
    """As a data holder encodes it, without the factor 1 / n1 of right roles."""
    _, exponents = layout.exponents(polynomial, values)
    coefficients = np.zeros(layout.profile.ring, dtype=np.int64)
    coefficients[exponents % layout.profile.ring] = np.where(exponents < 0, -1, 1)
    return coefficients


@st.composite
def tables(draw):
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=2, max_size=3)))
    width = draw(st.sampled_from([2, 4]))
    cliques = [(a,) for a in range(len(shape))] + list(combinations(range(len(shape)), 2))
    layout = Layout(TINY, shape, tuple(cliques), width, dense=draw(st.booleans()))
    rows = draw(st.integers(0, layout.rows))
    seed = draw(st.integers(0, 2**32 - 1))
    return layout, np.random.default_rng(seed).integers(0, shape, (rows, len(shape)))


def counted(layout, codes):
    found = []
    for clique in layout.cliques:
        counts = np.zeros([layout.shape[a] for a in clique], dtype=np.int64)
        np.add.at(counts, tuple(codes[:, a] for a in clique), 1)
        found.append(counts.ravel())
    return found


@given(tables())
def test_products_of_one_hot_polynomials_count_pairs(case):
    """The coefficient at n1 (i + m j) counts rows; what the places of a packed part are made of."""
    layout, codes = case
    for part in layout.parts:
        clique = layout.cliques[part.candidate]
        if len(clique) == 1:
            continue
        expected = counted(layout, codes)[part.candidate]
        for k, (left, right) in enumerate(part.sources):
            product = negacyclic(
                one_hot(layout, left, codes[:, clique[0]]), one_hot(layout, right, codes[:, clique[1]])
            )
            offset = (part.places[0] % layout.rows) // part.stride + k
            own = part.places % layout.rows == offset * part.stride
            np.testing.assert_array_equal(product[part.places[own] - offset * part.stride], expected[part.cells[own]])


@given(tables())
def test_every_cell_has_one_place(case):
    layout, _ = case
    for members in layout.carriers:
        places = np.concatenate([layout.parts[member].places for member in members])
        assert len(set(places)) == len(places)
    for candidate, numbers in enumerate(layout.parts_of):
        cells = np.concatenate([layout.parts[number].cells for number in numbers])
        assert sorted(cells) == list(range(layout.size(candidate)))
        for number in numbers:
            places = layout.parts[number].places
            assert len(set(places)) == len(places) and (places % layout.parts[number].stride == 0).all()
            assert places.min() >= 0 and places.max() < layout.profile.ring


@given(tables(), st.integers(0, 2**32 - 1))
def test_scores_of_a_group_do_not_mix(case, seed):
    """The product with public weights has <M, w> of every member at its own target."""
    layout, codes = case
    layout = layout.sparse
    counts = counted(layout, codes)
    weights = [np.random.default_rng(seed).integers(0, 50, cells.size) for cells in counts]
    seen = []
    for group in layout.scoring:
        total = np.zeros(layout.profile.ring, dtype=np.int64)
        for source in group.sources:
            held, asked = np.zeros((2, layout.profile.ring), dtype=np.int64)
            for member, slot in zip(group.members, group.slots, strict=True):
                if slot.source == source:
                    part = layout.parts[member]
                    places = part.places + slot.shift
                    assert not held[places].any() and places.max() < layout.profile.ring
                    held[places] = counts[part.candidate][part.cells]
                    exponents = slot.target - places
                    sign = np.where(exponents < 0, -1, 1)
                    asked[exponents % layout.profile.ring] += sign * weights[part.candidate][part.cells]
            total += negacyclic(held, asked)
        for member, slot in zip(group.members, group.slots, strict=True):
            part = layout.parts[member]
            assert total[slot.target] == counts[part.candidate][part.cells] @ weights[part.candidate][part.cells]
            seen.append(member)
    assert sorted(seen) == list(range(len(layout.parts)))


def test_a_holder_encrypts_what_every_pair_needs():
    layout = Layout(TINY, (3, 5, 2), ((0, 1), (0, 2), (1, 2), (2,)), 4)
    sent = set(layout.polynomials([0, 1])) | set(layout.polynomials([2]))
    assert {polynomial for part in layout.parts for source in part.sources for polynomial in source} <= sent
    assert set(layout.polynomials([0, 1, 2])) == sent


def test_the_two_largest_attributes_are_encrypted_in_one_role_only():
    layout = Layout(TINY, (2, 9, 3, 8), ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)), 2)
    roles = {a: {p.right for p in layout.polynomials(range(4)) if p.attribute == a} for a in range(4)}
    assert roles == {0: {False, True}, 1: {False}, 2: {False, True}, 3: {True}}


@pytest.mark.parametrize(
    ("shape", "cliques", "width", "match"),
    [
        ((3, 2), ((1, 0),), 4, "ascending"),
        ((3, 2), ((0, 2),), 4, "ascending"),
        ((3, 2, 2), ((0, 1, 2),), 4, "one or two"),
        ((3, 2), (), 4, "at least one"),
        ((3, 2), ((0,), (0,)), 4, "only once"),
        ((3, 0), ((0,),), 4, "at least one value"),
        ((3, 2), ((0,),), 3, "width"),
        ((3, 2), ((0,),), 8, "width"),
    ],
)
def test_a_layout_says_what_is_wrong(shape, cliques, width, match):
    with pytest.raises(ProtocolError, match=match):
        Layout(TINY, shape, cliques, width)


# --- profiles and plans ---------------------------------------------------------------------------


@pytest.mark.parametrize("records", [1, 60, 768, 7_214, 30_000, 46_340, 48_842])
def test_the_plaintext_modulus_holds_every_squared_distance(records):
    """Two tables of n records are at most 2 n^2 apart; up to 2^32, which is OpenFHE's limit."""
    profile = choose_profile(records)
    assert profile.plaintext < 2**32
    assert profile.plaintext > min(2 * records**2, 2**32 - 6)
    assert all(profile.plaintext % divisor for divisor in range(2, 10_000))
    assert 8 * profile.ring * 2 * profile.towers == profile.ciphertext_bytes


@pytest.mark.parametrize("records", [0, -1, 2**31])
def test_a_cap_must_make_sense(records):
    with pytest.raises(ProtocolError, match=f"cap of {records}"):
        choose_profile(records)


def test_flooded_norms_take_a_fourth_tower():
    assert choose_profile(768, flood_norms=True).modulus_bits == 208
    assert choose_profile(48_842, flood_norms=True).ring == 16384


def test_a_plan_is_had_without_keys_and_in_words():
    profile = choose_profile(768)
    cliques = tuple(combinations(range(9), 2))
    layout = choose_layout(profile, (16,) * 8 + (2,), cliques)
    plan = Plan.of(layout)
    assert plan.products == layout.blocks(768) * sum(len(p.sources) for p in layout.parts)
    assert plan.marginal_ciphertexts == 36
    assert plan.decryptions(rounds=50, measurements=59) == 1 + 50 * plan.score_outputs + 59
    assert "128-bit" in plan.summary() and "36 encrypted marginals" in plan.summary()
    assert all(
        Plan.of(Layout(profile, layout.shape, cliques, width)).upload_seconds >= plan.upload_seconds
        for width in (2, 4, 8, 16, 32)
    )
    assert Plan.of(layout, counts=True).upload_ciphertexts == 36


# --- frames ---------------------------------------------------------------------------------------

RUN = bytes(range(16))


@given(st.binary(max_size=40), st.integers(0, 2**32 - 1))
def test_a_frame_comes_back_as_it_was(payload, number):
    frame = Frame(Kind.SCORES, number, RUN, payload)
    assert wire.unpack(frame.pack(), Kind.SCORES, RUN) == frame


@given(st.data())
def test_no_cut_or_changed_frame_passes(data):
    message = Frame(Kind.SCORES, 3, RUN, b"some payload").pack()
    cut = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(ProtocolError):
        wire.unpack(message[:cut], Kind.SCORES, RUN)
    place = data.draw(st.integers(wire.HEADER_BYTES, len(message) - 1))
    changed = message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]
    with pytest.raises(ProtocolError, match="changed"):
        wire.unpack(changed, Kind.SCORES, RUN)


def test_a_frame_of_another_kind_or_run_is_refused():
    message = Frame(Kind.SCORES, 3, RUN, b"").pack()
    with pytest.raises(ProtocolError, match="of kind 8 where 6"):
        wire.unpack(message, Kind.NOISE, RUN)
    with pytest.raises(ProtocolError, match="another key, layout or parameter set"):
        wire.unpack(message, Kind.SCORES, bytes(16))


def test_frames_are_kept_on_disk(tmp_path):
    frames = [Frame(Kind.RECORDS, number, RUN, bytes(number)).pack() for number in range(4)]
    assert wire.write(tmp_path / "upload", frames) == sum(map(len, frames))
    assert list(wire.read(tmp_path / "upload")) == frames
    (tmp_path / "upload").write_bytes(b"x" * 100)
    with pytest.raises(ProtocolError, match="something else"):
        list(wire.read(tmp_path / "upload"))


@given(st.lists(st.binary(max_size=9), max_size=4))
def test_payloads_of_several_parts_come_back(chunks):
    assert wire.split(wire.join(*chunks), len(chunks), Kind.JOINT_KEY) == chunks
    with pytest.raises(ProtocolError, match="parts"):
        wire.split(wire.join(*chunks) + b"x", len(chunks), Kind.JOINT_KEY)
