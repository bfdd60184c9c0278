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

# Columns of an event of a source wallet; the last three are running totals.
TIME: Final = 0
AMOUNT: Final = 1
DESTINATION: Final = 2
COUNTRY: Final = 3
COUNT: Final = 4
AMOUNT_SUM: Final = 5
BLOCKED: Final = 6
EVENT_COLUMNS: Final = 7
TOTALS: Final = 3

# Columns of an incoming event of a destination wallet after TIME; the last two running totals.
INCOMING_SOURCE: Final = 1
INCOMING_COUNT: Final = 2
INCOMING_SUM: Final = 3
INCOMING_COLUMNS: Final = 4
INCOMING_TOTALS: Final = 2

# Columns of the statistics of a window. COUNT to BLOCKED are differences of running totals, exact
# at any size, and so are failures and frauds; the others describe the attempts of the window that
# are among the last TAIL.
STAT_COUNT: Final = 0
STAT_SUM: Final = 1
STAT_BLOCKED: Final = 2
STAT_FAILED: Final = 3
STAT_SEEN: Final = 4
STAT_MAX: Final = 5
STAT_WALLETS: Final = 6
STAT_TOP_DESTINATION: Final = 7
STAT_ENTROPY: Final = 8
STAT_PAIR: Final = 9
STAT_PAIR_TIME: Final = 10
STAT_SAME_COUNTRY: Final = 11
STAT_TOP_COUNTRY: Final = 12
STAT_FRAUDS_OUT: Final = 13
STAT_FRAUDS_IN: Final = 14
STATS: Final = 15

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
OP_SHARE: Final = 9

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
_ROWS = types.Array(_I8, 2, "C")
_ROWS_IN = types.Array(_I8, 2, "C", readonly=True)
_FLOATS_IN = types.Array(_F8, 1, "C", readonly=True)
# Groups of arguments. Arrays travel one by one: numba counts references to what it takes out of a
# tuple or slices, atomically, and that would cost as much as the features.
_OUTGOING = (_ROWS_IN, _I8, _I8, _I8, _ROWS_IN, _INTS_IN, _INTS_IN)
_INCOMING = (_ROWS_IN, _INTS_IN, _I8, _I8, _INTS_IN, _ROWS_IN, _INTS_IN)
_PLAN = (_ROWS_IN, _INTS_IN, _INTS_IN, _ROWS_IN, _FLOATS_IN)
_SCRATCH = (_INTS, _INTS, _INTS, _ROWS)


def compiled(*signature: Any) -> Callable[[_Function], _Function]:
    """numba's `njit` for (result, *arguments), typed, cached and releasing the GIL."""
    result, *arguments = signature
    decorator = njit(result(*arguments), cache=True, nogil=True, error_model="numpy")
    return cast("Callable[[_Function], _Function]", decorator)


@compiled(_I8, _INTS_IN, _I8, _I8, _I8)
def _first_not_below(values: Any, low: int, high: int, bound: int) -> int:
    """The first index in [low, high) of sorted `values` that is >= bound, or `high`."""
    while low < high:
        middle = (low + high) // 2
        if values[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low


@compiled(_I8, _ROWS_IN, _I8, _I8, _I8)
def _first_since(events: Any, low: int, high: int, moment: int) -> int:
    """The first of `events[low:high]`, sorted by time, with `time >= moment`, or `high`."""
    while low < high:
        middle = (low + high) // 2
        if events[middle, TIME] < moment:
            low = middle + 1
        else:
            high = middle
    return low


@compiled(_I8, _I8)
def _bits(count: int) -> int:
    """How wide an index into a hash table for `count` keys is: it is at most half full."""
    bits = 3
    while (1 << bits) < 2 * count:
        bits += 1
    return bits


@compiled(_I8, _INTS, _INTS, _I8, _I8)
def _slot(keys: Any, counts: Any, bits: int, key: int) -> Any:
    """Where `key` is in an open-addressing table, or the free slot (count 0) that it may take."""
    slot = np.int64((np.uint64(key) * _GOLDEN) >> np.uint64(64 - bits))
    while counts[slot] > 0 and keys[slot] != key:
        slot = (slot + 1) & ((1 << bits) - 1)
    return slot


@compiled(_I8, _ROWS_IN, _I8, _I8, _ROWS_IN, _I8, _I8)
def _total_before(events: Any, first: int, at: int, edges: Any, edge: int, total: int) -> Any:
    """A running total just before `events[at]`: the tail begins at `first`, `edges` before it."""
    if at > first:
        return events[at - 1, events.shape[1] - edges.shape[1] + total]
    return edges[edge, total]


@compiled(types.void, _ROWS_IN, _I8, _I8, _I8, _ROWS_IN, _I8, _I8, _ROWS)
def _fill_totals(
    events: Any, first: int, at: int, last: int, edges: Any, edge: int, row: int, stats: Any
) -> None:
    """The totals of the window that begins at `events[at]`, or before the tail."""
    for total in range(edges.shape[1]):
        newest = _total_before(events, first, last, edges, edge, total)
        before = _total_before(events, first, at, edges, edge, total)
        stats[row, STAT_COUNT + total] = newest - before


@compiled(types.void, *_OUTGOING[:-1], _I8, _I8, _ROWS_IN, *_SCRATCH)
def _fill_outgoing(
    events: Any,
    first: int,
    last: int,
    now: int,
    edges: Any,
    failures: Any,
    destination: int,
    country: int,
    windows: Any,
    keys: Any,
    counts: Any,
    countries: Any,
    stats: Any,
) -> None:
    """One walk back from the newest event, with a snapshot at the edge of every window."""
    bits = _bits(last - first)
    counts[: 1 << bits] = 0
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
            slot = _slot(keys, counts, bits, key)
            keys[slot] = key
            counts[slot] += 1
            seen = counts[slot]
            distinct += seen == 1
            top = max(top, seen)
            entropy += _ENTROPY[seen] - _ENTROPY[seen - 1]
            place = events[at, COUNTRY]
            if 0 <= place < COUNTRIES:
                countries[place] += 1
                top_country = max(top_country, countries[place])
        _fill_totals(events, first, at, last, edges, window, window, stats)
        stats[window, STAT_FAILED] = failures[0] - failures[windows[window, 1]]
        stats[window, STAT_SEEN] = last - at
        stats[window, STAT_MAX] = largest
        stats[window, STAT_WALLETS] = distinct
        stats[window, STAT_TOP_DESTINATION] = top
        stats[window, STAT_ENTROPY] = entropy
        stats[window, STAT_PAIR] = pair
        stats[window, STAT_PAIR_TIME] = pair_time
        stats[window, STAT_SAME_COUNTRY] = countries[country] if 0 <= country < COUNTRIES else -1
        stats[window, STAT_TOP_COUNTRY] = top_country


@compiled(types.void, _ROWS_IN, _I8, _I8, _I8, _INTS, _INTS, _INTS)
def link(
    events: Any, first: int, begin: int, end: int, keys: Any, positions: Any, previous: Any
) -> None:
    """Fill `previous[begin:end]`: where each incoming event's source came last before it.

    -1 where that is before `first`. The table of `keys` and `positions` has room for twice
    `end - first` entries, rounded up to a power of two.
    """
    bits = _bits(end - first)
    positions[: 1 << bits] = 0
    for at in range(first, end):
        key = events[at, INCOMING_SOURCE]
        slot = _slot(keys, positions, bits, key)
        if at >= begin:
            previous[at] = positions[slot] - 1
        keys[slot] = key
        positions[slot] = at + 1


@compiled(types.void, _INTS_IN, _ROWS_IN, _INTS)
def link_all(starts: Any, events: Any, previous: Any) -> None:
    """`link` for the wallets of a data set, each from `starts[wallet]` to the next one's start.

    A tail at a time, with the one before it: what came earlier is in no tail with these.
    """
    keys, positions = np.empty(2 * _SLOTS, np.int64), np.empty(2 * _SLOTS, np.int64)
    for wallet in range(starts.shape[0] - 1):
        start, end = starts[wallet], starts[wallet + 1]
        for begin in range(start, end, TAIL):
            first = max(start, begin - TAIL)
            link(events, first, begin, min(begin + TAIL, end), keys, positions, previous)


@compiled(types.void, _I8, _I8, _INTS_IN, _INTS_IN, _INTS)
def _fill_moments(now: int, delay: int, incoming: Any, delayed: Any, moments: Any) -> None:
    """The edges of a destination's windows: the plain ones, then the delay's, then the delayed."""
    plain = incoming.shape[0]
    for window in range(plain):
        moments[window] = now - incoming[window]
    moments[plain] = now - delay
    for window in range(delayed.shape[0]):
        moments[plain + 1 + window] = now - delay - delayed[window]


@compiled(_I8, _INTS_IN, _I8)
def _below(values: Any, bound: int) -> int:
    """How many values are below `bound`; from zero on, so that it is compiled to vectors."""
    count = 0
    for at in range(values.shape[0]):
        count += values[at] < bound
    return count


@compiled(types.void, *_INCOMING[:-1], _I8, _I8, _ROWS)
def _fill_incoming(
    events: Any,
    previous: Any,
    first: int,
    last: int,
    moments: Any,
    edges: Any,
    windows: int,
    row: int,
    stats: Any,
) -> None:
    """The statistics of a destination's plain windows, into the rows of `stats` from `row`.

    An event is the first of its source in a window when the source's previous one is before it,
    so the distinct sources are counted without a table, and live as in a data set.
    """
    distinct, counted = 0, last
    for window in range(windows):
        at = _first_since(events, first, last, moments[window])
        _fill_totals(events, first, at, last, edges, window, row + window, stats)
        stats[row + window, STAT_SEEN] = last - at
        if at < counted:
            distinct, counted = _below(previous[at:last], at), at
        stats[row + window, STAT_WALLETS] = distinct


@compiled(
    types.void, _ROWS_IN, _I8, _I8, _INTS_IN, _ROWS_IN, _INTS_IN, _INTS_IN, _I8, _I8, _I8, _ROWS
)
def _fill_delayed(
    events: Any,
    first: int,
    last: int,
    moments: Any,
    edges: Any,
    frauds_in: Any,
    frauds_out: Any,
    plain: int,
    windows: int,
    row: int,
    stats: Any,
) -> None:
    """Confirmed frauds, and the attempts they are among, of the windows that end a delay ago."""
    end = _first_since(events, first, last, moments[plain])
    attempts = _total_before(events, first, end, edges, plain, 0)
    for window in range(windows):
        edge = plain + 1 + window
        at = _first_since(events, first, end, moments[edge])
        count = attempts - _total_before(events, first, at, edges, edge, 0)
        stats[row + window, STAT_COUNT] = count
        stats[row + window, STAT_SEEN] = count
        stats[row + window, STAT_FRAUDS_OUT] = frauds_out[0] - frauds_out[1 + window]
        stats[row + window, STAT_FRAUDS_IN] = frauds_in[0] - frauds_in[1 + window]


@compiled(_F8, _ROWS, _I8, _I8, _I8, _I8, _F8)
def _value(stats: Any, window: int, operation: int, column: int, now: int, default: float) -> Any:
    """A feature's value from the statistics of its window, or its default when that is empty."""
    seen = stats[window, STAT_SEEN]
    if operation == OP_COUNT:
        return float(stats[window, column]) if stats[window, column] != 0 else default
    if operation == OP_DAYS_SINCE:
        days = (now - stats[window, STAT_PAIR_TIME]) / DAY_US
        return days if stats[window, STAT_PAIR] > 0 else default
    if operation in (OP_NEW_COUNTRY, OP_BELOW_TOP_COUNTRY) and stats[window, STAT_SAME_COUNTRY] < 0:
        return 0.0
    if seen == 0:
        return default
    if operation == OP_MONEY:
        return stats[window, column] / UNITS
    if operation == OP_MEAN:
        return stats[window, STAT_SUM] / (stats[window, STAT_COUNT] * UNITS)
    if operation == OP_TOP_SHARE:
        return stats[window, STAT_TOP_DESTINATION] / seen
    if operation == OP_ENTROPY:
        return (_ENTROPY[seen] - stats[window, STAT_ENTROPY]) / (seen * ENTROPY_SCALE)
    if operation == OP_NEW_DESTINATION:
        return 1.0 if stats[window, STAT_PAIR] == 0 else 0.0
    if operation == OP_NEW_COUNTRY:
        return 1.0 if stats[window, STAT_SAME_COUNTRY] == 0 else 0.0
    if operation == OP_BELOW_TOP_COUNTRY:
        return 1.0 if stats[window, STAT_SAME_COUNTRY] < stats[window, STAT_TOP_COUNTRY] else 0.0
    return min(1.0, stats[window, column] / stats[window, STAT_COUNT])


@compiled(types.void, *_OUTGOING, *_INCOMING, _I8, _I8, *_PLAN, *_SCRATCH, _FLOATS)
def fill_row(
    events: Any,
    first: int,
    last: int,
    now: int,
    edges: Any,
    failures: Any,
    source_frauds: Any,
    incoming: Any,
    previous: Any,
    incoming_first: int,
    incoming_last: int,
    moments: Any,
    incoming_edges: Any,
    destination_frauds: Any,
    destination: int,
    country: int,
    windows: Any,
    incoming_windows: Any,
    delayed: Any,
    program: Any,
    defaults: Any,
    keys: Any,
    counts: Any,
    countries: Any,
    stats: Any,
    out: Any,
) -> None:
    """Fill `out` for one transaction.

    The tail of its source is `events[first:last]`, of its destination
    `incoming[incoming_first:incoming_last]` with `previous` from `link`; `now` is its time in the
    first and `moments` what `_fill_moments` made of that in the second.
    """
    _fill_outgoing(
        events, first, last, now, edges, failures, destination, country, windows,
        keys, counts, countries, stats,
    )  # fmt: skip
    plain = incoming_windows.shape[0]
    _fill_incoming(
        incoming, previous, incoming_first, incoming_last, moments, incoming_edges,
        plain, windows.shape[0], stats,
    )  # fmt: skip
    _fill_delayed(
        incoming, incoming_first, incoming_last, moments, incoming_edges, destination_frauds,
        source_frauds, plain, delayed.shape[0], windows.shape[0] + plain, stats,
    )  # fmt: skip
    for feature in range(program.shape[0]):
        out[feature] = _value(
            stats,
            program[feature, 1],
            program[feature, 0],
            program[feature, 2],
            now,
            defaults[feature],
        )


@compiled(
    _FLOATS, _ROWS_IN, _ROWS_IN, _INTS_IN, _ROWS_IN, _ROWS_IN, _INTS_IN, _INTS_IN,
    _I8, _I8, _I8, _I8, _I8, *_PLAN,
)  # fmt: skip
def live_row(
    events: Any,
    edges: Any,
    failures: Any,
    incoming: Any,
    incoming_edges: Any,
    source_frauds: Any,
    destination_frauds: Any,
    now: int,
    incoming_now: int,
    delay: int,
    destination: int,
    country: int,
    windows: Any,
    incoming_windows: Any,
    delayed: Any,
    program: Any,
    defaults: Any,
) -> Any:
    """The features of one transaction; see `live.compute_live`."""
    tail, arrivals = events.shape[0], incoming.shape[0]
    slots = min(_SLOTS, 8 + 4 * max(tail, arrivals))
    keys, counts = np.empty(slots, np.int64), np.empty(slots, np.int64)
    rows = windows.shape[0] + incoming_windows.shape[0] + delayed.shape[0]
    moments = np.empty(incoming_edges.shape[0], np.int64)
    _fill_moments(incoming_now, delay, incoming_windows, delayed, moments)
    previous = np.empty(arrivals, np.int64)
    link(incoming, 0, 0, arrivals, keys, counts, previous)
    out = np.empty(program.shape[0], np.float64)
    fill_row(
        events, 0, tail, now, edges, failures, source_frauds,
        incoming, previous, 0, arrivals, moments, incoming_edges, destination_frauds,
        destination, country, windows, incoming_windows, delayed, program, defaults,
        keys, counts, np.empty(COUNTRIES, np.int64), np.empty((rows, STATS), np.int64), out,
    )  # fmt: skip
    return out


@compiled(types.void, _ROWS_IN, _I8, _I8, _INTS_IN, _ROWS)
def _fill_edges(events: Any, start: int, first: int, moments: Any, edges: Any) -> None:
    """The running totals before each moment, for a wallet whose events before its tail start at
    `start`: what the live path looks up with an index seek, read where the tail does not reach.
    """
    if first == start:
        edges[:] = 0
        return
    for edge in range(edges.shape[0]):
        at = _first_since(events, start, first, moments[edge])
        for total in range(edges.shape[1]):
            before = events[at - 1, events.shape[1] - edges.shape[1] + total] if at > start else 0
            edges[edge, total] = before


@compiled(types.void, _I8, _I8, _I8, _I8, _INTS_IN, _INTS_IN, _ROWS_IN, _INTS)
def _fill_failures(
    row: int, now: int, low: int, high: int, visible: Any, times: Any, windows: Any, failures: Any
) -> None:
    """A wallet's failures (entries [low, high) of `visible` and `times`) as `row` knows them."""
    high = _first_not_below(visible, low, high, row + 1)
    failures[0] = high - low
    for window in range(windows.shape[0]):
        slot = windows[window, 1]
        if slot > 0:
            failures[slot] = _first_not_below(times, low, high, now - windows[window, 0]) - low


@compiled(types.void, _I8, _I8, _I8, _ROWS_IN, _INTS)
def _fill_frauds(at: int, low: int, high: int, entries: Any, frauds: Any) -> None:
    """A wallet's confirmed frauds before each edge, as known at position `at` of its timeline.

    Entries [low, high) of each row of `entries` are the positions from which one more counts.
    """
    frauds[:] = 0
    if low < high:
        for edge in range(frauds.shape[0]):
            frauds[edge] = _first_not_below(entries[edge], low, high, at + 1) - low


_TIMELINE = (_INTS_IN, _INTS_IN, _ROWS_IN, _INTS_IN, _ROWS_IN)


@compiled(
    types.void, _INTS_IN, _INTS_IN, _INTS_IN, *_TIMELINE, _INTS_IN, _INTS_IN, _INTS_IN,
    _INTS_IN, *_TIMELINE, _INTS_IN, _I8, *_PLAN, _FLOAT_ROWS,
)  # fmt: skip
def replay_rows(
    places: Any,
    slots: Any,
    order: Any,
    wallets: Any,
    starts: Any,
    events: Any,
    fraud_starts: Any,
    fraud_entries: Any,
    failure_starts: Any,
    failure_visible: Any,
    failure_times: Any,
    incoming_places: Any,
    incoming_wallets: Any,
    incoming_starts: Any,
    incoming: Any,
    incoming_fraud_starts: Any,
    incoming_fraud_entries: Any,
    previous: Any,
    delay: int,
    windows: Any,
    incoming_windows: Any,
    delayed: Any,
    program: Any,
    defaults: Any,
    out: Any,
) -> None:
    """Fill `out[slots[k]]` for the row at each position `places[k]` of the sources' timelines.

    See `timelines.Timeline`. `starts` hold each wallet's first position or entry, and one more for
    the end; `incoming_places` a row's position in the destinations' timelines.
    """
    keys, counts = np.empty(_SLOTS, np.int64), np.empty(_SLOTS, np.int64)
    countries = np.empty(COUNTRIES, np.int64)
    plain = windows.shape[0] + incoming_windows.shape[0]
    stats = np.empty((plain + delayed.shape[0], STATS), np.int64)
    moments = np.empty(incoming_windows.shape[0] + 1 + delayed.shape[0], np.int64)
    source_moments = np.empty(windows.shape[0], np.int64)
    edges = np.zeros((windows.shape[0], TOTALS), np.int64)
    incoming_edges = np.zeros((moments.shape[0], INCOMING_TOTALS), np.int64)
    failures = np.zeros(windows.shape[0] + 1, np.int64)
    frauds = np.zeros(1 + delayed.shape[0], np.int64)
    incoming_frauds = np.zeros(1 + delayed.shape[0], np.int64)
    for k in range(places.shape[0]):
        at = places[k]
        row, wallet, now = order[at], wallets[at], events[at, TIME]
        start = starts[wallet]
        first = max(start, at - TAIL)
        for window in range(windows.shape[0]):
            source_moments[window] = now - windows[window, 0]
        _fill_edges(events, start, first, source_moments, edges)
        _fill_failures(
            row, now, failure_starts[wallet], failure_starts[wallet + 1],
            failure_visible, failure_times, windows, failures,
        )  # fmt: skip
        _fill_frauds(at, fraud_starts[wallet], fraud_starts[wallet + 1], fraud_entries, frauds)
        to = incoming_places[row]
        wallet = incoming_wallets[to]
        start = incoming_starts[wallet]
        incoming_first = max(start, to - TAIL)
        _fill_moments(incoming[to, TIME], delay, incoming_windows, delayed, moments)
        _fill_edges(incoming, start, incoming_first, moments, incoming_edges)
        _fill_frauds(
            to, incoming_fraud_starts[wallet], incoming_fraud_starts[wallet + 1],
            incoming_fraud_entries, incoming_frauds,
        )  # fmt: skip
        fill_row(
            events, first, at, now, edges, failures, frauds,
            incoming, previous, incoming_first, to, moments, incoming_edges, incoming_frauds,
            events[at, DESTINATION], events[at, COUNTRY],
            windows, incoming_windows, delayed, program, defaults,
            keys, counts, countries, stats, out[slots[k]],
        )  # fmt: skip
