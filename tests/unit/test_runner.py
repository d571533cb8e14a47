"""The command line and the sweep: exit codes, resuming, and every way in which a run can die."""

from __future__ import annotations

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from marginal_sdg import __version__
from marginal_sdg.experiment import cluster
from marginal_sdg.experiment.grid import Run
from marginal_sdg.experiment.pool import Work
from marginal_sdg.experiment.runner import BAD_INPUT, DONE, FAILED, INTERRUPTED, main
from marginal_sdg.experiment.store import COLUMNS

ROOT = Path(__file__).parents[2]
CONFIG = "dataset: adult\nmethod: [AIM, NaiveFLAIM]\nseeds: 3\n"


def fake(run: Run, emit: Any) -> dict[str, Any]:
    """A run that takes no time."""
    emit({"event": "round", "round": 1, "rounds": 1, "selected": [("age", "sex")], "rho_spent": 0.1})
    return run.params.model_dump() | {
        "workload_error": 0.1 + run.seed / 100,
        "nll": 20.0,
        "seconds_total": 0.0,
    }


class Place:
    """A folder with a config, and calls of the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "configs").mkdir()
        (folder / "configs" / "given.yaml").write_text(CONFIG)
        self.out = folder / "out"

    def run(self, *arguments: str, work: Work = fake, config: str = "given") -> int:
        call = ["--config", config, "--out", str(self.out), "--workers", "0", *arguments]
        return main(call, root=self.folder, work=work)

    def rows(self) -> list[dict[str, str]]:
        with (self.out / "runs.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_sweep_writes_all_its_outputs_and_prints_the_table(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.run() == DONE
    written = {path.name for path in place.out.iterdir()}
    assert written >= {
        "runs.csv",
        "summary.csv",
        "summary.md",
        "events.jsonl",
        "report.html",
        "given.png",
        "given.pdf",
    }
    assert len(place.rows()) == 6
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("6 runs; results in ")
    assert printed[1] == "[1/6] AIM, seed 0: error 0.1 NLL 20 in 0 s"
    assert any(line.split()[:4] == ["AIM", "3", "0.110", "±"] for line in printed)
    events = [json.loads(line) for line in (place.out / "events.jsonl").read_text().splitlines()]
    assert {event["event"] for event in events} == {"round"}
    assert {event["config_hash"] for event in events} == {row["config_hash"] for row in place.rows()}


def test_finished_runs_are_never_repeated(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    done: list[tuple[str, int]] = []

    def counting(run: Run, emit: Any) -> dict[str, Any]:
        done.append((run.params.method, run.seed))
        return fake(run, emit)

    assert place.run("--set", "seeds=2", work=counting) == DONE
    assert place.run("--set", "seeds=2", "--resume", work=counting) == DONE
    assert place.run(work=counting) == DONE
    assert sorted(done) == [(method, seed) for method in ("AIM", "NaiveFLAIM") for seed in range(3)]
    assert "6 runs, 4 done before" in capsys.readouterr().out


def test_a_failed_run_is_one_line_and_the_others_finish(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(run: Run, emit: Any) -> dict[str, Any]:
        if run.seed == 1:
            raise ValueError("no such\nthing")
        return fake(run, emit)

    assert place.run(work=failing) == FAILED
    assert len(place.rows()) == 4
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "FAILED AIM, seed 1: ValueError: no such thing"
    assert lines[-1].startswith("error: 2 of 6 runs failed")
    assert "raise ValueError" in (place.out / "events.jsonl").read_text()
    assert place.run() == DONE
    assert len(place.rows()) == 6


def test_an_interrupted_sweep_goes_on_from_where_it_was(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(run: Run, emit: Any) -> dict[str, Any]:
        if run.seed == 1:
            raise KeyboardInterrupt
        return fake(run, emit)

    assert place.run(work=interrupted) == INTERRUPTED
    assert len(place.rows()) == 2
    assert capsys.readouterr().err.startswith("interrupted: finished runs are kept")
    assert place.run() == DONE
    assert Counter(row["config_hash"] for row in place.rows()).most_common(1)[0][1] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "epsilom=1"], "given.yaml: unknown key 'epsilom' (did you mean 'epsilon'?)"),
        (
            ["--set", "epsilon=0"],
            "given.yaml: epsilon = 0 is not allowed; give a number above 0, at most 1000",
        ),
        (["--set", "delta=1"], "given.yaml: delta = 1 is not allowed"),
        (["--set", "method=AIMM"], "method = 'AIMM' is not allowed; give one of AIM, "),
        (["--set", "dataset=adlut"], "(did you mean 'adult'?)"),
        (["--set", "rounds=ten"], "rounds = 'ten' is not allowed; give a whole number"),
        (["--set", "clients=1.5"], "clients = 1.5 is not allowed; give a whole number"),
        (["--set", "participation=0"], "participation = 0 is not allowed"),
        (["--set", "partition=dirichlet"], "partition = 'dirichlet' is not allowed"),
        (["--set", "generator=mib"], "generator = 'mib' is not allowed; give one of pgm, mbi"),
        (["--set", "max_model_mb=0"], "max_model_mb = 0 is not allowed"),
        (
            ["--set", "workload_ways=9"],
            "workload_ways = 9 is not allowed; give a whole number at least 1, at most 4",
        ),
        (["--set", "seeds=-1"], "seeds = -1 is not allowed"),
        (["--set", "seeds=[1,1]"], "seeds lists a seed twice"),
        (["--set", "paper=flaim_table7"], "paper = 'flaim_table7' is not a table of targets"),
        (["--set", "figure=error"], "figure = 'error' is not allowed; give a parameter"),
        (["--set", "epsilon"], "--set epsilon: must be key=value"),
        (["--set", "epsilon=[1"], "--set epsilon=[1: line 1 is not valid YAML"),
        (["--set", "clients=50", "--set", "max_rows=20"], "clients = 50 is more than max_rows = 20"),
        (["--workers", "-1"], "--workers -1 is not allowed; give a whole number from 0 to 1024"),
        (["--workers", "two"], "argument --workers: invalid int value: 'two'; see --help"),
        (["--wrokers", "2"], "unrecognized arguments: --wrokers 2; see --help"),
        (["--backend", "spark"], "--backend spark is not known; give local, dask, ray, or an address"),
        (["--backend", "dask"], "--workers 0 runs in this process, which --backend dask does not; give 1 or more"),
        (["--out", "configs/given.yaml"], "is a file; give a folder"),
        (["--config", "given2"], "config: no file 'given2' (did you mean 'given'?); configs/ has given"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(place.folder)
    before = sorted(place.folder.rglob("*"))
    assert place.run(*arguments) == BAD_INPUT
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert sorted(place.folder.rglob("*")) == before


def test_a_dry_run_prints_the_privacy_split_and_touches_nothing(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(name: str) -> None:
        raise AssertionError("a dry run must not read data")

    monkeypatch.setattr("marginal_sdg.datasets.load_dataset", no_data)
    assert place.run("--dry-run", "--set", "method=[AIM, AugFLAIM (Private)]", "--set", "calibration=paper") == DONE
    printed = capsys.readouterr().out
    # Lemma 4.1 at epsilon 1, r = 0.9, T = 10, d = 14: sigma = sqrt(G / (2 r rho)), G = T + d and T (1 + d)
    aim, private = (line.split() for line in printed.splitlines() if "0.030557" in line)
    assert {"20.89", "24", "0.0494"} <= set(aim)
    assert {"52.22", "150", "0.0494"} <= set(private)
    assert not place.out.exists()


def test_without_out_results_go_to_a_folder_with_the_name_of_the_config(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    assert main(["--config", "given", "--workers", "0"], root=place.folder, work=fake) == DONE
    assert (place.folder / "results" / "given" / "runs.csv").exists()


# -- whole processes

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from marginal_sdg.experiment import main

def work(run, emit):
    emit({"event": "ready"})
    for round in range(3):
        time.sleep(0.02)
        emit({"event": "round", "round": round + 1, "rounds": 3, "selected": [("age",)], "rho_spent": 0.0})
    if os.environ.get("DIE") and run.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    threads = os.environ.get("OMP_NUM_THREADS")
    return run.params.model_dump() | {"workload_error": 0.1, "nll": 1.0, "privacy": threads}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    sys.exit(main(root=Path(sys.argv.pop(1)), work=work))
"""


class Process:
    """The command line in a process of its own, with workers, and a fake run that takes 60 ms."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.script = place.folder / "script.py"
        self.script.write_text(SCRIPT)

    def start(self, *arguments: str, workers: int = 1, **environment: str) -> subprocess.Popen[str]:
        call = [sys.executable, str(self.script), str(self.place.folder), "--config", "given"]
        call += ["--out", str(self.place.out), "--workers", str(workers), *arguments]
        clean = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
        paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            call,
            env=clean | {"PYTHONPATH": paths} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for_rows(self, process: subprocess.Popen[str], count: int) -> None:
        runs = self.place.out / "runs.csv"
        for _ in range(6000):
            if runs.exists() and runs.read_bytes().count(b"\n") > count:
                return
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        raise AssertionError("the sweep does not move")


def test_a_sweep_that_was_killed_goes_on_and_repeats_nothing(place: Place) -> None:
    process = Process(place)
    killed = process.start("--set", "seeds=20")
    process.wait_for_rows(killed, 4)
    killed.kill()  # SIGKILL: no handler runs
    killed.communicate()
    before = [row["config_hash"] for row in place.rows()]
    assert 4 <= len(before) < 40
    with (place.out / "runs.csv").open("a") as file:
        file.write("0123456789abcdef,adult,AI")  # and its last write was torn

    again = process.start("--set", "seeds=20")
    out, err = again.communicate(timeout=120)
    assert (again.returncode, err) == (DONE, "")
    assert f"40 runs, {len(before)} done before" in out
    hashes = [row["config_hash"] for row in place.rows()]
    assert hashes[: len(before)] == before
    assert len(set(hashes)) == len(hashes) == 40
    assert all(row["nll"] == "1.0" for row in place.rows())


def test_a_worker_that_dies_fails_its_run_only(place: Place) -> None:
    process = Process(place).start(workers=2, DIE="1")
    _, err = process.communicate(timeout=120)
    assert process.returncode == FAILED
    assert sorted(row["seed"] for row in place.rows()) == ["0", "0", "2", "2"]
    assert err.count("the worker process was killed by signal 9") == 2
    assert {row["privacy"] for row in place.rows()} == {"1"}  # one BLAS thread in each worker


def test_the_first_worker_starts_without_ctrl_c_too() -> None:
    """Starting the first process of all starts Python's resource tracker, which unblocks the signal when it is done."""
    start = "resource_tracker.ensure_running(); print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    modules = "import signal; from multiprocessing import resource_tracker; from marginal_sdg.experiment import pool"
    done = subprocess.run(
        [sys.executable, "-c", f"{modules}\nwith pool._for_children():\n  {start}"], capture_output=True, check=True
    )
    assert done.stdout.split() == [b"True"]


def test_ctrl_c_stops_workers_and_keeps_what_is_finished(place: Place) -> None:
    process = Process(place)
    running = process.start("--set", "seeds=100", workers=2)
    process.wait_for_rows(running, 2)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to parent and workers
    _, err = running.communicate(timeout=60)  # returns only when all of them have closed their output
    assert running.returncode == INTERRUPTED
    assert err == "interrupted: finished runs are kept, the same call goes on from there\n"
    assert 2 <= len(place.rows()) < 200


# -- clusters

LOSING = """
import os, signal, sys, time
from pathlib import Path
from marginal_sdg.experiment import main

FOLDER = Path(sys.argv[1])

def work(run, emit):
    emit({"event": "round", "round": 1, "rounds": 1, "selected": [("age",)], "rho_spent": 0.0})
    mark = FOLDER / f"started-{run.config_hash}-{os.getpid()}"
    mark.touch()
    first = len(list(FOLDER.glob(f"started-{run.config_hash}-*"))) == 1
    time.sleep(1)  # Dask does not replace a worker that dies in the moment in which it starts
    if run.seed == 2 or (run.seed == 1 and first):  # one kills every worker it gets, the other the first alone
        os.kill(os.getpid(), signal.SIGKILL)
    threads = os.environ.get("OMP_NUM_THREADS")
    return run.params.model_dump() | {"workload_error": 0.1, "nll": 1.0, "privacy": threads}

if __name__ == "__main__":
    sys.exit(main(root=Path(sys.argv.pop(1)), work=work))
"""


QUICKLY = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_cluster_repeats_the_run_of_a_lost_worker_and_counts_none_twice(place: Place, engine: str) -> None:
    module = {"dask": "distributed", "ray": "ray"}[engine]
    pytest.importorskip(module, reason=f"{module} is not installed: pip install 'marginal-sdg[{engine}]'")
    process = Process(place)
    process.script.write_text(LOSING)
    running = process.start("--set", "method=AIM", "--set", "seeds=4", "--backend", engine, workers=2, **QUICKLY)
    out, err = running.communicate(timeout=500)
    assert running.returncode == FAILED, err
    assert sorted(row["seed"] for row in place.rows()) == ["0", "1", "3"]
    assert len(list(place.folder.glob("started-*"))) >= 3 + 1 + 2
    assert "FAILED AIM, seed 2: lost by the cluster: " in err
    assert {row["privacy"] for row in place.rows()} == {"1"}  # one BLAS thread in each worker
    events = [json.loads(line) for line in (place.out / "events.jsonl").read_text().splitlines()]
    assert Counter(event["seed"] for event in events) == {0: 1, 1: 1, 2: 1, 3: 1}  # of lost attempts: none
    assert "[3/4] AIM" in out


class Engine:
    """A cluster of which the second task's worker is lost for good; it takes the place of Dask."""

    @contextmanager
    def __call__(self, address: str, workers: int) -> Iterator[Any]:
        self.given = address, workers
        self.tasks = 0
        yield self.submit

    def submit(self, function: Any, *arguments: Any) -> Future[Any]:
        self.tasks += 1
        future: Future[Any] = Future()
        if self.tasks == 2:
            future.set_exception(RuntimeError("the worker\nis gone. Look at its logs."))
        else:
            future.set_result(function(*pickle.loads(pickle.dumps(arguments))))
        return future


def test_what_a_cluster_returns_is_written_here(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine()
    monkeypatch.setitem(cluster.ENGINES, "dask", ("json", engine))
    call = ["--workers", "3", "--backend", "dask:tcp://host:1"]
    assert place.run(*call) == FAILED
    assert (engine.given, engine.tasks, len(place.rows())) == (("tcp://host:1", 3), 6, 5)
    assert "seed 0: lost by the cluster: the worker is gone\n" in capsys.readouterr().err
    events = [json.loads(line) for line in (place.out / "events.jsonl").read_text().splitlines()]
    assert Counter(event["event"] for event in events) == {"round": 5, "failed": 1}
    assert place.run(*call) == DONE
    assert len({row["config_hash"] for row in place.rows()}) == len(place.rows()) == 6
    assert engine.tasks == 1  # only the one that was lost


def test_a_worker_with_another_version_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def engine(address: str, workers: int) -> Iterator[Any]:
        with ThreadPoolExecutor(1) as pool:
            yield lambda function, work, version, run: pool.submit(function, work, "0.0.1", run)

    monkeypatch.setitem(cluster.ENGINES, "ray", ("json", engine))
    assert place.run("--workers", "1", "--backend", "ray") == FAILED
    assert place.rows() == []
    assert f"a worker has marginal_sdg {__version__} where 0.0.1 is needed" in capsys.readouterr().err


def test_a_missing_engine_is_one_line(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cluster.ENGINES, "ray", ("no_such_package", None))
    assert place.run("--workers", "1", "--backend", "ray:auto") == BAD_INPUT
    assert capsys.readouterr().err.endswith("needs a package that is not here; pip install 'marginal-sdg[ray]'\n")
    assert not place.out.exists()


@pytest.mark.slow
def test_an_address_where_nobody_is_is_one_line(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed: pip install 'marginal-sdg[dask]'")
    process = Process(place).start("--backend", "dask:tcp://127.0.0.1:9", workers=1)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err.count("\n"), place.out.exists()) == (BAD_INPUT, 1, False)
    assert err.startswith("error: --backend dask:tcp://127.0.0.1:9: no scheduler answers there (")


# -- real runs


def test_the_smoke_config_gives_complete_rows_and_the_same_ones_again(tmp_path: Path) -> None:
    def rows(out: str) -> list[dict[str, str]]:
        changes = [
            "--set",
            "method=[AIM, AugFLAIM (Private)]",
            "--set",
            "calibration=sound",
            "--workers",
            "0",
        ]
        assert main(["--config", "smoke", "--out", str(tmp_path / out), *changes], root=ROOT) == DONE
        with (tmp_path / out / "runs.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    first, again = rows("first"), rows("again")
    steady = [name for name in COLUMNS if not name.startswith(("seconds", "peak", "finished"))]
    assert [[row[name] for name in steady] for row in first] == [[row[name] for name in steady] for row in again]
    aim, private = first
    federated = {"local_steps", "clients", "participation", "partition", "client_sent_paper_bytes"}
    assert not any(aim[name] for name in federated)
    assert all(private[name] for name in federated)
    for row in first:
        assert float(row["rho_spent"]) == pytest.approx(0.550973474939339)  # all of (5, 1e-5)
        assert (row["train_rows"], row["test_rows"], row["privacy"]) == ("2000", "4884", "yes")
        assert float(row["workload_error"]) < 1
        assert float(row["peak_rss_mb"]) > 10
    events = [json.loads(line) for line in (tmp_path / "first" / "events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "round" for event in events) == 4
    assert "Promised: (5, 1e-05)" in (tmp_path / "first" / "report.html").read_text()


@pytest.mark.slow
def test_the_gans_run_from_a_config(tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "configs" / "table1_ctgan.yaml"
    tiny = {"dataset": "adult", "max_rows": 500, "clients": 5, "partition": "iid", "epochs": 1, "seeds": 1}
    settings = [word for name, value in tiny.items() for word in ("--set", f"{name}={value}")]
    assert main(["--config", str(config), *settings, "--workers", "0", "--out", str(tmp_path)]) == DONE
    with (tmp_path / "runs.csv").open() as file:
        found = {row["method"]: row for row in csv.DictReader(file)}
    assert set(found) == {"DP-CTGAN", "Fed DP-CTGAN"}
    for row in found.values():
        assert 10 < float(row["nll"]) < 60 and 10 < float(row["nll_kde"]) < 80
        assert (row["privacy"], row["rounds"], row["calibration"]) == ("yes", "", "")
    assert float(found["Fed DP-CTGAN"]["client_sent_ideal_bytes"]) > 0
