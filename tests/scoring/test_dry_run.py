"""`POST /score?dry_run=true`: all that a decision takes, and nothing of it stays."""

from typing import Any

import pytest
from django.apps import apps
from django.db import connection

from scoring import services
from scoring.models import Attempt, ScoreRecord
from tests.scoring.conftest import Api
from tests.scoring.requests import request

DRY = "/score?dry_run=true"


def rows() -> dict[str, int]:
    """How many there are, by table."""
    return {model.__name__: model._default_manager.count() for model in apps.get_models()}


def locks() -> int:
    """How many wallets somebody holds."""
    if connection.vendor == "sqlite":
        return int(connection.in_atomic_block)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        return int(cursor.fetchone()[0])


def test_it_answers_as_the_real_one_would_and_keeps_nothing(api: Api) -> None:
    body = request(transaction_id="t")
    before = rows()
    dry = api.post(DRY, body)
    assert (dry.status_code, dry["Dry-Run"]) == (200, "true")
    assert rows() == before
    assert locks() == 0
    real = api.score(body)
    assert real.status_code == 200
    assert "Dry-Run" not in real
    assert "Idempotent-Replayed" not in real
    assert dry.content == real.content
    assert Attempt.objects.get().transaction_id == "t"


def test_it_is_no_history_for_the_next_one(api: Api) -> None:
    for _ in range(3):
        assert api.post(DRY, request(source_wallet_id="new")).status_code == 200
    api.score(request(source_wallet_id="new"))
    assert ScoreRecord.objects.get().features["src_tx_count_out_30d"] == 0


def test_of_a_transaction_whose_label_came_before_it(api: Api) -> None:
    label = {"transaction_id": "t", "label": "fraud", "known_at": "2026-02-01T00:00:00Z"}
    assert api.labels(label).status_code == 200
    before = rows()
    assert api.post(DRY, request(transaction_id="t")).status_code == 200
    assert rows() == before


def test_of_one_that_was_scored_it_answers_what_was_stored(api: Api) -> None:
    body = request(transaction_id="t")
    first = api.score(body)
    again = api.post(DRY, body)
    assert again.content == first.content
    assert (again["Dry-Run"], again["Idempotent-Replayed"]) == ("true", "true")
    other = api.post(DRY, request(transaction_id="t", amount=21.0))
    assert (other.status_code, other.json()["code"]) == (409, "TRANSACTION_CONFLICT")
    assert locks() == 0


def test_it_writes_before_it_undoes(api: Api, monkeypatch: Any) -> None:
    """A write that the database refuses fails a dry run as it would fail the real one."""
    made = services._record
    monkeypatch.setattr(services, "_record", lambda *a: made(*a)._replace(decision=None))
    before = rows()
    assert api.post(DRY, request()).status_code == 500
    assert rows() == before
    assert locks() == 0


@pytest.mark.parametrize(
    "query", ["dry_run=1", "dry_run=", "dry_run=True", "dry_run=true&dry_run=true", "dry_run"]
)
def test_other_values_are_refused(api: Api, query: str) -> None:
    response = api.post(f"/score?{query}", request())
    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST")
    [error] = response.json()["errors"]
    assert error == {"field": "dry_run", "message": "expected true or false"}
    assert not Attempt.objects.exists()


@pytest.mark.parametrize("query", ["dry_run=false", "other=1"])
def test_without_it_the_decision_is_kept(api: Api, query: str) -> None:
    assert "Dry-Run" not in api.post(f"/score?{query}", request())
    assert Attempt.objects.count() == 1


def test_a_batch_has_none(api: Api) -> None:
    response = api.post("/score/batch?dry_run=true", {"transactions": [request()]})
    assert response.status_code == 400
    assert response.json()["errors"][0]["field"] == "dry_run"
    assert "/score" in response.json()["errors"][0]["message"]
    assert not Attempt.objects.exists()
