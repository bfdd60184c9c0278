"""Past transactions as history: appended to the timelines of their wallets, many at once.

What a chunk adds is worked out for all of its rows together: the running totals by the code that
replays data sets, the rest by one statement a table.
"""

# ruff: noqa: S608 (statements are put together from constants; values are always parameters)

import json
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from django.db import connection
from numpy.typing import NDArray

from engine.errors import HistoryConflict
from engine.features.kernel import TIME
from engine.features.live import EVENT_BYTES, INCOMING_BYTES
from engine.features.timelines import Timeline, timeline
from engine.transaction import wallet_code
from scoring import labels
from scoring.history import statements
from scoring.models import Verdict

Ints = NDArray[np.int64]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PastTransactions(NamedTuple):
    """Transactions in the order of their time, one entry each.

    `created_at` in µs, `amount` in ten-thousandths, `country` as codes. `failures` and `known_at`
    hold, by row, how a transaction failed (FAILED or CANCELED) and when a fraud became known.
    """

    transaction_id: Sequence[str]
    created_at: Ints
    amount: Ints
    source: Sequence[str]
    destination: Sequence[str]
    country: Ints
    failures: dict[int, str]
    known_at: dict[int, datetime]


def append(rows: PastTransactions, *, stated_by: str, now: datetime) -> None:
    """Add transactions to history: attempts, failures and labels, as known from now on.

    Inside a database transaction that holds all of history (`history.lock_all`). What failed is
    known to the next row, as in a data set. `stated_by` is who the labels are from.

    Raises:
        HistoryConflict: an id is in history already, or a wallet has a transaction that is later
            than one of these; the database transaction has to be rolled back.
    """
    _refuse_known(rows.transaction_id)
    codes = {wallet: wallet_code(wallet) for wallet in {*rows.source, *rows.destination}}
    source = np.array([codes[wallet] for wallet in rows.source], np.int64)
    destination = np.array([codes[wallet] for wallet in rows.destination], np.int64)
    once, never = np.ones_like(rows.amount), np.zeros_like(rows.amount)
    outgoing = timeline(
        source, rows.created_at,
        kept=[rows.amount, destination, rows.country], added=[once, rows.amount, never],
    )  # fmt: skip
    incoming = timeline(destination, rows.created_at, kept=[source], added=[once, rows.amount])
    _continue(outgoing, "source", rows.source, rows, totals=3)
    _continue(incoming, "destination", rows.destination, rows, totals=2)
    ids = _insert_attempts(rows, outgoing, incoming)
    _insert_failures(rows, ids, now)
    labelled = _of_each(f"({statements.IS_LABELLED})", rows.transaction_id)
    _insert_labels(rows, labelled, stated_by, now)
    told = [at for at, each in enumerate(rows.transaction_id) if each in labelled]
    labels.attach([ids[at] for at in {*told, *rows.known_at}])


def _refuse_known(transaction_ids: Sequence[str]) -> None:
    known = _of_each(f"({statements.ATTEMPT_ID})", transaction_ids)
    if known:
        raise HistoryConflict(f"“{next(iter(known))}” is in history already.")


def _continue(
    line: Timeline, side: str, wallets: Sequence[str], rows: PastTransactions, totals: int
) -> None:
    """Let the running totals of each wallet go on from those that it has."""
    firsts = line.order[line.starts[:-1]].tolist()
    latest = _of_each(
        _last(statements.EVENT_BEFORE.format(side=side)), [wallets[f] for f in firsts]
    )
    if not latest:
        return
    before = np.zeros((len(firsts), line.events.shape[1]), np.int64)
    for number, first in enumerate(firsts):
        event = latest.get(wallets[first])
        if event is None:
            continue
        before[number] = np.frombuffer(event, "<i8")
        if before[number, TIME] > rows.created_at[first]:
            raise HistoryConflict(
                f"“{rows.transaction_id[first]}” is of {_moment(rows.created_at[first])}, but "
                f"history has a later transaction of wallet “{wallets[first]}” already, of "
                f"{_moment(before[number, TIME])}."
            )
    line.events[:, -totals:] += before[line.wallets, -totals:]


def _moment(time: np.int64) -> str:
    return (_EPOCH + timedelta(microseconds=int(time))).isoformat(timespec="seconds")


def _insert_attempts(rows: PastTransactions, outgoing: Timeline, incoming: Timeline) -> range:
    """Write the attempts; returns their ids."""
    ids = _new_ids(len(rows.transaction_id))
    out, into = outgoing.events[outgoing.places()], incoming.events[incoming.places()]
    columns = ("id", *statements.ATTEMPT_COLUMNS)
    _insert(
        "scoring_attempt",
        columns,
        zip(
            ids, rows.transaction_id, rows.source, rows.destination,
            out[:, TIME].tolist(), _pieces(out, EVENT_BYTES),
            into[:, TIME].tolist(), _pieces(into, INCOMING_BYTES),
            strict=True,
        ),
    )  # fmt: skip
    return ids


def _pieces(events: Ints, size: int) -> list[bytes]:
    packed = events.astype("<i8").tobytes()
    return [packed[at : at + size] for at in range(0, len(packed), size)]


def _insert_failures(rows: PastTransactions, ids: Sequence[int], now: datetime) -> None:
    """Continue the failure timelines. No failure is later than its wallet's latest attempt, so
    these stand at the end."""
    wallets = {rows.source[at] for at in rows.failures}
    counts = _of_each(_last(statements.FAILURES_BEFORE), list(wallets))
    written = []
    for at, status in sorted(rows.failures.items()):
        wallet, time = rows.source[at], int(rows.created_at[at])
        counts[wallet] = counts.get(wallet, 0) + 1
        made = _EPOCH + timedelta(microseconds=time)
        written.append((ids[at], status, made, now, wallet, time, counts[wallet]))
    columns = ("attempt_id", "status", "occurred_at", "received_at",
               "failure_wallet_id", "failure_time", "failure_count")  # fmt: skip
    _insert("scoring_outcome", columns, written)


def _insert_labels(
    rows: PastTransactions, labelled: Container[str], stated_by: str, now: datetime
) -> None:
    """Write the labels of those that have none. The last one received counts, so a label from the
    data set would take back what somebody who knew better stated before."""
    columns = ("transaction_id", "verdict", "known_at", "received_at", "source", "note",
               "stated_by")  # fmt: skip
    _insert("scoring_label", columns, [
        (rows.transaction_id[at], Verdict.FRAUD.value, known_at, now, "backfill", "", stated_by)
        for at, known_at in sorted(rows.known_at.items())
        if rows.transaction_id[at] not in labelled
    ])  # fmt: skip


# --- What the two databases do differently --------------------------------------------------


def _last(statement: str) -> str:
    """What a statement of a timeline before a time finds of `each.value` at its end."""
    of_each = statement.replace("%s", "each.value", 1).replace("%s", str(statements.EVER), 1)
    return f"({of_each})"


def _of_each(find: str, values: Sequence[str]) -> dict[str, Any]:
    """What SQL finds of each of some texts, without those of which it finds nothing."""
    find = find.replace("%s", "each.value")
    texts: str
    parameter: str | list[str]
    if connection.vendor == "sqlite":
        texts, parameter = "json_each(%s) AS each", json.dumps(values)
    else:
        texts, parameter = "unnest(%s::text[]) AS each (value)", list(values)
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH each_found AS MATERIALIZED (SELECT each.value, {find} AS found FROM {texts}) "
            "SELECT value, found FROM each_found WHERE found IS NOT NULL",
            [parameter],
        )
        return dict(cursor.fetchall())


def _new_ids(count: int) -> range:
    """Ids above all others; nobody else takes any, because all of history is held."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT coalesce(max(id), 0) FROM scoring_attempt")
        else:
            sequence = "pg_get_serial_sequence('scoring_attempt', 'id')"
            cursor.execute(
                f"SELECT setval({sequence}, nextval({sequence}) + %s) - %s", [count - 1, count]
            )
        (last,) = cursor.fetchone()
        return range(last + 1, last + 1 + count)


def _insert(table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.executemany(statements.insert(table, columns), list(rows))
            return
        copy_in = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with connection.wrap_database_errors, cursor.copy(copy_in) as copy:
            for row in rows:
                copy.write_row(row)
