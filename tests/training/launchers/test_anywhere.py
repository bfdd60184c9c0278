"""One training in three places: each registers a version, and the three serve the same models."""

import json
from typing import Any

import pytest

from deployments.costs import actual
from deployments.models import ModelVersion
from engine.bundle import MANIFEST
from engine.store import open_store
from tests.bundles import seed_registry
from tests.google.compute import Compute
from tests.google.local import talking_to
from tests.google.logging import LoggingApi
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.training.launchers.support import Post
from tests.training.pipeline_support import QUICK, make_columns, write_dataset
from training import launchers, services
from training.launchers.cloud_run import CloudRunLauncher
from training.launchers.vm import VmLauncher
from training.models import Dataset, RunState
from training.pipeline.spec import decode_options

pytestmark = pytest.mark.django_db(transaction=True)
PLACES = {"local": "1.0.0", "cloud-run": "1.1.0", "vm": "1.2.0"}
PROJECT = "test-project"


@pytest.fixture
def google(tmp_path, settings, gcs, cloud_folders):
    """Cloud Run and Compute Engine, whose programs see the bucket and their own environment."""
    world = {"STORAGE_EMULATOR_HOST": gcs.url, "GOOGLE_CLOUD_PROJECT": PROJECT}
    logging = LoggingApi()
    run, compute = RunApi(logging, world), Compute(tmp_path / "machines", world=world)
    google = run.google = compute.google = GoogleServer(run, logging, compute)
    settings.GOOGLE_API_ENDPOINT, settings.GOOGLE_CLOUD_PROJECT = google.url, PROJECT
    settings.TRAINING_IMAGE = "europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:1"
    compute.images.add(settings.TRAINING_IMAGE)
    with talking_to(google):
        yield compute
    google.close()
    compute.close()


@pytest.fixture
def dataset(transactional_db, tmp_path, settings, google) -> Dataset:
    seed_registry()
    path = write_dataset(tmp_path, make_columns(3_000, fraud_rate=0.03))
    open_store(f"{settings.DATA_DIR}/shop").upload("data.parquet", path)
    facts = {"preset": "canonical", "fingerprint": "f" * 64, "rows": 3_000, "frauds": 90}
    return Dataset.objects.create(name="shop", location="shop", **facts)


def test_three_places_make_the_same_version(dataset, google, settings, monkeypatch):
    post = Post(monkeypatch)
    monkeypatch.setitem(launchers._LAUNCHERS, "vm", VmLauncher(wait_seconds=5.0, every=0.01))
    monkeypatch.setattr(CloudRunLauncher, "look_seconds", 0.01)
    models = {}
    for launcher, version in PLACES.items():
        run = services.run_create(
            dataset="shop",
            version=version,
            launcher=launcher,
            options=decode_options({"hyperparameters": QUICK}),
        )
        run = post.go_on(run, seconds=120)
        assert run.state == RunState.SUCCEEDED, f"{launcher}: {run.error} {run.message}"
        states = [event.state for event in run.events.all() if event.state != event.from_state]
        assert states == ["queued", "starting", "running", "succeeded"]
        assert run.place_ended_at is not None or launcher == "local"
        charged = actual(launcher, run.resources, run.place_started_at, run.place_ended_at)
        assert run.cost_usd == charged.stored
        assert (run.cost_usd > 0) == (launcher != "local")
        models[launcher] = digests(run.model_version, settings.ARTIFACTS_DIR)
    assert models["local"] == models["cloud-run"] == models["vm"]
    assert len(models["local"]) >= 2
    assert google.status(settings.TRAINING_VM) == "TERMINATED"
    assert google.running() == []


def digests(version: ModelVersion, artifacts: str) -> dict[str, Any]:
    """The SHA-256 of each served model of a version, from its manifest."""
    manifest = json.loads(open_store(artifacts).read(f"{version.location}/{MANIFEST}"))
    files = manifest["files"]
    return {name: files[name]["sha256"] for name in files if name.endswith(".treelite")}
