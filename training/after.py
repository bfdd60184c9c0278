"""What follows the end of a run, whoever ended it."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from deployments.gcp.errors import CloudError
from deployments.leases import lease_kept
from engine.errors import RunRefused
from training.claims import run_launch
from training.conclusions import run_conclude
from training.launchers import Launcher, launcher_named
from training.models import RunState, TrainingRun
from training.run_costs import book_cost
from training.transitions import ENDED, note

logger = logging.getLogger(__name__)

Hook = Callable[[TrainingRun, datetime], None]
HOOKS: tuple[Hook, ...] = (book_cost, run_conclude)
"""What else is done with a run that has ended, in order. When one raises, or the worker dies, all
are called again: each finds what it has done already."""
# For how long what follows an end is tried again.
SETTLE_WITHIN = timedelta(days=1)
SOONEST, LATEST = timedelta(seconds=60), timedelta(minutes=10)


class _Settling:
    """A worker's claim on a run that has ended. Its token is the lease itself: whoever takes the
    run over writes a later one."""

    def __init__(self, run_id: str) -> None:
        self._rows = TrainingRun.objects.filter(pk=run_id, state__in=ENDED, settled_at=None)
        self._lease: datetime | None = None

    def take(self, now: datetime) -> bool:
        """Claim the run, unless it is settled or another worker has it."""
        return self._change(self._rows.filter(Q(lease_until=None) | Q(lease_until__lt=now)), now)

    def renew(self) -> None:
        self._change(self._held(), timezone.now())

    def leave(self, until: datetime) -> None:
        """Let nobody take the run before then."""
        self._held().update(lease_until=until)

    def end(self, now: datetime) -> bool:
        """Note that all is done; False when another worker has taken it over."""
        return self._held().update(settled_at=now, lease_until=None) == 1

    def _held(self) -> QuerySet[TrainingRun]:
        return self._rows.filter(lease_until=self._lease)

    def _change(self, rows: QuerySet[TrainingRun], now: datetime) -> bool:
        lease = now + timedelta(seconds=settings.TRAINING_LEASE_SECONDS)
        if rows.update(lease_until=lease) != 1:
            return False
        self._lease = lease
        return True


def run_ended(run_id: str, *, worker: str, now: datetime) -> bool:
    """Leave nothing of the run at its place, call the hooks, and note that this is done. False when
    it was done before, another worker does it, or something of it has to be tried again.

    What fails keeps nothing else from being done. It is tried again for a day.
    """
    claim = _Settling(run_id)
    if not claim.take(now):
        return False
    run = TrainingRun.objects.select_related("model", "dataset", "model_version").get(pk=run_id)
    faults: list[Exception] = []
    with lease_kept(f"Run {run_id}", claim.renew):
        cleared = _clear_its_place(run, worker, now)
        _wake_who_waits(run, now)
        for hook in HOOKS:
            try:
                hook(run, now)
            except Exception as error:
                logger.exception("Run %s: what follows its end failed", run_id)
                faults.append(error)
    waited = now - (run.finished_at or now)
    if (faults or not cleared) and waited < SETTLE_WITHIN:
        claim.leave(now + max(SOONEST, min(waited / 4, LATEST)))
        if faults:
            raise faults[0]
        return False
    for fault in faults:
        _note_once(run, f"What follows its end could not be done: {fault!r}", worker, now)
    return claim.end(now)


def _clear_its_place(run: TrainingRun, worker: str, now: datetime) -> bool:
    """End what was started for the run; say whether nothing is left."""
    try:
        launcher = launcher_named(run.launcher)
        handle = run.handle or _find(run, launcher)
        if handle:
            launcher.cancel(handle)
    except RunRefused as refusal:
        # There is no such launcher any more, and it will not come back by itself.
        _note_once(run, f"Its place could not be cleared: {refusal}", worker, now)
    except Exception as error:
        logger.exception("Run %s: its place could not be cleared", run.pk)
        _note_once(run, f"Its place could not be cleared: {error}", worker, now)
        return False
    return True


def _find(run: TrainingRun, launcher: Launcher) -> str:
    """A run may end before its place has answered, and something was started all the same."""
    if run.started_at is None or launcher.is_attached:
        return ""
    try:
        return launcher.find(run_launch(run))
    except CloudError as error:
        if error.is_transient:
            raise
        # Who may not even look has started nothing: that was in the run's own error.
        logger.warning("Run %s: its place does not say what it has: %s", run.pk, error)
        return ""


def _note_once(run: TrainingRun, message: str, by: str, now: datetime) -> None:
    if not run.events.filter(message=message).exists():
        note(run.pk, message, by, now)


def _wake_who_waits(run: TrainingRun, now: datetime) -> None:
    """Have the runs that wait for a place of that kind ask again."""
    waiting = TrainingRun.objects.filter(state=RunState.QUEUED, launcher=run.launcher)
    waiting.filter(next_step_at__gt=now).update(next_step_at=now)
