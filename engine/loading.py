"""Loading a bundle of whatever kind."""

from engine.bundle import kind_of, read_manifest_data
from engine.classifier.bundle import ClassifierBundle, load_classifier
from engine.fraud_bundle import Bundle, load_bundle
from engine.kinds import CLASSIFIER
from engine.store import Store

AnyBundle = Bundle | ClassifierBundle


def load_any(store: Store, prefix: str, manifest_sha256: str) -> AnyBundle:
    """Check a bundle and load what serving needs of it.

    Raises InvalidBundle naming what is wrong; then nothing was loaded.
    """
    kind = kind_of(read_manifest_data(store, prefix, manifest_sha256))
    load = load_classifier if kind == CLASSIFIER else load_bundle
    return load(store, prefix, manifest_sha256)
