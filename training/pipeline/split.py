"""Cutting a data set in time: train, then validation, then test.

A random split would let a model learn from what happened after the rows it is judged on. Here every
row of a part is strictly later than every row of the part before it: transactions that share a
timestamp stay together, so a burst is never on both sides of a cut.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidDataset

PARTS = ("train", "validation", "test")


class Split(NamedTuple):
    """Three ranges of rows that cover the data set in order."""

    train: slice
    validation: slice
    test: slice

    def parts(self) -> tuple[tuple[str, slice], ...]:
        """`("train", slice), ("validation", slice), ("test", slice)`."""
        return tuple(zip(PARTS, self, strict=True))


def temporal_split(times: NDArray[np.int64], fractions: tuple[float, float, float]) -> Split:
    """Cut rows sorted by time at the two time boundaries nearest to the wanted fractions.

    Args:
        times: (rows,) int64 microseconds, never decreasing.
        fractions: shares of the rows for train, validation and test; positive, sum 1.

    Raises:
        InvalidDataset: the rows are not in order of time, or have fewer than three distinct times.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions must be positive and sum to 1, not {fractions}")
    steps = np.diff(times)
    if np.any(steps < 0):
        row = int(np.argmax(steps < 0)) + 1
        raise InvalidDataset(f"Row {row} is earlier than the row before it: import sorts by time.")
    boundaries = np.flatnonzero(steps) + 1
    if len(boundaries) < 2:
        found = len(boundaries) + 1 if len(times) else 0
        raise InvalidDataset(
            "A split into train, validation and test needs transactions at 3 distinct times or "
            f"more; the data set has {len(times):,} rows at {found}."
        )
    first = _nearest(boundaries[:-1], fractions[0] * len(times))
    second = _nearest(boundaries[boundaries > first], (fractions[0] + fractions[1]) * len(times))
    split = Split(slice(0, first), slice(first, second), slice(second, len(times)))
    check_no_overlap(times, split)
    return split


def check_no_overlap(times: NDArray[np.int64], split: Split) -> None:
    """Refuse a split in which a part does not end strictly before the next one begins.

    Raises:
        InvalidDataset: naming the two parts that overlap.
    """
    parts = split.parts()
    for (name, part), (next_name, next_part) in pairwise(parts):
        if times[part].max() >= times[next_part].min():
            raise InvalidDataset(f"The {name} part overlaps the {next_name} part in time.")


def _nearest(boundaries: NDArray[np.int64], wanted: float) -> int:
    """The boundary (a row index) closest to `wanted`; the earlier one of two as close."""
    return int(boundaries[np.argmin(np.abs(boundaries - wanted))])
