"""What a worker does with one training run.

A run is followed in steps: ask its place to start it, then look at it until it has ended. With an
attached launcher the worker that starts the program stays and takes every step itself. With a
detached one each step may be another worker's: the row says when the next is due, and a worker
that dies during a step leaves a lease that passes.
"""

import logging
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import msgspec
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from deployments.gcp.errors import CloudError
from deployments.leases import lease_kept
from engine.errors import ObjectMissing, RunRefused, SentinelleError, StoreUnavailable
from engine.store import open_store
from training import claims, registration
from training.claims import Claim
from training.launchers import Launcher, PlaceBusy, launcher_named
from training.models import RunState, TrainingRun
from training.pipeline.run_folder import PROGRESS

logger = logging.getLogger(__name__)
DATABASE_RETRY_SECONDS = 1.0
LONGEST_WAIT = timedelta(seconds=60)
# The end of a run at the same place wakes what waits for it (after.py).
LONGEST_BUSY_WAIT = timedelta(minutes=5)
T = TypeVar("T")


class Hold(NamedTuple):
    """A run that this worker has."""

    run: TrainingRun
    worker: str
    launcher: Launcher

    @property
    def who(self) -> dict[str, Any]:
        """What claims.py is told with every change."""
        return {"run_id": self.run.pk, "worker": self.worker, "now": timezone.now()}


def run_execute(run_id: str, *, worker: str) -> None:
    """Take a queued run and stay with it until it ends, or take the step that is due.

    Nothing happens when none is due: the message was sent twice, or the run has ended. The program
    of an attached launcher never outlives this call.

    Args:
        worker: who takes it; a random part is added, so that two claims are never alike.
    """
    hold = _take(run_id, f"{worker}:{uuid.uuid4().hex[:8]}")
    if hold is None:
        logger.info("Run %s is not due: nothing to do", run_id)
    elif hold.launcher.is_attached:
        _stay(hold)
    else:
        _visit(hold)


def _take(run_id: str, worker: str) -> Hold | None:
    run = claims.run_claim(run_id, worker=worker, now=timezone.now()) or claims.run_take(
        run_id, worker=worker, now=timezone.now()
    )
    if run is None:
        return None
    try:
        return Hold(run, worker, launcher_named(run.launcher))
    except RunRefused as refusal:
        claims.run_fail(run.pk, worker=worker, error=str(refusal), now=timezone.now())
        return None


def _stay(hold: Hold) -> None:
    """Take every step of a run, until it ends or is lost."""
    try:
        while _step(hold) is not None:
            time.sleep(hold.launcher.poll_seconds)
    except BaseException as error:
        hold.launcher.cancel(hold.run.handle)
        # Not only errors: a worker that is told to stop raises SystemExit here.
        failed = isinstance(error, Exception)
        reason = f"The worker failed: {error!r}." if failed else "The worker was stopped."
        claims.run_fail(error=reason, **hold.who)
        raise
    finally:
        hold.launcher.cancel(hold.run.handle)


def _visit(hold: Hold) -> None:
    """Take one step, and leave the run to whoever takes the next."""
    try:
        again = _step(hold)
    except Exception as error:
        # The program goes on without us: what fails here may work at the next step.
        logger.exception("Run %s: a step failed", hold.run.pk)
        again = _wait_for_answer(hold, f"The worker failed: {error!r}.")
    if again is not None:
        claims.run_let_go(hold.run.pk, worker=hold.worker, again_at=timezone.now() + again)


def _step(hold: Hold) -> timedelta | None:
    """Ask the place to start the run, or look at it. How long until the next step; None when there
    is none for this worker."""
    take = _start if hold.run.state == RunState.STARTING else _look
    # Publishing to a bucket may take minutes.
    with lease_kept(f"Run {hold.run.pk}", lambda: claims.run_renew(**hold.who)):
        try:
            return take(hold)
        except CloudError as error:
            return _without_its_place(hold, error)
        except StoreUnavailable as error:
            return _wait_for_answer(hold, str(error))


def _start(hold: Hold) -> timedelta | None:
    run, launcher = hold.run, hold.launcher
    claim = _patiently(lambda: claims.run_standing(run, worker=hold.worker))
    if claim is Claim.LOST:
        return None
    if claim is Claim.CANCELLED:
        _end_unstarted(hold)
        return None
    try:
        claims.run_prepare(run)
        handle = launcher.start(claims.run_launch(run))
    except PlaceBusy as busy:
        return _queue_again(hold, busy)
    except (OSError, SentinelleError) as error:
        if isinstance(error, StoreUnavailable) or getattr(error, "is_transient", False):
            raise
        reason = f"The training program could not be started: {error}"
        claims.run_fail(error=reason, **hold.who)
        return None
    run.handle = handle
    if _patiently(lambda: claims.run_started(handle=handle, **hold.who)):
        logger.info("Run %s (%s) is at its place: %s", run.pk, run, handle)
        run.state = RunState.RUNNING
        return _soon(hold)
    run.refresh_from_db(fields=["state"])
    if not run.is_active:
        # It was ended while the place was asked, by someone who knew no handle.
        launcher.cancel(handle)
    return None


def _end_unstarted(hold: Hold) -> None:
    """End a run that was cancelled before its place has said that it has it; the place may all the
    same."""
    found = hold.launcher.find(claims.run_launch(hold.run))
    if found:
        hold.launcher.cancel(found)
    message = "" if found else "It was cancelled before it started."
    _patiently(lambda: claims.run_end_cancelled(message=message, **hold.who))


def _queue_again(hold: Hold, busy: PlaceBusy) -> timedelta | None:
    """Let a run wait for its place, which is asked again the later the longer it has waited."""
    now = timezone.now()
    wait = _between(_soon(hold), (now - hold.run.created_at) / 4, LONGEST_BUSY_WAIT)
    again_at = None if hold.launcher.is_attached else now + wait
    if not claims.run_queue_again(reason=str(busy), again_at=again_at, **hold.who):
        # Nothing was started for it.
        claims.run_end_cancelled(message="It was cancelled before it started.", **hold.who)
    return None


def _look(hold: Hold) -> timedelta | None:
    """Copy the run's progress and book its end, if there is one."""
    run, launcher = hold.run, hold.launcher
    claim = _patiently(lambda: claims.run_standing(run, worker=hold.worker))
    if claim is Claim.HELD:
        seen = launcher.poll(run.handle)
        progress = _progress(run)
        claim = _patiently(lambda: claims.run_heartbeat(progress=progress, seen=seen, **hold.who))
    if claim is Claim.LOST:
        logger.warning("Run %s: another worker has it, or it was ended", run.pk)
        return None
    if claim is Claim.CANCELLED:
        launcher.cancel(run.handle)
        _patiently(lambda: claims.run_end_cancelled(**hold.who))
        logger.info("Run %s is cancelled", run.pk)
        return None
    if seen.ended is not None:
        return _finish(hold, seen.ended)
    if run.unreachable_since is not None:
        _patiently(lambda: claims.run_reachable(**hold.who))
    return _unless_silent(hold)


def _finish(hold: Hold, ended: str) -> timedelta | None:
    _patiently(lambda: registration.run_finish(ended=ended, **hold.who))
    hold.run.refresh_from_db(fields=["state", "stage", "error"])
    logger.info("Run %s %s %s", hold.run.pk, hold.run.state, hold.run.error)
    return None


def _unless_silent(hold: Hold) -> timedelta | None:
    """Fail the run when its program has given no sign of life for too long."""
    now = timezone.now()
    run = TrainingRun.objects.only("heartbeat_at", "started_at").get(pk=hold.run.pk)
    limit = settings.TRAINING_SILENCE_SECONDS
    last_sign = run.heartbeat_at
    if last_sign is None:
        # A machine has to start, and an image to arrive there.
        limit, last_sign = settings.TRAINING_FIRST_SIGN_SECONDS, run.started_at or now
    if now - last_sign <= timedelta(seconds=limit):
        return _soon(hold)
    if registration.read_report(hold.run) is not None:
        return _finish(hold, "its place has not noticed")
    claims.run_fail(
        error=f"The training program gave no sign of life since {last_sign:%Y-%m-%d %H:%M:%S} UTC, "
        f"which is more than {_in_words(limit)}. It was told to stop.",
        **hold.who,
    )
    return None


def _without_its_place(hold: Hold, error: CloudError) -> timedelta | None:
    """A program that has reported needs no answer of its place."""
    try:
        if hold.run.state == RunState.RUNNING and registration.read_report(hold.run) is not None:
            return _finish(hold, "its place does not answer")
    except StoreUnavailable as another:
        return _wait_for_answer(hold, str(another))
    return _wait_for_answer(hold, str(error))


def _wait_for_answer(hold: Hold, reason: str) -> timedelta | None:
    """Ask again, the later the longer there is no answer, until patience ends."""
    since = _patiently(lambda: claims.run_unreachable(reason=reason, **hold.who))
    waited = timezone.now() - since
    if waited <= timedelta(seconds=settings.TRAINING_PATIENCE_SECONDS):
        logger.warning("Run %s: %s", hold.run.pk, reason)
        return _between(_soon(hold), waited / 2, LONGEST_WAIT)
    tried = f"{reason} It was tried for {_in_words(settings.TRAINING_PATIENCE_SECONDS)}."
    if TrainingRun.objects.filter(pk=hold.run.pk, cancel_requested_at=None).exists():
        claims.run_fail(error=tried, **hold.who)
    else:
        claims.run_end_cancelled(message=tried, **hold.who)
    return None


def _progress(run: TrainingRun) -> dict[str, Any]:
    try:
        progress: dict[str, Any] = msgspec.json.decode(open_store(run.folder).read(PROGRESS))
    except ObjectMissing:
        return {}  # the program has only just started
    return progress


def _patiently(change: Callable[[], T]) -> T:
    """Try again for as long as a lease lasts while the database can't be reached: a restart of
    the database must not cost hours of training."""
    give_up = time.monotonic() + settings.TRAINING_LEASE_SECONDS
    while True:
        try:
            return change()
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > give_up or connection.in_atomic_block:
                raise
            logger.warning("The database can't be reached, trying again: %s", error)
            connection.close()
            time.sleep(DATABASE_RETRY_SECONDS)


def _soon(hold: Hold) -> timedelta:
    return timedelta(seconds=hold.launcher.poll_seconds)


def _between(least: timedelta, wish: timedelta, most: timedelta) -> timedelta:
    return max(least, min(wish, most))


def _in_words(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
