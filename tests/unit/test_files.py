"""What was saved is what is read: damage is refused, and derived files agree with what they are derived from."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

from marginal_sdg import AIM, Domain, Table
from marginal_sdg.errors import DataError
from marginal_sdg.experiment.store import read_rows
from marginal_sdg.experiment.summary import summarise, to_csv
from marginal_sdg.experiment.targets import load_targets
from marginal_sdg.graphical.model import GraphicalModel

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SWEEPS = sorted((EXPERIMENTS / "results").glob("*/runs.csv"))


def test_no_flipped_bit_of_a_saved_model_goes_unnoticed(tmp_path):
    """A zip archive checks its members; the bytes around them may change only what nobody reads."""
    domain = Domain.from_shape({"a": 3, "b": 2, "c": 4})
    codes = np.random.default_rng(0).integers(0, 2, (200, 3), dtype=np.int32)
    model = AIM(domain, epsilon=5.0, rounds=2, seed=0).fit(Table(domain, codes)).model_
    whole, damaged = tmp_path / "model.npz", tmp_path / "damaged.npz"
    model.save(whole)

    def content(path):
        loaded = GraphicalModel.load(path)
        potentials = {clique: theta.tolist() for clique, theta in loaded.potentials.items()}
        return loaded.domain.to_dict(), loaded.total, potentials

    data, expected = whole.read_bytes(), content(whole)
    refused = 0
    for place in range(0, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        damaged.write_bytes(changed)
        try:
            assert content(damaged) == expected, f"byte {place}"
        except DataError as error:
            assert str(error).startswith(str(damaged))
            refused += 1
    assert refused > len(data) / 6


@pytest.mark.parametrize("runs", SWEEPS, ids=lambda path: path.parent.name)
def test_committed_summaries_are_what_their_runs_give(runs):
    if not (summary := runs.with_name("summary.csv")).exists():
        pytest.skip("no sweep")
    paper = yaml.safe_load(runs.with_name("config.yaml").read_text(encoding="utf-8")).get("paper")
    rows = list(read_rows(runs))
    fresh = list(csv.DictReader(to_csv(summarise(rows, load_targets(paper, EXPERIMENTS / "targets"))).splitlines()))
    committed = list(csv.DictReader(summary.read_text(encoding="utf-8").splitlines()))
    assert len(fresh) == len(committed) > 0
    for new, old in zip(fresh, committed, strict=True):
        same = [name for name in old if name in new]
        assert len(same) >= 50
        assert {name: new[name] for name in same} == {name: old[name] for name in same}
