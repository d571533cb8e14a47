"""FLAIM by messages: the same releases as in one process, nothing else on the wire, and nothing below the threshold."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest

from marginal_sdg import FLAIM, Budget
from marginal_sdg.errors import BudgetError, ConfigError, ProtocolError
from marginal_sdg.flower import messages
from marginal_sdg.flower.node import Node
from marginal_sdg.flower.remote_clients import RemoteFederation
from marginal_sdg.privacy.noise import Source

LOUD = Budget(1e5, 1e-5)  # noise that rounds to nothing
PLAIN = (int, str, bytes)


@dataclass
class FakeGrid:
    """Nodes in this process, to which plain values pass only; ``lost`` says who is gone after which question."""

    nodes: list[Node]
    lost: dict[int, str] = field(default_factory=dict)
    seen: list[tuple[int, str, dict]] = field(default_factory=list)

    def __len__(self):
        return len(self.nodes)

    def ask(self, questions):
        answers = {}
        for k, question in questions.items():
            if k in self.lost and self.lost[k] in {asked for asker, asked, _ in self.seen if asker == k}:
                continue
            node = self.nodes[k]
            node = Node(node.table, node.limit, node.least, node.source, dict(node.state))  # as a new process would
            answers[k] = node.answer(question)
            self.nodes[k].state = node.state
            self.seen.append((k, question["kind"], answers[k]))
            for value in [*question.values(), *answers[k].values(), *node.state.values()]:
                assert type(value) in PLAIN or all(type(item) in PLAIN for item in value)
        return answers


def grid(tables, limit=LOUD, least=2, **terms) -> FakeGrid:
    return FakeGrid([Node(t, limit, least, Source.seeded(k), {}) for k, t in enumerate(tables)], **terms)


def fit(domain, clients, epsilon=LOUD.epsilon, **terms):
    settings = {"rounds": 3, "workload": 4, "participation": 0.6, "seed": 5, "secagg": "masks", **terms}
    return FLAIM(domain, epsilon=epsilon, **settings).fit(clients)


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
