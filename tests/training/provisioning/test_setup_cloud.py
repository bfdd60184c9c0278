"""Setting a project up, over a socket, with the calls that Google would get."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from deployments.gcp import machines, setup
from deployments.gcp.errors import CloudError
from deployments.gcp.grants import Names, grants
from deployments.gcp.rest import Waits
from tests.google.compute import Compute
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.google.setup import ProjectApi
from tests.training.provisioning.conftest import QUICK
from training.provisioning import setup_steps

ROOT = Path(__file__).resolve().parent.parent.parent.parent
NAMES = Names("test-project", "europe-west1", "test-project-ml-data", "sentinelle-training")
WITH_MACHINE = NAMES._replace(vm="ml-training-vm", zone="us-central1-a")
MACHINE = machines.Place("test-project", "us-central1-a", "ml-training-vm")
OPTIONS = ["--project", "test-project", "--region", "europe-west1"]
ONCE = QUICK._replace(retry_for=0.0)


def carry_out(waits: Waits = QUICK, names: Names = NAMES) -> list[setup.Done]:
    return list(setup.apply(setup_steps(names), lambda step, words: None, waits))


def run_command(*options: str) -> str:
    out = io.StringIO()
    call_command("setup_cloud", *OPTIONS, *options, stdout=out, stderr=out)
    return out.getvalue()


def printed_calls(text: str) -> list[str]:
    """“METHOD path” of every call that a dry run printed."""
    found = re.findall(r"^(GET|POST|PUT|PATCH) https?://[^/]+([^\s?]+)", text, re.M)
    return [f"{method} {path}" for method, path in found]


def without_polls(calls: list[str]) -> list[str]:
    return [call for call in calls if "/operations/" not in call]


def test_a_dry_run_prints_every_call_that_the_real_run_then_makes(google: GoogleServer) -> None:
    printed = printed_calls(run_command("--dry-run"))
    assert google.calls == []
    run_command("--yes")
    assert printed == without_polls(google.calls)
    assert len(printed) > 30


def test_a_dry_run_needs_no_network_and_names_googles_addresses(settings: Any) -> None:
    settings.GOOGLE_API_ENDPOINT = ""
    hosts = set(re.findall(r"https://([a-z]+)\.googleapis\.com/", run_command("--dry-run")))
    assert hosts == {
        "serviceusage", "storage", "artifactregistry", "iam", "secretmanager",
        "cloudresourcemanager", "run",
    }  # fmt: skip


def test_the_project_is_as_the_plan_says(google: GoogleServer, project: ProjectApi) -> None:
    run_command("--yes")
    bucket = project.buckets["test-project-ml-data"]
    assert bucket["versioning"] == {"enabled": True}
    assert bucket["iamConfiguration"]["uniformBucketLevelAccess"] == {"enabled": True}
    assert bucket["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert bucket["location"] == "EUROPE-WEST1"
    training = "serviceAccount:sentinelle-training@test-project.iam.gserviceaccount.com"
    control = "serviceAccount:sentinelle-control@test-project.iam.gserviceaccount.com"
    assert project.members("/b/test-project-ml-data", "roles/storage.objectUser") == [
        control,
        training,
    ]
    assert project.members(
        "training@test-project.iam.gserviceaccount.com", "roles/iam.serviceAccountUser"
    ) == [control]
    on_project = [
        binding["role"] for binding in project.policies["/v1/projects/test-project"]["bindings"]
    ]
    assert sorted(on_project) == ["roles/logging.logWriter", "roles/logging.viewer"]


def test_a_second_run_changes_nothing(google: GoogleServer, project: ProjectApi) -> None:
    run_command("--yes")
    before, calls = project.state(), len(google.calls)
    text = run_command("--yes")
    assert project.state() == before
    again = google.calls[calls:]
    assert [
        call for call in again if not call.startswith("GET") and "getIamPolicy" not in call
    ] == []
    assert "0 changed something" in text
    assert text.count("already there") == len(setup_steps(NAMES))


def test_what_is_there_and_differs_is_changed_and_the_rest_is_kept(
    google: GoogleServer, project: ProjectApi
) -> None:
    carry_out()
    bucket = project.buckets["test-project-ml-data"]
    bucket.update(versioning={"enabled": False}, labels={"team": "risk"})
    policy = project.policies["/storage/v1/b/test-project-ml-data"]
    theirs = {"role": "roles/storage.admin", "members": ["user:ada@example.com"]}
    policy["bindings"] = [theirs, *policy["bindings"][1:]]
    changed = [done.change.words for done in carry_out() if done.change]
    assert changed == ["changed: versioning, labels", "roles given"]
    assert bucket["versioning"] == {"enabled": True}
    assert bucket["labels"] == {"team": "risk", "app": "sentinelle"}
    assert theirs in project.policies["/storage/v1/b/test-project-ml-data"]["bindings"]
    assert [done for done in carry_out() if done.change] == []


def test_folders_that_an_account_was_let_into_before_are_taken_back(
    google: GoogleServer, project: ProjectApi
) -> None:
    carry_out()
    place = "/storage/v1/b/test-project-ml-data"
    training = "serviceAccount:sentinelle-training@test-project.iam.gserviceaccount.com"
    wider = {
        "role": "roles/storage.objectUser",
        "members": [training],
        "condition": {
            "title": "Sentinelle: writes its run folder and its bundle",
            "expression": 'resource.name.startsWith("…/runs/") || '
            'resource.name.startsWith("…/artifacts/")',
        },
    }
    before = project.state()
    theirs = {**wider, "condition": {**wider["condition"], "title": "by hand"}}  # type: ignore[dict-item]
    project.policies[place]["bindings"] += [wider, theirs]
    assert [done.change.words for done in carry_out() if done.change] == ["roles given"]
    bindings = project.policies[place]["bindings"]
    assert theirs in bindings
    bindings.remove(theirs)
    assert project.state() == before
    writes = [b["condition"]["expression"] for b in bindings
              if training in b["members"] and b["role"] == "roles/storage.objectUser"]  # fmt: skip
    assert len(writes) == 1
    assert "/objects/runs/" in writes[0]
    assert "/objects/artifacts/" not in writes[0]


@pytest.mark.parametrize("how", ["drop", "late"])
def test_interrupted_at_any_call_it_goes_on(
    how: str, google: GoogleServer, project: ProjectApi, run: RunApi
) -> None:
    """At each call in turn the connection is lost, before or after Google did what was asked."""
    carry_out()
    whole, calls = (project.state(), [*run.jobs]), without_polls(google.calls)
    for at, call in enumerate(calls):
        if how == "late" and call.startswith("GET"):
            continue
        project.__init__()  # type: ignore[misc]
        google._routes[:] = [*project.routes, *run.routes]
        run.jobs.clear()
        earlier = calls[:at].count(call)
        google.calls.clear()
        _lose(google, call, earlier, how)
        with pytest.raises(CloudError):
            carry_out(ONCE)
        google.calm()
        carry_out()
        assert (project.state(), [*run.jobs]) == whole, f"{how} at {call}"


def _lose(google: GoogleServer, call: str, earlier: int, how: str) -> None:
    """Lose the answer of the call after so many of the same."""
    take = google.take_fault
    left = earlier

    def take_fault(name: str) -> tuple[str, str] | None:
        nonlocal left
        if name == call:
            left -= 1
            if left < 0:
                google.take_fault = take  # type: ignore[method-assign]
                return how, ""
        return None

    google.take_fault = take_fault  # type: ignore[method-assign]


def test_killed_and_started_again(
    google: GoogleServer, project: ProjectApi, monkeypatch: Any
) -> None:
    """The process is killed while Google answers."""
    monkeypatch.setattr("tests.google.setup.OPERATIONS_TAKE", 1)
    google.fault(r"POST .*/secrets$", "slow")
    command = [sys.executable, "manage.py", "setup_cloud", *OPTIONS, "--yes"]
    environment = {**os.environ, **google.environment()}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"sentinelle-build@" in line:
                break
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    finally:
        process.kill()
        process.stdout.close()  # type: ignore[union-attr]
    carry_out()
    assert {name: len(values) for name, values in project.values.items()} == {
        "sentinelle-secret-key": 1,
        "sentinelle-db-password": 1,
    }
    assert [done for done in carry_out() if done.change] == []


def test_stopped_by_its_user_it_says_that_it_goes_on(
    google: GoogleServer, monkeypatch: Any
) -> None:
    def interrupted(step: Any, request: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("deployments.gcp.setup.send", interrupted)
        with pytest.raises(CommandError, match="it goes on from here") as stopped:
            run_command("--yes")
    assert stopped.value.returncode == 130
    assert "steps" in run_command("--yes")


def test_secrets_are_random_and_never_shown(google: GoogleServer, project: ProjectApi) -> None:
    shown = run_command("--dry-run") + run_command("--yes") + run_command("--yes")
    values = [value for values in project.values.values() for value in values]
    assert len(values) == 2
    assert len(set(values)) == 2
    assert all(len(value) >= 50 for value in values)
    assert not any(value in shown for value in values)
    assert shown.count('"data": "(random, not shown)"') == 2


def test_a_faulty_moment_passes(google: GoogleServer) -> None:
    google.fault("POST .*batchEnable", "UNAVAILABLE", times=2)
    google.fault("PUT .*/iam", "CONDITION_NOT_MET")
    google.fault("GET .*repositories/sentinelle$", "half")
    google.fault("/operations/", "UNAVAILABLE")
    google.fault("POST .*/secrets$", "RESOURCE_EXHAUSTED", "Quota exceeded: 60 requests per minute")
    assert "steps" in run_command("--yes")


def test_what_is_not_known_everywhere_yet_is_waited_for(google: GoogleServer) -> None:
    message = (
        "Service account sentinelle-build@test-project.iam.gserviceaccount.com does not exist."
    )
    google.fault("PUT .*/iam", "INVALID_ARGUMENT", message, times=3)
    google.fault(
        "GET .*/secrets/",
        "PERMISSION_DENIED",
        "Secret Manager API has not been used in project 1 before or it is disabled.",
        times=3,
    )
    assert "steps" in run_command("--yes")


@pytest.mark.parametrize(
    ("call", "status", "message", "wanted"),
    [
        ("POST /storage/v1/b$", "PERMISSION_DENIED",
         "Permission 'storage.buckets.create' denied on resource", "storage.buckets.create"),
        ("POST .*/serviceAccounts$", "RESOURCE_EXHAUSTED",
         "The limit is 100 service accounts. Ask for more quota.", "The limit is 100"),
        ("POST .*batchEnable", "INVALID_ARGUMENT",
         "Billing account for project '1' is not found.", "billing account"),
    ],
    ids=["permission", "quota", "billing"],
)  # fmt: skip
def test_a_refusal_is_told_in_googles_words(
    call: str, status: str, message: str, wanted: str, google: GoogleServer
) -> None:
    google.fault(call, status, message, times=1000)
    with pytest.raises(CommandError) as refused:
        call_command("setup_cloud", *OPTIONS, "--yes", stdout=io.StringIO(), stderr=io.StringIO())
    assert wanted in str(refused.value)
    assert message in str(refused.value)


def test_an_operation_that_fails_is_told(google: GoogleServer, project: ProjectApi) -> None:
    begin = project._begin
    project._begin = lambda parent, finish: begin(  # type: ignore[method-assign]
        parent, finish, {"code": 7, "message": "Not authorized to enable run.googleapis.com."}
    )
    with pytest.raises(CloudError, match="Not authorized to enable") as refused:
        carry_out(ONCE)
    assert refused.value.reason == "permission"


def test_an_operation_that_does_not_end_is_left(google: GoogleServer, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.google.setup.OPERATIONS_TAKE", 10**9)
    with pytest.raises(CloudError, match="Start the command again later"):
        carry_out(QUICK._replace(operation=0.05))


def test_what_it_costs_while_nothing_trains_is_said(google: GoogleServer) -> None:
    assert "the bucket $0.0200 per GB and month, images" in run_command("--yes")
    assert "the machine's disk $0.0400 per GB and month" in run_command("--vm", "--dry-run")


def test_a_bucket_elsewhere_is_refused(google: GoogleServer, project: ProjectApi) -> None:
    project.buckets["test-project-ml-data"] = {"name": "test-project-ml-data", "location": "US"}
    with pytest.raises(CloudError, match="is in US and can't be moved to europe-west1"):
        carry_out()


def test_a_bucket_of_others_is_refused_at_once(google: GoogleServer) -> None:
    google.fault(
        "POST /storage/v1/b$",
        "ALREADY_EXISTS",
        "The requested bucket name is not available",
        times=1000,
    )
    with pytest.raises(CloudError, match="name is not available"):
        carry_out()
    assert google.calls.count("POST /storage/v1/b") == 2


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--project", "My Project"], "The project is “My Project”; expected a project's ID"),
        (["--region", "europe-west1-b"], "expected a region such as europe-west1, not a zone"),
        (["--bucket", "gs://data"], "without gs://"),
        ([], "Nobody is here to answer; give --yes"),
    ],
    ids=["project", "region", "bucket", "nobody"],
)
def test_wrong_usage(options: list[str], wanted: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CommandError, match=re.escape(wanted)) as refused:
        call_command("setup_cloud", *OPTIONS, *options)
    assert refused.value.returncode == 2


def test_with_a_machine_the_roles_are_limited_to_it(
    google: GoogleServer, project: ProjectApi
) -> None:
    carry_out(names=WITH_MACHINE)
    bindings = project.policies["/v1/projects/test-project"]["bindings"]
    condition = next(
        binding["condition"]["expression"]
        for binding in bindings
        if binding["role"] == "roles/compute.instanceAdmin.v1"
    )
    assert '/zones/us-central1-a/instances/ml-training-vm"' in condition
    assert json.dumps(project.state()).count("roles/owner") == 0


def test_a_machine_is_made_and_switches_itself_off(google: GoogleServer, compute: Compute) -> None:
    printed = run_command("--vm", "--dry-run")
    run_command("--vm", "--yes")
    assert printed_calls(printed) == without_polls(google.calls)
    assert '"value": "(training/launchers/startup.sh)"' in printed
    machine = machines.describe(MACHINE)
    assert machine.machine_type == "e2-micro"
    assert machine.service_account == "sentinelle-training@test-project.iam.gserviceaccount.com"
    assert machine.max_run_s == 6 * 3600
    assert machine.labels == {"sentinelle": "training"}
    deadline = time.monotonic() + 20
    while machines.describe(MACHINE).is_on and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not machines.describe(MACHINE).is_on
    assert "machine ml-training-vm: already there" in run_command("--vm", "--yes")


def test_no_capacity_for_the_machine_is_told(google: GoogleServer, compute: Compute) -> None:
    compute.stockout(times=1000)
    with pytest.raises(CloudError, match="does not have enough resources") as refused:
        carry_out(ONCE, WITH_MACHINE)
    assert refused.value.reason == "capacity"


def test_the_docs_list_every_role_that_is_given() -> None:
    page = (ROOT / "docs/cloud.md").read_text()
    rows = re.findall(r"^\| (\w+) \| `(roles/[\w.]+)` \| [^|]+ \| ([^|]+) \|$", page, re.M)
    names = WITH_MACHINE._replace(database="sentinelle", function="sponsor-ai")
    assert {(g.account, g.role, g.why) for g in grants(names)} == set(rows)
