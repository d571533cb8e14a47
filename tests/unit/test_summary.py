"""Summaries: every number against one worked out by hand."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marginal_sdg.errors import ConfigError
from marginal_sdg.experiment.config import load_config
from marginal_sdg.experiment.figure import draw
from marginal_sdg.experiment.grid import cells, expand
from marginal_sdg.experiment.outputs import write_outputs
from marginal_sdg.experiment.params import RunParams
from marginal_sdg.experiment.store import COLUMNS
from marginal_sdg.experiment.summary import Estimate, cell_of, summarise, table, to_csv, to_markdown
from marginal_sdg.experiment.targets import Targets, load_targets

ROOT = Path(__file__).parents[2]
TARGETS = ROOT / "experiments" / "targets"


def rows_for(cell: RunParams, errors: list[float], **others: Any) -> list[dict[str, str]]:
    """Rows as runs.csv holds them: text."""
    rows = []
    for seed, error in enumerate(errors):
        values = cell.relevant().model_dump() | {
            "config_hash": f"{seed}",
            "seed": seed,
            "workload_error": error,
        }
        values |= {
            "nll": 20.0 + seed,
            "seconds_total": 1.5,
            "privacy": "yes",
            "version": "0",
            "git_commit": "c",
        }
        values |= others
        rows.append({name: "" if values.get(name) is None else str(values[name]) for name in COLUMNS})
    return rows


AIM = RunParams(dataset="adult", method="AIM")
PRIVATE = RunParams(dataset="adult", method="AugFLAIM (Private)")


def test_mean_and_sample_deviation_by_hand() -> None:
    found = Estimate.of([1.0, 2.0, 6.0])
    assert found.mean == 3.0
    assert found.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert found.n == 3


def test_the_bootstrap_interval_of_two_values_is_their_range() -> None:
    """A resample of two has both values with probability 1/2, one of them twice with 1/4 each."""
    found = Estimate.of([1.0, 3.0])
    assert (found.low, found.high) == (1.0, 3.0)


def test_the_bootstrap_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(10, 2, size=400).tolist()
    found = Estimate.of(values)
    assert found.sd is not None and found.low is not None and found.high is not None
    half = 1.96 * found.sd / math.sqrt(400)
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)
    assert Estimate.of(values) == found


@pytest.mark.parametrize("values", [[2.0], [2.0, math.inf]])
def test_no_spread_is_claimed_from_one_value_or_an_infinite_one(values: list[float]) -> None:
    found = Estimate.of(values)
    assert (found.sd, found.low, found.high) == (None, None, None)
    assert found.mean == values[-1]


def test_a_cell_of_runs_csv_is_the_cell_that_was_run() -> None:
    cells = [
        AIM,
        PRIVATE,
        PRIVATE.model_copy(update={"rounds": "adaptive", "with_auc": True, "partition_seed": "run"}),
    ]
    for cell in cells:
        assert cell_of(rows_for(cell, [0.1])[0]) == cell.relevant()


def test_ratios_by_hand() -> None:
    targets = load_targets("flaim_table2", TARGETS)
    aim, private = summarise([*rows_for(PRIVATE, [0.40, 0.50]), *rows_for(AIM, [0.1, 0.2])], targets)
    assert (aim.cell.method, private.cell.method) == ("AIM", "AugFLAIM (Private)")
    assert private.paper == {"workload_error": 0.43, "nll": 21.74}
    assert private.ratio("workload_error") == pytest.approx(0.45 / 0.43)
    assert private.ratio("nll") == pytest.approx(20.5 / 21.74)
    assert aim.ratio("workload_error") == pytest.approx(0.15 / 0.2)
    assert aim.ratio("auc") is None


@pytest.mark.parametrize(
    ("change", "compared"),
    [
        ({}, True),
        ({"calibration": "paper"}, True),
        ({"gaussian_share": 0.5}, True),
        ({"epsilon": 5.0}, False),
        ({"participation": 0.5}, False),
        ({"partition": "iid"}, False),
        ({"rounds": "adaptive"}, False),
        ({"max_rows": 2000}, False),
        ({"dataset": "magic"}, True),
    ],
)
def test_the_paper_is_quoted_only_at_its_own_settings(change: dict[str, Any], compared: bool) -> None:
    targets = load_targets("flaim_table2", TARGETS)
    cell = PRIVATE.model_copy(update=change).relevant()
    assert bool(targets.of(cell)) is compared


def test_a_setting_that_does_not_apply_does_not_prevent_the_comparison() -> None:
    targets = load_targets("flaim_table2", TARGETS)
    assert targets.of(AIM.relevant()) == {"workload_error": 0.2, "nll": 19.3}


def test_a_table_without_numbers_for_methods_is_no_target() -> None:
    for name in ("flaim_table5_heterogeneity", "flaim_table9"):
        with pytest.raises(ConfigError, match="give one of flaim_table1_nll, flaim_table2"):
            load_targets(name, TARGETS)


def test_runs_with_different_settings_are_never_averaged() -> None:
    rows = [*rows_for(AIM, [0.1]), *rows_for(AIM.model_copy(update={"max_model_mb": 8.0}), [0.5])]
    assert [summary.n for summary in summarise(rows, Targets())] == [1, 1]


def test_summary_csv_holds_every_cell_at_full_precision() -> None:
    summaries = summarise(rows_for(AIM, [0.1, 0.2]), load_targets("flaim_table2", TARGETS))
    (line,) = csv.DictReader(to_csv(summaries).splitlines())
    assert float(line["workload_error_mean"]) == np.mean([0.1, 0.2])
    assert float(line["workload_error_ratio"]) == pytest.approx(0.75)
    assert float(line["nll_paper"]) == 19.3
    assert (line["n"], line["clients"], line["auc_mean"]) == ("2", "", "")


def test_the_table_shows_what_varies_and_leaves_out_what_is_empty() -> None:
    summaries = summarise([*rows_for(AIM, [0.1, 0.2]), *rows_for(PRIVATE, [0.4])], Targets())
    header, lines = table(summaries)
    assert header == ["method", "runs", "error", "95% interval", "NLL", "95% interval", "seconds", "private?"]
    assert lines[0] == [
        "AIM",
        "2",
        "0.150 ± 0.071",
        "0.100 to 0.200",
        "20.50 ± 0.707",
        "20.00 to 21.00",
        "1.500",
        "yes",
    ]
    assert lines[1][:4] == ["AugFLAIM (Private)", "1", "0.400", ""]
    assert "| AIM | 2 | 0.150 ± 0.071 |" in to_markdown("Title", summaries, Targets())


@pytest.mark.parametrize("x", [None, "method", "epsilon", "dataset"])
def test_the_figure_can_be_drawn_whatever_varies(x: str | None) -> None:
    grid = [AIM, PRIVATE, *(AIM.model_copy(update={"epsilon": e}) for e in (0.1, 10.0))]
    rows = [row for cell in grid for row in rows_for(cell, [0.1, 0.2])]
    drawn = draw("A title", summarise(rows, load_targets("flaim_table2", TARGETS)), x)
    assert drawn["png"].startswith(b"\x89PNG")
    assert drawn["pdf"].startswith(b"%PDF")


def test_outputs_are_complete_self_contained_and_the_same_each_time(tmp_path: Path) -> None:
    config_file = tmp_path / "given.yaml"
    config_file.write_text("dataset: adult\nmethod: [AIM, AugFLAIM (Private)]\nseeds: 2\npaper: flaim_table2\n")
    config = load_config(config_file)
    assert len(expand(config)) == 2 * len(cells(config)) == 4
    rows = [*rows_for(AIM, [0.1, 0.2]), *rows_for(PRIVATE, [0.4, 0.5], privacy="paper calibration")]
    targets = load_targets(config.paper, TARGETS)
    write_outputs(config, tmp_path, rows, targets)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(first) == {f"given.{kind}" for kind in ("yaml", "png", "pdf")} | {
        *("summary.csv", "summary.md", "report.html")
    }
    page = first["report.html"].decode()
    assert "https:" not in page and "http:" not in page
    assert "<script" not in page
    assert "data:image/png;base64," in page
    assert '<span class="badge warn">paper calibration</span>' in page
    write_outputs(config, tmp_path, rows, targets)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
