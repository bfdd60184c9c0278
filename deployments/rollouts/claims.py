"""What the worker, or the command, that has a rollout changes.

Every change is one conditional update on the claim: who has lost it, because the lease passed and
another took it or because the rollout was ended, changes nothing any more.
"""

import os
import socket
import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from deployments.models import UNFINISHED, Deployment
from deployments.rollouts import transitions


def worker_name() -> str:
    """This process, by machine and number, and a random part so that no two claims are alike."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def deployment_take(
    deployment_id: uuid.UUID, *, worker: str, now: datetime, due_only: bool = True
) -> Deployment | None:
    """Take an unfinished rollout for `worker`. None when another has it, or when it is not due.

    Args:
        due_only: only if a worker is to look at it by now; a command takes it at any time.
    """
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    if due_only:
        free &= Q(next_step_at__lte=now)
    taken = Deployment.objects.filter(free, pk=deployment_id, state__in=UNFINISHED)
    if taken.update(claimed_by=worker, lease_until=_lease(now)) != 1:
        return None
    return Deployment.objects.select_related("service", "version__model").get(pk=deployment_id)


def deployment_renew(deployment_id: uuid.UUID, *, worker: str, now: datetime) -> bool:
    """Renew the lease; False when the worker no longer has it."""
    return _held(deployment_id, worker).update(lease_until=_lease(now)) == 1


def deployment_let_go(deployment_id: uuid.UUID, *, worker: str, again_at: datetime | None) -> None:
    """Leave a rollout until its next look, or, without one, until somebody goes on with it."""
    changes: dict[str, Any] = {"lease_until": None}
    if again_at is not None:
        changes["next_step_at"] = again_at
    _held(deployment_id, worker).update(**changes)


def holder_is_here(deployment: Deployment) -> bool:
    """Whether a process of this very machine that lives has it."""
    process = _process_here(deployment)
    return deployment.lease_until is not None and process is not None and _lives(process)


def deployment_free_of_the_dead(deployment: Deployment) -> None:
    """Free a rollout whose command was killed on this very machine: its lease needs not pass."""
    process = _process_here(deployment)
    if process is None or _lives(process):
        return
    Deployment.objects.filter(pk=deployment.pk, claimed_by=deployment.claimed_by).update(
        lease_until=None
    )


def _process_here(deployment: Deployment) -> int | None:
    host, _, rest = deployment.claimed_by.partition(":")
    process = rest.partition(":")[0]
    return int(process) if host == socket.gethostname() and process.isdigit() else None


def deployment_change(
    deployment: Deployment, *, worker: str, now: datetime, note: str = "", **changes: Any
) -> bool:
    """Write what a step has found, with a line of the timeline; False when it is lost."""
    with transaction.atomic():
        if _held(deployment.pk, worker).update(claimed_by=worker, **changes) != 1:
            return False
        if note:
            transitions.note(deployment.pk, note, by=worker, now=now)
    for name, value in changes.items():
        setattr(deployment, name, value)
    return True


def deployment_unreachable(
    deployment: Deployment, *, worker: str, reason: str, now: datetime
) -> datetime:
    """Note that Google or the bucket does not answer; since when that is so."""
    held = _held(deployment.pk, worker)
    with transaction.atomic():
        first = held.filter(unreachable_since=None)
        if first.update(unreachable_since=now, message=reason[:300]):
            transitions.note(deployment.pk, reason, by=worker, now=now)
    since: datetime | None = held.values_list("unreachable_since", flat=True).first()
    return since or now


def deployment_reachable(deployment: Deployment, *, worker: str, now: datetime) -> None:
    """Note that what could not be asked answers again."""
    away = _held(deployment.pk, worker).exclude(unreachable_since=None)
    with transaction.atomic():
        if away.update(unreachable_since=None, message=""):
            transitions.note(deployment.pk, "It answers again.", by=worker, now=now)


# --- A deployment that serves, whose traffic somebody moves ----------------------------------


def live_take(row: Deployment, *, worker: str, now: datetime) -> bool:
    """Take a deployment that has traffic; False when another moves it just now."""
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    taken = Deployment.objects.filter(free, pk=row.pk, state=row.state)
    return taken.update(claimed_by=worker, lease_until=_lease(now)) == 1


def live_renew(row: Deployment, *, worker: str, now: datetime) -> bool:
    """Renew that lease."""
    held = Deployment.objects.filter(pk=row.pk, claimed_by=worker)
    return held.update(lease_until=_lease(now)) == 1


def live_let_go(row: Deployment, *, worker: str) -> None:
    """Let it go."""
    Deployment.objects.filter(pk=row.pk, claimed_by=worker).update(lease_until=None)


def _held(deployment_id: uuid.UUID, worker: str) -> QuerySet[Deployment]:
    return Deployment.objects.filter(pk=deployment_id, state__in=UNFINISHED, claimed_by=worker)


def _lease(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.TRAINING_LEASE_SECONDS)


def _lives(process: int) -> bool:
    with suppress(ProcessLookupError):
        with suppress(PermissionError):
            os.kill(process, 0)
        return True
    return False
