"""Cloud Run jobs through Google's own client, against a local Cloud Run."""

import pytest

from deployments.gcp import executions, run_jobs
from deployments.gcp.errors import CloudError
from deployments.gcp.logs import execution_lines
from deployments.gcp.run_jobs import Change, JobName, JobSpec
from engine.errors import RunRefused
from tests.google.runs import PROJECT, REGION

pytestmark = pytest.mark.usefixtures("google_run")
NAME = JobName(PROJECT, REGION, "sentinelle-training")
IMAGE = "europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:1.0.0"
SPEC = JobSpec(
    image=IMAGE,
    cpu=8,
    memory_mb=8192,
    timeout_s=7200,
    retries=1,
    service_account="trainer@test-project.iam.gserviceaccount.com",
    env={"DATA_DIR": "gs://b/data", "BUCKET_NAME": "b"},
)
RUN = "0a8d6f6e-4c1e-4a54-9d1c-6a4b1f7f8a11"


@pytest.fixture
def program(monkeypatch):
    """What the container runs, as a script."""

    def use(source):
        monkeypatch.setattr(run_jobs, "COMMAND", ("python", "-c", source))

    use("print('trained')")
    return use


def execute(run_id=RUN, **changes):
    run_jobs.job_ensure(NAME, SPEC)
    return run_jobs.job_run(NAME, run_id=run_id, env=changes.pop("env", {}), **changes)


# --- Jobs ----------------------------------------------------------------------------------


def test_a_job_is_created_with_what_was_asked_and_our_label(google_run):
    info, changes = run_jobs.job_ensure(NAME, SPEC)
    assert changes == [Change("job", "none", "sentinelle-training")]
    assert (info.image, info.cpu, info.memory_mb) == (IMAGE, 8, 8192)
    assert (info.timeout_s, info.retries) == (7200, 1)
    assert info.command == "python -m training.pipeline.job"
    assert info.service_account == SPEC.service_account
    assert info.env == SPEC.env
    assert info.labels == {"sentinelle": "training"}
    assert info.problem == ""


def test_a_job_that_is_as_it_should_be_is_left_alone(google_run):
    run_jobs.job_ensure(NAME, SPEC)
    google_run.google.calls.clear()
    _, changes = run_jobs.job_ensure(NAME, SPEC)
    assert changes == []
    assert [call.split()[0] for call in google_run.google.calls] == ["GET"]


def test_only_what_differs_is_changed_and_told(google_run):
    run_jobs.job_ensure(NAME, SPEC)
    by_hand = google_run.jobs[NAME.full]
    by_hand.template.template.containers[0].env.append({"name": "LOG_LEVEL", "value": "DEBUG"})
    info, changes = run_jobs.job_update(
        NAME, JobSpec(cpu=4, memory_mb=16384, env={"DATA_DIR": "gs://b/data", "BUCKET_NAME": "c"})
    )
    assert changes == [
        Change("cpu", "8", "4"),
        Change("memory", "8Gi", "16Gi"),
        Change("env BUCKET_NAME", "b", "c"),
    ]
    assert (info.image, info.timeout_s, info.retries) == (IMAGE, 7200, 1)
    assert info.env == {"LOG_LEVEL": "DEBUG", "DATA_DIR": "gs://b/data", "BUCKET_NAME": "c"}


def test_another_command_is_put_right(google_run):
    run_jobs.job_ensure(NAME, SPEC)
    google_run.jobs[NAME.full].template.template.containers[0].args = ["--help"]
    _, changes = run_jobs.job_ensure(NAME, SPEC)
    assert [change.field for change in changes] == ["command"]


def test_a_change_by_someone_else_in_between_is_a_conflict(google_run, monkeypatch):
    run_jobs.job_ensure(NAME, SPEC)
    look = run_jobs._job

    def look_and_be_overtaken(name):
        job = look(name)
        google_run.jobs[NAME.full].etag = '"another"'
        return job

    monkeypatch.setattr(run_jobs, "_job", look_and_be_overtaken)
    with pytest.raises(CloudError) as refused:
        run_jobs.job_update(NAME, JobSpec(cpu=4))
    assert (refused.value.reason, refused.value.is_transient) == ("conflict", True)


def test_two_who_create_a_job_at_once_both_have_it(google_run, monkeypatch):
    look, seen = run_jobs._job, []

    def not_there_at_first(name):
        if not seen:
            seen.append(name)
            run_jobs.job_create(NAME, SPEC)
            raise CloudError("not yet", reason="not_found")
        return look(name)

    monkeypatch.setattr(run_jobs, "_job", not_there_at_first)
    assert run_jobs.job_ensure(NAME, SPEC)[0].name == NAME.job


def test_what_cloud_run_does_not_allow_is_not_even_asked(google_run):
    run_jobs.job_ensure(NAME, SPEC)
    google_run.google.calls.clear()
    with pytest.raises(RunRefused, match="2 processors may have 512Mi to 8Gi; 16Gi goes with"):
        run_jobs.job_update(NAME, JobSpec(cpu=2, memory_mb=16384))
    assert [call.split()[0] for call in google_run.google.calls] == []


def test_an_image_that_is_missing_is_told_with_how_to_make_it(google_run):
    google_run.images = {"another"}
    with pytest.raises(CloudError) as refused:
        run_jobs.job_ensure(NAME, SPEC)
    assert refused.value.reason == "image"
    assert not refused.value.is_transient
    assert f"Google says “Image '{IMAGE}' not found.”" in refused.value.detail
    assert "manage.py deploy_training_job test-project sentinelle-training europe-west1" in (
        refused.value.detail
    )


def test_a_job_whose_image_came_later_is_made_ready(google_run):
    google_run.images = set()
    with pytest.raises(CloudError):
        run_jobs.job_ensure(NAME, SPEC)
    google_run.images.add(IMAGE)
    info, changes = run_jobs.job_ensure(NAME, SPEC)
    assert (info.problem, changes) == ("", [])
    assert not google_run.jobs[NAME.full].terminal_condition.message


def test_a_job_can_be_executed_once_it_is_said_to_be_there(google_run, program):
    google_run.ready_reads = 3
    assert execute() in google_run.executions


def test_a_job_that_another_makes_just_now_is_waited_for(google_run, program, monkeypatch):
    google_run.ready_reads = 3
    with monkeypatch.context() as patch:
        patch.setattr(run_jobs, "_wait", lambda *_: None)
        run_jobs.job_ensure(NAME, SPEC)
    assert execute() in google_run.executions


def test_a_job_that_is_not_ready_in_time_is_looked_at_again(google_run, monkeypatch):
    google_run.ready_reads = 99
    monkeypatch.setattr(run_jobs, "READY_SECONDS", 0.05)
    with pytest.raises(CloudError, match="Google has not finished it") as refused:
        run_jobs.job_ensure(NAME, SPEC)
    assert refused.value.is_transient


def test_a_job_without_an_image_says_which_setting_to_make():
    with pytest.raises(CloudError, match="TRAINING_IMAGE"):
        run_jobs.job_ensure(NAME, JobSpec(cpu=1))


def test_ours_alone_are_listed_all_pages_of_them(google_run):
    for number in range(5):
        run_jobs.job_ensure(NAME._replace(job=f"job-{number}"), SPEC)
    google_run.jobs[NAME._replace(job="job-3").full].labels = {}
    names = [info.name for info in run_jobs.job_list(PROJECT, REGION)]
    assert names == ["job-0", "job-1", "job-2", "job-4"]


def test_a_job_is_deleted(google_run):
    run_jobs.job_ensure(NAME, SPEC)
    run_jobs.job_delete(NAME)
    assert google_run.jobs == {}
    with pytest.raises(CloudError) as refused:
        run_jobs.job_delete(NAME)
    assert refused.value.reason == "not_found"
    assert "(europe-west1)" in refused.value.detail


# --- Executions ----------------------------------------------------------------------------


def test_an_execution_has_its_variables_and_nothing_of_ours(google_run, program, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    program("import os; print(sorted(os.environ.items()))")
    execution = execute(env={"VERSION": "1.2.0", "DATA_DIR": "gs://other"})
    google_run.wait(execution)
    printed = dict(eval(execution_lines(execution)[0].text))
    assert printed["VERSION"] == "1.2.0"
    assert printed["DATA_DIR"] == "gs://other"
    assert printed["BUCKET_NAME"] == "b"
    assert printed["SENTINELLE_RUN"] == RUN
    assert printed["CLOUD_RUN_EXECUTION"] == run_jobs.short(execution)
    assert not {"SECRET_OF_THE_TEST", "SECRET_KEY", "DATABASE_URL"} & set(printed)


def test_an_execution_is_known_at_once_and_by_its_run(google_run, program):
    google_run.start_seconds = 0.2
    execution = execute()
    found = executions.execution_get(execution)
    assert (found.state, found.run_id, found.has_ended) == ("waiting", RUN, False)
    assert executions.execution_find(NAME, RUN).name == execution
    assert executions.execution_find(NAME, "another") is None
    google_run.wait(execution)
    ended = executions.execution_get(execution)
    assert (ended.state, ended.has_ended) == ("succeeded", True)
    assert ended.created_at <= ended.started_at <= ended.ended_at


def test_it_is_found_on_a_later_page_and_before_a_list_has_it(google_run, program):
    started = [execute(run_id=f"run-{number}") for number in range(5)]
    assert executions.execution_find(NAME, "run-0").name == started[0]
    google_run.list_lag = 3
    newest = execute(run_id="run-5")
    assert newest not in [found.name for found in executions.execution_list(NAME)]
    assert executions.execution_find(NAME, "run-5").name == newest


def test_a_failure_is_counted_retried_and_told(google_run, program):
    program("raise SystemExit(3)")
    execution = execute()
    google_run.wait(execution)
    ended = executions.execution_get(execution)
    assert (ended.state, ended.retried) == ("failed", True)
    assert "exit code: 3" in ended.message
    assert google_run.tasks[execution].attempts == 2


def test_a_retry_runs_under_the_same_name(google_run, program):
    program(
        "import os, sys; print(os.environ['CLOUD_RUN_EXECUTION']);"
        "sys.exit(os.environ['CLOUD_RUN_TASK_ATTEMPT'] == '0')"
    )
    execution = execute()
    google_run.wait(execution)
    assert executions.execution_get(execution).state == "succeeded"
    short = run_jobs.short(execution)
    printed = [line.text for line in execution_lines(execution) if not line.is_of_platform]
    assert printed == [short, short]


def test_the_time_limit_is_the_executions_own_and_ends_it(google_run, program):
    program("import time; print('on', flush=True); time.sleep(60)")
    run_jobs.job_ensure(NAME, SPEC._replace(retries=0))
    execution = run_jobs.job_run(NAME, run_id=RUN, env={}, timeout_s=1)
    google_run.wait(execution)
    ended = executions.execution_get(execution)
    assert ended.state == "failed"
    assert "The configured timeout was reached." in ended.message


def test_a_cancelled_execution_is_told_by_its_counts_not_by_its_operation(google_run, program):
    program("import time; time.sleep(60)")
    execution = execute()
    assert executions.execution_cancel(execution) is True
    google_run.wait(execution)
    assert executions.execution_get(execution).state == "cancelled"
    # Again, and of one that is not there: nothing.
    assert executions.execution_cancel(execution) is False
    assert executions.execution_cancel(f"{NAME.full}/executions/never") is False


def test_a_cancel_that_meets_the_end_is_no_error(google_run, program, monkeypatch):
    execution = execute()
    running = executions.execution_get(execution)
    google_run.wait(execution)
    answers = [running._replace(ended_at=None)]
    look = executions.execution_get
    monkeypatch.setattr(
        executions, "execution_get", lambda name: answers.pop() if answers else look(name)
    )
    assert executions.execution_cancel(execution) is False


def test_an_etag_that_is_old_starts_nothing(google_run, program):
    run_jobs.job_ensure(NAME, SPEC)
    with pytest.raises(CloudError) as refused:
        run_jobs.job_run(NAME, run_id=RUN, env={}, etag='"old"')
    assert refused.value.reason == "conflict"
    assert google_run.executions == {}


@pytest.mark.parametrize(
    ("fault", "reason", "is_transient"),
    [
        ("RESOURCE_EXHAUSTED", "quota", True),
        ("INTERNAL", "network", True),
        ("half", "network", True),
        ("drop", "network", True),
        ("slow", "network", True),
        ("PERMISSION_DENIED", "permission", False),
    ],
)
def test_what_can_go_wrong_while_looking(
    google_run, program, monkeypatch, fault, reason, is_transient
):
    monkeypatch.setattr(executions, "CALL_SECONDS", 0.3)
    execution = execute()
    google_run.google.fault("GET .*/executions/", fault, "Google's own words")
    with pytest.raises(CloudError) as refused:
        executions.execution_get(execution)
    assert (refused.value.reason, refused.value.is_transient) == (reason, is_transient)
    assert refused.value.detail.startswith("Looking at the execution sentinelle-training-")
    if fault.isupper():
        assert "Google says “Google's own words”" in refused.value.detail


# --- Logs ----------------------------------------------------------------------------------


def test_the_last_lines_are_read_in_order_through_all_pages(google_run, program, monkeypatch):
    monkeypatch.setattr("deployments.gcp.logs.PAGE", 7)
    program("[print(number) for number in range(30)]; raise SystemExit(1)")
    run_jobs.job_ensure(NAME, SPEC._replace(retries=0))
    execution = run_jobs.job_run(NAME, run_id=RUN, env={})
    google_run.wait(execution)
    lines = execution_lines(execution, last=None)
    assert [line.text for line in lines[:30]] == [str(number) for number in range(30)]
    platform = lines[30:]
    assert all(line.is_of_platform for line in platform)
    assert "exit(1)" in platform[0].text
    assert "0/1 tasks were a success" in platform[1].text
    assert [line.text for line in execution_lines(execution, last=4)][:2] == ["28", "29"]
    assert execution_lines(execution, since=lines[28].at) == lines[29:]
    assert execution_lines(execution, only_platform=True) == platform


def test_another_executions_lines_are_not_read(google_run, program):
    first, second = execute("a"), execute("b")
    google_run.wait(first), google_run.wait(second)
    assert len(execution_lines(first)) == len(execution_lines(second)) == 1
