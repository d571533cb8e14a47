"""FHAIM: the clear vault against brute force, the encrypted one against the clear one, sensitivities, refusals."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginal_sdg import FHAIM, Table, Workload
from marginal_sdg.backends.distance import Distance
from marginal_sdg.backends.vault import Ballot, ClearVault
from marginal_sdg.crypto.fhe import library
from marginal_sdg.errors import ConfigError, DataError, ProtocolError
from marginal_sdg.marginals import contingency
from marginal_sdg.metrics import workload_error

try:
    library.openfhe()
    ENCRYPTED = pytest.mark.skipif(False, reason="")
except ProtocolError as error:
    ENCRYPTED = pytest.mark.skipif(True, reason=str(error))


@pytest.fixture(scope="module")
def pairs(domain):
    return Workload(domain, tuple(combinations(domain.names, 2)))


def fit(table, workload, **params):
    defaults = {"workload": workload, "rounds": 4, "epsilon": 3.0, "seed": 2, "max_records": 2500}
    return FHAIM(table.domain, **{**defaults, **params}).fit(table)


def released(fitted):
    return [(m.clique, m.counts.tolist(), m.sigma) for m in fitted.measurements_]


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["l2", "l2_squared", "l1_exact"])
@given(seed=st.integers(0, 2**32))
def test_selection_is_the_argmax_of_exact_noisy_scores(table, pairs, score, seed):
    rng = np.random.default_rng(seed)
    cliques = tuple(pairs.closure[k] for k in rng.permutation(len(pairs.closure))[:5])
    expected = tuple(rng.integers(0, 400, table.domain.size(q)) for q in cliques)
    vote = Ballot(cliques, expected, rng.integers(0, 2**16, 5), rng.integers(0, 2**20, 5), Distance(score, len(table)))
    noise = rng.integers(-(2**20), 2**20, 5)
    scores = []
    for q, clique in enumerate(cliques):
        gaps = (contingency(table, clique) - expected[q]).tolist()
        square = sum(x**2 for x in gaps)
        value = {"l2": math.isqrt(square * 4**6), "l2_squared": square, "l1_exact": sum(map(abs, gaps))}[score]
        scores.append(int(vote.weights[q]) * value - int(vote.penalties[q]) + int(noise[q]))
        assert square <= vote.largest_square
    assert ClearVault(table).select(vote, [noise], 2**20) == int(np.argmax(scores))


@pytest.mark.parametrize(
    ("score", "sensitivity"), [("l2", 1), ("l2_squared", 2 * 2500 + 1), ("l1_exact", 1), ("l1_poly", 1.5)]
)
def test_noise_follows_the_true_sensitivity(table, pairs, monkeypatch, score, sensitivity):
    from marginal_sdg.privacy import Ledger

    seen = []
    original = Ledger.gumbel_parts

    def watched(self, *arguments, **terms):
        seen.append(terms["sensitivity"])
        return original(self, *arguments, **terms)

    monkeypatch.setattr(Ledger, "gumbel_parts", watched)
    fitted = fit(table, pairs, score=score)
    assert len(set(seen)) == 1 and seen[0] == pytest.approx(sensitivity, abs=1e-3)
    assert fitted.ledger.spent == fitted.ledger.budget.rho
    assert {charge.by for charge in fitted.ledger.charges} == {"holder"}


def test_candidates_whose_squares_may_not_fit_are_left_out(pairs):
    """50,000 records, all but a few in one cell: only the pairs that spread are scored; nothing private decides it."""
    domain = pairs.domain
    rng = np.random.default_rng(0)
    codes = np.zeros((40_000, 4), dtype=np.int32)
    codes[:, 3] = rng.integers(0, 5, 40_000)
    seen = []

    class Watched(ClearVault):
        def select(self, ballot, noise, largest_noise, step=None):
            seen.append(ballot)
            return super().select(ballot, noise, largest_noise)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marginal_sdg.fhaim.ClearVault", Watched)
        FHAIM(domain, workload=pairs, rounds=2, max_records=50_000, seed=0).fit(Table(domain, codes))
    for vote in seen:
        assert vote.largest_square < 4_294_967_291
        assert ("d",) in vote.cliques and ("a",) in vote.cliques  # 40,000^2 + 50,000^2 is 4.1e9
    crowded = Table(domain, np.zeros((45_000, 4), dtype=np.int32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marginal_sdg.fhaim.ClearVault", Watched)
        with pytest.raises(ProtocolError, match="no candidate"):
            FHAIM(domain, workload=pairs, rounds=2, max_records=50_000, seed=0).fit(crowded)


def test_a_large_budget_comes_close_to_the_truth(table, pairs):
    fitted = fit(table, pairs, epsilon=20.0, rounds=8)
    assert workload_error(table, fitted.sample_table(20_000, seed=0), pairs) < 0.05


# --- ciphertexts ----------------------------------------------------------------------------------


@ENCRYPTED
@pytest.mark.parametrize("upload", ["records", "marginals"])
@pytest.mark.parametrize("score", ["l2", "l2_squared", "l1_exact"])
def test_a_fit_on_ciphertexts_is_the_fit_in_the_clear(table, pairs, score, upload):
    params = {"score": score, "max_records": 300, "upload": upload}
    part = table.take(np.arange(250))
    assert released(fit(part, pairs, engine="bgv", **params)) == released(fit(part, pairs, **params))


@ENCRYPTED
@pytest.mark.parametrize("upload", ["records", "marginals"])
def test_a_fit_on_ciphertexts_says_what_encryption_took(table, pairs, upload):
    part = table.take(np.arange(40))
    assert fit(part, pairs, rounds=1).encryption_ is None
    fitted = fit(part, pairs, rounds=1, max_records=40, engine="bgv", upload=upload)
    took = fitted.encryption_
    assert (took.scheme, took.ring_dim, took.security_bits) == ("bgv", 8192, 128)
    assert took.upload_bytes == fitted.communication_["upload"]
    assert 0 < took.eval_key_bytes < fitted.communication_["keys"]
    assert min(took.seconds_keygen, took.seconds_encrypt, took.seconds_compute) > 0


@ENCRYPTED
@pytest.mark.parametrize("release", ["index", "scores"])
def test_the_papers_protocol_on_ckks_releases_the_same_and_says_what_it_leaks(table, pairs, release):
    params = {"score": "l2_squared", "max_records": 300}
    part = table.take(np.arange(250))
    fitted = fit(part, pairs, engine="ckks", release=release, **params)
    assert released(fitted) == released(fit(part, pairs, **params))  # scores are far apart, counts are rounded
    told = any("key holder sees every noisy score" in caveat for caveat in fitted.ledger.caveats)
    assert told == (release == "scores")


@ENCRYPTED
@pytest.mark.slow
@pytest.mark.parametrize("score", ["l2", "l2_squared", "l1_exact"])
def test_a_thousand_encrypted_selections_equal_the_clear_ones(table, pairs, score):
    from marginal_sdg.backends.sealed import SealedVault
    from marginal_sdg.privacy import Source

    rng = np.random.default_rng(0)
    keys = Source.seeded(0).key
    sealed = SealedVault([table], pairs, keys, max_records=2000, measurements=1, upload="marginals")
    clear = ClearVault(table)
    for _ in range(1000):
        expected = tuple(np.rint(contingency(table, q) * rng.uniform(0.5, 1.5)).astype(np.int64) for q in pairs.closure)
        n = len(expected)
        vote = Ballot(
            pairs.closure, expected, rng.integers(1, 2**12, n), rng.integers(0, 2**16, n), Distance(score, 2000)
        )
        noise = rng.integers(-(2**18), 2**18, n)
        assert sealed.select(vote, [noise], 2**18) == clear.select(vote, [noise], 2**18)


@ENCRYPTED
def test_the_key_holder_decrypts_no_more_than_was_declared(table, pairs):
    from marginal_sdg.backends.sealed import SealedVault
    from marginal_sdg.privacy import Source

    vault = SealedVault([table], pairs, Source.seeded(0).key, max_records=2000, measurements=1, upload="marginals")
    zeros = [np.zeros(3, dtype=np.int64)]
    (counts,) = vault.measure([("a",)], [zeros])
    np.testing.assert_array_equal(counts, contingency(table, ("a",)))
    with pytest.raises(ProtocolError, match="may still be decrypted"):
        for _ in range(vault.plan.measured_outputs):
            vault.measure([("a",)], [zeros])
    assert min(vault.traffic[phase] for phase in ("keys", "upload", "share", "measure")) > 0


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"score": "l1"}, "score: must be 'l2' or 'l2_squared' or 'l1_exact' or 'l1_poly', got 'l1'"),
        ({"score": "l1_poly", "engine": "bgv"}, "score: 'l1_poly' is for 'ckks' and 'ideal'"),
        ({"engine": "bfv"}, "engine: must be 'ideal' or 'bgv' or 'ckks', got 'bfv'"),
        ({"engine": "ckks"}, "engine: 'ckks' needs score='l2_squared'"),
        ({"release": "scores"}, "release: 'scores' is the paper's protocol, for engine='ckks' only"),
        ({"release": "all"}, "release: must be 'index' or 'scores', got 'all'"),
        ({"upload": "rows"}, "upload: must be 'records' or 'marginals', got 'rows'"),
        ({"calibration": "paper"}, "calibration: FHAIM has only 'sound'"),
        ({"max_records": 0}, "max_records: must be a positive integer, got 0"),
        ({"max_records": 10**6}, "at most 50,000"),
    ],
)
def test_bad_parameters_are_named(table, pairs, params, message):
    with pytest.raises(ConfigError, match=message):
        fit(table, pairs, **params)


def test_a_table_above_the_cap_is_refused_before_anything_is_spent(table, pairs):
    with pytest.raises(DataError, match="more than max_records = 1,999 records"):
        fit(table, pairs, max_records=1999)


@ENCRYPTED
def test_three_way_marginals_are_refused_on_ciphertexts(table):
    with pytest.raises(ConfigError, match="1- and 2-way marginals"):
        fit(table, Workload(table.domain, (("a", "b", "c"),)), engine="bgv")


def test_an_integer_workload_draws_pairs(table):
    fitted = FHAIM(table.domain, workload=3, rounds=2, max_records=2000, seed=0).fit(table)
    assert max(len(m.clique) for m in fitted.measurements_) <= 2
