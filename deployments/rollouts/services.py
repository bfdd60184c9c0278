"""What people do with rollouts and services: start, go on, cancel, promote, roll back, delete."""

import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from deployments import selectors
from deployments.gcp.limits import check_service
from deployments.messages import send_task
from deployments.models import (
    UNFINISHED,
    CloudService,
    Deployment,
    DeploymentState,
    Kind,
    ModelVersion,
)
from deployments.rollouts import claims, transitions
from deployments.rollouts.errors import RolloutRefused
from deployments.rollouts.wishes import Wishes, over, read_wishes
from engine.errors import FieldError

State = DeploymentState
ADDRESS = 46
"""Letters that a service's name and a tag may have together: they begin the name of a host."""
STEP = "deployments.tasks.step_deployment"
STEP_EXPIRES_SECONDS = 10


class Started(NamedTuple):
    """A rollout that was begun, or one that is gone on with."""

    deployment: Deployment
    is_resumed: bool


# --- Starting ------------------------------------------------------------------------------


def rollout_start(
    *,
    service: str,
    project: str,
    region: str,
    version: str,
    requested_by: str,
    is_attended: bool,
    canary: int | None = None,
    image: str = "",
    changes: Mapping[str, Any] | None = None,
    reason: str = "",
) -> Started:
    """Begin a rollout of a version to a service, or find the one of the same version that was
    interrupted.

    Args:
        version: its number, with or without a leading v; "" the one that the service serves.
        is_attended: a command takes its steps; if not, workers do.
        canary: percent of the traffic that it gets at first, 1 to 99; None: all of it.
        changes: of the service's wishes, by name; None values change nothing.

    Raises:
        RolloutRefused: a name or a size is wrong, or another rollout goes on; `errors` has fields.
        NotRegistered: there is no such version.
        RunRefused: beyond what Cloud Run allows.
    """
    now = timezone.now()
    known = _service_row(service, project, region, requested_by)
    if unfinished := deployment_unfinished(known):
        return _go_on(unfinished, _version(known, version))
    row, wanted, wishes = rollout_checked(
        service=service,
        project=project,
        region=region,
        version=version,
        requested_by=requested_by,
        canary=canary,
        changes=changes,
    )
    with transaction.atomic():
        if row._state.adding:
            row.save()
        deployment = Deployment(
            service=row,
            version=wanted,
            wishes=msgspec.to_builtins(wishes),
            canary=canary,
            image=image,
            tag=new_tag(row.name, wanted.version),
            requested_by=requested_by,
            reason=reason[:300],
            created_at=now,
            next_step_at=None if is_attended else now,
        )
        try:
            with transaction.atomic():
                transitions.create(deployment, by=requested_by, now=now, message=reason)
        except IntegrityError:
            # Another began one between our look and our insert.
            unfinished = deployment_unfinished(row)
            if unfinished is None:
                raise
            raise RolloutRefused(going_on(unfinished)) from None
        if not is_attended:
            transaction.on_commit(lambda: deployment_send(deployment.pk))
    return Started(deployment, False)


def rollout_checked(
    *,
    service: str,
    project: str,
    region: str,
    version: str,
    requested_by: str,
    canary: int | None,
    changes: Mapping[str, Any] | None,
) -> tuple[CloudService, ModelVersion, Wishes]:
    """The service, which may not be kept yet, the version and what the service is to be. Raises as
    `rollout_start`."""
    row = _service_row(service, project, region, requested_by)
    if unfinished := deployment_unfinished(row):
        raise RolloutRefused(going_on(unfinished))
    wanted = _version(row, version)
    wishes = over(read_wishes(row.wishes), changes or {})
    _check(row, wishes, canary)
    return row, wanted, wishes


def new_tag(service: str, version: str) -> str:
    """A tag that no other rollout has: “v1-0-0-3f9a1c”."""
    room = ADDRESS - len(service) - 7
    words = re.sub(r"[^a-z0-9]+", "-", f"v{version.lower()}")[:room].strip("-")
    return f"{words}-{uuid.uuid4().hex[:6]}"


def _service_row(service: str, project: str, region: str, by: str) -> CloudService:
    """The service's row, or a new one that is not kept yet."""
    known = CloudService.objects.filter(
        name=service, project=project, region=region, deleted_at=None
    ).first()
    if known is not None:
        return known
    row = CloudService(name=service, project=project, region=region, created_by=by)
    row.wishes = msgspec.to_builtins(Wishes())
    try:
        row.full_clean()
    except ValidationError as fault:
        errors = [FieldError(name, " ".join(words)) for name, words in fault.message_dict.items()]
        told = " ".join(f"{error.field}: {error.message}" for error in errors)
        raise RolloutRefused(told, errors) from fault
    return row


def _version(row: CloudService, version: str) -> ModelVersion:
    if not version:
        serving = deployment_serving(row)
        if serving is None:
            message = f"{row.name} serves no version yet; say which."
            raise RolloutRefused(message, [FieldError("version", message)])
        return serving.version
    model = selectors.model_by_name(settings.MODEL_NAME)
    if model.kind != Kind.FRAUD:
        raise RolloutRefused(f"{model.name} is a {model.kind}; the engine serves {Kind.FRAUD}.")
    return selectors.version_by_semver(model, version)


def _check(row: CloudService, wishes: Wishes, canary: int | None) -> None:
    """Raises RolloutRefused, RunRefused."""
    check_service(
        cpu=wishes.cpu,
        memory_mb=wishes.memory_mb,
        timeout_s=wishes.timeout_s,
        concurrency=wishes.concurrency,
        min_instances=wishes.min_instances,
        max_instances=wishes.max_instances,
    )
    message = ""
    if canary is not None and not 1 <= canary <= 99:
        message = f"{canary} is no share for a canary; 1 to 99 percent are"
    elif canary is not None and deployment_serving(row) is None:
        message = f"{row.name} serves nothing yet that a canary could stand beside"
    if message:
        raise RolloutRefused(f"canary: {message}.", [FieldError("canary", message)])
    standing = deployment_canary(row)
    if standing is not None:
        raise RolloutRefused(
            f"v{standing.version.version} is a canary of {row.name} with {standing.percent} %: "
            "promote it or roll it back first."
        )


def _go_on(unfinished: Deployment, wanted: ModelVersion) -> Started:
    """The rollout that was interrupted, if it is of that version and nobody has it."""
    if unfinished.version_id != wanted.pk:
        raise RolloutRefused(going_on(unfinished))
    claims.deployment_free_of_the_dead(unfinished)
    return Started(unfinished, True)


def going_on(deployment: Deployment) -> str:
    """Why another is refused, in words."""
    service = deployment.service
    return (
        f"v{deployment.version.version} is being rolled out to {service.name} since "
        f"{deployment.created_at:%Y-%m-%d %H:%M} UTC by {deployment.requested_by or 'nobody named'}"
        f"; it is {deployment.state}. Wait for it, or end it: manage.py services cancel "
        f"{service.name}."
    )


# --- Going on ------------------------------------------------------------------------------


def deployment_send(deployment_id: uuid.UUID) -> None:
    """Have a worker take the next step."""
    send_task(STEP, expires=STEP_EXPIRES_SECONDS, deployment_id=str(deployment_id))


def deployments_send_due(*, now: datetime) -> int:
    """Send a message for every rollout whose step is due; returns how many."""
    due = Deployment.objects.filter(
        Q(lease_until=None) | Q(lease_until__lt=now), state__in=UNFINISHED, next_step_at__lte=now
    )
    found = list(due.values_list("pk", flat=True))
    for pk in found:
        deployment_send(pk)
    return len(found)


def rollout_cancel(deployment: Deployment, *, by: str, now: datetime) -> None:
    """End an unfinished rollout: at its next step what it has changed is put back.

    Raises RolloutRefused: it is at its end already.
    """
    reason = f"It was cancelled by {by}."
    with transaction.atomic():
        asked = Deployment.objects.filter(pk=deployment.pk, state__in=UNFINISHED)
        if asked.update(error=reason, next_step_at=now, unreachable_since=None) != 1:
            deployment.refresh_from_db()
            raise RolloutRefused(f"This rollout is at its end already: it is {deployment.state}.")
        transitions.note(deployment.pk, reason, by=by, now=now)
        transaction.on_commit(lambda: deployment_send(deployment.pk))
    deployment.refresh_from_db()
    claims.deployment_free_of_the_dead(deployment)


# --- Finding -------------------------------------------------------------------------------


def service_find(name: str, project: str = "", region: str = "") -> CloudService:
    """The service of that name; raises RolloutRefused, naming those that are there."""
    found = CloudService.objects.filter(name=name, deleted_at=None)
    for field, value in (("project", project), ("region", region)):
        if value:
            found = found.filter(**{field: value})
    rows = list(found[:2])
    if len(rows) == 1:
        return rows[0]
    known = CloudService.objects.filter(deleted_at=None)
    names = ", ".join(f"{one.name} ({one.project}, {one.region})" for one in known) or "none yet"
    told = f"There are several services “{name}”" if rows else f"There is no service “{name}”"
    raise RolloutRefused(f"{told}: give --project and --region. Deployed from here: {names}.")


def deployment_serving(service: CloudService) -> Deployment | None:
    """What serves, if anything was deployed."""
    return _only(service, State.SERVING)


def deployment_canary(service: CloudService) -> Deployment | None:
    """What has a share of the traffic beside what serves."""
    return _only(service, State.CANARY)


def deployment_previous(service: CloudService) -> Deployment | None:
    """What a rollback leads to: the canary's other, or what served before what serves."""
    if deployment_canary(service) is not None:
        return deployment_serving(service)
    before = Deployment.objects.filter(service=service, state=State.SUPERSEDED)
    return before.order_by("-ended_at").select_related("service", "version").first()


def _only(service: CloudService, state: str) -> Deployment | None:
    found = Deployment.objects.filter(service_id=service.pk, state=state)
    return found.select_related("service", "version").first()


def deployment_unfinished(service: CloudService) -> Deployment | None:
    """The rollout that goes on, or that is to go on."""
    found = Deployment.objects.filter(service_id=service.pk, state__in=UNFINISHED)
    return found.select_related("service", "version__model").first()
