"""DistAIM on real shares: the ideal pool is the oracle, faults end in the same result or in one clear error."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from marginal_sdg import DistAIM, Workload
from marginal_sdg.backends.ideal_pool import IdealPool
from marginal_sdg.backends.pool import Ballot
from marginal_sdg.backends.share_pool import ATTEMPTS, SharePool
from marginal_sdg.crypto.traffic import COLUMNS
from marginal_sdg.errors import ProtocolError
from marginal_sdg.marginals import Layout

FIRST = (("a",), ("b",), ("c",), ("d",))
MORE = (("a", "b"), ("b", "c", "d"))


def workload(clients):
    return Workload(clients[0].domain, (("a", "b", "d"), ("b", "c", "d")))


def keys():
    numbers = itertools.count()
    return lambda: hashlib.sha256(str(next(numbers)).encode()).digest()


def pools(clients, members=(0, 4, 7), **faults):
    shared, ideal = (
        SharePool(clients, workload(clients), keys(), **faults),
        IdealPool(clients, workload(clients)),
    )
    assert shared.join(members) == ideal.join(members) == members
    return shared, ideal


def ballot(domain, rng, cliques=FIRST + MORE, most=2000):
    layout = Layout(domain, tuple(cliques))
    expected = rng.integers(0, 300, int(layout.offsets[-1])) * (rng.random(int(layout.offsets[-1])) < 0.6)
    n = len(cliques)
    return Ballot(layout, expected, rng.integers(1, 2**22, n), rng.integers(0, 2**30, n), most)


def noise(rng, n, servers=3):
    return [rng.integers(-(2**29), 2**29, n) for _ in range(servers)]


def opened(pool):
    return [transcript.opened for transcript in pool.transcripts]


@pytest.mark.parametrize("servers", [1, 3])
def test_every_answer_equals_the_ideal_pools(clients, domain, servers):
    rng = np.random.default_rng(servers)
    shared, ideal = pools(clients)
    assert shared.prepare(FIRST + MORE) == FIRST + MORE
    for _ in range(25):
        vote, parts = ballot(domain, rng), noise(rng, 6, servers)
        assert shared.select(vote, parts) == ideal.select(vote, parts)
    parts = noise(rng, 1, servers)
    assert shared.size(parts) == ideal.size(parts)
    parts = [[rng.integers(-9, 9, 3), rng.integers(-9, 9, 40)] for _ in range(servers)]
    for one, other in zip(
        shared.measure((("a",), MORE[1]), parts), ideal.measure((("a",), MORE[1]), parts), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_thousand_selections_equal_the_ideal_pools(clients, domain):
    rng = np.random.default_rng(5)
    shared, ideal = pools(clients)
    shared.prepare(FIRST + MORE)
    for _ in range(1000):
        vote, parts = ballot(domain, rng), noise(rng, 6)
        assert shared.select(vote, parts) == ideal.select(vote, parts)


def test_later_members_and_later_waves_meet(clients, domain):
    shared, ideal = pools(clients, (1,))
    shared.prepare(MORE)
    shared.join((2, 3)), ideal.join((2, 3))
    shared.prepare((("a", "d"), ("a", "b")))
    shared.join((9,)), ideal.join((9,))
    zeros = [[np.zeros(domain.size(q), np.int64) for q in (*MORE, ("a", "d"))]]
    cliques = (*MORE, ("a", "d"))
    for one, other in zip(shared.measure(cliques, zeros), ideal.measure(cliques, zeros), strict=True):
        np.testing.assert_array_equal(one, other)
    assert shared.size([np.array([0])]) == len(clients[9])


def test_only_indices_and_noisy_values_are_opened(clients, domain):
    rng = np.random.default_rng(0)
    shared, _ = pools(clients)
    shared.prepare(MORE)
    shared.select(ballot(domain, rng), noise(rng, 6))
    shared.size(noise(rng, 1))
    shared.measure((("a", "b"),), [[part] for part in noise(rng, 12)])
    assert opened(shared) == [[("argmax", 1), ("noisy counts", 1), ("noisy counts", 12)]] * 3


@pytest.mark.parametrize("calibration", ["sound", "paper"])
def test_a_fit_on_shares_is_the_fit_in_the_clear(clients, domain, calibration):
    params = {"workload": workload(clients), "rounds": 4, "epsilon": 3.0, "participation": 0.4, "seed": 3}
    ideal, shared = (
        DistAIM(domain, **params, calibration=calibration, engine=engine).fit(clients) for engine in ("ideal", "shares")
    )
    for one, other in zip(ideal.measurements_, shared.measurements_, strict=True):
        assert (one.clique, one.sigma, one.records) == (other.clique, other.sigma, other.records)
        np.testing.assert_array_equal(one.counts, other.counts)
    assert ideal.ledger.charges == shared.ledger.charges
    assert ideal.communication_ == shared.communication_  # the formulas give the metered bytes
    assert min(ideal.communication_[name] for name in COLUMNS if "received" not in name and "server" not in name) > 0


# --- faults ---------------------------------------------------------------------------------------


class Once:
    """Treats one frame of all that pass."""

    def __init__(self, place, treat):
        self.left, self.treat, self.old = place, treat, []

    def __call__(self, sender, receiver, number, frame):
        self.left -= 1
        self.old.append(frame)
        return self.treat(frame, self.old) if self.left == 0 else (frame,)


def die(frame, old):
    raise ProtocolError("server: killed")


TREATMENTS = {
    "altered": lambda frame, old: [frame[:-1] + bytes([frame[-1] ^ 1])],
    "truncated": lambda frame, old: [frame[:-3]],
    "lost": lambda frame, old: [],
    "replayed": lambda frame, old: [old[0]],
    "killed": die,
}


@pytest.mark.parametrize("place", [1, 2, 5, 17, 40])
@pytest.mark.parametrize("fault", TREATMENTS)
def test_a_single_fault_between_servers_changes_no_result(clients, domain, fault, place):
    """The protocol is repeated with the same noise: what it opens is what it would have opened."""
    rng = np.random.default_rng(place)
    shared, ideal = pools(clients, faults=Once(place, TREATMENTS[fault]))
    shared.prepare(MORE)
    vote, parts = ballot(domain, rng), noise(rng, 6)
    assert shared.select(vote, parts) == ideal.select(vote, parts)
    if place > 1 or fault != "replayed":  # replaying the first frame is delivering it
        assert len(shared.incidents) == 1


@pytest.mark.parametrize("fault", ["lost", "killed", "altered"])
def test_a_fault_that_stays_ends_in_one_error_and_no_result(clients, domain, fault):
    calls = itertools.count()

    def faults(sender, receiver, number, frame):
        next(calls)
        return TREATMENTS[fault](frame, []) if sender == 2 else (frame,)

    shared, _ = pools(clients)
    shared._faults, shared._servers = faults, None  # new keys, the same fault
    with pytest.raises(ProtocolError, match=r"^server"):
        shared.size([np.array([5])])
    assert len(shared.incidents) == ATTEMPTS - 1
    assert next(calls) > 0


def test_a_failed_fit_has_paid_once_for_what_it_did_not_get(clients, domain, monkeypatch):
    import marginal_sdg.federations as federations
    from marginal_sdg import Budget, Ledger
    from marginal_sdg.privacy import Source

    class Dying(SharePool):
        def __init__(self, tables, workload, keys):
            super().__init__(tables, workload, keys)

        def select(self, *arguments):
            self._faults, self._servers = lambda *frame: die(*frame[:2]), None
            return super().select(*arguments)

    monkeypatch.setattr(federations, "SharePool", Dying)
    shared = Ledger(Budget(3.0, 1e-5), Source.seeded(0))
    with pytest.raises(ProtocolError, match="killed"):
        DistAIM(domain, epsilon=3.0, rounds=3, workload=2, engine="shares", seed=0).fit(clients, ledger=shared)
    assert [charge.what for charge in shared.charges] == [
        "size of each joining cohort",
        "initial 1-way marginals",
        "round 1: select a clique",
    ]


def uploads(rule):
    return lambda client, server, message: rule(client, server, message)


@pytest.mark.parametrize(
    ("rule", "outside"),
    [
        (lambda c, s, m: [] if (c, s) == (4, 1) else [m], (4,)),
        (lambda c, s, m: [m[:-1]] if c in (0, 7) else [m], (0, 7)),
        (lambda c, s, m: [m[:60] + bytes([m[60] ^ 4]) + m[61:]] if (c, s) == (0, 0) else [m], (0,)),
        (lambda c, s, m: [m, m], ()),  # a replay is refused, the first one stands
        (lambda c, s, m: [], (0, 4, 7)),
    ],
)
def test_clients_whose_upload_fails_stay_outside_at_all_servers(clients, rule, outside):
    members = (0, 4, 7)
    shared = SharePool(clients, workload(clients), keys(), uploads=rule)
    inside = tuple(member for member in members if member not in outside)
    assert shared.join(members) == inside
    assert shared.size([np.array([0])]) == sum(len(clients[member]) for member in inside)
    shared._uploads = lambda client, server, message: [message]
    assert shared.join(outside) == outside  # they may try again
    (total,) = shared.measure((("a",),), [[np.zeros(3, np.int64)]])
    assert total.sum() == sum(len(clients[member]) for member in members)


def test_a_member_that_leaves_keeps_new_candidates_out_but_not_old_ones(clients, domain):
    gone = set()
    shared = SharePool(
        clients, workload(clients), keys(), uploads=lambda client, server, m: [] if client in gone else [m]
    )
    shared.join((1, 2, 3))
    gone.add(2)
    assert shared.prepare(FIRST + MORE) == FIRST
    gone.clear()
    assert shared.prepare(FIRST + MORE) == FIRST + MORE
    ideal = IdealPool(clients, workload(clients))
    ideal.join((1, 2, 3))
    zeros = [[np.zeros(12, np.int64)]]
    np.testing.assert_array_equal(shared.measure(MORE[:1], zeros)[0], ideal.measure(MORE[:1], zeros)[0])
