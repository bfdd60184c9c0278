"""Runs on a local Cloud Run: trained for real once, and through every fault of the place.

The workers here take the steps of runs as Celery would send them; the program is a process of the
execution's own.
"""

import time
from decimal import Decimal

import pytest
from django.utils import timezone

from deployments.gcp import executions, run_jobs
from deployments.gcp.run_jobs import JobName, JobSpec, job_delete, job_update
from deployments.models import ModelVersion
from engine.errors import RunRefused
from engine.store import open_store
from tests.bundles import seed_registry
from tests.google.runs import PROJECT, REGION
from tests.training.launchers.conformance import processes, starts, write_behaviour
from tests.training.pipeline_support import QUICK, make_columns, write_dataset
from tests.training.support import make_run
from training import after, claims, services
from training.datasets import dataset_import
from training.execution import run_execute
from training.launchers.cloud_run import CloudRunLauncher
from training.models import RunState, TrainingRun
from training.pipeline.spec import decode_options

pytestmark = pytest.mark.django_db(transaction=True)
IMAGE = "europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:1.0.0"
NAME = JobName(PROJECT, REGION, "sentinelle-training")


@pytest.fixture(autouse=True)
def place(google_run, gcs, cloud_folders, settings, monkeypatch):
    """A Cloud Run whose executions find the bucket, and workers who look often."""
    google_run.environment = {"STORAGE_EMULATOR_HOST": gcs.url}
    google_run.grace = 0.3
    settings.TRAINING_IMAGE = IMAGE
    monkeypatch.setattr(CloudRunLauncher, "poll_seconds", 0.05)
    monkeypatch.setattr(CloudRunLauncher, "look_seconds", 0.01)
    monkeypatch.setattr(executions, "CALL_SECONDS", 0.5)
    seed_registry()


@pytest.fixture
def behaving(monkeypatch):
    """Make a run whose program is the stand-in, which does this."""
    command = ("python", "-m", "tests.training.launchers.program")
    monkeypatch.setattr(run_jobs, "COMMAND", command)

    def make(does, version="1.0.0", **resources):
        run = make_run(version, launcher="cloud-run", resources={"retries": 0} | resources)
        write_behaviour(open_store(run.folder), does)
        return run

    return make


def step(run, worker="one"):
    """The next step of a run, as if it were due."""
    TrainingRun.objects.filter(pk=run.pk).update(next_step_at=timezone.now())
    run_execute(str(run.pk), worker=worker)
    run.refresh_from_db()


def step_until(run, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition(run):
        assert time.monotonic() < deadline, (run.state, run.message, run.error)
        step(run)
        time.sleep(0.02)


def at_work(run):
    """Step until the program of a run has started."""
    folder = open_store(run.folder)
    step_until(run, lambda run: folder.exists("progress.json"))


def ended(run):
    return not run.is_active


def test_a_version_is_trained_and_registered_through_every_answer_that_goes_wrong(
    google_run, tmp_path
):
    file = write_dataset(tmp_path, make_columns(3_000, fraud_rate=0.03))
    dataset_import(name="sales", files=[file])
    options = decode_options({"hyperparameters": QUICK})
    run = make_run(
        "1.2.0", launcher="cloud-run", options=options, rules="none", resources={"cpu": 2}
    )
    at_work(run)
    for fault in ("RESOURCE_EXHAUSTED", "INTERNAL", "slow", "half", "drop"):
        google_run.google.fault("GET .*/executions/", fault, "Google's words")
        step(run)
        assert run.state == RunState.RUNNING
        assert "it is tried again" in run.message.lower()
    step_until(run, ended, seconds=180)
    assert (run.state, run.error) == (RunState.SUCCEEDED, "")
    version = ModelVersion.objects.get(version="1.2.0")
    assert version.training_run_id == run.pk
    assert len(google_run.executions) == 1
    assert google_run.tasks[run.handle].attempts == 1
    # What it costs is known by Google's clock and by what it really had.
    assert run.place_started_at <= run.place_ended_at
    assert (run.resources["cpu"], run.resources["memory_mb"]) == (2, 8192)
    assert [event.state for event in run.events.all() if event.state != event.from_state] == [
        "queued",
        "starting",
        "running",
        "succeeded",
    ]
    # A success that is booked stays.
    with pytest.raises(RunRefused, match="already ended"):
        services.run_cancel(run, now=timezone.now())


def test_a_worker_that_dies_after_google_has_accepted_starts_nothing_twice(
    google_run, behaving, monkeypatch
):
    run = behaving("hang")

    def die(*_, **__):
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(claims, "run_started", die)
        with pytest.raises(SystemExit):
            step(run)
    assert (run.handle, len(google_run.executions)) == ("", 1)
    # Its lease passes, and another worker goes on.
    TrainingRun.objects.filter(pk=run.pk).update(lease_until=timezone.now())
    step(run, worker="two")
    run.refresh_from_db()
    assert run.state == RunState.RUNNING
    assert list(google_run.executions) == [run.handle]
    at_work(run)
    assert len(starts(run.folder)) == 1


def test_an_answer_that_was_lost_is_looked_for(google_run, behaving):
    run = behaving("hang")
    google_run.google.fault("POST .*:run", "late")
    step(run)
    assert run.state == RunState.STARTING
    assert "it is tried again" in run.message
    step(run)
    assert run.state == RunState.RUNNING
    assert list(google_run.executions) == [run.handle]


def test_quota_that_is_used_up_for_a_moment_delays_the_start(google_run, behaving):
    run = behaving("fail")
    google_run.google.fault("POST .*:run", "RESOURCE_EXHAUSTED", "Quota exceeded per minute")
    step(run)
    assert run.state == RunState.STARTING
    assert "Google says “Quota exceeded per minute”" in run.message
    step_until(run, ended)
    assert run.error == "The data set has no frauds."


@pytest.mark.parametrize(
    ("fault", "words", "advice"),
    [
        (
            ("POST .*:run", "FAILED_PRECONDITION"),
            "Quota violated: CpuAllocPerProjectRegion requested: 8000 allowed: 4000",
            "ask for less (manage.py jobs update --cpu 4 --memory 8Gi)",
        ),
        (
            ("GET .*/jobs/", "PERMISSION_DENIED"),
            "Permission 'run.jobs.get' denied on resource",
            "--role roles/run.developer",
        ),
        (
            ("GET .*/jobs/", "PERMISSION_DENIED"),
            "Cloud Run Admin API has not been used in project test-project before or it is "
            "disabled. Enable it by visiting https://console.developers.google.com/apis/api/"
            "run.googleapis.com/overview?project=test-project then retry.",
            "gcloud services enable run.googleapis.com --project test-project",
        ),
    ],
    ids=["quota", "permission", "api"],
)
def test_what_a_person_has_to_mend_fails_the_run_at_once(
    google_run, behaving, fault, words, advice
):
    run = behaving("fail")
    google_run.google.fault(*fault, words, times=9)
    step(run)
    assert run.state == RunState.FAILED
    assert words in run.error
    assert advice in run.error
    assert google_run.executions == {}


def test_a_missing_image_fails_the_run_with_how_to_build_it(google_run, behaving):
    google_run.images = set()
    run = behaving("fail")
    step(run)
    assert run.state == RunState.FAILED
    assert f"Google says “Image '{IMAGE}' not found.”" in run.error
    assert "manage.py deploy_training_job test-project" in run.error


def test_a_permission_that_is_revoked_in_mid_run_is_told_and_tried_for_a_while(
    google_run, behaving, settings
):
    run = behaving("hang")
    at_work(run)
    words = "Permission 'run.executions.get' denied on resource"
    google_run.google.fault("GET .*/executions/", "PERMISSION_DENIED", words, times=99)
    step(run)
    assert run.state == RunState.RUNNING
    assert words in run.message
    assert "--role roles/run.developer" in run.message
    settings.TRAINING_PATIENCE_SECONDS = 0
    step(run)
    assert run.state == RunState.FAILED
    assert words in run.error


def test_a_report_decides_even_if_the_place_may_not_be_asked(google_run, behaving):
    run = behaving("fail")
    step(run)
    google_run.wait(run.handle)
    google_run.google.fault("GET .*/executions/", "PERMISSION_DENIED", "No.", times=99)
    step(run)
    assert (run.state, run.error) == (RunState.FAILED, "The data set has no frauds.")


def test_a_cancel_before_the_end_is_seen_wins(google_run, behaving):
    run = behaving("succeed")
    step(run)
    google_run.wait(run.handle)
    services.run_cancel(run, now=timezone.now())
    step_until(run, ended)
    assert run.state == RunState.CANCELLED
    assert not ModelVersion.objects.exists()
    assert executions.execution_get(run.handle).state == "succeeded"


def test_a_cancelled_run_leaves_nothing_running(google_run, behaving):
    run = behaving("stubborn")
    at_work(run)
    services.run_cancel(run, now=timezone.now())
    step_until(run, ended)
    assert run.state == RunState.CANCELLED
    google_run.wait(run.handle)
    assert processes(run.folder) == []
    after.run_ended(str(run.pk), worker="one", now=timezone.now())
    run.refresh_from_db()
    # A minute of 8 vCPU and 8 GiB, which is the least that is charged.
    assert run.cost_usd == Decimal("0.0127")


@pytest.mark.parametrize("what", ["execution", "job"])
def test_what_is_deleted_by_hand_fails_the_run_in_words(google_run, behaving, what):
    run = behaving("hang")
    at_work(run)
    if what == "job":
        job_delete(NAME)
    else:
        google_run.delete_by_hand(run.handle)
    step_until(run, ended)
    assert run.state == RunState.FAILED
    assert "someone has deleted it, or its job" in run.error


def test_memory_that_runs_out_is_told_with_how_to_give_more(google_run, behaving):
    run = behaving("hang")
    at_work(run)
    google_run.exhaust_memory(run.handle)
    google_run.wait(run.handle)
    step_until(run, ended)
    assert run.state == RunState.FAILED
    assert "Memory limit of 8192 MiB exceeded" in run.error
    assert "manage.py jobs update --memory" in run.error


def test_time_that_runs_out_is_told_with_how_to_give_more(google_run, behaving):
    run = behaving("hang", timeout_s=1)
    step_until(run, ended)
    assert run.state == RunState.FAILED
    assert "The configured timeout was reached." in run.error
    assert "manage.py jobs update --timeout" in run.error


def test_a_program_that_is_told_to_stop_is_explained_by_its_place(
    google_run, behaving, monkeypatch
):
    """The first attempt reports that it was told to stop; the second only sees the report."""
    source = """
import json, os, signal, sys, time
from engine.store import open_store
folder = open_store(os.environ["RUN_FOLDER"])
if folder.exists("report.json"):
    sys.exit(2)
def stop(*_):
    error = "The run was told to stop (SIGTERM)."
    report = {"status": "failed", "stage": "features", "error": error}
    folder.write("report.json", json.dumps(report).encode())
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
time.sleep(60)
"""
    run = behaving("hang", timeout_s=1, retries=1)
    monkeypatch.setattr(run_jobs, "COMMAND", ("python", "-c", source))
    google_run.grace = 5
    step_until(run, ended)
    assert run.error.startswith("The run was told to stop (SIGTERM). At its place: ")
    assert "it has reached the maximum timeout of 1 seconds." in run.error
    assert "manage.py jobs update --timeout" in run.error


def test_a_size_that_a_person_gave_the_job_is_what_the_run_is_booked_with(google_run, behaving):
    first = behaving("fail")
    step_until(first, ended)
    job_update(NAME, JobSpec(cpu=4, memory_mb=16384))
    run = behaving("fail", version="1.1.0")
    step_until(run, ended)
    assert (run.resources["cpu"], run.resources["memory_mb"]) == (4, 16384)
