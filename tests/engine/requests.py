"""Requests to score, as JSON values that tests change."""

import copy
import json
from typing import Any

from engine.transaction import ScoreRequest, decode_score_request

EXAMPLE: dict[str, Any] = {
    "transaction": {
        "transaction_id": "tx_001",
        "amount": 40.0,
        "currency": "PYC",
        "source_wallet_id": "wallet_001",
        "destination_wallet_id": "wallet_002",
        "transaction_type": "TRANSFER",
        "direction": "outgoing",
        "created_at": "2026-01-23T12:00:00Z",
        "initiator_user_id": "user_001",
        "country": "FR",
        "city": "Paris",
    },
    "context": {
        "source_wallet": {"balance": 1000.0, "status": "active", "account_age_minutes": 525600},
        "destination_wallet": {"status": "active"},
        "user": {"status": "active", "risk_level": "low"},
    },
}


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING = _Missing()


def body(changes: dict[str, Any] | None = None) -> bytes:
    """The example with the values at dotted paths replaced; MISSING takes a key away."""
    request = copy.deepcopy(EXAMPLE)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        target = request
        for key in parents:
            target = target.setdefault(key, {})
        if value is MISSING:
            target.pop(last, None)
        else:
            target[last] = value
    return json.dumps(request).encode()


def request(changes: dict[str, Any] | None = None) -> ScoreRequest:
    """The decoded example with changes."""
    return decode_score_request(body(changes))
