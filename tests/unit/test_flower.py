"""FLAIM by messages: the same releases as in one process, nothing else on the wire, and nothing below the threshold."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from marginal_sdg import FLAIM, Budget, Domain, Table, load_dataset
from marginal_sdg.errors import BudgetError, ConfigError, ProtocolError
from marginal_sdg.flower import messages
from marginal_sdg.flower.__main__ import main as command
from marginal_sdg.flower.deployment import Deployment
from marginal_sdg.flower.kept import from_line
from marginal_sdg.flower.node import Node
from marginal_sdg.flower.project import write_project
from marginal_sdg.flower.remote_clients import RemoteFederation
from marginal_sdg.privacy import Ledger
from marginal_sdg.privacy.joint import part_variance
from marginal_sdg.privacy.noise import Source

LOUD = Budget(1e5, 1e-5)  # noise that rounds to nothing
PLAIN = (int, str, bytes)


@dataclass
class FakeGrid:
    """Nodes in this process, to which plain values pass only; ``lost`` says who is gone after which question."""

    nodes: list[Node]
    lost: dict[int, str] = field(default_factory=dict)
    seen: list[tuple[int, str, dict]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)  # how many, every time

    def __len__(self):
        return len(self.nodes)

    def ask(self, questions):
        answers = {}
        self.asked.append(len(questions))
        for k, question in questions.items():
            if k in self.lost and self.lost[k] in {asked for asker, asked, _ in self.seen if asker == k}:
                continue
            node = self.nodes[k]
            node = replace(node, state=dict(node.state))  # as a new process would
            answers[k] = node.answer(question)
            self.nodes[k].state = node.state
            self.seen.append((k, question["kind"], answers[k]))
            for value in [*question.values(), *answers[k].values(), *node.state.values()]:
                assert type(value) in PLAIN or all(type(item) in PLAIN for item in value)
        return answers


def grid(tables, limit=LOUD, least=2, colluding=None, **terms) -> FakeGrid:
    nodes = [Node(t, limit, least, Source.seeded(k), {}, colluding) for k, t in enumerate(tables)]
    return FakeGrid(nodes, **terms)


def fit(domain, clients, epsilon=LOUD.epsilon, **terms):
    settings = {"rounds": 2, "workload": 4, "participation": 0.6, "seed": 5, "secagg": "masks", **terms}
    return FLAIM(domain, epsilon=epsilon, **settings).fit(clients)


@pytest.fixture
def clients(clients):
    """Half of them, with 200 records each."""
    return clients[::2]


def released(fitted):
    return [(m.clique, m.counts.tolist(), m.records, m.confidence) for m in fitted.measurements_]


@pytest.mark.parametrize("variant", ["private", "census", "naive", "random", "naive_bayes"])
def test_messages_release_what_one_process_does(domain, clients, variant):
    here = fit(domain, clients, variant=variant)
    there = fit(domain, RemoteFederation(grid(clients), least=1), variant=variant)
    assert sorted(map(str, released(there))) == sorted(map(str, released(here)))
    assert there.ledger.charges == here.ledger.charges
    assert there.sample(50).equals(here.sample(50))
    assert there.ledger.spent == there.ledger.budget.rho


@pytest.mark.parametrize(("stage", "counted_first"), [("select", 5), ("keys", 4), ("shares", 4), ("masked", 5)])
def test_who_leaves_is_missing_in_the_sums_and_the_fit_goes_on(domain, clients, stage, counted_first):
    fitted = fit(domain, RemoteFederation(grid(clients, lost={3: stage})), participation=1.0)
    one_way = [m.records for m in fitted.measurements_ if len(m.clique) == 1]  # initial ones, and those of round 1
    expected = [200 * counted_first] * len(domain) + [200 * 4] * len(domain)
    assert one_way == pytest.approx(expected, abs=1)
    assert fitted.ledger.spent == fitted.ledger.budget.rho


def test_too_few_that_stay_end_the_fit(domain, clients):
    with pytest.raises(
        ProtocolError, match=r"3 clients are left in a sum, and one has fewer around it than the 4 that must"
    ):
        fit(domain, RemoteFederation(grid(clients, lost=dict.fromkeys(range(2), "keys"))), participation=1.0)
    with pytest.raises(ProtocolError, match="keys: 3 of 5 clients answered, 4 must"):
        fit(domain, RemoteFederation(grid(clients, lost=dict.fromkeys(range(2), "enrol")), least=4), participation=1.0)
    with pytest.raises(ProtocolError, match="clients: 5 are there, and 6 must stand"):
        fit(domain, RemoteFederation(grid(clients), least=6))


def test_no_cohort_is_smaller_than_agreed(domain, clients):
    def fewest(least, participation=0.6):
        nodes = grid(clients)
        fit(domain, RemoteFederation(nodes, least), rounds=6, participation=participation)
        return min(nodes.asked)

    assert fewest(1) < 3 <= fewest(3)
    with pytest.raises(ConfigError, match=r"participation: 0.2 of 5 clients are fewer than the 2 that must stand"):
        fewest(2, participation=0.2)
    with pytest.raises(
        ProtocolError, match=r"client .: secure aggregation: . clients are fewer than the 5 of this client"
    ):
        fit(domain, RemoteFederation(grid(clients, least=5), least=2), participation=0.6)


def test_every_client_pays_for_what_it_takes_part_in_and_never_more_than_the_server_says(domain, clients):
    nodes = grid(clients, Budget(1.0, 1e-5))
    fitted = fit(domain, RemoteFederation(nodes), epsilon=1.0, participation=1.0)
    spent = [node._ledger().spent for node in nodes.nodes]
    assert max(spent) == fitted.ledger.spent == fitted.ledger.budget.rho
    part = grid(clients, Budget(1.0, 1e-5))
    fit(domain, RemoteFederation(part), epsilon=1.0, participation=0.4)
    assert max(node._ledger().spent for node in part.nodes) < fitted.ledger.spent


def test_answers_say_no_more_than_a_noisy_size_and_masked_messages(domain, clients):
    nodes = grid(clients, Budget(1.0, 1e-5))
    fit(domain, RemoteFederation(nodes), epsilon=1.0)
    for _, kind, answer in nodes.seen:
        assert set(answer) == {"enrol": {"size"}, "select": set()}.get(kind, {"messages"})
    sizes = [answer["size"] for _, kind, answer in nodes.seen if kind == "enrol"]
    assert sizes != [len(table) for table in clients]
    assert not any(name.endswith("-key") for node in nodes.nodes for name in node.state)  # secrets are forgotten


@pytest.mark.parametrize(
    ("terms", "match"),
    [
        ({"calibration": "paper"}, "calibration: must be 'sound'"),
        ({"secagg": "ideal"}, "secagg: must be 'masks'"),
        ({"cohort": "per_query"}, "cohort: must be 'padded'"),
        ({"local_steps": 2}, "local_steps: must be 1"),
        ({"client_level": True}, "client_level: must be False"),
        ({"variant": "oracle"}, "variant: 'oracle' needs all records"),
    ],
)
def test_what_clients_elsewhere_cannot_do_is_named_before_anybody_is_asked(domain, clients, terms, match):
    nodes = grid(clients)
    with pytest.raises(ConfigError, match=match):
        fit(domain, RemoteFederation(nodes), **terms)
    assert not nodes.seen


def test_a_client_agrees_to_no_other_domain_and_no_larger_budget(domain, clients):
    nodes = grid(clients)
    nodes.nodes[1].table = Table(Domain.from_shape({"a": 3, "b": 4}), clients[1].codes[:, :2])
    with pytest.raises(ProtocolError, match="client 1: domain: the client's file declares other columns"):
        fit(domain, RemoteFederation(nodes))
    with pytest.raises(ProtocolError, match=r"client 0: budget: the server plans epsilon 2 .* agrees to 1 "):
        fit(domain, RemoteFederation(grid(clients, Budget(1.0, 1e-5))), epsilon=2.0)


def enrolled(domain, table) -> Node:
    terms = {
        "domain": domain.to_dict(),
        "cliques": [["a", "b"], ["c", "d"]],
        "weights": [1.0, 1.0],
        "closed": True,
        "variant": "naive",
        "epsilon": 1.0,
        "delta": 1e-5,
        "group": 1,
        "noise": None,
        "variance": "10000",
        "client": 0,
    }
    node = Node(table, Budget(1.0, 1e-5), 2, Source.seeded(0), {})
    assert set(node.answer({"kind": "enrol", "terms": json.dumps(terms)})) == {"size"}
    return node


SELECTION = {
    "kind": "select",
    "round": 0,
    "variance": "100",
    "epsilon2": "1/100",
    "places": [0, 1],
    "model": messages.packed(np.full(7, 0.25)),
    "reference": b"",
}


def test_a_client_answers_until_its_budget_is_spent_and_draws_its_size_once(domain, table):
    node = enrolled(domain, table)
    again = {"kind": "enrol", "terms": node.state["terms"]}
    assert node.answer(again)["size"] == node.state["size"]
    answers = [node.answer({**SELECTION, "round": number}) for number in range(30)]
    assert answers[0] == {} and "round 30: clients select: needs rho" in answers[-1]["error"]
    assert node._ledger().spent <= Budget(1.0, 1e-5).rho
    other = {**json.loads(node.state["terms"]), "epsilon": 0.5}
    assert "another fit" in node.answer({"kind": "enrol", "terms": json.dumps(other)})["error"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "everything"}, "is no question"),
        ({"kind": 3}, "field 'kind' is no str"),
        ({"places": [0, 99]}, "not in the workload's closure"),
        ({"places": []}, "not in the workload's closure"),
        ({"model": b"short"}, "does not hold 7 finite numbers"),
        ({"model": messages.packed(np.full(7, np.inf))}, "does not hold 7 finite numbers"),
        ({"kind": "shares", "sums": [1], "messages": [b""], "specs": "[{"}, "is no JSON"),
        ({"variance": "much"}, "cannot be read"),
        ({"kind": "unmask", "sums": [1], "messages": [b""]}, "'unmask' is not the next step of sum 1"),
    ],
)
def test_messages_that_are_none_are_named_and_cost_nothing(domain, table, change, match):
    node = enrolled(domain, table)
    before = dict(node.state)
    assert match in node.answer({**SELECTION, **change})["error"]
    assert node.state == before


@pytest.mark.parametrize("forged", [b"", b"\0\0\0\0\3" + bytes(67), b"\1" + bytes(71), bytes(40), b"x" * 8, 7])
def test_a_message_of_somebody_or_something_else_ends_the_fit(domain, clients, forged):
    class Forger(FakeGrid):
        def ask(self, questions):
            answers = super().ask(questions)
            if 0 in answers and "messages" in answers[0]:
                answers[0]["messages"] = [forged for _ in answers[0]["messages"]]
            return answers

    with pytest.raises(ProtocolError, match="client 0: 'keys' was answered for another step, sum or client"):
        fit(domain, RemoteFederation(Forger(grid(clients).nodes)), participation=1.0)


def test_no_mask_hides_two_vectors(domain, clients):
    """A step that is asked for again has the same answer; with another message, it is refused: neither has a second
    vector, or the seeds of those who were said to be gone.
    """
    changed = []

    class Greedy(FakeGrid):
        def ask(self, questions):
            answers = super().ask(questions)
            for k, question in questions.items():
                if question["kind"] in ("shares", "masked", "unmask"):
                    spent = self.nodes[k]._ledger().spent
                    assert self.nodes[k].answer(question) == answers[k]
                    other = [message[:-1] + bytes([message[-1] ^ 1]) for message in question["messages"]]
                    changed.append(self.nodes[k].answer({**question, "messages": other}))
                    assert self.nodes[k]._ledger().spent == spent
            return answers

    fit(domain, RemoteFederation(Greedy(grid(clients).nodes)), rounds=1)
    assert changed and all("is not the next step" in answer["error"] for answer in changed)


def test_a_question_that_comes_late_does_not_undo_the_sum_that_is_being_made(domain, table):
    """Of a client that was away, Flower keeps questions of sums that are over."""
    node = enrolled(domain, table)
    for number in (0, 1):
        assert "messages" in node.answer({"kind": "keys", "sums": [number]})
    before = dict(node.state)
    assert "sum 0 is over; this question came too late" in node.answer({"kind": "keys", "sums": [0]})["error"]
    assert node.state == before and any(name.startswith("sum-1") for name in before)


def test_a_server_that_plans_more_than_it_says_is_stopped(domain, clients):
    """A sum with less noise than the plan costs a client more than it has agreed to."""

    class Precise(FakeGrid):
        def ask(self, questions):
            changed = {}
            for k, question in questions.items():
                specs = json.loads(question.get("specs", "[]"))
                for spec in specs:
                    spec["variance"] = str(Fraction(1, 100))
                changed[k] = {**question, "specs": json.dumps(specs)} if specs else question
            return super().ask(changed)

    with pytest.raises(ProtocolError, match="part of a sum: needs rho"):
        fit(domain, RemoteFederation(Precise(grid(clients, Budget(1.0, 1e-5)).nodes)), epsilon=1.0)


def test_clients_add_the_noise_and_each_books_what_the_fit_does(domain, clients):
    """Masked vectors have it in them; the release says how much it is, by who has stayed."""
    nodes = grid(clients, Budget(1.0, 1e-5), colluding=1)
    fitted = fit(domain, RemoteFederation(nodes), epsilon=1.0, participation=1.0, noise="clients")
    assert {node._ledger().spent for node in nodes.nodes} == {fitted.ledger.spent} == {fitted.ledger.budget.rho}
    assert set(fitted.ledger.to_frame()["by"]) == {"client", "clients"}
    paid = Fraction(fitted.sigma_) ** 2
    (sigma,) = {measured.sigma for measured in fitted.measurements_}
    assert sigma == pytest.approx(float(5 * part_variance(paid, 4)) ** 0.5)  # 4 of 5 must stay, 1 may collude
    left = grid(clients, Budget(1.0, 1e-5), lost={3: "shares"})
    fitted = fit(domain, RemoteFederation(left), epsilon=1.0, participation=1.0, noise="clients")
    assert min(measured.sigma for measured in fitted.measurements_) == pytest.approx(
        float(4 * part_variance(paid, 4)) ** 0.5
    )


def test_a_sum_that_too_many_leave_is_never_unmasked(domain, clients):
    nodes = grid(clients, Budget(1.0, 1e-5), lost={3: "shares", 4: "shares"})
    with pytest.raises(ProtocolError, match="3 clients are left in a sum, 4 must stay; it is given up, masked"):
        fit(domain, RemoteFederation(nodes), epsilon=1.0, participation=1.0, noise="clients")
    assert not any(kind == "unmask" for _, kind, _ in nodes.seen)
    assert all(node._ledger().spent > 0 for node in nodes.nodes)


def test_a_client_opens_no_sum_with_less_noise_than_it_paid_for(domain, clients):
    """Whatever the server says of who stayed, or of how many there are."""

    class Liar(FakeGrid):
        def ask(self, questions):
            changed = {}
            for k, question in questions.items():
                changed[k] = dict(question)
                if question["kind"] == self.lie == "unmask":
                    header = bytearray(question["messages"][0])
                    header[2] -= 1  # one neighbour less has stayed
                    changed[k]["messages"] = [bytes(header), *question["messages"][1:]]
                if question["kind"] == self.lie == "shares":
                    specs = [{**spec, "cohort": 20} for spec in json.loads(question["specs"])]
                    changed[k]["specs"] = json.dumps(specs)
            return super().ask(changed)

    for lie, least, match in (
        ("unmask", 5, "4 clients are left in a sum, 5 must stay"),
        ("shares", 2, "has other neighbours than 20 clients"),
    ):
        nodes = Liar(grid(clients, Budget(1.0, 1e-5), least=2).nodes)
        nodes.lie = lie
        with pytest.raises(ProtocolError, match=match):
            fit(domain, RemoteFederation(nodes, least), epsilon=1.0, participation=1.0, noise="clients")


@pytest.mark.parametrize("terms", [{}, {"noise": "clients"}])
def test_a_client_may_insist_on_noise_that_the_server_does_not_know(domain, clients, terms):
    nodes = grid(clients, Budget(1.0, 1e-5), colluding=2)
    with pytest.raises(ProtocolError, match="client 0: noise: this client wants that of the clients, against a server"):
        fit(domain, RemoteFederation(nodes, least=3), epsilon=1.0, **terms)
    with pytest.raises(ConfigError, match="colluding: 2 of least=2 clients leave none to add noise"):
        fit(domain, RemoteFederation(nodes), epsilon=1.0, noise="clients", colluding=2)


def test_a_shared_budget_pays_for_clients_elsewhere(domain, clients):
    shared = fit(domain, clients, epsilon=1.0).ledger
    nodes = grid(clients, Budget(1.0, 1e-5))
    with pytest.raises(BudgetError, match="left in the shared ledger"):
        FLAIM(domain, epsilon=1.0, secagg="masks", workload=4).fit(RemoteFederation(nodes), ledger=shared)
    assert not nodes.seen


def test_the_app_is_one_file_without_code(tmp_path, domain, capsys):
    domain.save(tmp_path / "domain.yaml")
    words = ["app", str(tmp_path / "app"), "--domain", str(tmp_path / "domain.yaml")]
    command(words)
    assert [path.name for path in (tmp_path / "app").iterdir()] == ["pyproject.toml"]
    assert 'serverapp = "marginal_sdg.flower.app:server"' in (tmp_path / "app/pyproject.toml").read_text()
    with pytest.raises(SystemExit) as stopped:
        command(words)
    assert stopped.value.code == 2 and "exists already" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("flwr") is not None, reason="Flower is installed")
def test_without_flower_the_demonstration_says_what_to_install(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(["demo", "--out", str(tmp_path / "synthetic.csv")])
    assert stopped.value.code == 2 and "pip install 'marginal-sdg[flower]'" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("flwr") is None, reason="Flower is not installed (extra flower, Python 3.11 or newer)")
def test_flower_runs_the_app_with_simulated_clients(domain, clients, tmp_path):
    """A SuperLink, three clients, one round with a selection; what each has spent is in its file."""
    homes = [tmp_path / "clients" / str(k) for k in range(3)]
    for home, table in zip(homes, clients, strict=False):
        home.mkdir(parents=True)
        pd.DataFrame(table.codes, columns=domain.names).to_csv(home / "table.csv", index=False)
        domain.save(home / "domain.yaml")
    out = tmp_path / "synthetic.csv"
    config = {"epsilon": 1.0, "delta": 1e-5, "rounds": 1, "participation": 1.0, "variant": "census", "workload": 2}
    config |= {
        "records_per_person": 1,
        "max_model_mb": 80.0,
        "colluding": 1,
        "clients": 3,
        "least": 2,
        "timeout": 300.0,
    }
    config |= {"domain": str(homes[0] / "domain.yaml"), "folder": str(tmp_path / "clients"), "patience": 0.0}
    write_project(tmp_path / "app", {**config, "out": str(out)})
    with Deployment(tmp_path, 60.0) as deployment:
        deployment.link(nodes=False)
        assert deployment.run(tmp_path / "app", simulated=3, log=tmp_path / "log").wait() == 0
    said = (tmp_path / "log").read_text()
    assert "server: spent epsilon 1 on " in said, said
    assert list(pd.read_csv(out)) == list(domain.names)
    for home in homes:
        state = from_line((home / "table.csv.ledger").read_text())
        ledger = Ledger.from_dict(json.loads(state["ledger"]), Source.system())
        assert [charge.what for charge in ledger.charges] == [
            "size of each client",
            "part of a sum",
            "round 1: clients select",
            "part of a sum",
        ]
        assert ledger.spent == ledger.budget.rho


@pytest.mark.slow
@pytest.mark.skipif(find_spec("flwr") is None, reason="Flower is not installed (extra flower, Python 3.11 or newer)")
def test_the_demonstration_runs_clients_and_writes_rows(tmp_path):
    out = tmp_path / "synthetic.csv"
    words = ["demo", "--rounds", "2", "--workload", "8", "--timeout", "300", "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "marginal_sdg.flower", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "server: spent epsilon 1 on " in done.stdout
    synthetic, adult = pd.read_csv(out), load_dataset("adult")
    assert list(synthetic) == list(adult.frame)
    assert abs(len(synthetic) - len(adult.frame)) < 2000
    here, there = (frame["sex"].value_counts(normalize=True) for frame in (adult.frame, synthetic))
    assert abs(here["Male"] - there["Male"]) < 0.02
