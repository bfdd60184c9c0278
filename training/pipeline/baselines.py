"""A model that a new one must beat to be worth its trouble: a logistic regression."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

FIT_ROWS = 200_000
# One payment of a million must not decide the fit.
FARTHEST = 10.0
SCORED_AT_ONCE = 100_000


class _Scale(NamedTuple):
    """Standardisation by the training rows."""

    mean: Array
    deviation: Array
    incomplete: NDArray[np.int64]
    """The columns that have missing values in the training rows."""

    def apply(self, matrix: Array) -> Array:
        """Columns of mean 0 and deviation 1, a missing value as the mean, and a column more for
        each incomplete one: 1 where its value is missing."""
        scaled = np.clip((matrix - self.mean) / self.deviation, -FARTHEST, FARTHEST)
        missing = np.isnan(matrix[:, self.incomplete])
        return np.hstack([np.nan_to_num(scaled, copy=False), missing])


def logistic_baseline(
    train: Array, labels: Mask, weights: Array, seed: int
) -> Callable[[Array], Array]:
    """A logistic regression on the same columns, as a function from (rows, columns) to (rows,)
    probabilities of a fraud.

    It is fitted on every fraud and at most 200,000 rows in all; legitimate rows drawn for it weigh
    as much as all of them did.

    Args:
        train: (rows, columns), NaN where a value is not known.
        labels, weights: (rows,) of `train`.
    """
    rows, drawn_weights = _draw(labels, weights, seed)
    drawn = train[rows]
    scale = _scale(drawn)
    model = LogisticRegression(max_iter=300, tol=1e-3)
    model.fit(scale.apply(drawn), labels[rows], sample_weight=drawn_weights)

    def predict(matrix: Array) -> Array:
        chunks = range(0, len(matrix), SCORED_AT_ONCE)
        return np.concatenate(
            [
                model.predict_proba(scale.apply(matrix[begin : begin + SCORED_AT_ONCE]))[:, 1]
                for begin in chunks
            ]
        )

    return predict


def _draw(labels: Mask, weights: Array, seed: int) -> tuple[NDArray[np.int64], Array]:
    """The rows to fit on and their weights."""
    legitimate = np.flatnonzero(~labels)
    wanted = max(FIT_ROWS - int(labels.sum()), FIT_ROWS // 2)
    if len(legitimate) <= wanted:
        return np.arange(len(labels)), weights
    drawn = np.random.default_rng(seed).choice(legitimate, wanted, replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(labels), drawn]))
    share = wanted / len(legitimate)
    return rows, weights[rows] / np.where(labels[rows], 1.0, share)


def _scale(train: Array) -> _Scale:
    missing = np.isnan(train)
    known = np.maximum((~missing).sum(axis=0), 1)
    mean = np.nansum(train, axis=0) / known
    deviation = np.sqrt(np.nansum((train - mean) ** 2, axis=0) / known)
    # A constant column says nothing, whatever it is divided by.
    return _Scale(
        mean, np.where(deviation > 0, deviation, 1.0), np.flatnonzero(missing.any(axis=0))
    )
