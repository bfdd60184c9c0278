"""Who may touch a wallet's timelines: one at a time.

On PostgreSQL each wallet has an advisory lock, and so has each transaction id, taken in sorted
order, so that two transfers in opposite directions can't wait for each other. SQLite has one writer
at a time, which BEGIN IMMEDIATE chooses.
"""

import hashlib
import time
from collections.abc import Iterable
from typing import Final

from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from engine.transaction import wallet_code

LOCK_TIMEOUT: Final = "5s"
"""How long a request waits for all of its wallets before it is answered 503."""

LIMITS: Final = (
    f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; "
    # A process that vanished or hangs does not keep its wallets until TCP gives it up.
    "SET LOCAL idle_in_transaction_session_timeout = '10s'; "
)
LIMIT_WAIT: Final = f"SET LOCAL statement_timeout = '{LOCK_TIMEOUT}'; "
"""Before the one statement that takes all locks: `lock_timeout` is for each of them."""
END_WAIT: Final = "SET LOCAL statement_timeout TO DEFAULT; "

MANY_LOCKS: Final = 64
_BATCH_LOCK: Final = (0x5E57, 1)
"""PostgreSQL keeps advisory locks in a table of fixed size (about 64 a connection), so requests
that take more than that go one at a time. Two 32-bit keys never meet the 64 bits of the others.
"""

EVERYTHING: Final = (0x5E57, 2)
"""Held shared by whoever holds some wallets, and alone by whoever holds all of them."""

_PATIENCE: Final = 60.0
_PAUSE: Final = 0.3
_QUEUED: Final = "200ms"


def lock_all() -> None:
    """Inside a transaction, wait until nobody holds a wallet, and hold all until it ends.

    Requests that come while this waits stand behind it in PostgreSQL's queue, so it waits there for
    moments only, with pauses in which they pass. Raises OperationalError after a minute.
    """
    if connection.vendor == "sqlite":
        return
    give_up = time.monotonic() + _PATIENCE
    while not _locked_everything(is_last=time.monotonic() > give_up):
        time.sleep(_PAUSE)
    with connection.cursor() as cursor:
        cursor.execute(LIMITS)


def _locked_everything(*, is_last: bool) -> bool:
    """Try it for a moment; raises OperationalError when the last try fails."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{_QUEUED}'")
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", EVERYTHING)
    except OperationalError as error:
        if is_last or not isinstance(error.__cause__, LockNotAvailable):
            raise
        return False
    return True


def lock(wallets: Iterable[str], transactions: Iterable[str] = ()) -> None:
    """Inside a transaction, wait for these wallets and transaction ids and hold them until it
    ends."""
    if connection.vendor == "sqlite":
        return
    keys = lock_keys(wallets, transactions)
    first = "pg_advisory_xact_lock_shared({}, {})".format(*EVERYTHING)
    if len(keys) > MANY_LOCKS:
        first += ", pg_advisory_xact_lock({}, {})".format(*_BATCH_LOCK)
    # PostgreSQL evaluates columns from left to right, and a function scan returns an array in its
    # order: sorted, as every turn takes its locks.
    each = "(SELECT count(pg_advisory_xact_lock(key)) FROM unnest(%s::bigint[]) AS key)"
    with connection.cursor() as cursor:
        cursor.execute(LIMITS + LIMIT_WAIT)
        cursor.execute(f"SELECT {first}, {each}", [keys])
        cursor.execute(END_WAIT)


def lock_keys(wallets: Iterable[str], transactions: Iterable[str]) -> list[int]:
    """The advisory keys, in the one order in which all take them."""
    keys = {wallet_code(wallet) for wallet in wallets}
    return sorted(keys.union(map(_transaction_key, transactions)))


def _transaction_key(transaction_id: str) -> int:
    """Another 64 bits than those of a wallet with the same name."""
    digest = hashlib.blake2b(transaction_id.encode(), digest_size=8, person=b"transaction")
    return int.from_bytes(digest.digest(), "little", signed=True)
