"""Which rows the models are fitted on, and what each of them stands for.

Frauds are few and all of them count; legitimate rows are many and alike. Above some number more of
them cost time and memory and change little, so a random share of them is enough, provided that each
then counts for the rows that were not drawn: with these weights the fraud rate that a fit sees,
and so the probability that it learns, is that of the whole part.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sample(NamedTuple):
    """Rows drawn from a part, in order, and how many rows each stands for."""

    rows: NDArray[np.int64]
    labels: NDArray[np.bool_]
    weights: NDArray[np.float64]
    """1 for a fraud; legitimate rows of the part ÷ those drawn for a legitimate one."""
    rate: float
    """The share of the legitimate rows that were drawn, up to 1."""


def draw(
    part: slice, labels: NDArray[np.bool_], legitimate_rows: int, rng: np.random.Generator
) -> Sample:
    """All frauds of `part` and at most `legitimate_rows` others, drawn without replacement.

    Args:
        labels: (rows of the data set,) the frauds that are known.
    """
    within = labels[part]
    fraud, legitimate = np.flatnonzero(within), np.flatnonzero(~within)
    rate = min(1.0, legitimate_rows / max(len(legitimate), 1))
    if rate < 1.0:
        legitimate = rng.choice(legitimate, legitimate_rows, replace=False, shuffle=False)
    chosen = np.sort(np.concatenate([fraud, legitimate]))
    drawn = within[chosen]
    return Sample(chosen + part.start, drawn, np.where(drawn, 1.0, 1.0 / rate), rate)
