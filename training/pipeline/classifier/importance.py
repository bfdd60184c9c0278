"""Which inputs a classifier's answers hang on: permutation importance (Breiman, 2001)."""

from typing import Any, Final

import numpy as np

from engine.classifier.definition import Definition
from training.pipeline.classifier.predict import Predict
from training.pipeline.classifier.rows import Codes, Matrix

ROWS: Final = 10_000
REPEATS: Final = 5


def input_importances(
    predict: Predict, matrix: Matrix, labels: Codes, definition: Definition, seed: int
) -> list[dict[str, Any]]:
    """How much accuracy falls when an input's values come from other rows, on at most 10,000.

    Of inputs that tell nearly the same, each alone seems to matter little: the model reads the
    other one.

    Returns:
        One entry an input, the most important first: `name`, `columns`, `drop` (the mean over 5
        repeats) and its range over them, `low` and `high`.
    """
    random = np.random.default_rng(seed)
    drawn = random.permutation(len(matrix))[:ROWS]
    sample, own = matrix[drawn], labels[drawn]

    def accuracy(rows: Matrix) -> float:
        return float((predict(rows).argmax(axis=1) == own).mean())

    untouched = accuracy(sample)
    found, first = [], 0
    for name, each in definition.inputs.items():
        columns = slice(first, first + each.columns)
        first += each.columns
        drops = []
        for _ in range(REPEATS):
            foreign = sample.copy()
            foreign[:, columns] = sample[random.permutation(len(sample)), columns]
            drops.append(untouched - accuracy(foreign))
        found.append(
            {
                "name": name,
                "columns": each.columns,
                "drop": float(np.mean(drops)),
                "low": min(drops),
                "high": max(drops),
            }
        )
    return sorted(found, key=lambda entry: -entry["drop"])
