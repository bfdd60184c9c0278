"""The sponsor model's whole way: trained by command in three places, the same bytes in each,
promoted in the admin, and the same answers from the API and from the function."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from deployments import services as registry
from deployments.models import ModelVersion, RegisteredModel
from engine.bundle import MANIFEST
from engine.classifier.definition import read_definition
from engine.store import open_store
from tests.bundles import seed_registry
from tests.engine.classifiers import made_up_values
from tests.google.function_server import FunctionServer
from tests.training.launchers.support import Post
from tests.training.launchers.test_anywhere import google  # noqa: F401 - a fixture
from training import launchers
from training.launchers.cloud_run import CloudRunLauncher
from training.launchers.vm import VmLauncher
from training.models import Dataset, RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[3]
ROWS = 1_500
PLACES = ("local", "cloud-run", "vm")
EQUAL = 1e-6


def test_it_is_trained_anywhere_promoted_and_answers_the_same_everywhere(
    transactional_db,
    google,  # noqa: F811
    settings,
    monkeypatch,
    admin_client,
    gcs,
    cloud_folders,
):
    seed_registry()
    monkeypatch.setitem(launchers._LAUNCHERS, "vm", VmLauncher(wait_seconds=5.0, every=0.01))
    monkeypatch.setattr(CloudRunLauncher, "look_seconds", 0.01)
    post = Post(monkeypatch)
    call_command("register_model", "sponsor")
    runs = [trained(launcher, post) for launcher in PLACES]
    assert [run.version for run in runs] == ["1.0.0", "1.0.1", "1.0.2"]
    assert Dataset.objects.get().name == f"sponsor-{ROWS}-0"
    assert Dataset.objects.get().file.startswith(f"gs://{cloud_folders}/")

    # The same models, files for users included, are in the bucket.
    local, job, machine = (files(run.model_version, settings.ARTIFACTS_DIR) for run in runs)
    assert local == job == machine
    assert set(local) == {
        "definition.toml", "model.joblib", "model.treelite", "model_columns.joblib",
    }  # fmt: skip
    # The machine was started for it, and is off.
    assert runs[2].place_started_at < runs[2].place_ended_at
    assert google.status(settings.TRAINING_VM) == "TERMINATED"
    assert google.running() == []

    promote(admin_client, runs[2].model_version)
    definition = read_definition(RegisteredModel.objects.get(name="sponsor").definition)
    requests = made_up_values(definition, 40)
    from_api = answers_of_the_api(requests)
    environment = {"ARTIFACTS_DIR": settings.ARTIFACTS_DIR, **gcs.environment(cloud_folders)}
    function = FunctionServer(ROOT / "functions", environment, path=str(ROOT))
    try:
        from_function = [function.post(each).json() for each in requests]
    finally:
        function.close()
    assert len({answer["recommended_sponsor"] for answer in from_api}) > 1
    for ours, theirs in zip(from_api, from_function, strict=True):
        assert ours["model_version"] == "v1.0.2"
        assert abs(ours.pop("confidence") - theirs.pop("confidence")) < EQUAL
        assert ours == theirs


def trained(launcher: str, post: Post) -> TrainingRun:
    """Train it there by command, and let the workers go on until that is settled."""
    call_command("train", model="sponsor", rows=ROWS, launcher=launcher, trees=5)
    run = TrainingRun.objects.latest("created_at")
    run = post.go_on(run, seconds=120)
    assert run.state == RunState.SUCCEEDED, f"{launcher}: {run.error} {run.message}"
    assert run.launcher == launcher
    assert run.report["metrics"]["rows"] == pytest.approx(ROWS * 0.2, rel=0.2)
    return run


def files(version: ModelVersion, artifacts: str) -> dict[str, Any]:
    """The SHA-256 of each file of a version, from its manifest."""
    manifest = json.loads(open_store(artifacts).read(f"{version.location}/{MANIFEST}"))
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def promote(client: Client, version: ModelVersion) -> None:
    address = reverse("admin:deployments_modelversion_promote", args=[version.pk])
    assert "The first champion" in client.get(address).content.decode()
    answer = client.post(address, {"reason": "It is time", "seen_champion": ""})
    assert answer.status_code == 302, answer.content


def answers_of_the_api(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    _, key = registry.api_key_create(name="stadium", scopes=["score"], created_by="test")
    client = Client(headers={"Authorization": f"Api-Key {key}"})
    answers = []
    for each in requests:
        answer = client.post("/models/sponsor/predict", json.dumps(each), "application/json")
        assert answer.status_code == 200, answer.content
        answers.append(answer.json())
    return answers
