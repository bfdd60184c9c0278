"""Who may touch a wallet's timelines: one at a time.

On PostgreSQL each wallet has an advisory lock, and so has each transaction id, taken in sorted
order, so that two transfers in opposite directions can't wait for each other. SQLite has one writer
at a time, which BEGIN IMMEDIATE chooses.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from django.db import connection

from engine.transaction import wallet_code

LOCK_TIMEOUT: Final = "5s"
"""How long a request waits for its wallets before it is answered 503."""

MANY_LOCKS: Final = 64
_BATCH_LOCK: Final = (0x5E57, 1)
"""PostgreSQL keeps advisory locks in a table of fixed size (about 64 a connection), so requests
that take more than that go one at a time. Two 32-bit keys never meet the 64 bits of the others.
"""

EVERYTHING: Final = (0x5E57, 2)
"""Held shared by whoever holds some wallets, and alone by whoever holds all of them."""

_PATIENCE: Final = "60s"


def lock_all() -> None:
    """Inside a transaction, wait until nobody holds a wallet, and hold all until it ends."""
    if connection.vendor == "sqlite":
        return
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", EVERYTHING)


def lock(wallets: Iterable[str], transactions: Iterable[str] = ()) -> None:
    """Inside a transaction, wait for these wallets and transaction ids and hold them until it
    ends."""
    if connection.vendor == "sqlite":
        return
    keys = lock_keys(wallets, transactions)
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", EVERYTHING)
        if len(keys) > MANY_LOCKS:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", _BATCH_LOCK)
        # A function scan returns an array in its order: sorted, as every turn takes its locks.
        cursor.execute("SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key", [keys])


def lock_keys(wallets: Iterable[str], transactions: Iterable[str]) -> list[int]:
    """The advisory keys, in the one order in which all take them."""
    keys = {wallet_code(wallet) for wallet in wallets}
    return sorted(keys.union(map(_transaction_key, transactions)))


def _transaction_key(transaction_id: str) -> int:
    """Another 64 bits than those of a wallet with the same name."""
    digest = hashlib.blake2b(transaction_id.encode(), digest_size=8, person=b"transaction")
    return int.from_bytes(digest.digest(), "little", signed=True)
