"""A live version, a key and a caller for the tests of the scoring API."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from deployments import services
from scoring.authentication import key_cache
from scoring.live_classifiers import live_classifiers
from scoring.live_model import live_model
from tests import bundles
from tests.scoring import classifiers


class Api:
    """The API as a caller with a key sees it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._client = Client(raise_request_exception=False)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """POST a body: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Api-Key {self.key}"} | headers
        return self._client.post(path, data, content_type="application/json", headers=headers)

    def score(self, body: Any) -> Any:
        """POST /score."""
        return self.post("/score", body)

    def outcomes(self, body: Any) -> Any:
        """POST /outcomes."""
        return self.post("/outcomes", body)

    def labels(self, body: Any) -> Any:
        """POST /labels."""
        return self.post("/labels", body)

    def get(self, path: str) -> Any:
        """GET."""
        return self._client.get(path, headers={"Authorization": f"Api-Key {self.key}"})

    def predict(self, inputs: Any, name: str = "sponsor", **headers: str) -> Any:
        """POST /models/NAME/predict."""
        return self.post(f"/models/{name}/predict", inputs, **headers)

    def health(self) -> Any:
        """GET /health, without a key."""
        return self._client.get("/health")


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Where the store is; not made yet."""
    return tmp_path / "artifacts"


@pytest.fixture
def registry(transactional_db: None, settings: Any, artifacts: Path) -> Iterator[None]:
    """The rows that migrations make, an empty store, and a process that has seen nothing yet."""
    settings.ARTIFACTS_DIR = str(artifacts)
    bundles.seed_registry()
    caches = (live_model.forget, live_classifiers.forget, key_cache.clear)
    for forget in caches:
        forget()
    yield
    for forget in caches:
        forget()


@pytest.fixture
def champion(registry: None) -> Any:
    """v1.0.0, promoted."""
    version = bundles.register("1.0.0")
    bundles.promote("1.0.0")
    return version


@pytest.fixture
def api(champion: Any) -> Api:
    """A caller that may score and label, of a server that has a champion."""
    scopes = ["score", "labels"]
    _, key = services.api_key_create(name="test", scopes=scopes, created_by="test")
    return Api(key)


@pytest.fixture
def sponsor(registry: None) -> Api:
    """A caller that may predict and read, of a server whose classifier “sponsor” has a champion."""
    classifiers.register()
    classifiers.promote()
    scopes = ["score", "read"]
    _, key = services.api_key_create(name="kiosk", scopes=scopes, created_by="test")
    return Api(key)
