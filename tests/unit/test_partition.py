"""Every row goes to one client; the kinds of partition skew as much as in FLAIM's Table 5."""

from __future__ import annotations

import builtins
import importlib
import itertools

import numpy as np
import pytest

from marginal_sdg.datasets import load_dataset, partition, split, synthfs
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, DataError

KINDS = ["iid", "dirichlet:0.1", "dirichlet:50"]


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 5, 600), rng.choice(3, 600, p=[0.6, 0.3, 0.1])], axis=1)
    return Table(Domain.from_shape({"x": 5, "label": 3}), codes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clients", [1, 2, 17, np.int64(60)])
def test_every_row_has_a_client_and_every_client_a_row(table, kind, clients):
    client = partition(table, clients, kind, 1, "label")
    assert client.shape == (600,)
    assert client.dtype == np.int64
    assert set(client) == set(range(clients))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_fixes_the_partition(table, kind):
    first, same, other = (partition(table, 10, kind, seed, "label") for seed in (1, 1, 2))
    assert (first == same).all()
    assert (first != other).any()


def test_iid_clients_have_equal_shares(table):
    assert set(np.bincount(partition(table, 7, "iid", 0))) == {85, 86}


def test_dirichlet_gives_every_client_a_row_of_every_label(table):
    client = partition(table, 40, "dirichlet:0.05", 3, "label")
    counts = np.zeros((40, 3), dtype=int)
    np.add.at(counts, (client, table.column("label")), 1)
    assert counts.min() == 1
    assert (counts.sum(axis=0) == np.bincount(table.column("label"))).all()


def test_dirichlet_deals_out_a_label_that_is_rarer_than_clients():
    table = Table(Domain.from_shape({"label": 2}), np.array([[0]] * 50 + [[1]] * 3))
    client = partition(table, 20, "dirichlet:1", 0, "label")
    assert len(set(client[50:])) == 3
    assert set(client[50:]) != set(partition(table, 20, "dirichlet:1", 1, "label")[50:])
    assert set(client) == set(range(20))


def test_a_small_beta_skews_more_than_a_large_one(table):
    def spread(kind):
        return np.bincount(partition(table, 10, kind, 0, "label"), minlength=10).std()

    assert spread("dirichlet:0.1") > 2 * spread("dirichlet:100")


@pytest.mark.parametrize(
    ("clients", "kind", "target", "error", "message"),
    [
        (0, "iid", None, ConfigError, "clients must be an integer of at least 1, got 0"),
        (2.5, "iid", None, ConfigError, "clients must be an integer of at least 1, got 2.5"),
        (601, "iid", None, DataError, "clients (601) must not be more than the table's rows"),
        (5, None, None, ConfigError, "unknown partition None"),
        (5, "idd", None, ConfigError, "unknown partition 'idd' (did you mean 'iid'?)"),
        (5, "clusters", None, ConfigError, "(did you mean 'cluster'?)"),
        (5, "dirichlet", None, ConfigError, "(did you mean 'dirichlet:0.1'?)"),
        (5, "iid:3", None, ConfigError, "unknown partition 'iid:3'"),
        (5, "dirichlet:0", "label", ConfigError, "beta must be a number above 0"),
        (5, "dirichlet:-1", "label", ConfigError, "beta must be a number above 0"),
        (5, "dirichlet:nan", "label", ConfigError, "beta must be a number above 0"),
        (5, "dirichlet:x", "label", ConfigError, "beta must be a number above 0"),
        (5, "dirichlet:1", None, ConfigError, "needs the target column"),
        (5, "dirichlet:1", "labels", ValueError, "unknown attribute 'labels' (did you mean 'label'?)"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(table, clients, kind, target, error, message):
    with pytest.raises(error) as caught:
        partition(table, clients, kind, 0, target)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_synthfs_has_the_papers_shape_and_skew():
    table, client = synthfs(clients=20, attributes=4, rows_per_client=50, beta=1.0, seed=0)
    assert len(table) == 1000
    assert table.domain.shape == (41, 41, 41, 41)
    assert np.bincount(client).tolist() == [50] * 20
    again, _ = synthfs(clients=20, attributes=4, rows_per_client=50, beta=1.0, seed=0)
    assert (table.codes == again.codes).all()
    # rows of one client lie within a few codes of its mean; means differ between clients
    within = [table.codes[client == k].std(axis=0).max() for k in range(20)]
    means = np.stack([table.codes[client == k].mean(axis=0) for k in range(20)])
    assert max(within) < 1.6
    assert means.std(axis=0).min() > 3


def test_synthfs_with_a_large_beta_has_no_skew():
    table, client = synthfs(clients=30, attributes=3, rows_per_client=20, beta=8.0, seed=1)
    means = np.stack([table.codes[client == k].mean(axis=0) for k in range(30)])
    assert means.std(axis=0).max() < 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0}, "beta must be above 0, got 0"),
        ({"beta": 1, "clients": 0}, "clients must be at least 1"),
        ({"beta": 1, "attributes": 0}, "attributes must be at least 1"),
        ({"beta": 1, "rows_per_client": 0}, "rows_per_client must be at least 1"),
    ],
)
def test_synthfs_checks_its_arguments(options, message):
    with pytest.raises(ConfigError, match=message):
        synthfs(**options, seed=0)


@pytest.mark.parametrize("name", ["adult", "magic"])
def test_the_main_cells_clusters_come_with_the_package(name, monkeypatch, tmp_path):
    monkeypatch.setenv("MARGINAL_SDG_CACHE", str(tmp_path / "cache"))
    forbid_umap(monkeypatch)
    train, _ = split(load_dataset(name).table())
    client = partition(train, 100, "cluster", 571)
    assert len(client) == len(train)
    assert set(client) == set(range(100))
    assert not (tmp_path / "cache").exists()


def forbid_umap(monkeypatch):
    real = builtins.__import__

    def guarded(name, *args, **kwargs):
        assert not name.startswith("umap"), "UMAP must not be needed here"
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guarded)


def test_computed_clusters_are_cached_by_their_codes(table, monkeypatch, tmp_path):
    module = importlib.import_module("marginal_sdg.datasets.partition")
    monkeypatch.setenv("MARGINAL_SDG_CACHE", str(tmp_path))
    calls = []

    def cluster(train, clients, seed):
        calls.append(seed)
        return np.arange(len(train)) % clients

    monkeypatch.setattr(module, "cluster", cluster)
    monkeypatch.setattr(module, "version", lambda package: "1.0")
    first = partition(table, 4, "cluster", 1)
    assert (partition(table, 4, "cluster", 1) == first).all()
    assert calls == [1]
    partition(table, 4, "cluster", 2)
    partition(table.take(np.arange(599)), 4, "cluster", 1)
    monkeypatch.setattr(module, "version", lambda package: "1.1")
    partition(table, 4, "cluster", 1)
    assert calls == [1, 2, 1, 1]


def test_clusters_need_enough_rows_and_umap(table, monkeypatch, tmp_path):
    module = importlib.import_module("marginal_sdg.datasets.partition")
    monkeypatch.setenv("MARGINAL_SDG_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "version", lambda package: "1.0")
    with pytest.raises(DataError, match="needs more than 15 rows"):
        partition(table.take(np.arange(15)), 3, "cluster", 0)

    def absent(package):
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(module, "version", absent)
    with pytest.raises(ConfigError, match="needs umap-learn: pip install"):
        partition(table, 3, "cluster", 0)


@pytest.mark.slow
def test_clusters_follow_the_data(monkeypatch, tmp_path):
    pytest.importorskip("umap")
    monkeypatch.setenv("MARGINAL_SDG_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    blob = np.repeat([0, 1, 2], 60)
    codes = np.stack([blob * 20 + rng.integers(0, 3, 180), blob * 30 + rng.integers(0, 3, 180)], axis=1)
    client = partition(Table(Domain.from_shape({"a": 64, "b": 64}), codes), 3, "cluster", 0)
    assert len(set(zip(blob, client, strict=True))) == 3


def heterogeneity(train: Table, client: np.ndarray, ways: tuple[int, ...]) -> float:
    """Mean over clients of the mean total variation to the train table, over all column subsets."""
    rows, clients = len(train), int(client.max()) + 1
    sizes = np.bincount(client, minlength=clients)
    total, cliques = np.zeros(clients), 0
    for way in ways:
        for clique in itertools.combinations(range(len(train.domain)), way):
            cell = np.ravel_multi_index(train.codes[:, clique].T, [train.domain.shape[j] for j in clique])
            _, cell = np.unique(cell, return_inverse=True)
            pair, count = np.unique(cell * clients + client, return_counts=True)
            owner = pair % clients
            common = np.minimum(count / sizes[owner], np.bincount(cell)[pair // clients] / rows)
            total += 1 - np.bincount(owner, common, minlength=clients)
            cliques += 1
    return float((total / cliques).mean())


# FLAIM Table 5; seeds as recommended in the docstring of ``partition``
TABLE_5 = [
    ("magic", "iid", 571, 0.538),
    ("magic", "cluster", 571, 0.792),
    ("magic", "dirichlet:0.1", 3, 0.767),
    ("magic", "dirichlet:0.8", 3, 0.603),
    ("adult", "iid", 571, 0.241),
    ("adult", "cluster", 571, 0.525),
    ("adult", "dirichlet:0.1", 3, 0.531),
    ("adult", "dirichlet:0.8", 3, 0.332),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "seed", "paper"), TABLE_5)
def test_heterogeneity_is_that_of_table_5(name, kind, seed, paper):
    dataset = load_dataset(name)
    train, _ = split(dataset.table())
    client = partition(train, 100, kind, seed, dataset.target)
    assert heterogeneity(train, client, (1, 2, 3)) == pytest.approx(paper, rel=0.05)
