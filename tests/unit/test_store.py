"""The result store: whole lines only, whatever happens to the process."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marginal_sdg.errors import ConfigError
from marginal_sdg.experiment.params import NAMES
from marginal_sdg.experiment.store import (
    CHECKSUM,
    COLUMNS,
    CONTRACT,
    Store,
    drop_torn_line,
    read_events,
    read_rows,
    write_atomically,
)

PROMISED = (
    "config_hash dataset method calibration epsilon delta rounds local_steps clients participation partition "
    "gaussian_share seed workload_error nll auc train_rows rho_spent sigma client_sent_paper_bytes "
    "client_received_paper_bytes server_sent_paper_bytes server_received_paper_bytes client_sent_ideal_bytes "
    "client_received_ideal_bytes server_sent_ideal_bytes server_received_ideal_bytes client_sent_wire_bytes "
    "client_received_wire_bytes server_sent_wire_bytes server_received_wire_bytes "
    "seconds_total seconds_select seconds_measure seconds_generate "
    "peak_rss_mb version git_commit"
)
OF_ENCRYPTION = (
    "seconds_keygen seconds_encrypt seconds_compute upload_bytes eval_key_bytes scheme ring_dim security_bits"
)


def row(name: str, **values: Any) -> dict[str, Any]:
    return {"config_hash": name, "dataset": "adult", "method": "AugFLAIM (Private)", "seed": 0} | values


def test_columns_begin_with_the_contract_and_hold_every_parameter() -> None:
    assert COLUMNS[: len(CONTRACT)] == tuple(PROMISED.split())
    assert set(NAMES) <= set(COLUMNS)
    assert set(OF_ENCRYPTION.split()) <= set(COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_rows_come_back_as_written_and_empty_where_nothing_applies(tmp_path: Path) -> None:
    with Store(tmp_path / "new" / "folder") as store:
        store.add_row(row("a", workload_error=0.1 + 0.2, auc=None, nll=float("nan"), privacy="yes, but\nthis"))
        store.add_row(row("b"))
        (first, second) = store.rows()
        assert store.finished() == {"a", "b"}
    assert float(first["workload_error"]) == 0.1 + 0.2
    assert (first["auc"], first["nll"], first["privacy"]) == ("", "", "yes, but this")
    assert tuple(first) == COLUMNS
    assert second["workload_error"] == ""


@given(cut=st.integers(min_value=1, max_value=400))
def test_a_torn_last_line_is_removed_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("torn")
    with Store(folder) as store:
        for name in "abc":
            store.add_row(row(name, privacy="a text, with commas"))
    whole = store.runs.read_bytes()
    store.runs.write_bytes(whole[:-cut])
    kept = whole[:-cut].count(b"\n") - 1
    if kept < 0:
        return  # the header itself is written in one step
    with Store(folder) as store:
        assert [found["config_hash"] for found in store.rows()] == list("abc")[:kept]
        store.add_row(row("z"))
        assert [found["config_hash"] for found in store.rows()] == [*list("abc")[:kept], "z"]


def test_torn_events_are_removed_and_the_rest_can_be_read(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_event({"event": "round", "round": 1, "selected": [("age", "sex")]})
    with store.events.open("a") as file:
        file.write('{"event": "rou')
    with Store(tmp_path) as store:
        store.add_event({"event": "done"})
    assert list(read_events(store.events)) == [
        {"event": "round", "round": 1, "selected": [["age", "sex"]]},
        {"event": "done"},
    ]
    assert all(json.loads(line) for line in store.events.read_text().splitlines())


@pytest.mark.parametrize("content", [b"", b"half", b"one\n", b"one\nha", b"one\n\0\0\0"])
def test_dropping_a_torn_line_keeps_whole_lines(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    drop_torn_line(path)
    assert path.read_bytes() == (b"one\n" if b"\n" in content else b"")


def test_two_sweeps_cannot_write_into_one_folder(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(ConfigError, match="another sweep is writing here"), Store(tmp_path):
        pass
    with Store(tmp_path):
        pass


def test_columns_of_an_earlier_version_are_completed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        pass
    with store.runs.open("w", newline="") as file:
        writer = csv.DictWriter(file, CONTRACT)
        writer.writeheader()
        writer.writerow(dict.fromkeys(CONTRACT, "1") | {"config_hash": "old"})
    with Store(tmp_path) as store:
        store.add_row(row("new"))
        assert [found["config_hash"] for found in store.rows()] == ["old", "new"]
        assert tuple(store.rows()[0]) == COLUMNS


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "columns are not those"), (",".join(CONTRACT) + "\nx,1\n", "line 2: has 2 of 38 values")],
)
def test_a_file_that_is_not_a_results_file_is_left_alone(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(ConfigError, match=message), Store(tmp_path):
        pass
    assert (tmp_path / "runs.csv").read_text() == text


@given(data=st.data())
def test_a_row_that_changed_is_refused_and_the_file_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    with Store(folder) as store:
        store.add_row(row("a", workload_error=0.4321))
        store.add_row(row("b", privacy="a text, with commas"))
    whole = bytearray(store.runs.read_bytes())
    start = whole.index(b"\nb,") + 1
    place = data.draw(st.integers(start, len(whole) - 2))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    store.runs.write_bytes(whole)
    with pytest.raises(ConfigError) as error:
        list(read_rows(store.runs))
    assert str(error.value).startswith(str(store.runs))
    with pytest.raises(ConfigError), Store(folder):
        pass
    assert store.runs.read_bytes() == whole  # nothing is repaired behind one's back


def test_a_file_with_a_nul_byte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(b"config_hash,sigma\nx\0,1\n")
    with pytest.raises(ConfigError, match=r"runs.csv: is damaged, it is not CSV; restore the file$"):
        list(read_rows(tmp_path / "runs.csv"))


def test_rows_of_versions_before_checksums_are_read_and_stay_without(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("config_hash,sigma\nold,3.5\n")
    with Store(tmp_path) as store:
        store.add_row(row("new"))
    with store.runs.open(newline="") as file:
        assert [bool(found[CHECKSUM]) for found in csv.DictReader(file)] == [False, True]
    assert [(found["config_hash"], found["sigma"]) for found in read_rows(store.runs)] == [("old", "3.5"), ("new", "")]


def test_the_checksum_follows_when_columns_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier, Store(tmp_path / "new") as store:
        earlier.setattr("marginal_sdg.experiment.store.COLUMNS", COLUMNS[:-2])
        store.runs.unlink()
        store._match_columns()
        store.add_row(row("a", sigma=3.5))
    with Store(tmp_path / "new") as store:
        assert [found["sigma"] for found in store.rows()] == ["3.5"]
    store.runs.write_text(store.runs.read_text().replace("3.5", "3.6"))
    with pytest.raises(ConfigError, match="line 2: is damaged, its checksum is wrong; restore the file"):
        list(read_rows(store.runs))


def test_a_row_with_an_unknown_column_is_a_programming_error(tmp_path: Path) -> None:
    with Store(tmp_path) as store, pytest.raises(KeyError, match="wrokload_error"):
        store.add_row(row("a", wrokload_error=1.0))
    assert store.rows() == []


def test_a_row_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    real = os.write
    with Store(tmp_path) as store:
        monkeypatch.setattr(os, "write", lambda handle, data: written.append(data) or real(handle, data))
        store.add_row(row("a"))
    assert len(written) == 1
    assert written[0].endswith(b"\n")


def test_replacing_a_file_leaves_no_other_behind(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    write_atomically(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "new"
