"""Who takes the steps of a rollout: a worker one at a time, or a command all of them."""

import logging
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from deployments.gcp.errors import CloudError
from deployments.gcp.invokers import public_set
from deployments.gcp.run_services import service_delete, traffic_set
from deployments.leases import lease_kept
from deployments.models import Deployment, DeploymentState
from deployments.rollouts import claims, specs
from deployments.rollouts.hold import Hold, Lost
from deployments.rollouts.probe import keys_delete
from deployments.rollouts.steps import step_of
from deployments.rollouts.traffic import before_of, found_service, in_words
from deployments.rollouts.wishes import read_wishes
from engine.errors import SentinelleError, StoreUnavailable

logger = logging.getLogger(__name__)
LONGEST_WAIT = timedelta(seconds=30)
Tell = Callable[[Deployment], None]


def deployment_step(deployment_id: uuid.UUID, *, worker: str) -> None:
    """Take the step that is due, if one is, and leave the rollout to whoever takes the next."""
    worker = f"{worker}:{uuid.uuid4().hex[:8]}"
    taken = claims.deployment_take(deployment_id, worker=worker, now=timezone.now())
    if taken is None:
        logger.info("Rollout %s is not due: nothing to do", deployment_id)
        return
    again = _step(Hold(taken, worker))
    if again is not None:
        claims.deployment_let_go(deployment_id, worker=worker, again_at=timezone.now() + again)


def deployment_drive(deployment_id: uuid.UUID, *, worker: str, tell: Tell) -> Deployment | None:
    """Take every step until the rollout is at its end; the rollout then. None: another has it.

    Args:
        worker: from `claims.worker_name`.
        tell: called after every step.
    """
    taken = claims.deployment_take(deployment_id, worker=worker, now=timezone.now(), due_only=False)
    if taken is None:
        return None
    hold = Hold(taken, worker)
    try:
        with lease_kept(f"Rollout {deployment_id}", lambda: _renew(hold)):
            tell(taken)
            while (again := _step(hold, kept=True)) is not None:
                tell(taken)
                time.sleep(again.total_seconds())
    finally:
        claims.deployment_let_go(deployment_id, worker=worker, again_at=None)
    taken.refresh_from_db()
    tell(taken)
    return taken


def _renew(hold: Hold) -> bool:
    return claims.deployment_renew(hold.deployment.pk, worker=hold.worker, now=timezone.now())


def _step(hold: Hold, *, kept: bool = False) -> timedelta | None:
    """One step; how long until the next, None when there is none for this worker.

    Args:
        kept: somebody renews the lease already.
    """
    deployment = hold.deployment
    deployment.refresh_from_db()
    if not deployment.is_unfinished or deployment.claimed_by != hold.worker:
        return None
    if not kept:
        with lease_kept(f"Rollout {deployment.pk}", lambda: _renew(hold)):
            return _step(hold, kept=True)
    try:
        again = _take(hold)
    except Lost:
        deployment.refresh_from_db()
        if deployment.claimed_by == hold.worker and deployment.is_unfinished:
            # It was cancelled meanwhile: the next step puts back what this one has changed.
            return timedelta()
        logger.warning("Rollout %s: another has it, or it was ended", deployment.pk)
        return None
    return again if deployment.is_unfinished else None


def _take(hold: Hold) -> timedelta | None:
    deployment = hold.deployment
    step = _undo if deployment.error else step_of(deployment.state)
    try:
        again = step(hold)
        claims.deployment_reachable(deployment, worker=hold.worker, now=timezone.now())
        return again
    except Lost:
        raise
    except SentinelleError as error:
        if isinstance(error, StoreUnavailable) or getattr(error, "is_transient", False):
            return _wait_for_answer(hold, error.detail)
        return _doom(hold, error.detail)
    except Exception as error:
        # What fails here may work at the next step, and fails the rollout if it does not.
        logger.exception("Rollout %s: a step failed", deployment.pk)
        return _wait_for_answer(hold, f"The worker failed: {error!r}.")


def _wait_for_answer(hold: Hold, reason: str) -> timedelta | None:
    """Ask again, the later the longer there is no answer, until patience ends."""
    deployment, now = hold.deployment, timezone.now()
    since = claims.deployment_unreachable(deployment, worker=hold.worker, reason=reason, now=now)
    waited = now - since
    if waited <= timedelta(seconds=settings.ROLLOUT_PATIENCE_SECONDS):
        return max(_soon(), min(waited / 2, LONGEST_WAIT))
    tried = f"{reason} It was tried for {settings.ROLLOUT_PATIENCE_SECONDS / 60:.0f} minutes."
    if deployment.error:
        return _fail(hold, f"{deployment.error} What serves could not be looked at: {tried}")
    return _doom(hold, tried)


def _doom(hold: Hold, reason: str) -> timedelta | None:
    """It fails; first what it has changed is put back, which is a step like the others."""
    hold.change(error=reason, unreachable_since=None, message="")
    return _undo_now(hold)


def _undo_now(hold: Hold) -> timedelta | None:
    try:
        return _undo(hold)
    except CloudError as error:
        return _wait_for_answer(hold, error.detail)


def _undo(hold: Hold) -> timedelta | None:
    """Give the traffic back to what had it, take the tag away, let nobody call who did not before,
    and delete a service that this rollout has made. Raises CloudError."""
    deployment = hold.deployment
    keys_delete(deployment)
    found = found_service(deployment.service) if deployment.revision else None
    if found is None:
        return _fail(hold, deployment.error)
    name, before = specs.service_name(deployment.service), before_of(deployment)
    named = {one.revision for one in found.wanted}
    if deployment.handles.get("first"):
        if named <= {deployment.revision}:
            service_delete(name)
            hold.note(f"The service {name.service} was deleted again: it never served.")
    elif deployment.revision in named:
        was = read_wishes(deployment.service.wishes)
        public_set(name, was.public)
        traffic_set(name, before, min_instances=was.min_instances)
        hold.note(f"The revision lost its tag. Traffic, as before: {in_words(before)}.")
    return _fail(hold, deployment.error)


def _fail(hold: Hold, error: str) -> timedelta:
    return hold.move(DeploymentState.FAILED, error, error=error)


def _soon() -> timedelta:
    return timedelta(seconds=settings.ROLLOUT_POLL_SECONDS)
