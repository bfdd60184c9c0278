"""What makes the runs of retraining schedules.

Beat has a task for each schedule, and one that looks for all that are due; both end in
`schedule_run_due`, any number of times: a schedule's time is settled by a conditional update, in
one transaction with the run that is made for it.
"""

import logging
import uuid
from datetime import datetime, timedelta
from functools import partial

from django.conf import settings
from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    transaction,
)
from django.db.models import Q, QuerySet
from django.utils import timezone

from deployments.leases import lease_kept
from engine.errors import InvalidDataset, RunRefused, SentinelleError, StoreUnavailable
from engine.features.catalogue import LABEL_DELAY
from training import selectors, services
from training.models import (
    ACTIVE,
    Dataset,
    RetrainingSchedule,
    ScheduleEventKind,
    TrainingRun,
)
from training.pipeline.spec import Options
from training.schedules import note, send
from training.snapshots import snapshot_create

logger = logging.getLogger(__name__)
TRAFFIC = "traffic"
# Someone else may register the version that we were about to take.
VERSION_ATTEMPTS = 3


class ScheduleWaits(Exception):
    """Its run can't be made now, and is when what the argument says is over."""


def schedules_due(*, now: datetime) -> list[RetrainingSchedule]:
    """Those that a run is to be made for and that no worker is making one for."""
    wanted = RetrainingSchedule.objects.filter(Q(enabled=True) | Q(requested_at__isnull=False))
    return [schedule for schedule in _free(wanted, now) if schedule.due(now) is not None]


def schedules_send_due(*, now: datetime) -> None:
    """Send a message for each that is due, as when beat was down at its time."""
    for schedule in schedules_due(now=now):
        send(schedule.pk)


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
        # A data set of a month's traffic takes longer than a lease.
        with lease_kept(f"Schedule {schedule.name}", partial(_renew, schedule)):
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
            options=schedule.typed_options,
            launcher=schedule.launcher,
            resources=schedule.resources,
            requested_by=schedule.requested_by or f"schedule {schedule.name}",
            schedule=schedule,
            then=schedule.then,
        )
        message = f"v{run.version} on the data set “{dataset.name}”."
        by = schedule.requested_by
        note(schedule, ScheduleEventKind.STARTED, message, by=by, now=now, slot=due, run=run)
    return run


def _snapshot(schedule: RetrainingSchedule, due: datetime) -> Dataset:
    """The data set of the days before `due`, with the labels that were known then: the same
    whenever it is made, so one that a worker left behind is used, and one that another worker
    finished while we made ours.

    Raises InvalidDataset.
    """
    name = f"{schedule.name}-{schedule.days}d-{due:%Y%m%d-%H%M%S}"
    found = Dataset.objects.filter(name=name, preset=TRAFFIC)
    if made := found.first():
        return made
    options = schedule.typed_options
    delay = options.label_delay_us if isinstance(options, Options) else None
    try:
        return snapshot_create(
            name=name,
            days=schedule.days,
            as_of=due,
            label_delay=LABEL_DELAY if delay is None else delay,
            model=schedule.model.name,
        )
    except (InvalidDataset, IntegrityError):
        if made := found.first():
            return made
        raise


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
            note(schedule, ScheduleEventKind.FAILED, reason, by=by, now=now, slot=due)


def _tell_waiting(
    schedule: RetrainingSchedule, reason: str, due: datetime | None, now: datetime
) -> None:
    """Say what it waits for, once for each thing that it waits for."""
    with transaction.atomic():
        changed = _held(schedule).exclude(message=reason).update(message=reason, message_at=now)
        if changed:
            note(schedule, ScheduleEventKind.WAITING, reason, now=now, slot=due)


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


def _renew(schedule: RetrainingSchedule) -> None:
    _held(schedule).update(lease_until=_lease(timezone.now()))
