"""The Cloud Run launcher, against a local Cloud Run that executes what it is given."""

import os
import subprocess
import sys
from datetime import timedelta

import msgspec
import pytest

from deployments.gcp import executions, run_jobs
from deployments.gcp.errors import CloudError
from deployments.gcp.logs import execution_lines
from deployments.gcp.run_jobs import JobName, JobSpec
from engine.store import open_store
from tests.google.runs import PROJECT, REGION
from tests.training.launchers.conformance import LauncherConformance, Place
from training.launchers import cloud_run
from training.launchers.base import Launch
from training.launchers.cloud_run import CloudRunLauncher
from training.launchers.resources import JOB_SIZE, resources_for

IMAGE = "europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:1.0.0"
NAME = JobName(PROJECT, REGION, "sentinelle-training")
SLEEP = "import time; print('on', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def configuration(google_run, settings):
    settings.TRAINING_IMAGE = IMAGE
    settings.TRAINING_SERVICE_ACCOUNT = "trainer@test-project.iam.gserviceaccount.com"
    settings.BUCKET_NAME = "b"
    settings.DATA_DIR, settings.ARTIFACTS_DIR = "gs://b/data", "gs://b/artifacts"


@pytest.fixture
def program(monkeypatch):
    """Give the script that stands in for the training program."""

    def use(source):
        monkeypatch.setattr(run_jobs, "COMMAND", ("python", "-c", source))

    use("print('trained')")
    return use


@pytest.fixture
def launch(tmp_path, program):
    """Make what a launcher is told of a run."""

    def make(run_id="run-1", **given):
        return Launch(
            run_id,
            str(tmp_path / run_id),
            "fraud",
            "1.2.0",
            msgspec.to_builtins(resources_for("cloud-run", given)),
        )

    return make


@pytest.fixture
def launcher(monkeypatch):
    monkeypatch.setattr(CloudRunLauncher, "look_seconds", 0.01)
    monkeypatch.setattr(CloudRunLauncher, "log_seconds", 0.0)
    return CloudRunLauncher()


class CloudRunPlace(Place):
    unknown_handle = f"{NAME.full}/executions/nobody-knows-it"

    def __init__(self, google_run, runs):
        resources = msgspec.to_builtins(resources_for("cloud-run"))
        super().__init__(CloudRunLauncher(), runs, resources)
        self.google_run = google_run

    def another_launcher(self):
        return CloudRunLauncher()

    def kill_machine(self, handle):
        self.google_run.delete_by_hand(handle)


class TestCloudRun(LauncherConformance):
    @pytest.fixture
    def place(self, google_run, launcher, tmp_path, monkeypatch):
        google_run.grace = 0.3
        command = ("python", "-m", "tests.training.launchers.program")
        monkeypatch.setattr(run_jobs, "COMMAND", command)
        return CloudRunPlace(google_run, str(tmp_path))


def ended(google_run, launcher, handle):
    google_run.wait(handle)
    return launcher.poll(handle)


# --- Starting ------------------------------------------------------------------------------


def test_the_execution_is_told_the_run_and_the_job_where_everything_is(
    google_run, launcher, launch, program
):
    program("import os; print(sorted(os.environ.items()))")
    run = launch()
    handle = launcher.start(run)
    assert handle.startswith(f"{NAME.full}/executions/")
    google_run.wait(handle)
    told = dict(eval(execution_lines(handle)[0].text))
    assert told["RUN_FOLDER"] == run.folder
    assert told["VERSION"] == "1.2.0"
    assert told["SENTINELLE_RUN"] == "run-1"
    assert (told["DATA_DIR"], told["ARTIFACTS_DIR"]) == ("gs://b/data", "gs://b/artifacts")
    assert told["BUCKET_NAME"] == "b"
    job = run_jobs.job_describe(NAME)
    # What belongs to a run is not in the job, and no secret is in either.
    assert set(job.env) == {"DATA_DIR", "ARTIFACTS_DIR", "BUCKET_NAME"}
    assert not {"SECRET_KEY", "DATABASE_URL", "REDIS_URL"} & set(told)
    assert (job.cpu, job.memory_mb, job.timeout_s, job.retries) == (8, 8192, 7200, 1)
    assert job.service_account == "trainer@test-project.iam.gserviceaccount.com"


def test_a_worker_that_died_after_google_had_accepted_starts_nothing_twice(
    google_run, launcher, launch, monkeypatch
):
    handle = launcher.start(launch())
    # However long it has been dead.
    monkeypatch.setattr(cloud_run, "SETTLED", timedelta(0))
    assert CloudRunLauncher().start(launch()) == handle
    google_run.wait(handle)
    assert CloudRunLauncher().start(launch()) == handle
    assert len(google_run.executions) == 1


@pytest.mark.parametrize("fault", ["late", "half"])
def test_an_answer_that_was_lost_starts_nothing_twice(google_run, launcher, launch, program, fault):
    program(SLEEP)
    google_run.google.fault("POST .*:run", fault)
    with pytest.raises(CloudError) as lost:
        launcher.start(launch())
    assert (lost.value.reason, lost.value.is_transient) == ("network", True)
    handle = launcher.start(launch())
    assert list(google_run.executions) == [handle]


def test_an_execution_that_no_list_has_yet_is_waited_for(
    google_run, launcher, launch, program, monkeypatch
):
    program(SLEEP)
    google_run.list_lag = cloud_run.LOOKS + 2
    google_run.google.fault("POST .*:run", "late")
    with pytest.raises(CloudError):
        launcher.start(launch())
    # The job tells of its newest execution alone: of another run's.
    launcher.start(launch("run-2"))
    with pytest.raises(CloudError, match="its answer was lost") as waits:
        launcher.start(launch())
    assert waits.value.is_transient
    found = launcher.start(launch())
    assert executions.execution_get(found).run_id == "run-1"
    assert len(google_run.executions) == 2


def test_a_request_that_never_arrived_is_made_again_in_the_end(
    google_run, launcher, launch, monkeypatch
):
    google_run.google.fault("POST .*:run", "drop")
    with pytest.raises(CloudError):
        launcher.start(launch())
    with pytest.raises(CloudError, match="its answer was lost"):
        launcher.start(launch())
    monkeypatch.setattr(cloud_run, "SETTLED", timedelta(0))
    assert launcher.start(launch()) in google_run.executions


def test_a_refusal_is_told_and_the_next_attempt_need_not_wait(google_run, launcher, launch):
    google_run.google.fault("POST .*:run", "RESOURCE_EXHAUSTED", "Quota exceeded for CPU")
    with pytest.raises(CloudError) as refused:
        launcher.start(launch())
    assert refused.value.detail.startswith(
        "Starting the job sentinelle-training: Google says “Quota exceeded for CPU”"
    )
    assert "iam-admin/quotas?project=test-project" in refused.value.detail
    assert launcher.start(launch()) in google_run.executions


def test_a_missing_image_says_how_to_make_one(google_run, launcher, launch):
    google_run.images = set()
    with pytest.raises(CloudError) as refused:
        launcher.start(launch())
    assert (refused.value.reason, refused.value.is_transient) == ("image", False)
    assert f"Image '{IMAGE}' not found." in refused.value.detail
    assert "manage.py deploy_training_job test-project" in refused.value.detail


def test_a_job_that_was_deleted_by_hand_is_made_again(google_run, launcher, launch):
    google_run.wait(launcher.start(launch()))
    run_jobs.job_delete(NAME)
    assert launcher.start(launch("run-2")) in google_run.executions


# --- Sizes ---------------------------------------------------------------------------------


def test_a_job_keeps_the_size_that_a_person_gave_it(google_run, launcher, launch):
    google_run.wait(launcher.start(launch()))
    run_jobs.job_update(NAME, JobSpec(cpu=4, memory_mb=16384, timeout_s=600))
    handle = launcher.start(launch("run-2"))
    # What it costs is told by what it really has.
    assert launcher.poll(handle).resources == {
        "cpu": 4,
        "memory_mb": 16384,
        "timeout_s": 600,
        "retries": 1,
    }


def test_what_is_asked_for_a_run_changes_the_job(google_run, launcher, launch):
    google_run.wait(launcher.start(launch()))
    run_jobs.job_update(NAME, JobSpec(cpu=4, timeout_s=600))
    handle = launcher.start(launch("run-2", cpu=2, memory_mb="4Gi"))
    assert launcher.poll(handle).resources == {
        "cpu": 2,
        "memory_mb": 4096,
        "timeout_s": 600,
        "retries": 1,
    }


def test_a_new_job_has_what_was_asked_and_the_defaults(google_run, launcher, launch):
    handle = launcher.start(launch(memory_mb="32Gi"))
    size = launcher.poll(handle).resources
    assert size == {"cpu": 8, "memory_mb": 32768, "timeout_s": 7200, "retries": 1}


def test_a_job_made_by_hand_is_as_large_as_one_that_a_run_makes():
    size = resources_for("cloud-run")
    assert {name: getattr(run_jobs.NEW_JOB, name) for name in JOB_SIZE} == {
        name: getattr(size, name) for name in JOB_SIZE
    }


def test_a_job_that_is_resized_meanwhile_is_looked_at_again(
    google_run, launcher, launch, monkeypatch
):
    ensure = cloud_run.job_ensure

    def ensure_and_be_overtaken(name, *specs):
        found = ensure(name, *specs)
        run_jobs.job_update(NAME, JobSpec(cpu=1, memory_mb=512))
        return found

    monkeypatch.setattr(cloud_run, "job_ensure", ensure_and_be_overtaken)
    with pytest.raises(CloudError) as refused:
        launcher.start(launch())
    assert refused.value.is_transient
    assert google_run.executions == {}


# --- Looking -------------------------------------------------------------------------------


def test_what_it_does_is_told_until_it_ends(google_run, launcher, launch):
    google_run.start_seconds = 0.2
    handle = launcher.start(launch())
    seen = launcher.poll(handle)
    assert (seen.ended, seen.message) == (None, "Cloud Run prepares the container")
    seen = ended(google_run, launcher, handle)
    assert seen.ended == "the execution succeeded"
    assert seen.started_at <= seen.ended_at


def test_a_failure_is_told_in_googles_words(google_run, launcher, launch, program):
    program("raise SystemExit(2)")
    handle = launcher.start(launch())
    words = ended(google_run, launcher, handle).ended
    assert "failed, also when it was tried again" in words
    assert "exit code: 2" in words


def test_memory_that_ran_out_is_told_with_how_to_give_more(google_run, launcher, launch, program):
    program(SLEEP)
    handle = launcher.start(launch(retries=0))
    while not execution_lines(handle):
        pass
    google_run.exhaust_memory(handle)
    words = ended(google_run, launcher, handle).ended
    assert "exit code: 137" in words
    assert "Memory limit of 8192 MiB exceeded with 8304 MiB used." in words
    assert "manage.py jobs update --memory" in words


def test_time_that_ran_out_is_told_with_how_to_give_more(google_run, launcher, launch, program):
    program(SLEEP)
    handle = launcher.start(launch(retries=0, timeout_s=1))
    words = ended(google_run, launcher, handle).ended
    assert "The configured timeout was reached." in words
    assert "manage.py jobs update --timeout SECONDS" in words


@pytest.mark.parametrize("what", ["execution", "job"])
def test_what_was_deleted_by_hand_has_ended(google_run, launcher, launch, program, what):
    program(SLEEP)
    handle = launcher.start(launch())
    if what == "job":
        run_jobs.job_delete(NAME)
    else:
        google_run.delete_by_hand(handle)
    assert "someone has deleted it" in launcher.poll(handle).ended
    launcher.cancel(handle)


@pytest.mark.parametrize("fault", ["RESOURCE_EXHAUSTED", "INTERNAL", "slow", "half", "drop"])
def test_an_answer_that_goes_wrong_is_no_end(google_run, launcher, launch, monkeypatch, fault):
    monkeypatch.setattr(executions, "CALL_SECONDS", 0.3)
    handle = launcher.start(launch())
    google_run.wait(handle)
    google_run.google.fault("GET .*/executions/", fault)
    with pytest.raises(CloudError) as refused:
        launcher.poll(handle)
    assert refused.value.is_transient
    assert launcher.poll(handle).ended == "the execution succeeded"


def test_a_permission_that_is_gone_is_told_with_the_role(google_run, launcher, launch, program):
    program(SLEEP)
    handle = launcher.start(launch())
    words = f"Permission 'run.executions.get' denied on resource '{handle}'"
    google_run.google.fault("GET .*/executions/", "PERMISSION_DENIED", words)
    with pytest.raises(CloudError) as refused:
        launcher.poll(handle)
    assert not refused.value.is_transient
    assert words in refused.value.detail
    assert "--role roles/run.developer" in refused.value.detail


# --- Cancelling ----------------------------------------------------------------------------


def test_a_cancelled_execution_ends_with_its_process(google_run, launcher, launch, program):
    program(SLEEP)
    handle = launcher.start(launch())
    while not execution_lines(handle):
        pass
    launcher.cancel(handle)
    seen = ended(google_run, launcher, handle)
    assert seen.ended == "the execution was cancelled at Cloud Run"
    assert google_run.tasks[handle].container.process.poll() is not None
    launcher.cancel(handle)
    launcher.cancel("")


def test_a_cancel_after_the_end_changes_nothing(google_run, launcher, launch):
    handle = launcher.start(launch())
    google_run.wait(handle)
    launcher.cancel(handle)
    assert launcher.poll(handle).ended == "the execution succeeded"


# --- Logs ----------------------------------------------------------------------------------


def test_the_programs_own_log_is_enough_while_all_is_well(google_run, launcher, launch, program):
    program(SLEEP)
    run = launch()
    handle = launcher.start(run)
    folder = open_store(run.folder)
    folder.write("log/000001.txt", b"one\n")
    folder.write("log/000002.txt", b"two\n")
    assert launcher.logs(handle, folder) == "one\ntwo\n"


def test_a_program_that_left_no_log_is_told_by_what_it_printed(
    google_run, launcher, launch, program
):
    program("print('No run folder.'); raise SystemExit(2)")
    run = launch(retries=0)
    handle = launcher.start(run)
    google_run.wait(handle)
    told = launcher.logs(handle, open_store(run.folder))
    assert "No run folder." in told
    assert "Cloud: Execution sentinelle-training-" in told


def test_an_end_without_a_report_adds_what_cloud_run_says(google_run, launcher, launch, program):
    program(SLEEP)
    run = launch(retries=0)
    handle = launcher.start(run)
    folder = open_store(run.folder)
    folder.write("log/000001.txt", b"one\n")
    while not execution_lines(handle):
        pass
    google_run.exhaust_memory(handle)
    google_run.wait(handle)
    told = launcher.logs(handle, folder)
    assert told.startswith("one\n")
    assert "Cloud: Memory limit of 8192 MiB exceeded" in told
    folder.write("report.json", b"{}")
    assert launcher.logs(handle, folder) == "one\n"


def test_a_page_that_asks_often_does_not_ask_google_as_often(google_run, launcher, launch):
    launcher.log_seconds = 60
    run = launch()
    handle = launcher.start(run)
    google_run.wait(handle)
    google_run.google.calls.clear()
    told = {launcher.logs(handle, open_store(run.folder)) for _ in range(5)}
    assert len(told) == 1
    assert "trained" in told.pop()
    assert len(google_run.google.calls) == 1


def test_a_log_that_may_not_be_read_says_so(google_run, launcher, launch):
    run = launch()
    handle = launcher.start(run)
    google_run.wait(handle)
    google_run.google.fault(
        "entries:list", "PERMISSION_DENIED", "Permission 'logging.logEntries.list' denied"
    )
    assert "roles/logging.viewer" in launcher.logs(handle, open_store(run.folder))


def test_googles_libraries_are_loaded_when_they_are_used():
    """A web process knows every launcher and must not pay for it."""
    code = (
        "import django, sys; django.setup()\n"
        "import training.launchers.cloud_run, deployments.management.commands.jobs\n"
        # functions-framework makes the empty package google.cloud whenever Python starts.
        "print([name for name in sys.modules if name.startswith(('google.', 'requests'))"
        " and name != 'google.cloud'])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "sentinelle.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"
