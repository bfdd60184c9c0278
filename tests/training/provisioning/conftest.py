"""A local Google with an empty project, and short waits."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from google.cloud import run_v2

from deployments.gcp.rest import Waits
from deployments.gcp.run_jobs import JobName, JobSpec, job_create
from deployments.gcp.run_services import service_ensure
from deployments.gcp.services import NEW_SERVICE, ServiceName
from tests.google.compute import Compute
from tests.google.control import ControlApi
from tests.google.local import talking_to
from tests.google.logging import LoggingApi
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.google.services import ServicesApi
from tests.google.setup import ProjectApi
from tests.google.world import World

PLACE = ["--project", "test-project", "--region", "europe-west1"]
PARENT = "projects/test-project/locations/europe-west1"
BUCKET = "test-project-ml-data"
IMAGE = "europe-west1-docker.pkg.dev/test-project/sentinelle/sentinelle:1"
QUICK = Waits(first=0.001, longest=0.01, retry_for=5.0, operation=5.0)


@pytest.fixture
def project() -> ProjectApi:
    return ProjectApi()


@pytest.fixture
def run(project: ProjectApi) -> RunApi:
    nobody_connects = {"test-project:europe-west1:sentinelle": "/nowhere"}
    return RunApi(LoggingApi(), world=World(secrets=project.values, databases=nobody_connects))


@pytest.fixture
def services(run: RunApi) -> ServicesApi:
    return ServicesApi(run)


@pytest.fixture
def control(project: ProjectApi, run: RunApi) -> ControlApi:
    return ControlApi(project, run)


@pytest.fixture
def compute(tmp_path: Path) -> Compute:
    return Compute(tmp_path / "machines")


@pytest.fixture
def google(
    project: ProjectApi,
    run: RunApi,
    compute: Compute,
    control: ControlApi,
    services: ServicesApi,
    settings: Any,
    monkeypatch: Any,
) -> Iterator[GoogleServer]:
    server = run.google = compute.google = GoogleServer(
        project, run, compute, control, services, run.logging
    )
    settings.GOOGLE_API_ENDPOINT = server.url
    monkeypatch.setattr("deployments.management.cloud.WAITS", QUICK)
    with talking_to(server):
        yield server
    server.close()


@pytest.fixture
def migrations(monkeypatch: Any) -> list[list[str]]:
    """The commands of the executions, which succeed without being run: there is no database."""
    commands: list[list[str]] = []

    class Recorded:
        def __init__(self, command: list[str], *_: Any) -> None:
            commands.append(command)

        def wait(self, _seconds: float) -> int:
            return 0

        def stop(self, _grace: float) -> None:
            pass

    monkeypatch.setattr("tests.google.run.Container", Recorded)
    return commands


@pytest.fixture
def made(
    google: GoogleServer,
    project: ProjectApi,
    control: ControlApi,
    run: RunApi,
    migrations: list[list[str]],
) -> list[str]:
    """A project with everything, and with things of others; their names."""
    command = ["setup_cloud", *PLACE, "--control-plane", "--vm", "--image", IMAGE, "--yes"]
    call_command(*command, stdout=io.StringIO(), stderr=io.StringIO())
    command = [
        "deploy_training_job",
        "test-project",
        "sentinelle-training",
        "europe-west1",
        "1.0.0",
    ]
    call_command(*command, "--image", IMAGE, "--yes", stdout=io.StringIO(), stderr=io.StringIO())
    # As a rollout makes them.
    place = ("test-project", "europe-west1")
    engine = NEW_SERVICE._replace(image=IMAGE, databases=("test-project:europe-west1:sentinelle",))
    service_ensure(ServiceName(*place, "ml-engine"), engine, tag="v1-0-0-a1")
    migration = JobSpec(IMAGE, 1, 1024, 600, 0, purpose="migration")
    job_create(JobName(*place, "ml-engine-migrate"), migration)
    project.objects[BUCKET] = [
        {"name": f"runs/{n} é.json", "generation": str(g), "size": "500000000"}
        for n in range(3)
        for g in range(2)
    ]
    project.apis.add("cloudfunctions.googleapis.com")
    function = "sentinelle-function@test-project.iam.gserviceaccount.com"
    project.accounts[function] = {"email": function}
    functions = f"{PARENT}/functions"
    control.functions = {
        f"{functions}/sponsor": {"name": f"{functions}/sponsor", "labels": {"app": "sentinelle"}},
        f"{functions}/theirs": {"name": f"{functions}/theirs"},
    }
    theirs = run_v2.Job(run.jobs[f"{PARENT}/jobs/sentinelle-manage"])
    theirs.name, theirs.labels = f"{PARENT}/jobs/theirs", {"team": "risk"}
    run.jobs[theirs.name] = theirs
    control.sql["theirs"] = {"name": "theirs", "region": "europe-west1", "settings": {}}
    policy = project.policies["/v1/projects/test-project"]
    policy["bindings"].append({"role": "roles/viewer", "members": ["user:ada@example.com"]})
    google.calls.clear()
    return [theirs.name, "theirs"]
