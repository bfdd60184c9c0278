"""Files that people upload to become data sets: a worker imports each, under a lease.

The file waits in Django's default storage (a folder of the home, or the bucket) and is deleted when
it is a data set. A worker that dies loses its lease, and another takes the file up.
"""

import logging
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from deployments.models import RegisteredModel
from engine.errors import FieldError, InvalidDataset, SentinelleError
from engine.store.google_errors import translated
from training.classifier_data import rows_import
from training.datasets import dataset_import
from training.messages import send_task
from training.models import Dataset, DatasetUpload, UploadState
from training.validation import checked

logger = logging.getLogger(__name__)
IMPORT_UPLOAD = "training.tasks.import_upload"
BEAT_SECONDS = 2.0
RESEND_SECONDS = 60
MOST_ATTEMPTS = 3
WAITING = (UploadState.QUEUED, UploadState.RUNNING)


def upload_create(
    *,
    name: str,
    file: "UploadedFile[bytes]",
    preset: str = "canonical",
    mapping: str = "",
    model: RegisteredModel | None = None,
    on_bad_rows: str = "stop",
    start: datetime | None = None,
    requested_by: str = "",
) -> DatasetUpload:
    """Keep an uploaded file and have a worker import it.

    Args:
        mapping: the text of a mapping file, which then counts instead of the preset.
        model: the classifier whose rows it has, of which there is no preset, mapping or start.

    Raises:
        InvalidDataset: the name is taken or malformed, or the file is too large; `errors` names
            the field.
        StoreUnavailable: the bucket does not take the file.
    """
    upload = DatasetUpload(
        name=name,
        file_name=Path(file.name or "file").name[-200:],
        size=file.size or 0,
        preset=preset,
        mapping=mapping,
        model=model,
        on_bad_rows=on_bad_rows,
        start=start,
        requested_by=requested_by,
    )
    _refuse_mapped(upload)
    checked(upload, error=InvalidDataset, exclude=["file"])
    _refuse_size(upload.size)
    _refuse_taken(name)
    with _storage_errors():
        upload.file.save(upload.file_name, file, save=False)
    try:
        upload.save(force_insert=True)
    except BaseException:
        _delete_file(upload)
        raise
    _send(upload.pk)
    return upload


def upload_import(upload_id: int, *, worker: str, now: datetime) -> None:
    """Import an upload that nobody imports. Nothing happens when somebody does, or it has ended."""
    worker = f"{worker}:{uuid.uuid4().hex[:8]}"
    taken = _free(now).filter(pk=upload_id).update(
        state=UploadState.RUNNING, claimed_by=worker, lease_until=_lease(now), error="",
    )  # fmt: skip
    if taken != 1:
        return
    upload = DatasetUpload.objects.get(pk=upload_id)
    held = DatasetUpload.objects.filter(pk=upload_id, state=UploadState.RUNNING, claimed_by=worker)
    if upload.attempts >= MOST_ATTEMPTS:
        _fail(
            held,
            f"The worker died {upload.attempts} times while it imported this file, probably "
            "because memory ran out. Import it by command, with --memory-limit.",
        )
        return
    held.update(attempts=upload.attempts + 1, started_at=now, step="reading", fraction=0.0)
    try:
        _import(upload, held)
    except _Lost:
        logger.warning("Upload %s: another worker has it", upload_id)
    except (SentinelleError, OSError) as error:
        _fail(held, _words(error))
    except Exception as error:
        _fail(held, f"Unexpected {type(error).__name__}: {error}. The worker's log has more.")
        raise


def upload_retry(upload: DatasetUpload, *, on_bad_rows: str, now: datetime) -> None:
    """Import a failed upload again.

    Raises:
        InvalidDataset: it has not failed, its file is gone, or its name was taken meanwhile.
    """
    _refuse_taken(upload.name)
    failed = DatasetUpload.objects.filter(pk=upload.pk, state=UploadState.FAILED).exclude(file="")
    again = failed.update(
        state=UploadState.QUEUED, on_bad_rows=on_bad_rows, attempts=0, enqueued_at=now,
        step="", fraction=0.0, error="", finished_at=None, lease_until=None,
    )  # fmt: skip
    if again != 1:
        raise InvalidDataset("Only an upload that failed and still has its file is tried again.")
    _send(upload.pk)


def upload_delete(upload: DatasetUpload) -> None:
    """Forget an upload that is not being imported, and delete its file. Its data set stays.

    Raises:
        InvalidDataset: a worker imports it.
    """
    rows = DatasetUpload.objects.filter(pk=upload.pk).exclude(state__in=WAITING)
    if not rows.delete()[0]:
        raise InvalidDataset("A worker imports this file; wait until it has ended.")
    transaction.on_commit(lambda: _delete_file(upload))


def uploads_recover(*, now: datetime) -> int:
    """Send a message for each upload whose message or worker was lost; returns how many."""
    lost = _free(now).filter(enqueued_at__lt=now - timedelta(seconds=RESEND_SECONDS))
    sent = 0
    for pk in list(lost.values_list("pk", flat=True)):
        if lost.filter(pk=pk).update(enqueued_at=now):
            # While the workers are busy these would only pile up.
            _send(pk, expires=RESEND_SECONDS)
            sent += 1
    return sent


class _Lost(Exception):
    """Another worker has the upload by now."""


def _import(upload: DatasetUpload, held: QuerySet[DatasetUpload]) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="sentinelle-") as folder,
        _Keeper(held) as keeper,
    ):
        path, mapping = Path(folder) / "file" / upload.file_name, None
        path.parent.mkdir()
        with (
            _storage_errors(),
            upload.file.open("rb") as source,
            path.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
        if upload.model is not None:
            rows_import(
                name=upload.name,
                files=[path],
                model=upload.model.name,
                on_bad_rows=upload.on_bad_rows,
                progress=keeper.tell,
                then=lambda dataset: _succeed(held, dataset),
            )
            _delete_file(upload)
            return
        if upload.mapping:
            mapping = Path(folder) / "mapping.toml"
            mapping.write_text(upload.mapping, encoding="utf-8")
        dataset_import(
            name=upload.name,
            files=[path],
            preset=upload.preset,
            mapping=mapping,
            on_bad_rows=upload.on_bad_rows,
            start=upload.start,
            progress=keeper.tell,
            then=lambda dataset: _succeed(held, dataset),
        )
    _delete_file(upload)


def _words(error: SentinelleError | OSError) -> str:
    """Why an import failed, without the advice for those who type commands: there is a button."""
    from training.pipeline.datasets import HOW_TO_SKIP

    return str(error).removesuffix(HOW_TO_SKIP)


def _succeed(held: QuerySet[DatasetUpload], dataset: Dataset) -> None:
    """Book the data set, in the transaction that makes it: there is never one without the other."""
    ended = held.update(
        state=UploadState.SUCCEEDED, dataset=dataset, step="", fraction=1.0, file="",
        finished_at=timezone.now(), lease_until=None,
    )  # fmt: skip
    if ended != 1:
        raise _Lost


def _fail(held: QuerySet[DatasetUpload], error: str) -> None:
    held.update(state=UploadState.FAILED, error=error, finished_at=timezone.now(), lease_until=None)


class _Keeper:
    """A thread that renews the lease of an upload and writes down how far it is."""

    def __init__(self, held: QuerySet[DatasetUpload]) -> None:
        self._held = held
        self._seen = ("reading", 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)

    def __enter__(self) -> "_Keeper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def tell(self, step: str, fraction: float) -> None:
        self._seen = (step, fraction)

    def _run(self) -> None:
        try:
            while not self._stop.wait(BEAT_SECONDS):
                step, fraction = self._seen
                with _patience():
                    self._held.update(
                        lease_until=_lease(timezone.now()), step=step[:100], fraction=fraction
                    )
        finally:
            connection.close()


def _storage_errors() -> AbstractContextManager[None]:
    """In a bucket, Google's errors become StoreUnavailable."""
    if not settings.BUCKET_NAME:
        return nullcontext()
    return translated(f"the uploads in gs://{settings.BUCKET_NAME}")


@contextmanager
def _patience() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        logger.warning("The database can't be reached, trying again: %s", error)
        connection.close()


def _free(now: datetime) -> QuerySet[DatasetUpload]:
    dead = Q(state=UploadState.RUNNING, lease_until__lt=now)
    return DatasetUpload.objects.filter(Q(state=UploadState.QUEUED) | dead)


def _lease(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.TRAINING_LEASE_SECONDS)


def _refuse_mapped(upload: DatasetUpload) -> None:
    if upload.model is None:
        return
    message = f"The columns of “{upload.model.name}” are those of its definition: leave this empty."
    for field in ("mapping", "start"):
        if getattr(upload, field):
            _refuse(field, message)


def _refuse_size(size: int) -> None:
    if size > settings.UPLOAD_MAX_MB * 1_000_000:
        _refuse(
            "file",
            f"The file has {size / 1e6:,.0f} MB; at most {settings.UPLOAD_MAX_MB:,} are taken. "
            "Import it by command: manage.py import_dataset.",
        )
    if not size:
        _refuse("file", "The file is empty.")


def _refuse_taken(name: str) -> None:
    if Dataset.objects.filter(name=name).exists():
        _refuse("name", f"There is already a data set “{name}”. Data sets never change.")
    if DatasetUpload.objects.filter(name=name, state__in=WAITING).exists():
        _refuse("name", f"Another file is being imported as “{name}”.")


def _refuse(field: str, message: str) -> None:
    raise InvalidDataset(message, [FieldError(field, message)])


def _delete_file(upload: DatasetUpload) -> None:
    if not upload.file:
        return
    try:
        upload.file.delete(save=False)
    except Exception as error:  # it only takes room
        logger.warning("The file of an upload stays in the storage: %s", error)


def _send(upload_id: int, expires: float | None = None) -> None:
    transaction.on_commit(lambda: send_task(IMPORT_UPLOAD, upload_id=upload_id, expires=expires))
