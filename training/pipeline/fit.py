"""Fitting the two models.

Both take the same matrix: float64, one row a transaction, columns in `FeatureSchema.names` order,
NaN where a value is not known.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
from sklearn.metrics import average_precision_score

from training.pipeline.spec import InvalidSpec

Matrix = NDArray[np.float64]
Labels = NDArray[np.bool_]

MAX_TREES = 300
# Trees without a better average precision before the fit stops.
PATIENCE = 25
SUPERVISED_DEFAULTS: dict[str, Any] = {
    "learning_rate": 0.05,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "max_iter": MAX_TREES,
    # Half of scikit-learn's: as good in every trial, and cutting weighted rows into bins is what a
    # fit on less than 200,000 rows spends most of its time on.
    "max_bins": 127,
}
UNSUPERVISED_DEFAULTS: dict[str, Any] = {"n_estimators": 100, "max_samples": 1024}
# A forest sees n_estimators x max_samples rows at most; drawing them from more changes nothing.
UNSUPERVISED_ROWS = 200_000
# A column with a smaller share of known values is not learnt from.
KNOWN_SHARE = 0.001
# How many rows the checks of the fitted boosting look at.
CHECK_ROWS = 1_000
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class FitPart(NamedTuple):
    """Rows to fit on or to stop by."""

    matrix: Matrix
    labels: Labels
    weights: NDArray[np.float64]
    """How many rows of the data set each stands for."""


class Supervised(NamedTuple):
    """A fitted classifier and how it got there."""

    model: HistGradientBoostingClassifier
    positive_weight: float
    learning_curve: list[float]
    """Validation average precision after 0, 1, 2... trees, including those cut off."""


class Unsupervised(NamedTuple):
    """A fitted forest and the values that replace NaN before it."""

    model: IsolationForest
    fill: NDArray[np.float64]

    def raw_score(self, matrix: Matrix) -> NDArray[np.float64]:
        """Scores in (0, 1], higher = more anomalous (scikit-learn's sign turned round)."""
        scores: NDArray[np.float64] = -self.model.score_samples(fill_missing(matrix, self.fill))
        return scores


class _ValidationScorer:
    """Average precision on the validation part after each tree, reported as progress.

    scikit-learn calls a scorer with the binned rows and would walk all trees again each time, which
    grows with the square of their number: the sum over the trees is kept here instead. It also
    scores a sample of the training part first, which decides nothing and is not computed.
    """

    def __init__(self, part: FitPart, progress: Callable[[int], None]) -> None:
        self._labels = part.labels
        self._weights = part.weights
        self._progress = progress
        self._calls = 0
        self.sums = np.zeros(len(part.labels))
        """(rows,) what the trees so far add up to, without the model's intercept."""

    def __call__(
        self, model: HistGradientBoostingClassifier, rows: Matrix, *_: Any, **__: Any
    ) -> float:
        self._calls += 1
        if self._calls % 2:
            return 0.0
        trees = self._calls // 2 - 1
        if trees:
            missing = model._bin_mapper.missing_values_bin_idx_
            self.sums += model._predictors[-1][0].predict_binned(rows, missing, THREADS)
        self._progress(trees)
        score = average_precision_score(self._labels, self.sums, sample_weight=self._weights)
        return float(score)


def positive_weight(labels: Labels, weights: NDArray[np.float64]) -> float:
    """The weight of a fraud beside 1 for a legitimate row: the square root of their ratio.

    Unweighted, the first trees hardly see one row in five hundred; fully balanced, one mislabelled
    fraud outweighs hundreds of good payments and the ranking at the top, which is all that a
    budget of alerts looks at, gets worse. The root lies between the two. It moves the scores up:
    they rank, and are not probabilities. With s a score and w the weight, s / (s + w (1 - s)) is
    the estimate of the probability.
    """
    return float(np.sqrt(weights[~labels].sum() / weights[labels].sum()))


def fit_supervised(
    train: FitPart,
    validation: FitPart,
    *,
    seed: int,
    hyperparameters: dict[str, Any],
    progress: Callable[[int], None],
) -> Supervised:
    """Boosted trees, stopped by average precision on the validation part and cut at the best tree.

    scikit-learn's own early stopping would hold out a random share of the training part and keep
    the trees after the best one.

    Args:
        hyperparameters: override `SUPERVISED_DEFAULTS`; `max_iter` at most 300.
        progress: called with the number of trees after each one; what it raises ends the fit.

    Raises:
        InvalidSpec: a hyperparameter has another name, or asks for too many trees.
    """
    weight = positive_weight(train.labels, train.weights)
    scorer = _ValidationScorer(validation, progress)
    model = HistGradientBoostingClassifier(
        **_settings("supervised", SUPERVISED_DEFAULTS, hyperparameters),
        early_stopping=True,
        n_iter_no_change=PATIENCE,
        scoring=scorer,
        random_state=seed,
    )
    with _without_unknown(train.matrix):
        model.fit(
            train.matrix,
            train.labels,
            sample_weight=np.where(train.labels, weight, 1.0) * train.weights,
            X_val=validation.matrix,
            y_val=validation.labels,
        )
    curve = [float(score) for score in model.validation_score_]
    # The scorer holds the job's progress; the estimator that is kept must load without either.
    model.set_params(scoring="average_precision")
    del model._scorer
    rows = validation.matrix[:CHECK_ROWS]
    _check_sums(model, scorer.sums[:CHECK_ROWS], rows)
    _truncate(model, max(1, int(np.argmax(curve))), rows)
    return Supervised(model, weight, curve)


@contextmanager
def _without_unknown(train: Matrix) -> Iterator[None]:
    """Make columns with (nearly) no known value constant while the boosting is fitted.

    scikit-learn cuts each column into bins from a sample of 200,000 rows and fails when that has no
    value at all, as with balances in a data set without them. A constant column is never split on,
    so the model does not read what it could not learn from. In place: a copy would double memory.
    """
    known = np.array([np.count_nonzero(~np.isnan(column)) for column in train.T])
    columns = np.flatnonzero(known < KNOWN_SHARE * len(train))
    kept = train[:, columns]
    train[:, columns] = 0.0
    try:
        yield
    finally:
        train[:, columns] = kept


def _check_sums(
    model: HistGradientBoostingClassifier, sums: NDArray[np.float64], rows: Matrix
) -> None:
    """The trees were added up by ways that scikit-learn does not publish: compare with its own."""
    if not np.allclose(model.decision_function(rows) - model._baseline_prediction[0, 0], sums):
        raise RuntimeError("the boosting was stopped by scores that are not its own")


def _truncate(model: HistGradientBoostingClassifier, trees: int, rows: Matrix) -> None:
    """Keep the first trees. scikit-learn has no public way short of fitting again, so the result is
    compared with its public staged predictions."""
    expected = next(itertools.islice(model.staged_predict_proba(rows), trees - 1, None))
    model._predictors = model._predictors[:trees]
    if model.n_iter_ != trees or not np.array_equal(model.predict_proba(rows), expected):
        raise RuntimeError(f"cutting the boosting at tree {trees} did not give its stage {trees}")


def supervised_score(model: HistGradientBoostingClassifier, matrix: Matrix) -> NDArray[np.float64]:
    """(rows,) scores in [0, 1], higher = more like a fraud."""
    scores: NDArray[np.float64] = model.predict_proba(matrix)[:, 1]
    return scores


def fit_unsupervised(train: FitPart, *, seed: int, hyperparameters: dict[str, Any]) -> Unsupervised:
    """An isolation forest on legitimate training rows, NaN replaced by their medians."""
    legitimate = np.flatnonzero(~train.labels)
    if len(legitimate) > UNSUPERVISED_ROWS:
        rng = np.random.default_rng(seed)
        legitimate = np.sort(rng.choice(legitimate, UNSUPERVISED_ROWS, replace=False))
    rows = train.matrix[legitimate]
    fill = _medians(rows)
    settings = _settings("unsupervised", UNSUPERVISED_DEFAULTS, hyperparameters)
    settings["max_samples"] = min(settings["max_samples"], len(rows))
    model = IsolationForest(**settings, random_state=seed, n_jobs=-1)
    model.fit(fill_missing(rows, fill))
    return Unsupervised(model, fill)


def fill_missing(matrix: Matrix, fill: NDArray[np.float64]) -> Matrix:
    """The matrix with each NaN replaced by its column's fill; a copy."""
    return np.where(np.isnan(matrix), fill, matrix)


def _settings(model: str, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(given.keys() - defaults.keys()):
        raise InvalidSpec(
            f"hyperparameters.{model}: unknown {', '.join(unknown)}; known: {', '.join(defaults)}"
        )
    settings = {**defaults, **given}
    if settings.get("max_iter", 0) > MAX_TREES:
        raise InvalidSpec(f"hyperparameters.{model}: max_iter is at most {MAX_TREES}")
    return settings


def _medians(rows: Matrix) -> NDArray[np.float64]:
    """(columns,) medians of the known values; 0 where none is known."""
    fill = np.zeros(rows.shape[1])
    for column in range(rows.shape[1]):
        known = rows[:, column][~np.isnan(rows[:, column])]
        if len(known):
            fill[column] = np.median(known)
    return fill
