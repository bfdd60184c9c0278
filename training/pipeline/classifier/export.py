"""From a fitted forest to the files of a bundle, checked before anything is written."""

import io
from importlib.metadata import version
from typing import Any, Final

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from engine.classifier.bundle import COLUMNS, ESTIMATOR, MODEL
from engine.classifier.definition import Definition
from engine.errors import SentinelleError
from engine.trees import serialize
from training.pipeline.classifier.predict import Predict
from training.pipeline.classifier.rows import Matrix

TOLERANCE: Final = 1e-9
CHECK_ROWS: Final = 10_000
LIBRARIES: Final = ("numpy", "scikit-learn", "treelite", "joblib")


class ExportMismatch(SentinelleError):
    """The file to be served does not give scikit-learn's probabilities."""

    code = "EXPORT_MISMATCH"


def export_forest(model: RandomForestClassifier, definition: Definition) -> dict[str, bytes]:
    """The files of a bundle, by name. An equal forest gives equal bytes."""
    return {
        MODEL: serialize(model),
        ESTIMATOR: _joblib(model),
        COLUMNS: _joblib(definition.columns),
    }


def check_export(
    predict: Predict, model: RandomForestClassifier, matrix: Matrix, seed: int
) -> float:
    """The largest difference of a probability, of the file to be served from scikit-learn's, on
    rows that were not fitted on; half of them with values on thresholds at which the trees split.

    Raises ExportMismatch when one differs by more than 1e-9.
    """
    rows = _check_rows(model, matrix, seed)
    difference = np.abs(predict(rows) - model.predict_proba(rows))
    # Written so that NaN is refused too.
    if wrong := int(np.sum(~(difference <= TOLERANCE))):
        raise ExportMismatch(
            f"{MODEL} does not answer like the scikit-learn model it was made from: {wrong:,} "
            f"probabilities of {len(rows):,} rows differ by more than {TOLERANCE:g}, at most by "
            f"{np.max(difference):.3g}. Nothing was exported; please report this with the library "
            "versions."
        )
    return float(np.max(difference))


def libraries() -> dict[str, str]:
    """Names and versions of what a bundle was made with."""
    return {name: version(name) for name in LIBRARIES}


def _check_rows(model: RandomForestClassifier, matrix: Matrix, seed: int) -> Matrix:
    random = np.random.default_rng(seed)
    rows: NDArray[np.float32] = matrix[random.integers(0, len(matrix), CHECK_ROWS)]
    trees = [each.tree_ for each in model.estimators_]
    splits = np.concatenate(
        [np.column_stack([tree.feature, tree.threshold])[tree.feature >= 0] for tree in trees]
    )
    if not len(splits):
        return rows
    on_edges = rows[CHECK_ROWS // 2 :]
    for _ in range(4):
        picked = splits[random.integers(0, len(splits), len(on_edges))]
        on_edges[np.arange(len(on_edges)), picked[:, 0].astype(np.int64)] = picked[:, 1]
    return rows


def _joblib(value: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(value, buffer, compress=3)
    return buffer.getvalue()
