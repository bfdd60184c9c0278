"""Traffic that was sent to `/score`, and the times at which it came."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import connection

from deployments import services
from tests.scoring.conftest import Api
from tests.training import live_traffic


def caller(**changes: Any) -> Api:
    """A caller of a server whose champion reads every part of a transaction."""
    live_traffic.register_champion(**changes)
    _, key = services.api_key_create(name="test", scopes=["score", "labels"], created_by="test")
    return Api(key)


def send(api: Api, sent: list[dict[str, Any]]) -> None:
    """Each transaction, and then how it ended if it failed; before it, the labels that became known
    since the one before, of those that have a `label`. All of it came when it says.

    `sent` is what is sent beside a transaction.
    """
    to_tell = sorted((facts for facts in sent if "label" in facts), key=_known_at)
    for facts in sent:
        while to_tell and _known_at(to_tell[0]) < datetime.fromisoformat(facts["created_at"]):
            tell(api, to_tell.pop(0))
        answer = api.score(json.loads(live_traffic.body(facts)) | facts.get("sent", {}))
        assert answer.status_code == 200, answer.content
        if facts["status"] in ("FAILED", "CANCELED"):
            outcome = {
                "transaction_id": facts["transaction_id"],
                "status": facts["status"],
                "occurred_at": facts["created_at"],
            }
            assert api.outcomes(outcome).status_code == 200
    for facts in to_tell:
        tell(api, facts)
    came_when_it_says()


def tell(api: Api, facts: dict[str, Any]) -> None:
    """Send the label of a transaction."""
    label = {
        "transaction_id": facts["transaction_id"],
        "label": facts["label"],
        "known_at": facts["label_known_at"],
    }
    assert api.labels(label).status_code == 200


def came_when_it_says() -> None:
    """Let everything have been received when it happened, and not while the test ran."""
    rewrite("UPDATE scoring_scorerecord SET scored_at = created_at")
    rewrite("UPDATE scoring_label SET received_at = known_at")
    rewrite("UPDATE scoring_outcome SET received_at = occurred_at")


def rewrite(statement: str, parameters: Sequence[Any] = ()) -> None:
    """Change what is never changed, past the triggers that refuse it."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET session_replication_role = replica")
        cursor.execute(statement, parameters)
        if connection.vendor == "postgresql":
            cursor.execute("SET session_replication_role = DEFAULT")


def _known_at(facts: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(facts["label_known_at"])
