"""What changes on the live path: a decision is made and kept, an outcome is received."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from django.conf import settings
from django.db import connection, transaction
from msgspec.structs import replace

from engine.errors import (
    FieldError,
    FutureTransaction,
    OutcomeConflict,
    TransactionConflict,
    UnknownTransaction,
)
from engine.features.live import History, effective_time, next_event
from engine.policy import BLOCK
from engine.scorer import Decision
from engine.transaction import (
    Context,
    ScoreRequest,
    Transaction,
    country_code,
    decode_score_request,
    wallet_code,
)
from scoring import history
from scoring.live_model import Serving, live_model
from scoring.models import Attempt, Outcome, OutcomeStatus
from scoring.outcomes import OutcomeReport, decode_outcomes

SUCCESS = OutcomeStatus.SUCCESS.value
_EMPTY_CONTEXT = Context()
_ENCODER = msgspec.json.Encoder()


class Answer(msgspec.Struct, frozen=True):
    """The body of an answer to `POST /score`."""

    transaction_id: str
    risk_score: float
    decision: str
    reasons: msgspec.Raw
    model_version: str
    rule_score: float
    supervised_score: float | None
    unsupervised_score: float | None


class Scored(NamedTuple):
    """An answer, and whether it had been given before."""

    answer: Answer
    is_replay: bool


def score(body: bytes, now: datetime) -> Scored:
    """Decide one transaction and keep the decision; or give the decision kept under its id.

    Raises InvalidRequest, FutureTransaction, TransactionConflict when the id is another
    transaction's, NoModel; nothing is kept then.
    """
    request = decode_score_request(body)
    subject = request.transaction
    if subject.created_at > now + timedelta(seconds=settings.MAX_CLOCK_AHEAD_SECONDS):
        raise FutureTransaction(
            f"created_at is more than {settings.MAX_CLOCK_AHEAD_SECONDS} s ahead of the server.",
            [FieldError("transaction.created_at", f"later than {now.isoformat()}")],
        )
    live_model.serving()  # Without a model, no wallet is worth waiting for.
    with history.open_turn(subject) as turn:
        if not turn.is_known:
            return Scored(_decide(request, turn, now), is_replay=False)
    return Scored(_replay(subject), is_replay=True)


def _decide(request: ScoreRequest, turn: history.Turn, now: datetime) -> Answer:
    """Score in the turn of the transaction's wallets, by what is live now."""
    serving = live_model.serving()
    past = turn.history()
    decision = serving.scorer.score(request, past)
    record = _record(request, past, decision, serving, now)
    turn.write(record)
    return Answer(
        record.transaction_id,
        decision.risk_score,
        decision.decision,
        msgspec.Raw(record.reasons.encode()),
        decision.model_version,
        decision.rule_score,
        decision.supervised_score,
        decision.unsupervised_score,
    )


def _replay(subject: Transaction) -> Answer:
    """The answer that was given to this transaction before."""
    stored = history.stored_decision(subject.transaction_id)
    if stored is None or stored.digest != subject.digest():
        raise TransactionConflict(
            f"“{subject.transaction_id}” is the id of another transaction that was scored before.",
            [FieldError("transaction.transaction_id", "was used for another transaction")],
        )
    return Answer(
        subject.transaction_id,
        stored.risk_score,
        stored.decision,
        msgspec.Raw(stored.reasons.encode()),
        f"v{stored.version}",
        stored.rule_score,
        stored.supervised_score,
        stored.unsupervised_score,
    )


def _record(
    request: ScoreRequest,
    past: History,
    decision: Decision,
    serving: Serving,
    now: datetime,
) -> history.NewRecord:
    subject = request.transaction
    event = next_event(
        past.events,
        created_at_us=subject.created_at_us,
        amount=subject.amount_units,
        destination=wallet_code(subject.destination_wallet_id),
        country=country_code(subject.country),
        blocked=decision.decision == BLOCK,
    )
    as_stored = connection.ops.adapt_datetimefield_value
    return history.NewRecord(
        transaction_id=subject.transaction_id,
        source_wallet_id=subject.source_wallet_id,
        destination_wallet_id=subject.destination_wallet_id,
        source_time=effective_time(subject.created_at_us, past.events),
        source_event=event,
        digest=subject.digest(),
        # What was used of the features sent is in `features`; the rest is not ours to keep.
        transaction=_json(replace(subject, features=None) if subject.features else subject),
        context=_json(request.context or _EMPTY_CONTEXT),
        created_at=as_stored(subject.created_at),
        scored_at=as_stored(now),
        decision=decision.decision,
        risk_score=decision.risk_score,
        rule_score=decision.rule_score,
        supervised_score=decision.supervised_score,
        unsupervised_score=decision.unsupervised_score,
        reasons=_json(decision.reasons),
        rules_fired=_json(decision.rules_fired),
        features=_json(decision.features),
        features_sent=_json(sorted(decision.sent)),
        model_version_id=serving.version_id,
        rule_set_id=serving.rule_set_id,
    )


def _json(value: object) -> str:
    return _ENCODER.encode(value).decode()


class Receipt(NamedTuple):
    """What `POST /outcomes` answers."""

    recorded: int
    repeated: int


def outcomes_record(body: bytes, now: datetime) -> Receipt:
    """Keep how transactions ended, all of a request or nothing of it.

    A failure joins its source wallet's failure timeline at its end, under the wallet's lock, so
    every transaction that is scored later sees it. The same status again changes nothing.

    Raises InvalidRequest, UnknownTransaction and OutcomeConflict, naming the reports at fault.
    """
    reports = decode_outcomes(body)
    with transaction.atomic(durable=True):
        attempts = _attempts_of(reports)
        history.lock(attempt.source_wallet_id for attempt in attempts.values())
        known = dict(
            Outcome.objects.filter(attempt__in=attempts.values()).values_list(
                "attempt__transaction_id", "status"
            )
        )
        fresh = _fresh(reports, known)
        Outcome.objects.bulk_create(_outcomes(fresh, attempts, now))
    return Receipt(len(fresh), len(reports) - len(fresh))


def _attempts_of(reports: Sequence[OutcomeReport]) -> dict[str, Attempt]:
    """The attempts that the reports are about, by transaction id."""
    ids = {report.transaction_id for report in reports}
    found = Attempt.objects.only("transaction_id", "source_wallet_id", "source_time")
    attempts = {each.transaction_id: each for each in found.filter(transaction_id__in=ids)}
    faults = [
        FieldError(f"outcomes[{at}].transaction_id", f"“{report.transaction_id}” was not scored")
        for at, report in enumerate(reports)
        if report.transaction_id not in attempts
    ]
    if faults:
        raise UnknownTransaction("These transactions were never scored here.", faults)
    return attempts


def _fresh(reports: Sequence[OutcomeReport], known: dict[str, str]) -> list[OutcomeReport]:
    """The reports that say something new; raises OutcomeConflict for those that contradict."""
    known = dict(known)
    fresh, faults = [], []
    for at, report in enumerate(reports):
        before = known.setdefault(report.transaction_id, "")
        if before == "":
            known[report.transaction_id] = report.status
            fresh.append(report)
        elif before != report.status:
            faults.append(FieldError(f"outcomes[{at}].status", f"{before} was received before"))
    if faults:
        raise OutcomeConflict("Another outcome was received before.", faults)
    return fresh


def _outcomes(
    reports: Sequence[OutcomeReport], attempts: dict[str, Attempt], now: datetime
) -> list[Outcome]:
    """The rows of new reports; failures in the order in which their transactions were scored."""
    failing = {attempts[r.transaction_id].source_wallet_id for r in reports if r.status != SUCCESS}
    latest = _latest_failures(failing)
    rows = []
    for report in sorted(reports, key=lambda report: attempts[report.transaction_id].pk):
        attempt = attempts[report.transaction_id]
        row = Outcome(
            attempt=attempt,
            status=report.status,
            occurred_at=report.occurred_at,
            received_at=now,
        )
        if report.status != SUCCESS:
            wallet = attempt.source_wallet_id
            time, count = latest.get(wallet, (attempt.source_time, 0))
            latest[wallet] = max(time, attempt.source_time), count + 1
            row.failure_wallet_id = wallet
            row.failure_time, row.failure_count = latest[wallet]
        rows.append(row)
    return rows


def _latest_failures(wallets: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The time and the number of each wallet's latest failure, by wallet; one seek a wallet."""
    latest = {}
    for wallet in wallets:
        found = (
            Outcome.objects.filter(failure_wallet_id=wallet)
            .order_by("-failure_time", "-id")
            .values_list("failure_time", "failure_count")
            .first()
        )
        if found is not None:
            latest[wallet] = found
    return latest
