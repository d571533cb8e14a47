"""Structural zeros: no mass and no record where none can be, the best fit elsewhere, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from marginal_sdg import AIM, FLAIM, MWEM, Domain, GraphicalModel, Table, Workload
from marginal_sdg.errors import ConfigError, DomainError
from marginal_sdg.generators import pgm
from marginal_sdg.generators.pgm import PGM
from marginal_sdg.graphical import sampling
from marginal_sdg.impossible import StructuralZeros
from marginal_sdg.marginals import contingency
from marginal_sdg.release import Measurement, typical_sigma

MIXED = Domain.from_yaml("""
age: {lower: 0, upper: 100, bins: 5, integer: true, missing: category}
marital: {categories: [single, married, widowed]}
job: {categories: [none, cook, judge]}
""")
CHILDREN = ["age < 25 and marital in [married, widowed]", "age < 25 and job == judge"]
RULES = ["a == 0 and b in [1, 2]", "b == 3 and c == 0", "a == 2 and d == 4", "a == 1 and c == 0 and d == 0"]


def broken(codes: np.ndarray) -> np.ndarray:
    """Which records of the shared small domain satisfy one of RULES, written out by hand."""
    a, b, c, d = codes.T
    return (
        ((a == 0) & ((b == 1) | (b == 2)))
        | ((b == 3) & (c == 0))
        | ((a == 2) & (d == 4))
        | ((a == 1) & (c == 0) & (d == 0))
    )


def every(domain: Domain) -> np.ndarray:
    return np.stack([axis.ravel() for axis in np.indices(domain.shape)], axis=1).astype(np.int32)


def zeros(domain: Domain):
    return StructuralZeros.read(domain, RULES).log_potentials


def test_conditions_exclude_whole_bins_and_no_missing_value():
    tables = StructuralZeros.read(MIXED, CHILDREN).log_potentials
    excluded = np.isneginf(tables["age", "marital"].reshape(6, 3))
    assert excluded.tolist() == [[False, True, True]] + 5 * [[False] * 3]  # 20..39 is not below 25 as a whole
    assert np.isneginf(tables["age", "job"]).sum() == 1


@pytest.mark.parametrize("rounds", [0, 3, "adaptive"])
@pytest.mark.parametrize("make", [AIM, MWEM])
def test_a_fit_gives_exactly_no_mass_to_what_cannot_be(domain, table, make, rounds, tmp_path):
    """The table itself breaks the rules; model, samples, conditionals and the saved model do not."""
    assert broken(table.codes).any()
    fitted = make(domain, epsilon=3.0, rounds=rounds, workload=4, seed=0, impossible=RULES).fit(table)
    fitted.model_.save(tmp_path / "m.npz")
    records = every(domain)
    for model in (fitted.model_, GraphicalModel.load(tmp_path / "m.npz")):
        log = model.log_likelihood(Table(domain, records))
        assert np.array_equal(np.isneginf(log), broken(records))
        assert np.exp(log).sum() == pytest.approx(1.0)
        for rounded in (True, False):
            drawn = model.sample(20_000, np.random.default_rng(0), rounded=rounded)
            assert len(drawn) == 20_000 and not broken(drawn.codes).any()
        assert not broken(model.given({"b": [1, 3]}).sample(2000, np.random.default_rng(0)).codes).any()
        assert model.marginal(("a", "b"))[0, 1] == 0.0 and model.probabilities(("a", "b", "c", "d")).min() == 0.0


def test_a_federation_gives_no_mass_either(domain, clients):
    params = {"epsilon": 3.0, "rounds": 2, "workload": 4, "seed": 0, "participation": 1.0, "local_steps": 2}
    fitted = FLAIM(domain, impossible=RULES, **params).fit(clients)
    assert not broken(fitted.sample_table(5000).codes).any()


def noisy(table: Table) -> list[Measurement]:
    rng = np.random.default_rng(0)
    cliques = [("a",), ("b",), ("c",), ("d",), ("a", "b"), ("b", "c", "d")]
    return [
        Measurement(q, contingency(table, q) + np.rint(rng.normal(0, 9, table.domain.size(q))).astype(np.int64), 9.0)
        for q in cliques
    ]


def test_the_fit_reaches_the_optimum_that_a_generic_optimiser_finds_on_possible_records(domain, table):
    measurements, generator = noisy(table), PGM(domain, zeros=zeros(domain))
    pooled, possible = generator.pool(measurements, 2000.0), ~broken(every(domain)).reshape(domain.shape)
    assert not pooled["a", "b"][0].reshape(3, 4)[0, 1:3].any()  # projected
    typical = typical_sigma(measurements, 2000.0)

    ridges = {
        q: sigma**2 / typical * (pgm.RIDGE_ONE_WAY if len(q) == 1 else pgm.RIDGE) for q, (_, sigma) in pooled.items()
    }
    ends = np.cumsum([len(target) for target, _ in pooled.values()])

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        parts = dict(zip(pooled, np.split(theta, ends[:-1]), strict=True))
        log = sum(part.reshape([domain.size((n,)) if n in q else 1 for n in domain.names]) for q, part in parts.items())
        weights = np.where(possible, np.exp(log), 0.0)
        value, slopes = 2000.0 * float(np.log(weights.sum())), []
        for q, part in parts.items():
            value += -part @ pooled[q][0] + ridges[q] * pgm.BEND**2 * (np.cosh(part / pgm.BEND) - 1).sum()
            model = weights.sum(axis=tuple(a for a, n in enumerate(domain.names) if n not in q)).ravel() / weights.sum()
            slopes.append(2000.0 * model - pooled[q][0] + ridges[q] * pgm.BEND * np.sinh(part / pgm.BEND))
        return value, np.concatenate(slopes)

    fitted = generator.fit(measurements, 2000.0, final=True)
    theta = np.concatenate([np.where(np.isneginf(p := fitted.potentials[q]), 0.0, p) for q in pooled])
    best = minimize(objective, theta, method="L-BFGS-B", jac=True, options={"maxfun": 10**6, "maxiter": 10**5})
    start = objective(np.zeros_like(theta))[0]
    assert objective(theta)[0] - best.fun <= 1e-3 * (start - best.fun)


def test_cold_and_warm_fits_are_proved_to_be_near_the_optimum(domain, table):
    measurements, generator = noisy(table), PGM(domain, zeros=zeros(domain))
    cold = generator.fit(measurements, 2000.0, final=True)
    warm = generator.fit(measurements, 2000.0, warm_start=generator.fit(measurements[:4], 2000.0), final=True)
    problem = pgm._Problem(
        generator._sizes,
        {generator._mask(q): value for q, value in generator.pool(measurements, 2000.0).items()},
        2000.0,
        typical_sigma(measurements, 2000.0),
        {generator._mask(q): value for q, value in zeros(domain).items()},
        (pgm.RIDGE_ONE_WAY, pgm.RIDGE),
    )
    for fitted in (cold, warm):
        theta = [np.where(np.isneginf(p := fitted.potentials[m.clique]), 0.0, p) for m in measurements]
        lower, upper = problem.bracket(np.concatenate(theta))
        assert 0 < lower <= upper <= lower * 1.001


def test_rounding_does_not_carry_a_draw_into_an_impossible_last_value():
    """The largest random number plus a large group number rounds to the next group's start."""

    class Largest:
        def random(self, count):
            return np.full(count, np.nextafter(1.0, 0.0))

    cumulative = np.tile([0.5, 1.0, 1.0], (5000, 1))
    drawn = sampling._independent(cumulative, np.arange(5000), Largest())
    assert (drawn == 1).all()


def test_models_have_room_for_the_cliques_of_the_conditions(domain):
    assert PGM(domain).cells([("a",)]) == 3 + 4 + 2 + 5
    assert PGM(domain, zeros=zeros(domain)).cells([("a",)]) == 3 * 4 * 2 + 3 * 2 * 5
    assert PGM(domain, zeros=zeros(domain)).fit([], 10.0).cells == 3 * 4 * 2 + 3 * 2 * 5


def test_marginals_that_no_possible_record_allows_bend_the_model_but_do_not_break_it():
    """Nine tenths have a = 0, nine tenths b = 0, and none both: exact knowledge gives way, the rule does not."""
    domain = Domain.from_shape({"a": 2, "b": 2})
    known = [pd.DataFrame({name: [0, 1], "count": [9, 1]}) for name in domain]
    table = Table(domain, np.array([[0, 1]] * 500 + [[1, 0]] * 500))
    fitted = AIM(domain, known=known, impossible=["a == 0 and b == 0"], rounds=1, seed=0).fit(table)
    assert np.isfinite(fitted.model_.log_partition)
    np.testing.assert_allclose(fitted.model_.probabilities(("a", "b")), [0, 0.5, 0.5, 0], atol=0.05)


def test_a_condition_that_meets_only_impossible_records_is_refused():
    fitted = PGM(MIXED, zeros=StructuralZeros.read(MIXED, CHILDREN).log_potentials).fit([], 10.0)
    with pytest.raises(DomainError, match="given: such records are impossible in this model"):
        fitted.given({"age": [0], "job": [2]})


SINGLE = pd.DataFrame({"age": ["0..19", "20..39", "40..59", "60..79", "80..100", None] * 3, "count": 1}).assign(
    marital=np.repeat(["single", "married", "widowed"], 6)
)
WRONG = [
    ({"impossible": CHILDREN[0]}, "impossible: needs a list of conditions such as"),
    (
        {"impossible": ["age < 25"]},
        "impossible: no record can have age=0..19 any more; drop a condition, or that value",
    ),
    ({"impossible": ["agee < 25 and job == cook"]}, "impossible[0]: unknown attribute 'agee' (did you mean 'age'?)"),
    ({"impossible": [*CHILDREN, "age <"]}, "impossible[2]: a value is missing at the end in 'age <'"),
    ({"impossible": ["age < 5 and job == cook"]}, "impossible[0]: no whole bin of 'age' satisfies it"),
    (
        {"impossible": ["job == none and marital != single", "job == none and marital == single"]},
        "impossible: no record can have job=none any more",
    ),
    (
        {
            "impossible": [
                f"job == {job} and marital != {m}" for job in ("none", "cook", "judge") for m in ("x", "single")
            ]
        },
        "impossible[0]: 'x' is no category of 'marital'",
    ),
    (
        {
            "impossible": [
                "job != none and marital != single",
                "job == none and marital != single",
                "job != none and marital == single",
                "job == none and marital == single",
            ]
        },
        "impossible: together, the conditions leave no possible record; drop some",
    ),
    (
        {"impossible": CHILDREN, "known": [SINGLE]},
        "impossible: age=0..19, marital=married has 0.0556 of all records in a marginal that is known exactly; correct",
    ),
    ({"impossible": CHILDREN, "generator": "mbi"}, "generator: 'mbi' knows no impossible cells; use 'pgm'"),
    (
        {"impossible": CHILDREN, "max_model_mb": 1e-4},
        "max_model_mb: what is known and impossible needs a model of 0.000275 MB, the limit is 0.0001; raise it",
    ),
]


@pytest.mark.parametrize(("params", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_wrong_conditions_are_named_in_one_line_before_anything_is_spent(params, message):
    with pytest.raises(ConfigError) as caught:
        AIM(MIXED, **params).fit(pd.DataFrame())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_noisy_knowledge_with_mass_in_an_impossible_cell_is_projected():
    rng = np.random.default_rng(0)
    table = Table(MIXED, np.stack([rng.integers(1, 5, 300), rng.integers(0, 3, 300), rng.integers(0, 3, 300)], axis=1))
    known = [SINGLE.assign(standard_error=0.1)]
    fitted = AIM(MIXED, known=known, impossible=CHILDREN, workload=Workload(MIXED, (("age",),)), seed=0).fit(table)
    assert fitted.model_.marginal(("age", "marital"))[0, 1] == 0.0
