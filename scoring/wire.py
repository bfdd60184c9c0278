"""Several statements in one round trip to PostgreSQL, straight through libpq.

A cursor of psycopg under Django's takes about 30 µs more for each, which on the hot path is as much
as reading a wallet's history. psycopg's connection, its escaping and its errors are used as ever.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

import numpy as np
from django.db import connection
from numpy.typing import NDArray
from psycopg.errors import error_from_result
from psycopg.pq import Escaping, ExecStatus
from psycopg.pq.abc import PGresult

Value = str | bytes | int | float | datetime | None

_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


def execute(statements: bytes) -> PGresult:
    """Run statements on the open connection, in order; returns the last result, in text format.

    Values have to be in them as `literals`. Raises Django's database errors, and runs nothing
    after a statement that failed.
    """
    with connection.wrap_database_errors:
        result: PGresult = connection.connection.pgconn.exec_(statements)
        if result.status not in _DONE:
            raise error_from_result(result)
    return result


def literals(values: tuple[Value, ...]) -> bytes:
    """The values as SQL literals, separated by commas. Texts hold no NUL."""
    escape = Escaping(connection.connection.pgconn).escape_literal
    return b", ".join([_literal(value, escape) for value in values])


def _literal(value: Value, escape: Callable[[bytes], memoryview | bytes]) -> bytes:
    if isinstance(value, str):
        return bytes(escape(value.encode()))
    if value is None:
        return b"NULL"
    if isinstance(value, bytes):
        return b"E'\\\\x%b'" % value.hex().encode()
    if isinstance(value, datetime):
        return b"'%b'" % value.isoformat().encode()
    return repr(value).encode()


def decode_bytea(value: bytes | None) -> bytes:
    """A `bytea` of a result; empty for NULL."""
    return bytes(Escaping().unescape_bytea(value)) if value else b""


def array(values: Iterable[int]) -> str:
    """Integers as the text of an SQL array."""
    return "{" + ",".join(map(str, values)) + "}"


def decode_integers(value: bytes | None, default: NDArray[np.int64]) -> NDArray[np.int64]:
    """A one-dimensional array of integers of a result; `default` for NULL."""
    if value is None:
        return default
    return np.array([int(each) for each in value[1:-1].split(b",")], dtype=np.int64)
