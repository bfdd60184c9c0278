"""Registered versions for the tests of the apps: small real bundles in the artefact store."""

from hashlib import sha256

from django.conf import settings

from deployments import services
from deployments.models import ModelVersion, RegisteredModel, RuleSet, RuleSetAlias, RuleSetEvent
from engine.policy import Policy
from engine.rules import default_rules_text
from engine.store import open_store
from tests.engine.bundles import bundle_files, write_small_bundle


def seed_registry() -> RegisteredModel:
    """Put back what the migrations made, where a test has emptied the tables."""
    model, _ = RegisteredModel.objects.get_or_create(name="fraud", kind="fraud")
    for name, source in (("none", ""), ("default", default_rules_text())):
        digest = sha256(source.encode()).hexdigest()
        row, _ = RuleSet.objects.get_or_create(
            name=name, defaults={"source": source, "sha256": digest}
        )
    RuleSetAlias.objects.get_or_create(model=model, defaults={"rule_set": row})
    RuleSetEvent.objects.get_or_create(
        model=model, to_rule_set=row, action="promote", actor="migration", reason="The default."
    )
    return model


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
    review: float = 0.5,
    block: float = 0.8,
    trees: int = 20,
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
        metrics={},
        deployable=deployable,
        training_run_id=None,
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
