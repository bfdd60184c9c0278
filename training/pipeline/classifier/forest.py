"""The random forest of a classifier, which has a size that the number of rows does not change."""

import math
from collections.abc import Callable
from typing import Final

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from training.pipeline.classifier.rows import Codes, Matrix

FOREST_BYTES: Final = 55_000_000
"""What a forest may have in model.treelite and, packed, in model.joblib together at most."""
LEAF_BYTES: Final = 280
CLASS_BYTES: Final = 24
"""What a leaf, with the node above it, has in the two at most: this, and so much for each class."""
LEAST_LEAF: Final = 5
"""Rows in a leaf, where there are few."""
TREE_ROWS: Final = 200_000
"""As many rows as this are drawn for a tree, with replacement: more would cost time and not make
a tree of that few leaves better."""
MAX_FEATURES: Final = 0.5
"""Share of the columns that a split may choose from. The root of their number, which is usual,
leaves a forest on a few inputs often without the one that matters."""
MOST_THREADS: Final = 4
"""A tree that is being grown takes memory by the row."""
STEPS: Final = 10


def most_leaves(trees: int, classes: int) -> int:
    """How many leaves a tree may have, so that the forest keeps to `FOREST_BYTES`.

    The number of rows does not change it: with more rows, more of them are in a leaf.
    """
    return max(2, FOREST_BYTES // (trees * (LEAF_BYTES + CLASS_BYTES * classes)))


def fit_forest(
    matrix: Matrix,
    labels: Codes,
    classes: int,
    *,
    trees: int,
    seed: int,
    progress: Callable[[float, str], None],
) -> RandomForestClassifier:
    """Fit on rows (rows, columns); the estimator knows all `classes`, also those without a row.

    Equal arguments give an equal forest, however many threads grow it.
    """
    weights: NDArray[np.float64] | None = None
    absent = np.setdiff1d(np.arange(classes, dtype=np.int32), labels)
    if len(absent):
        # A row that counts for nothing makes the estimator know the class.
        weights = np.concatenate([np.ones(len(labels)), np.zeros(len(absent))])
        matrix = np.concatenate([matrix, matrix[:1].repeat(len(absent), axis=0)])
        labels = np.concatenate([labels, absent])
    model = RandomForestClassifier(
        n_estimators=0,
        # With a limit, the leaves are made where they tell most, one by one.
        max_leaf_nodes=most_leaves(trees, classes),
        min_samples_leaf=LEAST_LEAF,
        max_features=MAX_FEATURES,
        max_samples=min(len(labels), TREE_ROWS),
        random_state=seed,
        n_jobs=max(1, min(joblib.cpu_count(), MOST_THREADS)),
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
