"""The SQL of a turn, written once for both databases, with `%s` for each parameter.

Within a wallet's timeline the time never falls as `id` rises, so an index on both serves it. What
is read of a timeline before a time is what stands last there.
"""

# ruff: noqa: S608 (statements are put together from constants; values are always parameters)

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from engine.features import kernel


class NewRecord(NamedTuple):
    """The columns of one Attempt and its ScoreRecord, in the order of the INSERT statements."""

    transaction_id: str
    source_wallet_id: str
    destination_wallet_id: str
    source_time: int
    source_event: bytes
    destination_time: int
    destination_event: bytes
    # Of the ScoreRecord; JSON columns as text, times as the database takes them.
    digest: bytes
    transaction: str
    context: str
    created_at: Any
    scored_at: Any
    decision: str
    risk_score: float
    rule_score: float
    supervised_score: float | None
    unsupervised_score: float | None
    reasons: str
    rules_fired: str
    features: str
    features_sent: str
    model_version_id: int
    rule_set_id: int
    control_share: float | None


ATTEMPT_COLUMNS: Final = NewRecord._fields[:7]
RECORD_COLUMNS: Final = NewRecord._fields[7:]
SQL_TYPES: Final = (
    *("text", "text", "text", "bigint", "bytea", "bigint", "bytea"),
    *("bytea", "jsonb", "jsonb", "timestamptz", "timestamptz", "text"),
    *("float8", "float8", "float8", "float8", "jsonb", "jsonb", "jsonb", "jsonb"),
    *("bigint", "bigint", "float8"),
)


def insert(table: str, columns: Sequence[str]) -> str:
    """An INSERT of one row."""
    names = ", ".join(f'"{name}"' for name in columns)
    return f"INSERT INTO {table} ({names}) VALUES ({', '.join(['%s'] * len(columns))})"


def insert_record(attempt: str) -> str:
    """The INSERT of a ScoreRecord; `attempt` is SQL for the id of its attempt."""
    statement = insert("scoring_scorerecord", RECORD_COLUMNS)
    return statement.replace("(", '("attempt_id", ', 1).replace("(%s", f"({attempt}, %s", 1)


INSERT_ATTEMPT: Final = insert("scoring_attempt", ATTEMPT_COLUMNS)
ATTEMPT_ID: Final = "SELECT id FROM scoring_attempt WHERE transaction_id = %s"
IS_LABELLED: Final = "SELECT 1 FROM scoring_label WHERE transaction_id = %s LIMIT 1"
TAIL: Final = (
    "SELECT {side}_time, id, {side}_event FROM scoring_attempt WHERE {side}_wallet_id = %s "
    f"ORDER BY {{side}}_time DESC, id DESC LIMIT {kernel.TAIL}"
)
EVENT_BEFORE: Final = (
    "SELECT {side}_event FROM scoring_attempt WHERE {side}_wallet_id = %s AND {side}_time < %s "
    "ORDER BY {side}_time DESC, id DESC LIMIT 1"
)
FAILURES_BEFORE: Final = (
    "SELECT failure_count FROM scoring_outcome WHERE failure_wallet_id = %s AND failure_time < %s "
    "ORDER BY failure_time DESC, id DESC LIMIT 1"
)
FRAUDS_BEFORE: Final = (
    "SELECT total FROM scoring_confirmedfraud WHERE side = '{side}' AND wallet_id = %s "
    "AND time < %s ORDER BY time DESC, attempt_id DESC LIMIT 1"
)
STORED: Final = (
    "SELECT r.digest, r.risk_score, r.decision, r.reasons, v.version, r.rule_score, "
    "r.supervised_score, r.unsupervised_score "
    "FROM scoring_scorerecord r JOIN deployments_modelversion v ON v.id = r.model_version_id "
    "JOIN scoring_attempt a ON a.id = r.attempt_id WHERE a.transaction_id = %s"
)
EVER: Final = 2**63 - 1
"""Later than every time."""
