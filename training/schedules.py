"""What people change about retraining schedules. What makes their runs is in schedule_runs.py."""

import logging
from datetime import datetime
from functools import partial
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, PeriodicTask
from kombu.exceptions import OperationalError as BrokerError

from engine.errors import FieldError, RunRefused, SentinelleError
from training.crontab import FIELDS, read_crontab
from training.launchers.choose import AUTO
from training.launchers.resources import resources_for
from training.models import (
    RetrainingSchedule,
    ScheduleEvent,
    ScheduleEventKind,
)
from training.services import refuse_other_data

logger = logging.getLogger(__name__)
TASK = "training.tasks.run_schedule"
OURS = r"^(deployments|training)\."
NAME_TAKEN = "There is already a schedule of this name."
# A message of beat that waited for longer is of no use: the next look finds what is due.
EXPIRE_SECONDS = 60


class ScheduleRefused(SentinelleError):
    """A schedule can't be as asked; `errors` names the fields."""

    code = "SCHEDULE_REFUSED"


def schedule_create(*, by: str, now: datetime, **fields: Any) -> RetrainingSchedule:
    """Make a schedule and its entry for beat. It begins with the first time after `now`.

    Args:
        fields: of `RetrainingSchedule`.

    Raises:
        ScheduleRefused: a field is not what it can be; `errors` names it.
    """
    schedule = RetrainingSchedule(**fields, created_by=by, created_at=now, last_slot=now)
    with transaction.atomic():
        _save(schedule)
        note(schedule, ScheduleEventKind.CHANGED, "Made.", by=by, now=now)
    return schedule


def schedule_update(
    schedule: RetrainingSchedule, *, by: str, now: datetime, **changes: Any
) -> RetrainingSchedule:
    """Change a schedule. With other times, or when it is enabled, it begins anew after `now`.

    Raises:
        ScheduleRefused: a field is not what it can be; `errors` names it.
    """
    with transaction.atomic():
        row = RetrainingSchedule.objects.select_for_update().get(pk=schedule.pk)
        if row.deleted_at is not None:
            raise ScheduleRefused("This schedule was deleted meanwhile.")
        changed = [name for name, value in changes.items() if getattr(row, name) != value]
        for name in changed:
            setattr(row, name, changes[name])
        if {"crontab", "time_zone"} & set(changed) or ("enabled" in changed and row.enabled):
            row.last_slot = now
        if not changed:
            return row
        _save(row)
        words = ", ".join(name.replace("_", " ") for name in changed)
        if changed == ["enabled"]:
            message = "Enabled." if row.enabled else "Disabled."
        else:
            message = f"Changed: {words}."
        note(row, ScheduleEventKind.CHANGED, message, by=by, now=now)
    return row


def schedule_delete(schedule: RetrainingSchedule, *, by: str, now: datetime) -> None:
    """Delete a schedule. Its runs, their versions and its history stay."""
    with transaction.atomic():
        row = RetrainingSchedule.objects.select_for_update().get(pk=schedule.pk)
        if row.deleted_at is not None:
            return
        entry, row.periodic_task = row.periodic_task, None
        row.enabled, row.deleted_at, row.requested_at = False, now, None
        row.save()
        if entry is not None:
            entry.delete()
        note(row, ScheduleEventKind.CHANGED, "Deleted.", by=by, now=now)


def schedule_run_now(schedule: RetrainingSchedule, *, by: str, now: datetime) -> bool:
    """Ask for a run out of turn, enabled or not. Returns False when one is asked for already."""
    free = RetrainingSchedule.objects.filter(pk=schedule.pk, deleted_at=None, requested_at=None)
    with transaction.atomic():
        asked = free.update(requested_at=now, requested_by=by)
        if asked:
            note(schedule, ScheduleEventKind.CHANGED, "A run was asked for.", by=by, now=now)
            transaction.on_commit(partial(send, schedule.pk))
    return bool(asked)


def entries_forget_old() -> None:
    """Remove beat's entries of our tasks that neither the settings nor a schedule has any more."""
    ours = PeriodicTask.objects.filter(task__regex=OURS, retraining_schedule=None)
    for entry in ours.exclude(name__in=settings.CELERY_BEAT_SCHEDULE):
        entry.delete()


def _save(schedule: RetrainingSchedule) -> None:
    """Check and save a schedule with its entry for beat, in the transaction of the caller."""
    errors = _faults(schedule)
    if errors:
        raise ScheduleRefused("; ".join(f"{e.field}: {e.message}" for e in errors), errors)
    minute, hour, day, month, weekday = schedule.crontab.split()
    words = dict(zip(FIELDS, (minute, hour, day, month, weekday), strict=True))
    times, _ = CrontabSchedule.objects.get_or_create(**words, timezone=schedule.time_zone)
    entry = schedule.periodic_task or PeriodicTask(task=TASK, expire_seconds=EXPIRE_SECONDS)
    entry.name = f"Retraining: {schedule.name}"
    entry.crontab, entry.enabled = times, schedule.enabled
    try:
        with transaction.atomic():
            schedule.save()
            entry.kwargs = f'{{"schedule_id": {schedule.pk}}}'
            entry.save()
    except IntegrityError:
        # Another request took the name between our look and our insert.
        raise ScheduleRefused(NAME_TAKEN, [FieldError("name", NAME_TAKEN)]) from None
    if schedule.periodic_task_id != entry.pk:
        schedule.periodic_task = entry
        schedule.save(update_fields=["periodic_task"])


def _faults(schedule: RetrainingSchedule) -> list[FieldError]:
    faults = []
    others = RetrainingSchedule.objects.filter(deleted_at=None).exclude(pk=schedule.pk)
    if others.filter(name=schedule.name).exists():
        faults.append(FieldError("name", NAME_TAKEN))
    faults += _source_faults(schedule)
    try:
        if not read_crontab(schedule.crontab, schedule.time_zone).upcoming(timezone.now(), 1):
            faults.append(FieldError("crontab", "No day of the next eight years is like that."))
    except ValueError as error:
        field = "time_zone" if "time zone" in str(error) else "crontab"
        faults.append(FieldError(field, str(error)))
    if schedule.launcher != AUTO:
        try:
            resources_for(schedule.launcher, schedule.resources)
        except RunRefused as refusal:
            faults += refusal.errors or [FieldError("launcher", refusal.detail)]
    try:
        schedule.full_clean(exclude=["periodic_task"], validate_constraints=False)
    except ValidationError as invalid:
        told = {fault.field for fault in faults}
        faults += [
            FieldError(field, " ".join(messages))
            for field, messages in invalid.message_dict.items()
            if field not in told
        ]
    return faults


def _source_faults(schedule: RetrainingSchedule) -> list[FieldError]:
    """What its model can't be trained on, or with."""
    faults = []
    one_source = (schedule.dataset is None) != (schedule.days is None)
    if schedule.model.is_classifier:
        name = schedule.model.name
        if schedule.days is not None:
            traffic = f"Recorded traffic is of transactions; “{name}” is a classifier."
            faults.append(FieldError("days", traffic))
        if schedule.dataset is None:
            faults.append(FieldError("dataset", f"Choose a data set of rows of “{name}”."))
        if schedule.rule_set is not None:
            faults.append(FieldError("rules", "A classifier is trained without rules."))
    elif not one_source:
        faults.append(FieldError("days", "Give a number of days of traffic, or choose a data set."))
    if schedule.dataset is not None:
        try:
            refuse_other_data(schedule.model, schedule.dataset)
        except RunRefused as refusal:
            faults += refusal.errors
    return faults


def note(
    schedule: RetrainingSchedule,
    kind: ScheduleEventKind,
    message: str,
    *,
    now: datetime,
    by: str = "",
    **about: Any,
) -> None:
    """Put something into a schedule's history; `about`: its `slot`, its `run`."""
    ScheduleEvent.objects.create(
        schedule=schedule, kind=kind, message=message, by=by, at=now, **about
    )


def send(schedule_id: int) -> None:
    """Send a schedule's message. A broker that is down is no failure: beat sends another."""
    try:
        current_app.send_task(TASK, kwargs={"schedule_id": schedule_id}, expires=EXPIRE_SECONDS)
    except BrokerError as error:
        logger.warning("The message of schedule %s could not be sent: %s", schedule_id, error)
