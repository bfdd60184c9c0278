"""Files as DuckDB sees them: every value of a CSV or Parquet file as the text that it is."""

# ruff: noqa: S608 — column names are ours or pass through `_identifier`; paths through `quoted`.

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import duckdb

from engine.errors import InvalidDataset
from training.pipeline.csv_lines import CsvFile, LineMap, OnFault

FORMAT_KEY = "sentinelle_dataset"
"""Of the Parquet files that an import writes."""
ROW_NUMBER = "file_row_number"
WITH_ROW_NUMBER = f", {ROW_NUMBER} = true"
MEMORY_LIMIT_MB = 2_048


def quoted(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def failures_refused(what: str) -> Iterator[None]:
    """Raise what DuckDB or the disk raise as InvalidDataset: `what`, and why in one line."""
    try:
        yield
    except OSError as error:
        raise InvalidDataset(f"{what}: {error.strerror or error}.") from error
    except duckdb.Error as error:  # what follows the first line is for who wrote the SQL
        raise InvalidDataset(f"{what}: {str(error).partition(chr(10))[0]}") from error


@contextmanager
def connected(
    work: Path, memory_limit_mb: int = MEMORY_LIMIT_MB
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in the folder `work`, with bounded memory: what it can't hold goes there."""
    connection = duckdb.connect(str(work / "staging.duckdb"))
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET memory_limit = '{memory_limit_mb}MiB'")
        connection.execute(f"SET temp_directory = {quoted(str(work / 'spill'))}")
        yield connection
    finally:
        connection.close()


def parquet_at(path: Path, options: str = "") -> str:
    """SQL that reads the one Parquet file `path`, and nothing but its own columns.

    DuckDB would take `w*.parquet` for a pattern and a folder `country=FR` for a column.
    """
    return f"read_parquet({_one_file(path)}, hive_partitioning = false{options})"


class Rows(NamedTuple):
    """The rows of a file: SQL that yields `n` from 1, then `c0`, `c1`, …, texts in the header's
    order; how many it must yield; and on which lines they are."""

    query: str
    total: int
    lines: list[LineMap]


class RawFile(Protocol):
    """A file whose header was read."""

    header: tuple[str, ...]

    def rows(self, clean: Path, on_fault: OnFault) -> Rows:
        """Its rows, read by way of the temporary file `clean`, which is kept as long as they are
        read; each line that is no row goes to `on_fault`."""


def open_raw(
    connection: duckdb.DuckDBPyConnection, path: Path, progress: Callable[[float], None]
) -> RawFile:
    """Open a CSV file, gzipped or not, or a Parquet file; `progress` takes the share read.

    Raises InvalidDataset for a file that can't be read, or has a column twice.
    """
    with failures_refused(f"{path.name} can't be read"), path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    raw: RawFile = _Parquet(connection, path) if parquet else _Csv(path, progress)
    twice = sorted({name for name in raw.header if raw.header.count(name) > 1})
    if twice:
        raise InvalidDataset(f"{path.name}: column twice: {', '.join(map(shown, twice))}.")
    return raw


def shown(column: str) -> str:
    """A column's name for a person, also when it has none."""
    return column or '"" (a column without a name)'


class _Csv:
    def __init__(self, path: Path, progress: Callable[[float], None]) -> None:
        self._file = CsvFile(path, progress)
        self.header = self._file.header

    def rows(self, clean: Path, on_fault: OnFault) -> Rows:
        scan = self._file.clean(clean, on_fault)
        types = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(self.header)))
        query = (
            f"SELECT row_number() OVER () AS n, * FROM read_csv({_one_file(clean)}, "
            f"hive_partitioning = false, "
            f"columns = {{{types}}}, auto_detect = false, header = false, delim = ',', "
            f"quote = '\"', escape = '\"', new_line = '\\n', max_line_size = 8388608)"
        )
        return Rows(query, scan.rows, scan.lines)


class _Parquet:
    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        name = _one_file(path)
        with failures_refused(f"{path.name}: not a readable Parquet file"):
            described = connection.execute(f"DESCRIBE FROM {parquet_at(path)}").fetchall()
            keys = connection.execute(
                f"SELECT decode(key) FROM parquet_kv_metadata({name})"
            ).fetchall()
            counted = connection.execute(
                f"SELECT num_rows FROM parquet_file_metadata({name})"
            ).fetchone()
        if (FORMAT_KEY,) in keys:
            raise InvalidDataset(
                f"{path.name} is an imported data set already (its amounts are in "
                "ten-thousandths); import the file that it came from."
            )
        self.header = tuple(row[0] for row in described)
        reserved = [column for column in self.header if column.lower() == ROW_NUMBER]
        if reserved:
            raise InvalidDataset(
                f"{path.name}: a column may not be called {reserved[0]}, which DuckDB keeps for "
                "itself; rename it or leave it out."
            )
        assert counted is not None
        self._path = path
        self._count: int = counted[0]

    def rows(self, clean: Path, on_fault: OnFault) -> Rows:  # noqa: ARG002
        casts = ", ".join(
            f"CAST({_identifier(column)} AS VARCHAR) AS c{number}"
            for number, column in enumerate(self.header)
        )
        source = parquet_at(self._path, WITH_ROW_NUMBER)
        query = f"SELECT {ROW_NUMBER} + 1 AS n, {casts} FROM {source}"
        return Rows(query, self._count, [LineMap(1, 0)])


def file_size(path: Path) -> int:
    """Bytes of a file that could be read; InvalidDataset when there is none or it is empty."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InvalidDataset(f"{path}: {error.strerror}.") from error
    if path.is_dir():
        raise InvalidDataset(f"{path} is a folder; name the files in it.")
    if not size:
        raise InvalidDataset(f"{path.name} is empty.")
    return size


def _one_file(path: Path) -> str:
    return quoted(re.sub(r"([*?\[])", r"[\1]", str(path.absolute())))


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
