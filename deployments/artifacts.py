"""What the registry asks of the engine: does this bundle verify, does this rule set compile."""

from django.conf import settings

from deployments.models import RuleSet
from engine.bundle_cache import BundleCache
from engine.errors import InvalidBundle, InvalidRuleSet
from engine.fraud_bundle import Bundle
from engine.loading import AnyBundle, load_any
from engine.rules import RuleSet as CompiledRuleSet
from engine.store import is_bucket, open_store

FETCH_SECONDS = 20.0
"""How long a bucket is waited for by whoever wants a bundle: a server asks again by itself."""


def load(location: str, manifest_sha256: str) -> AnyBundle:
    """Load a bundle of ARTIFACTS_DIR, every digest checked. That of a bucket is kept on this
    machine, from where it loads whether the bucket answers or not.

    Raises InvalidBundle, StoreUnavailable.
    """
    store = open_store(settings.ARTIFACTS_DIR, seconds=FETCH_SECONDS)
    if not is_bucket(settings.ARTIFACTS_DIR):
        return load_any(store, location, manifest_sha256)
    return _cache().load(store, location, manifest_sha256)


def load_fraud(location: str, manifest_sha256: str) -> Bundle:
    """`load`, of a version that scores transactions. Raises InvalidBundle for another kind."""
    bundle = load(location, manifest_sha256)
    if not isinstance(bundle, Bundle):
        raise InvalidBundle(f"The bundle in {location} does not score transactions.")
    return bundle


def verify(location: str, manifest_sha256: str) -> AnyBundle:
    """Check that a bundle is whole where it is stored, and load it as a server would.

    A bucket is asked for the checksum of each file and not for the file itself, if that is on this
    machine already. Raises InvalidBundle, StoreUnavailable.
    """
    bundle = load(location, manifest_sha256)
    if is_bucket(settings.ARTIFACTS_DIR):
        store = open_store(settings.ARTIFACTS_DIR, seconds=FETCH_SECONDS)
        folder = _cache().fetch(store, location, manifest_sha256) / location
        for path in sorted(folder.iterdir()):
            if not store.holds(f"{location}/{path.name}", path):
                raise InvalidBundle(
                    f"The file {path.name} in {location} is not there, or not the one that was "
                    "registered."
                )
    return bundle


def _cache() -> BundleCache:
    return BundleCache(settings.BUNDLE_CACHE, settings.BUNDLE_CACHE_MB * 1_000_000)


def compile_rules(source: str) -> CompiledRuleSet:
    """Compile the TOML text of a rule set; raises InvalidRuleSet."""
    return CompiledRuleSet.from_toml(source)


def verify_rules(rule_set: RuleSet) -> None:
    """Check that a stored rule set is what was stored and still compiles; raises InvalidRuleSet."""
    if compile_rules(rule_set.source).sha256 != rule_set.sha256:
        raise InvalidRuleSet(f"The source of “{rule_set.name}” is not what was registered.")
