"""The SQL of an import: files into a table of checked rows, and that table into a data set."""

# ruff: noqa: S608 — table and column names are ours; every other text passes through `quoted`.

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from engine.errors import InvalidDataset
from training.pipeline.csv_lines import CONTENT_LIMIT, CsvFile, LineMap
from training.pipeline.presets import Preset, Source
from training.pipeline.schema import COLUMNS, LATEST, NUMBER, Column, Kind

REPEATED = "transaction_id: repeated"
FORMAT_KEY = "sentinelle_dataset"
FORMAT = "1"
ROW_NUMBER = "file_row_number"
_WITH_ROW_NUMBER = f", {ROW_NUMBER} = true"

REJECTS_IN_ORDER = "SELECT file, line, reason, content FROM rejects ORDER BY file_number, line"
_STAGED = ", ".join(f"{column.name} {column.kind.type}" for column in COLUMNS)
_NAMES = ", ".join(column.name for column in COLUMNS)
_BUFFER_ROWS = 10_000


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


def parquet_at(path: Path, options: str = "") -> str:
    """SQL that reads the one Parquet file `path`, and nothing but its own columns.

    DuckDB would take `w*.parquet` for a pattern and a folder `country=FR` for a column.
    """
    return f"read_parquet({_one_file(path)}, hive_partitioning = false{options})"


def _one_file(path: Path) -> str:
    return quoted(re.sub(r"([*?\[])", r"[\1]", str(path.absolute())))


def create_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """`staged`: every row, in order, with its `faults` ('' if none); `lines`: where rows are.

    From row `row` of `staged` on, a row's line in file `file_number` is `row + shift`.
    """
    connection.execute(
        f"CREATE TABLE staged (row BIGINT, faults VARCHAR, reason VARCHAR, content VARCHAR, "
        f"{_STAGED})"
    )
    connection.execute("CREATE TABLE files (file_number INTEGER, file VARCHAR)")
    connection.execute("CREATE TABLE lines (file_number INTEGER, row BIGINT, shift BIGINT)")
    connection.execute(
        "CREATE TABLE rejects (file_number INTEGER, file VARCHAR, line BIGINT, faults VARCHAR, "
        "reason VARCHAR, content VARCHAR)"
    )


class _Raw(NamedTuple):
    """A file as a relation of texts: `n` from 1, then `c0`, `c1`, … as named in `header`."""

    query: str
    header: tuple[str, ...]
    lines: list[LineMap]


class Stager:
    """Adds one file after another to the tables."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, preset: Preset, work: Path, *, skip: bool
    ) -> None:
        """`work` is a folder for temporary files; with `skip`, unknown columns are left out."""
        self.ignored: dict[str, None] = {}
        self.rows = 0
        self._connection = connection
        self._preset = preset
        self._clean = work / "clean.csv"
        self._skip = skip
        self._files = 0

    def add(self, path: Path, progress: Callable[[float], None]) -> None:
        """Read one file; `progress` takes the share of it that was read.

        Raises InvalidDataset for a file that can't be read, lacks a column, or has an unknown one
        unless those are skipped.
        """
        with failures_refused(f"{path.name} can't be read"), path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        raw = self._parquet(path) if parquet else self._csv(path, progress)
        rows = self._insert(raw, path)
        shifted = [(self._files, self.rows + row, shift - self.rows) for row, shift in raw.lines]
        self._append("lines", ("file_number", "row", "shift"), shifted)
        self._connection.execute("INSERT INTO files VALUES (?, ?)", [self._files, path.name])
        self.rows += rows
        self._files += 1
        self._clean.unlink(missing_ok=True)

    def _csv(self, path: Path, progress: Callable[[float], None]) -> _Raw:
        file = CsvFile(path, progress)
        self._check_columns(path, file.header)
        buffer: list[tuple[Any, ...]] = []

        def on_fault(line: int, fault: str, details: str, text: str) -> None:
            reason = f"{fault}: {details}" if details else fault
            buffer.append((self._files, path.name, line, fault, reason, text))
            if len(buffer) >= _BUFFER_ROWS:
                self._append_rejects(buffer)

        scan = file.clean(self._clean, on_fault)
        self._append_rejects(buffer)
        types = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(file.header)))
        query = (
            f"SELECT row_number() OVER () AS n, * FROM read_csv({_one_file(self._clean)}, "
            f"hive_partitioning = false, "
            f"columns = {{{types}}}, auto_detect = false, header = false, delim = ',', "
            f"quote = '\"', escape = '\"', new_line = '\\n', max_line_size = 8388608)"
        )
        self._expected_rows = scan.rows
        return _Raw(query, file.header, scan.lines)

    def _parquet(self, path: Path) -> _Raw:
        name = _one_file(path)
        with failures_refused(f"{path.name}: not a readable Parquet file"):
            described = self._connection.execute(f"DESCRIBE FROM {parquet_at(path)}").fetchall()
            keys = self._connection.execute(
                f"SELECT decode(key) FROM parquet_kv_metadata({name})"
            ).fetchall()
            counted = self._connection.execute(
                f"SELECT num_rows FROM parquet_file_metadata({name})"
            ).fetchone()
        if (FORMAT_KEY,) in keys:
            raise InvalidDataset(
                f"{path.name} is an imported data set already (its amounts are in "
                "ten-thousandths); import the file that it came from."
            )
        header = tuple(row[0] for row in described)
        reserved = [column for column in header if column.lower() == ROW_NUMBER]
        if reserved:
            raise InvalidDataset(
                f"{path.name}: a column may not be called {reserved[0]}, which DuckDB keeps for "
                "itself; rename it or leave it out."
            )
        self._check_columns(path, header)
        casts = ", ".join(
            f"CAST({_identifier(column)} AS VARCHAR) AS c{number}"
            for number, column in enumerate(header)
        )
        assert counted is not None
        self._expected_rows = counted[0]
        query = f"SELECT {ROW_NUMBER} + 1 AS n, {casts} FROM {parquet_at(path, _WITH_ROW_NUMBER)}"
        return _Raw(query, header, [LineMap(1, 0)])

    def _check_columns(self, path: Path, header: tuple[str, ...]) -> None:
        preset = self._preset
        twice = sorted({name for name in header if header.count(name) > 1})
        missing = [name for name in preset.required if name not in header]
        known = {*preset.wanted, *preset.ignored}
        unknown = [name for name in header if name not in known]
        found = (
            f"Found: {', '.join(header)}. Preset {preset.name} reads: {', '.join(preset.wanted)}"
        )
        if twice:
            raise InvalidDataset(f"{path.name}: column twice: {', '.join(twice)}.")
        if missing:
            raise InvalidDataset(f"{path.name}: columns missing: {', '.join(missing)}. {found}.")
        if unknown and not self._skip:
            raise InvalidDataset(
                f"{path.name}: unknown columns: {', '.join(unknown)}. {found}. "
                "To leave them out: --on-bad-rows skip"
            )
        self.ignored.update(dict.fromkeys(unknown))

    def _insert(self, raw: _Raw, path: Path) -> int:
        names = {name: f"c{number}" for number, name in enumerate(raw.header)}
        query = _checked_rows(self._preset, raw.query, names, self.rows)
        with failures_refused(f"{path.name}: reading it failed"):
            row = self._connection.execute(f"INSERT INTO staged {query}").fetchone()
        assert row is not None
        if row[0] != self._expected_rows:
            raise InvalidDataset(
                f"{path.name}: {self._expected_rows:,} rows were found and {row[0]:,} read."
            )
        return int(row[0])

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


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _checked_rows(preset: Preset, raw: str, names: dict[str, str], before: int) -> str:
    """SQL for the rows of `staged`: texts, then values and faults, then what to say of them."""
    texts, values, faults, reasons = [], [], [], []
    for column in COLUMNS:
        source = preset.columns.get(column.name)
        text = _text(source, names, before)
        kind = _kind(column, source)
        x, original, fault = (f"{part}_{column.name}" for part in ("text", "raw", "fault"))
        translated = _translated(source, text)
        texts.append(f"{text} AS {original}, {translated} AS {x}")
        values.append(f"{kind.value.format(x=x)} AS {column.name}")
        values.append(f"{_fault(column, kind, x, original)} AS {fault}")
        faults.append(fault)
        reasons.append(f"{fault} || coalesce(', found \"' || left({original}, 40) || '\"', '')")
    content = " || ',' || ".join(f"coalesce({name}, '')" for name in names.values())
    return (
        f"SELECT {before} + n, faults, "
        f"CASE WHEN faults <> '' THEN concat_ws('; ', {', '.join(reasons)}) END, "
        f"CASE WHEN faults <> '' THEN left({content}, {CONTENT_LIMIT}) END, {_NAMES} "
        f"FROM (SELECT *, concat_ws('; ', {', '.join(faults)}) AS faults "
        f"FROM (SELECT *, {', '.join(values)} "
        f"FROM (SELECT *, {', '.join(texts)} FROM ({raw}))))"
    )


def _text(source: Source | None, names: dict[str, str], before: int) -> str:
    """SQL for the text that a file gives for a column, NULL when it is blank or absent."""
    if source is None or (source.column is not None and source.column not in names):
        return "CAST(NULL AS VARCHAR)"
    if source.constant is not None:
        return quoted(source.constant)
    if source.row_number is not None:
        return f"{quoted(source.row_number)} || ({before} + n)"
    name = names[source.column or ""]
    return f"CASE WHEN trim({name}) <> '' THEN {name} END"


def _translated(source: Source | None, text: str) -> str:
    if source is None or source.values is None:
        return text
    cases = " ".join(f"WHEN {quoted(a)} THEN {quoted(b)}" for a, b in source.values.items())
    return f"CASE {text} {cases} END"


def _kind(column: Column, source: Source | None) -> Kind:
    """The column's kind, or that of a number of hours or seconds since a start."""
    if source is None or source.unit is None or source.start is None:
        return column.kind
    start = source.start.astimezone(UTC).replace(tzinfo=None)
    longest = min(timedelta(days=100 * 366), LATEST - source.start - timedelta(microseconds=1))
    last = source.first + longest // timedelta(microseconds=source.unit_us)
    elapsed = f"CAST(round(({NUMBER} - {source.first}) * {source.unit_us}) AS BIGINT)"
    good = f"{NUMBER} >= {source.first} AND {NUMBER} <= {last}"
    return Kind(
        column.kind.type,
        f"CASE WHEN {good} THEN TIMESTAMP '{start}' + to_microseconds({elapsed}) END",
        good,
        f"a number of {source.unit} from {source.first} to {last}",
    )


def _fault(column: Column, kind: Kind, x: str, original: str) -> str:
    """SQL for the fault of one value, or NULL."""
    missing = quoted(f"{column.name}: missing") if column.required else "NULL"
    unknown = quoted(f"{column.name}: a value that the preset does not know")
    bad = quoted(f"{column.name}: not {kind.expected}")
    return (
        f"CASE WHEN {original} IS NULL THEN {missing} WHEN {x} IS NULL THEN {unknown} "
        f"WHEN NOT coalesce({kind.good.format(x=x)}, false) THEN {bad} END"
    )


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


def write_sorted(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Write `staged` as Parquet, by time and then in the order of the files."""
    connection.execute(
        f"COPY (SELECT {_NAMES} FROM staged ORDER BY created_at, row) TO {quoted(str(path))} "
        f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{FORMAT_KEY}: {quoted(FORMAT)}}})"
    )


def fingerprint(connection: duckdb.DuckDBPyConnection, path: Path) -> str:
    """SHA-256 (hex) of the content of a data set, in its order.

    Each row is hashed with its number, so the order counts, and the hashes are added up, so they
    can be computed in any order.
    """
    parts = ", ".join(f"coalesce(CAST({column.name} AS VARCHAR), chr(30))" for column in COLUMNS)
    row = connection.execute(
        f"""
        SELECT count(*), sum(md5_number_lower(line)), sum(md5_number_upper(line))
        FROM (SELECT concat_ws(chr(31), {ROW_NUMBER}, {parts}) AS line
              FROM {parquet_at(path, _WITH_ROW_NUMBER)})
        """
    ).fetchone()
    return hashlib.sha256(f"{FORMAT} {_NAMES} {row}".encode()).hexdigest()


class Description(NamedTuple):
    """Facts about a data set; times without zone, in UTC."""

    rows: int
    frauds: int
    first_at: datetime
    last_at: datetime
    columns: tuple[str, ...]


def describe(connection: duckdb.DuckDBPyConnection, path: Path) -> Description:
    """Read the facts from the file that was written."""
    filled = ", ".join(f"count({column.name})" for column in COLUMNS)
    row = connection.execute(
        f"SELECT count(*), count(*) FILTER (is_fraud), min(created_at), max(created_at), {filled} "
        f"FROM {parquet_at(path)}"
    ).fetchone()
    assert row is not None
    columns = tuple(c.name for c, count in zip(COLUMNS, row[4:], strict=True) if count)
    return Description(row[0], row[1], row[2], row[3], columns)
