"""`manage.py doctor --cloud`: faults of a project are found, and the advised command mends them."""

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from google.cloud import run_v2

from deployments.gcp import run_jobs
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.google.setup import ProjectApi

pytestmark = pytest.mark.django_db
BUCKET = "test-project-ml-data"
JOB = run_jobs.JobName("test-project", "europe-west1", "sentinelle-training")


@pytest.fixture(autouse=True)
def place(google: GoogleServer, settings: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """A project that is set up, and settings that name it."""
    for name in ("ARTIFACTS_DIR", "DATA_DIR", "RUNS_DIR"):
        setattr(settings, name, str(tmp_path / name.lower()))
    settings.GOOGLE_CLOUD_PROJECT, settings.BUCKET_NAME = "test-project", BUCKET
    monkeypatch.setattr("training.doctor.here.WORKER_SECONDS", 0.02)
    follow("manage.py setup_cloud --project test-project --region europe-west1")


def follow(advice: str) -> None:
    """Run the command that an advice names."""
    written = re.search(r"manage\.py (.+)", advice)
    assert written is not None, advice
    words = shlex.split(written[1])
    call_command(*words, "--yes", stdout=io.StringIO(), stderr=io.StringIO())


def findings() -> dict[str, dict[str, str]]:
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("doctor", "--cloud", "--json", "--url", "http://127.0.0.1:9", stdout=out)
    return {each["name"]: each for each in json.loads(out.getvalue())}


def faults() -> dict[str, dict[str, str]]:
    """Those of the project."""
    found = findings()
    names = list(found)
    of_project = names[names.index("credentials") :]
    return {name: found[name] for name in of_project if found[name]["state"] == "fault"}


def deploy_job() -> None:
    run_jobs.job_update(JOB, run_jobs.JobSpec(image="europe-docker.pkg.dev/p/r/sentinelle:1"))


def test_a_project_that_is_set_up_is_well_once_the_job_has_an_image() -> None:
    found = faults()
    assert list(found) == ["job sentinelle-training"]
    assert "sample image" in found["job sentinelle-training"]["words"]
    deploy = "manage.py deploy_training_job test-project sentinelle-training europe-west1 1.0.0"
    assert deploy in found["job sentinelle-training"]["advice"]
    deploy_job()
    assert faults() == {}


def test_what_is_missing_in_the_project_is_set_up_by_the_advice(project: ProjectApi) -> None:
    deploy_job()
    project.apis.remove("run.googleapis.com")
    project.buckets[BUCKET]["versioning"] = {"enabled": False}
    project.values["sentinelle-db-password"].clear()
    del project.accounts["sentinelle-training@test-project.iam.gserviceaccount.com"]
    project.policies["/v1/projects/test-project"]["bindings"].clear()
    found = faults()
    assert len(found) == 6, found  # the roles of the account are gone with it
    assert any(name.endswith("APIs") for name in found)
    assert "changed: versioning" in found[f"bucket gs://{BUCKET}"]["words"]
    assert "value of sentinelle-db-password" in found
    advice = {each["advice"] for each in found.values()}
    assert len(advice) == 1
    follow(advice.pop())
    assert faults() == {}


def test_a_job_that_is_gone() -> None:
    run_jobs.job_delete(JOB)
    assert faults()["job sentinelle-training"]["words"] == "there is none"


def test_an_execution_that_failed(run: RunApi) -> None:
    deploy_job()
    execution = run_jobs.job_run(JOB, run_id="r", env={"RUN_FOLDER": "/nowhere"})
    ended = run.wait(execution)
    assert ended.failed_count, run_v2.Execution.to_json(ended)
    found = faults()["last execution"]
    assert f"manage.py jobs logs {run_jobs.short(execution)}" in found["advice"]


def test_a_role_that_is_missing_is_said_in_googles_words(google: GoogleServer) -> None:
    google.fault(f"/storage/v1/b/{BUCKET}", "PERMISSION_DENIED", "storage.buckets.get denied")
    found = faults()[f"bucket gs://{BUCKET}"]
    assert "--role roles/storage.admin" in found["words"]


def test_settings_that_name_no_project(settings: Any) -> None:
    settings.GOOGLE_CLOUD_PROJECT = ""
    found = findings()["project"]
    assert found["words"] == "GOOGLE_CLOUD_PROJECT not set"
