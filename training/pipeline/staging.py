"""The SQL of an import: files into a table of checked rows, and that table into a data set."""

# ruff: noqa: S608 — table and column names are ours; every other text passes through `quoted`.

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from engine.errors import InvalidDataset
from training.pipeline.mapping import FileMapping
from training.pipeline.reading import (
    FORMAT_KEY,
    ROW_NUMBER,
    WITH_ROW_NUMBER,
    RawFile,
    Rows,
    failures_refused,
    open_raw,
    parquet_at,
    quoted,
    shown,
)
from training.pipeline.schema import LABEL_KNOWN_AT, Column
from training.pipeline.values import checked_rows, taken_for_false

REPEATED = "transaction_id: repeated"
FORMAT = "1"
ROW_GROUP = 122_880
"""DuckDB's own."""

REJECTS_IN_ORDER = "SELECT file, line, reason, content FROM rejects ORDER BY file_number, line"
COMMONEST_FALSE = """
    SELECT target, value, sum(count)::BIGINT AS rows FROM taken_for_false GROUP BY target, value
    QUALIFY row_number() OVER (PARTITION BY target ORDER BY rows DESC, value) <= ?
    ORDER BY target, rows DESC, value
"""
_BUFFER_ROWS = 10_000


def create_tables(connection: duckdb.DuckDBPyConnection, columns: Iterable[Column]) -> None:
    """`staged`: every row, in order, with its `faults` ('' if none); `lines`: where rows are.

    From row `row` of `staged` on, a row's line in file `file_number` is `row + shift`.
    `taken_for_false`: see `values.taken_for_false`, for each file.
    """
    typed = ", ".join(f"{column.name} {column.kind.type}" for column in columns)
    connection.execute(
        "CREATE TABLE staged (row BIGINT, faults VARCHAR, reason VARCHAR, content VARCHAR, "
        f"{typed})"
    )
    connection.execute("CREATE TABLE taken_for_false (target VARCHAR, value VARCHAR, count BIGINT)")
    connection.execute("CREATE TABLE files (file_number INTEGER, file VARCHAR)")
    connection.execute("CREATE TABLE lines (file_number INTEGER, row BIGINT, shift BIGINT)")
    connection.execute(
        "CREATE TABLE rejects (file_number INTEGER, file VARCHAR, line BIGINT, faults VARCHAR, "
        "reason VARCHAR, content VARCHAR)"
    )


class Stager:
    """Adds one file after another to the tables."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        mapping: FileMapping,
        work: Path,
        *,
        skip: bool,
    ) -> None:
        """`work` is a folder for temporary files; with `skip`, unknown columns are left out."""
        self.ignored: dict[str, None] = {}
        self.rows = 0
        self._connection = connection
        self._mapping = mapping
        self._clean = work / "clean.csv"
        self._skip = skip
        self._files = 0

    def add(self, path: Path, progress: Callable[[float], None]) -> None:
        """Read one file; `progress` takes the share of it that was read.

        Raises InvalidDataset for a file that can't be read, lacks a column, or has an unknown one
        unless those are skipped.
        """
        raw = open_raw(self._connection, path, progress)
        self._check_columns(path, raw.header)
        rows = self._read(raw, path)
        self._insert(raw.header, rows, path)
        shifted = [(self._files, self.rows + row, shift - self.rows) for row, shift in rows.lines]
        self._append("lines", ("file_number", "row", "shift"), shifted)
        self._connection.execute("INSERT INTO files VALUES (?, ?)", [self._files, path.name])
        self.rows += rows.total
        self._files += 1
        self._clean.unlink(missing_ok=True)

    def _check_columns(self, path: Path, header: tuple[str, ...]) -> None:
        mapping = self._mapping
        missing = [name for name in mapping.required if name not in header]
        known = {*mapping.wanted, *mapping.ignored}
        unknown = [name for name in header if name not in known]
        found = f"Found: {_listed(header)}. Mapping {mapping.name} reads: {_listed(mapping.wanted)}"
        if missing:
            raise InvalidDataset(f"{path.name}: columns missing: {_listed(missing)}. {found}.")
        if unknown and not self._skip:
            raise InvalidDataset(
                f"{path.name}: unknown columns: {_listed(unknown)}. {found}. "
                "To leave them out: --on-bad-rows skip"
            )
        self.ignored.update(dict.fromkeys(unknown))

    def _read(self, raw: RawFile, path: Path) -> Rows:
        buffer: list[tuple[Any, ...]] = []

        def on_fault(line: int, fault: str, details: str, text: str) -> None:
            reason = f"{fault}: {details}" if details else fault
            buffer.append((self._files, path.name, line, fault, reason, text))
            if len(buffer) >= _BUFFER_ROWS:
                self._append_rejects(buffer)

        rows = raw.rows(self._clean, on_fault)
        self._append_rejects(buffer)
        return rows

    def _insert(self, header: tuple[str, ...], rows: Rows, path: Path) -> None:
        query = checked_rows(self._mapping, rows.query, header, self.rows)
        with failures_refused(f"{path.name}: reading it failed"):
            row = self._connection.execute(f"INSERT INTO staged {query}").fetchone()
        assert row is not None
        if row[0] != rows.total:
            raise InvalidDataset(
                f"{path.name}: {rows.total:,} rows were found and {row[0]:,} read."
            )
        if (counts := taken_for_false(self._mapping, rows.query, header)) is not None:
            self._connection.execute(f"INSERT INTO taken_for_false {counts}")

    def _append_rejects(self, buffer: list[tuple[Any, ...]]) -> None:
        columns = ("file_number", "file", "line", "faults", "reason", "content")
        self._append("rejects", columns, buffer)
        buffer.clear()

    def _append(self, table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        arrays = [pa.array(values) for values in zip(*rows, strict=True)]
        self._connection.register("appended", pa.table(arrays, names=list(columns)))
        self._connection.execute(f"INSERT INTO {table} SELECT * FROM appended")
        self._connection.unregister("appended")


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(shown, columns))


def collect_rejects(connection: duckdb.DuckDBPyConnection) -> None:
    """Move faulty rows, and those whose transaction id an earlier row has, to `rejects`."""
    connection.execute(
        "CREATE TABLE repeated AS SELECT transaction_id, min(row) AS first FROM staged "
        "WHERE faults = '' GROUP BY transaction_id HAVING count(*) > 1"
    )
    connection.execute(
        f"""
        CREATE TABLE left_out AS
        SELECT row, faults, reason, content, NULL::BIGINT AS first FROM staged WHERE faults <> ''
        UNION ALL
        SELECT row, {quoted(REPEATED)}, NULL,
               concat_ws(',', transaction_id, created_at, amount / 10000,
                         source_wallet_id, destination_wallet_id), first
        FROM staged JOIN repeated USING (transaction_id) WHERE faults = '' AND row > first
        """
    )
    connection.execute(
        f"""
        INSERT INTO rejects
        SELECT here.file_number, files.file, left_out.row + here.shift, faults,
               coalesce(reason, {quoted(REPEATED)} || ', first in ' || earlier_file.file ||
                                ', line ' || (left_out.first + there.shift)),
               content
        FROM left_out
        ASOF JOIN lines AS here ON left_out.row >= here.row
        JOIN files ON files.file_number = here.file_number
        ASOF LEFT JOIN lines AS there ON left_out.first >= there.row
        LEFT JOIN files AS earlier_file ON earlier_file.file_number = there.file_number
        """
    )
    connection.execute("DELETE FROM staged WHERE row IN (SELECT row FROM left_out)")


def held_columns(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[Column]
) -> tuple[Column, ...]:
    """The columns that the data set of `staged` has: `label_known_at` only when a row knows it."""
    if LABEL_KNOWN_AT not in columns:
        return tuple(columns)
    found = connection.execute(f"SELECT count({LABEL_KNOWN_AT.name}) FROM staged").fetchone()
    return tuple(column for column in columns if column != LABEL_KNOWN_AT or found != (0,))


def write_sorted(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    columns: Sequence[Column],
    *,
    metadata: Mapping[str, str] | None = None,
    row_group: int = ROW_GROUP,
) -> None:
    """Write `staged` as Parquet, by time and then in the order of the files.

    Args:
        metadata: more of the file, by name.
        row_group: how many rows are read together.
    """
    told = {FORMAT_KEY: FORMAT, **(metadata or {})}
    pairs = ", ".join(f"{name}: {quoted(value)}" for name, value in told.items())
    connection.execute(
        f"COPY (SELECT {_names(columns)} FROM staged ORDER BY created_at, row) "
        f"TO {quoted(str(path))} "
        f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {row_group}, KV_METADATA {{{pairs}}})"
    )


def fingerprint(
    connection: duckdb.DuckDBPyConnection, path: Path, columns: Sequence[Column]
) -> str:
    """SHA-256 (hex) of the content of a data set, in its order.

    Each row is hashed with its number, so the order counts, and the hashes are added up, so they
    can be computed in any order.
    """
    parts = ", ".join(f"coalesce(CAST({column.name} AS VARCHAR), chr(30))" for column in columns)
    row = connection.execute(
        f"""
        SELECT count(*), sum(md5_number_lower(line)), sum(md5_number_upper(line))
        FROM (SELECT concat_ws(chr(31), {ROW_NUMBER}, {parts}) AS line
              FROM {parquet_at(path, WITH_ROW_NUMBER)})
        """
    ).fetchone()
    return hashlib.sha256(f"{FORMAT} {_names(columns)} {row}".encode()).hexdigest()


def _names(columns: Iterable[Column]) -> str:
    return ", ".join(column.name for column in columns)


class Description(NamedTuple):
    """Facts about a data set; times without zone, in UTC."""

    rows: int
    frauds: int
    first_at: datetime
    last_at: datetime
    columns: tuple[str, ...]


def describe(
    connection: duckdb.DuckDBPyConnection, path: Path, columns: Sequence[Column]
) -> Description:
    """Read the facts from the file that was written."""
    filled = ", ".join(f"count({column.name})" for column in columns)
    row = connection.execute(
        f"SELECT count(*), count(*) FILTER (is_fraud), min(created_at), max(created_at), {filled} "
        f"FROM {parquet_at(path)}"
    ).fetchone()
    assert row is not None
    held = tuple(c.name for c, count in zip(columns, row[4:], strict=True) if count)
    return Description(row[0], row[1], row[2], row[3], held)
