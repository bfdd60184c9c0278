"""Tree ensembles as Treelite checkpoints, and the two of a fraud bundle as serving sees them.

Both score rows of the feature schema, shape (n, features), float64, NaN for unknown. Higher is
more suspicious, in [0, 1]. The same classes check an export against scikit-learn and serve it.
"""

from typing import Any

import numpy as np
import treelite
from numpy.typing import NDArray
from treelite import gtil

from engine.errors import InvalidBundle
from engine.policy import PiecewiseLinear

Rows = NDArray[np.float64]


def serialize(estimator: Any) -> bytes:
    """Return the Treelite checkpoint of a fitted scikit-learn tree ensemble.

    A forest of classes has one output a class that it was fitted with, so a classifier's has to be
    fitted with all of them: a class without rows by one row of weight 0.
    """
    from treelite import sklearn

    checkpoint: bytes = sklearn.import_model(estimator).serialize_bytes()
    return checkpoint


class SupervisedModel:
    """Gradient boosting: the probability that a transaction is fraud.

    Raises InvalidBundle when `checkpoint` is not an ensemble over `features` float64 features
    with one output.
    """

    def __init__(self, checkpoint: bytes, features: int) -> None:
        self._model = _load(checkpoint, features, "supervised")
        self.features = features

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return the probabilities of rows (n, features): (n,) in [0, 1]."""
        return _predict(self._model, rows, self.features)

    def predict_one(self, row: Rows) -> float:
        """Return the probability of one row (features,)."""
        return float(self.predict(row.reshape(1, -1))[0])


class UnsupervisedModel:
    """Isolation forest: how unusual a transaction is, calibrated to [0, 1].

    `fill` (features,) replaces unknown values, since a forest has no place for them; `calibration`
    maps the forest's raw score (the opposite of scikit-learn's `score_samples`) to [0, 1].
    Thresholds are compared in float32, as scikit-learn does.

    Raises InvalidBundle when `checkpoint` or `fill` do not fit `features`.
    """

    def __init__(
        self,
        checkpoint: bytes,
        features: int,
        fill: NDArray[np.float64],
        calibration: PiecewiseLinear,
    ) -> None:
        self._model = _load(checkpoint, features, "unsupervised")
        self.features = features
        if fill.shape != (features,) or not np.isfinite(fill).all():
            raise InvalidBundle(f"The unsupervised model needs {features} finite fill values.")
        self._fill = fill
        self._calibration = calibration

    def raw(self, rows: Rows) -> NDArray[np.float64]:
        """Return the uncalibrated scores of rows (n, features): (n,), about 0.3 to 0.9."""
        _check_width(rows, self.features)
        filled = np.where(np.isnan(rows), self._fill, rows)
        narrowed = filled.astype(np.float32).astype(np.float64)
        return _predict(self._model, narrowed, self.features)

    def predict(self, rows: Rows) -> NDArray[np.float64]:
        """Return the scores of rows (n, features): (n,) in [0, 1]."""
        return self._calibration(self.raw(rows))

    def predict_one(self, row: Rows) -> float:
        """Return the score of one row (features,)."""
        return float(self.predict(row.reshape(1, -1))[0])


def _load(checkpoint: bytes, features: int, name: str) -> Any:
    try:
        model = treelite.Model.deserialize_bytes(checkpoint)
        fitting = (model.num_feature, model.input_type) == (features, "float64")
        shape = gtil.predict(model, np.zeros((1, features)), nthread=1).shape if fitting else None
    except treelite.TreeliteError as error:
        raise InvalidBundle(f"The {name} model is not a Treelite checkpoint: {error}") from None
    if shape != (1, 1, 1):
        raise InvalidBundle(f"The {name} model does not score {features} features.")
    return model


def _check_width(rows: Rows, features: int) -> None:
    # Treelite pads missing columns with NaN, numpy broadcasts one column: both would give a row
    # of another schema a score.
    if rows.ndim != 2 or rows.shape[1] != features:
        raise ValueError(f"expected rows of {features} features, got {rows.shape}")


def _predict(model: Any, rows: Rows, features: int) -> NDArray[np.float64]:
    _check_width(rows, features)
    # One thread: a request is one row, and training splits its rows itself.
    return np.asarray(gtil.predict(model, rows, nthread=1), dtype=np.float64).reshape(-1)
