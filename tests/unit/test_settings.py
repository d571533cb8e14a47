"""The settings of the audit scripts: the committed tables are theirs, and bad input is one line."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from marginal_sdg.errors import ConfigError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(params=["audit", "one_run"])
def script(request, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module(request.param)


@pytest.fixture
def load(script, monkeypatch):
    settings = importlib.import_module("settings")
    kind = script.AuditSettings if script.__name__ == "audit" else script.OneRunSettings
    return lambda path: settings.load_settings(path, kind)


def committed(name):
    with (EXPERIMENTS / "results" / "audit" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_committed_tables_have_the_rows_that_the_settings_ask_for(script, load):
    given, rows = load(script.CONFIG), committed(script.__name__)
    if script.__name__ == "audit":
        asked = [(c.target, c.fault or "none", c.budget.epsilon, c.runs) for c in script.cases(given.budgets)]
        keys = ("target", "fault", "epsilon", "runs_per_world")
        assert [(r[keys[0]], r[keys[1]], float(r[keys[2]]), int(r[keys[3]])) for r in rows] == asked
    else:
        assert {int(row["canaries"]) for row in rows} == {given.canaries}
        assert {int(row["guesses"]) for row in rows} <= {given.canaries // share for share in given.shares}
        deltas = {delta for setting in given.budgets for delta in (setting.delta, setting.smaller_delta)}
        assert {float(row["judged_at_delta"]) for row in rows} == deltas


def test_numbers_may_be_written_as_yaml_does_not_read_them(script, load, tmp_path):
    text = script.CONFIG.read_text().replace("0.00001", "1e-5")
    (tmp_path / "given.yaml").write_text(text)
    assert load(tmp_path / "given.yaml") == load(script.CONFIG)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 0", "seed: -1", "seed: Input should be greater than or equal to 0, got -1"),
        ("seed: 0", "sed: 0", "seed: Field required"),
        ("seed: 0", "seed: 0\nspeed: 1", "speed: Extra inputs are not permitted, got 1"),
        ("delta: 0.01", "delta: 1.0", "budgets.0.delta: Input should be less than 1, got 1.0"),
        ("epsilon: 5", "epsilon: five", "budgets.1.epsilon: Input should be a valid number"),
        ("seed: 0", "seed: [", r"cannot be read as YAML \(ParserError\)$"),
    ],
)
def test_bad_settings_name_file_key_and_value(script, load, tmp_path, old, new, message):
    path = tmp_path / "given.yaml"
    path.write_text(script.CONFIG.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=f"^{path}: {message}"):
        load(path)


def test_a_file_that_is_missing_or_no_mapping_is_refused(script, load, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read as YAML \(FileNotFoundError\)$"):
        load(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="must be lines of 'key: value'; the keys are seed, "):
        load(tmp_path / "list.yaml")


def test_a_script_says_what_is_wrong_in_one_line_and_writes_nothing(tmp_path):
    call = [sys.executable, str(EXPERIMENTS / "audit.py"), "--config", "none.yaml", "--out", "out"]
    ended = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: none.yaml: cannot be read as YAML (FileNotFoundError)\n"
    assert list(tmp_path.iterdir()) == []
