"""A local Google with an empty project, and short waits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.gcp.rest import Waits
from tests.google.compute import Compute
from tests.google.local import talking_to
from tests.google.logging import LoggingApi
from tests.google.run import RunApi
from tests.google.server import GoogleServer
from tests.google.setup import ProjectApi

QUICK = Waits(first=0.001, longest=0.01, retry_for=5.0, operation=5.0)


@pytest.fixture
def project() -> ProjectApi:
    return ProjectApi()


@pytest.fixture
def run() -> RunApi:
    return RunApi(LoggingApi())


@pytest.fixture
def compute(tmp_path: Path) -> Compute:
    return Compute(tmp_path / "machines")


@pytest.fixture
def google(
    project: ProjectApi, run: RunApi, compute: Compute, settings: Any, monkeypatch: Any
) -> Iterator[GoogleServer]:
    server = run.google = compute.google = GoogleServer(project, run, compute)
    settings.GOOGLE_API_ENDPOINT = server.url
    monkeypatch.setattr("deployments.management.cloud.WAITS", QUICK)
    with talking_to(server):
        yield server
    server.close()
