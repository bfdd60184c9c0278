"""Labels: statements that a transaction was fraud or legitimate.

A statement is kept as it was received, about a known transaction or not, and the last one about a
transaction counts. While that is fraud, the transaction is in the fraud timelines of its wallets,
which later transactions read.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal, NamedTuple, Self, TypeAlias

import msgspec
from django.conf import settings
from django.db import connection, transaction
from django.db.models import OuterRef, Subquery
from msgspec import Meta
from msgspec.structs import force_setattr

from engine.errors import FieldError
from engine.json_faults import invalid_request
from engine.transaction import Identifier, ShortText, Timestamp
from scoring import fraud_timelines, history
from scoring.models import Attempt, Label, Verdict
from scoring.reports import Decoder, in_utc, listed

FRAUD = Verdict.FRAUD.value

Note = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]{0,1000}\Z",
        description="a string of at most 1000 characters, no control characters but line breaks",
    ),
]


class LabelReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is stated about one transaction. The source is in lower case, so that Chargeback is
    chargeback."""

    transaction_id: Identifier
    label: Annotated[Literal["fraud", "legitimate"], Meta(description="fraud or legitimate")]
    known_at: Timestamp
    source: ShortText | None = None
    note: Note | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "known_at", in_utc(self.known_at))
        if self.source is not None:
            force_setattr(self, "source", _lower(self.source))


def _lower(text: str) -> str:
    """Lower case of the same length: `İ` alone would become two characters, i and a dot."""
    return text.replace("İ", "i").lower()


class Receipt(NamedTuple):
    """What came of labels: how many were new, how many had been received before, and the ids of
    the transactions that were never seen here, in the order of the request."""

    recorded: int
    repeated: int
    unknown: list[str]


_DECODER = Decoder(LabelReport, "labels")


def decode_labels(body: bytes) -> LabelReport | list[LabelReport]:
    """Decode the body of `POST /labels`; raises InvalidRequest naming every faulty field."""
    return _DECODER.decode(body)


class _Scored(NamedTuple):
    """A transaction that was scored here; `created_at` is None for what was only loaded."""

    attempt_id: int
    source_wallet_id: str
    destination_wallet_id: str
    created_at: datetime | None


def _scored(ids: Collection[str]) -> dict[str, _Scored]:
    """Those of the transactions that are known, by id."""
    columns = ("source_wallet_id", "destination_wallet_id", "record__created_at")
    found = Attempt.objects.filter(transaction_id__in=ids)
    rows = found.values_list("transaction_id", "id", *columns)
    return {transaction_id: _Scored(*rest) for transaction_id, *rest in rows}


def _wallets(scored: Iterable[_Scored]) -> set[str]:
    return {
        wallet for each in scored for wallet in (each.source_wallet_id, each.destination_wallet_id)
    }


def labels_record(
    sent: LabelReport | Sequence[LabelReport], *, stated_by: str, now: datetime
) -> Receipt:
    """Keep one label or several, all or none; features of transactions scored later see them.

    A statement that was received before, the same in every field, changes nothing: not even when
    another one has come since, so a file or a request can safely be sent again. Labels of unknown
    transactions are kept, and `attach` finds them when their transaction comes.

    Args:
        stated_by: the name of the key or of the user.
        now: when they were received.

    Raises:
        InvalidRequest: labels that `time_faults` finds; `errors` names each.
    """
    ids = {report.transaction_id for report in listed(sent)}
    while True:
        with transaction.atomic(durable=True):
            scored = _scored(ids)
            history.lock(_wallets(scored.values()), ids - scored.keys())
            # One that was scored between the look and the lock has wallets that are not locked.
            if connection.vendor == "sqlite" or len(_scored(ids)) == len(scored):
                return _record(sent, scored, stated_by, now)


def time_faults(reports: Sequence[LabelReport], now: datetime) -> dict[int, str]:
    """What is wrong with the times of labels, by their index: those that became known later than
    now, beyond the clock difference that is allowed, or before their transaction was made."""
    return _time_faults(reports, _scored({report.transaction_id for report in reports}), now)


def _time_faults(
    reports: Sequence[LabelReport], scored: dict[str, _Scored], now: datetime
) -> dict[int, str]:
    latest = now + timedelta(seconds=settings.MAX_CLOCK_AHEAD_SECONDS)
    faults = {}
    for at, report in enumerate(reports):
        known = scored.get(report.transaction_id)
        if report.known_at > latest:
            faults[at] = f"later than {now.isoformat()}, the server's clock"
        elif known and known.created_at and report.known_at < known.created_at:
            faults[at] = f"before the transaction was made, {known.created_at.isoformat()}"
    return faults


def _record(
    sent: LabelReport | Sequence[LabelReport],
    scored: dict[str, _Scored],
    stated_by: str,
    now: datetime,
) -> Receipt:
    """Record what is new, while nobody else can score or label these transactions."""
    reports = listed(sent)
    if faults := _time_faults(reports, scored, now):
        raise invalid_request(
            [
                FieldError(_DECODER.field(sent, at, "known_at"), fault)
                for at, fault in faults.items()
            ]
        )
    statements = _statements({report.transaction_id for report in reports})
    before = _frauds(statements)
    fresh = _fresh(reports, statements)
    Label.objects.bulk_create(
        Label(transaction_id=each, **statement._asdict(), received_at=now, stated_by=stated_by)
        for each, statement in fresh
    )
    after = _frauds(statements)
    fraud_timelines.change(
        confirmed=[scored[each].attempt_id for each in after - before if each in scored],
        withdrawn=[scored[each].attempt_id for each in before - after if each in scored],
    )
    unknown = dict.fromkeys(r.transaction_id for r in reports if r.transaction_id not in scored)
    return Receipt(len(fresh), len(reports) - len(fresh), list(unknown))


class _Statement(NamedTuple):
    """What of a label makes it the same when it comes again."""

    verdict: str
    known_at: datetime
    source: str
    note: str

    @classmethod
    def of(cls, report: LabelReport) -> Self:
        return cls(report.label, report.known_at, report.source or "", report.note or "")


_Statements: TypeAlias = dict[str, dict[_Statement, None]]
"""What was stated about each transaction, in the order of receipt; the last one counts."""


def _statements(ids: Collection[str]) -> _Statements:
    found: _Statements = {}
    rows = Label.objects.filter(transaction_id__in=ids).order_by("id")
    for transaction_id, *statement in rows.values_list("transaction_id", *_Statement._fields):
        made, each = found.setdefault(transaction_id, {}), _Statement(*statement)
        made.pop(each, None)  # One that is there twice counts as of its last row.
        made[each] = None
    return found


def _fresh(reports: Sequence[LabelReport], statements: _Statements) -> list[tuple[str, _Statement]]:
    """The statements that are new, by transaction id; they are added to `statements`."""
    fresh = []
    for report in reports:
        made, statement = statements.setdefault(report.transaction_id, {}), _Statement.of(report)
        if statement not in made:
            made[statement] = None
            fresh.append((report.transaction_id, statement))
    return fresh


def _frauds(statements: _Statements) -> set[str]:
    return {each for each, made in statements.items() if next(reversed(made)).verdict == FRAUD}


def attach(attempts: Collection[int]) -> None:
    """Put those of new attempts, by id, into the fraud timelines whose label came before them.

    Inside the database transaction that wrote the attempts and holds their wallets and ids.
    """
    of_attempt = Label.objects.filter(transaction_id=OuterRef("transaction_id")).order_by("-id")
    frauds = Attempt.objects.filter(id__in=attempts).alias(
        verdict=Subquery(of_attempt.values("verdict")[:1])
    )
    confirmed = frauds.filter(verdict=FRAUD).values_list("id", flat=True)
    fraud_timelines.change(confirmed=list(confirmed), withdrawn=[])
