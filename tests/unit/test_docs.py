"""The documentation's code does what it shows: blocks of its pages, notebooks, and examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest

from marginal_sdg.cli import main as cli
from marginal_sdg.experiment import main as experiment
from marginal_sdg.flower.__main__ import main as flower

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if BLOCK.search(page.read_text(encoding="utf-8"))]


def run_command(line: str) -> int:
    match shlex.split(line, comments=True):
        case ["marginal-sdg", *words]:
            return cli(words)
        case ["python", "experiments/run.py", *words]:
            return experiment(words, root=ROOT)
        case ["python", "-m", "marginal_sdg.flower", *words]:
            flower(words)
            return 0
    raise AssertionError(f"a page shows a command that this test does not know: {line}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, title, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if title:
            Path(title).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(text, names)
        else:
            assert language == "sh"
            for line in text.replace("\\\n", "").splitlines():
                assert run_command(line) == 0, line


@pytest.mark.parametrize("notebook", sorted((DOCS / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, monkeypatch, capsys):
    monkeypatch.chdir(notebook.parent)
    monkeypatch.setenv("MPLBACKEND", "agg")
    runpy.run_path(str(notebook))


@pytest.mark.parametrize(
    "module",
    [
        "domain",
        "encoding",
        "workload",
        "synthesizers",
        "federations",
        "fhaim",
        "graphical.model",
        "privacy.budget",
        "privacy.ledger",
    ],
)
def test_examples_in_docstrings_print_what_they_say(module):
    found = doctest.testmod(importlib.import_module(f"marginal_sdg.{module}"), optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed
