"""Turns on SQLite."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from django.db.backends.utils import CursorWrapper

from engine.features.catalogue import FAILURE_WINDOWS
from engine.features.live import EVENT_BYTES, INCOMING_BYTES, fraud_edge_times
from engine.transaction import Transaction
from scoring.history import statements
from scoring.history.statements import ATTEMPT_COLUMNS, EVER, NewRecord
from scoring.history.turn import Ints, Read, Turn


class SQLiteTurn(Turn):
    """The transaction that is open already is the only one that may write."""

    _WRITE_RECORD = statements.insert_record("last_insert_rowid()")

    def __init__(self, cursor: CursorWrapper) -> None:
        self._cursor = cursor

    def _read(self, subject: Transaction, label_delay: int) -> Read | None:
        if self._value(statements.ATTEMPT_ID, subject.transaction_id) is not None:
            return None
        source, destination = subject.source_wallet_id, subject.destination_wallet_id
        events, now = self._tail("source", source, subject.created_at_us)
        incoming, incoming_now = self._tail("destination", destination, subject.created_at_us)
        failure_edges = [EVER, *(now - window for window in FAILURE_WINDOWS)]
        return Read(
            events=events,
            failures=self._counts(statements.FAILURES_BEFORE, source, failure_edges),
            source_frauds=self._frauds("source", source, fraud_edge_times(now, label_delay)),
            incoming=incoming,
            destination_frauds=self._frauds(
                "destination", destination, fraud_edge_times(incoming_now, label_delay)
            ),
            is_labelled=self._value(statements.IS_LABELLED, subject.transaction_id) is not None,
        )

    def _frauds(self, side: str, wallet: str, times: Sequence[int]) -> Ints:
        return self._counts(statements.FRAUDS_BEFORE.format(side=side), wallet, times)

    def _tail(self, side: str, wallet: str, created_at_us: int) -> tuple[bytes, int]:
        """A wallet's events, and the time in its timeline of what is created then."""
        self._cursor.execute(statements.TAIL.format(side=side), [wallet])
        rows = self._cursor.fetchall()
        latest = rows[0][0] if rows else created_at_us
        return b"".join(event for _, _, event in rows), max(latest, created_at_us)

    def _counts(self, statement: str, wallet: str, times: Sequence[int]) -> Ints:
        return np.array([self._value(statement, wallet, time) or 0 for time in times], np.int64)

    def _seek(
        self, subject: Transaction, times: Sequence[int], incoming_times: Sequence[int]
    ) -> tuple[bytes, bytes]:
        return (
            self._events_before("source", subject.source_wallet_id, times, EVENT_BYTES),
            self._events_before(
                "destination", subject.destination_wallet_id, incoming_times, INCOMING_BYTES
            ),
        )

    def _events_before(self, side: str, wallet: str, times: Sequence[int], size: int) -> bytes:
        statement = statements.EVENT_BEFORE.format(side=side)
        return b"".join(self._value(statement, wallet, time) or bytes(size) for time in times)

    def _value(self, statement: str, *parameters: Any) -> Any:
        self._cursor.execute(statement, parameters)
        row = self._cursor.fetchone()
        return row[0] if row else None

    def write(self, record: NewRecord) -> None:
        self._cursor.execute(statements.INSERT_ATTEMPT, record[: len(ATTEMPT_COLUMNS)])
        self._cursor.execute(self._WRITE_RECORD, record[len(ATTEMPT_COLUMNS) :])

    def attempt_id(self, transaction_id: str) -> int:
        return int(self._value(statements.ATTEMPT_ID, transaction_id))
