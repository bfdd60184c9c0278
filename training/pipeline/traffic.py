"""Recorded traffic as a data set: score records and labels as they were known at one moment.

The control plane writes what it reads of its database to `ROWS_FILE` and `LABELS_FILE`, some rows
at a time; DuckDB puts them together, sorts them and writes `data.parquet`, with bounded memory.
Beside the canonical columns that has `COLUMNS_OF_TRAFFIC` and, for each feature of the catalogue,
`feature_NAME`: the value that was recorded when the transaction was decided on.
"""

# ruff: noqa: S608 — names are ours or of the attributes' alphabet; other texts pass `quoted`.

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import pyarrow as pa

from engine.errors import InvalidDataset
from engine.features.catalogue import CATALOGUE
from training.pipeline import staging
from training.pipeline.datasets import DATA, SUMMARY, DatasetSummary
from training.pipeline.durations import format_duration
from training.pipeline.reading import connected, parquet_at
from training.pipeline.recorded import COMPLETE_KEY, FEATURE_PREFIX, RECORDED_KEY, Definitions
from training.pipeline.schema import (
    ATTRIBUTE_KINDS,
    BALANCE,
    COLUMNS,
    IDENTIFIER,
    LABEL_KNOWN_AT,
    SHORT,
    TIME,
    Column,
    attribute_column,
)

ROWS_FILE, LABELS_FILE = "rows.parquet", "labels.parquet"
PRESET = "traffic"
ROW_GROUP = 32_768
"""Rows that are read together when some recorded values are needed."""

_MOMENT = pa.timestamp("us", "UTC")
ROWS = pa.schema(
    [
        ("row", pa.int64()),
        ("transaction_id", pa.string()),
        ("source_wallet_id", pa.string()),
        ("destination_wallet_id", pa.string()),
        ("created_at", _MOMENT),
        ("amount", pa.int64()),
        ("currency", pa.string()),
        ("transaction_type", pa.string()),
        ("direction", pa.string()),
        ("country", pa.string()),
        ("city", pa.string()),
        ("initiator_user_id", pa.string()),
        ("status", pa.string()),
        ("source_balance", pa.float64()),
        ("source_wallet_status", pa.string()),
        ("destination_wallet_status", pa.string()),
        ("user_status", pa.string()),
        ("user_risk_level", pa.string()),
        ("account_age_minutes", pa.float64()),
        ("attributes", pa.string()),
        ("decision", pa.string()),
        ("control_share", pa.float64()),
        ("scored_by", pa.string()),
        ("features", pa.string()),
        ("features_sent", pa.string()),
        ("is_decided", pa.bool_()),
    ]
)
"""Attempts in the order of their acceptance, which `row` is. `attributes` and `features` are JSON
objects, `features_sent` too: what the caller sent, by name. `is_decided`: the model that the data
set is for decided on it; of one that was only loaded as history, type and currency are unknown."""
LABELS = pa.schema(
    [
        ("transaction_id", pa.string()),
        ("sequence", pa.int64()),
        ("fraud", pa.bool_()),
        ("known_at", _MOMENT),
    ]
)
"""Statements in any order; the one with the highest `sequence` counts. `known_at`: when Sentinelle
could know it."""

COLUMNS_OF_TRAFFIC = (
    Column("label_from", SHORT),
    Column("decision", SHORT),
    Column("control_share", BALANCE),
    Column("accepted", BALANCE),
    Column("scored_by", IDENTIFIER),
    Column("features_sent", IDENTIFIER),
)
"""`label_from`: `stated` by a label, taken as legitimate at that `age`; not labelled because it was
`blocked` or `not_made` (failed or cancelled), because it is too `recent`, or because it is
`history` before the period or without a decision. `accepted`: in which order transactions were.
`scored_by`: the version."""
COUNTS = {
    "labelled_fraud": "label_from = 'stated' AND is_fraud",
    "labelled_legitimate": "label_from = 'stated' AND NOT is_fraud",
    "taken_as_legitimate": "label_from = 'age'",
    "blocked_unlabelled": "label_from = 'blocked'",
    "not_made": "label_from = 'not_made'",
    "too_recent": "label_from = 'recent'",
    "history_only": "label_from = 'history'",
    "control_group": "label_from <> 'history' AND control_share IS NOT NULL",
}
"""What is counted of a snapshot, by name."""

Progress = Callable[[str, float], None]


class Period(NamedTuple):
    """Which transactions a snapshot is of: [since, until), and what was known at `as_of`.

    `label_delay` (µs): how long one waits for a label before a transaction counts as legitimate.
    `history_from`: the transactions from then to `since` are history of the others.
    """

    since: datetime
    until: datetime
    as_of: datetime
    label_delay: int
    history_from: datetime


class Recorded(NamedTuple):
    """What was read beside the rows: the model that decided, the versions that it had, and the
    kinds that each attribute was sent as, with how often."""

    model: str
    versions: Mapping[str, Definitions]
    attributes: Mapping[str, Mapping[str, int]]
    is_complete: bool
    """No transaction before `Period.history_from` was left out."""


def count(work: Path, period: Period, memory_limit_mb: int) -> dict[str, int]:
    """The counts of `COUNTS` for the files in `work`; nothing is written."""
    with connected(work, memory_limit_mb) as connection:
        _judge_labels(connection, work, period)
        return _counts(connection)


def write(
    work: Path,
    result: Path,
    final_path: Path | str,
    period: Period,
    recorded: Recorded,
    *,
    memory_limit_mb: int,
    progress: Progress,
) -> DatasetSummary:
    """Write `data.parquet` and `summary.json` into the folder `result` from the files in `work`.

    Args:
        final_path: where the data will be, for the summary.

    Raises:
        InvalidDataset: no transaction of the period was decided on.
    """
    with connected(work, memory_limit_mb) as connection:
        progress("joining the labels", 0.6)
        _judge_labels(connection, work, period)
        counts = _counts(connection)
        if sum(counts.values()) == counts["history_only"]:
            raise InvalidDataset(
                f"No transaction from {period.since:%Y-%m-%d %H:%M} to "
                f"{period.until:%Y-%m-%d %H:%M} UTC was decided on by “{recorded.model}” and known "
                f"at {period.as_of:%Y-%m-%d %H:%M} UTC. Take another period."
            )
        kinds, left_out = _attribute_kinds(recorded.attributes)
        columns = _columns(kinds)
        progress("sorting", 0.7)
        _stage(connection, kinds)
        data = result / DATA
        definitions = msgspec.json.encode(recorded.versions).decode()
        staging.write_sorted(
            connection,
            data,
            columns,
            metadata={
                RECORDED_KEY: definitions,
                COMPLETE_KEY: str(recorded.is_complete).lower(),
            },
            row_group=ROW_GROUP,
        )
        progress("taking the fingerprint", 0.9)
        facts = staging.describe(connection, data, columns)
        summary = DatasetSummary(
            preset=PRESET,
            mapping="",
            start=None,
            label_delay=format_duration(period.label_delay),
            attributes=kinds,
            taken_for_false={},
            files=(),
            rows=facts.rows,
            frauds=counts["labelled_fraud"],
            first_at=facts.first_at.replace(tzinfo=UTC),
            last_at=facts.last_at.replace(tzinfo=UTC),
            fingerprint=staging.fingerprint(connection, data, columns),
            columns=tuple(each for each in facts.columns if not each.startswith(FEATURE_PREFIX)),
            rejected=0,
            reject_counts={},
            reject_samples=(),
            ignored_columns=(),
            path=str(final_path),
            traffic=_described(period, recorded, counts, left_out),
        )
    (result / SUMMARY).write_bytes(
        msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
    )
    progress("done", 1.0)
    return summary


def _described(
    period: Period, recorded: Recorded, counts: dict[str, int], left_out: tuple[str, ...]
) -> dict[str, Any]:
    moments = {
        name: getattr(period, name).isoformat()
        for name in ("since", "until", "as_of", "history_from")
    }
    return {
        **moments,
        "model": recorded.model,
        "versions": sorted(recorded.versions),
        "counts": counts,
        "attributes_left_out": list(left_out),
    }


def _judge_labels(connection: duckdb.DuckDBPyConnection, work: Path, period: Period) -> None:
    """`judged`: the rows with `label_from`, `is_fraud` and `label_known_at`.

    A verdict became known with the first statement after which it was never changed.
    """
    as_of, since, until = map(_moment, (period.as_of, period.since, period.until))
    delay = f"to_microseconds({period.label_delay})"
    connection.execute(
        f"""
        CREATE VIEW verdicts AS
        WITH stated AS (
            SELECT *, fraud IS DISTINCT FROM lag(fraud) OVER of_one AS is_turn
            FROM {parquet_at(work / LABELS_FILE)} WHERE known_at <= {as_of}
            WINDOW of_one AS (PARTITION BY transaction_id ORDER BY sequence)
        ), turns AS (
            SELECT *, sum(is_turn::INTEGER) OVER of_one AS turn
            FROM stated WINDOW of_one AS (PARTITION BY transaction_id ORDER BY sequence)
        )
        SELECT transaction_id, arg_max(fraud, turn) AS fraud,
               arg_max(known_at, turn) AS known_at
        FROM (SELECT transaction_id, turn, any_value(fraud) AS fraud, min(known_at) AS known_at
              FROM turns GROUP BY transaction_id, turn)
        GROUP BY transaction_id
        """
    )
    connection.execute(
        f"""
        CREATE VIEW judged AS
        WITH sorted AS (
            SELECT each.* EXCLUDE (is_decided), verdicts.fraud, verdicts.known_at,
                   CASE WHEN NOT is_decided OR created_at < {since} OR created_at >= {until}
                            THEN 'history'
                        WHEN fraud IS NOT NULL THEN 'stated'
                        WHEN decision = 'BLOCK' THEN 'blocked'
                        WHEN status IN ('FAILED', 'CANCELED') THEN 'not_made'
                        WHEN created_at + {delay} > {as_of} THEN 'recent'
                        ELSE 'age' END AS label_from
            FROM {parquet_at(work / ROWS_FILE)} AS each LEFT JOIN verdicts USING (transaction_id)
        )
        SELECT *, row AS accepted,
               CASE label_from WHEN 'stated' THEN fraud WHEN 'age' THEN false
                    WHEN 'history' THEN CASE WHEN fraud THEN true END END AS is_fraud,
               CASE WHEN label_from = 'age' THEN created_at + {delay}
                    WHEN label_from = 'stated' OR (label_from = 'history' AND fraud)
                        THEN greatest(created_at, known_at) END AS label_known_at
        FROM sorted
        """
    )


def _moment(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00'"


def _counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    filters = ", ".join(f"count(*) FILTER ({condition})" for condition in COUNTS.values())
    row = connection.execute(f"SELECT {filters} FROM judged").fetchone()
    assert row is not None
    return dict(zip(COUNTS, row, strict=True))


def _attribute_kinds(
    sent: Mapping[str, Mapping[str, int]],
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The kind of each attribute, and the names of those that were sent as several kinds."""
    kinds = {name: next(iter(found)) for name, found in sorted(sent.items()) if len(found) == 1}
    return kinds, tuple(sorted(set(sent) - set(kinds)))


def _columns(kinds: Mapping[str, str]) -> tuple[Column, ...]:
    features = (Column(FEATURE_PREFIX + feature.name, BALANCE) for feature in CATALOGUE)
    own = (attribute_column(name, kind) for name, kind in kinds.items())
    known = tuple(column for column in COLUMNS if column.name != "fraud_kind")
    return (*known, LABEL_KNOWN_AT, *COLUMNS_OF_TRAFFIC, *own, *features)


def _stage(connection: duckdb.DuckDBPyConnection, kinds: Mapping[str, str]) -> None:
    """`staged`: the rows as they are written, and `row`."""
    wanted = json.dumps({feature.name: "DOUBLE" for feature in CATALOGUE})
    features = ", ".join(
        f'recorded."{feature.name}" AS "{FEATURE_PREFIX}{feature.name}"' for feature in CATALOGUE
    )
    own = "".join(
        f", TRY_CAST(json_extract_string(attributes, '$.{name}') AS "
        f"{ATTRIBUTE_KINDS[kind].type}) AS {attribute_column(name, kind).name}"
        for name, kind in kinds.items()
    )
    utc = ", ".join(
        f"CAST({column.name} AS TIMESTAMP) AS {column.name}"
        for column in (*COLUMNS, LABEL_KNOWN_AT)
        if column.kind.type == TIME.type
    )
    connection.execute(
        f"""
        CREATE VIEW staged AS
        SELECT * EXCLUDE (attributes, features, recorded) REPLACE ({utc}), {features}{own}
        FROM (SELECT *, json_transform(features, '{wanted}') AS recorded FROM judged)
        """
    )
