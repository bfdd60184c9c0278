"""What a worker does with one training run, from its claim to its end."""

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from engine.errors import ObjectMissing, SentinelleError
from engine.store import Store, open_store
from training import claims
from training.claims import Claim
from training.launchers import Launcher, launcher_named
from training.models import TrainingRun

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0
T = TypeVar("T")


def run_execute(run_id: str, *, worker: str) -> None:
    """Claim a queued run, start its program, follow it and book how it ended.

    Nothing happens when the run is not queued: it was sent twice, cancelled or ended. The program
    never outlives this call.

    Args:
        worker: who claims; a random part is added, so that two claims are never alike.
    """
    worker = f"{worker}:{uuid.uuid4().hex[:8]}"
    run = claims.run_claim(run_id, worker=worker, now=timezone.now())
    if run is None:
        logger.info("Run %s is not queued any more: nothing to do", run_id)
        return
    logger.info("Run %s (%s) starts", run.pk, run)
    try:
        launcher = launcher_named(run.launcher)
        claims.run_prepare(run)
        handle = launcher.start(run.folder)
    except (OSError, SentinelleError) as error:
        reason = f"The training program could not be started: {error}"
        claims.run_fail(run.pk, worker=worker, error=reason, now=timezone.now())
        return
    try:
        _follow(run, worker, launcher, handle)
    except BaseException as error:
        launcher.cancel(handle)
        # Not only errors: a worker that is told to stop raises SystemExit here.
        failed = isinstance(error, Exception)
        reason = f"The worker failed: {error!r}." if failed else "The worker was stopped."
        claims.run_fail(run.pk, worker=worker, error=reason, now=timezone.now())
        raise
    finally:
        launcher.cancel(handle)


def _follow(run: TrainingRun, worker: str, launcher: Launcher, handle: Any) -> None:
    """Renew the lease and copy the progress every second until the program or the claim ends."""
    folder = open_store(run.folder)
    while True:
        ended = launcher.poll(handle)
        claim = _patiently(
            lambda: claims.run_heartbeat(
                run.pk, worker=worker, progress=_progress(folder), now=timezone.now()
            )
        )
        if claim is Claim.LOST:
            logger.warning("Run %s: the claim is lost; its program is stopped", run.pk)
            return
        if claim is Claim.CANCELLED:
            launcher.cancel(handle)
            claims.run_end_cancelled(run.pk, worker=worker, now=timezone.now())
            logger.info("Run %s is cancelled", run.pk)
            return
        if ended is not None:
            _finish(run, worker, ended)
            return
        time.sleep(POLL_SECONDS)


def _finish(run: TrainingRun, worker: str, ended: str) -> None:
    _patiently(lambda: claims.run_finish(run.pk, worker=worker, ended=ended, now=timezone.now()))
    run.refresh_from_db(fields=["state", "stage", "error"])
    logger.info("Run %s %s %s", run.pk, run.state, run.error)


def _progress(folder: Store) -> dict[str, Any]:
    try:
        progress: dict[str, Any] = msgspec.json.decode(folder.read("progress.json"))
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
            time.sleep(POLL_SECONDS)
