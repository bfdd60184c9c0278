"""Rollouts for the tests."""

import uuid
from typing import Any

from django.utils import timezone

from deployments.models import CloudService, Deployment, ModelVersion
from deployments.rollouts import transitions
from tests.google.runs import PROJECT, REGION


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
