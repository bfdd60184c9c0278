"""The live side: a wallet's history as stored bytes, and one transaction's features from it."""

import struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.features import kernel
from engine.features.catalogue import ADDITIVE_WINDOWS, DAY, FAILURE_WINDOWS, PLAN, Plan

_EVENT: Final = struct.Struct(f"<{kernel.EVENT_COLUMNS}q")
EVENT_BYTES: Final = _EVENT.size
_WRAP: Final = 1 << 64


class SourceHistory(NamedTuple):
    """What is known of a source wallet when its next transaction arrives.

    `events`: (n <= 1000, 7) int64, the wallet's latest attempts, oldest first.
    `edges`: (len(ADDITIVE_WINDOWS), 3) int64, the running totals (count, amount sum, blocked) of
    the wallet's last event strictly before each window's edge, 0 when there is none; read only
    for the windows that begin before `events[0]` (see `windows_to_seek`).
    `failures`: (1 + len(FAILURE_WINDOWS),) int64, the failures known by now: in all, and those
    with a time before each failure window's edge.
    """

    events: NDArray[np.int64]
    edges: NDArray[np.int64]
    failures: NDArray[np.int64]


NO_EDGES: Final = np.zeros((len(ADDITIVE_WINDOWS), 3), dtype=np.int64)
NO_FAILURES: Final = np.zeros(1 + len(FAILURE_WINDOWS), dtype=np.int64)
EMPTY_HISTORY: Final = SourceHistory(
    np.empty((0, kernel.EVENT_COLUMNS), dtype=np.int64), NO_EDGES, NO_FAILURES
)


def decode_events(rows: bytes) -> NDArray[np.int64]:
    """Encoded events, one after the other and oldest first, as (n, 7) int64 (not writeable).

    Raises ValueError when the bytes are not whole events.
    """
    return np.frombuffer(rows, dtype="<i8").reshape(-1, kernel.EVENT_COLUMNS)


def effective_time(created_at_us: int, events: NDArray[np.int64]) -> int:
    """A transaction's place in its wallet's timeline: a late one takes its place at the end."""
    return max(created_at_us, int(events[-1, kernel.TIME])) if len(events) else created_at_us


def windows_to_seek(events: NDArray[np.int64], now_us: int) -> tuple[int, ...]:
    """The indexes of ADDITIVE_WINDOWS whose edge lies before a tail that is not the whole history.

    For each, the caller looks up the last event with `time < now_us - ADDITIVE_WINDOWS[index]`.
    """
    if len(events) == 0 or events[0, kernel.COUNT] == 1:
        return ()
    oldest = int(events[0, kernel.TIME])
    return tuple(i for i, window in enumerate(ADDITIVE_WINDOWS) if now_us - window <= oldest)


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
    wrapped = (total + amount + _WRAP // 2) % _WRAP - _WRAP // 2
    return _EVENT.pack(
        effective_time(created_at_us, events),
        amount,
        destination,
        country,
        count + 1,
        wrapped,
        blocks + blocked,
    )


def compute_live(
    *,
    created_at_us: int,
    destination: int,
    country: int,
    history: SourceHistory,
    plan: Plan = PLAN,
) -> NDArray[np.float64]:
    """The historical features of one transaction: (len(CATALOGUE),), in catalogue order.

    Raises ValueError for a history longer than the tail, which training would not have seen.
    """
    events, edges, failures = history
    if len(events) > kernel.TAIL:
        raise ValueError(f"a history holds at most {kernel.TAIL} events, got {len(events)}")
    row: NDArray[np.float64] = kernel.live_row(
        events,
        edges,
        failures,
        effective_time(created_at_us, events),
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
