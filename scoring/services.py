"""What changes on the live path: a decision is made and kept, an outcome is received."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from django.conf import settings
from django.db import connection, transaction
from msgspec.structs import replace

from engine.errors import (
    FieldError,
    FutureTransaction,
    InvalidRequest,
    OutcomeConflict,
    SentinelleError,
    TransactionConflict,
    UnknownTransaction,
)
from engine.features.live import History, effective_time, next_event, next_incoming
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
from scoring import control, history, labels
from scoring.live_model import Serving, live_model
from scoring.models import Attempt, Outcome, OutcomeStatus
from scoring.outcomes import OutcomeReport, decode_outcomes, outcome_field
from scoring.reports import listed

SUCCESS = OutcomeStatus.SUCCESS.value
_BATCH_TURN = 20
"""Transactions of a batch that share a turn: their locks stay below `history.MANY_LOCKS`, and
nobody else waits long for a wallet of theirs."""

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


def score(body: bytes, now: datetime, *, is_kept: bool = True) -> Scored:
    """Decide one transaction and keep the decision; or give the decision kept under its id.

    What is not to be kept is decided and written all the same, and undone at the end.

    Raises InvalidRequest, FutureTransaction, TransactionConflict when the id is another
    transaction's, NoModel; nothing is kept then.
    """
    request = decode_score_request(body)
    _check_clock(request.transaction, now)
    live_model.serving()  # Without a model, no wallet is worth waiting for.
    with history.open_turn([request.transaction], is_kept=is_kept) as turn:
        answer = _decide(request, turn, now)
    return Scored(answer, is_replay=False) if answer else _replay(request.transaction)


def score_batch(
    items: Sequence[ScoreRequest | InvalidRequest], now: datetime
) -> list[Scored | SentinelleError]:
    """`score` of each transaction of a batch, in the order given: each sees those before it.

    An item that `score` would have refused is answered with its error and does not touch the
    others. Raises NoModel.

    A few items share a turn, and so a flush of the disk. When the database fails in between, those
    of the turns before are kept, and asking again replays them.
    """
    live_model.serving()
    turns = (items[at : at + _BATCH_TURN] for at in range(0, len(items), _BATCH_TURN))
    return [result for turn in turns for result in _score_together(turn, now)]


def _score_together(
    items: Sequence[ScoreRequest | InvalidRequest], now: datetime
) -> Iterator[Scored | SentinelleError]:
    """The results of some items of a batch; only those that may be decided wait for wallets."""
    checked = [_check_item(item, now) for item in items]
    results = iter(_decide_together([it for it in checked if isinstance(it, ScoreRequest)], now))
    for item in checked:
        yield next(results) if isinstance(item, ScoreRequest) else item


def _check_item(
    item: ScoreRequest | InvalidRequest, now: datetime
) -> ScoreRequest | SentinelleError:
    if isinstance(item, InvalidRequest):
        return item
    try:
        _check_clock(item.transaction, now)
    except FutureTransaction as error:
        return error
    return item


def _decide_together(
    requests: Sequence[ScoreRequest], now: datetime
) -> list[Scored | SentinelleError]:
    """The results of requests that share a turn; all are durable when this returns."""
    if not requests:
        return []
    with history.open_turn([request.transaction for request in requests]) as turn:
        decided = [_decide_item(request, turn, now) for request in requests]
    return [result or _replay_item(requests[at]) for at, result in enumerate(decided)]


def _decide_item(
    request: ScoreRequest, turn: history.Turn, now: datetime
) -> Scored | SentinelleError | None:
    """The decision or the error of a request; None when its id was recorded before."""
    try:
        answer = _decide(request, turn, now)
    except InvalidRequest as error:
        return error
    return Scored(answer, is_replay=False) if answer else None


def _replay_item(request: ScoreRequest) -> Scored | SentinelleError:
    try:
        return _replay(request.transaction)
    except TransactionConflict as error:
        return error


def _check_clock(subject: Transaction, now: datetime) -> None:
    ahead = timedelta(seconds=settings.MAX_CLOCK_AHEAD_SECONDS)
    if subject.created_at > now + ahead:
        raise FutureTransaction(
            f"created_at is more than {ahead.seconds} s ahead of the server.",
            [FieldError("transaction.created_at", f"later than {now.isoformat()}")],
        )


def _decide(request: ScoreRequest, turn: history.Turn, now: datetime) -> Answer | None:
    """Score in the turn of the transaction's wallets; None when its id was recorded before."""
    found = _past(request.transaction, turn)
    if found is None:
        return None
    serving, past = found
    decision = serving.scorer.score(request, past.history)
    decision, control_share = control.let_through(decision, request.transaction.transaction_id)
    record = _record(request, past.history, decision, control_share, serving, now)
    turn.write(record)
    if past.is_labelled:
        labels.attach([turn.attempt_id(record.transaction_id)])
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


def _past(subject: Transaction, turn: history.Turn) -> tuple[Serving, history.Past] | None:
    """What is live now that the wallets are ours, and the past as it reads it.

    A version with another label delay may have been promoted while they were waited for; then what
    was read is not what it reads.
    """
    serving = live_model.serving()
    while True:
        past = turn.read(subject, serving.bundle.label_delay)
        if past is None:
            return None
        before, serving = serving, live_model.serving()
        if serving.bundle.label_delay == before.bundle.label_delay:
            return serving, past


def _replay(subject: Transaction) -> Scored:
    """The answer that was given to this transaction before."""
    stored = history.stored_decision(subject.transaction_id)
    if stored is None:
        raise TransactionConflict(
            f"“{subject.transaction_id}” was loaded as history: it was not decided here.",
            [FieldError("transaction.transaction_id", "is one of the history's")],
        )
    if stored.digest != subject.digest():
        raise TransactionConflict(
            f"“{subject.transaction_id}” is the id of another transaction that was scored before.",
            [FieldError("transaction.transaction_id", "was used for another transaction")],
        )
    answer = Answer(
        subject.transaction_id,
        stored.risk_score,
        stored.decision,
        msgspec.Raw(stored.reasons.encode()),
        f"v{stored.version}",
        stored.rule_score,
        stored.supervised_score,
        stored.unsupervised_score,
    )
    return Scored(answer, is_replay=True)


def _record(
    request: ScoreRequest,
    past: History,
    decision: Decision,
    control_share: float | None,
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
    incoming = next_incoming(
        past.incoming,
        created_at_us=subject.created_at_us,
        amount=subject.amount_units,
        source=wallet_code(subject.source_wallet_id),
    )
    as_stored = connection.ops.adapt_datetimefield_value
    return history.NewRecord(
        transaction_id=subject.transaction_id,
        source_wallet_id=subject.source_wallet_id,
        destination_wallet_id=subject.destination_wallet_id,
        source_time=effective_time(subject.created_at_us, past.events),
        source_event=event,
        destination_time=effective_time(subject.created_at_us, past.incoming),
        destination_event=incoming,
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
        control_share=control_share,
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
    sent = decode_outcomes(body)
    with transaction.atomic(durable=True):
        attempts = _attempts_of(sent)
        history.lock(attempt.source_wallet_id for attempt in attempts.values())
        known = dict(
            Outcome.objects.filter(attempt__in=attempts.values()).values_list(
                "attempt__transaction_id", "status"
            )
        )
        fresh = _fresh(sent, known)
        Outcome.objects.bulk_create(_outcomes(fresh, attempts, now))
    return Receipt(len(fresh), len(listed(sent)) - len(fresh))


def _attempts_of(sent: OutcomeReport | Sequence[OutcomeReport]) -> dict[str, Attempt]:
    """The attempts that the reports are about, by transaction id."""
    reports = listed(sent)
    ids = {report.transaction_id for report in reports}
    found = Attempt.objects.only("transaction_id", "source_wallet_id", "source_time")
    attempts = {each.transaction_id: each for each in found.filter(transaction_id__in=ids)}
    faults = [
        FieldError(
            outcome_field(sent, at, "transaction_id"), f"“{report.transaction_id}” was never seen"
        )
        for at, report in enumerate(reports)
        if report.transaction_id not in attempts
    ]
    if faults:
        raise UnknownTransaction("These transactions were never seen here.", faults)
    return attempts


def _fresh(
    sent: OutcomeReport | Sequence[OutcomeReport], known: dict[str, str]
) -> list[OutcomeReport]:
    """The reports that say something new; raises OutcomeConflict for those that contradict."""
    known = dict(known)
    fresh, faults = [], []
    for at, report in enumerate(listed(sent)):
        before = known.setdefault(report.transaction_id, "")
        if before == "":
            known[report.transaction_id] = report.status
            fresh.append(report)
        elif before != report.status:
            field = outcome_field(sent, at, "status")
            faults.append(FieldError(field, f"{before} was received before"))
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
