"""The privacy boundary as a property of the source and of its runs.

Three guards. Noise has one door: no module but the ledger samples any. Nothing private passes beside the ledger: with
its answers held fixed, any two data sets give the same output (G2). Imports point downward. Every guard is shown a
planted bypass, so that one that has gone blind is noticed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import marginal_sdg
from marginal_sdg import AIM, FLAIM, MWEM, Budget, DistAIM, Domain, Ledger, Table, Workload, federations, synthesizers
from marginal_sdg.backends import local_clients
from marginal_sdg.backends.federated import FederatedBackend
from marginal_sdg.backends.ideal_pool import IdealPool
from marginal_sdg.backends.plaintext import PlaintextBackend
from marginal_sdg.backends.variants import VARIANTS
from marginal_sdg.flower import node as elsewhere
from marginal_sdg.flower.remote_clients import RemoteFederation
from marginal_sdg.marginals import contingency
from marginal_sdg.privacy import DiscreteGaussian
from marginal_sdg.privacy import ledger as ledger_module
from marginal_sdg.privacy.noise import Source
from marginal_sdg.release import Selection, estimate_total

ROOT = Path(marginal_sdg.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}


def problems(check, sources=SOURCES) -> list[str]:
    return [f"{name}: {problem}" for name, text in sources.items() for problem in check(name, ast.parse(text))]


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that is read, imported or reached as an attribute, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                yield alias.name.rpartition(".")[2], node.lineno


# --- noise has one door ---------------------------------------------------------------------------

MAY_SAMPLE = {"privacy/ledger.py", "privacy/noise.py", "privacy/joint.py", "privacy/sgd.py", "privacy/__init__.py"}
SAMPLERS = {"DiscreteGaussian", "exact_choice", "gumbel"}
RAW_BITS = {"words", "random_raw", "urandom"}  # as methods
# What hand-made noise is made of. Public choices and synthetic rows need none of it.
HAND_MADE = {"normal", "standard_normal", "laplace", "gumbel", "exponential", "geometric", "poisson"}
MAKES_PUBLIC_DATA = {"datasets/partition.py", "baselines/networks.py"}
STATELESS = {"Generator", "SeedSequence", "default_rng", "PCG64"}

COUNTING = {"contingency", "contingencies", "cell_numbers", "Answers"}
MAY_COUNT = {
    "marginals.py",  # where they are defined
    "backends/plaintext.py",
    "backends/adaptive.py",
    "baselines/conditions.py",
    "backends/client.py",
    "backends/local_clients.py",
    "backends/other_holder.py",
    "backends/ideal_pool.py",
    "backends/sealed.py",
    "backends/tally.py",
    "backends/share_pool.py",
    "backends/spu_client.py",
    "backends/vault.py",
    "graphical/model.py",  # the log-likelihood of a table that its holder asks about
    "metrics.py",  # research metrics, for whoever has the real table
    "evaluation.py",  # the same for the holder of a table
    "report/columns.py",  # of the table that its holder gives, in a report for the holder
}


def samples_noise(name: str, tree: ast.AST) -> Iterator[str]:
    if name not in MAY_SAMPLE:
        for used, line in identifiers(tree):
            if used in SAMPLERS or (used in HAND_MADE and name not in MAKES_PUBLIC_DATA):
                yield f"line {line} uses {used}: noise comes from the ledger"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in RAW_BITS:
                yield f"line {node.lineno} reads .{node.attr}: random bits are for the ledger"


def uses_global_randomness(name: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"np.random", "numpy.random"}:
            if node.attr not in STATELESS:
                yield f"line {node.lineno} uses the global state of np.random.{node.attr}"
        elif isinstance(node, ast.Import) and {alias.name for alias in node.names} & {"random", "secrets"}:
            yield f"line {node.lineno} imports randomness of its own"
        elif isinstance(node, ast.ImportFrom) and node.module in {"random", "secrets", "numpy.random"}:
            yield f"line {node.lineno} imports from {node.module}"


def counts_records(name: str, tree: ast.AST) -> Iterator[str]:
    if name not in MAY_COUNT:
        for used, line in identifiers(tree):
            if used in COUNTING:
                yield f"line {line} uses {used}: exact counts stay in the backends"


def test_no_module_but_the_ledger_draws_noise():
    assert problems(samples_noise) == []


def test_no_module_uses_global_randomness():
    assert problems(uses_global_randomness) == []


def test_no_module_counts_records_but_the_holders_of_data():
    assert problems(counts_records) == []


@pytest.mark.parametrize(
    ("check", "bypass"),
    [
        (samples_noise, "from marginal_sdg.privacy import DiscreteGaussian"),
        (samples_noise, "import marginal_sdg.privacy.noise as n\nn.exact_choice([0.0], source)"),
        (samples_noise, "noise = source.words(3)"),
        (samples_noise, "noisy = counts + rng.normal(0, sigma, counts.shape)"),
        (samples_noise, "noisy = counts + generator.laplace(scale=2)"),
        (uses_global_randomness, "np.random.seed(0)"),
        (uses_global_randomness, "import random"),
        (uses_global_randomness, "from numpy.random import randint"),
        (counts_records, "from marginal_sdg.marginals import contingency"),
        (counts_records, "answers = marginals.Answers(layout, tables)"),
    ],
)
def test_a_planted_bypass_is_noticed_in_the_source(check, bypass):
    assert problems(check, {"loop.py": bypass})


# --- nothing private passes beside the ledger -----------------------------------------------------

SMALL = Domain.from_shape({"a": 3, "b": 2, "c": 4})
FIRST = Table(SMALL, np.random.default_rng(1).integers(0, 2, (60, 3)))
OTHER = Table(SMALL, np.array([[2, 1, 3]] * 7))  # nothing in common: fewer records, other cells
WORKLOAD = Workload(SMALL, (("a", "b"), ("b", "c")))


class Deaf(Ledger):
    """Answers without looking at private values: draws on zeros, chooses among equals."""

    def gaussian(self, tables, variance, **terms):
        return super().gaussian([0 * table for table in tables], variance, **terms)

    def select(self, scores, epsilon2, **terms):
        return super().select([0 * vector for vector in scores], epsilon2, **terms)


def public_output(monkeypatch, make, data) -> dict:
    """All that a run lets anybody see, when the ledger is deaf."""
    events = []
    for module in (synthesizers, federations):
        monkeypatch.setattr(module, "Ledger", Deaf)
    fitted = make(on_event=events.append).fit(data)
    return {
        "events": [{k: v for k, v in event.items() if k != "seconds"} for event in events],
        "measurements": [(m.clique, m.counts.tolist(), m.sigma, m.records, m.confidence) for m in fitted.measurements_],
        "potentials": {clique: theta.tolist() for clique, theta in fitted.model_.potentials.items()},
        "total": fitted.model_.total,
        "charges": fitted.ledger.charges,
        "caveats": fitted.ledger.caveats,
        "traffic": fitted.communication_,
        "sample": fitted.sample_table().codes.tolist(),
        "frame": fitted.sample(20).to_dict(),
        "report": [fitted.report().html(), fitted.report().json()],
    }


def leaks(monkeypatch, make, first, other) -> set[str]:
    """The parts of the public output in which two data sets differ."""
    seen = [public_output(monkeypatch, make, data) for data in (first, other)]
    return {part for part in seen[0] if seen[0][part] != seen[1][part]}


def aim(**params):
    return AIM(SMALL, **{"workload": WORKLOAD, "rounds": 4, "epsilon": 5.0, "seed": 3, **params})


def flaim(**params):
    return FLAIM(
        SMALL, **{"workload": WORKLOAD, "rounds": 3, "epsilon": 5.0, "seed": 3, "participation": 0.7, **params}
    )


FEDERATIONS = [FIRST.take(np.arange(k, 60, 3)) for k in range(3)], [OTHER, OTHER.take([]), OTHER.take([0])]


def mwem(**params):
    return MWEM(SMALL, **{"workload": WORKLOAD, "rounds": 4, "epsilon": 5.0, "seed": 3, **params})


@pytest.mark.parametrize("rounds", [1, 4, "adaptive"])
def test_mwem_tells_nothing_that_did_not_pass_the_ledger(monkeypatch, rounds):
    assert not leaks(monkeypatch, lambda **p: mwem(rounds=rounds, **p), FIRST, OTHER)


@pytest.mark.parametrize("rounds", [0, 4, "adaptive"])
def test_aim_tells_nothing_that_did_not_pass_the_ledger(monkeypatch, rounds):
    """G2: what leaves depends on records only through charged mechanisms."""
    assert not leaks(monkeypatch, lambda **p: aim(rounds=rounds, **p), FIRST, OTHER)


NUMBERS = Domain.from_yaml("a: {lower: 0, upper: 3, integer: true}\nb: {categories: [x, y]}")


def test_adaptive_bins_tell_nothing_that_did_not_pass_the_ledger(monkeypatch):
    tables = Table(NUMBERS, np.tile([[0, 1], [3, 0]], (30, 1))), Table(NUMBERS, np.array([[2, 1]] * 7))
    params = {"workload": 1, "rounds": 2, "adaptive_bins": {"a": 2}, "bins_share": 0.1, "seed": 3}
    assert not leaks(monkeypatch, lambda **p: AIM(NUMBERS, **params, **p), *tables)


def test_public_knowledge_changes_nothing_of_that(monkeypatch):
    public = {"known": [pd.DataFrame({"a": [0, 1, 2], "count": [3, 2, 1]})], "impossible": ["b == 0 and c == 3"]}
    assert not leaks(monkeypatch, lambda **p: aim(**public, **p), FIRST, OTHER)


@pytest.mark.parametrize("variant", [name for name, variant in VARIANTS.items() if variant.private])
@pytest.mark.parametrize("rounds", [0, 3])
def test_no_private_variant_tells_anything_that_did_not_pass_the_ledger(monkeypatch, variant, rounds):
    assert not leaks(monkeypatch, lambda **p: flaim(variant=variant, rounds=rounds, **p), *FEDERATIONS)


@pytest.mark.parametrize("variant", [name for name, variant in VARIANTS.items() if not variant.private])
def test_what_looks_at_exact_global_counts_is_called_not_private(variant):
    assert any("NOT PRIVATE" in caveat for caveat in flaim(variant=variant).fit(FEDERATIONS[0]).ledger.caveats)


@pytest.mark.parametrize("local_steps", [1, 2])
@pytest.mark.parametrize("rounds", [3, "adaptive"])
@pytest.mark.parametrize("variant", ["naive", "private"])
def test_flaim_tells_nothing_that_did_not_pass_the_ledger(monkeypatch, variant, rounds, local_steps):
    params = {"variant": variant, "rounds": rounds, "local_steps": local_steps}
    assert not leaks(monkeypatch, lambda **p: flaim(**params, **p), *FEDERATIONS)


class Blind(IdealPool):
    """Adds its noise, which is paid for, to zeros: DistAIM's pool is where counts and noise meet."""

    def __init__(self, tables, workload):
        super().__init__([table.take([]) for table in tables], workload)


def distaim(**params):
    return DistAIM(
        SMALL, **{"workload": WORKLOAD, "rounds": 3, "epsilon": 5.0, "seed": 3, "participation": 0.7, **params}
    )


@pytest.mark.parametrize("rounds", [3, "adaptive"])
def test_distaim_tells_nothing_but_what_its_pool_answers(monkeypatch, rounds):
    monkeypatch.setattr(federations, "IdealPool", Blind)
    assert not leaks(monkeypatch, lambda **p: distaim(rounds=rounds, **p), *FEDERATIONS)


@pytest.mark.parametrize(
    "params", [{"secagg": "masks"}, {"cohort": "per_query"}, {"cohort": "per_query", "min_cohort": 1}], ids=str
)
def test_secure_sums_tell_nothing_that_did_not_pass_the_ledger(monkeypatch, params):
    assert not leaks(monkeypatch, lambda **p: flaim(**params, **p), *FEDERATIONS)


def test_noise_of_clients_tells_nothing_that_did_not_pass_their_ledgers(monkeypatch):
    """Every vector that enters a secure sum has passed one."""
    monkeypatch.setattr(local_clients, "Ledger", Deaf)
    assert not leaks(monkeypatch, lambda **p: flaim(noise="clients", **p), *FEDERATIONS)
    monkeypatch.setattr(local_clients, "Ledger", Ledger)
    assert "measurements" in leaks(monkeypatch, lambda **p: flaim(noise="clients", **p), *FEDERATIONS)


class Elsewhere:
    """FLAIM whose clients answer messages; ``data`` are their tables. Their ledgers are deaf, too."""

    def __init__(self, **params):
        self._flaim = flaim(secagg="masks", **params)

    def fit(self, data):
        self._nodes = [elsewhere.Node(t, Budget(5.0, 1e-5), 1, Source.seeded(k), {}) for k, t in enumerate(data)]
        return self._flaim.fit(RemoteFederation(self, least=1))

    def __len__(self):
        return len(self._nodes)

    def ask(self, questions):
        return {k: self._nodes[k].answer(question) for k, question in questions.items()}


def test_messages_tell_nothing_that_did_not_pass_a_ledger(monkeypatch):
    monkeypatch.setattr(elsewhere, "Ledger", Deaf)
    assert not leaks(monkeypatch, Elsewhere, *FEDERATIONS)
    monkeypatch.setattr(elsewhere, "Ledger", Ledger)
    assert "total" in leaks(monkeypatch, Elsewhere, *FEDERATIONS)  # the clients' own noise does look at their records


def test_the_papers_calibration_tells_the_number_of_records(monkeypatch):
    assert {"total", "sample", "report"} <= leaks(monkeypatch, lambda **p: aim(calibration="paper", **p), FIRST, OTHER)
    assert "total" in leaks(monkeypatch, lambda **p: flaim(calibration="paper", **p), *FEDERATIONS)
    monkeypatch.setattr(federations, "IdealPool", Blind)
    assert "total" in leaks(monkeypatch, lambda **p: distaim(calibration="paper", **p), *FEDERATIONS)


class Bare(PlaintextBackend):
    """Measures without the ledger."""

    def measure(self, selection, step, ledger):
        released = super().measure(selection, step, ledger)
        return [replace(m, counts=contingency(self._table, m.clique)) for m in released]


class Greedy(PlaintextBackend):
    """Selects without the ledger."""

    def select(self, state, step, ledger):
        super().select(state, step, ledger)
        errors = {
            q: np.abs(contingency(self._table, q) - state.model.marginal(q).ravel()).sum() for q in WORKLOAD.closure
        }
        return Selection({max(errors, key=errors.__getitem__): (0,)})


class Sized(PlaintextBackend):
    """Scales by the exact number of records."""

    def total(self, measurements):
        return estimate_total(measurements) + 1e-9 * len(self._table)


class Weighted(FederatedBackend):
    """Weighs measurements by the exact number of records."""

    def _measurement(self, found):
        exact = sum(len(client.table) for client in self._clients.members)
        return replace(super()._measurement(found), confidence=float(exact))


@pytest.mark.parametrize(
    ("name", "bypass", "part"),
    [
        ("PlaintextBackend", Bare, "measurements"),
        ("PlaintextBackend", Greedy, "events"),
        ("PlaintextBackend", Sized, "total"),
        ("FederatedBackend", Weighted, "potentials"),
    ],
)
def test_a_planted_bypass_is_noticed_in_the_output(monkeypatch, name, bypass, part):
    federated = name == "FederatedBackend"
    monkeypatch.setattr(federations if federated else synthesizers, name, bypass)
    assert part in leaks(monkeypatch, flaim if federated else aim, *(FEDERATIONS if federated else (FIRST, OTHER)))


def test_charges_come_before_values(monkeypatch):
    """G1: every draw follows a charge of its own."""
    order = []

    def logged(letter, function):
        def wrapper(*args, **kwargs):
            order.append(letter)
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(Ledger, "charge", logged("c", Ledger.charge))
    monkeypatch.setattr(ledger_module, "exact_choice", logged("d", ledger_module.exact_choice))
    monkeypatch.setattr(DiscreteGaussian, "sample", logged("d", DiscreteGaussian.sample))
    flaim(variant="private", local_steps=2).fit(FEDERATIONS[0])
    assert re.fullmatch("(cd+)+", "".join(order))


# --- imports point downward -----------------------------------------------------------------------

# A module imports from its own package and from those in lower lines.
LAYERS = [
    {"durable", "errors", "simplex", "style"},
    {"crypto", "page"},
    {"attribute", "privacy", "schedule", "scores"},
    {"domain", "journal", "processes"},
    {"encoding", "release", "draft", "dtypes"},
    {"marginals", "condition"},
    {"workload", "graphical"},
    {"generators", "metrics", "estimates"},
    {"backends", "datasets"},
    {"loop", "evaluation", "table_files", "known", "scale"},
    {"impossible", "stored", "report"},
    {"public"},
    {"estimator"},
    {"synthesizers"},
    {"baselines", "federations", "fhaim"},
    {"__init__"},
    {"experiment", "flower", "roles", "spu"},
    {"cli"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def imported(name: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted names of all imported modules, relative ones resolved."""
    package = ["marginal_sdg", *Path(name).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            named = module == "marginal_sdg" or not node.module
            yield from ((f"{module}.{alias.name}" if named else module, node.lineno) for alias in node.names)


def imports_upward(name: str, tree: ast.AST) -> Iterator[str]:
    own = Path(name).parts[0].removesuffix(".py")
    for module, line in imported(name, tree):
        if module.split(".")[0] in {"experiments", "tests", "configs"}:
            yield f"line {line} imports {module}, which is not part of the package"
        elif module.startswith("marginal_sdg."):
            other = module.split(".")[1]
            if other != own and HEIGHT.get(other, -1 if other[0] == "_" else len(LAYERS)) >= HEIGHT[own]:
                yield f"line {line} imports {module}, which is not below {own}"


def test_imports_point_downward():
    assert problems(imports_upward) == []


@pytest.mark.parametrize(
    ("name", "bypass"),
    [
        ("generators/pgm.py", "from marginal_sdg.backends.base import Backend"),
        ("generators/pgm.py", "from ..backends import base"),
        ("backends/plaintext.py", "from marginal_sdg.loop import synthesise"),
        ("backends/plaintext.py", "import marginal_sdg.synthesizers"),
        ("privacy/ledger.py", "from marginal_sdg import AIM"),
        ("loop.py", "from experiments import audit"),
        ("loop.py", "def late():\n    from marginal_sdg.experiment import run"),
    ],
)
def test_a_planted_upward_import_is_noticed(name, bypass):
    assert problems(imports_upward, {name: bypass})


def test_every_module_has_a_layer():
    assert {Path(name).parts[0].removesuffix(".py") for name in SOURCES} == set(HEIGHT)


def knows_the_holders(name: str, tree: ast.AST) -> Iterator[str]:
    """What works on releases alone must not be able to reach a ledger or whoever holds data."""
    if name.startswith(("generators/", "graphical/")):
        for module, line in imported(name, tree):
            if module.startswith(("marginal_sdg.privacy", "marginal_sdg.backends")):
                yield f"line {line} imports {module}"


def test_generators_and_models_know_no_ledger_and_no_holder_of_data():
    assert problems(knows_the_holders) == []
    assert problems(knows_the_holders, {"graphical/model.py": "from ..privacy.ledger import Ledger"})
