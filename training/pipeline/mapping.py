"""What a mapping file says: how the columns of a file become canonical columns.

A mapping is TOML. Reading one finds every mistake in it, each with its key and what was expected;
what only DuckDB can judge (a constant, a format, a time zone) is asked of DuckDB.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from engine.errors import FieldError, InvalidDataset
from training.pipeline.durations import format_duration, parse_duration
from training.pipeline.schema import (
    ATTRIBUTE_KINDS,
    ATTRIBUTE_NAME,
    ATTRIBUTE_PREFIX,
    COLUMNS,
    EARLIEST,
    LABEL_KNOWN_AT,
    LATEST,
    MOST_ATTRIBUTES,
    Column,
    attribute_column,
)

UNITS = {
    "days": 86_400_000_000,
    "hours": 3_600_000_000,
    "minutes": 60_000_000,
    "seconds": 1_000_000,
}
"""Microseconds in a step of time."""
EPOCHS = {"seconds": 1_000_000, "milliseconds": 1_000}
"""Microseconds in what a time since 1970 is counted in."""
OTHERS = ("fault", "keep")
OF_LABEL = ("is_fraud", "label_known_at", "fraud_kind")
"""Columns that tell the label; what they read, no other column may."""


@dataclass(frozen=True)
class Source:
    """Where the values of one column come from: columns of the file, a constant, or a row number.

    The texts of `columns` are joined by `separator`. Then a blank becomes `missing`; `values`
    renames, `positive` and `negative` become true and false; `prefix` is put before. For a time,
    `format` (strptime), `epoch`, or `unit` with `first` and `start` say how it is written, and
    `time_zone` where, if the text does not say.
    """

    columns: tuple[str, ...] = ()
    separator: str = " "
    constant: str | None = None
    row_number: str | None = None
    optional: bool = False
    missing: str | None = None
    values: Mapping[str, str] | None = None
    others: str = "fault"
    default: str | None = None
    positive: tuple[str, ...] | None = None
    negative: tuple[str, ...] | None = None
    prefix: str = ""
    format: str | None = None
    time_zone: str | None = None
    epoch: str | None = None
    unit: str | None = None
    first: int = 0
    start: datetime | None = None


@dataclass(frozen=True)
class FileMapping:
    """A mapping from a file's columns to those of a data set.

    `columns`: the canonical ones, then `label_known_at` if it is mapped, then the attributes.
    `sources`: by the name of such a column. `label_delay`: as it is written, `7d`.
    `text`: the TOML that it was read from.
    """

    name: str
    text: str
    description: str
    columns: tuple[Column, ...]
    sources: Mapping[str, Source]
    ignored: tuple[str, ...] = field(default=())
    label_delay: str | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """The kind of each attribute, by its name."""
        kinds = {kind: name for name, kind in ATTRIBUTE_KINDS.items()}
        found = (column for column in self.columns if column.name.startswith(ATTRIBUTE_PREFIX))
        return {c.name.removeprefix(ATTRIBUTE_PREFIX): kinds[c.kind] for c in found}

    @property
    def wanted(self) -> tuple[str, ...]:
        """The file's columns that the mapping reads."""
        return tuple(dict.fromkeys(name for s in self.sources.values() for name in s.columns))

    @property
    def required(self) -> tuple[str, ...]:
        """Those that a file must have."""
        needed = (source for source in self.sources.values() if not source.optional)
        return tuple(dict.fromkeys(name for source in needed for name in source.columns))

    def unlabelled(self) -> "FileMapping":
        """The same mapping for a file whose labels do not matter: no row is a fraud, and columns
        that tell the label are left out, if there are any."""
        told = [name for each in OF_LABEL for name in self.sources.get(each, Source()).columns]
        sources = {name: each for name, each in self.sources.items() if name not in OF_LABEL}
        return replace(
            self,
            columns=tuple(column for column in self.columns if column != LABEL_KNOWN_AT),
            sources={**sources, "is_fraud": Source(constant="false")},
            ignored=(*self.ignored, *told),
            label_delay=None,
        )

    def starting(self, start: datetime) -> "FileMapping":
        """The same mapping, with its counted times beginning at `start` (aware).

        Raises InvalidDataset when no time is counted, or outside the years 1970 to 9998.
        """
        counted = [name for name, source in self.sources.items() if source.unit is not None]
        if not counted:
            raise InvalidDataset(f"Mapping {self.name} reads times from the file: it has no start.")
        if not EARLIEST <= start < LATEST:
            raise InvalidDataset(f"start is {start}; it must be in the years 1970 to 9998.")
        begun = {n: replace(self.sources[n], start=start.astimezone(UTC)) for n in counted}
        return replace(self, sources={**self.sources, **begun})


def read_mapping(path: Path) -> FileMapping:
    """Read a mapping file; InvalidDataset names everything that is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidDataset(f"{path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidDataset(f"{path.name} is not UTF-8 text ({error}).") from error
    return parse_mapping(path.name, text)


def parse_mapping(name: str, text: str) -> FileMapping:
    """The mapping that `text` describes; `name` is what errors call it.

    Raises:
        InvalidDataset: the text is not TOML, or `errors` names every mistake by its key.
    """
    try:
        written = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidDataset(f"Mapping {name} is not TOML: {error}.") from error
    reader = _Reader()
    mapping = reader.mapping(name, text, written)
    if reader.mistakes:
        listed = "\n".join(f"  {key}: {message}" for key, message in reader.mistakes)
        count = len(reader.mistakes)
        mistakes = "1 mistake" if count == 1 else f"{count} mistakes"
        raise InvalidDataset(f"Mapping {name} has {mistakes}:\n{listed}", reader.mistakes)
    return mapping


def parse_column(column: Column, text: str) -> FileMapping:
    """The mapping of one canonical column alone, from the TOML of its source.

    Raises InvalidDataset when the text is no such source.
    """
    reader = _Reader()
    written = tomllib.loads(f"source = {text}")["source"]
    source = reader.source(f"columns.{column.name}", column, written)
    if reader.mistakes:
        key, message = reader.mistakes[0]
        raise InvalidDataset(f"{key}: {message}.", reader.mistakes)
    return FileMapping(column.name, text, "", (column,), {column.name: source})


class _Key(NamedTuple):
    """A key of a source: the type of its value, and that in words."""

    type: Any
    expected: str


_Scalar = str | int | float | bool
_SCALAR = "a text, a number, true or false"
_KEYS = {
    "column": _Key(str | list[str], "the name of a column of the file, or a list of names"),
    "separator": _Key(str, "a text, to put between the columns that are joined"),
    "constant": _Key(_Scalar, _SCALAR),
    "row_number": _Key(str, "a text, to put before the number"),
    "optional": _Key(bool, "true or false"),
    "missing": _Key(_Scalar, f"{_SCALAR}: what a blank becomes"),
    "values": _Key(dict[str, _Scalar], 'a table such as { old = "new" }'),
    "others": _Key(str, " or ".join(OTHERS)),
    "default": _Key(_Scalar, f"{_SCALAR}: what values not listed become"),
    "positive": _Key(list[_Scalar], 'a list of values such as ["fraud", "1"]'),
    "negative": _Key(list[_Scalar], 'a list of values such as ["legitimate", "0"]'),
    "prefix": _Key(str, "a text"),
    "format": _Key(str, "a strptime format such as %d/%m/%Y %H:%M:%S"),
    "time_zone": _Key(str, "the name of a time zone such as Europe/Paris"),
    "epoch": _Key(str, " or ".join(EPOCHS)),
    "unit": _Key(str, " or ".join(UNITS)),
    "first": _Key(int, "a whole number"),
    "start": _Key(Any, "a date and time such as 2026-01-01T00:00:00Z"),
    "kind": _Key(str, " or ".join(ATTRIBUTE_KINDS)),
}
_CHOICES = {"others": OTHERS, "epoch": tuple(EPOCHS), "unit": tuple(UNITS)}
_ORIGINS = ("column", "constant", "row_number")
_OF_ANY = ("column", "separator", "optional")
_OF_VALUES = ("missing", "values", "others", "default")
_OF_TIMES = ("format", "time_zone", "epoch", "unit", "first", "start")
_ALLOWED = {
    "text": (*_OF_ANY, *_OF_VALUES, "prefix"),
    "choice": (*_OF_ANY, *_OF_VALUES),
    "number": (*_OF_ANY, *_OF_VALUES),
    "boolean": (*_OF_ANY, *_OF_VALUES, "positive", "negative"),
    "time": (*_OF_ANY, *_OF_TIMES),
}
_NEEDS = {
    "others": "values",
    "default": "values",
    "negative": "positive",
    "first": "unit",
    "start": "unit",
    "unit": "start",
}
_EXCLUDES = (
    ("default", "others"),
    ("positive", "values"),
    ("epoch", "format"),
    ("unit", "format"),
    ("unit", "epoch"),
    ("epoch", "time_zone"),
    ("unit", "time_zone"),
)
_TOP = ("description", "label_delay", "ignored", "columns", "attributes")


class _Reader:
    """Reads decoded TOML and notes every mistake; what it returns counts only without any."""

    def __init__(self) -> None:
        self.mistakes: list[FieldError] = []

    def mapping(self, name: str, text: str, written: dict[str, Any]) -> FileMapping:
        for key in written:
            if key not in _TOP:
                self._note(key, f"unknown key; expected one of {', '.join(_TOP)}")
        sources, columns = self._columns(self._table(written, "columns"))
        of_attributes, attributes = self._attributes(self._table(written, "attributes"))
        sources |= of_attributes
        ignored = self._value(written, "ignored", list[str], "a list of columns of the file") or []
        self._check_uses(sources, ignored)
        self._check_with_duckdb((*columns, *attributes), sources)
        return FileMapping(
            name=name,
            text=text,
            description=self._value(written, "description", str, "a text") or "",
            columns=(*columns, *attributes),
            sources=sources,
            ignored=tuple(ignored),
            label_delay=self._label_delay(written),
        )

    def _columns(self, written: dict[str, Any]) -> tuple[dict[str, Source], list[Column]]:
        known = {column.name: column for column in (*COLUMNS, LABEL_KNOWN_AT)}
        for name in written:
            if name not in known:
                self._note(f"columns.{name}", f"unknown; expected one of {', '.join(known)}")
        for column in COLUMNS:
            if column.required and column.name not in written:
                example = '{ column = "…" } or { constant = "…" }'
                self._note(f"columns.{column.name}", f"missing; expected {example}")
        mapped = [column for name, column in known.items() if name in written]
        sources = {c.name: self.source(f"columns.{c.name}", c, written[c.name]) for c in mapped}
        extra = [LABEL_KNOWN_AT] if LABEL_KNOWN_AT in mapped else []
        return sources, [*COLUMNS, *extra]

    def _attributes(self, written: dict[str, Any]) -> tuple[dict[str, Source], list[Column]]:
        if len(written) > MOST_ATTRIBUTES:
            self._note("attributes", f"{len(written)} of them; expected {MOST_ATTRIBUTES} at most")
        sources, columns = {}, []
        for name, table in written.items():
            key = f"attributes.{name}"
            if not ATTRIBUTE_NAME.fullmatch(name):
                self._note(key, "expected a name of at most 40 of a-z, 0-9 and _, first a letter")
            kind = table.get("kind") if isinstance(table, dict) else None
            if not isinstance(kind, str) or kind not in ATTRIBUTE_KINDS:
                self._note(f"{key}.kind", f"expected {_KEYS['kind'].expected}")
                continue
            column = attribute_column(name, kind)
            columns.append(column)
            origin = {of: value for of, value in table.items() if of != "kind"}
            sources[column.name] = self.source(key, column, origin)
        return sources, columns

    def source(self, path: str, column: Column, written: object) -> Source:
        """Where `column` comes from; `path` is its key."""
        if not isinstance(written, dict):
            self._note(path, 'expected a table such as { column = "…" }')
            return Source()
        attribute = path.startswith("attributes.")
        self._check_keys(path, column, written, ("column",) if attribute else _ORIGINS)
        given = {}
        for key in written:
            if key in _KEYS and key != "kind":
                value = self._value(written, key, *_KEYS[key], path=f"{path}.{key}")
                if key in _CHOICES and value is not None and value not in _CHOICES[key]:
                    self._note(f"{path}.{key}", f"expected {_KEYS[key].expected}")
                if value is not None:
                    given[key] = value
        return self._built(path, given)

    def _check_keys(
        self, path: str, column: Column, written: dict[str, Any], origins: tuple[str, ...]
    ) -> None:
        given = [key for key in origins if key in written]
        if len(given) != 1:
            self._note(path, f"expected exactly one of {', '.join(origins)}")
        alone = given in (["constant"], ["row_number"])
        allowed = _ALLOWED[column.kind.family]
        for key in written:
            if key not in (*allowed, *origins):
                expected = ", ".join(dict.fromkeys((*origins, *allowed)))
                self._note(f"{path}.{key}", f"not a key here; expected one of {expected}")
            elif alone and key not in origins:
                self._note(f"{path}.{key}", f"not with {given[0]}")
            elif key in _NEEDS and _NEEDS[key] not in written:
                self._note(f"{path}.{key}", f"expected only with {_NEEDS[key]}")
        for one, other in _EXCLUDES:
            if one in written and other in written:
                self._note(f"{path}.{one}", f"not with {other}")
        if column.required and "optional" in written:
            self._note(f"{path}.optional", f"not here: every row needs {column.name}")

    def _built(self, path: str, given: dict[str, Any]) -> Source:
        names = given.pop("column", ())
        columns = (names,) if isinstance(names, str) else tuple(names)
        if isinstance(names, list) and not names:
            self._note(f"{path}.column", f"expected {_KEYS['column'].expected}")
        if "separator" in given and len(columns) == 1:
            self._note(f"{path}.separator", "expected only with a list of columns")
        start = self._start(path, given.pop("start", None))
        return Source(columns=columns, start=start, **{k: _as_text(k, v) for k, v in given.items()})

    def _start(self, path: str, written: object) -> datetime | None:
        if written is None:
            return None
        try:
            start = datetime.fromisoformat(str(written))
        except ValueError:
            self._note(f"{path}.start", f"expected {_KEYS['start'].expected}")
            return None
        start = start if start.tzinfo else start.replace(tzinfo=UTC)
        if not EARLIEST <= start < LATEST:
            self._note(f"{path}.start", "expected a time in the years 1970 to 9998")
        return start.astimezone(UTC)

    def _label_delay(self, written: dict[str, Any]) -> str | None:
        text = self._value(written, "label_delay", str, "a duration such as 7d, 12h or 30m")
        try:
            return None if text is None else format_duration(parse_duration(text))
        except ValueError as error:
            self._note("label_delay", f"{error}")
            return None

    def _check_uses(self, sources: dict[str, Source], ignored: list[str]) -> None:
        """No column is both read and ignored, and what tells the label is no input."""
        of_label = {n for name in OF_LABEL for n in sources.get(name, Source()).columns}
        for name, source in sources.items():
            if name not in OF_LABEL and (told := of_label.intersection(source.columns)):
                where = _key_of(name)
                self._note(where, f"reads {', '.join(sorted(told))}, which tells the label")
        read = {name for source in sources.values() for name in source.columns}
        for name in ignored:
            if name in read:
                self._note("ignored", f"{name!r} is read by the mapping")

    def _check_with_duckdb(self, columns: tuple[Column, ...], sources: dict[str, Source]) -> None:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for column in columns:
                source = sources.get(column.name, Source())
                path = _key_of(column.name)
                for key, text in _literals(source):
                    query = f"SELECT {column.kind.good.format(x='x')} FROM (SELECT ? AS x)"  # noqa: S608
                    if connection.execute(query, [text]).fetchone() != (True,):
                        self._note(f"{path}.{key}", f"{text!r} is not {column.kind.expected}")
                self._check_time(connection, path, source)

    def _check_time(self, connection: duckdb.DuckDBPyConnection, path: str, source: Source) -> None:
        if source.time_zone is not None:
            zones = "SELECT 1 FROM pg_timezone_names() WHERE name = ?"
            if connection.execute(zones, [source.time_zone]).fetchone() is None:
                self._note(f"{path}.time_zone", f"expected {_KEYS['time_zone'].expected}")
        if source.format is None:
            return
        try:
            row = connection.execute(
                "SELECT typeof(try_strptime('', ?))", [source.format]
            ).fetchone()
        except duckdb.Error as error:
            said = str(error).partition("\n")[0].rpartition(": ")[2]
            self._note(f"{path}.format", f"expected {_KEYS['format'].expected} ({said})")
            return
        if row != ("TIMESTAMP",) and source.time_zone is not None:
            self._note(f"{path}.time_zone", "not with a format that has %z or %Z")

    def _table(self, written: dict[str, Any], key: str) -> dict[str, Any]:
        return self._value(written, key, dict[str, Any], f"a table, [{key}]") or {}

    def _value(
        self, written: dict[str, Any], key: str, type_: Any, expected: str, path: str | None = None
    ) -> Any:
        if key not in written:
            return None
        try:
            return msgspec.convert(written[key], type_)
        except msgspec.ValidationError:
            self._note(path or key, f"expected {expected}")
            return None

    def _note(self, key: str, message: str) -> None:
        self.mistakes.append(FieldError(key, message))


def _literals(source: Source) -> Iterator[tuple[str, str]]:
    """The values of a column that the mapping itself gives, each with its key."""
    for key in ("constant", "missing", "default"):
        if (text := getattr(source, key)) is not None:
            yield key, source.prefix + text if key == "default" else text
    for old, new in (source.values or {}).items():
        yield f"values.{old}", source.prefix + new


def _key_of(column: str) -> str:
    name = column.removeprefix(ATTRIBUTE_PREFIX)
    return f"columns.{name}" if name == column else f"attributes.{name}"


def _as_text(key: str, value: Any) -> Any:
    """Values as a file would hold them; the keys that are not values as they are."""
    if isinstance(value, dict):
        return {old: _as_text(key, new) for old, new in value.items()}
    if isinstance(value, list):
        return tuple(_as_text(key, item) for item in value)
    if key in ("optional", "first"):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)
