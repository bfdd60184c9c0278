"""A rollout that this process has, and what a step may do with it."""

from datetime import timedelta
from typing import Any, NamedTuple

from django.db.models import Q
from django.utils import timezone

from deployments.models import Deployment, DeploymentState
from deployments.rollouts import claims, transitions


class Lost(Exception):
    """Another has the rollout now, or it was ended or cancelled."""


class Hold(NamedTuple):
    """A deployment and who has it."""

    deployment: Deployment
    worker: str

    def note(self, message: str, **changes: Any) -> None:
        """Write what was found, with a line of the timeline; raises Lost."""
        self.change(note=message, **changes)

    def change(self, *, note: str = "", **changes: Any) -> None:
        """Write what was found; raises Lost."""
        if not claims.deployment_change(
            self.deployment, worker=self.worker, now=timezone.now(), note=note, **changes
        ):
            raise Lost

    def handle(self, name: str, value: Any, note: str = "") -> None:
        """Keep what Google calls something, so that whoever goes on finds it; raises Lost."""
        self.change(note=note, handles={**self.deployment.handles, name: value})

    def move(self, to: str, message: str, **changes: Any) -> timedelta:
        """On to the next state; how long until its step. Raises Lost, also when it was cancelled
        since the step began: it then goes nowhere but to its end."""
        moved = transitions.move(
            self.deployment.pk,
            self.deployment.state,
            to,
            by=self.worker,
            message=message,
            now=timezone.now(),
            held_by=self.worker,
            where=None if to == DeploymentState.FAILED else Q(error=""),
            **changes,
        )
        if not moved:
            raise Lost
        self.deployment.refresh_from_db()
        return timedelta()
