"""Transactions' turns: their wallets locked, the past read, their own records written.

This is the hot path, so it is SQL: on PostgreSQL one round trip opens the transaction, takes the
locks and reads; one more seeks what lies before a long tail; and a last one writes and commits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from django.db import connection, transaction

from engine.transaction import Transaction
from scoring.history import statements
from scoring.history.locks import lock, lock_all
from scoring.history.postgresql import PostgreSQLTurn, connect
from scoring.history.sqlite import SQLiteTurn
from scoring.history.statements import NewRecord
from scoring.history.turn import Past, Turn

__all__ = [
    "NewRecord",
    "Past",
    "StoredDecision",
    "Turn",
    "lock",
    "lock_all",
    "open_turn",
    "stored_decision",
]


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


@contextmanager
def open_turn(subjects: Sequence[Transaction], *, is_kept: bool = True) -> Iterator[Turn]:
    """Wait for the wallets and the ids of `subjects`, and hold them until the block ends.

    What the turn wrote is committed when this returns; nothing is, when it raises, nor when it is
    not to be kept.
    """
    if connection.vendor == "sqlite":
        with transaction.atomic(durable=True), connection.cursor() as cursor:
            yield SQLiteTurn(cursor)
            if not is_kept:
                transaction.set_rollback(True)
        return
    connect()
    turn = PostgreSQLTurn(subjects)
    try:
        yield turn
        turn.end(is_kept=is_kept)
    finally:
        turn.abandon()


def stored_decision(transaction_id: str) -> StoredDecision | None:
    """What was answered to a transaction, None when it was never recorded."""
    with connection.cursor() as cursor:
        cursor.execute(statements.STORED, [transaction_id])
        row = cursor.fetchone()
    if row is None:
        return None
    return StoredDecision(bytes(row[0]), *row[1:])
