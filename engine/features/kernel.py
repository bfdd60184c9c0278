"""The one kernel that computes historical features, compiled by numba.

`live_row` serves a request and `replay_rows` walks a data set; both end in `fill_row`, so a model
is served the very numbers it was trained on. What to compute comes in as arrays (`catalogue.Plan`):
nothing here knows a feature by its name.

A compiled function takes its tables as arguments, and neither calls a function nor reads a constant
of another file: numba's cache on disk is keyed by the file that a function is written in, so what
came from elsewhere would be baked into machine code that outlives it. Signatures are explicit, so
that importing compiles (or loads from the cache) and the first request does not.
"""

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any, Final, TypeVar, cast

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., Any])

TAIL: Final = 1_000
"""How many of a wallet's latest attempts the features that are not additive look at."""

UNITS: Final = 10_000
"""Amounts are integers in ten-thousandths of the currency unit."""

COUNTRIES: Final = 26 * 26
"""Country codes are `26 * a + b` for two letters; anything outside [0, 676) is no country."""

DAY_US: Final = 86_400_000_000

# Columns of an event.
TIME: Final = 0
AMOUNT: Final = 1
DESTINATION: Final = 2
COUNTRY: Final = 3
COUNT: Final = 4
AMOUNT_SUM: Final = 5
BLOCKED: Final = 6
EVENT_COLUMNS: Final = 7

# Columns of the statistics of a window. The first three are differences of running totals, exact
# at any size; the others describe the attempts of the window that are among the last TAIL.
STAT_COUNT: Final = 0
STAT_SUM: Final = 1
STAT_BLOCKED: Final = 2
STAT_FAILED: Final = 3
STAT_SEEN: Final = 4
STAT_MAX: Final = 5
STAT_DESTINATIONS: Final = 6
STAT_TOP_DESTINATION: Final = 7
STAT_ENTROPY: Final = 8
STAT_PAIR: Final = 9
STAT_PAIR_TIME: Final = 10
STAT_SAME_COUNTRY: Final = 11
STAT_TOP_COUNTRY: Final = 12
STATS: Final = 13

# Operations: how a feature's value is read from the statistics of its window.
OP_COUNT: Final = 0
OP_MONEY: Final = 1
OP_MEAN: Final = 2
OP_TOP_SHARE: Final = 3
OP_ENTROPY: Final = 4
OP_NEW_DESTINATION: Final = 5
OP_DAYS_SINCE: Final = 6
OP_NEW_COUNTRY: Final = 7
OP_BELOW_TOP_COUNTRY: Final = 8
OP_FAILED_RATIO: Final = 9

ENTROPY_SCALE: Final = 2**24


def _entropy_table() -> NDArray[np.int64]:
    """round(c * log2(c) * 2^24) for c in [0, TAIL].

    Integers, because a sum of them does not depend on its order; by decimal arithmetic, because
    log2 differs in its last bits between libraries and one entry is 5e-5 from a rounding tie.
    """
    with localcontext() as context:
        context.prec = 28
        two = Decimal(2).ln()
        terms = (c * Decimal(c).ln() / two * ENTROPY_SCALE for c in range(1, TAIL + 1))
        return np.array([0, *(int(term.to_integral_value()) for term in terms)], dtype=np.int64)


_ENTROPY: Final = _entropy_table()

# Open addressing at most half full; 2^64 / golden ratio spreads consecutive codes.
_SLOTS: Final = 2_048
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)

_I8 = types.int64
_F8 = types.float64
_INTS = types.Array(_I8, 1, "C")
_FLOATS = types.Array(_F8, 1, "C")
_FLOAT_ROWS = types.Array(_F8, 2, "C")
_INTS_IN = types.Array(_I8, 1, "C", readonly=True)
_STRIDED_IN = types.Array(_I8, 1, "A", readonly=True)
_ROWS = types.Array(_I8, 2, "C")
_ROWS_IN = types.Array(_I8, 2, "C", readonly=True)
_FLOATS_IN = types.Array(_F8, 1, "C", readonly=True)
_BOOLS_IN = types.Array(types.boolean, 1, "C", readonly=True)
_PLAN = (_ROWS_IN, _ROWS_IN, _FLOATS_IN)
_SCRATCH = (_INTS, _INTS, _INTS, _ROWS)


def compiled(*signature: Any) -> Callable[[_Function], _Function]:
    """numba's `njit` for (result, *arguments), typed, cached and releasing the GIL."""
    result, *arguments = signature
    decorator = njit(result(*arguments), cache=True, nogil=True, error_model="numpy")
    return cast("Callable[[_Function], _Function]", decorator)


@compiled(types.void, _ROWS_IN, _I8, _I8, _I8, _ROWS_IN, _INTS_IN, _ROWS_IN, _I8, _ROWS)
def _fill_totals(
    events: Any,
    first: int,
    at: int,
    last: int,
    edges: Any,
    failures: Any,
    windows: Any,
    window: int,
    stats: Any,
) -> None:
    """The additive statistics of the window that begins at `events[at]`, or before the tail."""
    for total in range(3):
        before = events[at - 1, COUNT + total] if at > first else edges[window, total]
        stats[window, total] = events[last - 1, COUNT + total] - before if last > first else 0
    stats[window, STAT_FAILED] = failures[0] - failures[windows[window, 1]]


@compiled(types.void, _ROWS_IN, _I8, _I8, _ROWS_IN, _INTS_IN, _I8, _I8, _I8, _ROWS_IN, *_SCRATCH)
def _fill_stats(
    events: Any,
    first: int,
    last: int,
    edges: Any,
    failures: Any,
    now: int,
    destination: int,
    country: int,
    windows: Any,
    keys: Any,
    counts: Any,
    countries: Any,
    stats: Any,
) -> None:
    """One walk back from the newest event, with a snapshot at the edge of every window."""
    bits = 3
    while (1 << bits) < 2 * (last - first):
        bits += 1
    mask = (1 << bits) - 1
    shift = np.uint64(64 - bits)
    counts[: mask + 1] = 0
    countries[:] = 0
    distinct, top, entropy, largest = 0, 0, 0, 0
    pair, pair_time, top_country = 0, 0, 0
    at = last
    for window in range(windows.shape[0]):
        edge = now - windows[window, 0]
        while at > first and events[at - 1, TIME] >= edge:
            at -= 1
            if at == last - 1 or events[at, AMOUNT] > largest:
                largest = events[at, AMOUNT]
            key = events[at, DESTINATION]
            if key == destination:
                pair += 1
                if pair == 1:
                    pair_time = events[at, TIME]
            slot = np.int64((np.uint64(key) * _GOLDEN) >> shift)
            while counts[slot] > 0 and keys[slot] != key:
                slot = (slot + 1) & mask
            keys[slot] = key
            seen = counts[slot] + 1
            counts[slot] = seen
            distinct += seen == 1
            top = max(top, seen)
            entropy += _ENTROPY[seen] - _ENTROPY[seen - 1]
            place = events[at, COUNTRY]
            if 0 <= place < COUNTRIES:
                countries[place] += 1
                top_country = max(top_country, countries[place])
        _fill_totals(events, first, at, last, edges, failures, windows, window, stats)
        stats[window, STAT_SEEN] = last - at
        stats[window, STAT_MAX] = largest
        stats[window, STAT_DESTINATIONS] = distinct
        stats[window, STAT_TOP_DESTINATION] = top
        stats[window, STAT_ENTROPY] = entropy
        stats[window, STAT_PAIR] = pair
        stats[window, STAT_PAIR_TIME] = pair_time
        stats[window, STAT_SAME_COUNTRY] = countries[country] if 0 <= country < COUNTRIES else -1
        stats[window, STAT_TOP_COUNTRY] = top_country


@compiled(_F8, _INTS, _I8, _I8, _I8, _F8)
def _value(stat: Any, operation: int, column: int, now: int, default: float) -> Any:
    """A feature's value from the statistics of its window, or its default when that is empty."""
    seen = stat[STAT_SEEN]
    if operation == OP_COUNT:
        return float(stat[column]) if stat[column] != 0 else default
    if operation == OP_DAYS_SINCE:
        return (now - stat[STAT_PAIR_TIME]) / DAY_US if stat[STAT_PAIR] > 0 else default
    if operation in (OP_NEW_COUNTRY, OP_BELOW_TOP_COUNTRY) and stat[STAT_SAME_COUNTRY] < 0:
        return 0.0
    if seen == 0:
        return default
    if operation == OP_MONEY:
        return stat[column] / UNITS
    if operation == OP_MEAN:
        return stat[STAT_SUM] / (stat[STAT_COUNT] * UNITS)
    if operation == OP_TOP_SHARE:
        return stat[STAT_TOP_DESTINATION] / seen
    if operation == OP_ENTROPY:
        return (_ENTROPY[seen] - stat[STAT_ENTROPY]) / (seen * ENTROPY_SCALE)
    if operation == OP_NEW_DESTINATION:
        return 1.0 if stat[STAT_PAIR] == 0 else 0.0
    if operation == OP_NEW_COUNTRY:
        return 1.0 if stat[STAT_SAME_COUNTRY] == 0 else 0.0
    if operation == OP_BELOW_TOP_COUNTRY:
        return 1.0 if stat[STAT_SAME_COUNTRY] < stat[STAT_TOP_COUNTRY] else 0.0
    return min(1.0, stat[STAT_FAILED] / stat[STAT_COUNT])


@compiled(
    types.void, _ROWS_IN, _I8, _I8, _ROWS_IN, _INTS_IN, _I8, _I8, _I8, *_PLAN, *_SCRATCH, _FLOATS
)
def fill_row(
    events: Any,
    first: int,
    last: int,
    edges: Any,
    failures: Any,
    now: int,
    destination: int,
    country: int,
    windows: Any,
    program: Any,
    defaults: Any,
    keys: Any,
    counts: Any,
    countries: Any,
    stats: Any,
    out: Any,
) -> None:
    """Fill `out` for one transaction whose wallet's tail is `events[first:last]`."""
    _fill_stats(
        events, first, last, edges, failures, now, destination, country,
        windows, keys, counts, countries, stats,
    )  # fmt: skip
    for feature in range(program.shape[0]):
        out[feature] = _value(
            stats[program[feature, 1]],
            program[feature, 0],
            program[feature, 2],
            now,
            defaults[feature],
        )


@compiled(_FLOATS, _ROWS_IN, _ROWS_IN, _INTS_IN, _I8, _I8, _I8, *_PLAN)
def live_row(
    events: Any,
    edges: Any,
    failures: Any,
    now: int,
    destination: int,
    country: int,
    windows: Any,
    program: Any,
    defaults: Any,
) -> Any:
    """The features of one transaction; see `live.compute_live`."""
    out = np.empty(program.shape[0], np.float64)
    slots = min(_SLOTS, 8 + 4 * events.shape[0])
    fill_row(
        events, 0, events.shape[0], edges, failures, now, destination, country,
        windows, program, defaults,
        np.empty(slots, np.int64), np.empty(slots, np.int64), np.empty(COUNTRIES, np.int64),
        np.empty((windows.shape[0], STATS), np.int64), out,
    )  # fmt: skip
    return out


@compiled(types.void, _INTS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _BOOLS_IN, _ROWS)
def build_events(
    order: Any,
    wallets: Any,
    created_at: Any,
    amount: Any,
    destination: Any,
    country: Any,
    blocked: Any,
    events: Any,
) -> None:
    """Fill `events` wallet by wallet: position `p` holds row `order[p]`, of wallet `wallets[p]`."""
    for at in range(order.shape[0]):
        row = order[at]
        events[at, TIME] = created_at[row]
        events[at, AMOUNT] = amount[row]
        events[at, DESTINATION] = destination[row]
        events[at, COUNTRY] = country[row]
        events[at, COUNT] = 1
        events[at, AMOUNT_SUM] = amount[row]
        events[at, BLOCKED] = blocked[row]
        if at > 0 and wallets[at - 1] == wallets[at]:
            events[at, TIME] = max(events[at, TIME], events[at - 1, TIME])
            for total in (COUNT, AMOUNT_SUM, BLOCKED):
                events[at, total] += events[at - 1, total]


@compiled(types.void, _INTS_IN, _INTS)
def keep_order(wallets: Any, times: Any) -> None:
    """Raise each time to the latest one before it in the same wallet, in place."""
    for at in range(1, wallets.shape[0]):
        if wallets[at - 1] == wallets[at]:
            times[at] = max(times[at], times[at - 1])


@compiled(_I8, _STRIDED_IN, _I8, _I8, _I8)
def _first_not_below(values: Any, low: int, high: int, bound: int) -> int:
    """The first index in [low, high) of sorted `values` that is >= bound, or `high`."""
    while low < high:
        middle = (low + high) // 2
        if values[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low


@compiled(types.void, _ROWS_IN, _I8, _I8, _I8, _ROWS_IN, _ROWS)
def _fill_edges(events: Any, start: int, first: int, now: int, windows: Any, edges: Any) -> None:
    """The running totals at each edge, for a wallet whose events before its tail start at `start`.

    What the live path looks up with an index seek; read only where the tail does not reach.
    """
    edges[:] = 0
    for window in range(windows.shape[0]):
        edge = now - windows[window, 0]
        at = _first_not_below(events[:, TIME], start, first, edge)
        if at > start:
            for total in range(3):
                edges[window, total] = events[at - 1, COUNT + total]


@compiled(
    types.void, _I8, _I8, _INTS_IN, _INTS_IN, _INTS_IN, _ROWS_IN, _INTS_IN, _INTS_IN, _INTS_IN,
    *_PLAN, _FLOAT_ROWS,
)  # fmt: skip
def replay_rows(
    begin: int,
    end: int,
    order: Any,
    wallets: Any,
    starts: Any,
    events: Any,
    failure_starts: Any,
    failure_visible: Any,
    failure_times: Any,
    windows: Any,
    program: Any,
    defaults: Any,
    out: Any,
) -> None:
    """Fill `out[order[p]]` for the positions p in [begin, end); positions are independent.

    `starts` and `failure_starts` hold each wallet's first position, and one more for the end.
    """
    keys = np.empty(_SLOTS, np.int64)
    counts = np.empty(_SLOTS, np.int64)
    countries = np.empty(COUNTRIES, np.int64)
    stats = np.empty((windows.shape[0], STATS), np.int64)
    edges = np.zeros((windows.shape[0], 3), np.int64)
    failures = np.zeros(windows.shape[0] + 1, np.int64)
    for at in range(begin, end):
        wallet = wallets[at]
        start = starts[wallet]
        first = max(start, at - TAIL)
        now = events[at, TIME]
        if first > start:
            _fill_edges(events, start, first, now, windows, edges)
        else:
            edges[:] = 0
        low, high = failure_starts[wallet], failure_starts[wallet + 1]
        high = _first_not_below(failure_visible, low, high, order[at] + 1)
        failures[0] = high - low
        for window in range(windows.shape[0]):
            slot = windows[window, 1]
            if slot > 0:
                edge = now - windows[window, 0]
                failures[slot] = _first_not_below(failure_times, low, high, edge) - low
        fill_row(
            events, first, at, edges, failures, now,
            events[at, DESTINATION], events[at, COUNTRY],
            windows, program, defaults, keys, counts, countries, stats, out[order[at]],
        )  # fmt: skip
