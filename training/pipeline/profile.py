"""What the values of each column of a file look like."""

# ruff: noqa: S608 — column names are ours; every other text passes through `quoted`.

from typing import Literal

import duckdb
import msgspec

from training.pipeline.reading import quoted
from training.pipeline.schema import BOOLEAN, NUMBER, TIME

SAMPLE_ROWS = 50_000
"""The first rows, by which the kind of a column is told."""
FORMAT_ROWS = 2_000
MOST_CATEGORIES = 50
FORMATS = (
    "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M",
    "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d",
    "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M",
    "%d-%m-%Y", "%d-%b-%Y %H:%M:%S", "%d-%b-%Y", "%b %d, %Y %H:%M:%S", "%b %d, %Y",
)  # fmt: skip
"""Ways to write a time that a mapping must name, tried in this order."""
_2000, _2100 = 946_684_800, 4_102_444_800

Kind = Literal["empty", "time", "epoch", "boolean", "number", "category", "text"]


class Profile(msgspec.Struct, frozen=True):
    """A column in the first rows of a file.

    `filled`: values that are not blank; `distinct`: different ones. `low`, `high`: of numbers.
    `formats`: of `FORMATS`, those that read every value, for text that is no plain time.
    `values`: the commonest first, at most ten.
    """

    name: str
    kind: Kind
    rows: int
    filled: int
    distinct: int
    longest: int
    whole: bool
    low: float | None
    high: float | None
    formats: tuple[str, ...]
    values: tuple[str, ...]

    @property
    def unique(self) -> bool:
        """No value is blank or comes twice."""
        return self.rows == self.filled == self.distinct


def profile(
    connection: duckdb.DuckDBPyConnection, table: str, header: tuple[str, ...]
) -> tuple[Profile, ...]:
    """Look at columns `c0`, `c1`, … of `table`, named in `header`, NULL where blank."""
    connection.execute(
        f"CREATE TEMP TABLE looked_at AS SELECT * FROM {table} ORDER BY n LIMIT {SAMPLE_ROWS}"
    )
    try:
        return tuple(_profile(connection, name, f"c{at}") for at, name in enumerate(header))
    finally:
        connection.execute("DROP TABLE looked_at")


def _profile(connection: duckdb.DuckDBPyConnection, name: str, x: str) -> Profile:
    number, time = NUMBER.format(x=x), TIME.good.format(x=x)
    row = connection.execute(
        f"""
        SELECT count(*), count({x}), count(DISTINCT {x}), coalesce(max(length({x})), 0),
               count(*) FILTER ({BOOLEAN.good.format(x=x)}), count(*) FILTER ({time}),
               count({number}), min({number}) FILTER (isfinite({number})),
               max({number}) FILTER (isfinite({number})),
               coalesce(bool_and({number} = floor({number})), false)
        FROM looked_at
        """
    ).fetchone()
    assert row is not None
    rows, filled, distinct, longest, booleans, times, numbers, low, high, whole = row
    commonest = connection.execute(
        f"SELECT {x} FROM looked_at WHERE {x} IS NOT NULL "
        f"GROUP BY {x} ORDER BY count(*) DESC, {x} LIMIT 10"
    ).fetchall()
    is_number = numbers == filled
    formats = _formats(connection, x) if filled and not is_number and times < filled else ()
    return Profile(
        name=name,
        kind=_kind(filled, distinct, booleans, times, is_number, low, high, formats),
        rows=rows,
        filled=filled,
        distinct=distinct,
        longest=longest,
        whole=is_number and whole,
        low=low if is_number else None,
        high=high if is_number else None,
        formats=formats,
        values=tuple(value for (value,) in commonest),
    )


def _kind(
    filled: int,
    distinct: int,
    booleans: int,
    times: int,
    is_number: bool,
    low: float | None,
    high: float | None,
    formats: tuple[str, ...],
) -> Kind:
    if not filled:
        return "empty"
    if booleans == filled and distinct <= 2:
        return "boolean"
    if is_number:
        return "number" if epoch_unit(low, high) is None else "epoch"
    if times == filled or formats:
        return "time"
    return "category" if distinct <= MOST_CATEGORIES else "text"


def epoch_unit(low: float | None, high: float | None) -> str | None:
    """What numbers from `low` to `high` count, if they are times of this century since 1970."""
    if low is None or high is None:
        return None
    for unit, scale in (("seconds", 1), ("milliseconds", 1_000)):
        if _2000 * scale <= low and high <= _2100 * scale:
            return unit
    return None


def _formats(connection: duckdb.DuckDBPyConnection, x: str) -> tuple[str, ...]:
    reads = ", ".join(
        f"bool_and(coalesce(try_strptime({x}, {quoted(written)}) > TIMESTAMP '1970-01-01', false))"
        for written in FORMATS
    )
    row = connection.execute(
        f"SELECT {reads} FROM (SELECT {x} FROM looked_at WHERE {x} IS NOT NULL LIMIT {FORMAT_ROWS})"
    ).fetchone()
    assert row is not None
    return tuple(written for written, good in zip(FORMATS, row, strict=True) if good)
