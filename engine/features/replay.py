"""The training side: the features of every row of a data set, as live would have computed them."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.features import kernel, timelines
from engine.features.catalogue import LABEL_DELAY, PLAN, Plan
from engine.features.timelines import NEVER, Ints, Timeline

__all__ = ["NEVER", "Past", "replay", "visible_at_once"]

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
    fraud_visible_from: Ints | None = None,
    blocked: NDArray[np.bool_] | None = None,
    label_delay: int = LABEL_DELAY,
    rows: Ints | None = None,
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
    plan: Plan = PLAN,
) -> NDArray[np.float64]:
    """The historical features of rows: `Past.features` of a `Past` that is needed only once.

    Raises ValueError as the two do.
    """
    past = Past(
        created_at,
        amount,
        source,
        destination,
        country,
        failed_visible_from=failed_visible_from,
        fraud_visible_from=fraud_visible_from,
        blocked=blocked,
        label_delay=label_delay,
        plan=plan,
    )
    return past.features(rows, progress=progress, threads=threads)


class Past:
    """What came before each of n rows, in the order of their acceptance.

    Times are microseconds UTC, amounts ten-thousandths; `source` and `destination` any int64 that
    tells wallets apart, `country` a country code (-1 for none). `failed_visible_from[i]` is the
    first row that knows that row i failed (after i), or NEVER; without it nothing failed.
    `fraud_visible_from` says the same of confirmed frauds, and `label_delay` (µs) how long ago
    their windows end. `blocked[i]`: row i was decided BLOCK.

    Raises ValueError when the columns differ in length, a failure or a fraud is visible too early,
    or the delay is negative.
    """

    def __init__(
        self,
        created_at: Ints,
        amount: Ints,
        source: Ints,
        destination: Ints,
        country: Ints,
        *,
        failed_visible_from: Ints | None = None,
        fraud_visible_from: Ints | None = None,
        blocked: NDArray[np.bool_] | None = None,
        label_delay: int = LABEL_DELAY,
        plan: Plan = PLAN,
    ) -> None:
        n = len(created_at)
        created_at, amount, source, destination, country = (
            np.ascontiguousarray(column, dtype=np.int64)
            for column in (created_at, amount, source, destination, country)
        )
        blocks = np.zeros(n, np.int64) if blocked is None else np.asarray(blocked, np.int64)
        if any(len(column) != n for column in (amount, source, destination, country, blocks)):
            raise ValueError("the columns differ in length")
        if label_delay < 0:
            raise ValueError("a label delay is not negative")
        one = np.ones(n, dtype=np.int64)
        outgoing = timelines.timeline(
            source, created_at, [amount, destination, country], [one, amount, blocks]
        )
        incoming = timelines.timeline(destination, created_at, [source], [one, amount])
        edges = label_delay + np.concatenate(([0], plan.delayed)).astype(np.int64)
        self._features = len(plan.defaults)
        self._order = outgoing.order
        self._places = outgoing.places()
        self._inputs = (
            *outgoing,
            *timelines.frauds(outgoing, fraud_visible_from, edges),
            *timelines.failures(outgoing, failed_visible_from),
            incoming.places(),
            *incoming[1:],
            *timelines.frauds(incoming, fraud_visible_from, edges),
            _linked(incoming),
            label_delay,
            *plan,
        )

    def features(
        self,
        rows: Ints | None = None,
        *,
        progress: Callable[[int], None] | None = None,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """The historical features of `rows`, or of all: (len(rows), features of the plan).

        `progress` is called, in this thread, with the number of rows done. The result does not
        depend on `threads` (default: every core).

        Raises ValueError when there is no such row.
        """
        places, slots = self._walk(rows)
        out = np.empty((len(places), self._features))

        def walk(begin: int) -> int:
            chunk = slice(begin, begin + _CHUNK)
            kernel.replay_rows(places[chunk], slots[chunk], *self._inputs, out)
            return len(places[chunk])

        _spread(walk, range(0, len(places), _CHUNK), threads or os.cpu_count() or 1, progress)
        return out

    def _walk(self, rows: Ints | None) -> tuple[Ints, Ints]:
        """The positions of `rows` in ascending order, so that a wallet's follow each other, and
        where each belongs in the result."""
        if rows is None:
            return np.arange(len(self._order)), self._order
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self._order):
            raise ValueError(f"there are {len(self._order)} rows; some asked for are not there")
        places = self._places[rows]
        slots = np.argsort(places, kind="stable").astype(np.int64, copy=False)
        return places[slots], slots


def _linked(incoming: Timeline) -> Ints:
    """For every position, the latest one before it of the same two wallets: see `kernel.link`."""
    previous = np.empty(len(incoming.order), dtype=np.int64)
    kernel.link_all(incoming.starts, incoming.events, previous)
    return previous


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
