"""DistAIM: the pool against brute force, who joins, what is charged, how measurements are weighted."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginal_sdg import DistAIM, Domain, Table, Workload
from marginal_sdg.backends.ideal_pool import IdealPool
from marginal_sdg.backends.pool import Ballot
from marginal_sdg.errors import ConfigError, DataError
from marginal_sdg.marginals import Layout, contingency
from marginal_sdg.metrics import workload_error
from marginal_sdg.privacy.joint import GUMBEL_LIMIT

TRIPLES = [("a", "b", "c"), ("b", "c", "d")]


@pytest.fixture(scope="module")
def layout(domain):
    return Layout(domain, (("a",), ("a", "b"), ("b", "c", "d"), ("c",)))


def ballot(layout, rng, most=2000):
    queries = len(layout.cliques)
    expected = rng.integers(0, 300, int(layout.offsets[-1]))
    return Ballot(layout, expected, rng.integers(1, 2**20, queries), rng.integers(0, 2**30, queries), most)


def fit(clients, domain, **params):
    defaults = {"workload": Workload(domain, tuple(TRIPLES)), "rounds": 4, "epsilon": 5.0, "seed": 1}
    return DistAIM(domain, **{**defaults, "participation": 0.4, **params}).fit(clients)


@given(st.integers(0, 2**32))
def test_selection_is_the_argmax_of_exact_noisy_scores(clients, layout, seed):
    rng = np.random.default_rng(seed)
    vote = ballot(layout, rng)
    pool = IdealPool(clients, Workload(clients[0].domain, TRIPLES))
    members = sorted(map(int, rng.choice(10, 4, replace=False)))
    pool.join(members[:2])
    pool.select(vote, [np.zeros(4, np.int64)])  # answers are kept up to date when more clients join
    pool.join(members[2:])
    parts = [rng.integers(-(2**28), 2**28, 4) for _ in range(3)]
    scores = []
    for q, clique in enumerate(layout.cliques):
        counts = sum(contingency(clients[k], clique) for k in members)
        distance = int(np.abs(counts - vote.expected[layout.cells_of(clique)]).sum())
        scores.append(int(vote.weights[q]) * distance - int(vote.penalties[q]) + sum(int(part[q]) for part in parts))
    assert pool.select(vote, parts) == int(np.argmax(scores))
    assert max(map(abs, scores)) <= vote.largest_score


def test_measurements_and_sizes_are_counts_plus_all_parts(clients, layout):
    pool = IdealPool(clients, Workload(clients[0].domain, TRIPLES))
    assert pool.join([3, 5]) == (3, 5)
    assert pool.size([np.array([4]), np.array([-1])]) == len(clients[3]) + len(clients[5]) + 3
    noise = [[np.arange(3), np.arange(2)], [np.ones(3, np.int64), np.ones(2, np.int64)]]
    first, second = pool.measure([("a",), ("c",)], noise)
    both = contingency(clients[3], ("a",)) + contingency(clients[5], ("a",))
    assert first.tolist() == (both + np.arange(3) + 1).tolist()
    assert second.sum() == len(clients[3]) + len(clients[5]) + 3


def test_members_share_what_the_planned_rounds_will_need(monkeypatch):
    """Marginals that drown in the noise of a pool of few clients are shared only if more are expected."""
    domain = Domain.from_shape({"a": 8, "b": 8, "c": 8})
    rng = np.random.default_rng(0)
    clients = [Table(domain, rng.integers(0, 8, (300, 3)).astype(np.int32)) for _ in range(10)]
    sent = []
    for planned in (1, 60):
        monkeypatch.setattr(DistAIM, "_planned_rounds", planned)
        method = DistAIM(domain, workload=Workload(domain, (("a", "b", "c"),)), participation=0.1, rounds=1, seed=1)
        sent.append(method.fit(clients).communication_["client_sent_ideal_bytes"])
    assert sent[0] < sent[1]


def test_bounds_hold_for_the_most_extreme_pool(layout, domain):
    """One cell holds everybody, the model expects everybody elsewhere."""
    everybody = Table(domain, np.zeros((500, 4), dtype=np.int32))
    pool = IdealPool([everybody], Workload(domain, TRIPLES))
    pool.join([0])
    expected = np.zeros(int(layout.offsets[-1]), dtype=np.int64)
    expected[layout.offsets[1:] - 1] = 500
    vote = Ballot(layout, expected, np.full(4, 1000), np.zeros(4, np.int64), most=500)
    assert vote.largest_difference == 500
    assert vote.largest_score - 2 * GUMBEL_LIMIT >= 1000 * 1000
    assert pool.select(vote, [np.zeros(4, np.int64)]) == 0  # all tie: the first wins


def test_the_budget_is_spent_exactly_and_the_size_is_charged_once(clients, domain):
    fitted = fit(clients, domain)
    ledger = fitted.ledger
    sizes = [charge for charge in ledger.charges if charge.what.startswith("size")]
    assert len(sizes) == 1 and sizes[0].rho == Fraction(1, 50) * ledger.budget.rho
    assert ledger.spent == ledger.budget.rho
    assert {charge.by for charge in ledger.charges} == {"servers"}
    assert not any("paper" in caveat for caveat in ledger.caveats)


def test_the_papers_calibration_has_a_dealer_and_exact_sizes(clients, domain):
    fitted = fit(clients, domain, calibration="paper")
    assert {charge.by for charge in fitted.ledger.charges} == {"dealer"}
    assert any("paper calibration" in caveat for caveat in fitted.ledger.caveats)
    assert fitted.model_.total == 2000


def test_released_noise_has_the_variance_that_the_fit_is_told(clients, domain):
    sound, paper = fit(clients, domain), fit(clients, domain, calibration="paper")
    charged = next(c for c in sound.ledger.charges if c.what.startswith("round 1: measure"))
    assert sound.measurements_[-1].sigma ** 2 == pytest.approx(1.5 * float(charged.parameter), rel=1e-6)
    charged = next(c for c in paper.ledger.charges if c.what.startswith("round 1: measure"))
    assert paper.measurements_[-1].sigma ** 2 == pytest.approx(float(charged.parameter))


def test_clients_stay_in_the_pool(clients, domain):
    fitted = fit(clients, domain, rounds=8, epsilon=8.0)
    sizes = [m.records for m in fitted.measurements_]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert sizes[-1] == pytest.approx(2000, rel=0.05)  # by then all have joined


@pytest.mark.parametrize(("weighting", "weighs"), [("records", True), ("equal", False)])
def test_weighting_decides_whether_a_larger_pool_counts_more(clients, domain, weighting, weighs):
    fitted = fit(clients, domain, weighting=weighting)
    assert all((m.confidence == m.records) if weighs else m.confidence is None for m in fitted.measurements_)


def test_everybody_at_once_comes_close_to_the_truth(clients, table, domain):
    fitted = fit(clients, domain, participation=1.0, epsilon=10.0, rounds=5)
    workload = Workload(domain, tuple(TRIPLES))
    assert workload_error(table, fitted.sample_table(20_000, seed=0), workload) < 0.1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weighting": "size"}, "weighting: must be 'records' or 'equal', got 'size'"),
        ({"participation": 0.0}, "participation: must be above 0 and at most 1, got 0.0"),
    ],
)
def test_bad_parameters_are_named(clients, domain, params, message):
    with pytest.raises(ConfigError, match=message):
        fit(clients, domain, **params)


def test_one_table_is_not_a_list_of_clients(table, domain):
    with pytest.raises(DataError, match="one table per client"):
        fit(table, domain)
