"""The bundle of a classifier: what is in it, what is refused, and whose probabilities it gives."""

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.bundle import MANIFEST, verify_bundle
from engine.champions import Champion, pointer_name, read_champion, write_champion
from engine.classifier.bundle import (
    DEFINITION,
    ESTIMATOR,
    MODEL,
    SERVED,
    ClassifierBundle,
    load_classifier,
    load_served,
    write_classifier_bundle,
)
from engine.classifier.definition import read_definition
from engine.errors import InvalidBundle, InvalidDefinition, InvalidRequest, NoModel
from engine.loading import load_any
from engine.store import LocalStore
from engine.trees import serialize
from tests.engine.bundles import write_small_bundle
from tests.engine.classifiers import (
    CHURN,
    INPUTS,
    SPONSOR,
    classifier_files,
    encoded,
    fitted,
    made_up_values,
    write_small_classifier,
)

PREFIX = "sponsor/v1.0.0"
FILES = ("definition.toml", "model.joblib", "model.treelite", "model_columns.joblib")
LOADERS = [load_any, load_classifier, load_served]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "artifacts")


def rewritten(store: LocalStore, change: Callable[[dict[str, Any]], object]) -> str:
    """Change the manifest as someone could who also controls the registry; its new digest."""
    manifest = json.loads(store.read(f"{PREFIX}/{MANIFEST}"))
    change(manifest)
    data = json.dumps(manifest).encode()
    store.write(f"{PREFIX}/{MANIFEST}", data)
    return hashlib.sha256(data).hexdigest()


def replaced(store: LocalStore, name: str, data: bytes) -> str:
    """Change a file and the manifest with it; the new digest."""
    store.write(f"{PREFIX}/{name}", data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return rewritten(store, lambda manifest: manifest["files"].update({name: entry}))


@pytest.mark.parametrize("load", LOADERS)
def test_a_written_bundle_loads_as_what_it_was_given(store: LocalStore, load: Any) -> None:
    digest = write_small_classifier(store, version="1.2.0", training={"rows": 7})
    bundle = load(store, PREFIX, digest)
    assert isinstance(bundle, ClassifierBundle)
    manifest = bundle.manifest
    assert (manifest.kind, manifest.model, manifest.version) == ("classifier", "sponsor", "1.2.0")
    assert manifest.training == {"rows": 7}
    assert manifest.classes == ["Glace", "Café 9", "Volt"]
    assert bundle.definition == read_definition(SPONSOR)
    assert bundle.manifest_sha256 == digest
    assert store.read(f"{PREFIX}/{DEFINITION}").decode() == SPONSOR
    assert store.list(PREFIX) == sorted(f"{PREFIX}/{name}" for name in (*FILES, MANIFEST))
    assert set(manifest.files) == set(FILES)


def test_an_answer_has_the_names_of_the_definition(store: LocalStore) -> None:
    digest = write_small_classifier(store, version="1.2.0")
    answer = load_classifier(store, PREFIX, digest).predict({**INPUTS, "event": None, "other": 1})
    assert [*answer] == [
        "recommended_sponsor", "confidence", "campaign_message", "category", "context_used",
        "model_version",
    ]  # fmt: skip
    assert answer["recommended_sponsor"] == "Glace"
    assert answer["campaign_message"] == "Cool down"
    assert answer["category"] == "food"
    assert answer["context_used"] == {**INPUTS, "event": "None"}
    assert answer["model_version"] == "v1.2.0"
    assert 1 / 3 <= answer["confidence"] <= 1
    json.dumps(answer, allow_nan=False)


def test_an_answer_without_metadata(store: LocalStore) -> None:
    bundle = load_classifier(store, PREFIX, write_small_classifier(store, definition=CHURN))
    answer = bundle.predict({"age": 90, "paid": 10})
    assert [*answer] == ["prediction", "confidence", "context_used", "model_version"]
    assert answer["prediction"] == "no"
    assert bundle.predict({"age": 20, "paid": 10})["prediction"] == "yes"


def test_every_faulty_input_is_named(store: LocalStore) -> None:
    bundle = load_classifier(store, PREFIX, write_small_classifier(store))
    with pytest.raises(InvalidRequest) as refused:
        bundle.predict({"match_minute": 200, "zone": "Roof", "crowd_density": "full"})
    faulty = [error.field for error in refused.value.errors]
    assert faulty == ["match_minute", "score_diff", "temperature", "crowd_density", "zone"]


# --- As scikit-learn says -------------------------------------------------------------------


ENDS = (np.float32(-np.inf), np.float32(np.inf))


def at_the_thresholds(estimator: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows whose values are the trees' thresholds and their neighbours in float32 and float64."""
    edges = []
    for tree in estimator.estimators_:
        inner = tree.tree_.feature >= 0
        for column, threshold in zip(
            tree.tree_.feature[inner], tree.tree_.threshold[inner], strict=True
        ):
            narrow = np.float32(threshold)
            beside = [np.nextafter(each, end) for each in (threshold, narrow) for end in ENDS]
            for value in (threshold, narrow, *beside):
                row = rows[len(edges) % len(rows)].copy()
                row[column] = value
                edges.append(row)
    return np.array(edges).reshape(-1, rows.shape[1])


@pytest.mark.parametrize(
    ("source", "without"),
    [(SPONSOR, None), (CHURN, None), (SPONSOR, "Café 9"), (SPONSOR, "Glace"), (CHURN, "no")],
    ids=["three", "two", "one-without-rows", "the-first-without-rows", "one-of-two"],
)
def test_probabilities_are_those_of_scikit_learn(
    store: LocalStore, source: str, without: str | None
) -> None:
    estimator = fitted(source, without=without)
    files = {MODEL: serialize(estimator)}
    digest = write_small_classifier(store, definition=source, files=files)
    bundle = load_classifier(store, PREFIX, digest)
    rows = encoded(bundle.definition, made_up_values(bundle.definition, 500, seed=1))
    rows = np.vstack([rows, at_the_thresholds(estimator, rows)])
    found = bundle.probabilities(rows)
    assert found.shape == (len(rows), len(bundle.definition.labels))
    assert np.abs(found - estimator.predict_proba(rows)).max() < 1e-9
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-9
    assert found.max() <= 1
    if without is not None:
        assert not found[:, bundle.definition.labels.index(without)].any()
    else:
        assert set(found.argmax(axis=1)) == {*range(len(bundle.definition.labels))}


def test_each_row_has_the_answer_it_has_alone(store: LocalStore) -> None:
    bundle = load_classifier(store, PREFIX, write_small_classifier(store))
    values = made_up_values(bundle.definition, 30, seed=2)
    together = bundle.probabilities(encoded(bundle.definition, values))
    for inputs, expected in zip(values, together, strict=True):
        answer = bundle.predict(inputs)
        assert answer["confidence"] == expected.max()
        assert answer["recommended_sponsor"] == bundle.definition.labels[expected.argmax()]


@pytest.mark.parametrize("shape", [(12,), (1, 11), (1, 13), (2, 12, 1)], ids=str)
def test_rows_of_another_width_are_refused(store: LocalStore, shape: tuple[int, ...]) -> None:
    bundle = load_classifier(store, PREFIX, write_small_classifier(store))
    with pytest.raises(ValueError, match="expected rows of 12 columns"):
        bundle.probabilities(np.zeros(shape))


# --- What is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("check", [verify_bundle, *LOADERS])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("tampering", ["flip", "append", "truncate", "delete"])
def test_any_changed_or_missing_file_is_refused(
    store: LocalStore, check: Any, name: str, tampering: str
) -> None:
    digest = write_small_classifier(store)
    path = store.path(f"{PREFIX}/{name}")
    data = path.read_bytes()
    if tampering == "delete":
        path.unlink()
    else:
        flipped = bytes([data[0] ^ 1]) + data[1:]
        path.write_bytes(
            {"flip": flipped, "append": data + b"\n", "truncate": data[:-1]}[tampering]
        )
    if check is load_served and name not in (*SERVED, MANIFEST):
        # Never read there, which is what it is for.
        assert check(store, PREFIX, digest).predict(INPUTS)
        return
    with pytest.raises(InvalidBundle, match="manifest" if name == MANIFEST else name):
        check(store, PREFIX, digest)


@settings(max_examples=15, deadline=None)
@given(at=st.integers(0, 10**6), change=st.integers(1, 255))
def test_no_single_byte_can_change(tmp_path_factory: Any, at: int, change: int) -> None:
    files = classifier_files()
    store = LocalStore(tmp_path_factory.mktemp("bundle"))
    digest = write_small_classifier(store, files=files)
    data = bytearray(files[MODEL])
    data[at % len(data)] ^= change
    store.write(f"{PREFIX}/{MODEL}", bytes(data))
    with pytest.raises(InvalidBundle, match=MODEL):
        load_served(store, PREFIX, digest)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.update(classes=m["classes"][::-1]), "definition in the bundle is not"),
        (lambda m: m.update(columns=m["columns"][1:]), "definition in the bundle is not"),
        (lambda m: m.update(model="other"), "definition in the bundle is not"),
        (lambda m: m.update(definition_fingerprint="0" * 64), "definition in the bundle is not"),
        (lambda m: m.update(protocol=2), "has protocol 2; this engine reads 1"),
        (lambda m: m.update(kind="fraud"), "of the kind fraud, no classifier"),
        (lambda m: m.pop("kind"), "of the kind fraud, no classifier"),
        (lambda m: m.pop("classes"), "missing required field `classes`"),
        (lambda m: m["files"].pop("model.treelite"), "has no model.treelite"),
        (lambda m: m["files"].pop("definition.toml"), "has no definition.toml"),
        (lambda m: m["files"].update({"../x": {"size": 1, "sha256": ""}}), "can't be read"),
    ],
    ids=["order", "columns", "model", "fingerprint", "protocol", "kind", "no-kind", "field",
         "no-model", "no-definition", "path"],
)  # fmt: skip
def test_a_manifest_that_contradicts_the_files_is_refused(
    store: LocalStore, change: Any, told: str
) -> None:
    write_small_classifier(store)
    digest = rewritten(store, change)
    for load in (load_classifier, load_served):
        with pytest.raises(InvalidBundle, match=told):
            load(store, PREFIX, digest)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        (MODEL, b"not a checkpoint", "not a Treelite checkpoint"),
        (MODEL, b"", "not a Treelite checkpoint"),
        (DEFINITION, b"\xff", "definition.toml can't be read"),
        (DEFINITION, b"name = 3", "definition.toml can't be read"),
        (DEFINITION, CHURN.encode(), "definition in the bundle is not"),
    ],
    ids=["garbage", "empty", "no-text", "no-definition", "another"],
)
def test_files_that_do_not_load_are_refused(
    store: LocalStore, name: str, data: bytes, told: str
) -> None:
    write_small_classifier(store)
    digest = replaced(store, name, data)
    with pytest.raises(InvalidBundle, match=told):
        load_classifier(store, PREFIX, digest)


def test_the_model_of_another_definition_is_not_written(store: LocalStore) -> None:
    files = {MODEL: classifier_files(CHURN)[MODEL]}
    with pytest.raises(InvalidBundle, match="does not tell 3 classes from 12 columns"):
        write_small_classifier(store, files=files)
    assert store.list() == []


def test_a_forest_that_knows_fewer_classes_is_not_written(store: LocalStore) -> None:
    definition = SPONSOR.replace("[answer]", "[classes.New]\ncampaign_message = 'n'\ncategory = 'n'"
                                 "\n[answer]")  # fmt: skip
    with pytest.raises(InvalidBundle, match="does not tell 4 classes"):
        write_small_classifier(store, definition=definition, files=classifier_files())


def test_a_bad_definition_is_not_written(store: LocalStore) -> None:
    with pytest.raises(InvalidDefinition):
        write_classifier_bundle(
            store, PREFIX, {}, source="name = 3", version="1.0.0", training={}, libraries={}
        )
    assert store.list() == []


def test_a_bundle_is_written_once(store: LocalStore) -> None:
    write_small_classifier(store)
    with pytest.raises(InvalidBundle, match="already a bundle"):
        write_small_classifier(store, seed=1)


def test_a_bundle_of_another_kind_is_refused_by_its_kind(store: LocalStore) -> None:
    digest = write_small_bundle(store, PREFIX)
    with pytest.raises(InvalidBundle, match="of the kind fraud"):
        load_classifier(store, PREFIX, digest)


# --- What it loads --------------------------------------------------------------------------


class Canary:
    """Unpickling it leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


PREDICT_IN_A_FRESH_PROCESS = """
import json, sys
from engine.champions import read_champion
from engine.classifier.bundle import load_classifier, load_served
from engine.store import open_store

store = open_store(sys.argv[1])
champion = read_champion(store, "sponsor")
for load in (load_served, load_classifier):
    bundle = load(store, champion.location, champion.manifest_sha256)
    assert bundle.predict(json.loads(sys.argv[2]))["recommended_sponsor"] == "Glace"
heavy = ("sklearn", "joblib", "pandas", "duckdb", "numba", "llvmlite", "django", "requests",
         "google.cloud.storage", "pyarrow", "engine.features", "engine.scorer",
         "engine.fraud_bundle", "engine.transaction")
print([name for name in heavy if name in sys.modules])
"""


def test_serving_never_unpickles_and_loads_nothing_of_fraud_or_training(
    store: LocalStore, tmp_path: Path
) -> None:
    trace = tmp_path / "unpickled"
    files = {**classifier_files(), ESTIMATOR: pickle.dumps(Canary(trace))}
    write_champion(store, champion(write_small_classifier(store, files=files)))
    done = subprocess.run(
        [sys.executable, "-c", PREDICT_IN_A_FRESH_PROCESS, str(store.root), json.dumps(INPUTS)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"
    assert not trace.exists()


# --- Which version serves -------------------------------------------------------------------


def champion(digest: str = "0" * 64, **changes: Any) -> Champion:
    facts = {"model": "sponsor", "version": "1.0.0", "location": PREFIX, "promotion": 3}
    return Champion(**{**facts, "manifest_sha256": digest, **changes})


def test_a_champion_is_read_as_it_was_written(store: LocalStore) -> None:
    with pytest.raises(NoModel, match="No version of “sponsor” has been promoted"):
        read_champion(store, "sponsor")
    for written in (champion(), champion(version="1.1.0", promotion=4)):
        write_champion(store, written)
        assert read_champion(store, "sponsor") == written


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"", "can't be read"), (b"{}", "missing required field `model`"), (b"\xff", "can't be read"),
     (b'{"model": "fraud", "version": "1", "location": "a", "manifest_sha256": "", "promotion": 1}',
      "is that of “fraud”")],
    ids=["empty", "fields", "no-text", "model"],
)  # fmt: skip
def test_a_pointer_that_says_nothing_is_refused(store: LocalStore, data: bytes, told: str) -> None:
    store.write(pointer_name("sponsor"), data)
    with pytest.raises(InvalidBundle, match=told):
        read_champion(store, "sponsor")
