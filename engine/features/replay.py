"""The training side: the features of every row of a data set, as live would have computed them."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.features import kernel
from engine.features.catalogue import PLAN, Plan

Ints = NDArray[np.int64]

NEVER: Final = int(np.iinfo(np.int64).max)
"""In `failed_visible_from`: this row did not fail, or nobody ever heard."""

_CHUNK: Final = 20_000


def visible_at_once(failed: NDArray[np.bool_]) -> Ints:
    """`failed_visible_from` for failures that every later row knows of."""
    return np.where(failed, np.arange(1, len(failed) + 1, dtype=np.int64), np.int64(NEVER))


def replay(
    created_at: Ints,
    amount: Ints,
    source: Ints,
    destination: Ints,
    country: Ints,
    *,
    failed_visible_from: Ints | None = None,
    blocked: NDArray[np.bool_] | None = None,
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
    plan: Plan = PLAN,
) -> NDArray[np.float64]:
    """The historical features of n rows in the order of their acceptance: (n, len(CATALOGUE)).

    Times are microseconds UTC, amounts ten-thousandths; `source` and `destination` any int64 that
    tells wallets apart, `country` a country code (-1 for none). `failed_visible_from[i]` is the
    first row that knows that row i failed (after i), or NEVER; without it nothing failed.
    `blocked[i]`: row i was decided BLOCK. `progress` is called, in this thread, with the number
    of rows done. The result does not depend on `threads` (default: every core).

    Raises ValueError when the columns differ in length or a failure is visible too early.
    """
    n = len(created_at)
    created_at, amount, source, destination, country = (
        np.ascontiguousarray(column, dtype=np.int64)
        for column in (created_at, amount, source, destination, country)
    )
    blocked = np.zeros(n, np.bool_) if blocked is None else np.ascontiguousarray(blocked, np.bool_)
    if any(len(column) != n for column in (amount, source, destination, country, blocked)):
        raise ValueError("the columns differ in length")
    order, wallets, starts = _by_wallet(source)
    events = np.empty((n, kernel.EVENT_COLUMNS), dtype=np.int64)
    kernel.build_events(order, wallets, created_at, amount, destination, country, blocked, events)
    failures = _failure_timelines(failed_visible_from, order, wallets, len(starts) - 1, events)
    out = np.empty((n, len(plan.defaults)))

    def walk(begin: int) -> int:
        end = min(begin + _CHUNK, n)
        kernel.replay_rows(begin, end, order, wallets, starts, events, *failures, *plan, out)
        return end - begin

    _spread(walk, range(0, n, _CHUNK), threads or os.cpu_count() or 1, progress)
    return out


def _by_wallet(source: Ints) -> tuple[Ints, Ints, Ints]:
    """Rows sorted by wallet: the row and the wallet (0, 1, …) at each position, and the starts."""
    order = np.argsort(source, kind="stable").astype(np.int64, copy=False)
    in_order = source[order]
    changes = np.flatnonzero(in_order[1:] != in_order[:-1]) + 1
    starts = np.concatenate(([0], changes, [len(source)])).astype(np.int64)
    if len(source) == 0:
        starts = np.zeros(1, dtype=np.int64)
    wallets = np.repeat(np.arange(len(starts) - 1, dtype=np.int64), np.diff(starts))
    return order, wallets, starts


def _failure_timelines(
    visible_from: Ints | None, order: Ints, wallets: Ints, count: int, events: Ints
) -> tuple[Ints, Ints, Ints]:
    """Each wallet's failures in the order received: starts by wallet, visible from, times."""
    if visible_from is None:
        nothing = np.empty(0, dtype=np.int64)
        return np.zeros(count + 1, dtype=np.int64), nothing, nothing
    visible_from = np.asarray(visible_from, dtype=np.int64)
    if len(visible_from) != len(order):
        raise ValueError("the columns differ in length")
    if np.any(visible_from <= np.arange(len(order))):
        raise ValueError("a failure is visible only to rows after its own")
    visible = visible_from[order]
    failed = np.flatnonzero(visible != NEVER)
    failed = failed[np.lexsort((failed, visible[failed], wallets[failed]))]
    times = events[failed, kernel.TIME]
    kernel.keep_order(wallets[failed], times)
    starts = np.searchsorted(wallets[failed], np.arange(count + 1)).astype(np.int64)
    return starts, visible[failed], times


def _spread(
    walk: Callable[[int], int],
    begins: range,
    threads: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Run `walk` on every chunk; the kernel releases the GIL, so threads use all cores."""
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        futures: list[Any] = [pool.submit(walk, begin) for begin in begins]
        for future in as_completed(futures):
            done += future.result()
            if progress is not None:
                progress(done)
