"""Registered versions for the tests of the apps: small real bundles in the artefact store."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any
from uuid import UUID

from django.apps import apps
from django.conf import settings

from deployments import services
from deployments.models import ModelVersion, RegisteredModel, RuleSet
from engine.policy import Policy
from engine.store import open_store
from tests.engine.bundles import bundle_files, write_small_bundle

METRICS = {
    "pr_auc": 0.61,
    "roc_auc": 0.972,
    "f1": 0.58,
    "recall_at_1_percent": 0.81,
    "precision": 0.77,
    "recall": 0.42,
    "rows": 20_000,
    "frauds": 60,
    "fraud_rate": 0.003,
    "supervised": {"pr_auc": 0.59, "roc_auc": 0.965, "f1": 0.55, "recall_at_1_percent": 0.78},
    "unsupervised": {"pr_auc": 0.11, "roc_auc": 0.86, "f1": 0.2, "recall_at_1_percent": 0.3},
    "rules": {"precision": 0.2, "recall": 0.31, "alert_rate": 0.004, "alerts": 80, "f1": 0.24},
    "block": {"precision": 0.77, "recall": 0.42, "alert_rate": 0.0016, "alerts": 33, "f1": 0.54},
    "review": {"precision": 0.24, "recall": 0.83, "alert_rate": 0.0104, "alerts": 207, "f1": 0.37},
}


def seed_registry() -> RegisteredModel:
    """Put back what the migrations made, where a test has emptied the tables."""
    if not RegisteredModel.objects.exists():
        migration = import_module("deployments.migrations.0002_fraud_and_rule_sets")
        migration.seed(apps, None)
    return RegisteredModel.objects.get(name="fraud")


def write(
    version: str,
    *,
    rules_sha256: str,
    review: float = 0.5,
    block: float = 0.8,
    trees: int = 20,
) -> tuple[str, str]:
    """Write a bundle into the artefact store; returns its location and its manifest's digest."""
    location = f"fraud/v{version}"
    digest = write_small_bundle(
        open_store(settings.ARTIFACTS_DIR),
        location,
        version=version,
        files=bundle_files(trees),
        policy=Policy(review=review, block=block),
        rule_set_sha256=rules_sha256,
    )
    return location, digest


def register(
    version: str = "1.0.0",
    *,
    rules: str = "default",
    deployable: bool = True,
    metrics: Mapping[str, Any] = METRICS,
    review: float = 0.5,
    block: float = 0.8,
    trees: int = 20,
    training_run_id: UUID | None = None,
) -> ModelVersion:
    """Write and register a version of “fraud”; it is not promoted."""
    rule_set = RuleSet.objects.get(name=rules)
    location, digest = write(
        version, rules_sha256=rule_set.sha256, review=review, block=block, trees=trees
    )
    return services.version_register(
        model=RegisteredModel.objects.get(name="fraud"),
        version=version,
        location=location,
        manifest_sha256=digest,
        metrics=metrics,
        deployable=deployable,
        training_run_id=training_run_id,
        rule_set=rule_set,
        created_by="test",
    )


def promote(version: str = "1.0.0") -> None:
    """Make a registered version the champion."""
    services.promote(
        model=RegisteredModel.objects.get(name="fraud"),
        version=version,
        actor="test",
        reason="for a test",
    )
