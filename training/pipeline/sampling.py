"""Which rows the models are fitted on, and what each of them stands for.

Frauds are few and all of them count; legitimate rows are many and alike. Above some number more of
them cost time and memory and change little, so a random share of them is enough, provided that each
then counts for the rows that were not drawn: with these weights the fraud rate that a fit sees,
and so the probability that it learns, is that of the whole part.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidDataset
from training.pipeline.features import BLOCK

# What a run uses beside its matrices, measured at 100 thousand and at 1 million rows: the program
# and its libraries, and for each row the data set and the timelines that features are read off.
PROGRAM_MB = 450
ROW_BYTES = 550
# Of the limit, for what no estimate sees.
SPARE = 0.1
LEAST_ROWS = 20_000
# That one row of the control group stands for: all there are at the largest share there can be.
MOST_BLOCKS = 20.0
_MB = 2**20


class Sample(NamedTuple):
    """Rows drawn from a part, in order, and how many rows each stands for."""

    rows: NDArray[np.int64]
    labels: NDArray[np.bool_]
    weights: NDArray[np.float64]
    """1 for a fraud; legitimate rows of the part ÷ those drawn for a legitimate one; more for one
    of the control group."""
    rate: float
    """The share of the legitimate rows that were drawn, up to 1."""


def draw(
    rows: NDArray[np.int64],
    labels: NDArray[np.bool_],
    legitimate_rows: int,
    rng: np.random.Generator,
    control_share: NDArray[np.float64] | None = None,
) -> Sample:
    """All frauds of `rows` and at most `legitimate_rows` others, drawn without replacement.

    A row of the control group stands for the others that the models blocked when it was let
    through, of which nobody knows what they were: 1 / share of them, at most 20, so that a single
    fraud among them does not become what a whole fit turns on.

    Args:
        rows: of a part, in order.
        labels: (rows of the data set,) the frauds that are known.
        control_share: (rows of the data set,) NaN for rows that are not of the control group.
    """
    within = labels[rows]
    fraud, legitimate = np.flatnonzero(within), np.flatnonzero(~within)
    rate = min(1.0, legitimate_rows / max(len(legitimate), 1))
    if rate < 1.0:
        legitimate = rng.choice(legitimate, legitimate_rows, replace=False, shuffle=False)
    chosen = np.sort(np.concatenate([fraud, legitimate]))
    drawn = within[chosen]
    weights = np.where(drawn, 1.0, 1.0 / rate)
    if control_share is not None:
        share = control_share[rows[chosen]]
        weights *= np.where(np.isnan(share), 1.0, np.minimum(1.0 / share, MOST_BLOCKS))
    return Sample(rows[chosen], drawn, weights, rate)


def plan_legitimate_rows(
    wanted: int, *, rows: int, others: int, columns: int, limit_mb: int | None
) -> int:
    """How many legitimate rows to fit on, at most `wanted`, within the memory there is.

    Args:
        rows: of the data set.
        others: other rows that are in a matrix at the same time: frauds, and those of validation.
        columns: of the matrix.
        limit_mb: None: no limit.

    Raises:
        InvalidDataset: not even the least number of rows fits; the message says what to do.
    """
    if limit_mb is None:
        return wanted
    blocks = BLOCK * 2 * columns * 8
    fixed = PROGRAM_MB * _MB + rows * ROW_BYTES + others * columns * 8 + blocks
    fitting = int(((1 - SPARE) * limit_mb * _MB - fixed) / (columns * 8))
    if fitting < min(wanted, LEAST_ROWS):
        needed = (fixed + min(wanted, LEAST_ROWS) * columns * 8) / (1 - SPARE) / _MB
        raise InvalidDataset(
            f"Training on {rows:,} transactions needs about {needed:,.0f} MB of memory, and "
            f"--memory-limit is {limit_mb:,} MB. Raise it, or train on the most recent rows with "
            "--sample."
        )
    return min(wanted, fitting)
