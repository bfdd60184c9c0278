"""Cutting a data set in time: train, then validation, then a gap, then test.

    |------- train -------|-- validation --|~~~ label delay ~~~|---- test ----|

A random split would let a model learn from what happened after the rows it is judged on. And a
split without the gap would let it learn from labels that nobody has yet when the test part begins:
a fraud is known days after its transaction, so a model that is to serve on a day can only have
been fitted on what was confirmed by then. Here every row of a part is strictly later than every
row of the part before it: transactions that share a timestamp stay together.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidDataset
from training.pipeline.durations import format_duration
from training.pipeline.spec import Periods

PARTS = ("train", "validation", "test")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Split(NamedTuple):
    """Three ranges of rows in order of time; rows between them are history and nothing else."""

    train: slice
    validation: slice
    test: slice
    cut_off: int
    """Microseconds since 1970: when the labels that are fitted and tuned on were frozen. A row is
    in train or validation only if its label delay has passed by then."""

    def parts(self) -> tuple[tuple[str, slice], ...]:
        """`("train", slice), ("validation", slice), ("test", slice)`."""
        return tuple(zip(PARTS, self[:3], strict=True))


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 of an aware moment."""
    return (moment - _EPOCH) // _MICROSECOND


def show_moment(time: int) -> str:
    """`2026-01-31T12:00:00Z` from microseconds since 1970."""
    moment = _EPOCH + timedelta(microseconds=int(time))
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def split_by_shares(
    times: NDArray[np.int64],
    shares: tuple[float, float, float],
    label_delay: int,
    *,
    cut_off: datetime | None = None,
    known_times: bool = False,
) -> Split:
    """Test is the last share of the rows; the rows whose labels are known by the cut-off, before
    the gap, are shared between train and validation.

    Each cut is the boundary between two distinct times that is nearest to the wanted share.

    Args:
        times: (rows,) int64 microseconds, never decreasing.
        shares: of train, validation and test; positive, sum 1.
        label_delay: microseconds.
        cut_off: as in `Split`; by default the beginning of the test part, or of the gap before it
            when `known_times`, that is, when the data set says when each label became known.

    Raises:
        InvalidDataset: the rows are not in order of time, have fewer than three distinct times, or
            are too short for the delay; the message says what to do.
    """
    boundaries = _boundaries(times)
    test = _nearest(boundaries[1:], (shares[0] + shares[1]) * len(times))
    test_begins = int(times[test])
    gap_begins = test_begins - label_delay
    frozen = _cut_off(cut_off, gap_begins, test_begins, known_times)
    usable = _usable(times, gap_begins, frozen - label_delay)
    inner = boundaries[boundaries < usable]
    if not len(inner):
        raise InvalidDataset(
            f"Labels take {format_duration(label_delay)} to arrive (--label-delay), and the test "
            f"part begins {_span(times[0], test_begins)} after the first row: at the cut-off "
            f"({show_moment(frozen)}) the labels of {usable:,} rows are known, which can't be cut "
            "in two. Take a longer period, or a shorter --label-delay (0d if the labels were known "
            "at once)." + _later_cut_off(frozen, test_begins)
        )
    train = _nearest(inner, shares[0] / (shares[0] + shares[1]) * usable)
    return Split(slice(0, train), slice(train, usable), slice(test, len(times)), frozen)


def split_by_periods(
    times: NDArray[np.int64],
    periods: Periods,
    label_delay: int,
    *,
    cut_off: datetime | None = None,
    known_times: bool = False,
) -> Split:
    """The rows of each period; arguments and errors as in `split_by_shares`."""
    _boundaries(times)
    gap_begins = microseconds(periods.validate_until)
    test_begins = gap_begins + label_delay
    frozen = _cut_off(cut_off, gap_begins, test_begins, known_times)
    train = _first(times, periods.train_from) if periods.train_from else 0
    validation = _first(times, periods.train_until)
    usable = _usable(times, gap_begins, frozen - label_delay)
    test = int(np.searchsorted(times, test_begins))
    end = _first(times, periods.test_until) if periods.test_until else len(times)
    split = Split(
        slice(train, min(validation, usable)), slice(validation, usable), slice(test, end), frozen
    )
    for name, part in split.parts():
        if part.stop <= part.start:
            raise InvalidDataset(
                f"The {name} part has no rows. The data set covers {show_moment(times[0])} to "
                f"{show_moment(times[-1])}; train ends at {periods.train_until:%Y-%m-%d %H:%M}, "
                f"validation at {show_moment(gap_begins)}, of both only rows until "
                f"{show_moment(frozen - label_delay)} have labels that are known at the cut-off "
                f"({show_moment(frozen)}), and the test part begins at {show_moment(test_begins)}, "
                f"{format_duration(label_delay)} (--label-delay) after validation."
                + _later_cut_off(frozen, test_begins)
            )
    return split


def among_all(split: Split, times: NDArray[np.int64], all_times: NDArray[np.int64]) -> Split:
    """A split of some rows, as the ranges of all rows that cover the same times.

    Args:
        times: (some rows,) of the rows that were split, in order.
        all_times: (rows,) of all rows, in order.
    """

    def covered(part: slice) -> slice:
        start = np.searchsorted(all_times, times[part.start], side="left")
        stop = np.searchsorted(all_times, times[part.stop - 1], side="right")
        return slice(int(start), int(stop))

    return Split(
        covered(split.train), covered(split.validation), covered(split.test), split.cut_off
    )


def _boundaries(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that have a later time than the row before them."""
    steps = np.diff(times)
    if np.any(steps < 0):
        row = int(np.argmax(steps < 0)) + 1
        raise InvalidDataset(f"Row {row} is earlier than the row before it: import sorts by time.")
    boundaries: NDArray[np.int64] = np.flatnonzero(steps) + 1
    if len(boundaries) < 2:
        found = len(boundaries) + 1 if len(times) else 0
        raise InvalidDataset(
            "A split into train, validation and test needs transactions at 3 distinct times or "
            f"more; the data set has {len(times):,} rows at {found}."
        )
    return boundaries


def _cut_off(given: datetime | None, gap_begins: int, test_begins: int, known_times: bool) -> int:
    if given is None:
        return gap_begins if known_times else test_begins
    cut_off = microseconds(given)
    if cut_off > test_begins:
        raise InvalidDataset(
            f"The cut-off ({show_moment(cut_off)}) is later than the beginning of the test part "
            f"({show_moment(test_begins)}): labels from the test period would be learnt from."
        )
    return cut_off


def _later_cut_off(frozen: int, test_begins: int) -> str:
    """What else to do where the cut-off leaves a part without rows."""
    if frozen >= test_begins:
        return ""
    return f" Or give a later --cut-off, at most the test's start ({show_moment(test_begins)})."


def _usable(times: NDArray[np.int64], gap_begins: int, last: int) -> int:
    """How many rows are before the gap, and at `last` at the latest."""
    before_gap = np.searchsorted(times, gap_begins, side="left")
    return int(min(before_gap, np.searchsorted(times, last, side="right")))


def _first(times: NDArray[np.int64], moment: datetime) -> int:
    """The first row at `moment` or later."""
    return int(np.searchsorted(times, microseconds(moment)))


def _nearest(boundaries: NDArray[np.int64], wanted: float) -> int:
    """The boundary (a row index) closest to `wanted`; the earlier one of two as close."""
    return int(boundaries[np.argmin(np.abs(boundaries - wanted))])


def _span(first: int, last: int) -> str:
    """The time between two moments in words, such as `3.5 days`."""
    return f"{(int(last) - int(first)) / 86_400e6:.1f} days"
