"""Registered classifiers for the tests of the apps: small real bundles in the artefact store."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings

from deployments import services
from deployments.models import ModelVersion, RegisteredModel
from engine.classifier.definition import read_definition
from engine.store import open_store
from tests.engine.classifiers import SPONSOR, write_small_classifier

METRICS: dict[str, Any] = {
    "kind": "classifier",
    "rows": 2_000,
    "accuracy": 0.871,
    "accuracy_interval": [0.856, 0.885],
    "balanced_accuracy": 0.86,
    "macro_f1": 0.858,
    "log_loss": 0.52,
    "top_3_accuracy": 0.98,
    "most_frequent_accuracy": 0.14,
    "best_possible_accuracy": 0.9,
    "expected_calibration_error": 0.02,
    "per_class": {"Glace": {"rows": 700, "precision": 0.9, "recall": 0.88, "f1": 0.89}},
    "split": {"test": 0.2},
    "champion": None,
    "baselines": {},
    "differences": {},
}


def compared(
    difference: float = 0.05,
    interval: tuple[float, float] | None = (0.02, 0.08),
    *,
    champion: str = "1.0.0",
    split: Mapping[str, float] | None = None,
    same_scores: bool = False,
) -> dict[str, Any]:
    """The metrics of a version whose run compared it with the champion."""
    return METRICS | {
        "accuracy": 0.8 + difference,
        "champion": {
            "version": champion,
            "same_dataset": True,
            "same_scores": same_scores,
            "split": split or {"test": 0.2},
        },
        "baselines": {"champion": {"accuracy": 0.8}},
        "differences": {
            "champion": {
                "accuracy": {"difference": difference, "interval": interval and list(interval)}
            }
        },
    }


def register_model(source: str = SPONSOR) -> RegisteredModel:
    """The classifier of a definition."""
    return services.model_register(source=source, by="test")


def register(
    version: str = "1.0.0",
    source: str = SPONSOR,
    *,
    seed: int = 0,
    metrics: Mapping[str, Any] = METRICS,
    **facts: Any,
) -> ModelVersion:
    """Write and register a version of a classifier, which is registered too; it is not promoted."""
    model = register_model(source)
    location = f"{read_definition(source).name}/v{version}"
    store = open_store(settings.ARTIFACTS_DIR)
    digest = write_small_classifier(store, location, version, source, seed=seed)
    return services.version_register(
        **{
            "model": model,
            "version": version,
            "location": location,
            "manifest_sha256": digest,
            "metrics": metrics,
            "deployable": True,
            "training_run_id": None,
            "rule_set": None,
            "created_by": "test",
            **facts,
        }
    )


def promote(version: str = "1.0.0", model: str = "sponsor") -> None:
    """Make a registered version the champion."""
    services.promote(
        model=RegisteredModel.objects.get(name=model),
        version=version,
        actor="test",
        reason="for a test",
    )
