"""Well-formed requests for the tests to spoil."""

from itertools import count
from typing import Any

_ids = count(1)


def request(**changes: Any) -> dict[str, Any]:
    """A request that is approved; `changes` replace fields of its transaction."""
    transaction = {
        "transaction_id": f"tx_{next(_ids)}",
        "amount": 20.0,
        "currency": "PYC",
        "source_wallet_id": "alice",
        "destination_wallet_id": "bob",
        "transaction_type": "TRANSFER",
        "direction": "outgoing",
        "created_at": "2026-01-23T12:00:00Z",
        "initiator_user_id": "user_1",
        "country": "FR",
        "city": "Paris",
    }
    context = {
        "source_wallet": {"balance": 1000.0, "status": "active", "account_age_minutes": 525600},
        "destination_wallet": {"status": "active"},
        "user": {"status": "active", "risk_level": "low"},
    }
    return {"transaction": transaction | changes, "context": context}
