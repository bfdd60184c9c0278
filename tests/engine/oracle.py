"""The features in plain Python, slow and obvious; it shares no code with the engine.

Written from the definitions in docs/features.md: integers and fractions, one scan of everything
before a row for each of its features. What the engine computes must be equal to this.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WINDOWS = {"5m": 5 * MINUTE, "1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
DESTINATION_WINDOWS = ("1h", "24h", "7d", "30d")
FRAUD_WINDOWS = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
LAST = 1_000

Value = Fraction | float | int | None


@dataclass(frozen=True)
class Row:
    """One attempt: microseconds UTC, ten-thousandths, codes (country -1: not known)."""

    created_at: int
    amount: int = 10_000
    source: int = 1
    destination: int = 2
    country: int = -1
    failed_from: int | None = None  # the first row that knows that this one failed
    fraud_from: int | None = None  # the first row that knows that this one was a fraud
    blocked: bool = False


def features(
    rows: Sequence[Row], at: Iterable[int] | None = None, label_delay: int = 7 * DAY
) -> list[dict[str, Value]]:
    """Each feature by name (None: not known) of all rows, or of the rows `at`."""
    source_times = _times(rows, [row.source for row in rows])
    destination_times = _times(rows, [row.destination for row in rows])
    return [
        _row(rows, source_times, i)
        | _incoming(rows, destination_times, i)
        | _frauds(rows, source_times, destination_times, i, label_delay)
        for i in (range(len(rows)) if at is None else at)
    ]


def _times(rows: Sequence[Row], wallets: Sequence[int]) -> list[int]:
    """Each row's time in its wallet's timeline."""
    times: list[int] = []
    latest: dict[int, int] = {}
    for row, wallet in zip(rows, wallets, strict=True):
        times.append(max(row.created_at, latest.get(wallet, row.created_at)))
        latest[wallet] = times[-1]
    return times


def _row(rows: Sequence[Row], times: Sequence[int], i: int) -> dict[str, Value]:
    row, now = rows[i], times[i]
    before = [j for j in range(i) if rows[j].source == row.source]

    def every(window: int) -> list[int]:
        return [j for j in before if times[j] >= now - window]

    def last(window: int) -> list[int]:
        return [j for j in before[-LAST:] if times[j] >= now - window]

    out: dict[str, Value] = {}
    for name, window in WINDOWS.items():
        amounts = [rows[j].amount for j in every(window)]
        out[f"src_tx_count_out_{name}"] = len(amounts)
        out[f"src_tx_amount_sum_out_{name}"] = Fraction(sum(amounts), 10_000)
        out[f"src_tx_amount_mean_out_{name}"] = (
            Fraction(sum(amounts), 10_000 * len(amounts)) if amounts else 0
        )
        out[f"src_tx_amount_max_out_{name}"] = Fraction(
            max((rows[j].amount for j in last(window)), default=0), 10_000
        )
        out[f"src_unique_destinations_{name}"] = len({rows[j].destination for j in last(window)})

    def pair(window: int) -> list[int]:
        return [j for j in last(window) if rows[j].destination == row.destination]

    month = last(30 * DAY)
    for name in ("24h", "7d", "30d"):
        out[f"is_new_destination_{name}"] = 0 if pair(WINDOWS[name]) else 1
    out["src_to_dst_tx_count_30d"] = len(pair(30 * DAY))
    out["days_since_last_src_to_dst"] = (
        Fraction(now - times[pair(30 * DAY)[-1]], DAY) if pair(30 * DAY) else -1
    )
    week = Counter(rows[j].destination for j in last(7 * DAY))
    out["src_destination_concentration_7d"] = (
        Fraction(max(week.values()), week.total()) if week else 0
    )
    out["src_destination_entropy_7d"] = math.fsum(
        -n / week.total() * math.log2(n / week.total()) for n in week.values()
    )
    places = Counter(rows[j].country for j in month if rows[j].country != -1)
    if row.country == -1:
        out["is_new_country_30d"] = out["country_mismatch"] = 0
    else:
        out["is_new_country_30d"] = 0 if places[row.country] else 1
        out["country_mismatch"] = int(any(n > places[row.country] for n in places.values()))
    out.update(_status(rows, times, i, before, len(every(7 * DAY))))
    out["avg_amount_30d"] = out["src_tx_amount_mean_out_30d"] if every(30 * DAY) else None
    out["tx_last_10min"] = len(every(10 * MINUTE))
    out["is_new_beneficiary"] = (0 if pair(30 * DAY) else 1) if month else None
    out["blocked_tx_last_24h"] = sum(rows[j].blocked for j in every(DAY))
    return out


def _status(
    rows: Sequence[Row], times: Sequence[int], i: int, before: Sequence[int], attempts_7d: int
) -> dict[str, Value]:
    heard = [j for j in before if (known := rows[j].failed_from) is not None and known <= i]
    heard.sort(key=lambda j: (rows[j].failed_from, j))
    entered: list[int] = []
    for j in heard:
        entered.append(max([times[j], *entered]))
    failed_7d = sum(time >= times[i] - 7 * DAY for time in entered)
    return {
        "src_failed_count_24h": sum(time >= times[i] - DAY for time in entered),
        "src_failed_ratio_7d": min(Fraction(1), Fraction(failed_7d, attempts_7d))
        if attempts_7d
        else 0,
    }


def _incoming(rows: Sequence[Row], times: Sequence[int], i: int) -> dict[str, Value]:
    before = [j for j in range(i) if rows[j].destination == rows[i].destination]
    out: dict[str, Value] = {}
    for name in DESTINATION_WINDOWS:
        recent = [j for j in before if times[j] >= times[i] - WINDOWS[name]]
        total = Fraction(sum(rows[j].amount for j in recent), 10_000)
        out[f"dst_tx_count_in_{name}"] = len(recent)
        out[f"dst_tx_amount_sum_in_{name}"] = total
        out[f"dst_tx_amount_mean_in_{name}"] = total / len(recent) if recent else 0
        seen = set(recent) & set(before[-LAST:])
        out[f"dst_unique_sources_{name}"] = len({rows[j].source for j in seen})
    return out


def _frauds(
    rows: Sequence[Row],
    source_times: Sequence[int],
    destination_times: Sequence[int],
    i: int,
    label_delay: int,
) -> dict[str, Value]:
    out: dict[str, Value] = {}
    for name, window in FRAUD_WINDOWS.items():

        def mature(times: Sequence[int], j: int, window: int = window) -> bool:
            age = times[i] - times[j] - label_delay
            return 0 < age <= window

        incoming = [
            j
            for j in range(i)
            if rows[j].destination == rows[i].destination and mature(destination_times, j)
        ]
        outgoing = [
            j for j in range(i) if rows[j].source == rows[i].source and mature(source_times, j)
        ]
        frauds_in = sum(_is_known_fraud(rows[j], i) for j in incoming)
        out[f"dst_fraud_count_{name}"] = frauds_in
        out[f"dst_fraud_ratio_{name}"] = Fraction(frauds_in, len(incoming)) if incoming else 0
        out[f"src_fraud_count_{name}"] = sum(_is_known_fraud(rows[j], i) for j in outgoing)
    return out


def _is_known_fraud(row: Row, i: int) -> bool:
    return row.fraud_from is not None and row.fraud_from <= i
