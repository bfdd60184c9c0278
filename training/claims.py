"""What the worker that has a run changes.

Every change is one conditional update on the claim: a worker that has lost its run, because its
lease passed and another took it or because the run was ended, changes nothing any more.
"""

import enum
import uuid
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import Case, F, Q, QuerySet, When

from deployments.models import CHAMPION, Alias, RegisteredModel
from engine.store import open_store
from training import transitions
from training.launchers import Launch, Seen
from training.models import ACTIVE, RunState, TrainingRun
from training.pipeline.run_folder import CLAIM, SPEC
from training.pipeline.spec import AnySpec, Champion, ClassifierSpec, RuleSpec, RunSpec

NOTHING_SEEN = Seen()
HELD_STATES = (RunState.RUNNING, RunState.STARTING)


class Claim(enum.Enum):
    """What a worker's claim on a run is worth."""

    HELD = "held"
    CANCELLED = "cancelled"
    LOST = "lost"


def run_claim(run_id: str, *, worker: str, now: datetime) -> TrainingRun | None:
    """Take a queued run for `worker`. None when it is not queued any more, is not due, or never
    was."""
    due = Q(next_step_at=None) | Q(next_step_at__lte=now)
    taken = transitions.move(
        uuid.UUID(run_id),
        RunState.QUEUED,
        RunState.STARTING,
        by=worker,
        message="A worker has taken it.",
        now=now,
        where=due,
        claimed_by=worker,
        started_at=now,
        lease_until=_lease(now),
        unreachable_since=None,
        stage="start",
    )
    return _claimed(run_id) if taken else None


def run_take(run_id: str, *, worker: str, now: datetime) -> TrainingRun | None:
    """Take a run that nobody stays with for one look at it. None when it is not due, somebody else
    looks at it just now, or it has ended."""
    taken = TrainingRun.objects.filter(
        Q(lease_until=None) | Q(lease_until__lt=now),
        pk=run_id,
        state__in=HELD_STATES,
        next_step_at__lte=now,
    ).update(claimed_by=worker, lease_until=_lease(now))
    return _claimed(run_id) if taken == 1 else None


def run_let_go(run_id: uuid.UUID, *, worker: str, again_at: datetime) -> None:
    """Leave a run until its next look."""
    TrainingRun.objects.filter(pk=run_id, state__in=ACTIVE, claimed_by=worker).update(
        lease_until=None, next_step_at=again_at
    )


def run_prepare(run: TrainingRun) -> None:
    """Write the run's `spec.json`, which is all that the training program is told, unless a program
    has it already."""
    folder = open_store(run.folder)
    if folder.exists(CLAIM):
        return
    folder.write(SPEC, msgspec.json.encode(_spec(run)))


def _spec(run: TrainingRun) -> AnySpec:
    facts: dict[str, Any] = {
        "run_id": str(run.pk),
        "model": run.model.name,
        "version": run.version,
        "dataset": run.dataset.file,
        "dataset_fingerprint": run.dataset.fingerprint,
        "sample": run.sample,
        "seed": run.seed,
        "options": run.typed_options,
        "champion": _champion(run.model),
    }
    if run.model.is_classifier:
        return ClassifierSpec(definition=run.model.definition, **facts)
    assert run.rule_set is not None
    return RunSpec(rules=RuleSpec(name=run.rule_set.name, toml=run.rule_set.source), **facts)


def run_launch(run: TrainingRun) -> Launch:
    """What the run's launcher is told."""
    return Launch(str(run.pk), run.folder, run.model.name, run.version, run.resources)


def _champion(model: RegisteredModel) -> Champion | None:
    """The version that serves now, to be compared with."""
    alias = Alias.objects.filter(model=model, name=CHAMPION).select_related("version").first()
    if alias is None:
        return None
    serving = alias.version
    return Champion(
        version=serving.version,
        location=f"{settings.ARTIFACTS_DIR}/{serving.location}",
        manifest_sha256=serving.manifest_sha256,
    )


def _started_as(handle: str) -> str:
    """Where a run was started, from its launcher's handle; that of a process is `host:pid`."""
    host, colon, process = handle.rpartition(":")
    if colon and process.isdigit():
        return f"Started as process {process} on {host}."
    return f"Started there as {handle}."


def run_started(run_id: uuid.UUID, *, worker: str, handle: str, now: datetime) -> bool:
    """Note that the place has the run, under `handle`. False when the worker has lost it."""
    return transitions.move(
        run_id,
        RunState.STARTING,
        RunState.RUNNING,
        by=worker,
        message=_started_as(handle),
        now=now,
        held_by=worker,
        shown="",
        handle=handle,
        unreachable_since=None,
    )


def run_queue_again(
    run_id: uuid.UUID, *, worker: str, reason: str, again_at: datetime | None, now: datetime
) -> bool:
    """Give a run back that its place can't take now."""
    return transitions.move(
        run_id,
        RunState.STARTING,
        RunState.QUEUED,
        by=worker,
        message=reason,
        now=now,
        held_by=worker,
        where=Q(cancel_requested_at=None),
        shown=reason,
        started_at=None,
        lease_until=None,
        unreachable_since=None,
        next_step_at=again_at,
        enqueued_at=now,
        stage="",
    )


def run_standing(run: TrainingRun, *, worker: str) -> Claim:
    """Read the run again, and say what the claim is worth."""
    run.refresh_from_db(
        fields=["state", "claimed_by", "cancel_requested_at", "unreachable_since", "heartbeat_at"]
    )
    if run.state not in HELD_STATES or run.claimed_by != worker:
        return Claim.LOST
    return Claim.HELD if run.cancel_requested_at is None else Claim.CANCELLED


def run_renew(run_id: uuid.UUID, *, worker: str, now: datetime, **changes: Any) -> Claim:
    """Renew the lease, with other fields that are changed."""
    held = _held(run_id, worker)
    if held.update(lease_until=_lease(now), **changes) != 1:
        return Claim.LOST
    wanted = held.filter(cancel_requested_at__isnull=True).exists()
    return Claim.HELD if wanted else Claim.CANCELLED


def run_heartbeat(
    run_id: uuid.UUID,
    *,
    worker: str,
    progress: dict[str, Any],
    now: datetime,
    seen: Seen = NOTHING_SEEN,
) -> Claim:
    """Renew the lease and copy the program's progress (`stage`, `fraction`, `rows`, `message`) and
    what its place says.

    The program is alive when its own heartbeat has changed: when that was is told by our clock,
    because a machine's may be hours off.
    """
    beat = str(progress.get("heartbeat_at", ""))[:40]
    changes: dict[str, Any] = {
        "stage": progress.get("stage", "start"),
        "fraction": progress.get("fraction", 0.0),
        "rows": progress.get("rows"),
        "message": (progress.get("message") or seen.message)[:300],
    }
    times = {"place_started_at": seen.started_at, "place_ended_at": seen.ended_at}
    changes |= {name: at for name, at in times.items() if at is not None}
    if beat:
        same = When(heartbeat_text=beat, then=F("heartbeat_at"))
        changes |= {"heartbeat_text": beat, "heartbeat_at": Case(same, default=now)}
    if seen.resources:
        known = _held(run_id, worker).values_list("resources", flat=True).first() or {}
        changes["resources"] = {**known, **seen.resources}
    return run_renew(run_id, worker=worker, now=now, **changes)


def run_unreachable(run_id: uuid.UUID, *, worker: str, reason: str, now: datetime) -> datetime:
    """Note that the run's place or folder can't be asked; since when that is so."""
    held = _held(run_id, worker)
    with transaction.atomic():
        if held.filter(unreachable_since=None).update(unreachable_since=now, message=reason[:300]):
            transitions.note(run_id, reason, worker, now)
    since: datetime | None = held.values_list("unreachable_since", flat=True).first()
    return since or now


def run_reachable(run_id: uuid.UUID, *, worker: str, now: datetime) -> None:
    """Note that what could not be asked answers again."""
    away = _held(run_id, worker).exclude(unreachable_since=None)
    with transaction.atomic():
        if away.update(unreachable_since=None, message=""):
            transitions.note(run_id, "It answers again.", worker, now)


def run_fail(
    run_id: uuid.UUID,
    *,
    worker: str,
    error: str,
    now: datetime,
    where: Q | None = None,
    **changes: Any,
) -> bool:
    """End the run as failed, at the stage that it is in unless `changes` has another. False when
    the worker no longer has it."""
    return any(
        transitions.move(
            run_id,
            state,
            RunState.FAILED,
            by=worker,
            message=error,
            now=now,
            held_by=worker,
            where=where,
            error=error,
            **changes,
        )
        for state in HELD_STATES
    )


def run_end_cancelled(run_id: uuid.UUID, *, worker: str, now: datetime, message: str = "") -> bool:
    """End the run as cancelled, once its program has ended. False when the worker no longer has
    it."""
    return any(
        transitions.move(
            run_id,
            state,
            RunState.CANCELLED,
            by=worker,
            message=message or "Its program has ended.",
            now=now,
            held_by=worker,
        )
        for state in HELD_STATES
    )


def _claimed(run_id: str) -> TrainingRun:
    return TrainingRun.objects.select_related("model", "dataset", "rule_set").get(pk=run_id)


def _held(run_id: uuid.UUID, worker: str) -> QuerySet[TrainingRun]:
    return TrainingRun.objects.filter(pk=run_id, state__in=HELD_STATES, claimed_by=worker)


def _lease(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.TRAINING_LEASE_SECONDS)
