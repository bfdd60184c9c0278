"""Turns on PostgreSQL: several statements a round trip.

The read is a later statement than the locks: under READ COMMITTED each statement sees what was
committed when it began, and a statement that also takes the locks began too early.
"""

# ruff: noqa: S608 (statements are put together from constants; values are always parameters)

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import count

from django.db import DatabaseError, InterfaceError, connection
from psycopg.errors import InvalidSqlStatementName
from psycopg.pq.abc import PGresult

from engine.features.catalogue import FAILURE_WINDOWS
from engine.features.live import (
    EVENT_BYTES,
    INCOMING_BYTES,
    NO_FAILURES,
    NO_FRAUDS,
    fraud_edge_times,
)
from engine.transaction import Transaction
from scoring import wire
from scoring.history import statements
from scoring.history.locks import END_WAIT, EVERYTHING, LIMIT_WAIT, LIMITS, lock_keys
from scoring.history.statements import EVER, NewRecord
from scoring.history.turn import Read, Turn


def _numbered(statement: str) -> str:
    """The statement with `$1`, `$2`, … in place of its `%s`."""
    numbers = count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", statement)


def _tail(side: str, wallet: str) -> str:
    """A wallet's tail as one row: its latest time, and its events in one piece."""
    rows = statements.TAIL.format(side=side).replace("%s", wallet)
    events = f"string_agg({side}_event, ''::bytea ORDER BY {side}_time DESC, id DESC)"
    return f"(SELECT max({side}_time) AS latest, {events} AS events FROM ({rows}) {side}_tail)"


def _before(statement: str, wallet: str, time: str = "edge") -> str:
    """`statement` of this wallet, before this time."""
    return statement.replace("%s", wallet, 1).replace("%s", time, 1)


def _counts(statement: str, wallet: str, times: Iterable[str]) -> str:
    """An array: what `statement` counts of a wallet before each of these times.

    NULL for a wallet of which there is nothing, as of most: one look instead of one for each time.
    """
    found = f"coalesce(({_before(statement, wallet)}), 0)"
    counts = f"ARRAY(SELECT {found} FROM unnest(ARRAY[{', '.join(times)}]) edge)"
    return f"CASE WHEN EXISTS ({_before(statement, wallet, str(EVER))}) THEN {counts} END"


def _events(side: str, wallet: str, times: str, size: int) -> str:
    """A wallet's last events before each of an array of times, in one piece."""
    found = _before(statements.EVENT_BEFORE.format(side=side), wallet)
    nothing = f"'\\x{'00' * size}'::bytea"
    joined = f"string_agg(coalesce(({found}), {nothing}), ''::bytea ORDER BY place)"
    return f"(SELECT {joined} FROM unnest({times}) WITH ORDINALITY AS edges (edge, place))"


def _read_statement() -> str:
    """Everything a read gives, of: transaction id, source, destination, time, label delay."""
    now = {side: f"greatest({side}.latest, $4)" for side in ("source", "destination")}
    failure_edges = [str(EVER), *(f"{now['source']} - {window}" for window in FAILURE_WINDOWS)]

    def frauds(side: str, wallet: str) -> str:
        edges = (f"{now[side]} - $5 + ({offset})" for offset in fraud_edge_times(0, 0))
        return _counts(statements.FRAUDS_BEFORE.format(side=side), wallet, edges)

    columns = (
        f"EXISTS ({_numbered(statements.ATTEMPT_ID)})",
        f"EXISTS ({_numbered(statements.IS_LABELLED)})",
        "source.events",
        _counts(statements.FAILURES_BEFORE, "$2", failure_edges),
        frauds("source", "$2"),
        "destination.events",
        frauds("destination", "$3"),
    )
    tails = f"{_tail('source', '$2')} source, {_tail('destination', '$3')} destination"
    return f"SELECT {', '.join(columns)} FROM {tails}"


class PostgreSQLTurn(Turn):
    """Statements wait for the next one that answers, so each round trip takes what it can."""

    _WRITE = _numbered(
        f"WITH attempt AS ({statements.INSERT_ATTEMPT} RETURNING id) "
        + statements.insert_record("(SELECT id FROM attempt)")
    )
    # Of: source, times; destination, times.
    _SEEK = (
        f"SELECT {_events('source', '$1', '$2', EVENT_BYTES)}, "
        f"{_events('destination', '$3', '$4', INCOMING_BYTES)}"
    )
    _READ = _read_statement()
    _BEGIN = (
        f"BEGIN ISOLATION LEVEL READ COMMITTED; {LIMITS}"
        # A plan is made once and kept, so it has to suit tables that were empty then and wallets
        # with any number of rows: walk along the indexes, in their order.
        "SET LOCAL plan_cache_mode = force_generic_plan; "
        f"SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; {LIMIT_WAIT}"
    ).encode()
    _END_WAIT = END_WAIT.encode()
    _SHARE = b"pg_advisory_xact_lock_shared(%d, %d)" % EVERYTHING
    # Planning these costs as much as running them, so a connection keeps them prepared. They are
    # named after their text, so that no release runs what another prepared on a pooled connection.
    _NAME = hashlib.sha256(f"{_WRITE};{_SEEK};{_READ}".encode()).hexdigest()[:8]
    # The read comes last: where it is prepared, so are the others.
    _PREPARE = (
        f"PREPARE write_{_NAME} ({', '.join(statements.SQL_TYPES)}) AS {_WRITE}; "
        f"PREPARE seek_{_NAME} (text, bigint[], text, bigint[]) AS {_SEEK}; "
        f"PREPARE read_{_NAME} (text, text, text, bigint, bigint) AS {_READ}; "
    ).encode()
    _EXECUTE_WRITE = f"EXECUTE write_{_NAME}(".encode()
    _EXECUTE_SEEK = f"EXECUTE seek_{_NAME}(".encode()
    _EXECUTE_READ = f"EXECUTE read_{_NAME}(".encode()

    def __init__(self, subjects: Sequence[Transaction]) -> None:
        locks = (b"pg_advisory_xact_lock(%d)" % key for key in _keys(subjects))
        self._pending = b"SELECT %b; %b" % (b", ".join((self._SHARE, *locks)), self._END_WAIT)
        self._is_begun = False

    def _read(self, subject: Transaction, label_delay: int) -> Read | None:
        values = (
            subject.transaction_id,
            subject.source_wallet_id,
            subject.destination_wallet_id,
            subject.created_at_us,
            label_delay,
        )
        result = self._send(self._EXECUTE_READ + wire.literals(values) + b")")
        is_known, is_labelled, *columns = (result.get_value(0, n) for n in range(result.nfields))
        if is_known == b"t":
            return None
        events, failures, source_frauds, incoming, destination_frauds = columns
        return Read(
            wire.decode_bytea(events),
            wire.decode_integers(failures, NO_FAILURES),
            wire.decode_integers(source_frauds, NO_FRAUDS),
            wire.decode_bytea(incoming),
            wire.decode_integers(destination_frauds, NO_FRAUDS),
            is_labelled == b"t",
        )

    def _seek(
        self, subject: Transaction, times: Sequence[int], incoming_times: Sequence[int]
    ) -> tuple[bytes, bytes]:
        values = (
            subject.source_wallet_id,
            wire.array(times),
            subject.destination_wallet_id,
            wire.array(incoming_times),
        )
        result = self._send(self._EXECUTE_SEEK + wire.literals(values) + b")")
        return wire.decode_bytea(result.get_value(0, 0)), wire.decode_bytea(result.get_value(0, 1))

    def write(self, record: NewRecord) -> None:
        self._pending += self._EXECUTE_WRITE + wire.literals(record) + b"); "

    def attempt_id(self, transaction_id: str) -> int:
        find, _, _ = statements.ATTEMPT_ID.partition("%s")
        result = self._send(find.encode() + wire.literals((transaction_id,)))
        return int(result.get_value(0, 0) or 0)

    def end(self, *, is_kept: bool) -> None:
        """Commit, or check all that a commit would and undo it."""
        self._send(b"COMMIT" if is_kept else b"SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK")
        self._is_begun = False

    def abandon(self) -> None:
        """Undo whatever is open."""
        if self._is_begun:
            _roll_back()

    def _send(self, statement: bytes) -> PGresult:
        script, self._pending = self._pending + statement, b""
        if self._is_begun:
            return wire.execute(script)
        result = self._begin(script)
        self._is_begun = True
        return result

    def _begin(self, script: bytes) -> PGresult:
        """Send the first statements; once more when the connection turns out to be closed, or new.

        Nothing was written yet, so the attempt itself is the check of the connection. It also
        finds a connection on which the statements are not prepared: a new one, or another one that
        a pooler chose.
        """
        try:
            return wire.execute(self._BEGIN + script)
        except BaseException as error:
            _roll_back()
            is_lost = connection.connection is None
            if not is_lost and not isinstance(error.__cause__, InvalidSqlStatementName):
                raise
        connect()
        try:
            return wire.execute(self._BEGIN + self._PREPARE + script)
        except BaseException:
            _roll_back()
            connection.close()  # one of them may be prepared, which a rollback does not undo
            raise


def _roll_back() -> None:
    """Undo whatever is open; a connection that can't is not used again."""
    if connection.connection is None:
        return
    try:
        wire.execute(b"ROLLBACK")
    except (DatabaseError, InterfaceError):
        connection.close()


def connect() -> None:
    """Connect where there is no connection. A turn is its check: a cursor in the middle of one must
    neither ask whether the connection lives nor replace it."""
    connection.ensure_connection()
    connection.health_check_done = True  # type: ignore[attr-defined]  # missing in the stubs


def _keys(subjects: Iterable[Transaction]) -> list[int]:
    wallets = (w for s in subjects for w in (s.source_wallet_id, s.destination_wallet_id))
    return lock_keys(wallets, (subject.transaction_id for subject in subjects))
