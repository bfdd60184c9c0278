"""What the worker that holds a run changes.

Every change is one conditional update on the claim: a worker that has lost its run, because its
lease passed or because the run was ended, changes nothing any more.
"""

import enum
import uuid
from datetime import datetime, timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from deployments.models import CHAMPION, Alias, ModelVersion, RegisteredModel
from deployments.services import version_register
from engine.bundle import MANIFEST, publish
from engine.errors import RunRefused, SentinelleError
from engine.store import Store, open_store
from training.models import RunState, TrainingRun
from training.pipeline.run_folder import BUNDLE, REPORT
from training.pipeline.spec import Champion, RuleSpec, RunSpec, decode_options

REGISTRATION = "registration"


class Claim(enum.Enum):
    """What a worker's claim on a run is worth after a heartbeat."""

    HELD = "held"
    CANCELLED = "cancelled"
    LOST = "lost"


def run_claim(run_id: str, *, worker: str, now: datetime) -> TrainingRun | None:
    """Take a queued run for `worker`. None when it is not queued any more, or never was."""
    claimed = TrainingRun.objects.filter(pk=run_id, state=RunState.QUEUED).update(
        state=RunState.RUNNING,
        claimed_by=worker,
        started_at=now,
        heartbeat_at=now,
        lease_until=_lease(now),
        stage="start",
    )
    if claimed != 1:
        return None
    return TrainingRun.objects.select_related("model", "dataset", "rule_set").get(pk=run_id)


def run_prepare(run: TrainingRun) -> None:
    """Write the run's `spec.json`, which is all that the training program is told."""
    spec = RunSpec(
        run_id=str(run.pk),
        model=run.model.name,
        version=run.version,
        dataset=f"{settings.DATA_DIR}/{run.dataset.location}/data.parquet",
        dataset_fingerprint=run.dataset.fingerprint,
        rules=RuleSpec(name=run.rule_set.name, toml=run.rule_set.source),
        sample=run.sample,
        seed=run.seed,
        options=decode_options(run.options),
        champion=_champion(run.model),
    )
    open_store(run.folder).write("spec.json", msgspec.json.encode(spec))


def _champion(model: RegisteredModel) -> Champion | None:
    """The version that serves now, to be compared with."""
    alias = Alias.objects.filter(model=model, name=CHAMPION).select_related("version").first()
    if alias is None:
        return None
    serving = alias.version
    return Champion(
        version=serving.version,
        location=f"{settings.ARTIFACTS_DIR}/{serving.location}",
        manifest_sha256=serving.manifest_sha256,
    )


def run_heartbeat(
    run_id: uuid.UUID, *, worker: str, progress: dict[str, Any], now: datetime
) -> Claim:
    """Renew the lease and copy the program's progress (`stage`, `fraction`, `message`)."""
    held = _held(run_id, worker)
    renewed = held.update(
        heartbeat_at=now,
        lease_until=_lease(now),
        stage=progress.get("stage", "start"),
        fraction=progress.get("fraction", 0.0),
        message=progress.get("message", "")[:300],
    )
    if renewed != 1:
        return Claim.LOST
    wanted = held.filter(cancel_requested_at__isnull=True).exists()
    return Claim.HELD if wanted else Claim.CANCELLED


def run_finish(run_id: uuid.UUID, *, worker: str, ended: str, now: datetime) -> bool:
    """Book what the program reported: a version, or why there is none.

    Args:
        ended: how the program ended, in words; the reason when it left no report.

    Returns:
        False when the worker no longer holds the run; nothing was then written.
    """
    run = TrainingRun.objects.select_related("model").get(pk=run_id)
    report = _read_report(run)
    if report is None:
        reason = f"The training program ended without a report ({ended})."
        if "SIGKILL" in ended:
            reason += (
                " The system does that when memory runs out: give --memory-limit, so that the run "
                "plans for less, or --sample."
            )
        return run_fail(run_id, worker=worker, error=reason, now=now)
    if report["status"] != "succeeded":
        return run_fail(
            run_id,
            worker=worker,
            stage=report["stage"],
            error=report["error"],
            report=report,
            now=now,
        )
    try:
        return _register(run, worker, report, now)
    except (SentinelleError, OSError) as error:
        return run_fail(
            run_id,
            worker=worker,
            stage=REGISTRATION,
            error=f"The version could not be registered: {error}",
            report=report,
            now=now,
        )


def run_fail(run_id: uuid.UUID, *, worker: str, error: str, now: datetime, **changes: Any) -> bool:
    """End the run as failed, at the stage that it is in unless `changes` has another. False when
    the worker no longer holds it."""
    ended = _held(run_id, worker).update(
        state=RunState.FAILED, error=error, finished_at=now, lease_until=None, **changes
    )
    return ended == 1


def run_end_cancelled(run_id: uuid.UUID, *, worker: str, now: datetime) -> bool:
    """End the run as cancelled, once its program has ended. False when it is no longer held."""
    ended = _held(run_id, worker).update(
        state=RunState.CANCELLED, finished_at=now, lease_until=None
    )
    return ended == 1


def _register(run: TrainingRun, worker: str, report: dict[str, Any], now: datetime) -> bool:
    """Publish the bundle and insert its version, in one transaction with the run's end.

    A worker that dies between the two leaves files that nothing refers to; the next run of the
    same version clears them away.
    """
    folder, artifacts = open_store(run.folder), open_store(settings.ARTIFACTS_DIR)
    location = f"{run.model.name}/v{run.version}"
    with transaction.atomic():
        # Nobody else can end this run, nor start another for its version, until we commit.
        held = _held(run.pk, worker).select_for_update().first()
        if held is None:
            return False
        if held.cancel_requested_at is not None:
            return run_end_cancelled(run.pk, worker=worker, now=now)
        _discard_unregistered(run.model, run.version, artifacts, location)
        publish(folder, BUNDLE, artifacts, location, report["manifest_sha256"])
        version = version_register(
            model=run.model,
            version=run.version,
            location=location,
            manifest_sha256=report["manifest_sha256"],
            metrics=report["metrics"],
            deployable=report["deployable"],
            training_run_id=run.pk,
            rule_set=held.rule_set,
            created_by=run.requested_by,
        )
        _held(run.pk, worker).update(
            state=RunState.SUCCEEDED,
            model_version=version,
            report=report,
            stage="done",
            fraction=1.0,
            message="",
            finished_at=now,
            lease_until=None,
        )
    return True


def _discard_unregistered(
    model: RegisteredModel, version: str, artifacts: Store, location: str
) -> None:
    if ModelVersion.objects.filter(model=model, version=version).exists():
        raise RunRefused(f"{model.name} v{version} was registered meanwhile.")
    # The manifest first: a bundle is one only while it has it.
    for name in sorted(artifacts.list(location), key=lambda name: not name.endswith(MANIFEST)):
        artifacts.delete(name)


def _read_report(run: TrainingRun) -> dict[str, Any] | None:
    folder = open_store(run.folder)
    if not folder.exists(REPORT):
        return None
    report: dict[str, Any] = msgspec.json.decode(folder.read(REPORT))
    return report


def _held(run_id: uuid.UUID, worker: str) -> QuerySet[TrainingRun]:
    return TrainingRun.objects.filter(pk=run_id, state=RunState.RUNNING, claimed_by=worker)


def _lease(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.TRAINING_LEASE_SECONDS)
