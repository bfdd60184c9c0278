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
ENOUGH = 0.95
"""The share of a column's values that makes it one of times or of amounts: a bad value is a bad
row, not another kind of column."""
MOST_CATEGORIES = 50
FORMATS = (
    "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M",
    "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d",
    "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M",
    "%d-%m-%Y", "%d-%b-%Y %H:%M:%S", "%d-%b-%Y", "%b %d, %Y %H:%M:%S", "%b %d, %Y",
)  # fmt: skip
"""Ways to write a time that a mapping must name, tried in this order."""
FEWEST_STEPS = 10
"""Different values, below which numbers in order may be chance."""
_2000, _2100 = 946_684_800, 4_102_444_800
_EPOCHS = {"seconds": 1, "milliseconds": 1_000}

Kind = Literal["empty", "time", "epoch", "boolean", "number", "category", "text"]


class Profile(msgspec.Struct, frozen=True):
    """A column in the first rows of a file.

    `filled`: values that are not blank; `distinct`: different ones. `low`, `high`: of numbers,
    null unless nearly all values are. `epoch`: what they count, if nearly all are times of this
    century since 1970. `running`: numbers that from row to row only grow, or only fall. `formats`:
    of `FORMATS`, those that read the most values, and nearly all, for text that is no plain time.
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
    epoch: str | None
    running: bool
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
    epochs = ", ".join(
        f"count(*) FILTER ({number} BETWEEN {_2000 * scale} AND {_2100 * scale})"
        for scale in _EPOCHS.values()
    )
    row = connection.execute(
        f"""
        SELECT count(*), count({x}), count(DISTINCT {x}), coalesce(max(length({x})), 0),
               count(*) FILTER ({BOOLEAN.good.format(x=x)}), count(*) FILTER ({time}),
               count({number}), min({number}) FILTER (isfinite({number})),
               max({number}) FILTER (isfinite({number})),
               coalesce(bool_and({number} = floor({number})), false), {epochs}
        FROM looked_at
        """
    ).fetchone()
    assert row is not None
    rows, filled, distinct, longest, booleans, times, numbers, low, high, whole, *since_1970 = row
    commonest = connection.execute(
        f"SELECT {x} FROM looked_at WHERE {x} IS NOT NULL "
        f"GROUP BY {x} ORDER BY count(*) DESC, {x} LIMIT 10"
    ).fetchall()
    enough = max(1, ENOUGH * filled)
    are_numbers, are_times = numbers >= enough, times >= enough
    formats = _formats(connection, x) if filled and not are_numbers and not are_times else ()
    found = (unit for unit, count in zip(_EPOCHS, since_1970, strict=True) if count >= enough)
    epoch = next(found, None)
    return Profile(
        name=name,
        kind=_kind(
            filled, distinct, booleans == filled, are_times or bool(formats), numbers, epoch
        ),
        rows=rows,
        filled=filled,
        distinct=distinct,
        longest=longest,
        whole=numbers == filled and whole,
        low=low if are_numbers else None,
        high=high if are_numbers else None,
        epoch=epoch,
        running=are_numbers and distinct >= FEWEST_STEPS and _is_running(connection, number),
        formats=formats,
        values=tuple(value for (value,) in commonest),
    )


def _kind(
    filled: int, distinct: int, are_booleans: bool, are_times: bool, numbers: int, epoch: str | None
) -> Kind:
    if not filled:
        return "empty"
    if are_booleans and distinct <= 2:
        return "boolean"
    if epoch is not None:
        return "epoch"
    if numbers == filled:
        return "number"
    if are_times:
        return "time"
    return "category" if distinct <= MOST_CATEGORIES else "text"


def _is_running(connection: duckdb.DuckDBPyConnection, number: str) -> bool:
    row = connection.execute(
        f"SELECT bool_and(step >= 0) OR bool_and(step <= 0) FROM (SELECT {number} - "
        f"lag({number}) OVER (ORDER BY n) AS step FROM looked_at WHERE isfinite({number}))"
    ).fetchone()
    return row == (True,)


def _formats(connection: duckdb.DuckDBPyConnection, x: str) -> tuple[str, ...]:
    reads = ", ".join(
        f"count(*) FILTER (try_strptime({x}, {quoted(written)}) > TIMESTAMP '1970-01-01')"
        for written in FORMATS
    )
    row = connection.execute(
        f"SELECT count(*), {reads} "
        f"FROM (SELECT {x} FROM looked_at WHERE {x} IS NOT NULL LIMIT {FORMAT_ROWS})"
    ).fetchone()
    assert row is not None
    filled, *counts = row
    most = max(counts)
    if most < ENOUGH * filled:
        return ()
    return tuple(written for written, count in zip(FORMATS, counts, strict=True) if count == most)
