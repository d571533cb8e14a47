"""Tables that stay in their files give what tables in memory give, and errors before anything is spent."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import marginal_sdg.backends.tally as tallies
import marginal_sdg.stored as stored
from marginal_sdg import AIM, MWEM, Attribute, Budget, Domain, Ledger, StoredTable, Table, encode
from marginal_sdg.backends.tally import Tally, maximal
from marginal_sdg.cli.app import main
from marginal_sdg.errors import ConfigError, DataError, DomainError
from marginal_sdg.marginals import Answers, Layout, contingency
from marginal_sdg.privacy import Source

SHAPE = {"a": 3, "b": 2, "c": 4, "d": 5}
CLIQUES = (("a", "b"), ("b", "c", "d"), ("c",), ("a", "d"), ("c", "d"))


@pytest.fixture
def domain():
    return Domain(
        (
            Attribute("age", lower=0, upper=100, bins=10, integer=True),
            Attribute("job", categories=("nurse", "clerk", "smith")),
            Attribute("member", categories=(False, True), missing="category"),
        )
    )


@pytest.fixture
def frame():
    rng = np.random.default_rng(5)
    age = rng.integers(0, 101, 900)
    job = np.array(["nurse", "clerk", "smith"])[rng.integers(0, 3, 900) % (1 + (age > 40) + (age > 70))]
    return pd.DataFrame({"age": age, "job": job, "member": pd.array(rng.choice([True, False, None], 900), "boolean")})


@given(st.lists(st.integers(0, 40), max_size=5), st.integers(0, 2**32), st.integers(1, 7))
def test_counting_in_pieces_gives_what_counting_all_at_once_gives(sizes, seed, rows):
    rng, domain = np.random.default_rng(seed), Domain.from_shape(SHAPE)
    codes = rng.integers(0, list(SHAPE.values()), (sum(sizes), 4)).astype(np.int32)
    parts = np.split(codes, np.cumsum(sizes)[:-1]) if sizes else []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tallies, "_ROWS", rows)
        tally = Tally.of((Table(domain, part) for part in parts), domain, CLIQUES)
    table = Table(domain, codes)
    assert len(tally) == len(table)
    for clique in (*CLIQUES, ("b",), ("b", "d"), ()):
        assert tally.contingency(clique).tolist() == contingency(table, clique).tolist()
    layout, scales = Layout(domain, CLIQUES), [len(table) + 0.3]
    even = np.concatenate([np.full(size, 1 / size) for size in layout.sizes])
    counted, listed = tally.answers(layout), Answers(layout, [table])
    assert counted.l1_distances(even, scales).tolist() == listed.l1_distances(even, scales).tolist()


def test_only_cliques_within_no_other_one_are_counted():
    assert maximal(CLIQUES) == (("a", "b"), ("b", "c", "d"), ("a", "d"))
    assert maximal([("a",), ("a",)]) == (("a",),)


def test_too_many_cells_are_refused_by_their_number():
    large = Domain.from_shape({"a": 2**14, "b": 2**14})
    with pytest.raises(DomainError, match=r"2\.68e\+08 cells are too many to count in one pass, at most 1\.34e\+08"):
        Tally.of([], large, [("a", "b")])


@pytest.mark.parametrize("method", [AIM, MWEM])
@pytest.mark.parametrize("files", ["one.csv", "one.parquet", "folder"])
def test_a_fit_on_files_releases_what_a_fit_in_memory_releases(tmp_path, frame, domain, method, files):
    if files == "folder":
        frame[:500].to_parquet(tmp_path / "a.parquet")
        frame[500:].to_csv(tmp_path / "b.csv", index=False)
        (tmp_path / "readme.txt").write_text("no table")
    else:
        frame.to_csv(tmp_path / files, index=False) if files.endswith("csv") else frame.to_parquet(tmp_path / files)
    place = tmp_path if files == "folder" else tmp_path / files
    fits = [
        method(domain, epsilon=2.0, rounds=3, workload=3, seed=1).fit(table)
        for table in (encode(frame, domain), StoredTable(place, domain))
    ]
    first, second = ([(m.clique, m.counts.tolist()) for m in fit.measurements_] for fit in fits)
    assert first == second and len(first) > 3
    assert fits[0].sample(50, seed=3).equals(fits[1].sample(50, seed=3))


@pytest.mark.parametrize(
    ("make", "error", "line"),
    [
        (lambda path, domain: StoredTable([], domain), DataError, "files: need at least one"),
        (lambda path, domain: StoredTable(path / "table.xlsx", domain), DataError, "a table file ends in .csv or"),
        (lambda path, domain: StoredTable(path, domain), DataError, "the folder has no file that ends in .csv or"),
        (lambda path, domain: StoredTable(path / "lost.csv", domain), DataError, "cannot be read"),
        (lambda path, domain: StoredTable(path / "x" / "bad.csv", domain), DataError, "bad.csv: .*'job'"),
        (
            lambda path, domain: StoredTable(path / "x" / "good.csv", Domain(domain.attributes[:2]), ["member"]),
            DomainError,
            "declared by another domain",
        ),
    ],
)
def test_what_is_wrong_with_files_is_found_before_anything_is_spent(tmp_path, frame, domain, make, error, line):
    (tmp_path / "x").mkdir()
    frame.to_csv(tmp_path / "x" / "good.csv", index=False)
    frame.replace("smith", "baker").to_csv(tmp_path / "x" / "bad.csv", index=False)
    ledger = Ledger(Budget(2.0, 1e-6), Source.seeded(0))
    with pytest.raises(error, match=line):
        AIM(domain, epsilon=1.0, delta=1e-6, seed=0).fit(make(tmp_path, domain), ledger=ledger)
    assert not ledger.charges


def test_bins_cannot_adapt_to_what_is_read_once(tmp_path, frame, domain):
    frame.to_csv(tmp_path / "table.csv", index=False)
    method = AIM(domain, epsilon=1.0, adaptive_bins={"age": 4}, bins_share=0.1, seed=0)
    with pytest.raises(ConfigError, match="adaptive_bins: a stored table is read only once"):
        method.fit(StoredTable(tmp_path / "table.csv", domain))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_command_line_counts_large_files_in_one_pass(tmp_path, frame, domain, suffix, monkeypatch):
    path = tmp_path / f"table.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    domain.save(tmp_path / "domain.yaml")
    outputs = []
    for large in (stored._LARGE, 1):
        monkeypatch.setattr(stored, "_LARGE", large)
        assert stored.is_large(path, 3) == (large == 1)
        out = tmp_path / f"out{large}.csv"
        command = ["synthesize", str(path), "--domain", str(tmp_path / "domain.yaml"), "--epsilon", "1", "--seed", "4"]
        assert main([*command, "--out", str(out)]) == 0
        outputs.append(out.read_text())
    assert outputs[0] == outputs[1]
    assert not stored.is_large(tmp_path / "lost.parquet", 3)
