"""What Celery runs. Each task translates and calls one function."""

import os
import uuid
from typing import Any

from celery import shared_task
from django.utils import timezone

from deployments import pointers


@shared_task  # type: ignore[untyped-decorator]
def mend_pointers() -> None:
    """Every 60 s: write beside the bundles what serves, where that could not be done at once."""
    pointers.pointers_mend()


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def step_deployment(self: Any, *, deployment_id: str) -> None:
    """Take the step of a rollout that is due."""
    # Google's libraries are for who takes steps, not for who sends them.
    from deployments.rollouts.driver import deployment_step

    deployment_step(uuid.UUID(deployment_id), worker=f"{self.request.hostname}:{os.getpid()}")


@shared_task  # type: ignore[untyped-decorator]
def step_due_deployments() -> None:
    """Every 5 s: send the steps of rollouts that are due."""
    from deployments.rollouts.services import deployments_send_due

    deployments_send_due(now=timezone.now())


@shared_task  # type: ignore[untyped-decorator]
def measure_deployments() -> None:
    """Every hour: read on what the engine on Cloud Run has been charged for."""
    from deployments.rollouts.costs import deployments_measure

    deployments_measure(now=timezone.now())
