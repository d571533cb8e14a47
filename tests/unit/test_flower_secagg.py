"""Why FLAIM's sums are not made by Flower's SecAgg+: what that does, in the version that is installed, next to ours.

The table in docs/pages/concepts/flaim.md says the same. When Flower changes one of these, the table must change.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest

from marginal_sdg.crypto import masking
from marginal_sdg.crypto.masking import MaskedSum
from marginal_sdg.crypto.traffic import Traffic
from marginal_sdg.errors import ProtocolError
from marginal_sdg.privacy.noise import Source

pytest.importorskip("flwr", reason="Flower is not installed (extra flower, Python 3.11 or newer)")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SEED = bytes(range(32))
VECTORS = {k: np.array([100 * k, 3000, 0, 1, 7], dtype=np.int64) for k in range(1, 6)}
EXACT = sum(VECTORS.values())
WIDE = 2.0**21  # with 2^22 levels, a whole number each


class Flower:
    """SecAgg+'s workflow and its clients' mods in this process; ``gone``: (client, stage) that is not answered."""

    def __init__(self, vectors=VECTORS, gone=(), records=1000, **terms):
        from flwr.app import Context, RecordDict
        from flwr.server.workflow import SecAggPlusWorkflow

        self.vectors, self.gone, self.records = vectors, gone, records
        self.workflow = SecAggPlusWorkflow(1.0, 0.6, **terms)
        self.contexts = {
            k: Context(run_id=1, node_id=k, node_config={}, state=RecordDict(), run_config={}) for k in vectors
        }
        self.replies = []

    def send_and_receive(self, messages, timeout=None):
        from flwr.client.mod import secaggplus_mod

        replies = []
        for message in map(copy.deepcopy, messages):
            node, configs = message.metadata.dst_node_id, message.content.config_records["secaggplus_configs"]
            if (node, configs["stage"]) not in self.gone:
                try:
                    replies.append(secaggplus_mod(message, self.contexts[node], self._fit))
                except KeyError:  # as when the client's app fails
                    continue
        self.replies += replies
        return replies

    def _fit(self, message, context):
        from flwr.app import Message
        from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
        from flwr.compat.common.recorddict_compat import fitres_to_recorddict

        vector = ndarrays_to_parameters([self.vectors[context.node_id].astype(float)])
        result = FitRes(Status(Code.OK, ""), vector, num_examples=self.records, metrics={})
        return Message(fitres_to_recorddict(result, True), reply_to=message)

    def mean(self):
        """The weighted mean that a strategy is given; None where there is none."""
        from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
        from flwr.compat.common.recorddict_compat import parameters_to_arrayrecord
        from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState

        nothing, found = ndarrays_to_parameters([]), []
        clients = [(SimpleNamespace(node_id=k), FitIns(nothing, {})) for k in self.vectors]

        def aggregate(server_round, results, failures):
            found.extend(parameters_to_ndarrays(results[0][1].parameters))
            return None, {}

        context = SimpleNamespace(
            strategy=SimpleNamespace(configure_fit=lambda *_: clients, aggregate_fit=aggregate),
            client_manager=SimpleNamespace(num_available=lambda: len(clients)),
            state=SimpleNamespace(
                config_records={"config": {"current_round": 1}},
                array_records={"parameters": parameters_to_arrayrecord(nothing, True)},
            ),
        )
        state, run = WorkflowState(), self.workflow
        stages = (run.setup_stage, run.share_keys_stage, run.collect_masked_vectors_stage, run.unmask_stage)
        return found[0] if all(stage(self, context, state) for stage in stages) else None


@pytest.fixture(autouse=True)
def _task(monkeypatch):
    """Flower's messages want to know what run they are of."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def ours(vectors=VECTORS, gone=()):
    contributions = {k: {0: vector} for k, vector in vectors.items()}
    engine = MaskedSum(Source.seeded(1).key, lambda client, stage: (client, stage) in gone)
    return engine(contributions, 5, bound=2**62, traffic=Traffic(6)).total


def folded(seed: bytes) -> int:
    """What is left of a seed in Flower's generator."""
    return int(np.bitwise_xor.reduce(np.frombuffer(seed, dtype="<u4")))


def test_flowers_masks_depend_on_32_bits_of_a_seed():
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    other = SEED[4:8] + SEED[:4] + SEED[8:]
    assert folded(other) == folded(SEED)
    one, two = (pseudo_rand_gen(seed, 2**32, [(50,)])[0] for seed in (SEED, other))
    assert (one == two).all()
    assert (one == np.random.RandomState(folded(SEED)).randint(0, 2**32 - 1, 50, dtype=np.int64)).all()
    assert not (masking._expand(SEED, 50, 4) == masking._expand(other, 50, 4)).any()


def test_flowers_masks_of_pairs_depend_on_28_bits():
    """Their seeds are base64: 44 letters of ASCII."""
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
    from flwr.supercore.primitives.asymmetric import generate_key_pairs

    pairs = [(generate_key_pairs(), generate_key_pairs()) for _ in range(40)]
    seeds = [generate_shared_key(own[0], other[1]) for own, other in pairs]
    assert {len(seed) for seed in seeds} == {44}
    assert int(np.bitwise_or.reduce([folded(seed) for seed in seeds])) == 0x7F7F7F7F


def test_flowers_masks_are_never_the_largest_number():
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    assert set(pseudo_rand_gen(SEED, 4, [(1000,)])[0].tolist()) == {0, 1, 2}
    assert set((masking._expand(SEED, 1000, 4) % 4).tolist()) == {0, 1, 2, 3}


def test_flower_sums_integers_exactly_only_where_its_ranges_are_chosen_for_it():
    assert (ours() == EXACT).all()
    assert (Flower().mean() * 5).tolist() == [40, 40, 0, 5, 35]  # cut at 8, by default
    assert (Flower(clipping_range=WIDE).mean() * 5 == EXACT).all()
    large = {k: 1_000_003 * vector for k, vector in VECTORS.items()}
    assert (ours(large) == sum(large.values())).all()
    off = Flower(large, clipping_range=2.0**32).mean() * 5 - sum(large.values())
    assert 100 < np.abs(off).max() < 5 * 2**11
    weighted = Flower(clipping_range=WIDE, records=300).mean() * 5
    assert 0.1 < np.abs(weighted - EXACT).max() < 20  # the weights are divided out again, of whole numbers


@pytest.mark.parametrize(
    ("stage", "flowers", "own"),
    [
        ("setup", None, None),
        ("share_keys", None, "keys"),
        ("collect_masked_vectors", EXACT - VECTORS[5], "shares"),
        ("unmask", EXACT, "masked"),
    ],
)
def test_flower_has_no_sum_where_a_client_leaves_before_it_has_shared_its_secrets(stage, flowers, own):
    """Four of five stay, and three are enough."""
    found = Flower(gone={(5, stage)}, clipping_range=WIDE).mean()
    if flowers is None:
        assert found is None
    else:
        assert (found * (5 if stage == "unmask" else 4) == flowers).all()
    if own is not None:
        assert (ours(gone={(5, own)}) == (EXACT if own == "masked" else EXACT - VECTORS[5])).all()


def test_flowers_clients_say_how_many_records_they_have():
    flower = Flower(records=321)
    flower.mean()
    shown = [reply.content.metric_records for reply in flower.replies if reply.content.metric_records]
    assert [dict(record["fitres.num_examples"]) for record in shown] == [{"num_examples": 321}] * 5


def test_flowers_clients_give_a_server_both_secrets_of_another():
    """It says of client 2 that it has stayed, and that it has gone; a client of ours refuses."""
    from flwr.client.mod.secure_aggregation.secaggplus_mod import SecAggPlusState, _unmask

    state = SecAggPlusState(
        threshold=2,
        rd_seed_share_dict={1: b"seed 1", 2: b"seed 2"},
        sk1_share_dict={1: b"key 1", 2: b"key 2"},
    )
    said = _unmask(state, {"active_nids": [1, 2], "dead_nids": [2]})
    assert list(zip(said["nids"], said["shares"], strict=True))[1:] == [(2, b"seed 2"), (2, b"key 2")]
    client = masking.MaskingClient(1, {}, 1, 4, 1, SEED)
    client._held = {1: (b"seed 1", b"key 1"), 2: (b"seed 2", b"key 2")}
    both = masking._HEADER.pack(masking._SURVIVORS, 1, 1) + np.array([2, 2], dtype="<u4").tobytes()
    with pytest.raises(ProtocolError, match="not given one status for each neighbour"):
        client.unmask(both)
