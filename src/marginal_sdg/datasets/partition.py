"""Dealing the rows of a table to clients, as FLAIM (KDD 2024) does, but from a seed."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from marginal_sdg.datasets.files import cache_folder, shipped_folder, write_atomically
from marginal_sdg.domain import Domain, nearest
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, DataError

Clients = npt.NDArray[np.int64]

_NEIGHBOURS = 15
_LEVELS = 40  # SynthFS: means 1..40, codes 0..40


def partition(train: Table, clients: int, kind: str, seed: int = 571, target: str | None = None) -> Clients:
    """Deal every row to one client.

    Parameters
    ----------
    train: (n, d) codes, the rows to deal.
    clients: number of clients, K.
    kind: ``"iid"``: a random permutation in K equal parts. ``"dirichlet:B"``: each label's rows are dealt in
        shares drawn from Dirichlet(B, ..., B); a small B skews the labels. ``"cluster"``: K-means in a
        2-dimensional UMAP embedding of the codes, which skews everything.
    seed: the same table, kind and seed give the same partition ("cluster": with the same library versions).
        Dirichlet partitions vary much: seed 3 gives Adult and Magic the skew of FLAIM's Table 5.
    target: the label column, for Dirichlet.

    Returns
    -------
    (n,) int64: client 0..K-1 of each row. Source: FLAIM, released code, ``HorizontalSharder``.

    Raises
    ------
    ConfigError: a parameter is wrong. DataError: too few rows.
    """
    name, skew = _parse(kind)
    if isinstance(clients, bool) or not isinstance(clients, int | np.integer) or clients < 1:
        raise ConfigError(f"clients must be an integer of at least 1, got {clients!r}")
    if clients > len(train):
        raise DataError(f"clients ({clients}) must not be more than the table's rows; use fewer clients")
    if name == "cluster":
        return _stored_clusters(train, clients, seed)
    rng = np.random.default_rng(seed)
    if name == "iid":
        return _iid(len(train), clients, rng)
    if target is None:
        raise ConfigError(f"partition {kind!r} needs the target column")
    return _dirichlet(train.column(target), clients, skew, rng)


def synthfs(
    clients: int = 100, attributes: int = 10, rows_per_client: int = 500, *, beta: float, seed: int
) -> tuple[Table, Clients]:
    """SynthFS, a table with feature skew: each client's attributes lie around its own means.

    A mean is Zipf(``beta``) on 1..40, rows are normal around it with standard deviation 1, and the code is
    the number of the edges 0, 40/39, ..., 40 that are not above the value: 41 codes, 0..40.

    Returns
    -------
    the table, client after client, and the (n,) int64 client of each row. Source: FLAIM, released code.
    """
    from scipy.stats import zipfian

    for field, value in (
        ("clients", clients),
        ("attributes", attributes),
        ("rows_per_client", rows_per_client),
    ):
        if value < 1:
            raise ConfigError(f"{field} must be at least 1, got {value}")
    if not beta > 0:
        raise ConfigError(f"beta must be above 0, got {beta}")
    rng = np.random.default_rng(seed)
    means = zipfian.rvs(beta, _LEVELS, size=(clients, 1, attributes), random_state=rng)
    values = rng.normal(means, 1.0, size=(clients, rows_per_client, attributes))
    codes = np.digitize(values, np.linspace(0, _LEVELS, _LEVELS)).reshape(-1, attributes)
    domain = Domain.from_shape({str(j): _LEVELS + 1 for j in range(attributes)})
    return Table(domain, codes.astype(np.int32)), np.repeat(np.arange(clients), rows_per_client)


def _parse(kind: str) -> tuple[str, float]:
    """The kind's name and its Dirichlet parameter (0 for others)."""
    name, colon, parameter = str(kind).partition(":")
    if name == "dirichlet" and colon:
        try:
            beta = float(parameter)
        except ValueError:
            beta = 0.0
        if not 0 < beta < float("inf"):
            raise ConfigError(f"partition {kind!r}: beta must be a number above 0, as in dirichlet:0.1")
        return name, beta
    if name in ("iid", "cluster") and not colon:
        return name, 0.0
    known = ("iid", "cluster", "dirichlet:0.1")
    raise ConfigError(f"unknown partition {kind!r}{nearest(kind, known)}; known: iid, cluster, dirichlet:BETA")


def _iid(rows: int, clients: int, rng: np.random.Generator) -> Clients:
    client = np.empty(rows, dtype=np.int64)
    for k, part in enumerate(np.array_split(rng.permutation(rows), clients)):
        client[part] = k
    return client


def _dirichlet(labels: npt.NDArray[np.integer], clients: int, beta: float, rng: np.random.Generator) -> Clients:
    client = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shares = np.maximum((rng.dirichlet(np.full(clients, beta)) * len(rows)).astype(np.int64), 1)
        left = len(rows) - int(shares.sum())
        if left > 0:
            shares[np.argmin(shares)] += left
        while left < 0 and shares.max() > 1:  # each client had at least one row: take back from the largest
            largest = np.argmax(shares)
            back = min(-left, int(shares[largest]) - 1)
            shares[largest] -= back
            left += back
        if left < 0:  # fewer rows than clients
            shares[rng.permutation(clients)[:-left]] = 0
        client[rng.permutation(rows)] = np.repeat(np.arange(clients), shares)
    return client


def codes_digest(table: Table) -> str:
    """sha256 of a table's shape and codes, rows in order."""
    codes = table.codes.astype("<i4")
    return hashlib.sha256(repr(codes.shape).encode() + codes.tobytes()).hexdigest()


def _stored_clusters(train: Table, clients: int, seed: int) -> Clients:
    """Clusters from the package, else from the cache, else computed and cached: UMAP is slow."""
    digest = codes_digest(train)
    shipped = shipped_folder() / "partitions"
    for entry in json.loads((shipped / "index.json").read_text(encoding="utf-8")):
        if (entry["codes_sha256"], entry["clients"], entry["seed"]) == (digest, clients, seed):
            return _read_clients(shipped / entry["file"])
    try:
        versions = f"umap-learn {version('umap-learn')}, scikit-learn {version('scikit-learn')}"
    except ModuleNotFoundError:
        raise ConfigError("partition 'cluster' needs umap-learn: pip install 'marginal-sdg[experiments]'") from None
    key = hashlib.sha256(f"{digest} {clients} {seed} {versions}".encode()).hexdigest()
    cached = cache_folder() / "partitions" / f"cluster-{key[:32]}.npy"
    if cached.is_file():
        return _read_clients(cached)
    client = cluster(train, clients, seed)
    write_atomically(cached, lambda file: np.save(file, client))
    return client


def _read_clients(path: Path) -> Clients:
    client: Clients = np.load(path, allow_pickle=False).astype(np.int64)
    return client


def cluster(train: Table, clients: int, seed: int) -> Clients:
    """K-means clusters of the codes' UMAP embedding, labels included; no minimum size. Takes a minute."""
    if len(train) <= _NEIGHBOURS:
        raise DataError(f"partition 'cluster' needs more than {_NEIGHBOURS} rows; use iid or dirichlet")
    from sklearn.cluster import KMeans
    from umap import UMAP

    embedding = UMAP(n_neighbors=_NEIGHBOURS, min_dist=0.1, random_state=seed, n_jobs=1).fit_transform(train.codes)
    client: Clients = KMeans(n_clusters=clients, n_init=10, random_state=seed).fit_predict(embedding)
    return client.astype(np.int64)
