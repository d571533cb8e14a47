"""Tables that stay in their files: larger than memory, read a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import pyarrow.parquet

from marginal_sdg.backends.tally import Tally
from marginal_sdg.domain import Clique, Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import DataError
from marginal_sdg.table_files import FORMATS, check_format, read_chunks

_LARGE = 2**31  # bytes of codes, or of text


class StoredTable:
    """Records in CSV or Parquet files, which :class:`AIM` and :class:`MWEM` count in one pass without keeping them.

    Parameters
    ----------
    files : path, or list of paths
        A folder stands for the files in it, in the order of their names.
    domain : Domain
        The declared columns.
    drop : sequence of str
        Columns of the files to leave out.

    Raises ``DataError`` where there is no file, or one of another format. What else is wrong with the files is found
    while they are read, which is before any budget is spent.
    """

    def __init__(
        self, files: str | PathLike[str] | Sequence[str | PathLike[str]], domain: Domain, drop: Sequence[str] = ()
    ) -> None:
        given = [files] if isinstance(files, str | PathLike) else list(files)
        self.files = tuple(file for path in given for file in _files(Path(path)))
        if not self.files:
            raise DataError("files: need at least one table file, got an empty list")
        self.domain = domain
        self._drop = tuple(drop)

    def chunks(self) -> Iterator[Table]:
        """The records of all files, some at a time."""
        for file in self.files:
            yield from read_chunks(file, self.domain, self._drop)

    def count(self, cliques: Sequence[Clique]) -> Tally:
        """The exact, private marginals of some cliques, in one pass."""
        return Tally.of(self.chunks(), self.domain, cliques)


def is_large(path: Path, columns: int) -> bool:
    """Whether a file is better counted in one pass than held in memory: from 2 GiB of codes, or of a CSV file."""
    try:
        if path.suffix.lower() == ".parquet":
            return 4 * columns * int(pyarrow.parquet.read_metadata(path).num_rows) >= _LARGE
        return path.stat().st_size >= _LARGE
    except (OSError, pyarrow.ArrowInvalid):
        return False  # whoever reads it says what is wrong


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        check_format(path)
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in FORMATS)
    if not found:
        raise DataError(f"{path}: the folder has no file that ends in {' or '.join(FORMATS)}")
    return found
