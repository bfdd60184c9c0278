"""What has a service's traffic: a canary is promoted, a deployment rolled back, a service deleted.

Google is asked first and the rows follow, so what was interrupted between the two is done again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import transaction
from django.utils import timezone

from deployments.gcp.errors import CloudError, missing_accepted
from deployments.gcp.invokers import id_token
from deployments.gcp.run_jobs import job_delete
from deployments.gcp.run_services import revision_describe, service_delete, traffic_set
from deployments.gcp.services import Traffic
from deployments.leases import lease_kept
from deployments.models import CloudService, Deployment, DeploymentState
from deployments.rollouts import claims, specs, transitions
from deployments.rollouts.errors import RolloutRefused
from deployments.rollouts.ours import own_service
from deployments.rollouts.probe import NotYet, check_health
from deployments.rollouts.services import (
    deployment_canary,
    deployment_previous,
    deployment_serving,
    deployment_unfinished,
    going_on,
)
from deployments.rollouts.traffic import in_words

State = DeploymentState


def canary_promote(
    service: CloudService, *, by: str, reason: str = "", seen: str = ""
) -> Deployment:
    """Give the canary all of the traffic.

    Args:
        seen: the key of the canary that somebody was shown; another one is refused.

    Raises RolloutRefused, CloudError.
    """
    canary = deployment_canary(service)
    if canary is None:
        raise RolloutRefused(f"{service.name} has no canary. Deploy one with --canary 10.")
    _check_seen(canary, seen)
    with _moving(canary, by):
        traffic_set(specs.service_name(service), [Traffic(canary.revision, 100, canary.tag)])
        now, serving = timezone.now(), deployment_serving(service)
        with transaction.atomic():
            if serving is not None:
                transitions.move(
                    serving.pk,
                    State.SERVING,
                    State.SUPERSEDED,
                    by=by,
                    message=f"v{canary.version.version} ({canary.tag}) was promoted.",
                    now=now,
                )
            message = f"It has all of the traffic. {reason}".strip()
            _moved(canary, State.CANARY, State.SERVING, by, message, percent=100)
    canary.refresh_from_db()
    return canary


def service_roll_back(
    service: CloudService, *, by: str, reason: str = "", seen: str = ""
) -> Deployment:
    """Give the traffic back to what had it before; that deployment.

    A canary loses its share; without one, what served before what serves takes its place, after it
    was looked at: its revision must be there and healthy.

    Args:
        seen: the key of the deployment that somebody was shown as the one to go back to; another
            one is refused.

    Raises RolloutRefused, CloudError.
    """
    if unfinished := deployment_unfinished(service):
        raise RolloutRefused(going_on(unfinished))
    leaving = deployment_canary(service) or deployment_serving(service)
    target = deployment_previous(service)
    if leaving is None or target is None:
        raise RolloutRefused(f"{service.name} has served nothing before that is still there.")
    _check_seen(target, seen)
    with _moving(leaving, by):
        if leaving.state == State.SERVING:
            _check_target(target, leaving)
        traffic = [Traffic(target.revision, 100, target.tag)]
        traffic_set(specs.service_name(service), traffic)
        with transaction.atomic():
            wishes = {**target.wishes, **_of_the_service(leaving)}
            CloudService.objects.filter(pk=service.pk).update(wishes=wishes)
            words = f"The traffic went back to v{target.version.version} ({target.tag}). {reason}"
            _moved(leaving, leaving.state, State.ROLLED_BACK, by, words.strip())
            if target.state == State.SUPERSEDED:
                message = f"v{leaving.version.version} ({leaving.tag}) was rolled back. {reason}"
                _moved(target, State.SUPERSEDED, State.SERVING, by, message.strip(), percent=100)
            else:
                Deployment.objects.filter(pk=target.pk).update(percent=100)
                note = f"It has all of the traffic again: {in_words(traffic)}."
                transitions.note(target.pk, note, by=by, now=timezone.now())
    target.refresh_from_db()
    return target


def _check_seen(row: Deployment, seen: str) -> None:
    """Raises RolloutRefused when a page was made before what serves was changed: sent twice, a
    rollback would go two back."""
    if seen and str(row.pk) != seen:
        raise RolloutRefused(
            f"What serves has changed since that page was made; nothing was done. Now it would be "
            f"v{row.version.version} ({row.tag})."
        )


def _of_the_service(leaving: Deployment) -> dict[str, Any]:
    """What a rollback leaves: it is the service's, not a revision's."""
    return {name: leaving.wishes[name] for name in ("public", "min_instances")}


def _check_target(target: Deployment, leaving: Deployment) -> None:
    """Raises RolloutRefused unless the revision is there and healthy; it is asked by its tag, which
    it has lost with its traffic."""
    service = target.service
    name = specs.service_name(service)
    what = f"v{target.version.version} ({target.revision})"
    try:
        found = revision_describe(name, target.revision)
    except CloudError as error:
        if error.reason != "not_found":
            raise
        raise RolloutRefused(
            f"{what} is not there any more: deploy it again, manage.py deploy_ml_engine "
            f"{service.project} {service.name} {service.region} {target.version.version}."
        ) from error
    if found.state == "failed":
        raise RolloutRefused(f"{what} can't serve: {found.message}")
    traffic = [Traffic(leaving.revision, 100, leaving.tag), Traffic(target.revision, 0, target.tag)]
    shown = traffic_set(name, traffic)
    url = shown.of(target.revision).url
    try:
        check_health(url, id_token(service.url), target.version.version)
    except NotYet as reason:
        raise RolloutRefused(f"{what} is not healthy, so the traffic stays: {reason}.") from reason


def service_remove(service: CloudService, *, by: str) -> None:
    """Delete the service with its revisions and its job. Raises RolloutRefused, CloudError."""
    if unfinished := deployment_unfinished(service):
        raise RolloutRefused(going_on(unfinished))
    own_service(service)
    with missing_accepted():
        service_delete(specs.service_name(service))
    with missing_accepted():
        job_delete(specs.migration_job(service))
    now = timezone.now()
    with transaction.atomic():
        for live in Deployment.objects.filter(service=service, state__in=transitions.LIVE):
            _moved(live, live.state, State.SUPERSEDED, by, "The service was deleted.")
        CloudService.objects.filter(pk=service.pk, deleted_at=None).update(deleted_at=now)


def _moved(row: Deployment, frm: str, to: str, by: str, message: str, **changes: Any) -> None:
    now = timezone.now()
    if not transitions.move(row.pk, frm, to, by=by, message=message, now=now, **changes):
        raise RolloutRefused("It was changed meanwhile; look again.")


@contextmanager
def _moving(row: Deployment, by: str) -> Iterator[None]:
    """Keep others from moving the same traffic meanwhile."""
    worker = f"{claims.worker_name()} for {by}"[:200]
    if not claims.live_take(row, worker=worker, now=timezone.now()):
        raise RolloutRefused(f"Somebody else moves the traffic of {row.service.name} just now.")

    def renew() -> bool:
        return claims.live_renew(row, worker=worker, now=timezone.now())

    try:
        with lease_kept(f"The traffic of {row.service.name}", renew):
            yield
    finally:
        claims.live_let_go(row, worker=worker)
