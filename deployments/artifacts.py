"""What the registry asks of the engine: does this bundle verify, does this rule set compile."""

from django.conf import settings

from deployments.models import RuleSet
from engine.bundle import BundleManifest, load_bundle
from engine.errors import InvalidRuleSet
from engine.rules import RuleSet as CompiledRuleSet
from engine.store import open_store


def verify(location: str, manifest_sha256: str) -> BundleManifest:
    """Check every digest of a bundle and load it, as a server would; raises InvalidBundle."""
    return load_bundle(open_store(settings.ARTIFACTS_DIR), location, manifest_sha256).manifest


def compile_rules(source: str) -> CompiledRuleSet:
    """Compile the TOML text of a rule set; raises InvalidRuleSet."""
    return CompiledRuleSet.from_toml(source)


def verify_rules(rule_set: RuleSet) -> None:
    """Check that a stored rule set is what was stored and still compiles; raises InvalidRuleSet."""
    if compile_rules(rule_set.source).sha256 != rule_set.sha256:
        raise InvalidRuleSet(f"The source of “{rule_set.name}” is not what was registered.")
