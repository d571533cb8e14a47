"""Tables in CSV and Parquet files: read in chunks into codes, written in chunks, whole or not at all.

A CSV file is UTF-8 with a header; fields are separated by commas, semicolons or tabs, whichever the header has most
of. Its text becomes what the domain declares; the words of ``MISSING`` are missing values where they are no labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from marginal_sdg.datasets.files import write_atomically
from marginal_sdg.encoding import Table, decode, encode
from marginal_sdg.errors import DataError

if TYPE_CHECKING:
    from marginal_sdg.domain import Attribute, Domain

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>", "NaT")
FORMATS = (".csv", ".parquet")

_BLOCK = 1 << 24  # bytes of a CSV file read at once
_ROWS = 1 << 17  # of a chunk
_TYPES = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "floating": pa.float64(),
    "date": pa.date32(),
    "datetime": pa.timestamp("s"),
}
_WANTED = {
    "boolean": "true or false",
    "date": "a date such as 2020-12-31",
    "datetime": "a time such as 2020-12-31 23:59:59, without a time zone",
}
_TRUE, _FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0")


def check_format(path: Path) -> None:
    """DataError for a file name that does not end in one of ``FORMATS``."""
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: a table file ends in {' or '.join(FORMATS)}")


def read_table(path: Path, domain: Domain, drop: Sequence[str] = ()) -> Table:
    """The codes of a whole file; see :func:`read_chunks`."""
    codes = [chunk.codes for chunk in read_chunks(path, domain, drop)]
    return Table(domain, np.concatenate(codes) if codes else np.empty((0, len(domain)), dtype=np.int32))


def read_chunks(path: Path, domain: Domain, drop: Sequence[str] = ()) -> Iterator[Table]:
    """The codes of a file, some records at a time; columns named in ``drop`` are left out.

    Raises
    ------
    DataError: the file cannot be read, or a column does not fit its declaration; the message names no value.
    """
    with _opened(path) as file:
        names = _header(path, file)
        absent = [name for name in drop if name not in names]
        if absent:
            raise DataError(f"{path}: has no column {absent[0]!r} to drop")
        empty = pd.DataFrame({name: [] for name in names if name not in drop})
        if len(set(names)) < len(names):
            raise DataError(f"{path}: has column {next(n for n in names if names.count(n) > 1)!r} more than once")
        try:
            encode(empty, domain)  # only the columns' names matter here
            for frame in _frames(path, file, domain):
                yield encode(frame, domain)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except pa.ArrowInvalid as error:
            raise _unreadable(path, error) from None


def read_frame(path: Path, *, text: bool = False) -> pd.DataFrame:
    """A whole file as it is, without a domain: numbers, booleans and dates in ISO 8601 are recognised in a CSV file.

    ``text``: they are left as text there.
    """
    with _opened(path) as file:
        names = _header(path, file)
        try:
            if _is_parquet(path):
                frame: pd.DataFrame = pyarrow.parquet.read_table(file).to_pandas(date_as_object=False)
                return frame
            frame = pd.read_csv(
                file,
                sep=_delimiter(file),
                low_memory=False,
                keep_default_na=False,
                na_values=list(MISSING),
                dtype=str if text else None,
            )
        except (pa.ArrowInvalid, ValueError) as error:
            raise _unreadable(path, error) from None
    frame.columns = pd.Index(names)
    for name in names if not text else []:
        if frame[name].dtype == object:
            try:
                frame[name] = pd.to_datetime(frame[name], format="ISO8601")
            except (ValueError, TypeError):
                continue
    return frame


def write_table(path: Path, table: Table, rng: np.random.Generator) -> None:
    """Decode and write a table chunk by chunk; the file appears when it is whole."""
    domain = table.domain
    schema = pa.schema([(attribute.name, _TYPES[attribute.kind]) for attribute in domain.attributes])
    starts = range(0, max(len(table), 1), _ROWS)
    frames = (decode(table.take(np.arange(start, min(start + _ROWS, len(table)))), rng) for start in starts)

    def write(file: IO[bytes]) -> None:
        kind = pyarrow.parquet.ParquetWriter if _is_parquet(path) else pyarrow.csv.CSVWriter
        with kind(file, schema) as writer:
            for frame in frames:
                writer.write_table(_to_arrow(frame, schema))

    write_atomically(path, write)


def _to_arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        column = pa.array(frame[field.name], from_pandas=True)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _opened(path: Path) -> IO[bytes]:
    check_format(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _header(path: Path, file: IO[bytes]) -> list[str]:
    """Names of the columns; the file is back at its start."""
    try:
        if _is_parquet(path):
            names = list(pyarrow.parquet.ParquetFile(file).schema_arrow.names)
        else:
            names = list(_csv_reader(file, {}).schema.names)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None
    file.seek(0)
    return names


def _delimiter(file: IO[bytes]) -> str:
    first = file.readline().decode("utf-8", errors="replace")
    file.seek(0)
    return max(",;\t", key=first.count)


def _csv_reader(file: IO[bytes], types: dict[str, pa.DataType]) -> pa.csv.CSVStreamingReader:
    separator = _delimiter(file)
    return pyarrow.csv.open_csv(
        file,
        read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK),
        parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types)),
    )


def _frames(path: Path, file: IO[bytes], domain: Domain) -> Iterator[pd.DataFrame]:
    """Chunks with the domain's columns, typed as declared as far as the file allows."""
    batches: Iterable[pa.RecordBatch]
    if _is_parquet(path):
        batches = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=_ROWS, columns=list(domain.names))
    else:
        batches = _csv_reader(file, dict.fromkeys(domain.names, pa.string()))
    for batch in batches:
        columns = {}
        for attribute in domain.attributes:
            column = batch.column(attribute.name)
            if not _is_parquet(path):
                column = _parsed(column, attribute)
            if pa.types.is_decimal(column.type):
                column = column.cast(pa.float64())
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                column = column.dictionary_encode()
            columns[attribute.name] = column.to_pandas(date_as_object=False)
        yield pd.DataFrame(columns)


def _parsed(text: pa.Array, attribute: Attribute) -> pa.Array:
    """What a declaration makes of the text of a CSV column."""
    labels = set(attribute.categories or ()) if attribute.kind == "string" else set()
    absent = pa.array([word for word in MISSING if word not in labels])
    if attribute.kind != "string":
        text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.is_in(text, absent), pa.scalar(None, pa.string()), text)
    if attribute.kind == "string":
        return text
    try:
        if attribute.kind == "boolean":
            return _booleans(text)
        if attribute.kind in ("date", "datetime"):
            return text.cast(pa.timestamp("us"))
        return text.cast(pa.float64())
    except pa.ArrowInvalid:
        wanted = _WANTED.get(attribute.kind, "a number")
        raise DataError(
            f"column {attribute.name!r} holds text that is not {wanted}; correct it, or change its declaration"
        ) from None


def _booleans(text: pa.Array) -> pa.Array:
    lowered = pc.utf8_lower(text)
    true = pc.is_in(lowered, pa.array(_TRUE))
    known = pc.or_(true, pc.is_in(lowered, pa.array(_FALSE)))
    if not pc.all(pc.or_(known, pc.is_null(text))).as_py():
        raise pa.ArrowInvalid("not a boolean")
    return pc.if_else(pc.is_null(text), pa.scalar(None, pa.bool_()), true)


def _unreadable(path: Path, error: Exception) -> DataError:
    """One line on a broken file; the readers' own messages may quote its rows."""
    text = str(error)
    if "Empty CSV" in text or "No columns" in text:
        return DataError(f"{path}: is empty; it needs a header with the columns' names")
    if "Expected" in text and "columns" in text:
        return DataError(f"{path}: a row has more or fewer fields than the header; quote fields that hold a separator")
    if "UTF8" in text or "utf-8" in text:
        return DataError(f"{path}: is not UTF-8 text; convert it (iconv -f latin1 -t utf-8)")
    kind = "Parquet" if _is_parquet(path) else "CSV"
    return DataError(f"{path}: cannot be read as {kind} ({type(error).__name__}); write it again")
