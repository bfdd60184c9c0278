import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.bundle import MANIFEST, publish, verify_bundle
from engine.errors import InvalidBundle
from engine.features.catalogue import CATALOGUE, DAY, FEATURE_INDEX, RATIOS, Feature, fingerprint
from engine.features.live import EMPTY_HISTORY
from engine.fraud_bundle import SUPERVISED, UNSUPERVISED, load_bundle
from engine.policy import PiecewiseLinear, Policy, Weights
from engine.rules import RuleSet
from engine.scorer import Scorer
from engine.store import LocalStore
from tests.engine.bundles import FILL, POLICY, SCHEMA, bundle_files, write_small_bundle
from tests.engine.requests import body, request
from tests.engine.test_scorer import HABIT, MINUTE, past

PREFIX = "fraud/v1.0.0"
# Written by the code that wrote protocol 1 (commit b13b06f), like what it scored below.
PROTOCOL_1 = (
    LocalStore(Path(__file__).parent / "data"),
    "protocol-1",
    "2f7fe172abf3070389479602831fe4cad5d4dc135ec306848907dbd8d9395c5a",
)
FILES = (
    "baseline.json",
    "feature_schema.json",
    "supervised.treelite",
    "supervised_model.joblib",
    "thresholds.json",
    "unsupervised.treelite",
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "artifacts")


def rewrite_manifest(store: LocalStore, change: Callable[[dict[str, Any]], object]) -> str:
    """Change the manifest as someone could who also controls the registry; its new digest."""
    manifest = json.loads(store.read(f"{PREFIX}/{MANIFEST}"))
    change(manifest)
    data = json.dumps(manifest).encode()
    store.write(f"{PREFIX}/{MANIFEST}", data)
    return hashlib.sha256(data).hexdigest()


def test_a_written_bundle_loads_as_what_it_was_given(store: LocalStore) -> None:
    policy = Policy(
        review=0.4,
        block=0.9,
        weights=Weights(0.1, 0.7, 0.2),
        calibration=PiecewiseLinear((0.0, 0.3, 1.0), (0.0, 0.1, 1.0)),
    )
    digest = write_small_bundle(store, policy=policy, label_delay=3)
    bundle = load_bundle(store, PREFIX, digest)
    assert bundle.policy == policy
    assert bundle.label_delay == 3
    assert bundle.schema == SCHEMA
    assert bundle.manifest_sha256 == digest
    assert (bundle.manifest.model, bundle.manifest.version) == ("fraud", "1.0.0")
    assert store.list(PREFIX) == sorted(f"{PREFIX}/{name}" for name in (*FILES, MANIFEST))
    assert set(bundle.manifest.files) == set(FILES)
    row = np.full(len(SCHEMA.names), 10.0)
    assert 0.0 <= bundle.supervised.predict_one(row) <= 1.0
    assert 0.0 <= bundle.unsupervised.predict_one(row) <= 1.0


def test_the_files_for_people_say_what_the_manifest_says(store: LocalStore) -> None:
    write_small_bundle(store)
    manifest = json.loads(store.read(f"{PREFIX}/{MANIFEST}"))
    schema = json.loads(store.read(f"{PREFIX}/feature_schema.json"))
    assert schema == manifest["feature_schema"] == SCHEMA.to_dict()
    thresholds = json.loads(store.read(f"{PREFIX}/thresholds.json"))
    assert thresholds == {"review": POLICY.review, "block": POLICY.block}
    assert {k: manifest["policy"][k] for k in thresholds} == thresholds
    assert manifest["protocol"] == 2


def test_verify_returns_the_manifest(store: LocalStore) -> None:
    digest = write_small_bundle(store)
    manifest = verify_bundle(store, PREFIX, digest)
    assert (manifest.kind, manifest.model, manifest.version) == ("fraud", "fraud", "1.0.0")


@pytest.mark.parametrize("check", [verify_bundle, load_bundle])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("tampering", ["flip", "append", "truncate", "delete"])
def test_any_changed_or_missing_file_is_refused(
    store: LocalStore, check: Callable[..., object], name: str, tampering: str
) -> None:
    digest = write_small_bundle(store)
    path = store.path(f"{PREFIX}/{name}")
    data = path.read_bytes()
    if tampering == "delete":
        path.unlink()
    else:
        flipped = bytes([data[0] ^ 1]) + data[1:]
        path.write_bytes(
            {"flip": flipped, "append": data + b"\n", "truncate": data[:-1]}[tampering]
        )
    with pytest.raises(InvalidBundle, match="manifest" if name == MANIFEST else name):
        check(store, PREFIX, digest)


def test_a_manifest_that_is_not_the_registered_one_is_refused(store: LocalStore) -> None:
    write_small_bundle(store)
    changed = rewrite_manifest(store, lambda m: m["policy"].update(block=0.99))
    assert load_bundle(store, PREFIX, changed).policy.block == 0.99
    with pytest.raises(InvalidBundle, match="not the one that was registered"):
        load_bundle(store, PREFIX, "0" * 64)


@pytest.mark.parametrize("protocol", [0, 3, 99])
def test_another_protocol_is_refused_by_its_number(store: LocalStore, protocol: int) -> None:
    write_small_bundle(store)
    # Another protocol may have another shape altogether.
    digest = rewrite_manifest(store, lambda m: (m.clear(), m.update(protocol=protocol)))
    with pytest.raises(InvalidBundle, match=f"has protocol {protocol}; this engine reads 1 and 2"):
        load_bundle(store, PREFIX, digest)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("protocol"),
        lambda m: m.update(protocol="1"),
        lambda m: m.update(protocol=1),
        lambda m: m.pop("label_delay_us"),
        lambda m: m.update(label_delay_us=-1),
        lambda m: m.update(label_delay_us=0.5),
        lambda m: m["feature_schema"]["attributes"].append({"name": "age", "kind": "number"}),
        lambda m: m.pop("policy"),
        lambda m: m["policy"].update(review=0.99),
        lambda m: m["policy"].update(weights={"rule": -1, "supervised": 1, "unsupervised": 1}),
        lambda m: m["policy"].update(calibration={"x": [0, 0.5, 1], "y": [0, 0.5, 0.5]}),
        lambda m: m["anomaly"].update(calibration={"x": [0], "y": [0]}),
        lambda m: m["anomaly"].update(fill=["x"]),
        lambda m: m["anomaly"]["fill"].pop(),
        lambda m: m["feature_schema"].update(names=[]),
        lambda m: m["feature_schema"]["names"].reverse(),
        lambda m: m["feature_schema"]["countries"].append("IT"),
        lambda m: m.update(catalogue_fingerprint="0" * 64),
        lambda m: m["files"].pop(SUPERVISED),
        lambda m: m["files"].pop(UNSUPERVISED),
        lambda m: m["files"].update({"../escape": {"size": 1, "sha256": "0"}}),
        lambda m: m["files"][SUPERVISED].update(size=1),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    store: LocalStore, change: Callable[[dict[str, Any]], object]
) -> None:
    write_small_bundle(store)
    with pytest.raises(InvalidBundle):
        load_bundle(store, PREFIX, rewrite_manifest(store, change))


def changed_catalogue(name: str, **changes: Any) -> tuple[Feature, ...]:
    """The catalogue with one definition changed."""
    assert name in FEATURE_INDEX
    return tuple(replace(f, **changes) if f.name == name else f for f in CATALOGUE)


NEW = Feature("src_failed_count_30d", "status", "source", 30 * DAY, "failed count", 0.0)


@pytest.mark.parametrize(
    "catalogue",
    [
        (NEW, *CATALOGUE),
        changed_catalogue("tx_last_10min", window=DAY),
        changed_catalogue("src_tx_count_out_5m", group="renamed"),
    ],
    ids=["one more", "a change that only rules see", "a group's name"],
)
@pytest.mark.parametrize("protocol", [1, 2])
def test_other_features_do_not_refuse_a_version(
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    catalogue: tuple[Feature, ...],
    protocol: int,
) -> None:
    asked = (store, PREFIX, write_small_bundle(store)) if protocol == 2 else PROTOCOL_1
    monkeypatch.setattr("engine.features.catalogue.CATALOGUE", catalogue)
    assert load_bundle(*asked).manifest.protocol == protocol


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("src_tx_count_out_5m", {"window": DAY}),
        ("src_tx_count_out_5m", {"aggregate": "blocked count"}),
        ("src_tx_count_out_5m", {"default": 1.0}),
        ("is_new_country_30d", {"key": "source, destination"}),
    ],
)
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_version_is_refused_when_one_of_its_features_means_something_else(
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict[str, Any],
    protocol: int,
) -> None:
    asked = (store, PREFIX, write_small_bundle(store)) if protocol == 2 else PROTOCOL_1
    monkeypatch.setattr("engine.features.catalogue.CATALOGUE", changed_catalogue(name, **changes))
    with pytest.raises(InvalidBundle, match="other feature definitions"):
        load_bundle(*asked)


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_ratio_means_what_its_feature_does(ratio: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint([ratio])
    catalogue = changed_catalogue(RATIOS[ratio], window=DAY)
    monkeypatch.setattr("engine.features.catalogue.CATALOGUE", catalogue)
    assert fingerprint([ratio]) != before


def test_a_version_of_protocol_1_is_read_as_it_was_written() -> None:
    bundle = load_bundle(*PROTOCOL_1)
    assert bundle.manifest.protocol == 1
    assert bundle.label_delay == 7 * DAY
    assert bundle.schema.attributes == ()
    names = json.loads(PROTOCOL_1[0].read("protocol-1/feature_schema.json"))["names"]
    assert list(bundle.schema.names) == names
    assert bundle.policy.calibration == PiecewiseLinear((0.0, 0.3, 1.0), (0.0, 0.2, 1.0))


def test_another_catalogue_of_protocol_1_is_refused(store: LocalStore) -> None:
    source, prefix, digest = PROTOCOL_1
    publish(source, prefix, store, PREFIX, digest)
    other = rewrite_manifest(store, lambda m: m.update(catalogue_fingerprint="0" * 64))
    with pytest.raises(InvalidBundle, match="other feature definitions"):
        load_bundle(store, PREFIX, other)


BURST = past(*((n * MINUTE, 9.0) for n in range(8, 0, -1)), to="wallet_009")


@pytest.mark.parametrize(
    ("changes", "history", "decision", "scores"),
    [
        ({}, EMPTY_HISTORY, "APPROVE", (0.163422, 0.25558, 0.458922)),
        ({}, HABIT, "APPROVE", (0.106711, 0.067989, 0.596363)),
        (
            {
                "transaction.amount": 90,
                "transaction.transaction_type": "PAYMENT",
                "transaction.country": "DE",
            },
            BURST,
            "BLOCK",
            (0.752047, 0.600396, 0.595385),
        ),
        (
            {"transaction.amount": 3, "transaction.country": "IT", "context": None},
            BURST,
            "APPROVE",
            (0.212449, 0.335762, 0.547178),
        ),
        (
            {
                "transaction.amount": 3.5,
                "transaction.transaction_type": "OTHER",
                "transaction.attributes": {"unknown": 1},
                "features.historical": {"src_tx_count_out_1h": 0, "is_new_destination_30d": False},
            },
            HABIT,
            "APPROVE",
            (0.106018, 0.066256, 0.596363),
        ),
    ],
    ids=["nothing before", "a habit", "a burst", "hardly anything known", "sent"],
)
def test_a_version_of_protocol_1_scores_as_it_did(
    changes: dict[str, Any], history: Any, decision: str, scores: tuple[float, ...]
) -> None:
    scorer = Scorer(load_bundle(*PROTOCOL_1), RuleSet.default())
    made = scorer.score(request(changes), history)
    assert made.decision == decision
    assert (made.risk_score, made.supervised_score, made.unsupervised_score) == scores


def test_a_manifest_that_is_not_json_is_refused(store: LocalStore) -> None:
    store.write(f"{PREFIX}/{MANIFEST}", b"{")
    with pytest.raises(InvalidBundle, match="can't be read"):
        load_bundle(store, PREFIX, hashlib.sha256(b"{").hexdigest())


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {SUPERVISED: b"x", UNSUPERVISED: b"x"}},
        {"files": {SUPERVISED: bundle_files()[SUPERVISED]}},
        {"fill": FILL[:-1]},
        {"fill": np.full(len(FILL), np.nan)},
        {"label_delay": -1},
    ],
)
def test_what_would_not_load_is_not_written(store: LocalStore, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidBundle):
        write_small_bundle(store, **changes)
    assert store.list() == []


def test_a_bundle_is_never_written_over(store: LocalStore) -> None:
    digest = write_small_bundle(store)
    with pytest.raises(InvalidBundle, match="already a bundle"):
        write_small_bundle(store, training={"rows": 1})
    verify_bundle(store, PREFIX, digest)


def test_publishing_copies_and_repeating_it_changes_nothing(
    store: LocalStore, tmp_path: Path
) -> None:
    digest = write_small_bundle(store)
    target = LocalStore(tmp_path / "elsewhere")
    for _ in range(2):
        publish(store, PREFIX, target, "a/b", digest)
        assert load_bundle(target, "a/b", digest).manifest_sha256 == digest
    assert len(target.list()) == len(FILES) + 1


def test_publishing_what_does_not_verify_writes_nothing(store: LocalStore, tmp_path: Path) -> None:
    digest = write_small_bundle(store)
    store.write(f"{PREFIX}/baseline.json", b"[]")
    target = LocalStore(tmp_path / "elsewhere")
    with pytest.raises(InvalidBundle, match=r"baseline\.json"):
        publish(store, PREFIX, target, "a", digest)
    assert target.list() == []


def test_publishing_over_another_bundle_is_refused(store: LocalStore, tmp_path: Path) -> None:
    target = LocalStore(tmp_path / "elsewhere")
    first = write_small_bundle(target, "a")
    second = write_small_bundle(store, training={"rows": 1})
    with pytest.raises(InvalidBundle, match="not the one that was registered"):
        publish(store, PREFIX, target, "a", second)
    verify_bundle(target, "a", first)


def test_an_interrupted_publication_is_completed(store: LocalStore, tmp_path: Path) -> None:
    digest = write_small_bundle(store)
    target = LocalStore(tmp_path / "elsewhere")
    target.write(f"a/{SUPERVISED}", store.read(f"{PREFIX}/{SUPERVISED}"))
    publish(store, PREFIX, target, "a", digest)
    load_bundle(target, "a", digest)


def test_files_of_something_else_are_not_written_over(store: LocalStore, tmp_path: Path) -> None:
    digest = write_small_bundle(store)
    target = LocalStore(tmp_path / "elsewhere")
    target.write(f"a/{SUPERVISED}", b"other")
    with pytest.raises(InvalidBundle, match=rf"a/{SUPERVISED} is there already"):
        publish(store, PREFIX, target, "a", digest)
    assert target.read(f"a/{SUPERVISED}") == b"other"
    assert not target.exists(f"a/{MANIFEST}")


class Canary:
    """Unpickling it leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


SCORE_IN_A_FRESH_PROCESS = """
import sys
from engine.fraud_bundle import load_bundle
from engine.features.live import EMPTY_HISTORY
from engine.rules import RuleSet
from engine.scorer import Scorer
from engine.store import open_store
from engine.transaction import decode_score_request

root, digest, body = sys.argv[1:]
scorer = Scorer(load_bundle(open_store(root), "fraud/v1.0.0", digest), RuleSet.default())
decision = scorer.score(decode_score_request(body.encode()), EMPTY_HISTORY)
assert decision.supervised_score is not None
heavy = ("sklearn", "pandas", "duckdb", "joblib", "google.cloud.storage", "requests", "django",
         "pyarrow")
print([name for name in heavy if name in sys.modules])
"""


def test_serving_never_unpickles_and_imports_nothing_of_training(
    store: LocalStore, tmp_path: Path
) -> None:
    trace = tmp_path / "unpickled"
    files = {**bundle_files(), "supervised_model.joblib": pickle.dumps(Canary(trace))}
    digest = write_small_bundle(store, files=files)
    done = subprocess.run(
        [sys.executable, "-c", SCORE_IN_A_FRESH_PROCESS, str(store.root), digest, body().decode()],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"
    assert not trace.exists()


def test_manifests_survive_a_round_trip(store: LocalStore) -> None:
    digest = write_small_bundle(store)
    manifest = verify_bundle(store, PREFIX, digest)
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=type(manifest)) == manifest
