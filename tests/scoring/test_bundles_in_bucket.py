"""A server whose bundles are in a bucket."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from deployments import artifacts, services
from deployments.models import ModelVersion, RegisteredModel
from engine.errors import InvalidBundle, StoreUnavailable
from engine.store import open_store
from scoring.live_model import LiveModel
from tests import bundles
from tests.google.gcs import CloudStorage

pytestmark = pytest.mark.django_db


@pytest.fixture
def live(cloud_folders: str, settings: Any, tmp_path: Path) -> LiveModel:
    settings.BUNDLE_CACHE = tmp_path / "bundles"
    settings.LIVE_REFRESH_SECONDS = 3_600  # only when a test asks
    bundles.register("1.0.0")
    bundles.promote("1.0.0")
    return LiveModel()


def version(live: LiveModel) -> str:
    live.refresh()
    return live.serving().scorer.model_version


def test_a_server_starts_when_the_bucket_is_unreachable(live: LiveModel, gcs: CloudStorage) -> None:
    assert version(live) == "v1.0.0"
    gcs.unreachable(60)
    assert version(LiveModel()) == "v1.0.0"


def test_what_is_not_here_is_refused_until_the_bucket_answers(
    live: LiveModel, gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scoring.following.RETRY_SECONDS", 0.0)
    monkeypatch.setattr("deployments.artifacts.FETCH_SECONDS", 0.2)
    assert version(live) == "v1.0.0"
    row = bundles.register("1.1.0")
    bundles.promote("1.1.0")
    shutil.rmtree(django_settings.BUNDLE_CACHE / row.manifest_sha256)
    gcs.unreachable(60)
    assert version(live) == "v1.0.0"
    gcs.calm()
    assert version(live) == "v1.1.0"


def test_a_promotion_looks_at_what_is_stored_and_not_at_our_copy(
    live: LiveModel, monkeypatch: pytest.MonkeyPatch, gcs: CloudStorage
) -> None:
    row = bundles.register("1.1.0")
    gcs.calls.clear()
    artifacts.verify(row.location, row.manifest_sha256)
    assert not [call for call in gcs.calls if call.startswith("GET /download")]
    open_store(django_settings.ARTIFACTS_DIR).write(f"{row.location}/thresholds.json", b"{}")
    with pytest.raises(InvalidBundle, match=r"thresholds\.json in fraud/v1\.1\.0 is not there, or"):
        bundles.promote("1.1.0")
    open_store(django_settings.ARTIFACTS_DIR).delete(f"{row.location}/thresholds.json")
    with pytest.raises(InvalidBundle, match=r"thresholds\.json"):
        bundles.promote("1.1.0")
    assert version(live) == "v1.0.0"
    monkeypatch.setattr("deployments.artifacts.FETCH_SECONDS", 0.2)
    gcs.revoke()
    with pytest.raises(StoreUnavailable, match="was refused: 403"):
        bundles.promote("1.1.0")


def test_a_rollback_needs_the_earlier_bundle_in_the_bucket(live: LiveModel) -> None:
    bundles.register("1.1.0")
    bundles.promote("1.1.0")
    first = ModelVersion.objects.get(version="1.0.0")
    open_store(django_settings.ARTIFACTS_DIR).delete(f"{first.location}/manifest.json")
    model = RegisteredModel.objects.get(name="fraud")
    with pytest.raises(InvalidBundle, match=r"manifest\.json"):
        services.rollback(model=model, actor="test", reason="worse")
