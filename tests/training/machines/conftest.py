"""A bucket, a local Compute Engine, and run folders for its machines."""

import json
import time
import uuid
from typing import Any

import pytest

from engine.rules import default_rules_text
from engine.store import open_store
from tests.google.compute import Compute
from tests.google.local import talking_to
from tests.google.server import GoogleServer
from tests.training.launchers.conformance import write_behaviour
from tests.training.pipeline_support import QUICK, make_columns, write_dataset
from training.launchers.base import Launch
from training.launchers.vm import VmLauncher

MACHINE = "ml-training-vm"
ZONE = "us-central1-a"
PROJECT = "test-project"
RESOURCES = {
    "project": PROJECT,
    "zone": ZONE,
    "machine": MACHINE,
    "image": "stand-in",
    "max_run_s": 3600,
}


@pytest.fixture
def compute(tmp_path, settings, gcs, cloud_folders):
    world = {"STORAGE_EMULATOR_HOST": gcs.url, "GOOGLE_CLOUD_PROJECT": PROJECT}
    api = Compute(tmp_path / "machines", world=world)
    google = api.google = GoogleServer(api)
    settings.GOOGLE_API_ENDPOINT = google.url
    settings.GOOGLE_CLOUD_PROJECT = PROJECT
    with talking_to(google):
        yield api
    google.close()
    api.close()


@pytest.fixture
def launcher() -> VmLauncher:
    return VmLauncher(wait_seconds=5.0, every=0.01)


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("small")
    return write_dataset(folder, make_columns(3_000, fraud_rate=0.03)).read_bytes()


@pytest.fixture
def launch(cloud_folders, small_dataset):
    """Prepare a run folder in the bucket; what a launcher is told of it."""

    def prepare(image: str = "sentinelle", **resources: Any) -> Launch:
        run_id = str(uuid.uuid4())
        dataset = f"gs://{cloud_folders}/data/small/data.parquet"
        open_store(f"gs://{cloud_folders}/data/small").write("data.parquet", small_dataset)
        folder = f"gs://{cloud_folders}/runs/{run_id}"
        spec = {
            "run_id": run_id,
            "model": "fraud",
            "version": "1.0.0",
            "dataset": dataset,
            "dataset_fingerprint": "f" * 64,
            "rules": {"name": "default", "toml": default_rules_text()},
            "options": {"hyperparameters": QUICK},
        }
        open_store(folder).write("spec.json", json.dumps(spec).encode())
        return Launch(run_id, folder, "fraud", "1.0.0", RESOURCES | {"image": image} | resources)

    return prepare


@pytest.fixture
def stand_in(cloud_folders):
    """Prepare a run folder for the stand-in's program; what a launcher is told of it."""

    def prepare(does: str, clock_ahead_s: float = 0.0, **resources: Any) -> Launch:
        run_id = str(uuid.uuid4())
        folder = f"gs://{cloud_folders}/runs/{run_id}"
        write_behaviour(open_store(folder), does, clock_ahead_s=clock_ahead_s)
        return Launch(run_id, folder, "fraud", "1.0.0", RESOURCES | resources)

    return prepare


def until(look: Any, seconds: float = 30.0) -> Any:
    """The first true value that `look` gives."""
    give_up = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < give_up, "too late"
        time.sleep(0.05)
    return value


def ended(launcher: VmLauncher, handle: str, seconds: float = 60.0) -> Any:
    """What the launcher says when the run's machine is off."""

    def look() -> Any:
        seen = launcher.poll(handle)
        return seen if seen.ended is not None else None

    return until(look, seconds)
