"""Rollouts for the tests."""

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import requests
from django.utils import timezone

from deployments.gcp.run_services import service_describe
from deployments.gcp.services import ServiceName
from deployments.models import CloudService, Deployment, ModelVersion
from deployments.rollouts import driver, services, transitions
from tests.google.runs import PROJECT, REGION


class Cloud:
    """The local Google of the fixture `cloud`."""

    def __init__(self, services: Any, project: Any, folder: Path) -> None:
        self.folder = folder
        self.services, self.project, self.run = services, project, services.run
        self.google = services.google
        self.versions: dict[str, ModelVersion] = {}

    def start(self, version: str, **more: Any) -> Deployment:
        """A rollout of a version to “engine” that a command is to take through its steps."""
        asked = {"image": "image:1", "is_attended": True, "requested_by": "ann"}
        place = {"service": "engine", "project": PROJECT, "region": REGION}
        return services.rollout_start(version=version, **place | asked | more).deployment

    def drive(self, deployment: Deployment) -> Deployment:
        """Take every step."""
        ended = driver.deployment_drive(deployment.pk, worker="test", tell=lambda _: None)
        assert ended is not None
        return ended

    def deploy(self, version: str, **more: Any) -> Deployment:
        """A whole rollout."""
        return self.drive(self.start(version, **more))

    def versions_that_answer(self, calls: int) -> dict[str, int]:
        """How many of so many callers of the service each version has answered."""
        self.services.serving.is_open = True
        url = CloudService.objects.get(name="engine", deleted_at=None).url
        found = Counter(
            requests.get(f"{url}/health", timeout=30).json()["model_version"].removeprefix("v")
            for _ in range(calls)
        )
        self.services.serving.is_open = False
        return dict(found)

    def shares(self) -> dict[str, int]:
        """The shares of the traffic at Google, by tag; what has none with 0."""
        found = service_describe(ServiceName(PROJECT, REGION, "engine"))
        return {one.tag: one.percent for one in found.traffic}


def make_service(name: str = "engine", **fields: Any) -> CloudService:
    """A service in the project of the local Google; nothing is made there."""
    service: CloudService = CloudService.objects.create(
        name=name, project=PROJECT, region=REGION, **fields
    )
    return service


def make_deployment(
    service: CloudService, version: ModelVersion, state: str = "queued", **fields: Any
) -> Deployment:
    """A row in a state, without the way there."""
    deployment = Deployment(
        service=service,
        version=version,
        state=state,
        tag=f"v{version.version.replace('.', '-')}-{uuid.uuid4().hex[:6]}",
        **fields,
    )
    transitions.create(deployment, by="test", now=timezone.now())
    return deployment


def timeline(deployment: Deployment) -> list[str]:
    """The states that it went through."""
    events = deployment.events.all()
    return [event.state for event in events if event.state != event.from_state]
