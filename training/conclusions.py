"""What is done with the version of a run that has ended: keep it, propose it, or promote it.

A hook of `after.py`: it may be called again when its worker died, and finds in the history of
promotions what it did before.
"""

import logging
from datetime import datetime

from django.db import transaction
from django.db.models import Q

from deployments import selectors
from deployments.gates import Gate, Verdict, gate
from deployments.models import CHALLENGER, CHAMPION, ModelVersion, PromotionEvent
from deployments.selectors import LivePointer
from deployments.services import promote, version_propose
from engine.errors import RegistryMoved, SentinelleError
from training.models import (
    RetrainingSchedule,
    RunState,
    ScheduleEvent,
    ScheduleEventKind,
    Then,
    TrainingRun,
)
from training.transitions import note

logger = logging.getLogger(__name__)
# People may move the champion while a bundle is verified: the version is then compared anew.
ATTEMPTS = 3
ENDS = (ScheduleEventKind.ENDED, ScheduleEventKind.FAILED)
KEPT = "Kept, not"
DONE = {CHAMPION: "Promoted", CHALLENGER: "Proposed"}


def run_conclude(run: TrainingRun, now: datetime) -> None:
    """Do with the version of an ended run what was asked for, once, and tell its schedule."""
    version = run.model_version if run.state == RunState.SUCCEEDED else None
    told = "" if version is None else _conclude(run, version)
    with transaction.atomic():
        # One at a time: a worker that was only paused may be at it as well.
        TrainingRun.objects.select_for_update().get(pk=run.pk)
        if told and not _is_told(run, told):
            note(run.pk, told, _actor(run), now)
        if run.schedule is not None:
            _tell_schedule(run.schedule, run, told, now)


def _is_told(run: TrainingRun, told: str) -> bool:
    """Whether the timeline says so, or says already what was done when this says that nothing
    was."""
    words = Q(message=told)
    if told.startswith(KEPT):
        for said in (KEPT, *DONE.values()):
            words |= Q(message__startswith=said)
    return run.events.filter(words).exists()


def _conclude(run: TrainingRun, version: ModelVersion) -> str:
    """Do it, and say what was done; empty when the version is only to be kept."""
    if run.then == Then.KEEP:
        return ""
    done = PromotionEvent.objects.filter(to_version=version).first()
    if done is not None:
        return _told(done)
    if not version.deployable:
        return f"{KEPT} proposed: it was trained on a sample."
    try:
        return _move(run, version)
    except SentinelleError as error:
        done = PromotionEvent.objects.filter(to_version=version).first()
        if done is not None:
            # Another worker was quicker.
            return _told(done)
        logger.warning("Run %s: its version was kept: %s", run.pk, error)
        return f"{KEPT} {run.then}d: {error.detail}"


def _move(run: TrainingRun, version: ModelVersion) -> str:
    """Promote the version if that was asked for and the gate is open, else propose it, unless it is
    the champion's model again; what was done."""
    for _ in range(ATTEMPTS):
        live = selectors.live_pointer(run.model.name)
        found = gate(version, live.version)
        if found.verdict is Verdict.SAME:
            return f"Kept, not {run.then}d. {_words(found)}"
        if run.then != Then.PROMOTE or not found.open:
            break
        words = _words(found)
        if version.rule_set is not None and live.rule_set != version.rule_set:
            words += (
                f" It was not promoted by itself: its thresholds were tuned with the rule set "
                f"“{version.rule_set.name}”, and “{live.rules.name}” serves."
            )
            return _told(version_propose(version=version, actor=_actor(run), reason=words))
        try:
            return _told(_promote(run, version, live, words))
        except RegistryMoved:
            continue
    return _told(version_propose(version=version, actor=_actor(run), reason=_words(found)))


def _promote(
    run: TrainingRun, version: ModelVersion, live: LivePointer, words: str
) -> PromotionEvent:
    return promote(
        model=run.model,
        version=version.version,
        actor=_actor(run),
        reason=words,
        seen_champion=live.version.version if live.version else "",
    )


def _words(found: Gate) -> str:
    return f"{found.title}. {found.reason}"


def _told(event: PromotionEvent) -> str:
    return f"{DONE[event.alias]}. {event.reason}"


def _actor(run: TrainingRun) -> str:
    """Who acts, for the history: the schedule, or who asked for the run."""
    return f"schedule {run.schedule.name}" if run.schedule else run.requested_by or "training"


def _tell_schedule(
    schedule: RetrainingSchedule, run: TrainingRun, told: str, now: datetime
) -> None:
    if schedule.events.filter(run=run, kind__in=ENDS).exists():
        return
    name = f"v{run.version}"
    failure = "" if run.state == RunState.SUCCEEDED else f"{name} {run.state}. {run.error}".strip()
    message = failure or f"{name}: {told or 'Kept.'}"
    kind = ScheduleEventKind.FAILED if failure else ScheduleEventKind.ENDED
    ScheduleEvent.objects.create(schedule=schedule, kind=kind, run=run, at=now, message=message)
    if failure:
        RetrainingSchedule.objects.filter(pk=schedule.pk).update(message=failure, message_at=now)
