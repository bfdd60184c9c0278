"""Which inputs the supervised model's ranking hangs on: permutation importance."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from engine.features.schema import FeatureSchema

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ROWS = 10_000
REPEATS = 5


def permutation_importances(
    predict: Callable[[Array], Array],
    matrix: Array,
    labels: Mask,
    weights: Array,
    groups: Mapping[str, Sequence[int]],
    seed: int,
) -> list[dict[str, Any]]:
    """How much average precision falls when an input's values come from other rows.

    Of inputs that tell nearly the same, each alone seems to matter little: the model reads the
    other one. It is measured on at most 10,000 rows: half of them frauds when there are as many,
    weighted so that both classes count as often as they occur; also the foreign values are drawn
    as often as they occur.

    Args:
        predict: (n, columns) to (n,) scores, higher = more like a fraud.
        matrix: (rows, columns) of the test part, with both classes.
        labels: (rows,).
        weights: (rows,) how many rows of the test part each stands for, the same for all of a
            class.
        groups: the columns of each input, by its name; they are shuffled as one.
        seed: of the draws.

    Returns:
        One entry an input, the most important first: `name`, `columns`, `drop` (the mean over 5
        repeats) and its range over them, `low` and `high`.
    """
    rng = np.random.default_rng(seed)
    rows, weights = _draw(labels, weights, rng)
    sample, sample_labels = matrix[rows], labels[rows]
    chances = weights / weights.sum()

    def precision(values: Array) -> float:
        found = average_precision_score(sample_labels, predict(values), sample_weight=weights)
        return float(found)

    untouched = precision(sample)
    found = []
    for name, columns in groups.items():
        drops = []
        for _ in range(REPEATS):
            foreign = sample.copy()
            foreign[:, columns] = sample[rng.choice(len(sample), len(sample), p=chances)][
                :, columns
            ]
            drops.append(untouched - precision(foreign))
        found.append(
            {
                "name": name,
                "columns": len(columns),
                "drop": float(np.mean(drops)),
                "low": min(drops),
                "high": max(drops),
            }
        )
    return sorted(found, key=lambda each: -each["drop"])


def grouped(schema: FeatureSchema) -> dict[str, list[int]]:
    """The columns of each input, by its name; one column for each value of one thing is one."""
    one_hot = {f"direction_{name}": "direction" for name in ("outgoing", "incoming")}
    one_hot |= {f"transaction_type_{name}": "transaction_type" for name in schema.transaction_types}
    one_hot |= {f"country_{name}": "country" for name in schema.countries}
    for attribute in schema.attributes:
        one_hot |= dict.fromkeys(attribute.names, f"attribute_{attribute.name}")
    groups: dict[str, list[int]] = {}
    for column, name in enumerate(schema.names):
        groups.setdefault(one_hot.get(name, name), []).append(column)
    return groups


def _draw(
    labels: Mask, weights: Array, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Array]:
    """Rows of both classes, and what each stands for."""
    rows, stands_for = [], []
    for each in (labels, ~labels):
        there = np.flatnonzero(each)
        drawn = rng.choice(there, min(ROWS // 2, len(there)), replace=False)
        rows.append(drawn)
        stands_for.append(np.full(len(drawn), weights[there].sum() / len(drawn)))
    return np.concatenate(rows), np.concatenate(stands_for)
