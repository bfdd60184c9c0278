"""The bundle of a classifier (see engine/bundle.py for what every bundle has).

manifest.json          the definition, and what every manifest has
definition.toml        the definition as it was registered
model.treelite         the forest, as a Treelite checkpoint: what serves
model.joblib           the scikit-learn estimator, for people; serving never opens it
model_columns.joblib   the names of its columns, in order; likewise
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import treelite
from numpy.typing import NDArray
from treelite import gtil

from engine.bundle import (
    Manifest,
    encode,
    entries,
    kind_of,
    read_bundle,
    read_manifest_data,
    write_files,
)
from engine.classifier.definition import MODEL_VERSION, Definition, read_definition
from engine.errors import InvalidBundle, InvalidDefinition
from engine.kinds import CLASSIFIER
from engine.store import Store

PROTOCOL: Final = 1
MODEL: Final = "model.treelite"
DEFINITION: Final = "definition.toml"
ESTIMATOR: Final = "model.joblib"
COLUMNS: Final = "model_columns.joblib"
SERVED: Final = (MODEL, DEFINITION)
"""The files that serving opens."""


class ClassifierManifest(Manifest, frozen=True, kw_only=True):
    """The facts of a version. `definition_fingerprint` is Definition's `fingerprint`."""

    definition_fingerprint: str
    columns: list[str]
    classes: list[str]


@dataclass(frozen=True)
class ClassifierBundle:
    """A loaded version, ready to predict."""

    manifest: ClassifierManifest
    manifest_sha256: str
    definition: Definition
    _model: Any

    def probabilities(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities (n, classes), each row summing to 1, of encoded rows (n, columns)."""
        columns = len(self.manifest.columns)
        if rows.ndim != 2 or rows.shape[1] != columns:
            raise ValueError(f"expected rows of {columns} columns, got {rows.shape}")
        # scikit-learn's forests compare in float32.
        narrowed = rows.astype(np.float32).astype(np.float64)
        found = np.asarray(gtil.predict(self._model, narrowed, nthread=1), dtype=np.float64)
        return found.reshape(len(rows), len(self.manifest.classes))

    def predict(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Answer for one request: the likeliest class, its probability, what is told of it, the
        inputs as they were used, and the version.

        Raises InvalidRequest naming every faulty input.
        """
        definition = self.definition
        inputs = definition.complete(values)
        probabilities = self.probabilities(definition.encode(inputs).reshape(1, -1))[0]
        best = int(probabilities.argmax())
        label = self.manifest.classes[best]
        return {
            definition.answer.prediction: label,
            definition.answer.confidence: float(probabilities[best]),
            **definition.classes[label],
            definition.answer.context: inputs,
            MODEL_VERSION: f"v{self.manifest.version}",
        }


def write_classifier_bundle(
    store: Store,
    prefix: str,
    files: Mapping[str, bytes],
    *,
    source: str,
    version: str,
    training: Mapping[str, Any],
    libraries: Mapping[str, str],
) -> str:
    """Write a bundle into the folder `prefix` and return its manifest's SHA-256 (hex).

    `files` are model.treelite and whatever else belongs to the version, `source` the definition's
    TOML text.

    Raises InvalidDefinition, and InvalidBundle when the folder already has a manifest or when what
    is given would not load.
    """
    definition = read_definition(source)
    contents = {**files, DEFINITION: source.encode()}
    manifest = ClassifierManifest(
        protocol=PROTOCOL,
        kind=CLASSIFIER,
        model=definition.name,
        version=version,
        definition_fingerprint=definition.fingerprint,
        columns=definition.columns,
        classes=definition.labels,
        training=dict(training),
        libraries=dict(libraries),
        files=entries(contents),
    )
    data = encode(manifest)
    digest = hashlib.sha256(data).hexdigest()
    _build(manifest, digest, contents)
    write_files(store, prefix, contents, data)
    return digest


def load_classifier(store: Store, prefix: str, manifest_sha256: str) -> ClassifierBundle:
    """Check a bundle as `read_bundle` does and load what serving needs of it.

    Raises InvalidBundle naming what is wrong; then nothing was loaded.
    """
    return _load_from(store, prefix, manifest_sha256, None)


def load_served(store: Store, prefix: str, manifest_sha256: str) -> ClassifierBundle:
    """Like `load_classifier`, for whoever downloads what it loads: only the files that serving
    opens are read, and so checked."""
    return _load_from(store, prefix, manifest_sha256, SERVED)


def _load_from(
    store: Store, prefix: str, digest: str, only: Collection[str] | None
) -> ClassifierBundle:
    # The manifest first: that of another kind or protocol may have another shape altogether.
    manifest = _decode_manifest(read_manifest_data(store, prefix, digest), prefix)
    return _build(manifest, digest, read_bundle(store, prefix, digest, only).files)


def _decode_manifest(data: bytes, prefix: str) -> ClassifierManifest:
    if (kind := kind_of(data)) != CLASSIFIER:
        raise InvalidBundle(f"The bundle in {prefix} is of the kind {kind}, no classifier.")
    try:
        protocol = msgspec.json.decode(data, type=_ProtocolOnly).protocol
        if protocol != PROTOCOL:
            raise InvalidBundle(
                f"The bundle in {prefix} has protocol {protocol}; this engine reads {PROTOCOL}."
            )
        return msgspec.json.decode(data, type=ClassifierManifest)
    except msgspec.MsgspecError as error:
        raise InvalidBundle(f"The manifest in {prefix} can't be read: {error}") from None


class _ProtocolOnly(msgspec.Struct):
    protocol: int


def _build(
    manifest: ClassifierManifest, digest: str, contents: Mapping[str, bytes]
) -> ClassifierBundle:
    for name in SERVED:
        if name not in contents:
            raise InvalidBundle(f"The bundle has no {name}.")
    try:
        definition = read_definition(contents[DEFINITION].decode())
    except (InvalidDefinition, UnicodeDecodeError) as error:
        raise InvalidBundle(f"The bundle's {DEFINITION} can't be read: {error}") from None
    if _facts(definition) != (
        manifest.model,
        manifest.definition_fingerprint,
        manifest.columns,
        manifest.classes,
    ):
        raise InvalidBundle("The definition in the bundle is not the one of its manifest.")
    model = _load(contents[MODEL], len(manifest.columns), len(manifest.classes))
    return ClassifierBundle(manifest, digest, definition, model)


def _facts(definition: Definition) -> tuple[str, str, list[str], list[str]]:
    return definition.name, definition.fingerprint, definition.columns, definition.labels


def _load(checkpoint: bytes, columns: int, classes: int) -> Any:
    try:
        model = treelite.Model.deserialize_bytes(checkpoint)
        fitting = (model.num_feature, model.input_type) == (columns, "float64")
        shape = gtil.predict(model, np.zeros((1, columns)), nthread=1).shape if fitting else None
    except treelite.TreeliteError as error:
        raise InvalidBundle(f"The model is not a Treelite checkpoint: {error}") from None
    if shape != (1, 1, classes):
        raise InvalidBundle(f"The model does not tell {classes} classes from {columns} columns.")
    return model
