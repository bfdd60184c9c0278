"""The function over HTTP, served by the real functions framework, its bundles in a folder or in a
bucket of the storage emulator."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from sklearn.ensemble import RandomForestClassifier

from engine.champions import Champion, write_champion
from engine.classifier.bundle import MODEL, load_classifier
from engine.classifier.request import MAX_BODY
from engine.store import LocalStore, Store, open_store
from engine.trees import serialize
from sentinelle.problems import problem
from tests.engine.classifiers import INPUTS, made_up_values, promote, write_small_classifier
from tests.google.function_server import FunctionServer
from tests.google.gcs import CloudStorage

ROOT = Path(__file__).resolve().parents[2]
PAGE = "https://shop.example"


def serve(environment: dict[str, str]) -> FunctionServer:
    return FunctionServer(ROOT / "functions", environment, path=str(ROOT))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A folder with a champion."""
    folder = LocalStore(tmp_path_factory.mktemp("artifacts"))
    promote(folder)
    return folder


@pytest.fixture(scope="module")
def function(store: LocalStore) -> Iterator[FunctionServer]:
    """The function with that champion, that pages of two origins may call."""
    environment = {"ARTIFACTS_DIR": store.location, "CORS_ALLOWED_ORIGINS": f"{PAGE}, http://b:80"}
    server = serve(environment)
    yield server
    server.close()


def expect(answer: requests.Response, code: str, detail: str = "") -> Any:
    """The problem that an answer is, which is as the API would write it."""
    told = answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert told["code"] == code
    assert detail in told["detail"]
    errors = told.pop("errors", [])
    assert told == problem(code, told["detail"])
    assert answer.status_code == told["status"]
    return errors


def eventually(check: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)


# --- Answers --------------------------------------------------------------------------------


def test_an_answer_is_the_bundles(function: FunctionServer, store: LocalStore) -> None:
    pointer = json.loads(store.read("sponsor/champion.json"))
    bundle = load_classifier(store, pointer["location"], pointer["manifest_sha256"])
    with requests.Session() as session:
        for inputs in [INPUTS, *made_up_values(bundle.definition, 20)]:
            answer = session.post(f"{function.url}/", json={**inputs, "other": 1}, timeout=20)
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.json() == bundle.predict(inputs)


@pytest.mark.parametrize("path", ["/", "/health"])
def test_it_says_which_version_serves(
    function: FunctionServer, store: LocalStore, path: str
) -> None:
    answer = function.get(path)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "model": "sponsor",
        "model_version": "v1.0.0",
        "manifest_sha256": json.loads(store.read("sponsor/champion.json"))["manifest_sha256"],
    }
    assert requests.head(f"{function.url}{path}", timeout=20).status_code == 200


def test_it_loads_no_library_of_training_or_of_fraud(function: FunctionServer) -> None:
    assert function.get().ok
    loaded = function.libraries()
    assert any("treelite" in path for path in loaded)
    heavy = ("numba", "llvmlite", "sklearn", "pandas", "pyarrow", "duckdb", "grpc", "django")
    assert not [path for path in loaded if any(f"/{name}/" in path for name in heavy)]


def test_it_keeps_to_the_memory_of_a_function(tmp_path: Path) -> None:
    """512 MB, also while it changes from one bundle to another, of the largest that training
    makes."""
    store = LocalStore(tmp_path)
    random = np.random.default_rng(0)
    # Of noise, a tree can only learn every row.
    forest = RandomForestClassifier(5, min_samples_leaf=2, random_state=0)
    forest.fit(random.random((11_000, 12), np.float32), random.integers(0, 3, 11_000))
    forest.estimators_, forest.n_estimators = 20 * forest.estimators_, 100
    files = {MODEL: serialize(forest)}
    assert 40e6 < len(files[MODEL]) < 60e6
    promote(store, files=files)
    server = serve({"ARTIFACTS_DIR": store.location, "CHAMPION_CHECK_SECONDS": "0.1"})
    try:
        assert server.post(INPUTS).status_code == 200
        promote(store, "1.1.0", 2, files=files)
        eventually(lambda: server.post(INPUTS).json()["model_version"] == "v1.1.0")
        assert server.memory_mb(most=True) < 450
    finally:
        server.close()


# --- What is refused ------------------------------------------------------------------------


def test_faulty_inputs_are_named(function: FunctionServer) -> None:
    answer = function.post({**INPUTS, "zone": "Roof", "match_minute": None})
    assert expect(answer, "INVALID_REQUEST", "zone: expected one of VIP") == [
        {"field": "match_minute", "message": "missing; expected a whole number from 0 to 120"},
        {
            "field": "zone",
            "message": 'expected one of VIP, North, South, East, West, got "Roof"',
        },
    ]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b'{"zone": NaN}', b"\xff\xfe"], ids=range(6)
)
def test_a_body_that_is_no_json_object_is_refused(function: FunctionServer, body: bytes) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = requests.post(function.url, body, headers=headers, timeout=20)
    (error,) = expect(answer, "INVALID_REQUEST")
    assert error["field"] == ("zone" if b"NaN" in body else "body")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type_is_refused(function: FunctionServer, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = requests.post(function.url, json.dumps(INPUTS).encode(), headers=headers, timeout=20)
    expect(answer, "UNSUPPORTED_MEDIA_TYPE", "expected application/json")


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_large_body_is_refused(function: FunctionServer, in_chunks: bool) -> None:
    def large() -> Iterator[bytes]:
        yield b'{"zone": "'
        for _ in range(MAX_BODY // 1000):
            yield b"x" * 1000
        yield b'"}'

    body: Any = large() if in_chunks else b"".join(large())
    headers = {"Content-Type": "application/json"}
    answer = requests.post(function.url, body, headers=headers, timeout=20)
    expect(answer, "BODY_TOO_LARGE", "larger than 100,000 bytes")


def test_a_body_in_chunks_is_read(function: FunctionServer) -> None:
    parts = iter([json.dumps(INPUTS).encode()[:10], json.dumps(INPUTS).encode()[10:]])
    headers = {"Content-Type": "application/json"}
    answer = requests.post(function.url, parts, headers=headers, timeout=20)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("head", "body"),
    [("Content-Length: 500", b'{"zone": '), ("Transfer-Encoding: chunked", b"zz\r\n{}\r\n")],
    ids=["short", "malformed"],
)
def test_a_body_that_ends_early_harms_nobody(
    function: FunctionServer, head: str, body: bytes
) -> None:
    connection = http.client.HTTPConnection(function.url.removeprefix("http://"), timeout=20)
    connection.connect()
    lines = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
    connection.sock.sendall(lines.encode() + body)
    connection.close()
    assert function.post(INPUTS).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_another_method_is_refused(function: FunctionServer, method: str) -> None:
    answer = requests.request(method, function.url, json=INPUTS, timeout=20)
    expect(answer, "METHOD_NOT_ALLOWED", f"{method} is not allowed on /")
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


def test_another_path_is_refused(function: FunctionServer) -> None:
    expect(function.get("/predict"), "NOT_FOUND", "nothing at /predict")
    expect(function.post(INPUTS, "/models/sponsor/predict"), "NOT_FOUND")
    expect(function.post(INPUTS, "/health"), "METHOD_NOT_ALLOWED")


# --- Pages of other origins -----------------------------------------------------------------

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type",
}


def test_a_preflight_of_an_allowed_origin(function: FunctionServer) -> None:
    headers = {"Origin": PAGE, **PREFLIGHT}
    answer = requests.options(function.url, headers=headers, timeout=20)
    assert answer.status_code == 204
    assert answer.content == b""
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert "Content-Type" in answer.headers["Access-Control-Allow-Headers"]
    assert answer.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.example", f"{PAGE}.evil", "null", "http://b"])
def test_another_origin_is_told_nothing(function: FunctionServer, origin: str) -> None:
    headers = {"Origin": origin}
    for answer in (
        requests.options(function.url, headers={**headers, **PREFLIGHT}, timeout=20),
        function.post(INPUTS, headers=headers),
    ):
        assert not [name for name in answer.headers if name.startswith("Access-Control")]
        assert answer.headers["Vary"] == "Origin"


def test_a_page_may_read_answers_and_errors(function: FunctionServer) -> None:
    for body in (INPUTS, {}):
        answer = function.post(body, headers={"Origin": PAGE})
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After"
        assert "Access-Control-Allow-Methods" not in answer.headers


def damage(store: Store, version: str) -> None:
    """Make a champion of a bundle that was changed after it was registered."""
    location = f"sponsor/v{version}"
    digest = write_small_classifier(store, location, version, seed=2)
    model = store.read(f"{location}/{MODEL}")
    store.write(f"{location}/{MODEL}", model[:-1] + b"x")
    champion = Champion(
        model="sponsor", version=version, location=location, manifest_sha256=digest, promotion=3
    )
    write_champion(store, champion)


# --- In a bucket ----------------------------------------------------------------------------


def test_the_champion_of_a_bucket_is_followed(gcs: CloudStorage, bucket: str) -> None:
    """From no model to a first one, to a newer one; past a damaged one and an outage."""
    store = open_store(f"gs://{bucket}/artifacts")
    environment = {
        **gcs.environment(bucket), "CHAMPION_CHECK_SECONDS": "0.1", "CORS_ALLOWED_ORIGINS": "*",
    }  # fmt: skip
    function = serve(environment)

    def serves(version: str) -> bool:
        answer = function.post(INPUTS)
        return answer.ok and answer.json()["model_version"] == version

    try:
        for answer in (function.post(INPUTS, headers={"Origin": "null"}), function.get()):
            expect(answer, "NO_MODEL", "No version of “sponsor” has been promoted")
            assert answer.headers["Retry-After"] == "5"
        expect(function.post([]), "INVALID_REQUEST")
        promote(store)
        eventually(lambda: serves("v1.0.0"))
        assert function.post({}, headers={"Origin": PAGE}).headers[
            "Access-Control-Allow-Origin"] == "*"  # fmt: skip
        promote(store, "1.1.0", 2, seed=1)
        eventually(lambda: serves("v1.1.0"))
        assert function.get().json()["model_version"] == "v1.1.0"
        damage(store, "1.2.0")
        # A call is what makes it look.
        eventually(lambda: serves("v1.1.0") and "v1.1.0 serves on" in function.log())
        gcs.fault("champion.json", "PERMISSION_DENIED", times=1000)
        eventually(lambda: serves("v1.1.0") and "was refused" in function.log())
        assert '"severity": "ERROR"' in function.log()
    finally:
        function.close()


def test_parallel_first_calls_download_once(gcs: CloudStorage, bucket: str) -> None:
    promote(open_store(f"gs://{bucket}/artifacts"))
    function = serve(gcs.environment(bucket))
    try:
        gcs.calls.clear()
        gcs.fault("GET .*model.treelite", "slow", seconds=0.5)
        with ThreadPoolExecutor(6) as callers:
            answers = [*callers.map(lambda _: function.post(INPUTS), range(6))]
        assert [answer.status_code for answer in answers] == [200] * 6
        assert sum("model.treelite" in call for call in gcs.calls) == 1
        assert sum("champion.json" in call for call in gcs.calls) == 1
        assert not [call for call in gcs.calls if "joblib" in call]
    finally:
        function.close()


# --- What it is told ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"BUCKET_NAME": ""}, "Neither BUCKET_NAME nor ARTIFACTS_DIR is set"),
        ({"CORS_ALLOWED_ORIGINS": "shop.example"}, "expected an origin such as https://"),
        ({"CORS_ALLOWED_ORIGINS": f"{PAGE}/a"}, "expected an origin such as https://"),
        ({"CORS_ALLOWED_ORIGINS": "https://Shop.example"}, "in lower case"),
        ({"CHAMPION_CHECK_SECONDS": "often"}, "expected seconds, such as 30"),
        ({"MODEL_NAME": "../fraud"}, "expected a classifier's name"),
    ],
    ids=["nowhere", "origin", "path", "case", "seconds", "name"],
)
def test_settings_that_make_no_sense_keep_it_from_starting(
    environment: dict[str, str], told: str
) -> None:
    with pytest.raises(RuntimeError, match=told):
        serve({"BUCKET_NAME": "b", **environment}).close()
