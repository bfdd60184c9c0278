"""The third guard of the training machines: switches off those that nobody needs.

It trusts neither a machine nor the steps of its run: it asks Google once a minute which machines
with our label are on, and looks up what their runs are doing. docs/machines.md has the other two
guards.
"""

import logging
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError
from django.db.models import Q

from deployments.gcp import machines
from deployments.gcp.errors import CloudError
from deployments.gcp.machines import Listed
from engine.errors import ObjectMissing, StoreUnavailable
from engine.store import open_store
from training.launchers.vm import KEEP, RUN, release
from training.models import ACTIVE, RunState, TrainingRun
from training.pipeline.run_folder import PROGRESS
from training.transitions import note

logger = logging.getLogger(__name__)
BY = "machine guard"
# How long a machine may be on without a run that we know: it may be about to get one, or belong to
# somebody whose database is another one.
GRACE_SECONDS = 600.0
SIGHTING_SECONDS = 7 * 86_400
# Google lets a machine be on for at most this long; and how much longer we look after it.
LONGEST, AFTER = timedelta(days=120), timedelta(days=1)
ON = ("PROVISIONING", "STAGING", "RUNNING", "REPAIRING")


class Verdict(NamedTuple):
    """Why a machine has to be off; how long it must have been seen so before."""

    why: str
    grace_s: float = 0.0
    run: TrainingRun | None = None


def machines_guard(*, now: datetime, grace_s: float = GRACE_SECONDS) -> int:
    """Stop the machines that nobody needs; how many were told to.

    Times are ours: `now`, and when this function saw a machine first. The machines' clocks and
    Google's are not compared with ours.
    """
    return sum(
        _guard_alone(machine, now, grace_s)
        for project in _projects(now)
        for machine in _listed(project)
    )


def _projects(now: datetime) -> set[str]:
    """Where there may be machines: the settings' project, and those of runs that are going on or
    ended so lately that Google's own limit may not have stopped their machines yet."""
    runs = TrainingRun.objects.filter(
        Q(state__in=ACTIVE) | Q(finished_at__gt=now - LONGEST - AFTER), launcher="vm"
    ).values_list("resources", "finished_at")
    given = {
        resources.get("project", "")
        for resources, finished_at in runs
        if finished_at is None or now - finished_at < _limit(resources) + AFTER
    }
    return {settings.GOOGLE_CLOUD_PROJECT, *given} - {""}


def _limit(resources: Mapping[str, Any]) -> timedelta:
    """How long its machine could be on."""
    seconds = resources.get("max_run_s")
    return timedelta(seconds=seconds) if isinstance(seconds, int) else LONGEST


def _listed(project: str) -> list[Listed]:
    try:
        return machines.labelled(project)
    except CloudError as error:
        # Where no machine was ever asked for, Compute Engine need not be enabled.
        is_used = TrainingRun.objects.filter(launcher="vm").exists()
        level = logging.ERROR if is_used else logging.DEBUG
        logger.log(level, "The training machines of %s can't be guarded: %s", project, error)
        return []


def _guard_alone(machine: Listed, now: datetime, grace_s: float) -> bool:
    """Guard a machine; what goes wrong with it must not keep the others on."""
    try:
        return _guard(machine, now, grace_s)
    except Exception:
        logger.exception("The machine %s can't be guarded", machine.place)
        return False


def _guard(machine: Listed, now: datetime, grace_s: float) -> bool:
    verdict = _verdict(machine, now, grace_s)
    if verdict is None or not _seen_long_enough(machine, verdict, now):
        return False
    try:
        if machine.status in ON:
            machines.stop(machine.place)
            _tell(machine, verdict, now)
            return True
        if machine.metadata.get(RUN) and machine.status == "TERMINATED":
            release(machines.describe(machine.place), machine.metadata[RUN])
    except CloudError as error:
        logger.error(
            "The machine %s should be off because %s; it could not be stopped: %s",
            machine.place, verdict.why, error,
        )  # fmt: skip
    return False


def _verdict(machine: Listed, now: datetime, grace_s: float) -> Verdict | None:
    """Why the machine should be off, or free for another run if it is off; None if it is needed."""
    run_id = machine.metadata.get(RUN, "")
    if not run_id:
        if machine.metadata.get(KEEP) == "true":
            return None
        return Verdict("it has no run", grace_s)
    run = _run(run_id)
    if run is None:
        return Verdict(f"its run {run_id} is not in our database", grace_s)
    if run.state not in ACTIVE:
        return Verdict(f"its run is over ({run.state})", run=run)
    if run.launcher != "vm":
        return Verdict(f"its run has another place ({run.launcher})", grace_s, run)
    if machine.status in ON and _is_silent(run, now):
        last = f"{run.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC"
        return Verdict(f"its program gave no sign of life since {last}", run=run)
    return None


def _run(run_id: str) -> TrainingRun | None:
    try:
        return TrainingRun.objects.filter(pk=uuid.UUID(run_id)).first()
    except ValueError:
        return None


def _is_silent(run: TrainingRun, now: datetime) -> bool:
    """Whether nothing was heard of its program for twice as long as makes a run fail: whoever
    should have failed it and stopped the machine did not."""
    if run.state != RunState.RUNNING or run.heartbeat_at is None:
        return False
    if now - run.heartbeat_at <= timedelta(seconds=2 * settings.TRAINING_SILENCE_SECONDS):
        return False
    # Nobody may have looked: then the run folder has another heartbeat than the last one seen.
    try:
        content = open_store(run.folder).read(PROGRESS)
        progress = msgspec.json.decode(content, type=dict[str, Any])
    except ObjectMissing:
        return True
    except (StoreUnavailable, msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("The progress of the run %s can't be read: %s", run.pk, error)
        return False
    return bool(progress.get("heartbeat_at", "") == run.heartbeat_text)


def _seen_long_enough(machine: Listed, verdict: Verdict, now: datetime) -> bool:
    """Whether the machine was seen so, since its last start, as long ago as the verdict's grace."""
    if not verdict.grace_s:
        return True
    key = f"machine-guard:{machine.place.path}:{machine.started_at}:{verdict.why}".replace(" ", "_")
    seen_at = float(cache.get_or_set(key, now.timestamp(), SIGHTING_SECONDS) or now.timestamp())
    return now.timestamp() - seen_at >= verdict.grace_s


def _tell(machine: Listed, verdict: Verdict, now: datetime) -> None:
    message = f"The machine {machine.place} was on although {verdict.why}: it was told to stop."
    logger.warning(message)
    if verdict.run is None:
        return
    try:
        note(verdict.run.pk, message, BY, now)
    except (DatabaseError, TrainingRun.DoesNotExist):
        logger.exception("The timeline of the run %s does not say so", verdict.run.pk)
