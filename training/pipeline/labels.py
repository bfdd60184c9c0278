"""When each label was known, and what that leaves for learning and for features."""

import numpy as np
from numpy.typing import NDArray

from engine.features.replay import NEVER
from training.pipeline.table import Transactions

Times = NDArray[np.int64]


def known_at(data: Transactions, label_delay: int) -> Times:
    """(rows,) microseconds since 1970: when the label of each row became known, as the data set
    says, or `label_delay` (microseconds) after the transaction."""
    expected = data.created_at + label_delay
    if data.label_known_at is None:
        return expected
    return np.where(data.label_known_at < 0, expected, data.label_known_at)


def labels_at(data: Transactions, label_delay: int, cut_off: int) -> NDArray[np.bool_]:
    """(rows,) the frauds that were known at `cut_off`, microseconds since 1970.

    To anyone who learns then, every other row is legitimate: a label that became known later
    changes nothing here.
    """
    known: NDArray[np.bool_] = data.is_fraud & (known_at(data, label_delay) <= cut_off)
    return known


def usable_at(
    data: Transactions, label_delay: int, cut_off: int, test_begins: int
) -> NDArray[np.bool_]:
    """(rows,) the rows that can be learnt from at `cut_off`, and from row `test_begins` on those
    that can be judged by.

    Of recorded traffic, a transaction that was blocked, failed or was cancelled gets no
    chargeback: while nobody has stated what it was, it is not legitimate to anyone.
    """
    usable = data.is_labelled.copy()
    if data.blocked is not None:
        unknown = (data.blocked | data.failed) & (known_at(data, label_delay) > cut_off)
        usable[:test_begins] &= ~unknown[:test_begins]
    return usable


def fraud_visible_from(data: Transactions, label_delay: int) -> Times:
    """`fraud_visible_from` of `engine.features.replay`: the first row later than the moment at
    which the row was known to be a fraud, NEVER for a legitimate row."""
    rows = np.flatnonzero(data.is_fraud)
    known = known_at(data, label_delay)[rows]
    first = np.searchsorted(data.created_at, known, side="right")
    visible = np.full(len(data), NEVER, dtype=np.int64)
    # A label may say that it was known at once; no row knows its own.
    visible[rows] = np.maximum(first, rows + 1)
    return visible
