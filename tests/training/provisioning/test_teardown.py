"""Back to nothing: what each command made is gone, what is not ours stays."""

import io
import re
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from deployments.gcp.grants import ALL_ACCOUNTS
from tests.google.compute import Compute
from tests.google.control import ControlApi
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.google.services import ServicesApi
from tests.google.setup import ProjectApi
from tests.training.provisioning.conftest import BUCKET, PARENT, PLACE
from tests.training.provisioning.test_control_plane import WORKERS


def teardown(*options: str) -> str:
    out = io.StringIO()
    call_command("teardown", *PLACE, *options, stdout=out, stderr=out)
    return out.getvalue()


def test_everything_that_was_made_is_gone_and_what_is_of_others_stays(
    made: list[str],
    google: GoogleServer,
    project: ProjectApi,
    control: ControlApi,
    services: ServicesApi,
    run: RunApi,
    compute: Compute,
) -> None:
    # As deploy_function makes it.
    project.accounts["sentinelle-function@test-project.iam.gserviceaccount.com"] = {}
    text = teardown("--yes")
    # A job's policy goes with it: here the two are kept apart.
    policies = {
        at: found for at, found in project.state()["policies"].items() if "/jobs/" not in at
    }
    assert policies == {
        "/v1/projects/test-project": [{"role": "roles/viewer", "members": ["user:ada@example.com"]}]
    }
    left = project.state()
    empty = ("buckets", "repositories", "accounts", "secrets", "values")
    assert {what: left[what] for what in empty} == {what: {} for what in empty}
    assert (control.pools, services.services, control.redis) == ({}, {}, {})
    assert ([*control.sql], [*run.jobs]) == (["theirs"], [made[0]])
    assert [*control.functions] == [f"{PARENT}/functions/theirs"]
    assert compute._instances == {}
    assert "Nothing of Sentinelle is left in test-project, europe-west1 that costs." in text
    # What is deleted would be charged for another week unless the bucket is told before.
    told = google.calls.index(f"PATCH /storage/v1/b/{BUCKET}")
    objects = f"DELETE /storage/v1/b/{BUCKET}/o/"
    assert told < next(at for at, call in enumerate(google.calls) if call.startswith(objects))
    assert "There is nothing of Sentinelle" in teardown("--yes")


def test_it_names_what_it_will_delete_and_what_stays(made: list[str], google: GoogleServer) -> None:
    text = teardown("--dry-run")
    told, stays = text.split("Not deleted:")
    kinds = [
        r"Cloud Run worker pool sentinelle-workers \(1 instance\)", "function sponsor",
        r"Cloud Run service sentinelle \(https?://", "Cloud Run job sentinelle-training",
        "Cloud Run service ml-engine", "Cloud Run job ml-engine-migrate",
        "Cloud Run job sentinelle-manage", r"machine ml-training-vm \(in us-central1-a, with its",
        r"Cloud SQL instance sentinelle \(db-custom-1-3840, with its databases and automatic",
        r"Memorystore instance sentinelle \(1 GB\)", "image repository sentinelle",
        "secret sentinelle-redis-url", "role bindings project test-project",
        "service account sentinelle-control@",
        rf"bucket gs://{BUCKET} \(6 objects, old versions included, 3\.00 GB\)",
    ]  # fmt: skip
    assert [kind for kind in kinds if not re.search(rf"^  {kind}", told, re.M)] == []
    assert told.count("service account") == len(ALL_ACCOUNTS)
    for words in ("Cloud SQL instance theirs", "Cloud Run job theirs", "function theirs",
                  "the project test-project and its APIs"):  # fmt: skip
        assert words in stays
    assert [
        call
        for call in google.calls
        if not call.startswith(("GET", "POST /v1/projects/test-project:get"))
    ] == []


def test_the_project_has_to_be_typed(
    made: list[str], control: ControlApi, monkeypatch: Any
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CommandError, match="Nobody is here to answer") as refused:
        teardown()
    assert refused.value.returncode == 2
    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    with pytest.raises(CommandError, match="nothing was deleted"):
        teardown()
    assert "sentinelle" in control.sql
    monkeypatch.setattr("sys.stdin", Terminal("test-project\n"))
    assert "Nothing of Sentinelle is left" in teardown()


def test_the_bucket_can_be_kept(made: list[str], project: ProjectApi) -> None:
    text = teardown("--yes", "--keep-bucket")
    assert [*project.buckets] == [BUCKET]
    assert len(project.objects[BUCKET]) == 6
    assert f"that costs, but the bucket gs://{BUCKET} (6 objects" in text


def test_a_bucket_of_another_project_stays_whatever_its_label(
    made: list[str], project: ProjectApi
) -> None:
    project.buckets["prod-ml-data"] = {
        "name": "prod-ml-data", "labels": {"app": "sentinelle"}, "projectNumber": "2",
    }  # fmt: skip
    text = teardown("--yes", "--bucket", "prod-ml-data")
    assert "bucket gs://prod-ml-data: it is another project's" in text
    assert "prod-ml-data" in project.buckets


@pytest.mark.parametrize("how", ["drop", "late"])
def test_interrupted_at_any_deletion_it_goes_on(
    how: str, made: list[str], google: GoogleServer, project: ProjectApi, monkeypatch: Any
) -> None:
    """One after the other, each kind's deletion is lost, before or after Google did it."""
    for kind in ("workerPools", "functions", "services", "jobs", "zones", "sql", "locations.*inst",
                 "repositories", "secrets", "serviceAccounts", "b/.*/o/", "b/[^/]*$"):  # fmt: skip
        google.fault(f"DELETE .*{kind}", how)
    google.fault("setIamPolicy", how)
    assert "Nothing of Sentinelle is left" in teardown("--yes")
    assert project.accounts == {}


def test_a_refusal_stops_it_and_the_next_time_goes_on(
    made: list[str], google: GoogleServer, control: ControlApi, project: ProjectApi
) -> None:
    google.fault("DELETE .*/sql/", "PERMISSION_DENIED", "cloudsql.instances.delete", times=1)
    with pytest.raises(CommandError, match=r"cloudsql\.instances\.delete"):
        teardown("--yes")
    assert control.pools == {}
    assert project.buckets != {}
    assert "Nothing of Sentinelle is left" in teardown("--yes")


def test_what_comes_back_meanwhile_is_told(
    made: list[str], google: GoogleServer, control: ControlApi, monkeypatch: Any
) -> None:
    pool = control.pools[WORKERS]
    deleted = google._routes
    for at, (method, pattern, handler) in enumerate(deleted):
        if method == "DELETE" and "serviceAccounts" in pattern:

            def again(call: Any, handler: Any = handler) -> Any:
                control.pools[WORKERS] = pool
                return handler(call)

            deleted[at] = (method, pattern, again)
    with pytest.raises(CommandError, match="something again: Cloud Run worker pool"):
        teardown("--yes")


def test_an_empty_project_has_nothing_to_delete(google: GoogleServer) -> None:
    assert "There is nothing of Sentinelle in test-project" in teardown("--yes")
