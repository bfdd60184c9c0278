"""What Celery runs. Each task translates and calls one function."""

import os
from typing import Any

from billiard.process import current_process
from celery import shared_task
from django.utils import timezone

from training import services
from training.execution import run_execute


@shared_task(bind=True)  # type: ignore[untyped-decorator]
def run_train(self: Any, *, run_id: str) -> None:
    """Execute a queued training run. It is never retried: a failed run is started again by a
    person, who has read why."""
    pooled = current_process().name != "MainProcess"
    parent = os.getppid()
    run_execute(
        run_id,
        worker=f"{self.request.hostname}:{os.getpid()}",
        # A pool process whose worker was killed would go on alone, unseen by any supervisor.
        worker_alive=lambda: not pooled or os.getppid() == parent,
    )


@shared_task  # type: ignore[untyped-decorator]
def fail_abandoned_runs() -> None:
    """Every 15 s: end runs whose worker has died, and send lost messages again."""
    services.runs_recover(now=timezone.now())
