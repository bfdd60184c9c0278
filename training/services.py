"""What changes data sets and training runs.

A run is changed by conditional updates only: whoever ends it first wins. What the worker that
holds a run changes is in claims.py.
"""

import logging
import shutil
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from celery import current_app
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError

from deployments.models import ModelVersion, RegisteredModel, RuleSet
from engine.errors import FieldError, InvalidDataset, RunRefused, SentinelleError
from training.models import ACTIVE, Dataset, RetrainingSchedule, RunState, Then, TrainingRun
from training.pipeline.durations import parse_duration
from training.pipeline.spec import Options, decode_options, encode_options

logger = logging.getLogger(__name__)

# A queued run whose message is older than this gets another; a claim makes doubles harmless.
RESEND_SECONDS = 60


# --- Data sets -----------------------------------------------------------------------------


def dataset_import(
    *,
    name: str,
    files: list[Path],
    preset: str = "canonical",
    mapping: Path | None = None,
    on_bad_rows: str = "stop",
    start: datetime | None = None,
    memory_limit_mb: int | None = None,
    progress: Callable[..., None] | None = None,
) -> Dataset:
    """Import `files` as the data set `name`, whole or not at all.

    Args:
        preset: how the columns are read: the name of one that ships with Sentinelle.
        mapping: a mapping file, instead of a preset.
        on_bad_rows: `stop` imports nothing if a row is bad, `skip` keeps bad rows in a file.
        start: of a mapping that counts hours, instead of its own.
        memory_limit_mb: for sorting; 2 GB unless given.
        progress: called by the import as it goes on.

    Raises:
        InvalidDataset: the name is taken or malformed, or the mapping or the files can't be read.
    """
    # DuckDB: too heavy for the web process
    from training.pipeline.datasets import import_files
    from training.pipeline.mapping import read_mapping

    if settings.DATA_DIR.startswith("gs://"):
        raise InvalidDataset("Data sets are imported into a local folder; DATA_DIR is a bucket.")
    if Dataset.objects.filter(name=name).exists():
        raise InvalidDataset(
            f"There is already a data set “{name}”. Data sets never change: choose another name."
        )
    origin = preset if mapping is None else "mapping file"
    dataset = Dataset(name=name, preset=origin, location=f"{name}-{uuid.uuid4().hex[:12]}")
    _checked(dataset, exclude=["fingerprint", "rows", "frauds"], error=InvalidDataset)
    folder = Path(settings.DATA_DIR) / dataset.location
    try:
        chosen = preset if mapping is None else read_mapping(mapping)
        limit = {} if memory_limit_mb is None else {"memory_limit_mb": memory_limit_mb}
        summary = import_files(files, folder, chosen, on_bad_rows, progress, start=start, **limit)
        dataset.fingerprint = summary.fingerprint
        dataset.rows, dataset.frauds = summary.rows, summary.frauds
        dataset.rejected = summary.rejected
        dataset.first_at, dataset.last_at = summary.first_at, summary.last_at
        dataset.summary = _storable(msgspec.to_builtins(summary))
        _checked(dataset, error=InvalidDataset)
        dataset.save(force_insert=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return dataset


def _storable(value: Any) -> Any:
    """The same without NUL characters, which a bad row may hold and PostgreSQL can't."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(item) for item in value]
    return value


def dataset_delete(dataset: Dataset) -> None:
    """Delete a data set and its files.

    Raises:
        InvalidDataset: a training run used it.
    """
    try:
        dataset.delete()
    except models.ProtectedError:
        raise InvalidDataset(
            f"“{dataset.name}” was used by training runs, which stay reproducible only with it."
        ) from None
    folder = Path(settings.DATA_DIR) / dataset.location
    transaction.on_commit(partial(shutil.rmtree, folder, ignore_errors=True))


# --- Starting ------------------------------------------------------------------------------


def run_create(
    *,
    dataset: str,
    version: str,
    model: str = settings.MODEL_NAME,
    rules: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    options: Options | None = None,
    requested_by: str = "",
    schedule: RetrainingSchedule | None = None,
    then: str = Then.KEEP,
) -> TrainingRun:
    """Create a queued run, and send its message once the transaction commits.

    Args:
        dataset, model, rules: names. No `rules` means those that serve for the model.
        sample: only the most recent rows; the version can then not be promoted.
        options: everything else; without a label delay, that of the data set.
        schedule: the one that makes it.
        then: what is done with its version, see `Then`.

    Raises:
        RunRefused: a name is unknown, the version is malformed, registered or being trained;
            `errors` names the field.
    """
    registered = _named(RegisteredModel, "model", "model", model)
    data: Dataset = _named(Dataset, "dataset", "data set", dataset)
    run = TrainingRun(
        model=registered,
        version=version,
        dataset=data,
        rule_set=_rule_set(registered, rules),
        sample=sample,
        seed=seed,
        options=encode_options(_with_label_delay(options or Options(), data)),
        requested_by=requested_by,
        schedule=schedule,
        then=then,
    )
    _checked(run, error=RunRefused, validate_constraints=False)
    runs_fail_abandoned(now=timezone.now())
    with transaction.atomic():
        _refuse_taken_version(registered, version)
        try:
            with transaction.atomic():
                run.save(force_insert=True)
        except IntegrityError:
            # Another request made it between our look and our insert.
            _refuse_taken_version(registered, version)
            raise
        transaction.on_commit(partial(_send, run.pk))
    return run


def run_restart(run: TrainingRun, *, requested_by: str = "") -> TrainingRun:
    """Start a run that failed or was cancelled again, as a new run with the same parameters.

    Raises:
        RunRefused: it has not ended, or it succeeded, or another run makes its version.
    """
    runs_fail_abandoned(now=timezone.now())
    run.refresh_from_db()
    if not run.can_restart:
        raise RunRefused(
            "Only a run that failed or was cancelled can be started again; "
            f"this one is {run.state}."
        )
    return run_create(
        dataset=run.dataset.name,
        version=run.version,
        model=run.model.name,
        rules=run.rule_set.name,
        sample=run.sample,
        seed=run.seed,
        options=decode_options(run.options),
        requested_by=requested_by,
        then=run.then,
    )


def _with_label_delay(options: Options, dataset: Dataset) -> Options:
    """The options with the label delay that the data set says, where they have none."""
    written = dataset.summary.get("label_delay")
    if options.label_delay_us is not None or written is None:
        return options
    return msgspec.structs.replace(options, label_delay_us=parse_duration(written))


def _named(kind: type[models.Model], field: str, words: str, name: str) -> Any:
    found = kind._default_manager.filter(name=name).first()
    if found is not None:
        return found
    names = list(kind._default_manager.order_by("name").values_list("name", flat=True)[:20])
    there = "there is " + ", ".join(names) if names else "there is none yet"
    message = f"There is no {words} “{name}”; {there}."
    raise RunRefused(message, [FieldError(field, message)])


def _rule_set(model: RegisteredModel, name: str | None) -> RuleSet:
    if name is not None:
        named: RuleSet = _named(RuleSet, "rules", "rule set", name)
        return named
    serving: RuleSet | None = RuleSet.objects.filter(aliases__model=model).first()
    if serving is None:
        message = f"No rule set serves for “{model.name}”; name one, or “none”."
        raise RunRefused(message, [FieldError("rules", message)])
    return serving


def _refuse_taken_version(model: RegisteredModel, version: str) -> None:
    message = ""
    if ModelVersion.objects.filter(model=model, version=version).exists():
        message = f"{model.name} v{version} is already registered, and versions never change."
    active = TrainingRun.objects.filter(model=model, version=version, state__in=ACTIVE).first()
    if active is not None:
        message = f"{model.name} v{version} is being trained: run {active.pk} is {active.state}."
    if message:
        raise RunRefused(message, [FieldError("version", message)])


def _checked(row: models.Model, *, error: type[SentinelleError], **clean: Any) -> None:
    """Call `full_clean`, and raise what it finds as `error`."""
    try:
        row.full_clean(**clean)
    except ValidationError as invalid:
        faults = [
            FieldError(field, " ".join(messages))
            for field, messages in invalid.message_dict.items()
        ]
        raise error("; ".join(f"{f.field}: {f.message}" for f in faults), faults) from None


def _send(run_id: uuid.UUID) -> None:
    """Send the run's message. A broker that is down is no failure: the message is sent again."""
    try:
        current_app.send_task("training.tasks.run_train", kwargs={"run_id": str(run_id)})
    except BrokerError as error:
        logger.warning("The message of run %s could not be sent yet: %s", run_id, error)


# --- Stopping and recovering ---------------------------------------------------------------


def run_cancel(run: TrainingRun, *, now: datetime) -> None:
    """Cancel a run: at once when it is queued, at the worker's next heartbeat when it runs.

    Raises:
        RunRefused: it has already ended.
    """
    row = TrainingRun.objects.filter(pk=run.pk)
    queued = row.filter(state=RunState.QUEUED)
    if queued.update(state=RunState.CANCELLED, cancel_requested_at=now, finished_at=now):
        return
    if not row.filter(state=RunState.RUNNING).update(cancel_requested_at=now):
        run.refresh_from_db()
        raise RunRefused(f"This run has already ended: it is {run.state}.")
    runs_fail_abandoned(now=now)


def runs_fail_abandoned(*, now: datetime) -> int:
    """End the running runs that no worker answers for any more; returns how many.

    Their program has ended too: it watches its worker.
    """
    abandoned = TrainingRun.objects.filter(state=RunState.RUNNING, lease_until__lt=now)
    ended = 0
    for run in abandoned.only("pk", "heartbeat_at", "claimed_by", "cancel_requested_at"):
        last = f"{run.heartbeat_at:%Y-%m-%d %H:%M:%S} UTC"
        state = RunState.CANCELLED if run.cancel_requested_at else RunState.FAILED
        ended += abandoned.filter(pk=run.pk).update(
            state=state,
            error=f"The worker {run.claimed_by} stopped answering at {last}.",
            finished_at=now,
            lease_until=None,
        )
    return ended


def runs_send_again(*, now: datetime) -> int:
    """Send a new message for queued runs whose message must be lost, as when the broker was
    emptied; returns how many."""
    stale = TrainingRun.objects.filter(
        state=RunState.QUEUED, enqueued_at__lt=now - timedelta(seconds=RESEND_SECONDS)
    )
    sent = 0
    for pk in list(stale.values_list("pk", flat=True)):
        if stale.filter(pk=pk).update(enqueued_at=now):
            _send(pk)
            sent += 1
    return sent


def runs_recover(*, now: datetime) -> None:
    """End what no worker answers for, and send lost messages again."""
    ended, sent = runs_fail_abandoned(now=now), runs_send_again(now=now)
    if ended or sent:
        logger.warning("Abandoned runs ended: %d. Lost messages sent again: %d.", ended, sent)
