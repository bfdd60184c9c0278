"""Reading labels from files: CSV, gzipped or not, and Parquet; each row a label or a fault."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from engine.errors import InvalidLabels
from engine.transaction import struct_faults
from scoring.labels import LabelReport

COLUMNS = ("transaction_id", "label", "is_fraud", "known_at", "source", "note")

_VERDICTS = dict.fromkeys(("fraud", "true", "t", "yes", "1", "1.0"), "fraud") | dict.fromkeys(
    ("legitimate", "false", "f", "no", "0", "0.0"), "legitimate"
)
_BATCH_ROWS = 10_000


class LabelRow(NamedTuple):
    """One row of a file: its label, or its fault. `line` counts from 1, for Parquet the row."""

    file: str
    line: int
    report: LabelReport | None
    fault: str = ""


class LabelFile:
    """A file of labels, which can be read more than once.

    `ignored` names the columns that mean nothing here. How far the file is read is `position()` of
    `size`, in bytes or rows.
    """

    def __init__(self, path: Path, *, source: str | None = None) -> None:
        """`source` is of rows that name none. Raises InvalidLabels when the file can't be read or
        lacks a column."""
        self.name = path.name
        self._source = source
        with self._failures_refused():
            with path.open("rb") as file:
                is_parquet = file.read(4) == b"PAR1"
            self._table: _Table = _Parquet(path) if is_parquet else _Csv(path)
        header = self._table.header
        verdicts = [name for name in ("label", "is_fraud") if name in header]
        missing = [name for name in ("transaction_id", "known_at") if name not in header]
        missing += [] if verdicts else ["label or is_fraud"]
        if missing:
            found = ", ".join(header)
            raise InvalidLabels(
                f"{self.name}: columns missing: {', '.join(missing)}. Found: {found}."
            )
        if len(verdicts) > 1 or len(set(header)) < len(header):
            raise InvalidLabels(f"{self.name}: a column twice, or both label and is_fraud.")
        self._verdict = verdicts[0]
        self.ignored = [name for name in header if name not in COLUMNS]
        self.size = self._table.size

    def position(self) -> int:
        """How much of `size` has been read."""
        return self._table.position

    def rows(self) -> Iterator[LabelRow]:
        """The rows in order; raises InvalidLabels where the file stops being readable."""
        with self._failures_refused():
            for line, values in self._table.rows():
                yield LabelRow(self.name, line, *self._report(values))

    def _report(self, values: Mapping[str, Any] | None) -> tuple[LabelReport | None, str]:
        if values is None:
            return None, "wrong number of fields"
        raw = {name: values.get(name) for name in COLUMNS}
        raw = {name: value for name, value in raw.items() if not _is_blank(value)}
        if self._source is not None:
            raw.setdefault("source", self._source)
        if "known_at" in raw:
            raw["known_at"] = _moment(raw["known_at"])
        verdict = raw.pop(self._verdict, None)
        raw["label"] = _VERDICTS.get(str(verdict).strip().lower())
        try:
            return msgspec.convert(raw, LabelReport), ""
        except msgspec.ValidationError:
            faults = {fault.field: fault.message for fault in struct_faults(LabelReport, raw, "")}
        if faults.pop("label", None):
            faults[self._verdict] = "expected fraud or legitimate, true or false, 1 or 0"
        return None, "; ".join(f"{name}: {message}" for name, message in faults.items())

    @contextmanager
    def _failures_refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # also of a damaged gzip file
            raise InvalidLabels(f"{self.name}: {error.strerror or error}.") from error
        except (EOFError, ValueError, zlib.error) as error:  # pyarrow's are ValueErrors
            raise InvalidLabels(f"{self.name} can't be read: {error}.") from error


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _moment(value: object) -> object:
    """A time that was written, or a date as its beginning; what is neither stays as it is."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value.strip())
        except ValueError:
            return value
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time())
    return value


class _Table(Protocol):
    header: list[str]
    size: int
    position: int

    def rows(self) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        """Each row's line and its values by column; None when it has another number of them."""


class _Csv:
    """UTF-8 with a header. What is not UTF-8 becomes lone surrogates, which no field accepts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size
        self.position = 0
        with self._opened() as (_, reader):
            self.header = [name.strip() for name in self._record(reader, 1) or []]

    def rows(self) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        with self._opened() as (raw, reader):
            next(reader)
            line = reader.line_num + 1
            while (values := self._record(reader, line)) is not None:
                self.position = raw.tell()
                if values:
                    fits = len(values) == len(self.header)
                    yield line, dict(zip(self.header, values, strict=True)) if fits else None
                line = reader.line_num + 1

    @staticmethod
    def _record(reader: Iterator[list[str]], line: int) -> list[str] | None:
        """The next record, which begins on `line`; None at the end."""
        try:
            return next(reader, None)
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[tuple[io.BufferedReader, Any]]:
        with self._path.open("rb") as raw:
            is_gzip = raw.peek(2)[:2] == b"\x1f\x8b"
            binary: Any = gzip.GzipFile(fileobj=raw) if is_gzip else raw
            text = io.TextIOWrapper(binary, "utf-8-sig", "surrogateescape", newline="")
            yield raw, csv.reader(text, strict=True)


class _Parquet:
    def __init__(self, path: Path) -> None:
        from pyarrow import parquet  # heavy, and not for the web process

        self._file = parquet.ParquetFile(path)
        self.header = list(self._file.schema_arrow.names)
        self.size = self._file.metadata.num_rows
        self.position = 0

    def rows(self) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        import pyarrow as pa

        columns = [name for name in self.header if name in COLUMNS]
        self.position = 0
        for batch in self._file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            table = pa.table(batch)
            for at, kind in enumerate(table.schema.types):
                if pa.types.is_timestamp(kind):  # a datetime holds no nanoseconds
                    in_us = table.column(at).cast(pa.timestamp("us", kind.tz), safe=False)
                    table = table.set_column(at, table.schema.names[at], in_us)
            for values in table.to_pylist():
                self.position += 1
                yield self.position, values
