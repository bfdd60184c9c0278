"""From a run whose program has ended to a registered version, or to why there is none."""

import uuid
from datetime import datetime
from typing import Any

import msgspec
from django.conf import settings
from django.db import transaction

from deployments.models import ModelVersion
from deployments.services import version_insert, version_verified
from engine.bundle import publish
from engine.errors import ObjectMissing, RunRefused, SentinelleError, StoreUnavailable
from engine.store import Store, open_store
from training import transitions
from training.claims import run_end_cancelled, run_fail
from training.models import RunState, TrainingRun
from training.pipeline.failures import TOLD_TO_STOP
from training.pipeline.run_folder import BUNDLE, REPORT

REGISTRATION = "registration"


def run_finish(run_id: uuid.UUID, *, worker: str, ended: str, now: datetime) -> bool:
    """Book what the program reported: a version, or why there is none.

    Args:
        ended: how the program ended, in words; the reason when it left no report.

    Returns:
        False when the worker no longer has the run; nothing was then written.

    Raises:
        StoreUnavailable: the bucket does not answer; nothing was decided.
    """
    run = TrainingRun.objects.select_related("model", "rule_set").get(pk=run_id)
    report = read_report(run)
    if report is None:
        return run_fail(run_id, worker=worker, error=_without_report(ended), now=now)
    if report["status"] != "succeeded":
        return run_fail(
            run_id,
            worker=worker,
            stage=report["stage"],
            error=_with_its_place(report["error"], ended),
            report=report,
            now=now,
        )
    try:
        return _register(run, worker, report, now)
    except StoreUnavailable:
        raise
    except (SentinelleError, OSError) as error:
        return run_fail(
            run_id,
            worker=worker,
            stage=REGISTRATION,
            error=f"The version could not be registered: {error}",
            report=report,
            now=now,
        )


def read_report(run: TrainingRun) -> dict[str, Any] | None:
    """What the program reported last; None when it did not. Raises StoreUnavailable."""
    folder = open_store(run.folder)
    if not folder.exists(REPORT):
        return None
    report: dict[str, Any] = msgspec.json.decode(folder.read(REPORT))
    return report


def _with_its_place(error: str, ended: str) -> str:
    """A program that was told to stop does not know why; its place may."""
    if not error.startswith(TOLD_TO_STOP) or ended.startswith(("exit status", "its place")):
        return error
    return f"{error} At its place: {ended}."


def _without_report(ended: str) -> str:
    reason = f"The training program ended without a report ({ended})."
    if "SIGKILL" in ended:
        reason += (
            " The system does that when memory runs out: give --memory-limit, so that the run "
            "plans for less, or --sample."
        )
    return reason


def _register(run: TrainingRun, worker: str, report: dict[str, Any], now: datetime) -> bool:
    """Publish the bundle, verify it, and then insert its version with the run's end in one short
    transaction.

    A worker that dies before that leaves files that nothing refers to, and that are never deleted:
    they may be another's who is at it. The next attempt at the same version goes on with them if
    they are its own, or publishes beside them. No transaction waits for the bucket.
    """
    digest = report["manifest_sha256"]
    artifacts, folder = open_store(settings.ARTIFACTS_DIR), open_store(run.folder)
    with transaction.atomic():
        if not _still_wanted(run, worker, now):
            return False
        _refuse_registered(run)
    location = _location(run, artifacts, folder)
    publish(folder, BUNDLE, artifacts, location, digest)
    version = version_verified(
        model=run.model,
        version=run.version,
        location=location,
        manifest_sha256=digest,
        metrics=_metrics(report),
        deployable=report["deployable"],
        training_run_id=run.pk,
        rule_set=run.rule_set,
        created_by=run.requested_by,
    )
    with transaction.atomic():
        if not _still_wanted(run, worker, now):
            return False
        version_insert(version)
        return transitions.move(
            run.pk,
            RunState.RUNNING,
            RunState.SUCCEEDED,
            by=worker,
            message=f"{run.model.name} v{run.version} is registered.",
            now=now,
            held_by=worker,
            shown="",
            model_version=version,
            report=report,
            stage="done",
            fraction=1.0,
        )


def _metrics(report: dict[str, Any]) -> dict[str, Any]:
    """Those of the report, with why there are none of the champion: a gate tells it."""
    error = report.get("champion_error")
    return {**report["metrics"], "champion_error": error} if error else report["metrics"]


def _still_wanted(run: TrainingRun, worker: str, now: datetime) -> bool:
    """Whether the worker still has the run and nobody cancelled it. Until the transaction ends
    nobody else can end it, take it, or start another for its version."""
    held = (
        TrainingRun.objects.select_for_update()
        .filter(pk=run.pk, state=RunState.RUNNING, claimed_by=worker)
        .first()
    )
    if held is None:
        return False
    if held.cancel_requested_at is not None:
        run_end_cancelled(run.pk, worker=worker, now=now)
        return False
    return True


def _refuse_registered(run: TrainingRun) -> None:
    if ModelVersion.objects.filter(model=run.model, version=run.version).exists():
        raise RunRefused(f"{run.model.name} v{run.version} was registered meanwhile.")


def _location(run: TrainingRun, artifacts: Store, folder: Store) -> str:
    """Where the run's bundle goes: fraud/v1.0.0, or fraud/v1.0.0-RUN when another bundle of that
    version was left there, whole or in part."""
    usual = f"{run.model.name}/v{run.version}"
    for name in artifacts.list(usual):
        try:
            own = folder.read(BUNDLE + name.removeprefix(usual))
        except ObjectMissing:
            own = None
        if own != artifacts.read(name):
            return f"{usual}-{run.pk.hex[:8]}"
    return usual
