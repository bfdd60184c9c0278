"""The SQL of importing a classifier's rows: files into a table of checked rows, and that table
into a data set."""

# ruff: noqa: S608 — columns are numbered; every other text passes through `quoted` or `_named`.

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa

from engine.classifier.definition import (
    BooleanInput,
    CategoryInput,
    Definition,
    Input,
    IntegerInput,
    NumberInput,
)
from engine.errors import InvalidDataset
from training.pipeline.classifier.columns import Column, data_columns
from training.pipeline.csv_lines import CONTENT_LIMIT
from training.pipeline.reading import (
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
from training.pipeline.schema import BOOLEAN, NUMBER

FORMAT: Final = "classifier-1"
REJECTS_IN_ORDER: Final = (
    "SELECT file, line, reason, content FROM rejects ORDER BY file_number, line"
)
_BUFFER_ROWS: Final = 10_000
_LONGEST_EXPECTATION: Final = 120
_TYPES: Final = {pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN"}


class _Checked(NamedTuple):
    """A column in SQL, with `{x}` for its text: the value, whether it is good, and in words what
    it should be. The value is anything where the text is not good."""

    value: str
    good: str
    expected: str
    default: str | None = None


class Stager:
    """Adds one file after another to the tables of a connection.

    `staged` has every row in order, with its `faults` ('' if none), the class that it has and the
    definition has not (`unknown`), and its values as `v0`, `v1`, …; from row `row` of it on, a
    row's line in file `file_number` is `row + shift` of `lines`.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, definition: Definition, work: Path
    ) -> None:
        """`work` is a folder for temporary files."""
        self.connection = connection
        self.columns = data_columns(definition)
        self.ignored: dict[str, None] = {}
        self.rows = 0
        self._optional = definition.training.best_possible
        self._target = len(definition.inputs)
        self._checks = [_check(column, definition) for column in self.columns]
        self._clean = work / "clean.csv"
        self._files = 0
        values = ", ".join(
            f"v{at} {_TYPES.get(column.type, 'VARCHAR')}" for at, column in enumerate(self.columns)
        )
        connection.execute(
            f"CREATE TABLE staged (row BIGINT, faults VARCHAR, reason VARCHAR, content VARCHAR, "
            f"unknown VARCHAR, {values})"
        )
        connection.execute("CREATE TABLE files (file_number INTEGER, file VARCHAR)")
        connection.execute("CREATE TABLE lines (file_number INTEGER, row BIGINT, shift BIGINT)")
        connection.execute(
            "CREATE TABLE rejects (file_number INTEGER, file VARCHAR, line BIGINT, faults VARCHAR, "
            "reason VARCHAR, content VARCHAR)"
        )

    def add(self, path: Path, progress: Callable[[float], None]) -> None:
        """Read one file; `progress` takes the share of it that was read.

        Raises InvalidDataset for a file that can't be read or lacks columns.
        """
        raw = open_raw(self.connection, path, progress)
        self._check_header(path, raw.header)
        rows = self._read(raw, path)
        query = self._checked(rows.query, raw.header)
        with failures_refused(f"{path.name}: reading it failed"):
            inserted = self.connection.execute(f"INSERT INTO staged {query}").fetchone()
        if inserted != (rows.total,):
            raise InvalidDataset(
                f"{path.name}: {rows.total:,} rows were found and {inserted} read."
            )
        shifted = [(self._files, self.rows + row, shift - self.rows) for row, shift in rows.lines]
        self._append("lines", ("file_number", "row", "shift"), shifted)
        self.connection.execute("INSERT INTO files VALUES (?, ?)", [self._files, path.name])
        self.rows += rows.total
        self._files += 1
        self._clean.unlink(missing_ok=True)

    def collect_rejects(self) -> None:
        """Move faulty rows to `rejects`."""
        self.connection.execute(
            """
            INSERT INTO rejects
            SELECT here.file_number, files.file, staged.row + here.shift, faults, reason, content
            FROM staged ASOF JOIN lines AS here ON staged.row >= here.row
            JOIN files ON files.file_number = here.file_number WHERE faults <> ''
            """
        )
        self.connection.execute("DELETE FROM staged WHERE faults <> ''")

    def count(self, where: str = "true") -> int:
        """The good rows of which this SQL is true."""
        found = self.connection.execute(f"SELECT count(*) FROM staged WHERE {where}").fetchone()
        assert found is not None
        return int(found[0])

    def column(self, name: str) -> str:
        """What a column is called in `staged`."""
        return f"v{[column.name for column in self.columns].index(name)}"

    def write(self, path: Path, columns: Sequence[Column]) -> None:
        """Write the good rows as Parquet, in the order of the files."""
        chosen = ", ".join(f"{self.column(each.name)} AS {_named(each.name)}" for each in columns)
        self.connection.execute(
            f"COPY (SELECT {chosen} FROM staged ORDER BY row) TO {quoted(str(path))} "
            "(FORMAT parquet, COMPRESSION zstd)"
        )

    def _check_header(self, path: Path, header: tuple[str, ...]) -> None:
        known = [column.name for column in self.columns]
        missing = [name for name in known if name not in header and name != self._optional]
        if missing:
            raise InvalidDataset(
                f"{path.name}: columns missing: {', '.join(missing)}. "
                f"Found: {', '.join(map(shown, header))}. Needed: every input and the target, by "
                "the names that the definition has for them."
            )
        self.ignored.update(dict.fromkeys(name for name in header if name not in known))

    def _read(self, raw: RawFile, path: Path) -> Rows:
        buffer: list[tuple[Any, ...]] = []
        names = ("file_number", "file", "line", "faults", "reason", "content")

        def on_fault(line: int, fault: str, details: str, text: str) -> None:
            reason = f"{fault}: {details}" if details else fault
            buffer.append((self._files, path.name, line, fault, reason, text))
            if len(buffer) >= _BUFFER_ROWS:
                self._append("rejects", names, buffer)
                buffer.clear()

        rows = raw.rows(self._clean, on_fault)
        self._append("rejects", names, buffer)
        return rows

    def _checked(self, rows: str, header: tuple[str, ...]) -> str:
        """SQL that yields the columns of `staged` from the rows of a file."""
        sources = {name: f"c{number}" for number, name in enumerate(header)}
        texts, values, faults, reasons = [], [], [], []
        for at, (column, check) in enumerate(zip(self.columns, self._checks, strict=True)):
            optional = column.name == self._optional and column.name not in sources
            texts.append(f"{_text(column, check, sources.get(column.name))} AS x{at}")
            good, value = check.good.format(x=f"x{at}"), check.value.format(x=f"x{at}")
            values.append(f"CASE WHEN {good} THEN {value} END AS v{at}")
            missing = "NULL" if optional else quoted(f"{column.name}: missing")
            bad = quoted(f"{column.name}: not {check.expected}")
            faults.append(
                f"CASE WHEN x{at} IS NULL THEN {missing} "
                f"WHEN NOT coalesce({good}, false) THEN {bad} END AS f{at}"
            )
            reasons.append(f"f{at} || coalesce(', found \"' || left(x{at}, 40) || '\"', '')")
        numbered = range(len(self.columns))
        content = " || ',' || ".join(f"coalesce({name}, '')" for name in sources.values())
        return (
            f"SELECT {self.rows} + n, concat_ws('; ', {', '.join(f'f{at}' for at in numbered)}), "
            f"concat_ws('; ', {', '.join(reasons)}), "
            f"CASE WHEN concat_ws('', {', '.join(f'f{at}' for at in numbered)}) <> '' "
            f"THEN left({content}, {CONTENT_LIMIT}) END, "
            f"CASE WHEN f{self._target} IS NOT NULL THEN left(x{self._target}, 200) END, "
            f"{', '.join(f'v{at}' for at in numbered)} "
            f"FROM (SELECT *, {', '.join(values)}, {', '.join(faults)} "
            f"FROM (SELECT *, {', '.join(texts)} FROM ({rows})))"
        )

    def _append(self, table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        arrays = [pa.array(values) for values in zip(*rows, strict=True)]
        self.connection.register("appended", pa.table(arrays, names=list(columns)))
        self.connection.execute(f"INSERT INTO {table} SELECT * FROM appended")
        self.connection.unregister("appended")


def fingerprint(
    connection: duckdb.DuckDBPyConnection, path: Path, columns: Iterable[Column]
) -> str:
    """SHA-256 (hex) of the content of a data set, in its order.

    Each row is hashed with its number, so the order counts, and the hashes are added up, so they
    can be computed in any order.
    """
    names = [_named(column.name) for column in columns]
    parts = ", ".join(f"CAST({name} AS VARCHAR)" for name in names)
    row = connection.execute(
        f"""
        SELECT count(*), sum(md5_number_lower(line)), sum(md5_number_upper(line))
        FROM (SELECT concat_ws(chr(31), {ROW_NUMBER}, {parts}) AS line
              FROM {parquet_at(path, WITH_ROW_NUMBER)})
        """
    ).fetchone()
    return hashlib.sha256(f"{FORMAT} {', '.join(names)} {row}".encode()).hexdigest()


def _text(column: Column, check: _Checked, source: str | None) -> str:
    """SQL for what a file says of a column: its default, or NULL, where it says nothing."""
    if source is None:
        return "CAST(NULL AS VARCHAR)"
    blank = f"trim({source}) = ''"
    if isinstance(column.input, NumberInput | BooleanInput):
        # pandas writes a missing number so.
        blank += f" OR lower(trim({source})) = 'nan'"
    default = "NULL" if check.default is None else quoted(check.default)
    return f"CASE WHEN {source} IS NULL OR {blank} THEN {default} ELSE {source} END"


def _check(column: Column, definition: Definition) -> _Checked:
    if column.input is not None:
        return _input(column.input)
    if column.name == definition.target:
        labels = definition.labels
        return _Checked("{x}", _among(labels), f"one of the {len(labels)} classes")
    number = NumberInput(minimum=0, maximum=1)
    return _input(number)


def _input(each: Input) -> _Checked:
    default = None if each.default is None else str(each.default)
    expected = _short(each.expected)
    if isinstance(each, CategoryInput):
        return _Checked("{x}", _among(each.values), expected, default)
    if isinstance(each, BooleanInput):
        return _Checked(BOOLEAN.value, BOOLEAN.good, expected, default)
    good = f"{NUMBER} BETWEEN {each.minimum!r} AND {each.maximum!r}"
    if isinstance(each, IntegerInput):
        value = f"CAST({NUMBER} AS BIGINT)"
        return _Checked(value, f"{good} AND {NUMBER} = floor({NUMBER})", expected, default)
    return _Checked(NUMBER, good, expected, default)


def _among(values: Iterable[str]) -> str:
    """SQL, to be formatted, that the text is one of these."""
    listed = ", ".join(quoted(value) for value in values)
    return "{x} IN (" + listed.replace("{", "{{").replace("}", "}}") + ")"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_EXPECTATION else f"{text[: _LONGEST_EXPECTATION - 1]}…"


def _named(name: str) -> str:
    return f'"{name}"'
