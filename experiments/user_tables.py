"""Ten unlike tables through ``marginal-sdg describe``, ``synthesize`` and ``evaluate``, as a new user would type them.

    python experiments/user_tables.py [--only NAME ...] [--out experiments/results/user_tables]

Tables come with scikit-learn or with this package, or are made here. Every command is a process of its own, whose CPU
seconds and peak memory are measured. Drafts are used unreviewed, which no release should do. Writes
``user_tables.csv`` after every table, and ``user_tables.md``. Exit code 1 where a command failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from provenance import signed_table

from marginal_sdg.datasets import load_dataset
from marginal_sdg.domain import Domain
from marginal_sdg.draft import draft_domain
from marginal_sdg.evaluation import evaluate
from marginal_sdg.table_files import read_frame, read_table

HEAD = """Ten tables through the command line: epsilon 1, delta 1e-5, `--seed 0`, all else at its defaults, which are
ten rounds of equal noise; and with `--rounds adaptive`. Domains are unreviewed drafts. Errors: mean L1 distance of
normalised marginals (0 to 2; at most 300 of a size). CPU seconds of each command, with the start of Python and its
libraries, which is most of it on small tables; peak resident memory of the largest command. Small tables get large
errors: that is what epsilon 1 buys.

"""
EPSILON = "1"
PROGRAM = """
import atexit, pathlib
atexit.register(lambda: pathlib.Path("peak").write_text(pathlib.Path("/proc/self/status").read_text()))
from marginal_sdg.cli import run
run()
"""


def from_sklearn(name: str) -> pd.DataFrame:
    """A table that is installed with scikit-learn."""
    from sklearn import datasets

    return pd.DataFrame(getattr(datasets, f"load_{name}")(as_frame=True).frame)


def shop(rows: int) -> pd.DataFrame:
    """Orders: identifiers, times, gaps, booleans, prices with a long tail, and a category with rare labels."""
    rng = np.random.default_rng(1)
    placed = pd.Timestamp("2022-01-01") + pd.to_timedelta(rng.integers(0, 63_000_000, rows), unit="s")
    price = rng.gamma(1.5, 40, rows).round(2)
    days = 1 + rng.poisson(3, rows)
    return pd.DataFrame(
        {
            "order": [f"N-{number:07d}" for number in rng.permutation(rows)],
            "placed": placed,
            "delivered": (placed.normalize() + pd.to_timedelta(days, unit="D")).where(rng.random(rows) > 0.07),
            "country": rng.choice([f"country {k}" for k in range(30)], rows, p=_zipf(30)),
            "items": 1 + rng.poisson(price / 60),
            "price": price,
            "gift": rng.random(rows) < 0.1,
            "rating": np.where(rng.random(rows) < 0.4, np.nan, np.clip(5 - days // 2 + rng.integers(0, 2, rows), 1, 5)),
        }
    )


def clinic(rows: int, columns: int) -> pd.DataFrame:
    """Many columns that follow a few hidden causes; a quarter with missing values."""
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(rows, 4))
    made: dict[str, Any] = {}
    for j in range(columns):
        x = hidden[:, j % 4] + rng.normal(size=rows)
        if j % 3 == 0:
            made[f"test {j}"] = np.where(x > 0.5, "positive", np.where(x > 0, "unclear", "negative"))
        elif j % 3 == 1:
            made[f"value {j}"] = (100 + 15 * x).round(1)
        else:
            made[f"flag {j}"] = x > 1
        if j % 4 == 1:
            name = list(made)[-1]
            made[name] = pd.Series(made[name]).where(rng.random(rows) > 0.1)
    return pd.DataFrame(made)


def two_columns(rows: int) -> pd.DataFrame:
    """A date and an answer."""
    rng = np.random.default_rng(3)
    day = rng.integers(0, 365, rows)
    answer = np.where(rng.random(rows) < 0.2 + day / 600, "yes", "no")
    return pd.DataFrame({"day": pd.Timestamp("2024-01-01") + pd.to_timedelta(day, unit="D"), "answer": answer})


def register(rows: int) -> pd.DataFrame:
    """Fifteen columns of a population register."""
    rng = np.random.default_rng(4)
    age = rng.integers(0, 100, rows)
    wealth = rng.normal(age / 25, 1)
    made: dict[str, Any] = {
        "born": (pd.Timestamp("2024-12-31") - pd.to_timedelta(age * 365 + rng.integers(0, 365, rows), unit="D")),
        "age": age,
        "income": np.where(age < 16, np.nan, np.exp(9 + wealth / 2).round(0)),
        "married": rng.random(rows) < np.clip((age - 18) / 60, 0, 0.7),
        "wealth": wealth.round(3),
    }
    for j, labels in enumerate((3, 5, 8, 12, 20, 40)):
        mixed = np.where(rng.random(rows) < 0.4, age / 100, rng.random(rows))
        made[f"code {j}"] = np.array([f"c{k}" for k in range(labels)])[(mixed * labels).astype(int)]
    for j in range(4):
        made[f"count {j}"] = rng.poisson(1 + age / (20 * (j + 1)))
    return pd.DataFrame(made)


def _zipf(labels: int) -> Any:
    weights = 1 / np.arange(1, labels + 1)
    return weights / weights.sum()


TABLES: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "iris": (lambda: from_sklearn("iris"), ".csv"),
    "wine": (lambda: from_sklearn("wine"), ".csv"),
    "breast cancer (WDBC)": (lambda: from_sklearn("breast_cancer"), ".parquet"),
    "digits": (lambda: from_sklearn("digits"), ".csv"),
    "adult": (lambda: load_dataset("adult").frame, ".csv"),
    "magic": (lambda: load_dataset("magic").frame, ".parquet"),
    "two columns": (lambda: two_columns(100), ".csv"),
    "shop": (lambda: shop(50_000), ".csv"),
    "clinic": (lambda: clinic(20_000, 80), ".csv"),
    "register": (lambda: register(1_000_000), ".csv"),
}


WAYS: dict[str, list[str]] = {"ten rounds": [], "adaptive": ["--rounds", "adaptive"]}


def command(folder: Path, *words: str) -> tuple[float, float]:
    """Run one command: its CPU seconds and peak memory, MB. Raises where it fails."""
    program = [sys.executable, "-c", PROGRAM, *words]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(program, cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words[0]}: exit code {process.returncode}: {(folder / 'log').read_text().strip()}")
    peak = (folder / "peak").read_text().split("VmHWM:")[1].split()[0]  # the usage's own begins with the parent's
    return usage.ru_utime + usage.ru_stime, int(peak) / 1024


def tried(name: str, make: Callable[[], pd.DataFrame], ending: str) -> dict[str, Any]:
    """One row of the result."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = f"table{ending}"
        frame = make()
        rows, columns, gaps = len(frame), len(frame.columns), int(frame.isna().any().sum())
        (frame.to_csv if ending == ".csv" else frame.to_parquet)(folder / table, index=False)
        del frame
        describe, *memories = command(folder, "describe", table)
        left_out = draft_domain(read_frame(folder / table)).left_out
        drops = [word for column in left_out for word in ("--drop", column)]
        terms = ["--domain", "domain.yaml", *drops]
        domain = Domain.load(folder / "domain.yaml")
        real = read_table(folder / table, domain, left_out)
        row: dict[str, Any] = {
            "table": name,
            "rows": rows,
            "columns": columns,
            "with gaps": gaps,
            "left out": len(left_out),
        }
        row["describe CPU s"] = round(describe, 1)
        for way, options in WAYS.items():
            made = f"synthetic{ending}"
            outputs = ["--out", made, "--report", "r.html"]
            fit, memory = command(
                folder, "synthesize", table, *terms, *options, "--epsilon", EPSILON, "--seed", "0", *outputs
            )
            judged, another = command(folder, "evaluate", table, made, *terms)
            memories += [memory, another]
            found = evaluate(real, read_table(folder / made, domain))
            for ways in (1, 2, 3):
                row[f"{way}: {ways}-way"] = round(found.mean(ways), 3) if ways in found.errors else ""
            row[f"{way}: synthesize CPU s"] = round(fit, 1)
    return row | {"evaluate CPU s": round(judged, 1), "peak MB": round(max(memories))}


def main() -> int:
    """Try all tables; a failed one is a row too."""
    parser = argparse.ArgumentParser(description="Ten tables through the command line.")
    parser.add_argument("--out", type=Path, default=Path("results/user_tables"))
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES), metavar="NAME")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    failed = 0
    for name in options.only:
        try:
            rows.append(tried(name, *TABLES[name]))
        except RuntimeError as error:
            failed = 1
            print(f"FAILED {name}: {error}", file=sys.stderr)
            continue
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(options.out / "user_tables.csv", index=False)
    text = signed_table(HEAD, rows, "python experiments/user_tables.py", "pandas", "pyarrow", "scikit-learn")
    (options.out / "user_tables.md").write_text(text, encoding="utf-8")
    return failed


if __name__ == "__main__":
    sys.exit(main())
