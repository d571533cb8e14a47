"""Data sets by name: a checked table, its domain, and what the papers do with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marginal_sdg.datasets.files import (
    cache_folder,
    sha256,
    shipped_checksum,
    shipped_folder,
    user_folder,
    write_atomically,
)
from marginal_sdg.datasets.split import sample_rows
from marginal_sdg.domain import Domain, nearest
from marginal_sdg.encoding import Table, encode
from marginal_sdg.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SHIPPED = ("adult", "magic", "diabetes_pima", "breast_cancer", "adult32")
"""Data sets that come with the package."""
DATASETS = (*SHIPPED, "census", "covtype", "credit", "intrusion", "marketing", "compas_mpcsdg")
"""Names that ``load_dataset`` knows."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A benchmark table in its users' terms.

    Parameters
    ----------
    frame: raw values, with exactly the columns of the domain.
    domain: public declaration of the columns; codes them as the papers do.
    target: the column to predict.
    licence, source: under which terms, and whose data it is.
    sample: (fraction, random state) of the rows that the papers use; None for all.
    """

    name: str
    frame: pd.DataFrame
    domain: Domain
    target: str
    licence: str
    source: str
    sample: tuple[float, int] | None

    def table(self) -> Table:
        """The rows that the papers use, in codes."""
        table = encode(self.frame, self.domain)
        return table if self.sample is None else table.take(sample_rows(len(table), *self.sample))


def load_dataset(name: str) -> Dataset:
    """A data set from the package, ``$MARGINAL_SDG_DATA``, the cache or the internet, whichever has it first.

    Raises
    ------
    DataError: the name is unknown, the data cannot be had, or are not what is expected.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}{nearest(name, DATASETS)}; known: {', '.join(DATASETS)}")
    facts = facts_of(name)
    frame, place = _read(facts.get("table", name), facts)
    edition = _check(frame, facts, place)
    domain = Domain.load(shipped_folder() / "domains" / f"{name}.yaml")
    frame = frame[list(domain.names)].reset_index(drop=True)
    if "relabel" in facts:
        frame[facts["target"]] = frame[facts["target"]].astype(str).map(facts["relabel"])
    sample = edition.get("sample")
    return Dataset(
        name=name,
        frame=frame,
        domain=domain,
        target=facts["target"],
        licence=facts["licence"],
        source=facts["source"],
        sample=(sample[0], sample[1]) if sample else None,
    )


def facts_of(name: str) -> dict[str, Any]:
    """What is recorded of a data set: columns, target, licence, source, and rows of its known editions."""
    import yaml

    facts: dict[str, Any] = yaml.safe_load((shipped_folder() / "datasets.yaml").read_text(encoding="utf-8"))[name]
    return facts


def place_of(name: str) -> str:
    """Where ``load_dataset`` would find a data set."""
    file = f"{facts_of(name).get('table', name)}.parquet"
    folder = user_folder()
    if (shipped_folder() / file).is_file():
        return "comes with the package"
    if folder is not None and (folder / file).is_file():
        return "$MARGINAL_SDG_DATA"
    return "cache" if (cache_folder() / "datasets" / file).is_file() else "to be fetched"


def _read(name: str, facts: dict[str, Any]) -> tuple[pd.DataFrame, str]:
    """The raw table of that name, and where it came from (for error messages)."""
    file = f"{name}.parquet"
    shipped = shipped_folder() / file
    if shipped.is_file():
        return _read_parquet(shipped, [shipped_checksum(file)]), str(shipped)
    folder = user_folder()
    if folder is not None and (folder / file).is_file():
        digests = [digest for edition in facts["editions"] for digest in edition.get("sha256", [])]
        return _read_parquet(folder / file, digests), str(folder / file)
    cached = cache_folder() / "datasets" / file
    if cached.is_file():
        return _read_parquet(cached), str(cached)
    return _download(name, facts, cached), "the download"


def _read_parquet(path: Path, digests: list[str] | None = None) -> pd.DataFrame:
    import pandas as pd

    if digests is not None and sha256(path) not in digests:
        raise DataError(f"{path}: the sha256 is not the recorded one; replace the file by an unchanged copy")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable parquet file ({type(error).__name__}); replace it") from None


def _download(name: str, facts: dict[str, Any], cached: Path) -> pd.DataFrame:
    """Fetch with scikit-learn and keep the table in the cache, once it has been checked."""
    reason = "scikit-learn does not offer it"
    if "download" in facts:
        from marginal_sdg.datasets.download import fetch

        try:
            frame = fetch(facts["download"], facts["columns"], facts.get("drop", []))
        except OSError as error:  # urllib's errors are OSErrors
            reason = f"it failed: {type(error).__name__}"
        else:
            _check(frame, facts, "the download")
            write_atomically(cached, lambda file: frame.to_parquet(file, index=False))
            return frame
    raise DataError(
        f"data set {name!r} does not come with the package: put {name}.parquet into the folder that "
        f"$MARGINAL_SDG_DATA names, or into {cached.parent}, or allow its download ({reason})"
    )


def _check(frame: pd.DataFrame, facts: dict[str, Any], place: str) -> dict[str, Any]:
    """Compare a raw table with what is known of it; returns the edition that it is."""
    needed = [column for column in facts["columns"] if column not in facts.get("drop", [])]
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise DataError(f"{place}: lacks column {missing[0]!r}")
    extra = [column for column in frame.columns if column not in facts["columns"]]
    if extra:
        raise DataError(f"{place}: has a column {extra[0]!r} that the data set does not have")
    editions: list[dict[str, Any]] = facts["editions"]
    edition = next((known for known in editions if known["rows"] == len(frame)), None)
    if edition is None:
        rows = " or ".join(str(known["rows"]) for known in editions)
        raise DataError(f"{place}: has {len(frame)} rows, expected {rows}")
    balance = {str(label): int(n) for label, n in frame[facts["target"]].value_counts().items() if n}
    if balance != edition["balance"]:
        raise DataError(f"{place}: the class balance of {facts['target']!r} is not that of the data set")
    return edition
