"""What Celery runs. Each task translates and calls one function."""

import os
import time
from typing import Any

from celery import shared_task
from django.core.cache import cache
from django.utils import timezone

from training import after, guards, schedule_runs, services, uploads
from training.execution import run_execute

BEAT_KEY = "beat"
"""In the cache: when beat last had something done, in seconds since 1970."""


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def run_train(self: Any, *, run_id: str) -> None:
    """Execute a queued run that the worker stays with. It is never retried: a failed run is started
    again by a person, who has read why."""
    run_execute(run_id, worker=_name(self))


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def step_run(self: Any, *, run_id: str) -> None:
    """Take the first or the next step of a run that no worker stays with."""
    run_execute(run_id, worker=_name(self))


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def after_run(self: Any, *, run_id: str) -> None:
    """Do what follows the end of a run."""
    after.run_ended(run_id, worker=_name(self), now=timezone.now())


@shared_task  # type: ignore[untyped-decorator]
def step_due_runs() -> None:
    """Every 5 s: send the steps that are due, and leave a sign that beat and a worker live."""
    services.runs_step(now=timezone.now())
    cache.set(BEAT_KEY, time.time(), timeout=None)


@shared_task  # type: ignore[untyped-decorator]
def fail_abandoned_runs() -> None:
    """Every 15 s: end runs whose worker has died, and send lost messages again."""
    services.runs_recover(now=timezone.now())


@shared_task  # type: ignore[untyped-decorator]
def guard_machines() -> None:
    """Every 60 s: stop the training machines that nobody needs."""
    guards.machines_guard(now=timezone.now())


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def run_schedule(self: Any, *, schedule_id: int) -> None:
    """At each of its times, or on request: make the run of a schedule, once."""
    schedule_runs.schedule_run_due(schedule_id, now=timezone.now(), worker=_name(self))


@shared_task  # type: ignore[untyped-decorator]
def run_due_schedules() -> None:
    """Every 15 s: catch up what was missed, and try again what had to wait."""
    schedule_runs.schedules_send_due(now=timezone.now())


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def import_upload(self: Any, *, upload_id: int) -> None:
    """Import an uploaded file. It is never retried by itself: the person who sent it sees why."""
    uploads.upload_import(upload_id, worker=_name(self), now=timezone.now())


@shared_task  # type: ignore[untyped-decorator]
def recover_uploads() -> None:
    """Every 15 s: take up files whose worker has died or whose message was lost."""
    uploads.uploads_recover(now=timezone.now())


def _name(task: Any) -> str:
    return f"{task.request.hostname}:{os.getpid()}"
