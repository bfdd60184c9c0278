"""What changes retraining schedules, and what makes their runs.

Beat has a task for each schedule, and one that looks for all that are due; both end in
`schedule_run_due`, any number of times: a schedule's time is settled by a conditional update, in
one transaction with the run that is made for it.
"""

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, InterfaceError, OperationalError, connection, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, PeriodicTask
from kombu.exceptions import OperationalError as BrokerError

from engine.errors import FieldError, RunRefused, SentinelleError, StoreUnavailable
from engine.features.catalogue import LABEL_DELAY
from training import selectors, services
from training.crontab import FIELDS, read_crontab
from training.launchers.choose import AUTO
from training.launchers.resources import resources_for
from training.models import (
    ACTIVE,
    Dataset,
    RetrainingSchedule,
    ScheduleEvent,
    ScheduleEventKind,
    TrainingRun,
)
from training.pipeline.spec import decode_options
from training.snapshots import snapshot_create

logger = logging.getLogger(__name__)
TASK = "training.tasks.run_schedule"
TRAFFIC = "traffic"
NAME_TAKEN = "There is already a schedule of this name."
# A message of beat that waited for longer is of no use: the next look finds what is due.
EXPIRE_SECONDS = 60
# Someone else may register the version that we were about to take.
VERSION_ATTEMPTS = 3


class ScheduleRefused(SentinelleError):
    """A schedule can't be as asked; `errors` names the fields."""

    code = "SCHEDULE_REFUSED"


class ScheduleWaits(Exception):
    """Its run can't be made now, and is when what the argument says is over."""


# --- What people change --------------------------------------------------------------------


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
        _note(schedule, ScheduleEventKind.CHANGED, "Made.", by=by, now=now)
    return schedule


def schedule_update(
    schedule: RetrainingSchedule, *, by: str, now: datetime, **changes: Any
) -> RetrainingSchedule:
    """Change a schedule. With other times, or when it is enabled, it begins anew after `now`.

    Raises:
        ScheduleRefused: a field is not what it can be; `errors` names it.
    """
    with transaction.atomic():
        row = RetrainingSchedule.objects.select_for_update().get(pk=schedule.pk, deleted_at=None)
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
        _note(row, ScheduleEventKind.CHANGED, message, by=by, now=now)
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
        _note(row, ScheduleEventKind.CHANGED, "Deleted.", by=by, now=now)


def schedule_run_now(schedule: RetrainingSchedule, *, by: str, now: datetime) -> bool:
    """Ask for a run out of turn, enabled or not. Returns False when one is asked for already."""
    asked = RetrainingSchedule.objects.filter(
        pk=schedule.pk, deleted_at=None, requested_at=None
    ).update(requested_at=now, requested_by=by)
    if asked:
        _note(schedule, ScheduleEventKind.CHANGED, "A run was asked for.", by=by, now=now)
        transaction.on_commit(partial(_send, schedule.pk))
    return bool(asked)


def entries_forget_old() -> None:
    """Remove beat's entries of our tasks that neither the settings nor a schedule has any more."""
    ours = PeriodicTask.objects.filter(task__startswith="training.", retraining_schedule=None)
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
    if (schedule.dataset is None) == (schedule.days is None):
        faults.append(FieldError("days", "Give a number of days of traffic, or choose a data set."))
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


# --- What workers do -----------------------------------------------------------------------


def schedules_due(*, now: datetime) -> list[RetrainingSchedule]:
    """Those that a run is to be made for and that no worker is making one for."""
    wanted = RetrainingSchedule.objects.filter(Q(enabled=True) | Q(requested_at__isnull=False))
    return [schedule for schedule in _free(wanted, now) if schedule.due(now) is not None]


def schedules_send_due(*, now: datetime) -> None:
    """Send a message for each that is due, as when beat was down at its time."""
    for schedule in schedules_due(now=now):
        _send(schedule.pk)


def schedule_run_due(schedule_id: int, *, now: datetime, worker: str) -> TrainingRun | None:
    """Make the run of a schedule that is due: one, however many of its times have passed.

    None when nothing is due, when another worker is making it, or when it can't be made: then the
    schedule says why, and is tried again if it only has to wait.
    """
    schedule = _claim(schedule_id, worker=f"{worker}:{uuid.uuid4().hex[:8]}", now=now)
    if schedule is None:
        return None
    due = schedule.due(now)
    try:
        if due is None:
            return None
        with _lease_kept(schedule):
            return _make_run(schedule, due, now)
    except (ScheduleWaits, StoreUnavailable) as reason:
        _tell_waiting(schedule, str(reason), due, now)
    except SentinelleError as error:
        _settle_failed(schedule, error.detail, due, now)
    except (OperationalError, InterfaceError):
        raise  # the database's troubles say nothing about the schedule: it stays due
    except Exception as error:
        _settle_failed(schedule, f"The worker failed: {error!r}.", due, now)
        raise
    finally:
        _held(schedule).update(claimed_by="", lease_until=None)
    return None


def _make_run(schedule: RetrainingSchedule, due: datetime, now: datetime) -> TrainingRun | None:
    _wait_for_others(schedule)
    dataset = schedule.dataset or _snapshot(schedule, due)
    for attempt in range(1, VERSION_ATTEMPTS + 1):
        try:
            return _start(schedule, dataset, due, now)
        except IntegrityError:
            _wait_for_others(schedule)
            raise
        except RunRefused as refusal:
            taken = any(error.field == "version" for error in refusal.errors)
            if not taken or attempt == VERSION_ATTEMPTS:
                raise
    return None


def _start(
    schedule: RetrainingSchedule, dataset: Dataset, due: datetime, now: datetime
) -> TrainingRun | None:
    """Settle the time and create its run, both or neither. None when the schedule was changed, or
    the claim lost, meanwhile."""
    with transaction.atomic():
        if not _settle(schedule, due, message="", now=now):
            return None
        run = services.run_create(
            dataset=dataset.name,
            version=selectors.next_version(schedule.model.name),
            model=schedule.model.name,
            rules=schedule.rule_set.name if schedule.rule_set else None,
            seed=schedule.seed,
            options=decode_options(schedule.options),
            launcher=schedule.launcher,
            resources=schedule.resources,
            requested_by=schedule.requested_by or f"schedule {schedule.name}",
            schedule=schedule,
            then=schedule.then,
        )
        message = f"v{run.version} on the data set “{dataset.name}”."
        by = schedule.requested_by
        _note(schedule, ScheduleEventKind.STARTED, message, by=by, now=now, slot=due, run=run)
    return run


def _snapshot(schedule: RetrainingSchedule, due: datetime) -> Dataset:
    """The data set of the days before `due`, with the labels that were known then: the same
    whenever it is made, so one that a worker left behind is used.

    Raises InvalidDataset.
    """
    name = f"{schedule.name}-{schedule.days}d-{due:%Y%m%d-%H%M%S}"
    made = Dataset.objects.filter(name=name, preset=TRAFFIC).first()
    if made is not None:
        return made
    delay = decode_options(schedule.options).label_delay_us
    return snapshot_create(
        name=name,
        days=schedule.days,
        as_of=due,
        label_delay=LABEL_DELAY if delay is None else delay,
        model=schedule.model.name,
    )


def _settle(schedule: RetrainingSchedule, due: datetime, *, message: str, now: datetime) -> bool:
    """Take the time off what is due, if nobody has, and if the schedule still is as it was read."""
    settled = _held(schedule).filter(
        last_slot=schedule.last_slot,
        requested_at=schedule.requested_at,
        enabled=schedule.enabled,
        deleted_at=None,
    )
    return bool(
        settled.update(
            last_slot=max(schedule.last_slot, due),
            requested_at=None,
            requested_by="",
            message=message,
            message_at=now if message else None,
        )
    )


def _settle_failed(
    schedule: RetrainingSchedule, reason: str, due: datetime | None, now: datetime
) -> None:
    """Record why no run could be made. The next time is another try."""
    logger.warning("Schedule %s made no run: %s", schedule.name, reason)
    with transaction.atomic():
        if due is not None and _settle(schedule, due, message=reason, now=now):
            by = schedule.requested_by
            _note(schedule, ScheduleEventKind.FAILED, reason, by=by, now=now, slot=due)


def _tell_waiting(
    schedule: RetrainingSchedule, reason: str, due: datetime | None, now: datetime
) -> None:
    """Say what it waits for, once for each thing that it waits for."""
    with transaction.atomic():
        changed = _held(schedule).exclude(message=reason).update(message=reason, message_at=now)
        if changed:
            _note(schedule, ScheduleEventKind.WAITING, reason, now=now, slot=due)


def _wait_for_others(schedule: RetrainingSchedule) -> None:
    """Raise ScheduleWaits while a run that a schedule made trains the same model."""
    other = (
        TrainingRun.objects.filter(
            model=schedule.model_id, schedule__isnull=False, state__in=ACTIVE
        )
        .select_related("schedule")
        .first()
    )
    if other is not None and other.schedule is not None:
        raise ScheduleWaits(
            f"It waits for v{other.version}, which the schedule “{other.schedule.name}” has had "
            f"trained since {other.created_at:%Y-%m-%d %H:%M} UTC: two schedules never train one "
            "model at once."
        )


# --- The claim -----------------------------------------------------------------------------


def _claim(schedule_id: int, *, worker: str, now: datetime) -> RetrainingSchedule | None:
    """Take a schedule for `worker`; None when it is gone or another worker has it."""
    row = RetrainingSchedule.objects.filter(pk=schedule_id, deleted_at=None)
    if _free(row, now).update(claimed_by=worker, lease_until=_lease(now)) != 1:
        return None
    return row.select_related("model", "dataset", "rule_set").get(claimed_by=worker)


def _free(schedules: QuerySet[RetrainingSchedule], now: datetime) -> QuerySet[RetrainingSchedule]:
    return schedules.filter(Q(lease_until__isnull=True) | Q(lease_until__lt=now))


def _held(schedule: RetrainingSchedule) -> QuerySet[RetrainingSchedule]:
    return RetrainingSchedule.objects.filter(pk=schedule.pk, claimed_by=schedule.claimed_by)


def _lease(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.TRAINING_LEASE_SECONDS)


@contextmanager
def _lease_kept(schedule: RetrainingSchedule) -> Iterator[None]:
    """Renew the lease from a thread: a data set of a month's traffic takes longer than a lease."""
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(schedule, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()


def _renew(schedule: RetrainingSchedule, over: threading.Event) -> None:
    try:
        while not over.wait(settings.TRAINING_LEASE_SECONDS / 3):
            _held(schedule).update(lease_until=_lease(timezone.now()))
    finally:
        connection.close()


def _note(
    schedule: RetrainingSchedule,
    kind: ScheduleEventKind,
    message: str,
    *,
    now: datetime,
    by: str = "",
    **about: Any,
) -> None:
    ScheduleEvent.objects.create(
        schedule=schedule, kind=kind, message=message, by=by, at=now, **about
    )


def _send(schedule_id: int) -> None:
    """Send a schedule's message. A broker that is down is no failure: beat sends another."""
    try:
        current_app.send_task(TASK, kwargs={"schedule_id": schedule_id}, expires=EXPIRE_SECONDS)
    except BrokerError as error:
        logger.warning("The message of schedule %s could not be sent: %s", schedule_id, error)
