"""The live side: wallets' histories as stored bytes, and one transaction's features from them."""

import struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features import kernel
from engine.features.catalogue import (
    ADDITIVE_WINDOWS,
    DAY,
    FAILURE_WINDOWS,
    FRAUD_WINDOWS,
    INCOMING_WINDOWS,
    LABEL_DELAY,
    PLAN,
    Plan,
)

_EVENT: Final = struct.Struct(f"<{kernel.EVENT_COLUMNS}q")
_INCOMING: Final = struct.Struct(f"<{kernel.INCOMING_COLUMNS}q")
EVENT_BYTES: Final = _EVENT.size
INCOMING_BYTES: Final = _INCOMING.size
_WRAP: Final = 1 << 64

NO_EVENTS: Final = np.empty((0, kernel.EVENT_COLUMNS), dtype=np.int64)
NO_EDGES: Final = np.zeros((len(ADDITIVE_WINDOWS), kernel.TOTALS), dtype=np.int64)
NO_FAILURES: Final = np.zeros(1 + len(FAILURE_WINDOWS), dtype=np.int64)
NO_INCOMING: Final = np.empty((0, kernel.INCOMING_COLUMNS), dtype=np.int64)
NO_INCOMING_EDGES: Final = np.zeros(
    (len(INCOMING_WINDOWS) + 1 + len(FRAUD_WINDOWS), kernel.INCOMING_TOTALS), dtype=np.int64
)
NO_FRAUDS: Final = np.zeros(1 + len(FRAUD_WINDOWS), dtype=np.int64)


class History(NamedTuple):
    """What is known of a transaction's two wallets when it arrives.

    Of the source wallet:

    `events`: (n <= 1000, 7) int64, its latest attempts, oldest first.
    `edges`: (len(ADDITIVE_WINDOWS), 3) int64, the running totals (count, amount sum, blocked) of
    its last event strictly before each window's edge, 0 when there is none; read only for the
    windows that begin before `events[0]` (see `windows_to_seek`).
    `failures`: (1 + len(FAILURE_WINDOWS),) int64, the failures known by now: in all, and those
    with a time before each failure window's edge.

    Of the destination wallet:

    `incoming`: (m <= 1000, 4) int64, its latest incoming attempts, oldest first.
    `incoming_edges`: (k, 2) int64, the running totals (count, amount sum) of its last incoming
    event strictly before each of `incoming_edge_times`, 0 when there is none; read only where the
    tail does not reach (see `incoming_edges_to_seek`).

    Of either, in its own timeline, `source_frauds` and `destination_frauds`:
    (1 + len(FRAUD_WINDOWS),) int64, the confirmed frauds known by now with a time strictly before
    each of `fraud_edge_times`.
    """

    events: NDArray[np.int64] = NO_EVENTS
    edges: NDArray[np.int64] = NO_EDGES
    failures: NDArray[np.int64] = NO_FAILURES
    incoming: NDArray[np.int64] = NO_INCOMING
    incoming_edges: NDArray[np.int64] = NO_INCOMING_EDGES
    source_frauds: NDArray[np.int64] = NO_FRAUDS
    destination_frauds: NDArray[np.int64] = NO_FRAUDS


EMPTY_HISTORY: Final = History()


def decode_events(rows: bytes) -> NDArray[np.int64]:
    """Encoded events, one after the other and oldest first, as (n, 7) int64 (not writeable).

    Raises ValueError when the bytes are not whole events.
    """
    return np.frombuffer(rows, dtype="<i8").reshape(-1, kernel.EVENT_COLUMNS)


def decode_incoming(rows: bytes) -> NDArray[np.int64]:
    """Encoded incoming events, likewise: (n, 4) int64.

    Raises ValueError when the bytes are not whole events.
    """
    return np.frombuffer(rows, dtype="<i8").reshape(-1, kernel.INCOMING_COLUMNS)


def effective_time(created_at_us: int, events: NDArray[np.int64]) -> int:
    """A transaction's time in a wallet's timeline: a late one takes its place at the end.

    `events` are the wallet's latest: those of a source, or the incoming ones of a destination.
    """
    return max(created_at_us, int(events[-1, kernel.TIME])) if len(events) else created_at_us


def windows_to_seek(events: NDArray[np.int64], now_us: int) -> tuple[int, ...]:
    """The indexes of ADDITIVE_WINDOWS whose edge lies before a tail that is not the whole history.

    For each, the caller looks up the last event with `time < now_us - ADDITIVE_WINDOWS[index]`.
    """
    if len(events) == 0 or events[0, kernel.COUNT] == 1:
        return ()
    oldest = int(events[0, kernel.TIME])
    return tuple(i for i, window in enumerate(ADDITIVE_WINDOWS) if now_us - window <= oldest)


def incoming_edge_times(now_us: int, label_delay: int) -> tuple[int, ...]:
    """The times (µs, of the destination's timeline) that the rows of `incoming_edges` are at.

    The edges of INCOMING_WINDOWS, the moment a label delay ago, and the edges of FRAUD_WINDOWS
    from there.
    """
    plain = (now_us - window for window in INCOMING_WINDOWS)
    return (*plain, *fraud_edge_times(now_us, label_delay))


def fraud_edge_times(now_us: int, label_delay: int) -> tuple[int, ...]:
    """The times (µs, of one wallet's timeline) before which confirmed frauds are counted."""
    known = now_us - label_delay
    return (known, *(known - window for window in FRAUD_WINDOWS))


def incoming_edges_to_seek(
    incoming: NDArray[np.int64], now_us: int, label_delay: int
) -> tuple[int, ...]:
    """The indexes of `incoming_edge_times` that lie before a tail that is not the whole history.

    For each, the caller looks up the last incoming event with a time strictly before it.
    """
    if len(incoming) == 0 or incoming[0, kernel.INCOMING_COUNT] == 1:
        return ()
    oldest = int(incoming[0, kernel.TIME])
    times = incoming_edge_times(now_us, label_delay)
    return tuple(index for index, time in enumerate(times) if time <= oldest)


def next_event(
    events: NDArray[np.int64],
    *,
    created_at_us: int,
    amount: int,
    destination: int,
    country: int,
    blocked: bool,
) -> bytes:
    """The record of a transaction that follows `events`, with the running totals up to it.

    `amount` in ten-thousandths; `destination` and `country` as codes; `blocked` whether it was
    decided BLOCK. The amount total wraps modulo 2**64, as differences of it do.
    """
    count, total, blocks = events[-1, kernel.COUNT :].tolist() if len(events) else (0, 0, 0)
    return _EVENT.pack(
        effective_time(created_at_us, events),
        amount,
        destination,
        country,
        count + 1,
        _wrapped(total + amount),
        blocks + blocked,
    )


def next_incoming(
    incoming: NDArray[np.int64], *, created_at_us: int, amount: int, source: int
) -> bytes:
    """The record of a transaction in its destination's timeline, where it follows `incoming`.

    `amount` in ten-thousandths, `source` as a code; totals as those of `next_event`.
    """
    latest = incoming[-1, kernel.INCOMING_COUNT :] if len(incoming) else NO_INCOMING_EDGES[0]
    count, total = latest.tolist()
    time = effective_time(created_at_us, incoming)
    return _INCOMING.pack(time, source, count + 1, _wrapped(total + amount))


def _wrapped(total: int) -> int:
    """A total as 64 bits hold it."""
    return (total + _WRAP // 2) % _WRAP - _WRAP // 2


def compute_live(
    *,
    created_at_us: int,
    destination: int,
    country: int,
    history: History,
    label_delay: int = LABEL_DELAY,
    plan: Plan = PLAN,
) -> NDArray[np.float64]:
    """The historical features of one transaction: (len(CATALOGUE),), in catalogue order.

    `label_delay` in µs, the one that `history` was read with.

    Raises ValueError for a history longer than the tail, which training would not have seen.
    """
    if max(len(history.events), len(history.incoming)) > kernel.TAIL:
        raise ValueError(
            f"a history holds at most {kernel.TAIL} events of a wallet, got "
            f"{len(history.events)} and {len(history.incoming)}"
        )
    row: NDArray[np.float64] = kernel.live_row(
        *history,
        effective_time(created_at_us, history.events),
        effective_time(created_at_us, history.incoming),
        label_delay,
        destination,
        country,
        *plan,
    )
    return row


def countries_30d(events: NDArray[np.int64], now_us: int) -> list[str]:
    """The countries (ISO 3166 alpha-2, sorted) of the wallet's latest attempts within 30 days."""
    recent = events[events[:, kernel.TIME] >= now_us - 30 * DAY, kernel.COUNTRY]
    codes = sorted(code for code in set(recent.tolist()) if 0 <= code < kernel.COUNTRIES)
    return [chr(65 + code // 26) + chr(65 + code % 26) for code in codes]
