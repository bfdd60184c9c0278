"""How large a forest may become, and what memory a run then needs.

The figures are of `python -m benchmarks.classifier`, which prints them again.
"""

from typing import Final

from engine.errors import InvalidDataset

FOREST_BYTES: Final = 55_000_000
"""What a forest may have in model.treelite and, packed, in model.joblib together at most."""
LEAF_BYTES: Final = 280
CLASS_BYTES: Final = 24
"""What a leaf, with the node above it, has in the two at most: this, and so much for each class."""
TREE_ROWS: Final = 200_000
"""As many rows as this are drawn for a tree, with replacement: more would cost time and not make
a tree of that few leaves better."""
LEAST_LEAF: Final = 5
"""Rows in a leaf, where there are few."""

MEASURED: Final = ((10_000, 5.0, 323), (100_000, 12.0, 462), (1_000_000, 55.0, 607))
"""Rows, seconds and peak MB of trainings of the sponsor model with 2 cores: 100 trees, 12 classes
and 16 columns."""
PROGRAM_MB: Final = 200
"""The program with its libraries."""
FOREST_COPIES: Final = 4.2
"""How often a forest is in memory while it is exported: fitted, for serving, packed and checked."""
ROWS_OF_A_LEAF: Final = 12
"""How many there are of different rows in a tree of a small data set for each of its leaves."""
ROW_BYTES: Final = 150
"""Of each row that is fitted on, beside its values."""
READ_BYTES: Final = 20
"""Of each row of the data set, beside its values."""
SPARE: Final = 0.1
"""Of a limit, for what no estimate sees."""
LEAST_FIT_ROWS: Final = 1_000
_MB: Final = 2**20


def most_leaves(trees: int, classes: int) -> int:
    """How many leaves a tree may have, so that the forest keeps to `FOREST_BYTES`.

    The number of rows does not change it: with more rows, more of them are in a leaf.
    """
    return max(2, FOREST_BYTES // (trees * _leaf_bytes(classes)))


def expected_mb(rows: int, columns: int, classes: int, trees: int, *, test: float = 0.2) -> float:
    """The peak memory of a run, in MB, on a data set of `rows`, which are all read and of which
    all but the share `test` are fitted on; `columns` are those of the matrix."""
    fitted = round(rows * (1 - test))
    return max(_fitting(fitted, columns, classes, trees), _reading(rows, rows, columns)) / _MB


def plan_fit_rows(
    wanted: int, *, rows: int, tested: int, columns: int, classes: int, trees: int, limit_mb: int
) -> int:
    """How many rows to fit on, at most `wanted`, within the memory there is.

    Args:
        rows: of the data set.
        tested: how many of them are in the test part.
        columns: of the matrix.
        limit_mb: of memory.

    Raises:
        InvalidDataset: not even the least number of rows fits; the message says what to do.
    """
    limit = (1 - SPARE) * limit_mb * _MB
    least = min(wanted, LEAST_FIT_ROWS)
    needed = max(_fitting(least, columns, classes, trees), _reading(rows, tested + least, columns))
    if needed > limit:
        raise InvalidDataset(
            f"Training on {rows:,} rows of {columns} columns needs about "
            f"{needed / (1 - SPARE) / _MB:,.0f} MB of memory, and --memory-limit is {limit_mb:,} "
            "MB. Raise it, or train on fewer rows with --sample."
        )
    low, high = least, wanted
    while low < high:
        middle = (low + high + 1) // 2
        needed = max(
            _fitting(middle, columns, classes, trees), _reading(rows, tested + middle, columns)
        )
        low, high = (middle, high) if needed <= limit else (low, middle - 1)
    return low


def _leaf_bytes(classes: int) -> int:
    return LEAF_BYTES + CLASS_BYTES * classes


def _fitting(rows: int, columns: int, classes: int, trees: int) -> float:
    """Bytes, from the fit on."""
    leaves = trees * min(most_leaves(trees, classes), rows // ROWS_OF_A_LEAF)
    forest = FOREST_COPIES * leaves * _leaf_bytes(classes)
    return PROGRAM_MB * _MB + forest + rows * (4 * columns + ROW_BYTES)


def _reading(rows: int, kept: int, columns: int) -> float:
    """Bytes while the rows that are kept are taken from those that were read."""
    return PROGRAM_MB * _MB + rows * (4 * columns + READ_BYTES) + kept * 4 * columns
