"""A transaction's turn: its wallets locked, their past read, its own record written.

This is the hot path, so it is SQL: on PostgreSQL one round trip opens the transaction, takes the
locks and reads, and one more writes and commits. Statements are written once for both databases;
what differs (locks, round trips) is in `_PostgreSQL` and `_SQLite`.

On PostgreSQL each wallet has an advisory lock, and so has each transaction id, taken in sorted
order, so that two transfers in opposite directions can't wait for each other. The read is a later
statement than the lock: under READ COMMITTED each statement sees what was committed when it began,
and a statement that also takes the lock began too early. SQLite has one writer at a time, which
BEGIN IMMEDIATE chooses.
"""

# ruff: noqa: S608 (statements are put together from constants; values are always parameters)

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Final, NamedTuple

import numpy as np
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.backends.utils import CursorWrapper
from psycopg.errors import InvalidSqlStatementName

from engine.features.catalogue import ADDITIVE_WINDOWS, FAILURE_WINDOWS
from engine.features.kernel import COUNT, TAIL
from engine.features.live import (
    NO_EDGES,
    NO_FAILURES,
    History,
    decode_events,
    effective_time,
    windows_to_seek,
)
from engine.transaction import Transaction, wallet_code
from scoring import wire

LOCK_TIMEOUT: Final = "5s"
"""How long a request waits for its wallets before it is answered 503."""

IDLE_TIMEOUT: Final = "10s"
"""How long a turn may be silent before PostgreSQL ends it."""

_MANY_LOCKS: Final = 64
_BATCH_LOCK: Final = (0x5E57, 1)
"""PostgreSQL keeps advisory locks in a table of fixed size (about 64 a connection), so requests
that take more than that go one at a time. Two 32-bit keys never meet the 64 bits of the others.
"""

_TOTALS = struct.Struct("<3q")


class StoredDecision(NamedTuple):
    """A decision as it was answered, with the digest of the transaction it answered."""

    digest: bytes
    risk_score: float
    decision: str
    reasons: str  # JSON
    version: str
    rule_score: float
    supervised_score: float | None
    unsupervised_score: float | None


class NewRecord(NamedTuple):
    """The columns of one Attempt and its ScoreRecord, in the order of the INSERT statements."""

    transaction_id: str
    source_wallet_id: str
    destination_wallet_id: str
    source_time: int
    source_event: bytes
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


_ATTEMPT_COLUMNS = NewRecord._fields[:5]
_RECORD_COLUMNS = NewRecord._fields[5:]
_SQL_TYPES = (
    *("text", "text", "text", "bigint", "bytea"),
    *("bytea", "jsonb", "jsonb", "timestamptz", "timestamptz", "text"),
    *("float8", "float8", "float8", "float8", "jsonb", "jsonb", "jsonb", "jsonb"),
    *("bigint", "bigint"),
)


def _insert(table: str, columns: Sequence[str], first: str = "") -> str:
    values = ", ".join(([first] if first else []) + ["%s"] * len(columns))
    names = ", ".join(f'"{name}"' for name in (["attempt_id"] if first else []) + list(columns))
    return f"INSERT INTO {table} ({names}) VALUES ({values})"


def _numbered(statement: str) -> str:
    """The statement with `$1`, `$2`, … in place of its `%s`."""
    numbers = count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", statement)


_INSERT_ATTEMPT = _insert("scoring_attempt", _ATTEMPT_COLUMNS)
_FIND_ATTEMPT = "SELECT id FROM scoring_attempt WHERE transaction_id = %s"
# `source_time` never falls as `id` rises within a wallet, so the index serves both orders.
_TAIL = (
    "SELECT source_time, id, source_event FROM scoring_attempt WHERE source_wallet_id = %s "
    f"ORDER BY source_time DESC, id DESC LIMIT {TAIL}"
)
_EVENT_BEFORE = (
    "(SELECT source_event FROM scoring_attempt WHERE source_wallet_id = %s AND source_time < %s "
    "ORDER BY source_time DESC, id DESC LIMIT 1)"
)
_FAILURES = (
    "(SELECT failure_count FROM scoring_outcome WHERE failure_wallet_id = %s{before} "
    "ORDER BY failure_time DESC, id DESC LIMIT 1)"
)
_STORED = (
    "SELECT r.digest, r.risk_score, r.decision, r.reasons, v.version, r.rule_score, "
    "r.supervised_score, r.unsupervised_score "
    "FROM scoring_scorerecord r JOIN deployments_modelversion v ON v.id = r.model_version_id "
    "JOIN scoring_attempt a ON a.id = r.attempt_id WHERE a.transaction_id = %s"
)


class Turn:
    """What a transaction may read and write while its wallets are its own."""

    def __init__(self, subject: Transaction) -> None:
        self._subject = subject
        self._events = b""
        """Newest first, as the index is read."""
        self._failures = NO_FAILURES
        self.is_known = False
        """Whether the transaction id was recorded before."""
        self.is_open = True

    def history(self) -> History:
        """The source wallet's history up to this transaction."""
        events = np.ascontiguousarray(decode_events(self._events)[::-1])
        now = effective_time(self._subject.created_at_us, events)
        return History(events, self._edges(windows_to_seek(events, now), now), self._failures)

    def _edges(self, windows: tuple[int, ...], now: int) -> np.ndarray:
        """The running totals before each window that reaches further back than the tail."""
        if not windows:
            return NO_EDGES
        edges = NO_EDGES.copy()
        parameters: list[Any] = []
        for index in windows:
            parameters += [self._subject.source_wallet_id, now - ADDITIVE_WINDOWS[index]]
        statement = "SELECT " + ", ".join([_EVENT_BEFORE] * len(windows))
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            found = cursor.fetchone()
        for index, event in zip(windows, found, strict=True):
            if event is not None:
                edges[index] = _TOTALS.unpack_from(event, 8 * COUNT)
        return edges

    def write(self, record: NewRecord) -> None:
        """Write the attempt and its record; they are durable when the turn ends."""
        raise NotImplementedError


class _PostgreSQL(Turn):
    # Planning these two costs as much as running them, so a connection keeps them prepared.
    _READ = (
        "SELECT (SELECT id FROM scoring_attempt WHERE transaction_id = $1), "
        "tail.events, {failures} FROM (SELECT max(source_time) AS latest, "
        "string_agg(source_event, ''::bytea ORDER BY source_time DESC, id DESC) AS events "
        f"FROM ({_TAIL.replace('%s', '$2')}) t) tail"
    ).format(
        failures=", ".join(
            _FAILURES.replace("%s", "$2").format(before=before)
            for before in [""]
            + [
                f" AND failure_time < greatest(tail.latest, $3) - {window}"
                for window in FAILURE_WINDOWS
            ]
        )
    )
    _WRITE = _numbered(
        f"WITH attempt AS ({_INSERT_ATTEMPT} RETURNING id) "
        + _insert("scoring_scorerecord", _RECORD_COLUMNS, "(SELECT id FROM attempt)")
    )
    _BEGIN = (
        "BEGIN ISOLATION LEVEL READ COMMITTED; "
        f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; "
        # A server that vanished in mid-turn does not keep its wallets until TCP gives it up.
        f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_TIMEOUT}'; "
        # A plan is kept: one that was made while the tables were empty has to suit full ones.
        "SET LOCAL enable_seqscan = off; "
    ).encode()
    # Named after their text, so that no release runs what another prepared on a pooled connection.
    _NAME = hashlib.sha256(f"{_READ};{_WRITE}".encode()).hexdigest()[:8]
    # The read comes last: where it is prepared, so is the write.
    _PREPARE = (
        f"PREPARE write_{_NAME} ({', '.join(_SQL_TYPES)}) AS {_WRITE}; "
        f"PREPARE read_{_NAME} (text, text, bigint) AS {_READ}; "
    ).encode()
    _EXECUTE_READ = f"EXECUTE read_{_NAME}(".encode()
    _EXECUTE_WRITE = f"EXECUTE write_{_NAME}(".encode()

    def open(self, *, prepare: bool = False) -> None:
        """Begin, lock and read; with `prepare`, prepare the statements first."""
        subject = self._subject
        source, destination = subject.source_wallet_id, subject.destination_wallet_id
        locks = _lock_keys((source, destination), (subject.transaction_id,))
        key = (subject.transaction_id, source, subject.created_at_us)
        result = wire.execute(
            self._BEGIN
            + (self._PREPARE if prepare else b"")
            + b"SELECT %b; " % b", ".join(b"pg_advisory_xact_lock(%d)" % key for key in locks)
            + self._EXECUTE_READ
            + wire.literals(key)
            + b")"
        )
        self.is_known = result.get_value(0, 0) is not None
        self._events = wire.decode_bytea(result.get_value(0, 1))
        if result.get_value(0, 2) is not None:
            counts = [result.get_value(0, column) for column in range(2, result.nfields)]
            self._failures = np.array([int(each or 0) for each in counts], dtype=np.int64)

    def write(self, record: NewRecord) -> None:
        wire.execute(self._EXECUTE_WRITE + wire.literals(record) + b"); COMMIT")
        self.is_open = False

    def abandon(self) -> None:
        """Undo whatever is open; a connection that can't is not used again."""
        if connection.connection is None:
            return
        try:
            wire.execute(b"ROLLBACK")
        except (DatabaseError, InterfaceError):
            connection.close()


class _SQLite(Turn):
    _WRITE_RECORD = _insert("scoring_scorerecord", _RECORD_COLUMNS, "last_insert_rowid()")

    def __init__(self, subject: Transaction, cursor: CursorWrapper) -> None:
        super().__init__(subject)
        self._cursor = cursor

    def open(self) -> None:
        """Read; the transaction that is open already is the only one that may write."""
        subject = self._subject
        self.is_known = self._value(_FIND_ATTEMPT, subject.transaction_id) is not None
        self._cursor.execute(_TAIL, [subject.source_wallet_id])
        rows = self._cursor.fetchall()
        self._events = b"".join(event for _, _, event in rows)
        now = max(subject.created_at_us, rows[0][0]) if rows else subject.created_at_us
        self._read_failures(now)

    def _read_failures(self, now: int) -> None:
        wallet = self._subject.source_wallet_id
        total = self._value(f"SELECT {_FAILURES.format(before='')}", wallet)
        if total is not None:
            before = f"SELECT {_FAILURES.format(before=' AND failure_time < %s')}"
            counts = [self._value(before, wallet, now - window) for window in FAILURE_WINDOWS]
            self._failures = np.array([total] + [c or 0 for c in counts], dtype=np.int64)

    def _value(self, statement: str, *parameters: Any) -> Any:
        self._cursor.execute(statement, parameters)
        row = self._cursor.fetchone()
        return row[0] if row else None

    def write(self, record: NewRecord) -> None:
        self._cursor.execute(_INSERT_ATTEMPT, record[: len(_ATTEMPT_COLUMNS)])
        self._cursor.execute(self._WRITE_RECORD, record[len(_ATTEMPT_COLUMNS) :])


@contextmanager
def open_turn(subject: Transaction) -> Iterator[Turn]:
    """Wait for `subject`'s wallets and its id, read, and hold them until the block ends.

    What `Turn.write` wrote is committed when this returns; nothing is, when it raises.
    """
    if connection.vendor == "sqlite":
        with transaction.atomic(durable=True), connection.cursor() as cursor:
            serial = _SQLite(subject, cursor)
            serial.open()
            yield serial
        return
    turn = _open_on_postgresql(subject)
    try:
        yield turn
    finally:
        if turn.is_open:
            turn.abandon()


def _open_on_postgresql(subject: Transaction) -> _PostgreSQL:
    """Open a turn; once more when the connection turns out to be closed, or new.

    Nothing was written yet, so the attempt itself is the check of the connection. It also finds
    a connection on which the statements are not prepared: a new one, or another one that a pooler
    chose.
    """
    turn = _PostgreSQL(subject)
    _connect()
    try:
        turn.open()
    except BaseException as error:
        turn.abandon()
        is_lost = connection.connection is None
        if not is_lost and not isinstance(error.__cause__, InvalidSqlStatementName):
            raise
    else:
        return turn
    _connect()
    try:
        turn.open(prepare=True)
    except BaseException:
        turn.abandon()
        connection.close()  # one of the two may be prepared, which a rollback does not undo
        raise
    return turn


def _connect() -> None:
    """Connect where there is no connection. A turn is its check: a cursor in the middle of one must
    neither ask whether the connection lives nor replace it."""
    connection.ensure_connection()
    connection.health_check_done = True  # type: ignore[attr-defined]  # missing in the stubs


def stored_decision(transaction_id: str) -> StoredDecision | None:
    """What was answered to a transaction, None when it was never recorded."""
    with connection.cursor() as cursor:
        cursor.execute(_STORED, [transaction_id])
        row = cursor.fetchone()
    if row is None:
        return None
    return StoredDecision(bytes(row[0]), *row[1:])


def lock(wallets: Iterable[str], transactions: Iterable[str] = ()) -> None:
    """Inside a transaction, wait for these wallets and transaction ids and hold them until it
    ends."""
    if connection.vendor == "sqlite":
        return
    keys = _lock_keys(wallets, transactions)
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        if len(keys) > _MANY_LOCKS:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", _BATCH_LOCK)
        # A function scan returns an array in its order: sorted, as every turn takes its locks.
        cursor.execute("SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key", [keys])


def _lock_keys(wallets: Iterable[str], transactions: Iterable[str]) -> list[int]:
    """The advisory keys, in the one order in which all take them."""
    keys = {wallet_code(wallet) for wallet in wallets}
    return sorted(keys.union(map(_transaction_key, transactions)))


def _transaction_key(transaction_id: str) -> int:
    """Another 64 bits than those of a wallet with the same name."""
    digest = hashlib.blake2b(transaction_id.encode(), digest_size=8, person=b"transaction")
    return int.from_bytes(digest.digest(), "little", signed=True)
