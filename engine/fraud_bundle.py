"""The bundle of a fraud model (see bundle.py for what every bundle has).

manifest.json                 schema, policy, and what every manifest has
supervised.treelite           the gradient boosting, as a Treelite checkpoint
unsupervised.treelite         the isolation forest, likewise
*.joblib, baseline.json, …    for workers and people; serving checks them and never opens them
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from engine.bundle import Manifest, encode, entries, read_bundle, read_manifest_data, write_files
from engine.errors import InvalidBundle
from engine.features.catalogue import LABEL_DELAY, fingerprint
from engine.features.schema import INPUTS, FeatureSchema
from engine.policy import PiecewiseLinear, Policy
from engine.store import Store
from engine.trees import SupervisedModel, UnsupervisedModel

PROTOCOL: Final = 2
"""What is written. Protocol 1, which is read too, had no label delay and no attributes."""

# Protocol 1 took the fingerprint of the whole catalogue, of which it knew one. The second is that
# of the same definitions as it is taken today.
_PROTOCOL_1_CATALOGUE: Final = "cf4daa933da049d46b3c1b3e7e9d7d88ff72a427af59dacc2ba9464039b407d5"
_PROTOCOL_1_FINGERPRINT: Final = "9abfcdd9beb4fa3e0013e03432198e7ff281453e8249aba92aa24dfe4148e4ed"

SUPERVISED: Final = "supervised.treelite"
UNSUPERVISED: Final = "unsupervised.treelite"
FEATURE_SCHEMA: Final = "feature_schema.json"
THRESHOLDS: Final = "thresholds.json"


class Anomaly(msgspec.Struct, frozen=True):
    """How the isolation forest is read."""

    fill: list[float]
    """What stands for an unknown value, in the schema's order."""
    calibration: PiecewiseLinear
    """From the forest's raw score to [0, 1]."""


class FraudManifest(Manifest, frozen=True, kw_only=True):
    """The facts of a version.

    `feature_schema` is FeatureSchema's `to_dict`, `catalogue_fingerprint` that of its inputs,
    `label_delay_us` (microseconds) how long after a transaction its label counts, as the features
    that are made of labels were computed; `rule_set_sha256` (hex) that of the rules the
    thresholds were tuned with.
    """

    feature_schema: dict[str, Any]
    catalogue_fingerprint: str
    label_delay_us: Annotated[int, Meta(ge=0)]
    policy: Policy
    anomaly: Anomaly
    rule_set_sha256: str


@dataclass(frozen=True)
class Bundle:
    """A loaded version, ready to score. `label_delay` is in microseconds."""

    manifest: FraudManifest
    manifest_sha256: str
    schema: FeatureSchema
    label_delay: int
    policy: Policy
    supervised: SupervisedModel
    unsupervised: UnsupervisedModel


def write_bundle(
    store: Store,
    prefix: str,
    files: Mapping[str, bytes],
    *,
    model: str,
    version: str,
    schema: FeatureSchema,
    label_delay: int,
    policy: Policy,
    fill: NDArray[np.float64],
    anomaly_calibration: PiecewiseLinear,
    rule_set_sha256: str,
    training: Mapping[str, Any],
    libraries: Mapping[str, str],
) -> str:
    """Write a bundle into the folder `prefix` and return its manifest's SHA-256 (hex).

    `files` are the two checkpoints and whatever else belongs to the version; the files for people
    (feature_schema.json, thresholds.json) are written from the facts given here. `label_delay` is
    in microseconds, at least 0.

    Raises InvalidBundle when the folder already has a manifest, or when what is given would not
    load.
    """
    facts = {
        FEATURE_SCHEMA: encode(schema.to_dict()),
        THRESHOLDS: encode({"review": policy.review, "block": policy.block}),
    }
    contents = {**files, **facts}
    manifest = FraudManifest(
        protocol=PROTOCOL,
        model=model,
        version=version,
        feature_schema=schema.to_dict(),
        catalogue_fingerprint=fingerprint(schema.inputs),
        label_delay_us=label_delay,
        policy=policy,
        anomaly=Anomaly(fill.tolist(), anomaly_calibration),
        rule_set_sha256=rule_set_sha256,
        training=dict(training),
        libraries=dict(libraries),
        files=entries(contents),
    )
    data = encode(manifest)
    digest = hashlib.sha256(data).hexdigest()
    _build(_decode_manifest(data, prefix), digest, contents)
    write_files(store, prefix, contents, data)
    return digest


class Definitions(NamedTuple):
    """What a version's inputs mean: their names, the fingerprint of their definitions (None when
    nobody knows) and the label delay (µs)."""

    inputs: tuple[str, ...]
    fingerprint: str | None
    label_delay: int


def definitions_of(store: Store, prefix: str, manifest_sha256: str) -> Definitions:
    """Read what the inputs of a version mean, of its manifest alone.

    Raises InvalidBundle naming what is wrong.
    """
    manifest = _decode_manifest(read_manifest_data(store, prefix, manifest_sha256), prefix)
    inputs = tuple(name for name in manifest.feature_schema.get("names", ()) if name in INPUTS)
    return Definitions(inputs, _fingerprint_of(manifest), manifest.label_delay_us)


def load_bundle(store: Store, prefix: str, manifest_sha256: str) -> Bundle:
    """Check a bundle as `read_bundle` does and load what serving needs of it.

    Raises InvalidBundle naming what is wrong; then nothing was loaded.
    """
    # The manifest first: one of another protocol may have another shape altogether.
    manifest = _decode_manifest(read_manifest_data(store, prefix, manifest_sha256), prefix)
    return _build(manifest, manifest_sha256, read_bundle(store, prefix, manifest_sha256).files)


def _decode_manifest(data: bytes, prefix: str) -> FraudManifest:
    try:
        # The protocol first: another one may have another shape.
        protocol = msgspec.json.decode(data, type=_ProtocolOnly).protocol
        if protocol not in (1, PROTOCOL):
            raise InvalidBundle(
                f"The bundle in {prefix} has protocol {protocol}; this engine reads 1 and 2."
            )
        facts = msgspec.json.decode(data, type=dict[str, Any])
        if protocol == 1:
            facts["label_delay_us"] = LABEL_DELAY
        return msgspec.convert(facts, FraudManifest)
    except msgspec.MsgspecError as error:
        raise InvalidBundle(f"The manifest in {prefix} can't be read: {error}") from None


class _ProtocolOnly(msgspec.Struct):
    protocol: int


def _build(manifest: FraudManifest, digest: str, contents: Mapping[str, bytes]) -> Bundle:
    """Construct the served objects from verified content."""
    for name in (SUPERVISED, UNSUPERVISED):
        if name not in contents:
            raise InvalidBundle(f"The bundle has no {name}.")
    schema = FeatureSchema.from_dict(manifest.feature_schema)
    if _fingerprint_of(manifest) != fingerprint(schema.inputs):
        raise InvalidBundle(
            f"Version {manifest.version} was trained with other feature definitions than this "
            "engine computes; train it again."
        )
    count = len(schema.names)
    fill = np.array(manifest.anomaly.fill, dtype=np.float64)
    return Bundle(
        manifest=manifest,
        manifest_sha256=digest,
        schema=schema,
        label_delay=manifest.label_delay_us,
        policy=manifest.policy,
        supervised=SupervisedModel(contents[SUPERVISED], count),
        unsupervised=UnsupervisedModel(
            contents[UNSUPERVISED], count, fill, manifest.anomaly.calibration
        ),
    )


def _fingerprint_of(manifest: FraudManifest) -> str | None:
    """What the schema's inputs meant when the version was trained; None when nobody knows."""
    if manifest.protocol == PROTOCOL:
        return manifest.catalogue_fingerprint
    known = manifest.catalogue_fingerprint == _PROTOCOL_1_CATALOGUE
    return _PROTOCOL_1_FINGERPRINT if known else None
