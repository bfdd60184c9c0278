"""What Celery runs. Each task translates and calls one function."""

import os
from typing import Any

from celery import shared_task
from django.utils import timezone

from training import schedules, services
from training.execution import run_execute


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def run_train(self: Any, *, run_id: str) -> None:
    """Execute a queued training run. It is never retried: a failed run is started again by a
    person, who has read why."""
    run_execute(run_id, worker=f"{self.request.hostname}:{os.getpid()}")


@shared_task  # type: ignore[untyped-decorator]
def fail_abandoned_runs() -> None:
    """Every 15 s: end runs whose worker has died, and send lost messages again."""
    services.runs_recover(now=timezone.now())


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def run_schedule(self: Any, *, schedule_id: int) -> None:
    """At each of its times, or on request: make the run of a schedule, once."""
    worker = f"{self.request.hostname}:{os.getpid()}"
    schedules.schedule_run_due(schedule_id, now=timezone.now(), worker=worker)


@shared_task  # type: ignore[untyped-decorator]
def run_due_schedules() -> None:
    """Every 15 s: catch up what was missed, and try again what had to wait."""
    schedules.schedules_send_due(now=timezone.now())
