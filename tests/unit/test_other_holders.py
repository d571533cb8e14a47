"""Data holders in processes of their own: the sums are right, each pays for itself, and nobody is talked into more."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from marginal_sdg import FHAIM, Budget, Domain, Ledger, Workload, roles
from marginal_sdg.backends.agreement import Agreement
from marginal_sdg.backends.distance import Distance
from marginal_sdg.backends.holders import joined
from marginal_sdg.backends.other_holder import OtherHolder
from marginal_sdg.backends.others import Others
from marginal_sdg.backends.vault import Ballot, ClearVault
from marginal_sdg.crypto.box import OVERHEAD, Box, seal
from marginal_sdg.crypto.fhe import library
from marginal_sdg.crypto.fhe.parties import HOLDER, KEY_HOLDER, SERVER, KeyParty, Seal, Step, Terms
from marginal_sdg.crypto.fhe.plan import choose_layout
from marginal_sdg.crypto.fhe.profile import choose_profile
from marginal_sdg.crypto.identity import Identity, issue
from marginal_sdg.encoding import Table
from marginal_sdg.errors import BudgetError, ConfigError, DataError, ProtocolError
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy import Source
from marginal_sdg.privacy.joint import part_variance
from marginal_sdg.schedule import Step as Round

try:
    library.openfhe()
except ProtocolError as missing:
    pytest.skip(str(missing), allow_module_level=True)
pytest.importorskip("grpc", reason="processes of their own need the extra services")

CAP = 300
LIMIT = Budget(3.0, 1e-5)
TIMEOUT = 60.0


@pytest.fixture(scope="module")
def pairs(domain):
    return Workload(domain, tuple(combinations(domain.names, 2)))


@pytest.fixture(scope="module")
def parts(table):
    """The records of three holders."""
    return [table.take(np.arange(start, start + 40 + start)) for start in (0, 40, 60)]


@pytest.fixture(scope="module")
def sides(table):
    """The columns of three holders of the same records; the second declares its own in another order."""
    records = table.take(np.arange(220))
    return [records.select(("c",)), backwards(records.select(("b", "d"))), records.select(("a",))]


def backwards(table):
    """The same table, its columns in reverse order."""
    return Table(Domain(table.domain.attributes[::-1]), table.codes[:, ::-1])


def agreed(domain, **changes):
    terms = {"domain": domain.to_dict(), "epsilon": 3.0, "delta": 1e-5, "group": 1, "holders": 3, "split": "rows"}
    terms |= {"max_records": CAP, "records": 0, "upload": "records", "score": "l2"}
    return Agreement(**{**terms, **changes})


def holder(table, **changes):
    ledgers = []

    def account(budget, group):
        ledgers.append(Ledger(LIMIT, Source.seeded(0), group=group))
        return ledgers[-1]

    given = {"limit": LIMIT, "account": account, "source": Source.seeded(7), "identity": None}
    made = OtherHolder(table, **{**given, **changes})
    made.ledgers = ledgers
    return made


class Here:
    """Another data holder in this process; ``said``: its answers, by step."""

    def __init__(self, other):
        self.other, self.said = other, {}

    def ask(self, step, chunks):
        self.said[step] = list(self.other.ask(step, chunks))
        return self.said[step]

    def stream(self, step, chunks):
        return iter(self.ask(step, chunks))


@pytest.mark.parametrize(("split", "upload"), [("rows", "records"), ("rows", "marginals"), ("columns", "records")])
def test_what_holders_elsewhere_have_and_add_is_in_the_sums(parts, sides, pairs, split, upload, monkeypatch):
    """Winner and counts are those of all records in the clear under the noise that every ledger has drawn."""
    from marginal_sdg.backends.sealed import SealedVault

    parts = parts if split == "rows" else sides
    terms = {"split": split, "records": 0 if split == "rows" else 220}
    drawn = []

    def watch(original):
        def watched(*arguments, **named):
            noise = original(*arguments, **named)
            drawn.extend(noise.parts)
            return noise

        return watched

    for name in ("gumbel_parts", "gaussian_parts"):
        monkeypatch.setattr(Ledger, name, watch(getattr(Ledger, name)))
    others = [Here(holder(part)) for part in parts[1:]]
    vault = SealedVault(
        parts[:1],
        pairs,
        Source.system().key,
        max_records=CAP,
        measurements=9,
        upload=upload,
        others=Others(others, agreed(pairs.domain, upload=upload, **terms)),
    )
    everything = joined(parts, pairs.domain)
    clear = ClearVault(everything)
    rng, own, n = np.random.default_rng(0), Ledger(LIMIT, Source.seeded(1)), len(pairs.closure)
    distance = Distance("l2", CAP)
    step = Round(4, Fraction(50), Fraction(1, 8))
    expected = tuple(
        contingency(everything, q) + rng.integers(0, 3, pairs.domain.size(q)) for q in pairs.closure
    )  # close, so that noise decides
    winners = set()
    for _ in range(8):
        drawn.clear()
        noise = own.gumbel_parts(n, step.epsilon2, sensitivity=1, servers=3, here=(0,), what="select")
        vote = Ballot(
            pairs.closure, expected, np.full(n, noise.unit >> distance.fraction), rng.integers(0, 9, n), distance
        )
        winner = vault.select(vote, noise.parts, noise.bound, step)
        assert len(drawn) == 3 and winner == clear.select(vote, drawn, noise.bound)
        winners.add(winner)
    assert len(winners) > 1
    drawn.clear()
    cliques = [("a", "d"), ("b",)]
    cells = [pairs.domain.size(clique) for clique in cliques]
    noise = own.gaussian_parts(cells, step.variance, servers=3, per_record=2, here=(0,), what="measure")
    found = vault.measure(cliques, noise.parts, step)
    for counts, exact in zip(found, clear.measure(cliques, drawn), strict=True):
        np.testing.assert_array_equal(counts, exact)
    assert len(drawn) == 3 and noise.variance == 3 * part_variance(step.variance, 3)
    for other in others:  # each has paid from its own ledger, and what it was booked to
        (account,) = other.other.ledgers
        assert account.spent == own.spent == 8 * step.epsilon2 / 8 + 2 / (2 * step.variance)


def test_shares_of_noise_are_for_two_that_do_not_ask(parts, pairs):
    """Whoever passes them on holds two sealed boxes; opened, they add up to the noise of the ledger."""
    layout, public_key = session(pairs)
    boxes = Box(Source.system().key()), Box(Source.system().key())
    seals = [Seal(box.public, b"").pack() for box in boxes]
    asked = holder(parts[1])
    asked.ask(Step.OPEN, [agreed(pairs.domain).of(1).pack(), layout, public_key, *seals])
    question = json.dumps({"candidates": 6, "epsilon2": "1/4"}).encode()
    answer = asked.ask(Step.CHOOSE, [question])
    assert [len(message) for message in answer] == [6 * 8 + OVERHEAD] * 2
    mask, masked = (np.frombuffer(box.open(m), np.uint64) for box, m in zip(boxes, answer, strict=True))
    noise = (mask + masked).view(np.int64)
    assert abs(noise).max() < 90 << 24 and abs(mask.astype(np.float64)).max() > 2**50
    with pytest.raises(ProtocolError, match="made for another box, or was changed"):
        boxes[0].open(answer[1])
    with pytest.raises(ProtocolError, match="made for another box, or was changed"):
        boxes[0].open(answer[0][:-1])
    with pytest.raises(ProtocolError, match="what should be a public key is none"):
        seal(b"", b"short")


def session(pairs):
    """Terms and a public key that a key holder announces."""
    domain = pairs.domain
    cliques = [tuple(map(domain.index, clique)) for clique in pairs.closure]
    layout = choose_layout(choose_profile(CAP), domain.shape, cliques, dense=True)
    terms = Terms(layout, 50, False).pack()
    return terms, KeyParty(Source.system().key).ask(Step.OPEN, [terms])[0]


def test_parts_drawn_elsewhere_are_like_those_drawn_here():
    """Every place has the variance that the whole is split into; only the first two add to scores."""
    split = {"servers": 4, "what": "test"}
    for place in range(4):
        ledger = Ledger(Budget(1000.0, 1e-5), Source.seeded(place))
        noise = ledger.gaussian_parts([40_000], Fraction(90), here=(place,), **split)
        assert len(noise.parts) == 1 and noise.variance == 4 * part_variance(Fraction(90), 4)
        assert noise.parts[0][0].var() == pytest.approx(float(noise.variance) / 4, rel=0.05)
        scores = ledger.gumbel_parts(40_000, Fraction(1), sensitivity=1, here=(place,), **split)
        spread = (scores.parts[0] / 2.0**24).var()
        assert spread == pytest.approx(np.pi**2 / 6, rel=0.1) if place < 2 else spread == 0
        assert ledger.spent == 1 / Fraction(180) + Fraction(1, 8)


# --- what a data holder does not agree to -----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"epsilon": 3.1}, r"budget: epsilon 3.1 and delta 1e-05 are planned, this data holder agrees to 3 and 1e-05"),
        ({"delta": 1e-4}, r"budget: "),
        ({"max_records": 299}, r"records: this data holder has more than its part of the cap, 99$"),
        ({"max_records": 30_000}, r"records: "),
        ({"domain": {}}, r"domain: cannot be read"),
        ({"domain": {"a": {"categories": [0, 1]}}}, r"domain: this holder's file declares other columns"),
        ({"place": 0}, r"agreement: cannot be read"),
        ({"place": 3}, r"agreement: cannot be read"),
        ({"group": "1"}, r"agreement: cannot be read"),
        ({"score": "l3"}, r"score: must be one of"),
        ({"split": "columns", "records": 99}, r"records: holders of columns have different numbers"),
        ({"split": "columns", "records": 100, "max_records": 99}, r"records: this data holder has more"),
        ({"records": -1}, r"agreement: cannot be read"),
        ({"records": "100"}, r"agreement: cannot be read"),
        ({"split": "columns", "records": 100, "upload": "marginals"}, r"upload: no holder of some columns"),
        ({"split": "sides"}, r"agreement: cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_encrypted(parts, pairs, changes, match):
    layout, public_key = session(pairs)
    asked = holder(parts[2])
    agreement = replace(agreed(pairs.domain).of(1), **changes).pack()
    with pytest.raises((ProtocolError, ConfigError), match=match):
        asked.ask(Step.OPEN, [agreement, layout, public_key, bytes(32), bytes(32)])
    assert not any(ledger.charges for ledger in asked.ledgers)
    with pytest.raises(ProtocolError, match="step 3: not now"):
        asked.ask(Step.UPLOAD, [])


@pytest.mark.parametrize(
    ("step", "question", "match"),
    [
        (Step.OPEN, b"", "step 1: not now"),
        (Step.CHOOSE, b"[]", "does not name candidates and epsilon2"),
        (Step.CHOOSE, b'{"candidates": 99, "epsilon2": "1"}', "99 candidates of"),
        (Step.CHOOSE, b'{"candidates": 2, "epsilon2": "a"}', "'a' is no fraction"),
        (Step.CHOOSE, b'{"candidates": 2, "epsilon2": "-1"}', "must be a positive"),
        (Step.CHOOSE, b'{"candidates": 2, "epsilon2": "99"}', "needs rho"),
        (Step.MEASURE, b'{"candidates": [1, 1], "variance": "9"}', "not different ones"),
        (Step.MEASURE, b'{"candidates": [99], "variance": "9"}', "not different ones"),
        (Step.MEASURE, b'{"candidates": [1, 2], "variance": "1/2"}', "too small|needs rho"),
    ],
)
def test_questions_beyond_the_agreement_are_refused_unpaid(parts, pairs, step, question, match):
    layout, public_key = session(pairs)
    asked = holder(parts[1])
    box = Box(Source.system().key()).public
    asked.ask(Step.OPEN, [agreed(pairs.domain).of(1).pack(), layout, public_key, box, box])
    with pytest.raises((ProtocolError, BudgetError), match=match):
        asked.ask(step, [question])
    assert not any(ledger.charges for ledger in asked.ledgers)


def test_a_public_key_or_box_that_is_not_signed_by_its_role_is_refused(parts, pairs, tmp_path):
    """The one who asks could otherwise put its own key in, and read what others encrypt."""
    issue(tmp_path, ["server", "key-holder", "data-holder-1", "data-holder-2"])
    names = {name: Identity.load(tmp_path / name) for name in ("server", "key-holder", "data-holder-1")}
    layout, public_key = session(pairs)
    mine = Identity.load(tmp_path / "data-holder-2")

    def opened(key, keyholder, server):
        asked = holder(parts[1], identity=mine)
        asked.ask(Step.OPEN, [agreed(pairs.domain).of(1).pack(), layout, key, keyholder.pack(), server.pack()])

    def signed(name, key=public_key):
        return Seal.of(Box(Source.system().key()), key, names[name].sign)

    opened(public_key, signed("key-holder"), signed("server"))
    other = session(pairs)[1]
    for key, keyholder, server, impostor in [
        (other, signed("key-holder"), signed("server"), KEY_HOLDER),  # another key
        (public_key, signed("data-holder-1"), signed("server"), KEY_HOLDER),  # by somebody else
        (public_key, signed("key-holder"), signed("key-holder"), SERVER),  # by the other role
        (
            public_key,
            signed("key-holder"),
            replace(signed("server"), box=Box(Source.system().key()).public),
            SERVER,
        ),  # another box
        (public_key, signed("key-holder"), Seal(Box(Source.system().key()).public, b""), SERVER),  # by nobody
    ]:
        with pytest.raises(ProtocolError, match=f"^{impostor}: what came in its name is not signed by it"):
            opened(key, keyholder, server)


# --- all together -----------------------------------------------------------------------------------


def test_a_fit_with_holders_elsewhere_pays_in_every_ledger(parts, pairs, tmp_path):
    """Over gRPC with certificates; a second fit is refused by the others, whose accounts are spent."""
    issue(tmp_path, ["server", "key-holder", "data-holder-1", "data-holder-2", "data-holder-3"])
    totals = [Ledger(LIMIT, Source.system()) for _ in parts[1:]]
    said = []

    def other(part, total):
        return OtherHolder(
            part, LIMIT, lambda budget, group: total, Source.system(), Identity.load(tmp_path / "data-holder-2")
        )

    with ExitStack() as stack:

        def serve(role, make, name):
            service = roles.serve(role, make, "127.0.0.1:0", TIMEOUT, said.append, Identity.load(tmp_path / name))
            stack.callback(service.close)
            return f"127.0.0.1:{service.port}"

        where = [
            serve(HOLDER, lambda memory, a=a: other(*a), f"data-holder-{n}")
            for n, a in enumerate(zip(parts[1:], totals, strict=True), 2)
        ]
        fhaim = FHAIM(
            pairs.domain,
            workload=pairs,
            rounds=2,
            epsilon=3.0,
            max_records=CAP,
            engine="bgv",
            server=serve(
                SERVER, lambda memory: roles.party(SERVER, memory, Identity.load(tmp_path / "server")), "server"
            ),
            keyholder=serve(
                KEY_HOLDER,
                lambda memory: roles.party(KEY_HOLDER, memory, Identity.load(tmp_path / "key-holder")),
                "key-holder",
            ),
            others=where,
            identity=tmp_path / "data-holder-1",
            timeout=TIMEOUT,
        ).fit(parts[0])
        assert [total.spent for total in totals] == [fhaim.ledger.spent] * 2
        assert fhaim.model_.total == pytest.approx(sum(map(len, parts)), abs=60)
        with pytest.raises(ProtocolError, match=r"^data holder: ledger: this fit may spend .* but 0 is left"):
            fhaim.fit(parts[0])
    assert said[:4] == ["session done"] * 4


def test_others_need_services_and_one_table_here(parts, sides, pairs):
    with pytest.raises(ConfigError, match="others: need server and keyholder, and one table here"):
        FHAIM(pairs.domain, engine="bgv", max_records=CAP, others=["a:3"]).fit(parts[0])
    where = {"engine": "bgv", "max_records": CAP, "others": ["a:3"], "server": "a:1", "keyholder": "a:2"}
    with pytest.raises(ConfigError, match="others: need server and keyholder, and one table here"):
        FHAIM(pairs.domain, **where).fit(parts[:2])
    with pytest.raises(DataError, match="every declared column needs exactly one holder"):
        FHAIM(pairs.domain, **where, split="columns").fit(parts[0])  # nothing is left for the others


@pytest.mark.parametrize("place", [1, 2])
def test_columns_are_those_of_one_holder_each(sides, pairs, place):
    """Found before anybody has paid, or encrypted more than a heading."""
    from marginal_sdg.backends.sealed import SealedVault

    twice = list(sides)
    twice[place] = sides[3 - place]
    others = [Here(holder(side)) for side in twice[1:]]
    agreement = agreed(pairs.domain, split="columns", records=220)
    with pytest.raises(ProtocolError, match=r"^columns: every declared one needs exactly one data holder"):
        SealedVault(
            sides[:1],
            pairs,
            Source.system().key,
            max_records=CAP,
            measurements=9,
            upload="records",
            others=Others(others, agreement),
        )
    assert not any(ledger.charges for other in others for ledger in other.other.ledgers)


def test_a_holder_has_its_columns_wherever_its_file_declares_them():
    """Two columns of the same size in another order would otherwise be taken for each other."""
    pair = Domain.from_shape({"x": 3, "y": 3})
    codes = np.array([[0, 2], [1, 2], [2, 2]], dtype=np.int32)
    layout = choose_layout(choose_profile(CAP), pair.shape, [(0,), (1,), (0, 1)], dense=True)
    terms = Terms(layout, 50, False)
    asked = holder(backwards(Table(pair, codes)))
    found = asked._agreed(agreed(pair).of(1), terms)
    assert found.domain == pair and found.codes.tolist() == codes.tolist()
