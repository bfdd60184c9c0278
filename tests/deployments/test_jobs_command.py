"""`manage.py jobs` as a person meets it, against a local Cloud Run."""

import re
import threading
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from deployments.gcp import run_jobs
from deployments.gcp.logs import execution_lines
from deployments.gcp.run_jobs import JobName, short
from deployments.management.commands import jobs
from tests.google.runs import PROJECT, REGION

NAME = JobName(PROJECT, REGION, "sentinelle-training")
IMAGE = "europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:1.0.0"


@pytest.fixture(autouse=True)
def configuration(google_run, settings, monkeypatch):
    settings.TRAINING_IMAGE = IMAGE
    settings.BUCKET_NAME = "b"
    settings.DATA_DIR, settings.ARTIFACTS_DIR = "gs://b/data", "gs://b/artifacts"
    monkeypatch.setattr(run_jobs, "COMMAND", ("python", "-c", "print('trained')"))
    monkeypatch.setattr(jobs, "FOLLOW_SECONDS", 0.05)


def run(*arguments):
    out = StringIO()
    call_command("jobs", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def refused(*arguments):
    with pytest.raises(CommandError) as raised:
        run(*arguments)
    return str(raised.value)


def execute(run_id="run-1"):
    return run_jobs.job_run(NAME, run_id=run_id, env={})


def test_a_job_is_created_with_the_defaults_and_where_everything_is():
    shown = run("create")
    assert re.search(rf"^image +{re.escape(IMAGE)}$", shown, re.M)
    assert re.search(r"^cpu +8$", shown, re.M)
    assert re.search(r"^memory +8Gi$", shown, re.M)
    assert re.search(r"^timeout +7200 s$", shown, re.M)
    assert re.search(r"^retries +1$", shown, re.M)
    assert re.search(r"^env DATA_DIR +gs://b/data$", shown, re.M)
    assert re.search(r"^service account +by default$", shown, re.M)
    assert run("describe") == shown
    assert "already exists" in refused("create")


def test_a_job_is_created_as_it_is_asked_for():
    shown = run("create", "--cpu=2", "--memory=4Gi", "--retries=0", "--env=VERSION=1.0.0")
    assert re.search(r"^cpu +2$", shown, re.M)
    assert re.search(r"^memory +4Gi$", shown, re.M)
    assert re.search(r"^retries +0$", shown, re.M)
    assert re.search(r"^env VERSION +1\.0\.0$", shown, re.M)


def test_a_job_that_could_see_no_data_is_not_created(settings, google_run):
    settings.DATA_DIR = "/var/data"
    assert "can't see DATA_DIR of this machine: set BUCKET_NAME" in refused("create")
    assert google_run.jobs == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--cpu=16", "--memory=16Gi"], "16 processors; Cloud Run has 1, 2, 4, 6 or 8"),
        (["--cpu=2", "--memory=16Gi"], "16Gi goes with 4, 6 or 8"),
        (["--memory=64Gi"], "the most is 32Gi"),
        (["--timeout=200h"], "allowed are 1 to 604800"),
    ],
)
def test_a_size_beyond_the_limits_is_refused_before_google_is_asked(google_run, given, told):
    google_run.google.fault(".*", "UNAUTHENTICATED")
    assert told in refused("update", *given)


def test_an_update_says_what_changed():
    run("create")
    assert run("update", "--cpu", "4", "--memory", "16Gi", "--timeout", "4h").splitlines() == [
        "cpu: 8 → 4",
        "memory: 8Gi → 16Gi",
        "timeout: 7200 s → 14400 s",
    ]
    assert "like that already" in run("update", "--memory", "16384")
    assert "env VERSION: none → 1.1.0" in run("update", "--env", "VERSION=1.1.0")


def test_an_image_that_the_setting_would_put_back_is_told():
    run("create")
    told = run("update", "--image", "other:2")
    assert f"image: {IMAGE} → other:2" in told
    assert f"TRAINING_IMAGE is {IMAGE}: the next run puts that image back" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["update"], "Change what?"),
        (["update", "--cpu", "16", "--memory", "16Gi"], "Cloud Run has 1, 2, 4, 6 or 8"),
        (["update", "--cpu", "2", "--memory", "16Gi"], "16Gi goes with 4, 6 or 8"),
        (["update", "--cpu", "1"], "1 processors may have 512Mi to 4Gi"),
        (["update", "--timeout", "200h"], "allowed are 1 to 604800 (7 days)"),
        (["update", "--retries", "11"], "allowed are 0 to 10"),
        (["update", "--memory", "lots"], "“lots” is no amount of memory; write 16Gi"),
        (["update", "--timeout", "soon"], "“soon” is no time; write 7200"),
        (["update", "--env", "SECRET_KEY=x"], "SECRET_KEY is a secret"),
        (["update", "--env", "x"], "“x” is not NAME=VALUE"),
        (["describe", "--job", "another"], "does not exist"),
        (["logs"], "was never executed"),
        (["cancel", "nobody"], "was not found"),
        (["delete"], "Nobody is here to answer; give --yes"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_and_changes_nothing(google_run, arguments, said):
    run("create")
    before = str(google_run.jobs[NAME.full].template)
    assert said in refused(*arguments)
    assert str(google_run.jobs[NAME.full].template) == before


def test_without_a_project_it_says_how_to_name_one(settings):
    settings.GOOGLE_CLOUD_PROJECT = ""
    assert "set GOOGLE_CLOUD_PROJECT" in refused("list")
    assert "There is no training job" in run("list", "--project", "another")


def test_jobs_are_listed():
    assert "There is no training job in europe-west1 of test-project" in run("list")
    run("create")
    run("create", "--job", "small", "--cpu", "1", "--memory", "2Gi")
    lines = run("list").splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["sentinelle-training", "8", "vCPU", "8Gi"],
        ["small", "1", "vCPU", "2Gi"],
    ]


def test_executions_are_listed_with_how_they_ended(google_run):
    run("create")
    assert "was never executed" in run("executions")
    first = execute("run-1")
    google_run.wait(first)
    google_run.jobs[NAME.full].template.template.containers[0].command = ["false"]
    second = run_jobs.job_run(NAME, run_id="", env={})
    google_run.wait(second)
    newest, oldest = run("executions").splitlines()
    assert newest.startswith(short(second))
    assert "failed" in newest
    assert "by hand" in newest
    assert "exit code: 1" in newest
    assert oldest.startswith(short(first))
    assert "succeeded" in oldest
    assert oldest.endswith("run run-1")
    assert len(run("executions", "--limit", "1").splitlines()) == 1


def test_the_log_of_the_newest_execution_is_printed(google_run):
    run("create")
    first = execute()
    google_run.wait(first)
    google_run.wait(execute("run-2"))
    assert run("logs").rstrip().endswith("trained")
    assert run("logs", short(first), "--lines", "1").count("\n") == 1


def test_a_log_is_followed_until_the_end(google_run, monkeypatch, tmp_path):
    go = tmp_path / "go"
    script = (
        "import pathlib, time; print('one', flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "print('two')"
    )
    monkeypatch.setattr(run_jobs, "COMMAND", ("python", "-c", script))
    run("create")
    execution = execute()
    while not execution_lines(execution):
        pass
    threading.Timer(0.3, go.touch).start()
    *lines, end = run("logs", "--follow").splitlines()
    assert [line.split()[-1] for line in lines] == ["one", "two"]
    assert "succeeded" in end


def test_an_execution_is_cancelled_once(google_run, monkeypatch):
    monkeypatch.setattr(run_jobs, "COMMAND", ("python", "-c", "import time; time.sleep(60)"))
    run("create")
    execution = execute()
    assert "is being cancelled" in run("cancel", short(execution))
    google_run.wait(execution)
    assert "has ended already: it is cancelled" in run("cancel", execution)


def test_a_job_is_deleted(google_run):
    run("create")
    assert "is deleted" in run("delete", "--yes")
    assert google_run.jobs == {}


def test_a_refusal_of_google_is_one_line(google_run):
    google_run.google.fault("GET .*/jobs/", "PERMISSION_DENIED", "Permission 'run.jobs.get' denied")
    assert refused("describe").startswith(
        "Looking at the job sentinelle-training: Google says “Permission 'run.jobs.get' denied”"
    )


def test_the_help_has_the_limits(capsys):
    with pytest.raises(SystemExit):
        call_command("jobs", "--help")
    assert "8 vCPU: 4Gi to 32Gi" in capsys.readouterr().out
