"""Registered classifiers for the tests of the API: small real bundles in the artefact store."""

from typing import Any

from django.conf import settings

from deployments import services
from deployments.models import Kind, ModelVersion, RegisteredModel
from engine.store import open_store
from tests.engine.classifiers import SPONSOR, write_small_classifier


def register(version: str = "1.0.0", name: str = "sponsor", **changes: Any) -> ModelVersion:
    """Write and register a version of a classifier, and the classifier where it is not there; it is
    not promoted. `changes` are arguments of `write_small_classifier`."""
    source = changes.pop("definition", SPONSOR).replace('"sponsor"', f'"{name}"', 1)
    facts = {"kind": Kind.CLASSIFIER, "definition": source}
    model, _ = RegisteredModel.objects.get_or_create(name=name, defaults=facts)
    location = f"{name}/v{version}"
    store = open_store(settings.ARTIFACTS_DIR)
    digest = write_small_classifier(store, location, version, source, **changes)
    return services.version_register(
        model=model,
        version=version,
        location=location,
        manifest_sha256=digest,
        metrics={},
        deployable=True,
        training_run_id=None,
        rule_set=None,
        created_by="test",
    )


def promote(version: str = "1.0.0", name: str = "sponsor") -> None:
    """Make a registered version the champion."""
    model = RegisteredModel.objects.get(name=name)
    services.promote(model=model, version=version, actor="test", reason="for a test")
