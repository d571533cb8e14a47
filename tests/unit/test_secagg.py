"""Secure aggregation: exact sums of those who stayed, bytes by the formula, and nothing else for the server."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marginal_sdg.crypto import masking
from marginal_sdg.crypto.graph import Graph, topology
from marginal_sdg.crypto.masking import MaskedSum, MaskingClient, MaskingServer
from marginal_sdg.crypto.secagg import LARGEST, STAGES, IdealSecureSum, ring_bytes, secagg_cost
from marginal_sdg.crypto.shamir import combine
from marginal_sdg.crypto.traffic import ACCOUNTINGS, Traffic
from marginal_sdg.errors import ProtocolError
from marginal_sdg.privacy.noise import Source

LENGTH = 7


def vectors(clients, length=LENGTH, seed=0, limit=2**40):
    rng = np.random.default_rng(seed)
    return {k: {0: rng.integers(-limit, limit, length)} for k in clients}


def plain(contributions, survivors, length=LENGTH):
    total = np.zeros(length, dtype=np.int64)
    for client in survivors:
        for start, cells in contributions[client].items():
            total[start : start + len(cells)] += cells
    return total


def dropping(left):
    """The dropout under which each client of ``left`` vanishes after its stage."""
    return lambda client, stage: left.get(client) == stage


def masked(seed=0, left=None):
    return MaskedSum(Source.seeded(seed).key, dropping(left or {}))


def run(secure_sum, contributions, length=LENGTH, bound=LARGEST):
    traffic = Traffic(max(contributions) + 1)
    return secure_sum(contributions, length, bound=bound, traffic=traffic), traffic


ENGINES = pytest.mark.parametrize(
    "engine", [lambda left: IdealSecureSum(dropping(left)), lambda left: masked(left=left)]
)


# --- sums -----------------------------------------------------------------------------------------


@ENGINES
def test_the_sum_is_exact(engine):
    contributions = {
        5: {0: np.array([1, 2**40]), 3: np.array([-7])},
        2: {1: np.array([-1, 5])},
        0: {},  # contributes zeros
    }
    aggregate, _ = run(engine({}), contributions, length=4)
    assert aggregate.total.tolist() == [1, 2**40 - 1, 5, -7] and aggregate.total.dtype == np.int64
    assert aggregate.survivors == (5, 2, 0)


@ENGINES
@pytest.mark.parametrize("stage", STAGES)
def test_those_who_vanish_before_they_send_their_vector_are_not_in_the_sum(engine, stage):
    contributions = vectors(range(6))
    aggregate, _ = run(engine({1: stage, 4: stage}), contributions)
    stayed = (0, 1, 2, 3, 4, 5) if stage == "masked" else (0, 2, 3, 5)
    assert aggregate.survivors == stayed
    assert np.array_equal(aggregate.total, plain(contributions, stayed))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32), wide=st.booleans())
def test_masks_give_the_exact_sum_whoever_vanishes_and_whenever(data, seed, wide):
    size = data.draw(st.integers(1, 9))
    gone = data.draw(st.lists(st.integers(0, size - 1), max_size=size // 3, unique=True))
    left = {k: data.draw(st.sampled_from(STAGES)) for k in gone}
    limit, bound = (2**58, LARGEST) if wide else (2**20, 2**31 - 1)
    contributions = vectors(range(size), seed=seed, limit=limit)
    aggregate, traffic = run(masked(seed, left), contributions, bound=bound)
    ideal, metered = run(IdealSecureSum(dropping(left)), contributions, bound=bound)
    assert aggregate.survivors == ideal.survivors
    assert np.array_equal(aggregate.total, ideal.total)
    assert traffic.summary() == metered.summary()  # a complete graph: the same bytes whoever drew it


def scattered(size, share, seed):
    """``share`` of the clients vanish, each after a stage drawn at random."""
    rng = np.random.default_rng(seed)
    gone = rng.choice(size, int(share * size), replace=False).tolist()
    return {k: STAGES[rng.integers(len(STAGES))] for k in gone}


def assert_exact(size, left, seed):
    contributions = vectors(range(size), length=50, seed=seed)
    aggregate, _ = run(masked(seed, left), contributions, length=50)
    assert aggregate.survivors == tuple(k for k in range(size) if left.get(k, "masked") == "masked")
    assert np.array_equal(aggregate.total, plain(contributions, aggregate.survivors, 50))


def test_a_hundred_clients_of_which_thirty_vanish():
    assert_exact(100, scattered(100, 0.3, 1), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("stage", [*STAGES, None])
def test_many_hundreds_of_clients(share, stage, seed):
    left = scattered(100, share, seed)
    assert_exact(100, {k: stage or where for k, where in left.items()}, seed)


def test_keys_decide_everything_else_and_are_never_used_twice(monkeypatch):
    sent = []
    add = MaskingServer.add
    monkeypatch.setattr(MaskingServer, "add", lambda self, message: sent.append(message) or add(self, message))
    contributions = vectors(range(3))
    for secure_sum in (masked(1), masked(1), masked(2)):
        run(secure_sum, contributions)
    assert sent[0:3] == sent[3:6] and not set(sent[0:3]) & set(sent[6:9])
    again = masked(1)
    run(again, contributions)
    run(again, contributions)
    assert not set(sent[9:12]) & set(sent[12:15])


# --- too few --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", [2, 10, 40])
def test_below_the_threshold_there_is_no_sum(size, stage):
    _, threshold = topology(size)
    left = dict.fromkeys(range(size - threshold + 1), stage)
    if size > 32:  # few neighbours: enough that vanish to leave somebody with too few
        left = dict.fromkeys(range(size - 4), stage)
    with pytest.raises(ProtocolError, match=r"must stay|are needed"):
        run(masked(left=left), vectors(range(size)))


@pytest.mark.parametrize("size", [1, 2, 10])
def test_at_the_threshold_there_is_one(size):
    _, threshold = topology(size)
    left = dict.fromkeys(range(size - threshold), "relay")
    aggregate, _ = run(masked(left=left), vectors(range(size)))
    assert len(aggregate.survivors) == threshold


def test_nobody_left_is_no_sum_by_masks_and_zeros_in_the_ideal():
    everybody = dict.fromkeys(range(4), "relay")
    with pytest.raises(ProtocolError, match="no client stayed"):
        run(masked(left=everybody), vectors(range(4)))
    aggregate, _ = run(IdealSecureSum(dropping(everybody)), vectors(range(4)))
    assert aggregate.total.tolist() == [0] * LENGTH and aggregate.survivors == ()


# --- bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "share"), [(1, 0), (2, 0), (12, 0), (12, 0.3), (40, 0), (40, 0.3)])
@pytest.mark.parametrize("bound", [1000, LARGEST])
def test_every_byte_is_in_the_formula(size, share, bound):
    """The metered lengths of real messages equal the closed formula, client by client, whoever vanishes when."""
    left = scattered(size, share, seed=3)
    payload = LENGTH * ring_bytes(bound)
    aggregate, traffic = run(masked(5, left), vectors(range(size), limit=3), bound=bound)
    graph = Graph.draw(range(size), Source.seeded(5).key())  # of the first key that the sum draws
    cost = secagg_cost(graph, left, payload)
    assert traffic.of("wire", "client", "sent").tolist() == [cost[k][0] for k in range(size)]
    assert traffic.of("wire", "client", "received").tolist() == [cost[k][1] for k in range(size)]
    assert traffic.of("ideal", "client", "sent").tolist() == [payload * (k in aggregate.survivors) for k in range(size)]
    for kind in ACCOUNTINGS:
        assert traffic.of(kind, "client", "sent").sum() == traffic.of(kind, "server", "received").sum()
        assert traffic.of(kind, "client", "received").sum() == traffic.of(kind, "server", "sent").sum()


@pytest.mark.parametrize("size", [2, 40])
def test_the_ideal_sum_counts_the_bytes_of_the_masked_one(size):
    contributions = vectors(range(size))
    assert run(masked(), contributions)[1].summary() == run(IdealSecureSum(), contributions)[1].summary()
    (degree, _), payload = topology(size), 8 * LENGTH
    assert run(masked(), contributions)[1].of("wire", "client", "sent")[0] == 133 + 123 * degree + payload


def test_the_ring_is_as_small_as_the_public_bound_allows():
    assert [ring_bytes(b) for b in (1, 2**31 - 1, 2**31, LARGEST)] == [4, 4, 8, 8]
    for bound in (2**31 - 1, LARGEST):
        pair = {0: {0: np.array([bound])}, 1: {0: np.array([0])}}
        assert run(masked(), pair, length=1, bound=bound)[0].total.tolist() == [bound]


# --- what the server sees -------------------------------------------------------------------------


class Session:
    """A masked sum that has come to the point where the server knows all masked vectors."""

    def __init__(self, contributions, length=LENGTH, ring=8, seed=0, client=MaskingClient):
        source = Source.seeded(seed)
        self.graph = Graph.draw(tuple(contributions), source.key())
        self.server = MaskingServer(self.graph, length, ring)
        self.clients = {
            k: client(k, pieces, length, ring, self.graph.threshold, source.key())
            for k, pieces in contributions.items()
        }
        self.keys = {k: client.advertise() for k, client in self.clients.items()}
        keys = self.server.relay_keys(self.keys)
        self.sealed = {k: client.share(keys[k]) for k, client in self.clients.items()}
        self.relayed = self.server.relay_shares(self.sealed)

    def masked(self):
        self.messages = {k: client.mask(self.relayed[k]) for k, client in self.clients.items()}
        for message in self.messages.values():
            self.server.add(message)
        return self


def vector_of(message, ring=8):
    return np.frombuffer(message[8:], dtype=f"<u{ring}")


def uneven(message) -> bool:
    """Chi-square over byte values of a masked vector; false alarms 1e-6."""
    counts = np.bincount(np.frombuffer(message[8:], dtype=np.uint8), minlength=256)
    expected = counts.sum() / 256
    return bool(((counts - expected) ** 2 / expected).sum() > 375)  # 255 degrees of freedom


class Unmasked(MaskingClient):
    """A planted fault: no mask of its own."""

    def _self_mask(self):
        return np.zeros(self._length, dtype=f"<u{self._ring}")


@pytest.mark.stat
@pytest.mark.parametrize("ring", [4, 8])
@pytest.mark.parametrize("client", [MaskingClient, Unmasked])
def test_a_masked_vector_is_uniform(ring, client):
    nothing = {k: {} for k in range(4)}
    session = Session(nothing, length=20_000, ring=ring, client=client).masked()
    assert not any(uneven(message) for message in session.messages.values())


@pytest.mark.stat
def test_the_chi_square_sees_a_vector_without_masks():
    alone = Session({0: {}}, length=20_000, client=Unmasked).masked()
    assert uneven(alone.messages[0])


def seen_after_a_false_report(client):
    """A server says that client 0, whose vector has arrived, vanished; it takes away all masks that it learns so.

    Returns what it holds, the shares of client 0's mask key that the others gave, and the session.
    """
    session = Session(vectors(range(4), seed=8), client=client).masked()
    lie = masking._HEADER.pack(masking._SURVIVORS, 2, 0)
    shares = {}
    for k in (1, 2, 3):
        ids = [*(v for v in (1, 2, 3) if v != k), 0]
        opened = session.clients[k].unmask(lie + np.array(ids, dtype="<u4").tobytes())
        shares[k + 1] = masking._read(opened, masking._UNMASK, 33)[0]
    key = masking.X25519PrivateKey.from_private_bytes(combine(shares))
    assert key.public_key().public_bytes_raw() == session.keys[0][8:40]  # the attack has the mask key
    left = vector_of(session.messages[0]).copy()
    pair_masks = np.zeros_like(left)
    for other in (1, 2, 3):
        masking._add_pair_mask(pair_masks, key, 0, other, session.keys[other][8:40])
    return (left - pair_masks).view(np.int64), session


def test_a_client_that_is_falsely_reported_gone_stays_masked():
    """Bonawitz et al. 2017, §4.2: why there is a mask of its own. Without it the server reads the vector."""
    exact = vectors(range(4), seed=8)[0][0]
    seen, _ = seen_after_a_false_report(Unmasked)
    assert np.array_equal(seen, exact)
    seen, session = seen_after_a_false_report(MaskingClient)
    assert not np.any(seen == exact)
    truth = session.server.survivors()
    for client in (1, 2, 3):  # nor can it have the shares of the seed as well
        with pytest.raises(ProtocolError, match="once, and was asked again"):
            session.clients[client].unmask(truth[client])


@pytest.mark.parametrize(
    ("alive", "gone"),
    [
        ([1, 2, 3], [1]),  # both secrets of client 1
        ([1, 1, 2], [3]),
        ([1, 2], []),  # nothing of client 3
        ([1, 2, 3, 4], []),  # a stranger
        ([0, 1, 2, 3], []),
    ],
)
def test_clients_answer_only_one_status_for_each_neighbour(alive, gone):
    session = Session(vectors(range(4))).masked()
    ids = np.array([*alive, *gone], dtype="<u4").tobytes()
    with pytest.raises(ProtocolError, match="one status for each neighbour"):
        session.clients[0].unmask(masking._HEADER.pack(masking._SURVIVORS, len(alive), 0) + ids)


def test_clients_do_not_unmask_a_sum_over_too_few():
    session = Session(vectors(range(4))).masked()
    ids = np.array([1, 2, 3], dtype="<u4").tobytes()
    with pytest.raises(ProtocolError, match="client 0 stops, with 2 clients around it where 3 must stay"):
        session.clients[0].unmask(masking._HEADER.pack(masking._SURVIVORS, 1, 0) + ids)


def test_the_server_cannot_read_shares_and_changed_ones_are_noticed():
    session = Session(vectors(range(4)))
    held = session.clients[1]
    sealed = session.relayed[1]
    for i in (12, 60, len(sealed) - 1):  # in the first and in the last sealed entry
        changed = bytearray(sealed)
        changed[i] ^= 1
        with pytest.raises(ProtocolError, match="were changed"):
            held.mask(bytes(changed))
    held.mask(sealed)
    for secrets in (client._held[client.name] for client in session.clients.values()):
        assert not any(share in message for share in secrets for message in session.relayed.values())


def test_shares_of_a_wrong_key_are_noticed():
    session = Session(vectors(range(4)))
    for k in (1, 2, 3):
        session.server.add(session.clients[k].mask(session.relayed[k]))
    lists = session.server.survivors()
    opened = [session.clients[k].unmask(lists[k]) for k in (1, 2, 3)]
    wrong = [message[:-33] + bytes([message[-33] ^ 1]) + message[-32:] for message in opened]
    with pytest.raises(ProtocolError, match=r"client 0 do not give its key|do not belong together"):
        session.server.unmask(wrong)
    assert session.server.unmask(opened).tolist() == plain(vectors(range(4)), (1, 2, 3)).tolist()


@pytest.mark.parametrize("cut", [slice(0, -1), slice(0, 40)])
def test_messages_of_a_wrong_form_are_refused(cut):
    session = Session(vectors(range(4)))
    with pytest.raises(ProtocolError, match="not what this step"):
        session.clients[0].mask(session.relayed[0][cut])
    with pytest.raises(ProtocolError, match="not what this step"):
        session.clients[0].mask(session.server.relay_keys(session.keys)[0])
    first = session.relayed[0]
    other_kind = bytes([masking._KEYS]) + first[1:]
    with pytest.raises(ProtocolError, match="not what this step"):
        session.clients[0].mask(other_kind)
    stranger = first[:8] + (9).to_bytes(4, "little") + first[12:]
    with pytest.raises(ProtocolError, match="client 9 is no neighbour of client 0"):
        session.clients[0].mask(stranger)
    twice = first[:8] + first[8:94] * 3
    with pytest.raises(ProtocolError, match="names a client twice"):
        session.clients[0].mask(twice)


# --- bad calls ------------------------------------------------------------------------------------


@ENGINES
def test_malformed_cohorts_are_refused(engine):
    traffic = Traffic(2)
    one = np.ones(2, dtype=np.int64)
    for contributions, bound, message in [
        ({}, LARGEST, "cohort is empty"),
        ({0: {0: one}, 1: {6: one}}, LARGEST, "does not fit into 7 cells"),
        ({0: {-1: one}}, LARGEST, "does not fit"),
        ({0: {0: 12345 * one}}, 12344, "exceeds the public bound 12344"),
        ({0: {0: -12345 * one}}, 12344, "exceeds"),
        ({0: {0: one}}, 0, "bound: must be positive and below 2"),
        ({0: {0: one}}, 2**63, "bound: must be positive and below 2"),
    ]:
        with pytest.raises(ProtocolError, match=message):
            engine({})(contributions, LENGTH, bound=bound, traffic=traffic)
    assert not any(traffic.summary().values())
