"""A local Google with an empty project, and short waits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.gcp.rest import Waits
from tests.google.compute import Compute
from tests.google.control import ControlApi
from tests.google.local import talking_to
from tests.google.logging import LoggingApi
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.google.services import ServicesApi
from tests.google.setup import ProjectApi
from tests.google.world import World

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
    server = run.google = compute.google = GoogleServer(project, run, compute, control, services)
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
