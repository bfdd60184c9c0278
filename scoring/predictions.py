"""What a classifier is asked and what it answered, once and for all."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from django.db import IntegrityError, transaction

from engine.classifier.request import decode_inputs
from engine.errors import FieldError, PredictionConflict
from engine.json_faults import invalid_request
from scoring.live_classifiers import Predicting, live_classifiers
from scoring.models import PredictionRecord

MOST_KEY = 64
"""Characters of an idempotency key."""

_CANONICAL = msgspec.json.Encoder(order="sorted")
_ENCODER = msgspec.json.Encoder()


class Predicted(NamedTuple):
    """An answer, as JSON, and whether it had been given before."""

    answer: bytes
    is_replay: bool


def predict(name: str, body: bytes, *, key: str | None, caller: str, now: datetime) -> Predicted:
    """Answer one request to a classifier and keep the answer; or give the one kept under `key`.

    What is kept is durable when this returns. Of several that come with the same key at once, one
    is kept and all are given it.

    Raises UnknownModel, InvalidRequest naming every faulty field, PredictionConflict when the key
    was used for another request, NoModel; nothing is kept then.
    """
    values = decode_inputs(body)
    _check_key(key)
    digest = None if key is None else hashlib.sha256(_CANONICAL.encode(values)).digest()
    if key is not None and (kept := _kept(name, key)):
        return _replay(kept, digest)
    live = live_classifiers.predicting(name)
    record = _record(live, values, request_id=key, digest=digest, caller=caller, at=now)
    try:
        with transaction.atomic(durable=True):
            record.save()
    except IntegrityError:
        # Another request with this key was faster.
        winner = None if key is None else _kept(name, key)
        if winner is None:
            raise
        return _replay(winner, digest)
    return Predicted(record.answer.encode(), is_replay=False)


def _check_key(key: str | None) -> None:
    if key is None or (1 <= len(key) <= MOST_KEY and key.isascii() and key.isprintable()):
        return
    expected = f"expected 1 to {MOST_KEY} printable ASCII characters"
    raise invalid_request([FieldError("Idempotency-Key", expected)])


def _kept(name: str, key: str) -> PredictionRecord | None:
    records = PredictionRecord.objects.filter(request_id=key, model__name=name)
    return records.only("digest", "answer").first()


def _replay(kept: PredictionRecord, digest: bytes | None) -> Predicted:
    """The answer as it was given; raises PredictionConflict when other inputs were sent for it."""
    if bytes(kept.digest or b"") != digest:
        raise PredictionConflict(
            "This Idempotency-Key was used for other inputs before.",
            [FieldError("Idempotency-Key", "was used for other inputs")],
        )
    return Predicted(kept.answer.encode(), is_replay=True)


def _record(live: Predicting, values: Mapping[str, Any], **facts: Any) -> PredictionRecord:
    """The answer to these values, not yet kept; raises InvalidRequest."""
    answer = live.bundle.predict(values)
    names = live.bundle.definition.answer
    return PredictionRecord(
        model_id=live.model_id,
        model_version_id=live.version_id,
        inputs=answer[names.context],
        prediction=answer[names.prediction],
        confidence=answer[names.confidence],
        answer=_ENCODER.encode(answer).decode(),
        **facts,
    )
