"""Data sets of classifiers: rows of a definition's inputs and target, imported or made up."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import IntegrityError

from deployments.models import RegisteredModel
from deployments.selectors import model_by_name
from engine.classifier.definition import read_definition
from engine.errors import FieldError, InvalidDataset
from engine.store import is_bucket
from training.datasets import MADE, Progress, dataset_keep
from training.models import Dataset

if TYPE_CHECKING:
    from training.pipeline.classifier.datasets import ImportResult
    from training.pipeline.classifier.simulators import SimulatedRows

ROWS = "rows"
SIMULATED = "simulated"
SIMULATED_ROWS = 1_000_000
"""How many rows are made up for a run that names no data set."""
# Of making and importing rows, the first is about this share.
SIMULATING = 0.3


def rows_import(
    *,
    name: str,
    files: list[Path],
    model: str,
    on_bad_rows: str = "stop",
    memory_limit_mb: int | None = None,
    progress: Progress | None = None,
    then: Callable[[Dataset], None] | None = None,
    origin: str = ROWS,
) -> Dataset:
    """Import `files` as the data set `name` of the classifier `model`, whole or not at all.

    Args:
        on_bad_rows: `stop` imports nothing if a row is bad, `skip` keeps bad rows in a file.
        memory_limit_mb: of the database that reads; 2 GB unless given.
        progress: called by the import as it goes on.
        then: called in the transaction that makes the row; what it raises undoes all.
        origin: what the row says of where its rows are from.

    Raises:
        NotRegistered: there is no such model.
        InvalidDataset: it is no classifier, the name is taken or malformed, or the files can't be
            read.
        StoreUnavailable: the bucket does not take it.
    """
    # DuckDB: too heavy for the web process
    from training.pipeline.classifier.datasets import import_rows

    registered = classifier_by_name(model)
    definition = read_definition(registered.definition)
    tell = progress or _silent
    share = MADE if is_bucket(settings.DATA_DIR) else 1.0
    limit = {} if memory_limit_mb is None else {"memory_limit_mb": memory_limit_mb}

    def make(folder: Path, location: str) -> "ImportResult":
        return import_rows(
            definition,
            files,
            folder,
            on_bad_rows,
            lambda step, done: tell(step, share * done),
            location=location,
            **limit,
        )

    return dataset_keep(name, origin, make, model=registered, progress=tell, then=then)


def rows_simulated(
    *, model: str, rows: int = SIMULATED_ROWS, seed: int = 0, progress: Progress | None = None
) -> Dataset:
    """The data set of so many rows that the simulator of `model` makes up; it is made when there is
    none yet of the definition as it is.

    Raises:
        NotRegistered: there is no such model.
        InvalidDataset: it is no classifier, or has no simulator.
    """
    registered = classifier_by_name(model)
    fingerprint = read_definition(registered.definition).fingerprint
    name = f"{model}-{rows}-{seed}"
    made = Dataset.objects.filter(name=name).first()
    if made is not None and not _is_of(made, registered, fingerprint):
        name = f"{name}-{fingerprint[:8]}"
        made = Dataset.objects.filter(name=name).first()
    if made is not None:
        return made
    tell = progress or _silent
    with tempfile.TemporaryDirectory(prefix="sentinelle-") as folder:
        file = Path(folder) / f"{model}.parquet"
        rows_simulate(model, file, rows, seed, lambda done: tell("simulating", SIMULATING * done))
        try:
            return rows_import(
                name=name,
                files=[file],
                model=model,
                progress=lambda step, done: tell(step, SIMULATING + (1 - SIMULATING) * done),
                origin=SIMULATED,
            )
        except (InvalidDataset, IntegrityError):
            # Another one may have made it meanwhile.
            made = Dataset.objects.filter(name=name).first()
            if made is not None and _is_of(made, registered, fingerprint):
                return made
            raise


def rows_simulate(
    model: str, path: Path, rows: int, seed: int, progress: Callable[[float], None] | None = None
) -> "SimulatedRows":
    """Write rows that the simulator of the classifier `model` makes up to a file.

    Raises NotRegistered, InvalidDataset.
    """
    from training.pipeline.classifier.simulators import simulate_rows

    definition = read_definition(classifier_by_name(model).definition)
    return simulate_rows(definition, path, rows, seed, progress)


def classifier_by_name(name: str) -> RegisteredModel:
    """Raises NotRegistered, or InvalidDataset for a model of another kind."""
    model = model_by_name(name)
    if not model.is_classifier:
        message = (
            f"“{name}” is no classifier: its data sets hold transactions, and are imported and "
            "simulated without naming a model."
        )
        raise InvalidDataset(message, [FieldError("model", message)])
    return model


def has_simulator(model: RegisteredModel) -> bool:
    """Whether rows of a model can be made up."""
    return model.is_classifier and bool(read_definition(model.definition).training.simulator)


def _is_of(dataset: Dataset, model: RegisteredModel, fingerprint: str) -> bool:
    """Whether a data set was made up for a model as it is defined now."""
    return (dataset.model_id, dataset.preset, dataset.summary.get("definition_fingerprint")) == (
        model.pk,
        SIMULATED,
        fingerprint,
    )


def _silent(_step: str, _share: float) -> None:
    pass
