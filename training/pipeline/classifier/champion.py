"""The version that serves, on the rows that a new one is tested on."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from engine.classifier.bundle import load_classifier
from engine.classifier.definition import Definition
from engine.errors import InvalidBundle, SentinelleError
from engine.store import open_store
from training.pipeline.classifier.metrics import Tested, accuracy_difference, figures
from training.pipeline.classifier.predict import Predicted, predict_rows
from training.pipeline.classifier.rows import Codes, Matrix
from training.pipeline.spec import Champion

FIGURES: Final = (
    "accuracy",
    "accuracy_interval",
    "balanced_accuracy",
    "macro_f1",
    "log_loss",
    "top_3_accuracy",
    "expected_calibration_error",
)
"""What is measured of the champion too."""


class Rival(NamedTuple):
    """What the champion says of the test part, and what it had been fitted on."""

    version: str
    predicted: Predicted
    split: dict[str, Any] | None
    """By which its rows were split; None when its bundle does not say."""
    same_dataset: bool | None


def challenge(
    champion: Champion | None,
    definition: Definition,
    fingerprint: str,
    matrix: Matrix,
    labels: Codes,
    progress: Callable[[float], None],
) -> tuple[Rival | None, str | None]:
    """The champion's answers, or why it can't be compared with; neither when none serves.

    A champion that can't be loaded is reported: a new version may be what replaces it.
    """
    if champion is None:
        return None, None
    try:
        return _answers(champion, definition, fingerprint, matrix, labels, progress), None
    except SentinelleError as refusal:
        return None, f"The champion v{champion.version} can't be compared with: {refusal}"


def _answers(
    champion: Champion,
    definition: Definition,
    fingerprint: str,
    matrix: Matrix,
    labels: Codes,
    progress: Callable[[float], None],
) -> Rival:
    parent, _, name = champion.location.rpartition("/")
    bundle = load_classifier(open_store(parent), name, champion.manifest_sha256)
    if bundle.definition.fingerprint != definition.fingerprint:
        raise InvalidBundle("it reads other inputs, or tells other classes.")
    predicted = predict_rows(
        lambda rows: bundle.probabilities(rows.astype(np.float64)),
        matrix,
        labels,
        len(definition.classes),
        progress,
    )
    training = bundle.manifest.training
    seen = training.get("data", {}).get("fingerprint")
    return Rival(
        champion.version,
        predicted,
        training.get("metrics", {}).get("split"),
        None if seen is None else seen == fingerprint,
    )


def compared(
    ours: Predicted, rival: Rival | None, labels: Codes, names: list[str]
) -> dict[str, Any]:
    """What the metrics have of the champion: `champion`, `baselines` and `differences`. `names` are
    those of the classes."""
    if rival is None:
        return {"champion": None, "baselines": {}, "differences": {}}
    theirs = rival.predicted
    right = theirs.label == labels
    found = figures(Tested(labels, theirs, None), names, most_frequent=0)
    return {
        "champion": {
            "version": rival.version,
            "split": rival.split,
            "same_dataset": rival.same_dataset,
            "same_scores": bool(
                np.array_equal(ours.label, theirs.label)
                and np.array_equal(ours.confidence, theirs.confidence)
                and np.array_equal(ours.own, theirs.own)
            ),
        },
        "baselines": {
            "champion": {name: found[name] for name in FIGURES},
        },
        "differences": {"champion": {"accuracy": accuracy_difference(ours.label == labels, right)}},
    }
