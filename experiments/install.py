"""Build the wheel and the sdist, and install each into clean environments without extras.

    python experiments/install.py [--out experiments/results/install] [--pythons 3.10 3.11 3.12]

In every environment the README's commands run on a small CSV, and two things are measured: what the installation weighs
(bytes of files, everything that it brought included), and how long imports take. Needs uv and the package index; a
Python that is not installed is left out. Writes ``install.csv`` and ``install.md``.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from provenance import signed_table

from marginal_sdg import Domain, Table, decode

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results" / "install"
README = ROOT / "README.md"
STATEMENTS = {
    "import_s": "import marginal_sdg",
    "import_aim_s": "from marginal_sdg import AIM",
    "import_pandas_s": "import pandas",
}
REPEATS = 5
UV = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")

HEAD = f"""# Clean installations, without extras

Built with `uv build`, installed by file name into an empty environment with the newest versions that the package index
has. `package_mb` is `marginal_sdg` itself, its data included; `total_mb` is all of site-packages; `packages` counts
distributions, and `largest` are its largest folders, in MB. `commands` of the README succeeded, on a made-up table of
500 rows. `import_s` is `import marginal_sdg`, `import_aim_s` is `from marginal_sdg import AIM`, `import_pandas_s` is
`import pandas` alone: CPU seconds, best of {REPEATS} fresh interpreters. Names of the package load on first use.

"""


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command; its output is shown where it fails."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(word) for word in command], cwd=folder, env=clean, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def megabytes(folder: Path) -> float:
    """Bytes of all files below a folder, compiled ones left out, in units of 10^6."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc") / 1e6


def largest(site: Path, count: int = 4) -> str:
    """The largest folders of an environment with their megabytes."""
    sizes = sorted(((megabytes(folder), folder.name) for folder in site.iterdir() if folder.is_dir()), reverse=True)
    return ", ".join(f"{name} {size:.0f}" for size, name in sizes[:count])


def import_seconds(python: Path, statement: str, folder: Path) -> float:
    """Best of several fresh interpreters: CPU seconds of one import, all that it loads included."""
    code = f"from time import process_time as now; start = now(); {statement}; print(now() - start)"
    return min(float(run([python, "-c", code], folder).stdout) for _ in range(REPEATS))


def readme_commands(scripts: Path, folder: Path) -> int:
    """Run the README's commands on a table that its domain describes; how many there were."""
    text = README.read_text(encoding="utf-8")
    declaration, commands = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)[0] for kind in ("yaml", "sh"))
    (folder / "domain.yaml").write_text(declaration, encoding="utf-8")
    domain, rng = Domain.from_yaml(declaration), np.random.default_rng(0)
    table = Table(domain, rng.integers(0, domain.shape, (500, len(domain))).astype(np.int32))
    decode(table, rng).to_csv(folder / "table.csv", index=False)
    lines = commands.replace("\\\n", "").splitlines()
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        run([scripts / program, *words], folder)
    return len(lines)


def installed(archive: Path, python: str) -> dict[str, object] | None:
    """One row: ``archive`` in a clean environment of that Python; None where there is no such Python."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        create = [UV, "venv", "-q", "--no-python-downloads", "--python", python, str(folder / "env")]
        if subprocess.run(create, capture_output=True).returncode:
            return None
        scripts = folder / "env" / "bin"
        run([UV, "pip", "install", "-q", "--python", scripts / "python", archive], folder)
        site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
        row: dict[str, object] = {
            "python": run([scripts / "python", "-V"], folder).stdout.split()[1],
            "from": "wheel" if archive.suffix == ".whl" else "sdist",
            "package_mb": round(megabytes(site / "marginal_sdg"), 1),
            "total_mb": round(megabytes(site)),
            "packages": len(list(site.glob("*.dist-info"))),
            "largest": largest(site),
            "commands": readme_commands(scripts, folder),
        }
        for column, statement in STATEMENTS.items():
            row[column] = round(import_seconds(scripts / "python", statement, folder), 4)
        return row


def sentence() -> str:
    """What the README says, from the committed result."""
    with (RESULTS / "install.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sizes = [int(row["total_mb"]) for row in rows]
    own = max(float(row["package_mb"]) for row in rows)
    slowest = max(float(row["import_s"]) for row in rows)
    return (
        f"Without extras an installation takes {min(sizes)} to {max(sizes)} MB, {own:.0f} of them ours; "
        f"`import marginal_sdg` takes {1000 * slowest:.0f} ms"
    )


def main() -> None:
    """Build, install, measure and write."""
    parser = argparse.ArgumentParser(description="Install the wheel and the sdist into clean environments.")
    parser.add_argument("--out", type=Path, default=Path("results/install"))
    parser.add_argument("--pythons", nargs="+", default=["3.10", "3.11", "3.12"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run([UV, "build", "-q", "--out-dir", name, ROOT], ROOT)
        archives = sorted(path for path in Path(name).iterdir() if path.suffix in (".whl", ".gz"))
        rows = [row for python in options.pythons for archive in archives if (row := installed(archive, python))]
        weights = ", ".join(f"`{path.name}` {path.stat().st_size / 1e6:.2f} MB" for path in archives)
    if not rows:
        sys.exit(f"--pythons: none of {', '.join(options.pythons)} is installed; install one of them")
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "install.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    command = f"python experiments/install.py --pythons {' '.join(options.pythons)} --out experiments/results/install"
    text = signed_table(HEAD + f"Archives: {weights}.\n\n", rows, command)
    (options.out / "install.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
