"""The comparison with other packages: peers that work, fail, hang, or cannot be installed."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RESULTS = EXPERIMENTS / "results"

ADAPTERS = {
    "halves": "answer('numpy', lambda task, codes: codes[: len(codes) // 2 + 0 * sum(range(10**6))])",
    "leaves": "answer('numpy', lambda task, codes: codes + 1000)",
    "writes": "print('no answer')",
    "fails": "import no_such_module",
    "hangs": "import time; time.sleep(60)",
    "hoards": "import numpy; answer('numpy', lambda task, codes: numpy.ones(task.memory_mb * 2**18))",
}


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("peers")


def settings_file(folder, names, **changes):
    """Settings with one peer per name, each with an adapter of its own below ``folder``."""
    given = {
        "dataset": "diabetes_pima",
        "columns": ["Pregnancies", "Glucose", "Outcome"],
        "epsilon": 1,
        "delta": "1e-9",
        "ways": 2,
        "python": "3.11",
        "seconds": 20,
        "memory_mb": 2000,
        "peers": [],
    }
    for name in names:
        adapter = folder / f"{name}.py"
        adapter.write_text(f"from exchange import answer\n{ADAPTERS[name]}\n")
        peer = {"name": name, "adapter": str(adapter), "requires": [], "options": [{}], "runs": 1}
        given["peers"].append(peer | {"told": "all", "leaks": "all"})
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump(given | changes))
    return path


def run(peers, monkeypatch, path, out):
    command = ["peers.py", "--config", str(path), "--out", str(out), "--cache", str(path.parent / "cache")]
    monkeypatch.setattr(sys, "argv", command)
    peers.main()
    return pd.read_csv(out / "peers.csv").set_index("peer"), (out / "peers.md").read_text()


def test_what_fails_is_a_row_and_the_others_are_measured(peers, tmp_path, monkeypatch):
    names = ["halves", "fails", "leaves", "writes", "hoards"]
    rows, text = run(peers, monkeypatch, settings_file(tmp_path, names), tmp_path / "out")
    assert list(rows.index) == names
    works = rows.loc["halves"]
    assert 0 < works["error"] < 0.7 and works["rows"] == 384 and pd.isna(works["failed"])
    assert works["cpu_seconds"] > 0 and works["peak_mb"] > 10
    assert rows.loc["fails", "failed"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert "codes of column" in rows.loc["leaves", "failed"]
    assert "facts.json" in rows.loc["writes", "failed"]
    assert "MemoryError" in rows.loc["hoards", "failed"]
    assert rows.loc[names[1:], "error"].isna().all()
    for name in names:
        assert f"| {name} |" in text


def test_a_peer_that_takes_too_long_is_stopped_with_what_it_used(peers, tmp_path, monkeypatch):
    rows, text = run(peers, monkeypatch, settings_file(tmp_path, ["halves", "hangs"], seconds=2), tmp_path / "out")
    assert rows.loc["hangs", "failed"] == "stopped after 2 s" and rows.loc["hangs", "process_cpu_seconds"] > 0
    assert pd.isna(rows.loc["hangs", "error"]) and ">" in next(x for x in text.splitlines() if "hangs" in x)


def test_a_stopped_sweep_goes_on_where_it_was(peers, tmp_path, monkeypatch):
    path = settings_file(tmp_path, ["halves"])
    run(peers, monkeypatch, path, tmp_path / "out")
    before = (tmp_path / "out" / "peers.csv").read_text()
    (tmp_path / "halves.py").write_text("raise SystemExit('must not run again')")
    run(peers, monkeypatch, path, tmp_path / "out")
    assert (tmp_path / "out" / "peers.csv").read_text() == before


def test_a_package_that_cannot_be_installed_is_a_row(peers, tmp_path, monkeypatch):
    tool = tmp_path / "uv"
    tool.write_text("#!/bin/sh\necho first >&2\necho 'no such package: nope' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = settings_file(tmp_path, ["halves"])
    given = yaml.safe_load(path.read_text())
    given["peers"].append(given["peers"][0] | {"name": "nope", "requires": ["nope"]})
    path.write_text(yaml.safe_dump(given))
    rows, _ = run(peers, monkeypatch, path, tmp_path / "out")
    assert rows.loc["nope", "failed"] == "not installed: no such package: nope" and rows.loc["halves", "error"] > 0


def test_peers_take_turns(peers):
    note = {"adapter": "a", "requires": [], "told": "", "leaks": ""}
    fast = peers.Peer(name="fast", options=[{"rounds": 2}, {}], runs=2, **note)
    slow = peers.Peer(name="slow", options=[{}], runs=1, **note)
    given = peers.PeersSettings.model_construct(peers=(fast, slow))
    assert [run.key for run in peers.plan(given)] == [
        ("fast", "rounds 2", 0),
        ("slow", "defaults", 0),
        ("fast", "rounds 2", 1),
        ("fast", "defaults", 0),
        ("fast", "defaults", 1),
    ]


def test_the_task_says_what_is_public_and_nothing_else(peers, tmp_path):
    settings = importlib.import_module("settings")
    arena = peers.Arena.prepare(settings.load_settings(settings_file(tmp_path, ["halves"]), peers.PeersSettings))
    arena.hand_over(tmp_path, {"rounds": 7}, seed=3)
    task = json.loads((tmp_path / "task.json").read_text())
    assert task["workload"] == [["Pregnancies", "Glucose"], ["Pregnancies", "Outcome"], ["Glucose", "Outcome"]]
    assert 0.01 < task["rho"] < 0.03 and task["seed"] == 3 and task["options"] == {"rounds": 7}


@pytest.fixture(params=["peers", "peers_six"])
def committed(peers, request):
    """The folder, its rows, and the settings."""
    settings = importlib.import_module("settings")
    folder = RESULTS / request.param
    return folder, pd.read_csv(folder / "peers.csv"), settings.load_settings(peers.CONFIG, peers.PeersSettings)


def test_every_committed_row_is_one_that_the_settings_ask_for(peers, committed):
    _, rows, given = committed
    keys = list(rows[["peer", "options", "run"]].itertuples(index=False, name=None))
    assert len(keys) == len(set(keys)) and set(keys) <= {run.key for run in peers.plan(given)}


def test_the_committed_report_has_the_numbers_of_the_committed_rows(peers, committed):
    folder, *rows_and_settings = committed
    text = (folder / "peers.md").read_text(encoding="utf-8")
    assert peers.markdown_table(peers.summarise(*rows_and_settings)) in text
