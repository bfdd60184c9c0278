"""How good a classifier is, on rows that it was not fitted on.

Where a figure has a name in scikit-learn it is the same figure.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kinds import CLASSIFIER
from training.pipeline.classifier.predict import Predicted
from training.pipeline.classifier.rows import Codes

LEVEL_Z: Final = 1.959963984540054
"""Standard deviations around the mean that hold 95 % of a normal distribution."""
BINS: Final = 10
TOP: Final = 3

Array = NDArray[np.float64]


class Tested(NamedTuple):
    """The test part and what a version said of it; (rows,) each."""

    labels: Codes
    predicted: Predicted
    best: Array | None
    """The probability of the likeliest class, where it is known."""


def figures(tested: Tested, names: list[str], most_frequent: int) -> dict[str, Any]:
    """The metrics, by name; one that is not defined is None.

    Args:
        names: of the classes, by their numbers.
        most_frequent: the class with the most rows among those that were fitted on.
    """
    labels, predicted = tested.labels, tested.predicted
    counts = confusion(labels, predicted.label, len(names))
    right = int(np.trace(counts))
    rows = len(labels)
    per_class = _per_class(counts)
    return {
        "kind": CLASSIFIER,
        "rows": rows,
        "accuracy": right / rows,
        "accuracy_interval": wilson(right, rows),
        "balanced_accuracy": _mean([each["recall"] for each in per_class]),
        "macro_f1": _mean([each["f1"] for each in per_class]),
        "log_loss": log_loss(predicted.own),
        "top_3_accuracy": float((predicted.ahead < TOP).mean()) if len(names) > TOP else None,
        "most_frequent_accuracy": float((labels == most_frequent).mean()),
        "best_possible_accuracy": None if tested.best is None else float(tested.best.mean()),
        "expected_calibration_error": calibration_error(reliability(tested)),
        "per_class": dict(zip(names, per_class, strict=True)),
    }


def confusion(labels: Codes, predicted: Codes, classes: int) -> NDArray[np.int64]:
    """(actual, predicted) how many rows are of one class and were taken for the other."""
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def wilson(right: int, rows: int) -> list[float]:
    """`[low, high]`, the 95 % interval of a share (Wilson, 1927)."""
    share, square = right / rows, LEVEL_Z**2
    centre = (share + square / (2 * rows)) / (1 + square / rows)
    spread = share * (1 - share) / rows + square / (4 * rows**2)
    half = LEVEL_Z / (1 + square / rows) * float(np.sqrt(spread))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def log_loss(own: Array) -> float:
    """From the probabilities of the rows' own classes; none counts as less than 2.2e-16."""
    return float(-np.log(np.clip(own, np.finfo(np.float64).eps, 1.0)).mean())


def reliability(tested: Tested) -> list[dict[str, Any]]:
    """Of ten equal ranges of the confidence, each that has rows: its mean, and the share of the
    rows that were right with its 95 % interval."""
    confidence = tested.predicted.confidence
    right = tested.predicted.label == tested.labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return [
        {
            "mean_confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
            "interval": wilson(int(right[inside].sum()), int(inside.sum())),
            "rows": int(inside.sum()),
        }
        for inside in (bins == each for each in range(BINS))
        if inside.any()
    ]


def calibration_error(bins: list[dict[str, Any]]) -> float:
    """How far confidence is from accuracy, on average over the rows (Naeini et al., 2015)."""
    rows = sum(each["rows"] for each in bins)
    gaps = [each["rows"] * abs(each["mean_confidence"] - each["accuracy"]) for each in bins]
    return float(sum(gaps) / rows)


def accuracy_difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> dict[str, Any]:
    """How much more of the same rows one version gets right than another one, with the 95 %
    interval of that, for pairs (Bonett and Price, 2012).

    Resampling would call a version better that alone is right in 4 rows and wrong in none, which
    two equal ones are once in eight times.
    """
    rows = len(ours)
    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    more, less = (better + 1) / (rows + 2), (worse + 1) / (rows + 2)
    half = LEVEL_Z * float(np.sqrt((more + less - (more - less) ** 2) / (rows + 2)))
    return {
        "difference": (better - worse) / rows,
        "interval": [max(-1.0, more - less - half), min(1.0, more - less + half)],
    }


def _per_class(counts: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Rows, precision, recall and F1 of each class. F1 is 0 for a class that was never taken for
    what it is, and None for one that neither occurs nor was predicted."""
    found = []
    for at, (actual, predicted) in enumerate(zip(counts.sum(1), counts.sum(0), strict=True)):
        right, either = int(counts[at, at]), int(actual + predicted)
        found.append(
            {
                "rows": int(actual),
                "precision": right / int(predicted) if predicted else None,
                "recall": right / int(actual) if actual else None,
                "f1": 2 * right / either if either else None,
            }
        )
    return found


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(sum(known) / len(known))
