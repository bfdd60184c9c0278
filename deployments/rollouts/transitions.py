"""The one place where a rollout's state changes, and where its timeline is written."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q

from deployments.models import UNFINISHED, Deployment, DeploymentEvent, DeploymentState

NEW = ""
LIVE = (DeploymentState.SERVING, DeploymentState.CANARY)
State = DeploymentState
TRANSITIONS: tuple[tuple[str, str], ...] = (
    (NEW, State.QUEUED),
    (State.QUEUED, State.CHECKING),
    (State.CHECKING, State.BUILDING),
    (State.BUILDING, State.MIGRATING),
    (State.MIGRATING, State.DEPLOYING),
    (State.DEPLOYING, State.PROBING),
    (State.PROBING, State.SERVING),
    (State.PROBING, State.CANARY),
    *((state, State.FAILED) for state in UNFINISHED),
    (State.CANARY, State.SERVING),  # promoted
    (State.CANARY, State.ROLLED_BACK),
    (State.SERVING, State.ROLLED_BACK),
    (State.SERVING, State.SUPERSEDED),
    (State.CANARY, State.SUPERSEDED),  # its service was deleted
    (State.SUPERSEDED, State.SERVING),  # what was rolled back to
)


def create(deployment: Deployment, *, by: str, now: datetime, message: str = "") -> None:
    """Insert a new rollout, queued, with the first event of its timeline."""
    with transaction.atomic():
        deployment.save(force_insert=True)
        DeploymentEvent.objects.create(
            deployment=deployment,
            at=now,
            from_state=NEW,
            state=deployment.state,
            by=by,
            message=message,
        )


def move(
    deployment_id: uuid.UUID,
    frm: str,
    to: str,
    *,
    by: str,
    message: str,
    now: datetime,
    held_by: str | None = None,
    where: Q | None = None,
    details: Mapping[str, Any] | None = None,
    **changes: Any,
) -> bool:
    """Bring a rollout from one state to another, if it is still in the first; say whether it was.

    Args:
        by: who does it, for the timeline: a person or a worker.
        message: why or how, for the timeline.
        held_by: only while this worker has it.
        where: what else must be true of the row.
        details: for the timeline.
        changes: other fields to set with the state.
    """
    if (frm, to) not in TRANSITIONS:
        raise ValueError(f"a rollout never goes from {frm} to {to}")
    changes = {"message": "", "unreachable_since": None, "state_since": now} | changes
    if to not in UNFINISHED:
        changes |= {"lease_until": None, "next_step_at": None}
        if frm in UNFINISHED:
            changes["finished_at"] = now
    if to not in (*UNFINISHED, *LIVE):
        changes |= {"percent": 0, "ended_at": now}
    if frm == State.SUPERSEDED:
        changes["ended_at"] = None
    with transaction.atomic():
        rows = Deployment.objects.filter(where or Q(), pk=deployment_id, state=frm)
        if held_by is not None:
            rows = rows.filter(claimed_by=held_by)
        if rows.update(state=to, **changes) != 1:
            return False
        DeploymentEvent.objects.create(
            deployment_id=deployment_id,
            at=now,
            from_state=frm,
            state=to,
            by=by,
            message=message,
            details=dict(details or {}),
        )
    return True


def note(deployment_id: uuid.UUID, message: str, *, by: str, now: datetime) -> None:
    """Put something that changes no state into a rollout's timeline."""
    state = Deployment.objects.values_list("state", flat=True).get(pk=deployment_id)
    DeploymentEvent.objects.create(
        deployment_id=deployment_id, at=now, from_state=state, state=state, by=by, message=message
    )
