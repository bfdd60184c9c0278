"""The SQL of a mapping: texts of a file become values of a data set, or faults with a reason."""

# ruff: noqa: S608 — names are ours; every other text passes through `quoted`.

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from training.pipeline.csv_lines import CONTENT_LIMIT
from training.pipeline.mapping import EPOCHS, UNITS, FileMapping, Source
from training.pipeline.reading import quoted
from training.pipeline.schema import (
    EARLIEST,
    LABEL_KNOWN_AT,
    LATEST,
    NUMBER,
    TIME,
    WITHOUT_OFFSET,
    Column,
    Kind,
    time_kind,
)

_KNOWN_EARLY = quoted(f"{LABEL_KNOWN_AT.name}: before created_at")
# More digits may differ and yet be the same number to a computer.
_NUMBER = re.compile("[+-]?[0-9]{1,15}([.][0-9]{1,15})?")
_NO_SOURCE = Source()


def checked_rows(mapping: FileMapping, rows: str, header: tuple[str, ...], before: int) -> str:
    """SQL that yields `row`, `faults`, `reason`, `content` and the mapping's columns.

    Args:
        rows: SQL that yields `n` from 1, then `c0`, `c1`, … as named in `header`.
        before: rows of earlier files; `row` is `before + n`.
    """
    names = {name: f"c{number}" for number, name in enumerate(header)}
    texts, values, faults, reasons = [], [], [], []
    for column in mapping.columns:
        source = mapping.sources.get(column.name, _NO_SOURCE)
        kind = _kind(column, source)
        x, original, fault = (f"{part}_{column.name}" for part in ("text", "raw", "fault"))
        text = _text(source, names, before)
        texts.append(f"{text} AS {original}, {_translated(source, text)} AS {x}")
        values.append(f"{kind.value.format(x=x)} AS {column.name}")
        values.append(f"{_fault(column, kind, x, original)} AS {fault}")
        faults.append(fault)
        reasons.append(_reason(fault, original))
    if LABEL_KNOWN_AT in mapping.columns:
        faults.append("known_early")
        reasons.append(_reason("known_early", f"raw_{LABEL_KNOWN_AT.name}"))
    listed = ", ".join(column.name for column in mapping.columns)
    content = " || ',' || ".join(f"coalesce({name}, '')" for name in names.values())
    return (
        f"SELECT {before} + n AS row, faults, "
        f"CASE WHEN faults <> '' THEN concat_ws('; ', {', '.join(reasons)}) END AS reason, "
        f"CASE WHEN faults <> '' THEN left({content}, {CONTENT_LIMIT}) END AS content, {listed} "
        f"FROM (SELECT *, concat_ws('; ', {', '.join(faults)}) AS faults "
        f"FROM (SELECT *, {_known_early(mapping)} AS known_early "
        f"FROM (SELECT *, {', '.join(values)} "
        f"FROM (SELECT *, {', '.join(texts)} FROM ({rows})))))"
    )


def _text(source: Source, names: dict[str, str], before: int) -> str:
    """SQL for the text that a file gives for a column, NULL when it is blank or absent."""
    if source.constant is not None:
        return quoted(source.constant)
    if source.row_number is not None:
        return f"{quoted(source.row_number)} || ({before} + n)"
    if not source.columns or not all(name in names for name in source.columns):
        return "CAST(NULL AS VARCHAR)"
    parts = [names[name] for name in source.columns]
    filled = [f"CASE WHEN trim({part}) <> '' THEN {part} END" for part in parts]
    return f" || {quoted(source.separator)} || ".join(f"({part})" for part in filled)


def _translated(source: Source, text: str) -> str:
    """SQL for the text as the column is to hold it; NULL for a value that is not known."""
    given = f"({text})"
    translated = given
    if source.values is not None:
        translated = _renamed(given, source.values, source)
    elif source.positive is not None:
        translated = _as_boolean(f"trim({given})", source.positive, source.negative)
    if source.prefix:
        translated = f"{quoted(source.prefix)} || {translated}"
    missing = "NULL" if source.missing is None else quoted(source.missing)
    return f"CASE WHEN {given} IS NULL THEN {missing} ELSE {translated} END"


def _renamed(given: str, values: Mapping[str, str], source: Source) -> str:
    others = given if source.others == "keep" else "NULL"
    if source.default is not None:
        others = quoted(source.default)
    cases = " ".join(f"WHEN {quoted(old)} THEN {quoted(new)}" for old, new in values.items())
    return f"CASE {given} {cases} ELSE {others} END"


def _as_boolean(given: str, positive: tuple[str, ...], negative: tuple[str, ...] | None) -> str:
    if negative is None:
        return f"CASE WHEN {_among(given, positive)} THEN 'true' ELSE 'false' END"
    return (
        f"CASE WHEN {_among(given, positive)} THEN 'true' "
        f"WHEN {_among(given, negative)} THEN 'false' END"
    )


def _among(given: str, values: tuple[str, ...]) -> str:
    """SQL: the text is one of `values`, or the same number as one: pandas writes 1 as 1.0."""
    texts = f"{given} IN ({', '.join(map(quoted, values))})"
    numbers = [value for value in values if _NUMBER.fullmatch(value)]
    if not numbers:
        return texts
    listed = ", ".join(f"CAST({quoted(value)} AS DOUBLE)" for value in numbers)
    return f"({texts} OR coalesce({NUMBER.format(x=given)} IN ({listed}), false))"


def taken_for_false(mapping: FileMapping, rows: str, header: tuple[str, ...]) -> str | None:
    """SQL that yields `target`, `value` and `count` of the texts that became false because they
    are none of `positive`; None when the mapping names what is false everywhere.

    `rows` and `header` are those of `checked_rows`.
    """
    names = {name: f"c{number}" for number, name in enumerate(header)}
    counts = []
    for target, source in mapping.sources.items():
        if source.positive is None or source.negative is not None:
            continue
        text = f"trim({_text(source, names, 0)})"
        counts.append(
            f"SELECT {quoted(target)} AS target, {text} AS value, count(*) AS count FROM ({rows}) "
            f"WHERE {text} IS NOT NULL AND NOT {_among(text, source.positive)} GROUP BY value"
        )
    return " UNION ALL ".join(counts) or None


def _kind(column: Column, source: Source) -> Kind:
    """The column's kind; for a time, as the source writes it."""
    if source.unit is not None and source.start is not None:
        longest = min(timedelta(days=100 * 366), LATEST - source.start - timedelta(microseconds=1))
        last = source.first + longest // timedelta(microseconds=UNITS[source.unit])
        expected = f"a number of {source.unit} from {source.first} to {last}"
        return _counted(source.start, UNITS[source.unit], source.first, last, expected)
    if source.epoch is not None:
        size = EPOCHS[source.epoch]
        last = (LATEST - EARLIEST) // timedelta(microseconds=size) - 1
        return _counted(EARLIEST, size, 0, last, f"a number of {source.epoch} since 1970")
    if source.format is not None:
        written = f"try_strptime({{x}}, {_literal(source.format)})"
        return time_kind(_in_zone(source, written), expected=f"a time written {source.format}")
    if source.time_zone is not None:
        zoned = "TRY_CAST(upper({x}) AS TIMESTAMPTZ)"
        local = _in_zone(source, "TRY_CAST(upper({x}) AS TIMESTAMP)")
        moment = f"CASE WHEN {WITHOUT_OFFSET} THEN {local} ELSE {zoned} END"
        return time_kind(moment, TIME.good, TIME.expected)
    return column.kind


def _counted(start: datetime, size: int, first: int, last: int, expected: str) -> Kind:
    """Times counted in steps of `size` microseconds, of which number `first` begins at `start`."""
    begin = start.astimezone(UTC).replace(tzinfo=None)
    elapsed = f"CAST(round(({NUMBER} - {first}) * {size}) AS BIGINT)"
    good = f"{NUMBER} >= {first} AND {NUMBER} <= {last}"
    value = f"CASE WHEN {good} THEN TIMESTAMP '{begin}' + to_microseconds({elapsed}) END"
    return TIME._replace(value=value, good=good, expected=expected)


def _in_zone(source: Source, local: str) -> str:
    """SQL for a time without offset, or one with it, as TIMESTAMPTZ."""
    if source.time_zone is None:
        return f"CAST({local} AS TIMESTAMPTZ)"
    # `timezone` fails on what is far outside the years that it knows.
    inside = f"{local} BETWEEN TIMESTAMP '1969-12-30' AND TIMESTAMP '9999-01-03'"
    return f"CASE WHEN {inside} THEN timezone({_literal(source.time_zone)}, {local}) END"


def _literal(text: str) -> str:
    """`text` as an SQL string within SQL that `str.format` will fill."""
    return quoted(text).replace("{", "{{").replace("}", "}}")


def _fault(column: Column, kind: Kind, x: str, original: str) -> str:
    """SQL for the fault of one value, or NULL."""
    missing = quoted(f"{column.name}: missing") if column.required else "NULL"
    unknown = quoted(f"{column.name}: a value that the mapping does not know")
    bad = quoted(f"{column.name}: not {kind.expected}")
    return (
        f"CASE WHEN {x} IS NULL AND {original} IS NULL THEN {missing} "
        f"WHEN {x} IS NULL THEN {unknown} "
        f"WHEN NOT coalesce({kind.good.format(x=x)}, false) THEN {bad} END"
    )


def _reason(fault: str, original: str) -> str:
    return f"{fault} || coalesce(', found \"' || left({original}, 40) || '\"', '')"


def _known_early(mapping: FileMapping) -> str:
    """SQL for the fault of a label that was known before its transaction, or NULL."""
    if LABEL_KNOWN_AT not in mapping.columns:
        return "CAST(NULL AS VARCHAR)"
    name = LABEL_KNOWN_AT.name
    return (
        f"CASE WHEN fault_{name} IS NULL AND fault_created_at IS NULL AND {name} < created_at "
        f"THEN {_KNOWN_EARLY} END"
    )
