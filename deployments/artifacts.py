"""What the registry asks of the engine: does this bundle verify, does this rule set compile."""

from typing import NamedTuple

from django.conf import settings

from deployments.models import RuleSet
from engine.errors import InvalidRuleSet
from engine.rules import RuleSet as CompiledRuleSet
from engine.store import open_store


class BundleFacts(NamedTuple):
    """What is told of a bundle beside its version: bytes of all files, and risk scores in [0, 1]
    from which to REVIEW and to BLOCK."""

    size_bytes: int
    thresholds: dict[str, float]


def verify(location: str, manifest_sha256: str) -> BundleFacts:
    """Read the whole bundle and check every digest; raises InvalidBundle."""
    from engine.bundle import verify_bundle

    manifest = verify_bundle(open_store(settings.ARTIFACTS_DIR), location, manifest_sha256)
    return BundleFacts(
        size_bytes=sum(file.size for file in manifest.files.values()),
        thresholds={"review": manifest.policy.review, "block": manifest.policy.block},
    )


def compile_rules(source: str) -> CompiledRuleSet:
    """Compile the TOML text of a rule set; raises InvalidRuleSet."""
    return CompiledRuleSet.from_toml(source)


def verify_rules(rule_set: RuleSet) -> None:
    """Check that a stored rule set is what was stored and still compiles; raises InvalidRuleSet."""
    if compile_rules(rule_set.source).sha256 != rule_set.sha256:
        raise InvalidRuleSet(f"The source of “{rule_set.name}” is not what was registered.")
