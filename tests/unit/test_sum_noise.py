"""Noise that clients add to sums: never less than is paid for, whoever leaves or colludes; stated as it is."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from marginal_sdg import FLAIM, Domain, Table
from marginal_sdg.backends.federated import FederatedBackend
from marginal_sdg.backends.local_clients import LocalClients
from marginal_sdg.backends.sum_noise import SumNoise
from marginal_sdg.backends.variants import VARIANTS
from marginal_sdg.crypto.masking import MaskedSum
from marginal_sdg.crypto.secagg import STAGES, IdealSecureSum
from marginal_sdg.errors import ConfigError, ProtocolError
from marginal_sdg.privacy import Budget, Ledger, Source
from marginal_sdg.privacy.joint import part_variance
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

WIDE = Domain.from_shape({"a": 3000})
COHORT, COLLUDING, PAID = 9, 2, Fraction(50)
NOISE = SumNoise(COLLUDING, COLLUDING + 1)  # 6 of 9 must stay, 4 of them honest
STEP = Step(0, variance=PAID, epsilon2=Fraction(1))


class Watched(IdealSecureSum):
    """Keeps the vectors that it was given."""

    def __call__(self, contributions, length, **terms):
        self.vectors = contributions
        return super().__call__(contributions, length, **terms)


def census(secure_sum, records: int = 0):
    """A fit's ledger, and its first 1-way marginal: of nothing but noise where there are no records."""
    ledger = Ledger(Budget(10.0, 1e-5), Source.seeded(1))
    tables = [Table(WIDE, np.zeros((records, 1), dtype=np.int32)) for _ in range(COHORT)]
    workload, variant = Workload(WIDE, (("a",),)), VARIANTS["census"]
    source = Source.seeded(2)
    members = LocalClients(tables, workload, source, variant=variant, local_steps=1, secure_sum=secure_sum, noise=NOISE)
    backend = FederatedBackend(
        members,
        workload,
        ledger,
        source,
        variant=variant,
        participation=1.0,
        local_steps=1,
        size_variance=Fraction(100),
        least=NOISE.least,
        noise="clients",
    )
    return backend, members, ledger, lambda: backend.initialise([("a",)], STEP, ledger)


def fits(noise: np.ndarray, variance: float) -> bool:
    """Whether a chi-square test at 1e-6 takes integers for noise of this variance."""
    ratio = float((noise.astype(float) ** 2).sum()) / variance
    return min(stats.chi2.cdf(ratio, noise.size), stats.chi2.sf(ratio, noise.size)) > 5e-7


def renyi(parts: int, part: float, alphas: np.ndarray) -> np.ndarray:
    """D_alpha(P || P shifted by 1) / alpha, P being the law of ``parts`` discrete Gaussians of variance ``part``."""
    x = np.arange(-200, 201)
    single = np.exp(-(x**2) / (2 * part))
    law = np.ones(1)
    for _ in range(parts):
        law = np.convolve(law, single / single.sum())
    p, q = law[1:], law[:-1]
    kept = (p > 1e-200) & (q > 1e-200)
    log = np.log(p[kept]) - np.log(q[kept])
    return np.array([np.log(np.sum(p[kept] * np.exp((a - 1) * log))) / (a - 1) / a for a in alphas])


@pytest.mark.parametrize("cohort", [3, 4, 9])
@pytest.mark.parametrize("per_part", [Fraction(1), Fraction(2), Fraction(9)])
def test_what_honest_survivors_add_protects_as_much_as_is_charged(cohort, per_part):
    alphas, noise = np.linspace(1.01, 12, 25), SumNoise(1, 2)
    honest = noise.needed(cohort) - 1
    paid = honest * per_part
    assert noise.honest(cohort, paid) == (honest if per_part >= 2 else max(honest // 2, 1))
    part = float(noise.variance(paid, cohort, 1))
    honest = noise.honest(cohort, paid)
    assert renyi(honest, part, alphas).max() <= float(1 / (2 * paid)) * (1 + 1e-6)
    wrong = float(paid / honest / 1.5)  # as if half as many again were counted on
    assert renyi(honest, wrong, alphas).max() > float(1 / (2 * paid)) * 1.2


def test_as_many_are_counted_as_must_stay_and_do_not_collude():
    assert [NOISE.needed(size) for size in (3, 4, 9, 10, 100)] == [3, 3, 6, 7, 67]
    assert [NOISE.honest(size, Fraction(1000)) for size in (3, 9, 100)] == [1, 4, 65]
    assert [NOISE.honest(100, Fraction(paid)) for paid in (130, 129, 24, 2, 1)] == [65, 64, 12, 1, 1]
    assert SumNoise(1, 5).needed(6) == 5
    assert NOISE.variance(PAID, 9, 7) == 7 * part_variance(PAID, 5)


@pytest.mark.parametrize("lost", [0, 3])
def test_a_measurement_has_the_noise_that_it_states(lost):
    _, _, ledger, measure = census(IdealSecureSum(lambda k, stage: k < lost and stage == "relay"))
    before = ledger.spent
    (measured,) = measure()
    variance = float((COHORT - lost) * part_variance(PAID, 5))
    assert measured.sigma == math.sqrt((COHORT - lost) * part_variance(PAID, 5))
    assert fits(measured.counts, variance)
    assert not any(fits(measured.counts, variance * wrong) for wrong in (2 / 3, 3 / 2, float(PAID) / variance))
    assert ledger.spent - before == 1 / (2 * PAID)
    assert ledger.charges[-1].by == "clients"


def test_whoever_leaves_and_colludes_there_is_the_noise_that_was_paid_for():
    """With their parts taken away; a client fewer would be too few."""
    engine = Watched()
    _, members, _, measure = census(engine)
    measure()
    parts = np.array([engine.vectors[k][0][:-2] for k in range(COHORT)])
    unknown = parts[3:-COLLUDING].sum(axis=0)  # three leave, two collude
    assert fits(unknown, float(PAID))
    assert not fits(parts[4:-COLLUDING].sum(axis=0), float(PAID))
    assert np.abs(np.corrcoef(parts[:, :]) - np.eye(COHORT)).max() < 0.1
    assert {own.spent for own in members._ledgers} == {1 / (2 * PAID)}


@pytest.mark.parametrize("engine", [IdealSecureSum, lambda dropout: MaskedSum(Source.seeded(3).key, dropout)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_sum_that_too_many_leave_is_given_up_and_paid_for(engine, stage):
    _, _, ledger, measure = census(engine(lambda k, at: k < 4 and at == stage))
    before = ledger.spent
    if engine is IdealSecureSum and stage == "masked":
        assert measure()  # their vectors have arrived
    else:
        with pytest.raises(ProtocolError, match=r"must stay|where 6 are needed"):
            measure()
    assert ledger.spent - before == 1 / (2 * PAID)


def test_the_server_is_never_shown_an_exact_sum(domain, clients):
    """What enters a secure sum has noise in every count, of whoever takes part."""
    for variant in ("private", "census", "naive", "random"):
        terms = {"variant": variant, "rounds": 2, "workload": 4, "participation": 0.6, "seed": 4}
        fitted = FLAIM(domain, noise="clients", **terms).fit(clients)
        by_server = FLAIM(domain, **terms).fit(clients)
        assert fitted.ledger.spent == by_server.ledger.spent == fitted.ledger.budget.rho
        assert set(fitted.ledger.to_frame()["by"]) == {"client", "clients"}
        least = min(measured.sigma for measured in fitted.measurements_)
        assert least > by_server.sigma_


def test_masks_and_dropouts_do_not_change_what_clients_add(domain, clients):
    ideal, masks = (
        FLAIM(domain, noise="clients", secagg=secagg, rounds=2, workload=4, participation=0.6, seed=4).fit(clients)
        for secagg in ("ideal", "masks")
    )
    assert [(m.counts.tolist(), m.sigma) for m in ideal.measurements_] == [
        (m.counts.tolist(), m.sigma) for m in masks.measurements_
    ]


@pytest.mark.parametrize(
    ("terms", "match"),
    [
        ({"noise": "dealer"}, "noise: must be 'server' or 'clients'"),
        ({"noise": "clients", "cohort": "per_query"}, "noise: that of the clients needs cohort='padded'"),
        ({"noise": "clients", "calibration": "paper"}, "noise: that of the clients needs cohort='padded' and calib"),
        ({"noise": "clients", "colluding": 0}, "colluding: must be a positive integer"),
        ({"noise": "clients", "colluding": 4, "participation": 0.3}, "fewer than the 5 that must"),
    ],
)
def test_what_cannot_be_is_named_before_anything_is_spent(domain, clients, terms, match):
    with pytest.raises(ConfigError, match=match):
        FLAIM(domain, workload=4, seed=0, **terms).fit(clients)
