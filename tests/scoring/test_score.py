"""`POST /score`: the answer, what is kept of it, and asking twice."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from deployments import services
from deployments.models import RegisteredModel, RuleSet
from scoring.models import Attempt, ScoreRecord
from tests.scoring.conftest import Api
from tests.scoring.requests import request


def record(transaction_id: str) -> ScoreRecord:
    return ScoreRecord.objects.get(attempt__transaction_id=transaction_id)


def test_answer_has_the_keys_of_the_contract_and_is_kept(api: Api) -> None:
    response = api.score(request(transaction_id="tx_001"))
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert "Idempotent-Replayed" not in response
    answer = response.json()
    assert list(answer) == [
        "transaction_id", "risk_score", "decision", "reasons", "model_version",
        "rule_score", "supervised_score", "unsupervised_score",
    ]  # fmt: skip
    assert answer["transaction_id"] == "tx_001"
    assert answer["model_version"] == "v1.0.0"
    kept = record("tx_001")
    for name in ("risk_score", "decision", "reasons", "rule_score"):
        assert getattr(kept, name) == answer[name]
    assert kept.supervised_score == answer["supervised_score"]
    assert kept.unsupervised_score == answer["unsupervised_score"]
    assert kept.transaction["amount"] == 20.0
    assert kept.context["source_wallet"]["balance"] == 1000.0
    assert kept.created_at == datetime(2026, 1, 23, 12, tzinfo=UTC)
    assert abs(kept.scored_at - datetime.now(UTC)) < timedelta(seconds=10)


def test_rules_that_block_are_answered_without_asking_the_models(api: Api) -> None:
    answer = api.score(request(transaction_id="b", amount=400.0, country="KP")).json()
    assert answer["decision"] == "BLOCK"
    assert answer["risk_score"] == 1.0
    assert answer["reasons"] == ["RULE_MAX_AMOUNT", "RULE_COUNTRY_BLOCKED"]
    assert answer["supervised_score"] is None
    assert answer["unsupervised_score"] is None
    assert record("b").rules_fired == ["R1", "R6"]


def test_amount_of_zero_is_the_rules_business(api: Api) -> None:
    assert api.score(request(amount=0)).json()["reasons"] == ["RULE_INVALID_AMOUNT"]


def test_block_is_history_for_the_next_one(api: Api) -> None:
    api.score(request(amount=400.0))
    answer = api.score(request(transaction_id="next")).json()
    assert "R15" in record("next").rules_fired
    assert answer["rule_score"] == 0.2


def test_every_feature_is_kept_with_where_it_came_from(api: Api) -> None:
    body = request(transaction_id="f")
    body["transaction"]["features"] = {
        "historical": {"src_tx_count_out_5m": 7, "avg_amount_30d": 3.0, "tx_last_10min": None}
    }
    body["features"] = {"historical": {"src_tx_count_out_5m": 9}, "transactional": {"unknown": 1}}
    assert api.score(body).status_code == 200
    kept = record("f")
    assert kept.features_sent == ["avg_amount_30d", "src_tx_count_out_5m"]
    assert kept.features["src_tx_count_out_5m"] == 9
    assert kept.features["tx_last_10min"] == 0
    assert kept.features["is_new_beneficiary"] is None
    assert "unknown" not in kept.features


def test_decision_names_the_version_and_the_rule_set_that_made_it(api: Api) -> None:
    api.score(request(transaction_id="v"))
    assert record("v").model_version.version == "1.0.0"
    assert record("v").rule_set.name == "default"


class TestAskingTwice:
    def test_same_transaction_gets_the_same_answer_again(self, api: Api) -> None:
        body = request(transaction_id="tx_001")
        first = api.score(body)
        api.score(request())
        again = api.score(body)
        assert again.status_code == 200
        assert again["Idempotent-Replayed"] == "true"
        assert again.content == first.content
        assert Attempt.objects.count() == 2

    def test_context_and_features_may_have_moved_on(self, api: Api) -> None:
        body = request(transaction_id="tx_001")
        first = api.score(body)
        body["context"]["source_wallet"]["balance"] = 1.0
        body["transaction"]["features"] = {"historical": {"tx_last_10min": 50}}
        body["transaction"]["a_new_key"] = True
        again = api.score(body)
        assert again["Idempotent-Replayed"] == "true"
        assert again.content == first.content

    @pytest.mark.parametrize("same_written_otherwise", [
        {"created_at": "2026-01-23T13:00:00+01:00"},
        {"created_at": "2026-01-23T12:00:00"},
        {"currency": "pyc", "country": "fr", "transaction_type": "transfer"},
        {"amount": 20},
        {"direction": None},
    ])  # fmt: skip
    def test_it_is_the_decoded_transaction_that_counts(
        self, api: Api, same_written_otherwise: dict[str, Any]
    ) -> None:
        api.score(request(transaction_id="tx_001"))
        again = api.score(request(transaction_id="tx_001", **same_written_otherwise))
        assert again.status_code == 200
        assert again["Idempotent-Replayed"] == "true"

    @pytest.mark.parametrize("change", [
        {"amount": 20.01},
        {"currency": "EUR"},
        {"source_wallet_id": "carol"},
        {"destination_wallet_id": "carol"},
        {"source_wallet_id": "bob", "destination_wallet_id": "alice"},
        {"transaction_type": "PAYMENT"},
        {"direction": "incoming"},
        {"created_at": "2026-01-23T12:00:00.000001Z"},
        {"initiator_user_id": "user_2"},
        {"country": "DE"},
        {"city": None},
    ])  # fmt: skip
    def test_another_transaction_under_the_same_id_is_refused(
        self, api: Api, change: dict[str, Any]
    ) -> None:
        first = api.score(request(transaction_id="tx_001"))
        response = api.score(request(transaction_id="tx_001", **change))
        assert response.status_code == 409
        assert response["Content-Type"] == "application/problem+json"
        assert response.json()["code"] == "TRANSACTION_CONFLICT"
        assert Attempt.objects.count() == 1
        assert api.score(request(transaction_id="tx_001")).content == first.content


class TestClock:
    def test_up_to_five_minutes_ahead(self, api: Api) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=290)
        assert api.score(request(created_at=soon.isoformat())).status_code == 200

    @pytest.mark.parametrize("ahead", [timedelta(seconds=310), timedelta(days=365_0)])
    def test_later_is_refused_and_not_kept(self, api: Api, ahead: timedelta) -> None:
        response = api.score(request(created_at=(datetime.now(UTC) + ahead).isoformat()))
        assert response.status_code == 400
        assert response.json()["code"] == "FUTURE_TRANSACTION"
        assert response.json()["errors"][0]["field"] == "transaction.created_at"
        assert not Attempt.objects.exists()

    def test_far_past_is_scored(self, api: Api) -> None:
        assert api.score(request(created_at="1970-01-01T00:00:00Z")).status_code == 200


class TestWithoutModel:
    def test_there_is_no_made_up_score(self, registry: None) -> None:
        _, key = services.api_key_create(name="test", scopes=["score"], created_by="test")
        response = Api(key).score(request())
        assert response.status_code == 503
        assert response.json()["code"] == "NO_MODEL"
        assert not Attempt.objects.exists()

    def test_health_says_so(self, registry: None) -> None:
        response = Api("").health()
        assert response.status_code == 503
        assert response.json() == {
            "status": "unhealthy",
            "model_version": None,
            "supervised_loaded": False,
            "unsupervised_loaded": False,
            "reason": "No version is live yet: promote one.",
        }


def test_health_names_the_version_without_a_key(api: Api) -> None:
    response = api.health()
    assert response.status_code == 200
    assert response.json() == {
        "status": "healthy",
        "model_version": "v1.0.0",
        "supervised_loaded": True,
        "unsupervised_loaded": True,
    }


def test_rule_set_none_lets_models_decide(api: Api, settings: Any) -> None:
    settings.LIVE_REFRESH_SECONDS = 0
    services.rule_set_promote(
        model=RegisteredModel.objects.get(name="fraud"),
        rule_set=RuleSet.objects.get(name="none"),
        actor="test",
        reason="large amounts",
    )
    answer = api.score(request(transaction_id="n", amount=1e6)).json()
    assert answer["supervised_score"] is not None
    assert record("n").rule_set.name == "none"


def test_texts_that_try_to_be_sql_are_texts(api: Api) -> None:
    nasty = "x'; DROP TABLE scoring_attempt; --%s%(a)s\\"
    body = request(
        transaction_id=nasty, source_wallet_id=nasty, destination_wallet_id=nasty + "2", city=nasty
    )
    assert api.score(body).status_code == 200
    assert api.score(body)["Idempotent-Replayed"] == "true"
    assert Attempt.objects.get().source_wallet_id == nasty


def test_database_that_fails_is_503_and_keeps_nothing(api: Api, monkeypatch: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE scoring_scorerecord RENAME TO hidden")
    try:
        response = api.score(request(transaction_id="d"))
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE hidden RENAME TO scoring_scorerecord")
    assert response.status_code == 503
    assert response.json()["code"] == "DATABASE_UNAVAILABLE"
    assert response["Retry-After"]
    assert "hidden" not in response.content.decode()
    assert not Attempt.objects.exists()
    assert api.score(request(transaction_id="d")).status_code == 200


def test_what_is_unknown_among_features_is_not_kept(api: Api) -> None:
    body = request()
    body["transaction"]["features"] = {"historical": {"note": "\x00", "tx_last_10min": 1}}
    assert api.score(body).status_code == 200
    record = ScoreRecord.objects.get()
    assert "note" not in json.dumps(record.transaction)
    assert record.features["tx_last_10min"] == 1
    assert record.features_sent == ["tx_last_10min"]


def test_any_offset_from_utc_is_taken(api: Api) -> None:
    assert api.score(request(created_at="2026-01-23T12:00:00+23:59")).status_code == 200
