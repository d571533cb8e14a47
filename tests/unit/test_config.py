"""Configs: strict, checked before anything is read, and expanded so that equal runs are one run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from marginal_sdg.errors import ConfigError
from marginal_sdg.experiment.config import Config, find_config, load_config
from marginal_sdg.experiment.grid import Run, cells, expand, label, varying
from marginal_sdg.experiment.params import NAMES, RunParams, allowed
from marginal_sdg.experiment.run import PURPOSES, privacy_of, seeds_of

ROOT = Path(__file__).parents[2]
MINIMAL = "dataset: adult\nmethod: AIM\n"


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "given.yaml"
    path.write_text(text)
    return load_config(path, overrides)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_that_we_ship_is_valid_flat_and_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    assert not any(isinstance(value, dict) for value in yaml.safe_load(text).values())
    everything = expand(load_config(path))
    assert everything
    if "quick" in yaml.safe_load(text):
        assert len(expand(load_config(path, quick=True))) < len(everything)


def test_the_quick_profile_is_a_list_of_overrides_that_others_override(tmp_path: Path) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(MINIMAL + 'epsilon: [1, 2, 5]\nseeds: 10\nquick: ["epsilon=[1, 5]", seeds=2]\n')
    assert len(expand(load_config(path))) == 30
    assert len(expand(load_config(path, quick=True))) == 4
    assert len(expand(load_config(path, ["seeds=3"], quick=True))) == 6
    assert load_config(path).to_yaml() == load_config(path, ["seeds=10"]).to_yaml()
    path.write_text(MINIMAL)
    with pytest.raises(ConfigError, match="has no quick profile"):
        load_config(path, quick=True)
    path.write_text(MINIMAL + "quick: 3\n")
    with pytest.raises(ConfigError, match=r"quick = 3 is not allowed; give a list such as"):
        load_config(path)


def test_defaults_are_the_papers_settings(tmp_path: Path) -> None:
    (run,) = expand(load(tmp_path, "dataset: adult\nmethod: AugFLAIM (Private)\n"))
    cell = run.params
    assert (cell.epsilon, cell.delta, cell.rounds, cell.gaussian_share) == (1.0, 1e-5, 10, 0.9)
    assert (cell.clients, cell.participation, cell.local_steps) == (100, 0.1, 1)
    assert (cell.workload_queries, cell.workload_ways, cell.workload_seed, cell.split_seed) == (
        64,
        3,
        123,
        571,
    )


def test_overrides_replace_and_lists_sweep(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL + "epsilon: 3\n", "epsilon=[1, 5]", "seeds=3", "delta=1e-6")
    assert config.axes["epsilon"] == (1.0, 5.0)
    assert config.axes["delta"] == (1e-6,)
    assert len(expand(config)) == 6


@pytest.mark.parametrize(("seeds", "expected"), [("3", (0, 1, 2)), ("[7, 2]", (7, 2))])
def test_a_number_of_seeds_counts_from_zero_and_a_list_is_taken_as_it_is(
    tmp_path: Path, seeds: str, expected: tuple[int, ...]
) -> None:
    assert load(tmp_path, MINIMAL, f"seeds={seeds}").seeds == expected


def test_a_method_runs_once_over_axes_that_do_not_touch_it(tmp_path: Path) -> None:
    sweep = "method: [AIM, NaiveFLAIM]\nparticipation: [0.1, 0.5]\npartition: [iid, cluster]\n"
    grid = cells(load(tmp_path, "dataset: adult\n" + sweep))
    assert [cell.method for cell in grid].count("AIM") == 1
    assert [cell.method for cell in grid].count("NaiveFLAIM") == 4


def test_generated_data_has_its_own_clients_and_no_label(tmp_path: Path) -> None:
    sweep = "method: [AIM, NaiveFLAIM]\nfeature_skew: [1, 2]\npartition: [iid, cluster]\nwith_auc: true\n"
    grid = cells(load(tmp_path, "dataset: synthfs\n" + sweep))
    assert len(grid) == 4
    assert all(cell.partition is None and cell.clients == 100 and not cell.with_auc for cell in grid)


def test_seeds_go_round_all_cells_before_the_next_seed_starts(tmp_path: Path) -> None:
    runs = expand(load(tmp_path, MINIMAL, "epsilon=[1,2]", "seeds=2"))
    assert [(run.seed, run.params.epsilon) for run in runs] == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_the_hash_of_a_run_never_changes(tmp_path: Path) -> None:
    """A golden value: should it change, every finished run of every user would be repeated."""
    (run,) = expand(load(tmp_path, MINIMAL))
    assert run.config_hash == "1ed885cac9041345"


def test_the_hash_depends_on_what_matters_and_on_nothing_else(tmp_path: Path) -> None:
    (run,) = expand(load(tmp_path, MINIMAL))
    assert expand(load(tmp_path, MINIMAL + "title: other\nparticipation: 0.7\n"))[0].config_hash == run.config_hash
    assert expand(load(tmp_path, MINIMAL + "epsilon: 1\n"))[0].config_hash == run.config_hash
    assert dataclasses.replace(run, seed=1).config_hash != run.config_hash
    others = [
        expand(load(tmp_path, MINIMAL, change))[0] for change in ("epsilon=2", "rounds=adaptive", "with_auc=true")
    ]
    assert len({run.config_hash, *(other.config_hash for other in others)}) == 4


@given(st.sampled_from(NAMES), st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()))
def test_any_value_is_taken_as_declared_or_refused_with_its_name(name: str, value: object) -> None:
    from marginal_sdg.experiment.config import _axis

    try:
        (kept,) = _axis(name, value, "given.yaml")
    except ConfigError as error:
        assert f"given.yaml: {name} = " in str(error)
        assert allowed(name) in str(error)
    else:
        assert kept == value


BAD = {
    "unknown key": ("epsilom: 1", "unknown key 'epsilom' (did you mean 'epsilon'?)"),
    "unlike any key": ("zzzz: 1", "unknown key 'zzzz'; the keys are dataset, "),
    "epsilon zero": ("epsilon: 0", "epsilon = 0 is not allowed; give a number above 0"),
    "epsilon text": ("epsilon: big", "epsilon = 'big' is not allowed; give a number above 0"),
    "epsilon boolean": ("epsilon: true", "epsilon = True is not allowed"),
    "epsilon infinite": ("epsilon: .inf", "epsilon = inf is not allowed"),
    "delta one": ("delta: 1", "delta = 1 is not allowed; give a number above 0, below 1"),
    "rounds negative": ("rounds: -1", 'at least 0, at most 1000 or "adaptive"'),
    "rounds fraction": ("rounds: 2.5", "rounds = 2.5 is not allowed"),
    "participation": (
        "participation: 1.5",
        "participation = 1.5 is not allowed; give a number above 0, at most 1",
    ),
    "share one": ("gaussian_share: 1.0", "gaussian_share = 1.0 is not allowed"),
    "partition": (
        "partition: clusters",
        "partition = 'clusters' is not allowed; give iid, cluster, or dirichlet:B",
    ),
    "dirichlet zero": ("partition: 'dirichlet:0'", "partition = 'dirichlet:0' is not allowed"),
    "calibration": ("calibration: papper", "give one of paper, sound (did you mean 'paper'?)"),
    "bad value in a sweep": ("epsilon: [1, -1]", "epsilon = -1 is not allowed"),
    "empty sweep": ("epsilon: []", "epsilon is an empty list; give a number above 0"),
    "value twice": ("epsilon: [1, 1.0]", "epsilon lists 1.0 twice"),
    "nested": ("epsilon: {low: 1}", "epsilon = {'low': 1} is not allowed"),
    "null": ("clients: null", "clients = None is not allowed; give a whole number"),
    "seeds zero": ("seeds: 0", "seeds = 0 is not allowed; give a whole number from 1"),
    "seeds twice": ("seeds: [1, 1]", "seeds lists a seed twice"),
    "seeds text": ("seeds: many", "seeds = 'many' is not allowed"),
    "figure": (
        "figure: epsilom",
        "figure = 'epsilom' is not allowed; give a parameter (did you mean 'epsilon'?)",
    ),
    "title": ("title: [a]", "title = ['a'] is not allowed; give a text"),
    "key twice": ("rounds: 1\nrounds: 2", "line 4 is not valid YAML: key 'rounds' is given twice"),
    "broken yaml": ("epsilon: [1", "is not valid YAML"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_config_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, MINIMAL + line)
    assert message in str(caught.value)
    assert str(caught.value).startswith("given.yaml: ") or "YAML" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: AIM", "dataset is missing; give one of adult"),
        ("dataset: adult", "method is missing; give one of AIM"),
        ("dataset: adlut\nmethod: AIM", "dataset = 'adlut' is not allowed; give one of"),
        ("dataset: adult\nmethod: AugFLAIM", "(did you mean 'AugFLAIM (Oracle)'?)"),
        ("- dataset", "must be a list of 'key: value' lines"),
        ("", "must be a list of 'key: value' lines"),
    ],
)
def test_what_is_missing_or_unlike_a_config_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"given\.yaml") as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


def test_parameters_are_checked_together(tmp_path: Path) -> None:
    config = load(tmp_path, "dataset: adult\nmethod: NaiveFLAIM\nmax_rows: 20\nclients: 50\n")
    with pytest.raises(ConfigError, match="clients = 50 is more than max_rows = 20"):
        expand(config)


@pytest.mark.parametrize("override", ["epsilon", "=1", "epsilon=[1"])
def test_a_malformed_override_is_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load(tmp_path, MINIMAL, override)


def test_a_config_is_found_by_path_or_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINIMAL)
    for name in ("mine", "mine.yaml", str(tmp_path / "mine.yaml")):
        assert find_config(name, tmp_path) == tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match=r"no file 'mime' \(did you mean 'mine'\?\)"):
        find_config("mime", tmp_path)


def test_the_saved_config_is_the_same_sweep(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, "epsilon=[1,5]", "delta=1e-6", "seeds=[4,2]", "partition=dirichlet:0.1")
    assert load(tmp_path, config.to_yaml()) == dataclasses.replace(config, title="given")


def test_a_label_tells_only_what_varies() -> None:
    grid = [RunParams(dataset="adult", method="AIM", epsilon=e) for e in (1.0, 5.0)]
    assert varying(grid) == ("epsilon",)
    assert label(grid[1], varying(grid)) == "epsilon 5"
    assert label(grid[0], varying(grid[:1])) == "AIM"


def test_what_means_nothing_to_a_gan_is_left_out_of_its_cells() -> None:
    federated = RunParams(dataset="adult", method="Fed DP-CTGAN", epochs=3).relevant()
    central = RunParams(dataset="adult", method="DP-CTGAN").relevant()
    for cell in (federated, central):
        assert {cell.calibration, cell.rounds, cell.gaussian_share, cell.generator, cell.max_model_mb} == {None}
    assert (federated.epochs, federated.participation, federated.clients) == (3, 0.1, 100)
    assert (central.epochs, central.participation, central.clients) == (None, None, None)
    assert RunParams(dataset="adult", method="AIM", epochs=3).relevant().epochs is None


def test_a_run_draws_an_independent_seed_for_each_purpose_and_keeps_fixed_ones() -> None:
    cell = RunParams(dataset="adult", method="NaiveFLAIM")
    first, again, second = (seeds_of(Run(cell, seed)) for seed in (0, 0, 1))
    assert first == again
    assert (first["split"], first["workload"], first["partition"]) == (571, 123, 571)
    assert not {first["noise"], first["rows"]} & {second["noise"], second["rows"]}
    free = cell.model_copy(update={"split_seed": "run", "workload_seed": "run", "partition_seed": "run"})
    drawn = seeds_of(Run(free, 0))
    assert len(set(drawn.values())) == len(PURPOSES)
    assert (drawn["noise"], drawn["rows"]) == (first["noise"], first["rows"])


def test_runs_share_prepared_data_only_if_it_is_the_same() -> None:
    cell = RunParams(dataset="adult", method="NaiveFLAIM")
    free = cell.model_copy(update={"partition_seed": "run"})
    assert Run(cell, 0).data_key == Run(cell.model_copy(update={"epsilon": 9.0}), 1).data_key
    assert Run(cell, 0).data_key != Run(cell.model_copy(update={"partition": "iid"}), 0).data_key
    assert Run(free, 0).data_key != Run(free, 1).data_key


@pytest.mark.parametrize(
    ("caveats", "expected"),
    [
        ((), "yes"),
        (("simulation: the noise comes from a seed",), "yes"),
        (("paper calibration: exact sizes",), "paper calibration"),
        (("paper calibration: exact sizes", "NOT PRIVATE: exact values"), "NOT PRIVATE"),
    ],
)
def test_a_result_is_called_private_only_without_caveats(caveats: tuple[str, ...], expected: str) -> None:
    assert privacy_of(caveats) == expected
