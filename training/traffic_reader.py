"""What Sentinelle recorded of a period, read out of the database for a snapshot.

Some thousand rows are in memory at a time: attempts in the order of their ids, which is that of
their acceptance, each chunk found by the last id of the one before.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from django.conf import settings
from django.db.models import FilteredRelation, Q, TextField
from django.db.models.functions import Cast

from deployments.models import ModelVersion
from engine.errors import InvalidBundle, StoreUnavailable
from engine.features.kernel import AMOUNT, COUNTRY
from engine.features.live import decode_events
from engine.fraud_bundle import definitions_of
from engine.store import open_store
from engine.transaction import amount_to_units
from scoring.models import Attempt, Backfill, Label, ScoreRecord, Verdict

if TYPE_CHECKING:  # they load DuckDB and pyarrow
    from training.pipeline.recorded import Definitions
    from training.pipeline.traffic import Period, Recorded

CHUNK = 5_000
"""Rows that are read together."""
LONGEST_REQUEST = timedelta(hours=1)
"""Decisions are accepted in the order of their times, but for requests that ran together: none of
them lasts as long as this."""
UNKNOWN_TYPE, UNKNOWN_CURRENCY = "UNKNOWN", "XXX"
"""Of transactions that were only loaded as history, of which neither is kept."""

Progress = Callable[[str, float, str], None]
"""Called with what is being done, the share of the whole that is, 0 to 1, and details."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Sent(msgspec.Struct):
    """What is read of a recorded transaction; the rest is in columns."""

    amount: float
    currency: str
    transaction_type: str
    direction: str | None = None
    country: str | None = None
    city: str | None = None
    initiator_user_id: str | None = None
    attributes: dict[str, float | bool | str] | None = None


class _Wallet(msgspec.Struct):
    balance: float | None = None
    status: str | None = None
    account_age_minutes: float | None = None


class _User(msgspec.Struct):
    status: str | None = None
    risk_level: str | None = None


class _Context(msgspec.Struct):
    source_wallet: _Wallet | None = None
    destination_wallet: _Wallet | None = None
    user: _User | None = None


_NO_WALLET, _NO_USER = _Wallet(), _User()
_KINDS = {bool: "boolean", float: "number", int: "number", str: "category"}


class _Between(NamedTuple):
    """Ids of attempts: above `low`, below `high`; None: no bound."""

    low: int
    high: int | None


class TrafficReader:
    """Reads the rows of a period out of the database, and writes them as files."""

    def __init__(
        self, period: "Period", model: str, progress: Progress, *, features: bool = True
    ) -> None:
        self._period = period
        self._model = model
        self._progress = progress
        self._features = features
        self._versions: dict[int, str] = {}
        self._decided: set[int] = set()
        self._attributes: dict[str, Counter[str]] = {}
        self._sent = msgspec.json.Decoder(_Sent)
        self._context = msgspec.json.Decoder(_Context)

    def write(self, work: Path) -> "Recorded":
        """Write `ROWS_FILE` and `LABELS_FILE` into `work`."""
        from training.pipeline import traffic

        self._know_versions()
        _write(work / traffic.ROWS_FILE, traffic.ROWS, self._rows())
        _write(work / traffic.LABELS_FILE, traffic.LABELS, self._labels())
        return traffic.Recorded(
            self._model, self._definitions(), self._attributes, self._is_complete()
        )

    def _is_complete(self) -> bool:
        first = self._period.history_from
        if self._between().low or ScoreRecord.objects.filter(created_at__lt=first).exists():
            return False
        loaded = Attempt.objects.filter(record__isnull=True, source_time__lt=_us(first))
        return not (Backfill.objects.exists() and loaded.exists())

    def _know_versions(self) -> None:
        rows = ModelVersion.objects.select_related("model")
        self._names = {each.pk: str(each) for each in rows}
        self._decided = {each.pk for each in rows if each.model.name == self._model}

    def _definitions(self) -> "dict[str, Definitions]":
        """What the features meant that each version recorded."""
        from training.pipeline.recorded import Definitions

        store, found = open_store(settings.ARTIFACTS_DIR), {}
        for version in ModelVersion.objects.filter(pk__in=self._versions):
            try:
                inputs, fingerprint, label_delay = definitions_of(
                    store, version.location, version.manifest_sha256
                )
                known = Definitions(
                    inputs=inputs, fingerprint=fingerprint, label_delay_us=label_delay
                )
            except (InvalidBundle, StoreUnavailable):
                known = Definitions()  # Its values can't be compared, and are computed again.
            found[self._versions[version.pk]] = known
        return found

    def _rows(self) -> Iterator[list[tuple[Any, ...]]]:
        between = self._between()
        if Backfill.objects.exists():
            yield from self._loaded(between)
        yield from self._recorded(between)

    def _between(self) -> _Between:
        """Bounds that hold every attempt of the period, read off the index of `scored_at`."""
        clock = timedelta(seconds=settings.MAX_CLOCK_AHEAD_SECONDS)
        begin = self._period.history_from - clock - LONGEST_REQUEST
        end = self._period.as_of + LONGEST_REQUEST
        records = ScoreRecord.objects.values_list("pk", flat=True)
        before = records.filter(scored_at__lt=begin).order_by("-scored_at").first()
        after = records.filter(scored_at__gt=end).order_by("scored_at").first()
        return _Between(0 if before is None else before, after)

    def _recorded(self, between: _Between) -> Iterator[list[tuple[Any, ...]]]:
        """Those that were decided on, as rows of `traffic.ROWS`."""
        period = self._period
        found = ScoreRecord.objects.filter(
            created_at__gte=period.history_from,
            created_at__lt=period.until,
            scored_at__lte=period.as_of,
        )
        if between.high is not None:
            found = found.filter(pk__lt=between.high)
        last = ScoreRecord.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        end = between.high or last + 1
        known = Q(attempt__outcome__received_at__lte=period.as_of)
        read = found.annotate(
            known_outcome=FilteredRelation("attempt__outcome", condition=known)
        ).order_by("pk")
        columns = self._columns_read()
        after = between.low
        while rows := list(read.filter(pk__gt=after).values_list(*columns)[:CHUNK]):
            yield [self._row(row) for row in rows]
            after = rows[-1][0]
            done = (after - between.low) / max(end - between.low, 1)
            self._progress("reading decisions", 0.55 * done, f"{after - between.low:,}")

    def _columns_read(self) -> Sequence[Any]:
        def text(name: str) -> Any:
            return Cast(name, TextField())

        features = (text("features"), text("features_sent")) if self._features else ()
        return (
            "pk", "attempt__transaction_id", "attempt__source_wallet_id",
            "attempt__destination_wallet_id", "created_at", "known_outcome__status", "decision",
            "model_version_id", "control_share", text("transaction"), text("context"), *features,
        )  # fmt: skip

    def _row(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        (
            pk, transaction_id, source, destination, created_at, status, decision, version,
            control_share, transaction, context, *features,
        ) = row  # fmt: skip
        values, sent_names = features or (None, "[]")
        sent, around = self._sent.decode(transaction), self._context.decode(context)
        wallet, user = around.source_wallet or _NO_WALLET, around.user or _NO_USER
        self._versions.setdefault(version, self._names[version])
        return (
            pk, transaction_id, source, destination, created_at,
            amount_to_units(sent.amount), sent.currency, sent.transaction_type, sent.direction,
            sent.country, sent.city, sent.initiator_user_id, status,
            wallet.balance, wallet.status, (around.destination_wallet or _NO_WALLET).status,
            user.status, user.risk_level, wallet.account_age_minutes,
            self._attributes_of(sent), decision, control_share, self._names[version],
            values, _values_sent(values, sent_names), version in self._decided,
        )  # fmt: skip

    def _attributes_of(self, sent: _Sent) -> str | None:
        if not sent.attributes:
            return None
        for name, value in sent.attributes.items():
            self._attributes.setdefault(name, Counter())[_KINDS[type(value)]] += 1
        return msgspec.json.encode(sent.attributes).decode()

    def _loaded(self, between: _Between) -> Iterator[list[tuple[Any, ...]]]:
        """Those that were only loaded as history, likewise, whenever they were loaded."""
        found = Attempt.objects.filter(
            record__isnull=True,
            source_time__gte=_us(self._period.history_from),
            source_time__lt=_us(self._period.until),
        )
        if between.high is not None:
            found = found.filter(pk__lt=between.high)
        known = Q(outcome__received_at__lte=self._period.as_of)
        read = found.annotate(known_outcome=FilteredRelation("outcome", condition=known))
        columns = (
            "pk", "transaction_id", "source_wallet_id", "destination_wallet_id", "source_time",
            "source_event", "known_outcome__status",
        )  # fmt: skip
        after = 0
        while rows := list(read.filter(pk__gt=after).order_by("pk").values_list(*columns)[:CHUNK]):
            yield [_loaded_row(row) for row in rows]
            after = rows[-1][0]
            self._progress("reading loaded history", 0.0, f"{after:,}")

    def _labels(self) -> Iterator[list[tuple[Any, ...]]]:
        """The statements that could be known, as rows of `traffic.LABELS`."""
        as_of = self._period.as_of
        found = Label.objects.filter(received_at__lte=as_of, known_at__lte=as_of).order_by("pk")
        columns = ("pk", "transaction_id", "verdict", "known_at", "received_at")
        after = 0
        while rows := list(found.filter(pk__gt=after).values_list(*columns)[:CHUNK]):
            yield [
                (transaction_id, pk, verdict == Verdict.FRAUD, max(known_at, received_at))
                for pk, transaction_id, verdict, known_at, received_at in rows
            ]
            after = rows[-1][0]
            self._progress("reading labels", 0.55, f"{after:,}")


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _write(path: Path, schema: Any, chunks: Iterable[list[tuple[Any, ...]]]) -> None:
    """Write rows as Parquet, chunk by chunk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for rows in chunks:
            columns = zip(schema, zip(*rows, strict=True), strict=True)
            arrays = [pa.array(values, field.type) for field, values in columns]
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _values_sent(features: str | None, names: str) -> str | None:
    """The values of the features that the caller sent, as a JSON object; None for none."""
    if features is None or names == "[]":
        return None
    values = msgspec.json.decode(features)
    sent = {name: values.get(name) for name in msgspec.json.decode(names)}
    return msgspec.json.encode(sent).decode()


def _loaded_row(row: tuple[Any, ...]) -> tuple[Any, ...]:
    pk, transaction_id, source, destination, time, packed, status = row
    event = decode_events(bytes(packed))[0]
    code = int(event[COUNTRY])
    country = None if code < 0 else chr(65 + code // 26) + chr(65 + code % 26)
    created_at = _EPOCH + timedelta(microseconds=time)
    nothing: tuple[None, ...] = (None,)
    return (
        pk, transaction_id, source, destination, created_at,
        int(event[AMOUNT]), UNKNOWN_CURRENCY, UNKNOWN_TYPE, None,
        country, None, None, status, *nothing * 12, False,
    )  # fmt: skip
