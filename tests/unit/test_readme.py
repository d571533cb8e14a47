"""The README's code does what it shows."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from marginal_sdg.cli import main

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def table() -> pd.DataFrame:
    """What the README's domain declares."""
    rng = np.random.default_rng(0)
    columns = {
        "age": rng.integers(18, 100, 500),
        "income": rng.uniform(0, 300_000, 500),
        "region": rng.choice(["north", "south", "east", "west"], 500),
        "smoker": rng.choice([True, False], 500),
    }
    return pd.DataFrame(columns)


def test_the_python_examples_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "domain.yaml").write_text(blocks("yaml")[0])
    frame = table()
    frame.to_csv("table.csv", index=False)
    names: dict[str, object] = {}
    encrypted = importlib.util.find_spec("openfhe") is not None
    for block in blocks("python"):
        if encrypted or 'engine="bgv"' not in block:
            exec(block, names)
    written = pd.read_csv("synthetic.csv")
    assert set(written["region"]) <= set(frame["region"]) and written["income"].between(0, 200_000).all()
    assert {"model.npz", "report.html"} <= {path.name for path in tmp_path.iterdir()}


def test_the_commands_run_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "domain.yaml").write_text(blocks("yaml")[0])
    table().to_csv("table.csv", index=False)
    commands = blocks("sh")[0].replace("\\\n", "").splitlines()
    assert len(commands) == 5
    for command in commands:
        program, *words = shlex.split(command, comments=True)
        assert program == "marginal-sdg" and main(words) == 0
    older = pd.read_csv("older.csv")
    assert len(older) == 100 and older["age"].min() > 60 and older["smoker"].all()
    assert {"synthetic.csv", "report.html", "ledger.json", "draft.yaml"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8")))
def test_links_lead_somewhere(link):
    assert (README.parent / link).exists()


def load_tables(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "experiments")
    return importlib.import_module("tables")


def test_numbers_in_the_readme_are_those_of_the_committed_results(monkeypatch):
    tables = load_tables(monkeypatch)
    text = README.read_text(encoding="utf-8")
    for name, table in tables.in_readme().items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in text


def test_the_size_of_an_installation_is_the_measured_one(monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "experiments")
    assert importlib.import_module("install").sentence() in " ".join(README.read_text(encoding="utf-8").split())


def test_the_committed_tables_are_those_of_the_committed_runs(tmp_path, monkeypatch):
    tables = load_tables(monkeypatch)
    assert tables.rebuild(tmp_path) == ["table1", "table2"]
    for built in tmp_path.iterdir():
        assert built.read_text() == (tables.RESULTS / "tables" / built.name).read_text(), built.name


def test_the_committed_table_3_is_that_of_the_committed_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(README.parent / "experiments")
    table3 = importlib.import_module("table3")
    table3.rebuild(table3.FOLDERS, tmp_path)
    for built in tmp_path.iterdir():
        assert built.read_text() == (table3.FOLDERS[0] / built.name).read_text(), built.name


def test_a_table_shows_ours_and_the_papers_and_marks_what_is_missing(monkeypatch):
    tables = load_tables(monkeypatch)
    columns = ["dataset", "method", "calibration", "metric", "mean", "sd", "paper"]
    lines = [
        ["adult", "AIM", "sound", "nll", 19.1, 0.02, 19.3],
        ["magic", "AIM", "sound", "nll", 23.6, float("nan"), float("nan")],
        ["adult", "FLAIM", "sound", "nll", 20.0, 0.5, float("nan")],
    ]
    header, body = tables.wide(pd.DataFrame(lines, columns=columns))
    assert header == ["method", "calibration", "metric", "adult", "magic"]
    assert body == [
        ["AIM", "sound", "NLL", "19.10 ± 0.02 (19.3)", "23.60"],
        ["FLAIM", "sound", "NLL", "20.00 ± 0.50", ""],
    ]
    assert r"19.10 $\pm$ 0.02 (19.3) & 23.60 \\" in tables.to_latex(header, body)
