"""What makes and deletes data sets. Their files are below DATA_DIR, a folder or a bucket."""

import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
from django.conf import settings
from django.db import models, transaction

from deployments.models import RegisteredModel
from engine.errors import InvalidDataset, StoreUnavailable
from engine.store import PATIENT_SECONDS, is_bucket, open_store
from training.models import Dataset
from training.validation import checked

if TYPE_CHECKING:
    from training.pipeline.classifier.datasets import ImportResult
    from training.pipeline.datasets import DatasetSummary

    Summary = DatasetSummary | ImportResult

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is, 0 to 1."""

MADE = 0.7
"""The share of the work that is over when the files are made and not yet in the bucket."""


def dataset_import(
    *,
    name: str,
    files: list[Path],
    preset: str = "canonical",
    mapping: Path | None = None,
    on_bad_rows: str = "stop",
    start: datetime | None = None,
    memory_limit_mb: int | None = None,
    progress: Progress | None = None,
    then: Callable[[Dataset], None] | None = None,
) -> Dataset:
    """Import `files` as the data set `name`, whole or not at all.

    Args:
        preset: how the columns are read: the name of one that ships with Sentinelle.
        mapping: a mapping file, instead of a preset.
        on_bad_rows: `stop` imports nothing if a row is bad, `skip` keeps bad rows in a file.
        start: of a mapping that counts hours, instead of its own.
        memory_limit_mb: for sorting; 2 GB unless given.
        progress: called by the import as it goes on.
        then: called in the transaction that makes the row; what it raises undoes all.

    Raises:
        InvalidDataset: the name is taken or malformed, or the mapping or the files can't be read.
        StoreUnavailable: the bucket does not take it.
    """
    # DuckDB: too heavy for the web process
    from training.pipeline.datasets import import_files
    from training.pipeline.mapping import read_mapping

    tell = progress or _silent
    share = MADE if is_bucket(settings.DATA_DIR) else 1.0
    limit = {} if memory_limit_mb is None else {"memory_limit_mb": memory_limit_mb}

    def make(folder: Path, location: str) -> "DatasetSummary":
        return import_files(
            files,
            folder,
            preset if mapping is None else read_mapping(mapping),
            on_bad_rows,
            lambda step, done: tell(step, share * done),
            start=start,
            location=location,
            **limit,
        )

    origin = preset if mapping is None else "mapping file"
    return dataset_keep(name, origin, make, progress=tell, then=then)


def dataset_keep(
    name: str,
    preset: str,
    make: Callable[[Path, str], "Summary"],
    *,
    model: RegisteredModel | None = None,
    progress: Progress | None = None,
    then: Callable[[Dataset], None] | None = None,
) -> Dataset:
    """Make the data set `name` of what `make` writes into a new folder, whole or not at all.

    Args:
        preset: what the row says of its origin.
        make: called with the folder, which is not there yet, and with where its data will be.
        model: the classifier whose rows they are; none: transactions.
        progress: called while the files go into the bucket, if that is where they are kept.
        then: called in the transaction that makes the row; what it raises undoes all.

    Raises:
        InvalidDataset: the name is taken or malformed; and what `make` raises.
        StoreUnavailable: the bucket does not take it.
    """
    if Dataset.objects.filter(name=name).exists():
        raise InvalidDataset(
            f"There is already a data set “{name}”. Data sets never change: choose another name."
        )
    dataset = Dataset(
        name=name, model=model, preset=preset, location=f"{name}-{uuid.uuid4().hex[:12]}"
    )
    checked(dataset, exclude=["fingerprint", "rows", "frauds"], error=InvalidDataset)
    try:
        if is_bucket(settings.DATA_DIR):
            summary = _make_in_bucket(dataset, make, progress or _silent)
        else:
            summary = make(Path(settings.DATA_DIR) / dataset.location, dataset.file)
        _describe(dataset, summary)
        checked(dataset, error=InvalidDataset)
        with transaction.atomic():
            dataset.save(force_insert=True)
            if then is not None:
                then(dataset)
    except BaseException:
        _delete_files(dataset.location)
        raise
    return dataset


def dataset_of_transactions(name: str) -> Dataset:
    """Raises InvalidDataset when there is none of that name, or it holds rows of a classifier."""
    dataset = Dataset.objects.filter(name=name).select_related("model").first()
    if dataset is None:
        raise InvalidDataset(f"There is no data set “{name}”.")
    if dataset.model is not None:
        raise InvalidDataset(
            f"“{name}” holds rows of the classifier “{dataset.model.name}”, and no transactions."
        )
    return dataset


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
    transaction.on_commit(partial(_delete_files, dataset.location))


def _make_in_bucket(
    dataset: Dataset, make: Callable[[Path, str], "Summary"], progress: Progress
) -> "Summary":
    """Make the files here, then upload them."""
    with tempfile.TemporaryDirectory(prefix="sentinelle-") as temporary:
        folder = Path(temporary) / dataset.location
        summary = make(folder, dataset.file)
        store = open_store(settings.DATA_DIR, seconds=PATIENT_SECONDS)
        for path in sorted(folder.iterdir()):

            def tell(done: int, total: int, name: str = path.name) -> None:
                # The data is nearly all there is.
                share = done / total if total and name == "data.parquet" else 1.0
                progress(f"uploading {name}", MADE + (1 - MADE) * share)

            store.upload(f"{dataset.location}/{path.name}", path, progress=tell)
    return summary


def _describe(dataset: Dataset, summary: "Summary") -> None:
    dataset.fingerprint = summary.fingerprint
    dataset.rows, dataset.rejected = summary.rows, summary.rejected
    if dataset.model is None:
        transactions = cast("DatasetSummary", summary)
        dataset.frauds = transactions.frauds
        dataset.first_at, dataset.last_at = transactions.first_at, transactions.last_at
    dataset.summary = _storable(msgspec.to_builtins(summary))


def _delete_files(location: str) -> None:
    if not is_bucket(settings.DATA_DIR):
        shutil.rmtree(Path(settings.DATA_DIR) / location, ignore_errors=True)
        return
    store = open_store(settings.DATA_DIR)
    try:
        for name in store.list(location):
            store.delete(name)
    except StoreUnavailable as error:
        logger.warning("Files of a data set that is no more stay in %s: %s", location, error)


def _storable(value: Any) -> Any:
    """The same without NUL characters, which a bad row may hold and PostgreSQL can't."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(item) for item in value]
    return value


def _silent(_step: str, _share: float) -> None:
    pass
