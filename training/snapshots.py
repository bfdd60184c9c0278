"""Snapshots: data sets made from the decisions that were recorded and the labels that came.

A snapshot is as of a moment: it holds what was known then, so the same call gives the same content
whenever it is made; but for the history that `backfill_history` loaded, which counts at any moment:
when it was loaded is not kept row by row. A snapshot is streamed: some thousand rows are in memory
at a time.
"""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from deployments.models import Kind, RegisteredModel
from engine.errors import InvalidDataset
from engine.features.catalogue import CATALOGUE, LABEL_DELAY
from training.datasets import dataset_keep
from training.models import Dataset
from training.traffic_reader import Progress, TrafficReader

if TYPE_CHECKING:  # they load DuckDB and pyarrow
    from training.pipeline.datasets import DatasetSummary
    from training.pipeline.traffic import Period

MEMORY_LIMIT_MB = 1_024
"""Of the database that sorts; what it can't hold goes to the disk."""
_WINDOW = timedelta(microseconds=max(feature.window for feature in CATALOGUE))


def snapshot_create(
    *,
    name: str,
    as_of: datetime,
    days: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    label_delay: int = LABEL_DELAY,
    model: str = settings.MODEL_NAME,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    progress: Progress | None = None,
) -> Dataset:
    """Make the data set `name` from the transactions that `model` decided on, all or nothing.

    A decision, an outcome or a label counts if Sentinelle knew it at `as_of`; of several labels of
    a transaction the last received by then. Without one, a transaction counts as legitimate when
    it is older than the label delay, was not blocked, and is not known to have failed or been
    cancelled; another stays as history, and nothing is learnt from it. The transactions of the
    30 days and the label delay before `since` are history too: the features of the first rows
    read them.

    Args:
        as_of: aware, not in the future; now, unless an earlier state is wanted.
        days: the transactions of so many days before `until`; or `since`, for all from then on.
        until: `as_of` unless given.
        label_delay: microseconds; what a run on the data set takes for its own, unless told.
        memory_limit_mb: for sorting; the disk takes the rest.
        progress: called with what is being done, the share of the whole that is, and details.

    Raises:
        InvalidDataset: the name is taken, the period is malformed or has no decision.
    """
    # DuckDB and pyarrow: too heavy for the web process
    from training.pipeline import traffic
    from training.pipeline.datasets import work_folder
    from training.pipeline.reading import failures_refused

    tell = progress or _silent
    _refuse_classifier(model)
    period = _period(as_of, days, since, until, label_delay)

    def make(folder: Path, location: str) -> "DatasetSummary":
        failure = f"The snapshot “{name}” failed, and nothing was kept"
        with failures_refused(failure), work_folder(folder.parent) as work:
            recorded = TrafficReader(period, model, tell).write(work)
            result = work / "result"
            result.mkdir()
            summary = traffic.write(
                work,
                result,
                location,
                period,
                recorded,
                memory_limit_mb=memory_limit_mb,
                progress=lambda step, fraction: tell(step, fraction, ""),
            )
            result.rename(folder)
        return summary

    return dataset_keep(
        name, traffic.PRESET, make, progress=lambda step, fraction: tell(step, fraction, "")
    )


def snapshot_count(
    *,
    as_of: datetime,
    days: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    label_delay: int = LABEL_DELAY,
    model: str = settings.MODEL_NAME,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    progress: Progress | None = None,
) -> dict[str, int]:
    """How many rows of each sort `snapshot_create` would give, by the names of
    `training.pipeline.traffic.COUNTS`; nothing is kept. Arguments and errors as there."""
    from training.pipeline import traffic

    _refuse_classifier(model)
    period = _period(as_of, days, since, until, label_delay)
    with tempfile.TemporaryDirectory(prefix="sentinelle-") as made:
        TrafficReader(period, model, progress or _silent, features=False).write(Path(made))
        return traffic.count(Path(made), period, memory_limit_mb)


def _refuse_classifier(model: str) -> None:
    """There is no record of what the right answers to a classifier's requests would have been."""
    if RegisteredModel.objects.filter(name=model, kind=Kind.CLASSIFIER).exists():
        raise InvalidDataset(
            f"“{model}” is a classifier: a snapshot is of the transactions that a model decided "
            f"on. Import rows: manage.py import_dataset NAME FILE --model {model}"
        )


def _silent(_step: str, _fraction: float, _details: str) -> None:
    pass


def _period(
    as_of: datetime,
    days: int | None,
    since: datetime | None,
    until: datetime | None,
    label_delay: int,
) -> "Period":
    from training.pipeline.traffic import Period

    until = min(as_of, until or as_of)
    if (days is None) == (since is None):
        raise InvalidDataset("Give either a number of days or the beginning of the period.")
    if days is not None and days < 1:
        raise InvalidDataset(f"days is {days}; a snapshot is of at least 1 day.")
    begin = since if since is not None else until - timedelta(days=days or 0)
    if begin >= until:
        raise InvalidDataset(
            f"The period is empty: it begins at {begin:%Y-%m-%d %H:%M} and ends at "
            f"{until:%Y-%m-%d %H:%M} UTC, which is no later than what was known (--as-of)."
        )
    history = begin - _WINDOW - timedelta(microseconds=label_delay)
    return Period(begin, until, as_of, label_delay, history)
