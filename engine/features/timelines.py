"""The rows of a data set as the timelines of its wallets, as the live path would have kept them.

Compiled as `kernel` is, and by its rules.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from engine.features.kernel import compiled

Ints = NDArray[np.int64]

NEVER: Final = int(np.iinfo(np.int64).max)
"""Where a failure or a fraud has the first row that knows of it: there is none."""

_I8 = types.int64
_INTS_IN = types.Array(_I8, 1, "C", readonly=True)
_STRIDED = types.Array(_I8, 1, "A")
_STRIDED_IN = types.Array(_I8, 1, "A", readonly=True)
_STRIDED_ROWS = types.Array(_I8, 2, "A")
_ROWS = types.Array(_I8, 2, "C")


class Frauds(NamedTuple):
    """The confirmed frauds of every wallet, each from where it counts.

    `entries[k]`: the positions from which one more fraud of its wallet is known and lies before
    edge k (the delay's, then those of the delayed windows), wallet by wallet, ascending in each.
    `starts` says where the entries of each wallet begin, and where the last ones end.
    """

    starts: Ints
    entries: Ints


class Failures(NamedTuple):
    """The failures of every wallet in the order received: starts by wallet, first row that knows
    of it, time."""

    starts: Ints
    visible: Ints
    times: Ints


class Timeline(NamedTuple):
    """Rows by wallet, each wallet's in the order of their acceptance.

    At position p: row `order[p]`, of wallet `wallets[p]` (0, 1, …), with the record `events[p]`.
    `starts` holds each wallet's first position, and the end.
    """

    order: Ints
    wallets: Ints
    starts: Ints
    events: Ints

    def places(self) -> Ints:
        """The position of each row."""
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(self.order))
        return places


def timeline(wallet: Ints, created_at: Ints, kept: list[Ints], added: list[Ints]) -> Timeline:
    """The timeline of each wallet. An event is its time, what is kept, and totals of what is added.

    A row that is older than one before it has that one's time: it takes its place at the end.
    """
    order = np.argsort(wallet, kind="stable").astype(np.int64, copy=False)
    in_order = wallet[order]
    changes = np.flatnonzero(in_order[1:] != in_order[:-1]) + 1
    ends = [len(wallet)] if len(wallet) else []
    starts = np.concatenate(([0], changes, ends)).astype(np.int64)
    wallets = np.repeat(np.arange(len(starts) - 1, dtype=np.int64), np.diff(starts))
    events = np.empty((len(wallet), 1 + len(kept) + len(added)), dtype=np.int64)
    for column, values in enumerate((created_at, *kept, *added)):
        events[:, column] = values[order]
    keep_order(wallets, events[:, 0])
    _add_up(wallets, events[:, 1 + len(kept) :])
    return Timeline(order, wallets, starts, events)


def failures(line: Timeline, visible_from: Ints | None) -> Failures:
    """Each wallet's failures. A failure heard of late takes its place at the end, too.

    Raises ValueError when the column has another length or a failure is visible too early.
    """
    failed, visible = _known(line, visible_from, "failure")
    by_receipt = np.lexsort((failed, visible, line.wallets[failed]))
    failed, visible = failed[by_receipt], visible[by_receipt]
    times = line.events[failed, 0]
    keep_order(line.wallets[failed], times)
    return Failures(_starts(line, failed), visible, times)


def frauds(line: Timeline, visible_from: Ints | None, edges: Ints) -> Frauds:
    """Where each wallet's confirmed frauds begin to count, for every edge (µs before a row).

    Raises ValueError when the column has another length or a fraud is visible too early.
    """
    known, visible = _known(line, visible_from, "fraud")
    entries = np.empty((len(edges), len(known)), dtype=np.int64)
    ends = line.starts[line.wallets[known] + 1]
    _enter(line.order, line.events[:, 0], known, ends, visible, edges, entries)
    # One that never enters has its wallet's end, and no other wallet's entry is as early: sorted
    # as a whole, entries stay with their wallets.
    entries.sort(axis=1)
    return Frauds(_starts(line, known), entries)


def _known(line: Timeline, visible_from: Ints | None, what: str) -> tuple[Ints, Ints]:
    """The positions of the rows that somebody will hear of, and the first row that knows."""
    if visible_from is None:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    visible_from = np.asarray(visible_from, dtype=np.int64)
    if len(visible_from) != len(line.order):
        raise ValueError("the columns differ in length")
    if np.any(visible_from <= np.arange(len(visible_from))):
        raise ValueError(f"a {what} is visible only to rows after its own")
    visible = visible_from[line.order]
    known = np.flatnonzero(visible != NEVER)
    return known, visible[known]


def _starts(line: Timeline, positions: Ints) -> Ints:
    """Where the entries of each wallet begin among those of sorted wallets, and where all end."""
    return np.searchsorted(line.wallets[positions], np.arange(len(line.starts))).astype(np.int64)


@compiled(types.void, _INTS_IN, _STRIDED)
def keep_order(wallets: Any, times: Any) -> None:
    """Raise each time to the latest one before it in the same wallet, in place."""
    for at in range(1, wallets.shape[0]):
        if wallets[at - 1] == wallets[at]:
            times[at] = max(times[at], times[at - 1])


@compiled(types.void, _INTS_IN, _STRIDED_ROWS)
def _add_up(wallets: Any, values: Any) -> None:
    """Make running totals of each wallet's values, in place; they wrap modulo 2**64."""
    for at in range(1, wallets.shape[0]):
        if wallets[at - 1] == wallets[at]:
            for column in range(values.shape[1]):
                values[at, column] += values[at - 1, column]


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


@compiled(types.void, _INTS_IN, _STRIDED_IN, _INTS_IN, _INTS_IN, _INTS_IN, _INTS_IN, _ROWS)
def _enter(
    order: Any, times: Any, known: Any, ends: Any, visible: Any, edges: Any, entries: Any
) -> None:
    """Fill `entries[k, j]` with the first position at which fraud j is known and before edge k.

    Fraud j is at position `known[j]` of a wallet that ends at `ends[j]`, and `visible[j]` is the
    first row that knows of it. Rows and times do not fall along a wallet's timeline.
    """
    for fraud in range(known.shape[0]):
        at, end = known[fraud], ends[fraud]
        seen = _first_not_below(order, at, end, visible[fraud])
        for edge in range(edges.shape[0]):
            after = times[at] + edges[edge] + 1
            entries[edge, fraud] = max(seen, _first_not_below(times, at, end, after))
