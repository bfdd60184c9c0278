"""The random forest of a classifier, which has a size that the number of rows does not change."""

import math
from collections.abc import Callable
from typing import Final

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from training.pipeline.classifier.rows import Codes, Matrix
from training.pipeline.classifier.sizes import LEAST_LEAF, TREE_ROWS, most_leaves
from training.pipeline.classifier.threads import most_threads

MAX_FEATURES: Final = 0.5
"""Share of the columns that a split may choose from. The root of their number, which is usual,
leaves a forest on a few inputs often without the one that matters."""
STEPS: Final = 10


def absent_classes(labels: Codes, classes: int) -> Codes:
    """Those without a row."""
    return np.setdiff1d(np.arange(classes, dtype=np.int32), labels)


def fit_forest(
    matrix: Matrix,
    labels: Codes,
    classes: int,
    *,
    trees: int,
    seed: int,
    progress: Callable[[float, str], None],
) -> RandomForestClassifier:
    """Fit on the rows whose classes are `labels`; the estimator knows all `classes`.

    Equal arguments give an equal forest, however many threads grow it.

    Args:
        matrix: (rows + absent, columns) the rows, and behind them one, whatever it has, for each
            class of `absent_classes`. There and not added here, which would take the memory twice.
    """
    weights: NDArray[np.float64] | None = None
    absent = absent_classes(labels, classes)
    if len(absent):
        # A row that counts for nothing makes the estimator know the class.
        weights = np.concatenate([np.ones(len(labels)), np.zeros(len(absent))])
        labels = np.concatenate([labels, absent])
    model = RandomForestClassifier(
        n_estimators=0,
        # With a limit, the leaves are made where they tell most, one by one.
        max_leaf_nodes=most_leaves(trees, classes),
        min_samples_leaf=LEAST_LEAF,
        max_features=MAX_FEATURES,
        max_samples=min(len(labels), TREE_ROWS),
        random_state=seed,
        n_jobs=most_threads(),
        warm_start=True,
    )
    for grown in sorted({math.ceil(trees * step / STEPS) for step in range(1, STEPS + 1)}):
        model.n_estimators = grown
        # By itself it would start processes, each with the rows in its own memory.
        with joblib.parallel_config("threading"):
            model.fit(matrix, labels, weights)
        progress(grown / trees, f"{grown} of {trees} trees")
    # What neither the fit nor the machine it ran on should leave behind in a file.
    return model.set_params(warm_start=False, n_jobs=None)
