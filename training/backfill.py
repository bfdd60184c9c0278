"""A data set as history: what the first live decision already knows of its wallets."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from django.db import transaction
from numpy.typing import NDArray

from engine.errors import HistoryConflict, InvalidDataset
from engine.features.catalogue import LABEL_DELAY
from engine.transaction import country_code
from scoring import backfill, history
from scoring.models import Backfill
from training.datasets import dataset_of_transactions
from training.models import Dataset
from training.pipeline.durations import parse_duration
from training.pipeline.local_file import local_file
from training.pipeline.table import FAILED

CHUNK = 10_000
"""Rows that are loaded together. Live requests wait meanwhile, so it must be well below a second
or two."""

Progress = Callable[[str, float, str], None]
"""Called with what is being done, the share of the whole that is, 0 to 1, and details."""

_COLUMNS = ("transaction_id", "created_at", "amount", "source_wallet_id", "destination_wallet_id",
            "country", "status", "is_fraud", "label_known_at")  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Loaded(NamedTuple):
    """What a backfill did: rows it loaded now and those it found loaded; frauds whose label is
    known, and those that nobody knows of yet."""

    rows: int
    before: int
    frauds: int
    unknown_frauds: int


def history_backfill(
    *,
    dataset: str,
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """Append a data set's transactions to history, with how they failed and what is known of fraud.

    Goes on where an earlier call with the same arguments was interrupted. Labels that are known
    by `now` are loaded; where the data set does not say when, they are.

    Args:
        dataset: its name.
        since, until: only transactions made from then on, and before then.

    Raises:
        InvalidDataset: there is no such data set, or it can't be read.
        HistoryConflict: it would contradict history; what earlier chunks loaded stays.
    """
    data = dataset_of_transactions(dataset)
    tell = progress or _silent
    with local_file(data.file, lambda share, amount: tell("fetching", share, amount)) as path:
        first, end = _selected(path, since, until, now)
        load, _ = Backfill.objects.get_or_create(
            fingerprint=data.fingerprint,
            first_row=first,
            end_row=end,
            defaults={"dataset": data.name, "next_row": first, "started_at": now},
        )
        return _load(load, _Reader(path, _label_delay(data), now), tell, now)


def _silent(_step: str, _fraction: float, _details: str) -> None:
    pass


def _load(load: Backfill, reader: "_Reader", progress: Progress, now: datetime) -> Loaded:
    before, began = load.next_row, time.monotonic()
    total, frauds = load.end_row - load.first_row, 0
    for rows in reader.chunks(before, load.end_row):
        with transaction.atomic(durable=True):
            history.lock_all()
            backfill.append(rows, stated_by=f"data set {load.dataset}", now=now)
            _advance(load, len(rows.transaction_id), now)
        frauds += len(rows.known_at)
        rate = (load.next_row - before) / (time.monotonic() - began)
        left = timedelta(seconds=round((load.end_row - load.next_row) / rate))
        details = f"{rate:,.0f} rows/s, {left} left"
        progress("loading", (load.next_row - load.first_row) / total, details)
    return Loaded(load.end_row - before, before - load.first_row, frauds, reader.unknown_frauds)


def _advance(load: Backfill, rows: int, now: datetime) -> None:
    """Note what is loaded, in the transaction that loads it."""
    next_row = load.next_row + rows
    mine = Backfill.objects.filter(pk=load.pk, next_row=load.next_row)
    if mine.update(next_row=next_row, updated_at=now) != 1:
        raise HistoryConflict(f"Another process is loading “{load.dataset}” too.")
    load.next_row = next_row


def _label_delay(data: Dataset) -> int:
    """How long (µs) after a transaction its label is known, where nothing else says when."""
    stated = data.summary.get("label_delay")
    return parse_duration(stated) if stated else LABEL_DELAY


def _selected(
    path: Path, since: datetime | None, until: datetime | None, now: datetime
) -> tuple[int, int]:
    """The first row and the end of those that were made from `since` on and before `until`."""
    try:
        column = pq.read_table(path, columns=["created_at"]).column(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidDataset(f"The data set can't be read: {error}.") from error
    times = _microseconds(column)
    first = 0 if since is None else int(np.searchsorted(times, _us(since)))
    end = len(times) if until is None else int(np.searchsorted(times, _us(until)))
    if first >= end:
        raise HistoryConflict("The data set has no transaction in that period.")
    if times[end - 1] > _us(now):
        raise HistoryConflict(
            f"The data set goes on until {_moment(times[end - 1])}, which is yet to come. "
            "Load what is past: --until"
        )
    return first, end


def _moment(time: np.int64) -> datetime:
    return _EPOCH + timedelta(microseconds=int(time))


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _microseconds(column: Any) -> NDArray[np.int64]:
    times: NDArray[np.int64] = column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return times


class _Reader:
    """Reads a data set in chunks, as `scoring.backfill` takes them."""

    def __init__(self, path: Path, label_delay: int, now: datetime) -> None:
        self._file = pq.ParquetFile(path)
        self._label_delay = label_delay
        self._now = now
        self.unknown_frauds = 0
        """Frauds so far whose label will only be known later."""

    def chunks(self, first: int, end: int) -> Iterator[backfill.PastTransactions]:
        """The rows from `first` to before `end`."""
        present = set(self._file.schema_arrow.names)
        columns = [name for name in _COLUMNS if name in present]
        at, groups = 0, list(range(self._file.num_row_groups))
        while groups and at + self._file.metadata.row_group(groups[0]).num_rows <= first:
            at += self._file.metadata.row_group(groups.pop(0)).num_rows
        for batch in self._file.iter_batches(CHUNK, groups, columns):
            rows = batch.slice(max(0, first - at), end - max(at, first))
            at += len(batch)
            if at > first and len(rows):
                yield self._past(pa.Table.from_batches([rows]))
            if at >= end:
                return

    def _past(self, table: pa.Table) -> backfill.PastTransactions:
        def text(name: str) -> list[str | None]:
            if name not in table.column_names:
                return [None] * len(table)
            values: list[str | None] = table.column(name).to_pylist()
            return values

        countries = text("country")
        codes = {country: country_code(country) for country in set(countries)}
        statuses = enumerate(text("status"))
        return backfill.PastTransactions(
            transaction_id=table.column("transaction_id").to_pylist(),
            created_at=_microseconds(table.column("created_at")),
            amount=table.column("amount").cast(pa.int64()).to_numpy(),
            source=table.column("source_wallet_id").to_pylist(),
            destination=table.column("destination_wallet_id").to_pylist(),
            country=np.array([codes[country] for country in countries], np.int64),
            failures={at: status for at, status in statuses if status in FAILED},
            known_at=self._known_at(table),
        )

    def _known_at(self, table: pa.Table) -> dict[int, datetime]:
        """When the frauds that are known by now became so, by row."""
        now = _us(self._now)
        known_at = np.minimum(_microseconds(table.column("created_at")) + self._label_delay, now)
        if "label_known_at" in table.column_names:
            stated = table.column("label_known_at").fill_null(_EPOCH - timedelta(days=1))
            stated = _microseconds(stated)
            known_at = np.where(stated < 0, known_at, stated)
        labels = table.column("is_fraud").cast(pa.bool_()).fill_null(False)
        frauds = np.flatnonzero(labels.to_numpy())
        known = frauds[known_at[frauds] <= now]
        self.unknown_frauds += len(frauds) - len(known)
        return {row: _moment(known_at[row]) for row in known.tolist()}
