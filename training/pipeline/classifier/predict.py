"""What a version says of many rows, without keeping every probability of each."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np
import treelite
from numpy.typing import NDArray
from treelite import gtil

from training.pipeline.classifier.rows import Codes, Matrix
from training.pipeline.classifier.threads import most_threads

Predict = Callable[[Matrix], NDArray[np.float64]]
"""(rows, columns) to (rows, classes), each row summing to 1."""

PROBABILITIES: Final = 250_000
"""How many a thread has in memory at once."""


class Predicted(NamedTuple):
    """Of each row, (rows,): the likeliest class (the first of several), its probability, that of
    the row's own class, and how many classes are likelier than that."""

    label: Codes
    confidence: NDArray[np.float64]
    own: NDArray[np.float64]
    ahead: Codes


def predict_rows(
    predict: Predict, matrix: Matrix, labels: Codes, classes: int, progress: Callable[[float], None]
) -> Predicted:
    """Predict rows (rows, columns) whose classes are `labels`; `progress` takes the share done."""
    rows = len(matrix)
    found = Predicted(
        np.empty(rows, np.int32), np.empty(rows), np.empty(rows), np.empty(rows, np.int32)
    )

    def fill(part: slice) -> None:
        probabilities = predict(matrix[part])
        own = probabilities[np.arange(len(probabilities)), labels[part]][:, np.newaxis]
        found.label[part] = probabilities.argmax(axis=1)
        found.confidence[part] = probabilities.max(axis=1)
        found.own[part] = own[:, 0]
        before = np.arange(classes) < labels[part][:, np.newaxis]
        found.ahead[part] = ((probabilities > own) | ((probabilities == own) & before)).sum(axis=1)

    step = max(1, PROBABILITIES // classes)
    parts = [slice(first, first + step) for first in range(0, rows, step)]
    with ThreadPoolExecutor(most_threads()) as pool:
        for done, _ in enumerate(pool.map(fill, parts), start=1):
            progress(done / len(parts))
    return found


def served_forest(checkpoint: bytes) -> Predict:
    """Predict by model.treelite as it will be served."""
    model = treelite.Model.deserialize_bytes(checkpoint)

    def predict(matrix: Matrix) -> NDArray[np.float64]:
        found = gtil.predict(model, matrix.astype(np.float64), nthread=1)
        return np.asarray(found, dtype=np.float64).reshape(len(matrix), -1)

    return predict
