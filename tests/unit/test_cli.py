"""The command line: what it writes, what it refuses in one line, and that nothing is left half done."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from marginal_sdg.cli import main
from marginal_sdg.cli.mechanisms import MECHANISMS
from marginal_sdg.domain import Domain
from marginal_sdg.encoding import encode
from marginal_sdg.graphical.model import GraphicalModel

DOMAIN = """
age: {lower: 18, upper: 98, bins: 16, integer: true}
pay: {lower: 0, upper: 100, bins: 10, missing: category, outside: clip}
job: {categories: [cook, nurse, other], other: other}
smoker: {categories: [false, true]}
since: {lower: 2000-01-01, upper: 2019-12-31, bins: 20}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table of mixed types, its domain, and a table that is synthetic enough."""
    rng = np.random.default_rng(0)
    rows = 400
    age = rng.integers(18, 99, rows)
    frame = pd.DataFrame(
        {
            "id": [f"P{i:04d}" for i in range(rows)],
            "age": age,
            "pay": np.where(rng.random(rows) < 0.1, np.nan, age + rng.normal(0, 5, rows)),
            "job": rng.choice(["cook", "nurse", "smith", "miller"], rows),
            "smoker": rng.random(rows) < age / 100,
            "since": pd.Timestamp("2000-01-01") + pd.to_timedelta(rng.integers(0, 7000, rows), unit="D"),
        }
    )
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.to_parquet(tmp_path / "table.parquet", index=False)
    frame.drop(columns="id").to_csv(tmp_path / "like.csv", index=False)
    (tmp_path / "d.yaml").write_text(DOMAIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def synthesize(*more: str, table: str = "table.csv") -> int:
    return main(["synthesize", table, "--domain", "d.yaml", "--drop", "id", "--epsilon", "5", "--out", "s.csv", *more])


def test_describe_drafts_a_domain_that_codes_the_table_and_names_what_it_read_off(folder: Path, capsys) -> None:
    assert main(["describe", "table.csv"]) == 0
    out = capsys.readouterr().out
    assert "its bounds are its smallest and largest value" in out and "--drop id" in out
    draft = Domain.load("domain.yaml")
    assert [a.kind for a in draft.attributes] == ["integer", "floating", "string", "boolean", "date"]
    assert Path("domain.yaml").read_text().startswith("# DRAFT")
    assert len(encode(pd.read_parquet("table.parquet").drop(columns="id"), draft)) == 400


def test_a_draft_that_nobody_reviewed_is_called_not_private(folder: Path, capsys) -> None:
    main(["describe", "table.csv"])
    call = ["synthesize", "table.csv", "--domain", "domain.yaml", "--drop", "id", "--epsilon", "1", "--out", "s.csv"]
    assert main([*call, "--report", "r.html"]) == 0
    assert "NOT PRIVATE as it stands" in capsys.readouterr().err
    assert "NOT PRIVATE as it stands" in Path("r.html").read_text()
    text = Path("domain.yaml").read_text()
    Path("domain.yaml").write_text("".join(line for line in text.splitlines(True) if not line.startswith("#")))
    assert main([*call, "--report", "r.html"]) == 0
    assert "NOT PRIVATE" not in Path("r.html").read_text() + capsys.readouterr().err


@pytest.mark.parametrize(("source", "out"), [("table.csv", "s.parquet"), ("table.parquet", "s.csv")])
def test_synthesize_writes_rows_like_the_input_a_report_and_a_model(folder: Path, source: str, out: str) -> None:
    assert synthesize("--out", out, "--report", "r.html", "--model", "m.npz", "--target", "smoker", table=source) == 0
    synthetic = pd.read_parquet(out) if out.endswith("parquet") else pd.read_csv(out, parse_dates=["since"])
    assert list(synthetic.columns) == ["age", "pay", "job", "smoker", "since"]
    assert set(synthetic["job"]) <= {"cook", "nurse", "other"} and synthetic["smoker"].dtype == bool
    assert synthetic["age"].between(18, 98).all() and synthetic["pay"].isna().any()
    assert pd.to_datetime(synthetic["since"]).between("2000-01-01", "2019-12-31").all()
    assert 300 < len(synthetic) < 500
    assert "Promised: (5, 1e-05)" in Path("r.html").read_text()
    assert GraphicalModel.load("m.npz").domain == Domain.load("d.yaml")


def test_a_report_compares_with_the_table_only_when_asked(folder: Path, capsys) -> None:
    """Its errors are those that ``evaluate`` prints for the two files."""
    call = ["--target", "smoker", "--seed", "0"]
    assert synthesize("--report", "r.json", *call) == 0
    assert json.loads(Path("r.json").read_text())["utility"] is None
    assert synthesize("--report", "r.json", "--compare", *call) == 0
    told = json.loads(Path("r.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", "table.csv", "s.csv", "--domain", "d.yaml", "--drop", "id", "--target", "smoker"]) == 0
    out = capsys.readouterr().out
    for errors in told["utility"]["errors"].values():
        assert f"{errors['mean']:.4f}" in out and f"{errors['worst'][0]['error']:.3f}" in out
    for scores in told["utility"]["scores"].values():
        assert f"{scores['auc']:.3f}" in out and f"{scores['accuracy']:.3f}" in out
    command = "marginal-sdg synthesize table.csv --domain d.yaml --epsilon 5.0 --target smoker"
    assert told["recipe"]["command"].startswith(command) and "--drop id" in told["recipe"]["command"]
    assert told["recipe"]["command"].endswith("--report r.json --compare")


def test_a_report_is_about_the_whole_model_whatever_rows_are_written(folder: Path) -> None:
    where = ["--where", "age > 60", "--rows", "7", "--target", "age"]
    assert synthesize("--report", str(folder / "r.md"), "--compare", *where) == 0
    text = Path("r.md").read_text()
    assert "No classifier was compared" in text and "Shares of 7 " not in text
    assert "--report r.md" in text and str(folder) not in text
    assert synthesize("--report", "r.html", "--rows", "0") == 0


def test_every_mechanism_spends_its_budget_and_can_be_planned(folder: Path, capsys) -> None:
    for name in MECHANISMS:
        assert synthesize("--mechanism", name, "--rounds", "2", "--rows", "10") == 0
        assert main(["plan", "d.yaml", "--mechanism", name, "--rounds", "2"]) == 0
        out = capsys.readouterr().out
        charges = 2 * 2 + 1
        assert f"spent epsilon 5 at delta 1e-05 in {charges} charges" in out
        assert f"up to {7 if name == 'aim' else 3} with sigma" in out


def test_a_seed_repeats_an_experiment_and_the_report_says_what_it_is(folder: Path, capsys) -> None:
    for name in ("a.csv", "b.csv"):
        assert synthesize("--seed", "3", "--rows", "50", "--out", name, "--report", "r.html") == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text()
    assert "simulation: the noise comes from a seed" in Path("r.html").read_text()
    assert "simulation" in capsys.readouterr().err


def test_rows_that_satisfy_a_condition_come_from_the_fit_and_from_the_saved_model(folder: Path, capsys) -> None:
    where = ["--where", "age > 60 and job in [cook, nurse]", "--rows", "70"]
    assert synthesize("--model", "m.npz", *where) == 0
    assert main(["sample", "m.npz", "--out", "more.csv", *where]) == 0
    assert "age from 63 to 98: whole bins" in capsys.readouterr().out
    for name in ("s.csv", "more.csv"):
        rows = pd.read_csv(name)
        assert len(rows) == 70 and (rows["age"] > 60).all() and set(rows["job"]) <= {"cook", "nurse"}


def test_bins_adapt_for_a_declared_share_of_the_budget(folder: Path, capsys) -> None:
    bins = ["--adaptive-bins", "age=4", "--adaptive-bins", "pay=3", "--bins-share", "0.1"]
    assert synthesize("--model", "m.npz", "--report", "r.html", *bins) == 0
    domain = GraphicalModel.load("m.npz").domain
    assert domain.shape == (4, 4, 3, 2, 20) and domain["age"].cuts[0] == 18
    assert "bins of age: cuts 1 of 2" in Path("r.html").read_text()
    assert main(["sample", "m.npz", "--where", f"age >= {domain['age'].cuts[2]:g}", "--out", "more.csv"]) == 0
    assert synthesize("--where", "age > 60", *bins) == 2
    assert "where: the bins of 'age' adapt; save the model" in capsys.readouterr().err
    assert main(["plan", "d.yaml", "--rows", "100", *bins]) == 0
    out = capsys.readouterr().out
    assert "0.1 of rho" in out and "age, pay, since: 320 cells" in out


def test_impossible_rows_are_never_drawn(folder: Path, capsys) -> None:
    real = pd.read_csv("table.csv")
    assert ((real["age"] < 28) & real["smoker"]).any()
    rules = ["--impossible", "age < 28 and smoker == true", "--impossible", "job == cook and smoker == false"]
    assert synthesize("--rows", "5000", "--model", "m.npz", *rules) == 0
    assert main(["sample", "m.npz", "--rows", "5000", "--where", "age < 40", "--out", "more.csv"]) == 0
    for name in ("s.csv", "more.csv"):
        rows = pd.read_csv(name)
        assert len(rows) == 5000 and (rows["age"] < 28).any()
        assert not ((rows["age"] < 28) & rows["smoker"]).any()
        assert not ((rows["job"] == "cook") & ~rows["smoker"]).any()
    assert main(["sample", "m.npz", "--where", "age < 28 and smoker == true", "--out", "none.csv"]) == 2
    assert "given: such records are impossible in this model" in capsys.readouterr().err
    ledger = ["--ledger", "l.json", "--total-epsilon", "9"]
    assert synthesize(*rules, *ledger, "--where", "age < 28 and smoker == true") == 2
    assert not Path("l.json").exists()
    assert main(["plan", "d.yaml", *rules]) == 0


def test_public_marginals_are_met_planned_and_told(folder: Path, capsys) -> None:
    Path("jobs.csv").write_text("job;count;standard_error\ncook;50;0\nnurse;50;0\nother;100;0\n")
    assert synthesize("--known", "jobs.csv", "--rows", "4000", "--report", "r.html") == 0
    rows = pd.read_csv("s.csv")
    assert rows["job"].value_counts(normalize=True).to_dict() == pytest.approx(
        {"cook": 0.25, "nurse": 0.25, "other": 0.5}, abs=0.002
    )
    assert "note: public, no charge: the marginal of job (exact)" in capsys.readouterr().err
    assert "public, no charge" in Path("r.html").read_text()
    assert main(["plan", "d.yaml", "--rounds", "2", "--known", "jobs.csv"]) == 0
    assert "up to 6 with sigma" in capsys.readouterr().out


def test_evaluate_names_the_worst_marginals_and_says_that_it_is_private(folder: Path, capsys) -> None:
    assert main(["evaluate", "table.csv", "like.csv", "--domain", "d.yaml", "--drop", "id", "--target", "smoker"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("PRIVATE.")
    assert out.count("0.0000") == 3 and "trained on" in out
    synthesize("--epsilon", "0.01", "--seed", "0")
    capsys.readouterr()
    main(["evaluate", "table.csv", "s.csv", "--domain", "d.yaml", "--drop", "id"])
    assert "0.0000" not in capsys.readouterr().out


def test_plan_spends_nothing_and_says_what_would_be_spent(folder: Path, capsys) -> None:
    assert main(["plan", "d.yaml", "--epsilon", "1", "--rows", "400", "--rounds", "3"]) == 0
    out = capsys.readouterr().out
    assert "rho 0.0305566" in out and "up to 8 with sigma" in out and "about" in out
    assert main(["plan", "table.csv"]) == 0
    assert "private as the table is" in capsys.readouterr().err


def test_a_short_audit_finds_nothing_in_honest_mechanisms(capsys) -> None:
    assert main(["audit", "--runs", "20"]) == 0
    assert capsys.readouterr().out.count("within its claim") == 3


@pytest.mark.slow
def test_audit_flags_the_planted_fault_only(capsys) -> None:
    assert main(["audit", "--epsilon", "5", "--delta", "1e-5", "--runs", "100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("exceeds its claim") for line in map(str.rstrip, lines[2:])] == [False, False, False, True]


def test_the_shipped_data_are_listed_and_verified(capsys) -> None:
    assert main(["data", "list"]) == 0
    assert "diabetes_pima" in capsys.readouterr().out
    assert main(["data", "verify", "diabetes_pima", "breast_cancer"]) == 0
    assert "768 rows, 9 columns, as recorded" in capsys.readouterr().out
    assert main(["data", "fetch", "diabetes_pima"]) == 0


# -- a budget over several runs


def test_a_ledger_file_refuses_the_run_that_would_exceed_the_total(folder: Path, capsys) -> None:
    ledger = ["--ledger", "l.json", "--epsilon", "1"]
    assert synthesize(*ledger, "--total-epsilon", "1.5") == 0
    assert synthesize(*ledger) == 0  # zCDP adds up better than epsilon
    before = Path("l.json").read_bytes()
    Path("s.csv").unlink()
    assert synthesize(*ledger) == 2
    assert "is left for this table; lower epsilon" in capsys.readouterr().err
    assert Path("l.json").read_bytes() == before and not Path("s.csv").exists()
    assert [run["what"] for run in json.loads(before)["runs"]] == ["AIM on table.csv"] * 2


def test_wrong_input_is_found_before_the_ledger_file_is_written(folder: Path) -> None:
    Path("table.csv").write_text(Path("table.csv").read_text().replace("\nP0399,", "\nP0399,x"))
    assert synthesize("--ledger", "l.json", "--total-epsilon", "9") == 2
    assert not Path("l.json").exists()


# -- wrong input: one line, exit code 2

WRONG = [
    (["synthesize", "none.csv"], "none.csv: cannot be read (No such file or directory)"),
    (["synthesize", "table.xlsx"], "table.xlsx: a table file ends in .csv or .parquet"),
    (["synthesize", "empty.csv"], "empty.csv: is empty; it needs a header"),
    (["synthesize", "ragged.csv"], "ragged.csv: a row has more or fewer fields than the header"),
    (["synthesize", "latin.csv"], "latin.csv: is not UTF-8 text; convert it"),
    (["synthesize", "bad.parquet"], "bad.parquet: cannot be read as Parquet"),
    (["synthesize", "twice.csv"], "twice.csv: has column 'age' more than once"),
    (["synthesize", "lacks.csv"], "lacks.csv: the table lacks column 'job', which the domain declares"),
    (["synthesize", "table.csv"], "table.csv: the domain does not declare column 'id'; drop or declare"),
    (["synthesize", "like.csv", "--drop", "ID"], "like.csv: has no column 'ID' to drop"),
    (["synthesize", "words.csv"], "column 'age' holds text that is not a number; correct it"),
    (["synthesize", "outside.csv"], "column 'age' leaves its bounds [18, 98]; widen them, or set outside: clip"),
    (["synthesize", "gaps.csv"], "column 'age' has missing values; fill or drop them, or set missing: category"),
    (["synthesize", "fraction.csv"], "column 'age' is declared integer but holds fractions"),
    (["synthesize", "dates.csv"], "column 'since' holds text that is not a date such as 2020-12-31"),
    (["synthesize", "maybe.csv"], "column 'smoker' holds text that is not true or false"),
    (["synthesize", "like.csv", "--domain", "none.yaml"], "none.yaml: cannot be read (No such file or directory)"),
    (["synthesize", "like.csv", "--domain", "typo.yaml"], "unknown key 'lowr' (did you mean 'lower'?)"),
    (["synthesize", "like.csv", "--domain", "broken.yaml"], "broken.yaml: not valid YAML at line 1"),
    (["synthesize", "like.csv", "--domain", "mixed.yaml"], "must both be numbers, dates or times"),
    (["synthesize", "like.csv", "--domain", "key.yaml"], "'id' has 900,001 codes, as identifiers and free text do"),
    (["synthesize", "like.csv", "--epsilon", "-1"], "epsilon must be a number between 1e-06 and 1e+06, got -1.0"),
    (["synthesize", "like.csv", "--epsilon", "much"], "Invalid value for '--epsilon': 'much' is not a valid float"),
    (["synthesize", "like.csv", "--delta", "2"], "delta must be a number between 1e-100"),
    (["synthesize", "like.csv", "--mechanism", "magic"], "Invalid value for '--mechanism': 'magic' is not"),
    (["synthesize", "like.csv", "--rounds", "-1"], "Invalid value for '--rounds': -1 is not in the range x>=0"),
    (["synthesize", "like.csv", "--workload", "age,jib"], "unknown attribute 'jib' (did you mean 'job'?)"),
    (["synthesize", "like.csv", "--workload", "none.yaml"], "workload: none.yaml cannot be read (FileNotFoundError)"),
    (["synthesize", "like.csv", "--target", "wage"], "unknown attribute 'wage'"),
    (["synthesize", "like.csv", "--known", "none.csv"], "none.csv: cannot be read (No such file or directory)"),
    (["synthesize", "like.csv", "--known", "few.csv"], "known[0] (job): lacks 1 of 3 cells, such as job=other; give"),
    (["synthesize", "like.csv", "--impossible", "age < 40"], "impossible: no record can have age=18..22 any more"),
    (["synthesize", "like.csv", "--impossible", "age < 40 or x"], "impossible[0]: 'or' stands where 'and' should"),
    (["synthesize", "like.csv", "--adaptive-bins", "pay=5"], "bins_share: adaptive bins are paid from the budget; say"),
    (["synthesize", "like.csv", "--adaptive-bins", "pay"], "'pay' is not a column and a number, such as income=16"),
    (["synthesize", "like.csv", "--adaptive-bins", "job=2"], "adaptive_bins: 'job' has categories; only bins of"),
    (["synthesize", "like.csv", "--adaptive-bins", "pay=10"], "'pay' needs a number of bins from 2 to 9, one less"),
    (["synthesize", "like.csv", "--bins-share", "0.1"], "bins_share: pays for adaptive_bins, of which there are none"),
    (["synthesize", "like.csv", "--rows", "-5"], "Invalid value for '--rows': -5 is not in the range x>=0"),
    (["synthesize", "like.csv", "--where", "age >"], "where: a value is missing at the end"),
    (["synthesize", "like.csv", "--where", "age > 98"], "where: no whole bin of 'age' satisfies it"),
    (["synthesize", "like.csv", "--where", "job == smith"], "where: 'smith' is no category of 'job'"),
    (["synthesize", "like.csv", "--out", "like.csv"], "like.csv: is an input of this command"),
    (["synthesize", "like.csv", "--out", "no/s.csv"], "no/s.csv: cannot be written; give the name of a file"),
    (["synthesize", "like.csv", "--out", "s.txt"], "s.txt: a table file ends in .csv or .parquet"),
    (["synthesize", "like.csv", "--ledger", "new.json"], "new.json: does not exist yet; say what all runs may spend"),
    (["synthesize", "like.csv", "--ledger", "bad.json"], "bad.json: cannot be read as a ledger file"),
    (["synthesize", "like.csv", "--total-epsilon", "1"], "--total-epsilon: belongs to --ledger"),
    (["synthesize", "like.csv", "--report", "r.pdf"], "report: 'r.pdf' must end in .html, .md or .json"),
    (["synthesize", "like.csv", "--compare"], "--compare: belongs to --report"),
    (["synthesize", "header.csv", "--report", "r.md", "--compare"], "header.csv: has no rows to compare with"),
    (["sample", "bad.npz", "--out", "s.csv"], "bad.npz: cannot be read as a saved model"),
    (["evaluate", "like.csv", "header.csv", "--domain", "d.yaml"], "both tables need at least one row"),
    (["evaluate", "like.csv", "like.csv", "--domain", "d.yaml", "--target", "age"], "target: 'age' is a number"),
    (["describe", "header.csv"], "a domain cannot be drafted from an empty table"),
    (["describe", "like.csv", "--out", "d.json"], "d.json: save a draft as .yaml"),
    (["data", "verify", "adlut"], "unknown data set 'adlut' (did you mean 'adult'?)"),
    (["syntesize"], "No such command 'syntesize'"),
]


def _spoil(folder: Path) -> None:
    """The wrong files that the cases name."""
    text = (folder / "like.csv").read_text()
    lines = text.splitlines()
    header, first = lines[0], lines[1].split(",")

    def table(name: str, position: int, value: str) -> None:
        row = [value if i == position else field for i, field in enumerate(first)]
        (folder / name).write_text("\n".join([*lines, ",".join(row)]) + "\n")

    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text(header + "\n")
    (folder / "ragged.csv").write_text(text + "1,2\n")
    (folder / "latin.csv").write_bytes(text.replace("cook", "köch").encode("latin1"))
    (folder / "bad.parquet").write_text("no parquet")
    (folder / "twice.csv").write_text(text.replace("pay", "age", 1))
    (folder / "lacks.csv").write_text(text.replace("job", "jb", 1))
    for name, position, value in [
        ("words.csv", 0, "old"),
        ("outside.csv", 0, "7"),
        ("gaps.csv", 0, ""),
        ("fraction.csv", 0, "20.5"),
        ("dates.csv", 4, "yesterday"),
        ("maybe.csv", 3, "maybe"),
    ]:
        table(name, position, value)
    (folder / "few.csv").write_text("job,count\ncook,0.5\nnurse,0.5\n")
    (folder / "typo.yaml").write_text("age: {lowr: 1, upper: 9, bins: 2}")
    (folder / "broken.yaml").write_text("age: {lower: 1")
    (folder / "mixed.yaml").write_text("since: {lower: 2000-01-01, upper: 2019, bins: 2}")
    (folder / "key.yaml").write_text("id: {lower: 0, upper: 900000, integer: true}")
    (folder / "bad.json").write_text('{"format": "marginal_sdg.ledger/1"')
    (folder / "bad.npz").write_text("no model")


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[" ".join(call[:4]) for call, _ in WRONG])
def test_wrong_input_is_named_in_one_line(folder: Path, call: list[str], message: str, capsys) -> None:
    _spoil(folder)
    if call[0] == "synthesize":
        call = ["synthesize", "--domain", "d.yaml", "--epsilon", "1", "--out", "s.csv", *call[1:]]
    assert main(call) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert out == "" and not Path("s.csv").exists()


# -- as a program

PROGRAM = [sys.executable, "-c", "from marginal_sdg.cli import run; run()"]


def test_help_is_quick_because_nothing_heavy_is_loaded() -> None:
    code = "import sys; from marginal_sdg.cli import main; main(['--help']); "
    code += "print({'numpy', 'pandas', 'pyarrow', 'rich'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.endswith("set()\n")


def _interrupted_while(folder: Path, signum: int) -> subprocess.Popen[str]:
    """A run that is stopped when its ledger is written and its fit goes on."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a background shell ignores it
    code += "from marginal_sdg.cli import run; run()"
    call = ["synthesize", "like.csv", "--domain", "d.yaml", "--epsilon", "1", "--out", "s.csv", "--model", "m.npz"]
    call += ["--ledger", "l.json", "--total-epsilon", "1.2", "--rounds", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *call], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (folder / "l.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signum)
    return process


def test_ctrl_c_leaves_no_partial_file_and_the_ledger_written(folder: Path) -> None:
    process = _interrupted_while(folder, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == "interrupted: no file was left half written"
    assert not list(folder.glob("s.csv*")) and not list(folder.glob("m.npz*"))
    assert len(json.loads((folder / "l.json").read_text())["runs"]) == 1


def test_a_killed_run_has_spent_and_the_next_one_is_refused(folder: Path, capsys) -> None:
    process = _interrupted_while(folder, signal.SIGKILL)
    process.communicate(timeout=60)
    again = ["synthesize", "like.csv", "--domain", "d.yaml", "--epsilon", "1", "--out", "s.csv", "--ledger", "l.json"]
    assert main(again) == 2
    assert "is left for this table" in capsys.readouterr().err


def test_two_runs_at_once_cannot_both_take_the_last_of_the_budget(folder: Path) -> None:
    call = [*PROGRAM, "synthesize", "like.csv", "--domain", "d.yaml", "--epsilon", "1", "--rounds", "2"]
    call += ["--ledger", "l.json", "--total-epsilon", "1.2"]
    runs = [subprocess.Popen([*call, "--out", f"s{i}.csv"], cwd=folder, stderr=subprocess.PIPE) for i in range(2)]
    for run in runs:
        run.communicate(timeout=120)
    assert sorted(run.returncode for run in runs) == [0, 2]


def test_a_broken_disk_is_a_failure_not_bad_input(folder: Path, monkeypatch, capsys) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", full)
    assert synthesize() == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not (folder / "s.csv").exists()
