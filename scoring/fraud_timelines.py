"""The timelines of confirmed frauds: of each wallet, the transactions whose label is fraud.

A row counts the frauds of its wallet up to its own, so that those of a window are the difference
of two rows. Whoever changes timelines holds their wallets; the statements suit both databases, and
each takes its attempts in one parameter, however many they are.
"""

# ruff: noqa: S608 (statements are put together from constants; values are always parameters)

import json
from collections.abc import Collection

from django.db import connection

# The places of attempts in the timelines of their two wallets.
_PLACES = """
SELECT 'source' AS side, source_wallet_id AS wallet_id, source_time AS time, id AS attempt_id
FROM scoring_attempt WHERE id {these}
UNION ALL
SELECT 'destination', destination_wallet_id, destination_time, id
FROM scoring_attempt WHERE id {these}
"""
_INSERT = f"""
INSERT INTO scoring_confirmedfraud (side, wallet_id, time, attempt_id, total)
SELECT side, wallet_id, time, attempt_id, 0 FROM ({_PLACES}) places
"""
_DELETE = "DELETE FROM scoring_confirmedfraud WHERE attempt_id {these}"
# Every timeline is counted again from its first change on. Its times never fall as the ids of its
# attempts rise, so the two minima are one place.
_COUNT = f"""
WITH changed AS MATERIALIZED (
    SELECT side, wallet_id, min(time) AS time, min(attempt_id) AS attempt_id
    FROM ({_PLACES}) places GROUP BY side, wallet_id
), start AS MATERIALIZED (
    SELECT changed.*, coalesce((
        SELECT total FROM scoring_confirmedfraud f
        WHERE f.side = changed.side AND f.wallet_id = changed.wallet_id
            AND (f.time, f.attempt_id) < (changed.time, changed.attempt_id)
        ORDER BY f.time DESC, f.attempt_id DESC LIMIT 1), 0) AS total
    FROM changed
), counted AS (
    SELECT f.id, start.total + row_number() OVER (
        PARTITION BY f.side, f.wallet_id ORDER BY f.time, f.attempt_id) AS total
    FROM start JOIN scoring_confirmedfraud f
        ON f.side = start.side AND f.wallet_id = start.wallet_id
        AND (f.time, f.attempt_id) >= (start.time, start.attempt_id)
)
UPDATE scoring_confirmedfraud SET total = counted.total
FROM counted WHERE counted.id = scoring_confirmedfraud.id
    AND counted.total <> scoring_confirmedfraud.total
"""


def change(*, confirmed: Collection[int], withdrawn: Collection[int]) -> None:
    """Put attempts, by id, into the timelines of their wallets, and take others out.

    Inside a database transaction that holds the wallets. None of the confirmed are there yet.
    """
    if confirmed:
        _execute(_INSERT, confirmed)
    if withdrawn:
        _execute(_DELETE, withdrawn)
    if confirmed or withdrawn:
        _execute(_COUNT, [*confirmed, *withdrawn])


def _execute(statement: str, attempts: Collection[int]) -> None:
    value: str | list[int]
    if connection.vendor == "sqlite":
        these, value = "IN (SELECT value FROM json_each(%s))", json.dumps(list(attempts))
    else:
        these, value = "= ANY(%s::bigint[])", list(attempts)
    with connection.cursor() as cursor:
        cursor.execute(statement.format(these=these), [value] * statement.count("{these}"))
