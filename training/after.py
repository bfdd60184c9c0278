"""What follows the end of a run, whoever ended it."""

import logging
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q

from training.conclusions import run_conclude
from training.launchers import launcher_named
from training.models import RunState, TrainingRun
from training.run_costs import book_cost
from training.transitions import ENDED, note

logger = logging.getLogger(__name__)

Hook = Callable[[TrainingRun, datetime], None]
HOOKS: tuple[Hook, ...] = (book_cost, run_conclude)
"""What else is done with a run that has ended, in order. A hook that raises, or whose worker dies,
is called again, with those before it: each finds what it has done already."""


def run_ended(run_id: str, *, worker: str, now: datetime) -> bool:
    """Leave nothing of the run at its place, call the hooks, and note that this is done. False when
    it was done before, or another worker does it."""
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    unsettled = TrainingRun.objects.filter(pk=run_id, state__in=ENDED, settled_at=None)
    lease = now + timedelta(seconds=settings.TRAINING_LEASE_SECONDS)
    if unsettled.filter(free).update(lease_until=lease) != 1:
        return False
    run = TrainingRun.objects.select_related("model", "dataset", "model_version").get(pk=run_id)
    _clear_its_place(run, worker, now)
    _wake_who_waits(run, now)
    for hook in HOOKS:
        hook(run, now)
    return unsettled.update(settled_at=now, lease_until=None) == 1


def _clear_its_place(run: TrainingRun, worker: str, now: datetime) -> None:
    if not run.handle:
        return
    try:
        launcher_named(run.launcher).cancel(run.handle)
    except Exception as error:
        # The guards of the place stop what is left: see docs/machines.md.
        logger.exception("Run %s: its place could not be cleared", run.pk)
        note(uuid.UUID(str(run.pk)), f"Its place could not be cleared: {error}", worker, now)


def _wake_who_waits(run: TrainingRun, now: datetime) -> None:
    """Have the runs that wait for a place of that kind ask again."""
    waiting = TrainingRun.objects.filter(state=RunState.QUEUED, launcher=run.launcher)
    waiting.filter(next_step_at__gt=now).update(next_step_at=now)
