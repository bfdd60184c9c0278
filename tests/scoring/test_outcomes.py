"""`POST /outcomes`: what is kept, what history sees of it, and what is refused."""

from typing import Any

import pytest

from scoring.models import Outcome, ScoreRecord
from tests.scoring.conftest import Api
from tests.scoring.requests import request

ENDED = "2026-01-23T12:00:05Z"


def outcome(transaction_id: str, status: str = "FAILED", **changes: Any) -> dict[str, Any]:
    return {"transaction_id": transaction_id, "status": status, "occurred_at": ENDED} | changes


def features(api: Api, **changes: Any) -> dict[str, Any]:
    body = request(**changes)
    assert api.score(body).status_code == 200
    kept = ScoreRecord.objects.get(attempt__transaction_id=body["transaction"]["transaction_id"])
    return dict(kept.features)


@pytest.fixture
def scored(api: Api) -> Api:
    """a1, a2, a3 of alice and b1 of bob were scored."""
    for at, name in enumerate(("a1", "a2", "a3")):
        api.score(request(transaction_id=name, created_at=f"2026-01-23T12:0{at}:00Z"))
    api.score(request(transaction_id="b1", source_wallet_id="bob", destination_wallet_id="alice"))
    return api


def test_one(scored: Api) -> None:
    response = scored.outcomes(outcome("a1"))
    assert response.status_code == 200
    assert response.json() == {"recorded": 1, "repeated": 0}
    kept = Outcome.objects.get()
    assert (kept.attempt.transaction_id, kept.status) == ("a1", "FAILED")
    assert kept.occurred_at.isoformat() == "2026-01-23T12:00:05+00:00"


def test_list(scored: Api) -> None:
    reports = [outcome("a1"), outcome("b1", "SUCCESS"), outcome("a2", "CANCELED")]
    assert scored.outcomes(reports).json() == {"recorded": 3, "repeated": 0}


def test_history_sees_failures_of_the_wallet_from_receipt(scored: Api) -> None:
    at = {"created_at": "2026-01-23T12:05:00Z"}
    assert features(scored, **at)["src_failed_count_24h"] == 0
    scored.outcomes([outcome("a1"), outcome("a2", "CANCELED"), outcome("a3", "SUCCESS")])
    assert features(scored, **at)["src_failed_count_24h"] == 2
    assert features(scored, **at)["src_failed_ratio_7d"] == 2 / 5
    assert features(scored, source_wallet_id="bob", **at)["src_failed_count_24h"] == 0


def test_window_ends_after_24_hours_of_the_attempts(scored: Api) -> None:
    scored.outcomes([outcome("a1"), outcome("a2")])
    for created_at, failures in (
        ("2026-01-24T12:00:00Z", 2),  # a1 is 24 h old to the microsecond: still inside
        ("2026-01-24T12:00:00.000001Z", 1),
        ("2026-01-24T12:01:00.000001Z", 0),
    ):
        assert features(scored, created_at=created_at)["src_failed_count_24h"] == failures


def test_failure_that_is_told_late_takes_its_place_at_the_end(scored: Api) -> None:
    scored.outcomes(outcome("a3"))
    scored.outcomes(outcome("a1"))
    kept = Outcome.objects.order_by("id")
    assert [o.attempt.transaction_id for o in kept] == ["a3", "a1"]
    assert kept[0].failure_time == kept[1].failure_time
    assert [o.failure_count for o in kept] == [1, 2]


def test_same_again_changes_nothing(scored: Api) -> None:
    scored.outcomes(outcome("a1"))
    again = scored.outcomes([outcome("a1"), outcome("a2"), outcome("a2")])
    assert again.json() == {"recorded": 1, "repeated": 2}
    assert Outcome.objects.count() == 2


def test_contradiction_is_refused_whole(scored: Api) -> None:
    scored.outcomes(outcome("a1"))
    response = scored.outcomes([outcome("a2"), outcome("a1", "SUCCESS")])
    assert response.status_code == 409
    assert response.json()["code"] == "OUTCOME_CONFLICT"
    assert [error["field"] for error in response.json()["errors"]] == ["outcomes[1].status"]
    assert Outcome.objects.count() == 1


def test_contradiction_within_a_list(scored: Api) -> None:
    response = scored.outcomes([outcome("a1"), outcome("a1", "SUCCESS")])
    assert response.status_code == 409
    assert not Outcome.objects.exists()


def test_unknown_transactions_are_named_and_nothing_is_kept(scored: Api) -> None:
    response = scored.outcomes([outcome("a1"), outcome("x1"), outcome("x2")])
    assert response.status_code == 404
    problem = response.json()
    assert problem["code"] == "UNKNOWN_TRANSACTION"
    assert [error["field"] for error in problem["errors"]] == [
        "outcomes[1].transaction_id", "outcomes[2].transaction_id",
    ]  # fmt: skip
    assert "x1" in problem["errors"][0]["message"]
    assert not Outcome.objects.exists()


def test_field_is_named_as_it_was_sent(scored: Api) -> None:
    scored.outcomes(outcome("a1"))
    refused = {"transaction_id": outcome("x1"), "status": outcome("a1", "SUCCESS")}
    for field, sent in refused.items():
        for body, name in ((sent, field), ([sent], f"outcomes[0].{field}")):
            problem = scored.outcomes(body).json()
            assert [error["field"] for error in problem["errors"]] == [name]


@pytest.mark.parametrize(("field", "value"), [
    ("transaction_id", None), ("transaction_id", ""), ("transaction_id", 5),
    ("transaction_id", "x" * 65), ("status", None), ("status", "failed"), ("status", 1),
    ("status", []), ("occurred_at", None), ("occurred_at", ""), ("occurred_at", "soon"),
    ("occurred_at", 5), ("occurred_at", "9999-12-31T23:59:59Z"), ("occurred_at", "\ud800"),
    ("status", "\ud800"), ("transaction_id", "\ud800"),
])  # fmt: skip
def test_wrong_fields_are_named(scored: Api, field: str, value: Any) -> None:
    for body, name in (
        (outcome("a1") | {field: value}, field),
        ([outcome("a1"), outcome("a2") | {field: value}], f"outcomes[1].{field}"),
    ):
        response = scored.outcomes(body)
        assert response.status_code == 400
        assert [error["field"] for error in response.json()["errors"]] == [name]
    assert not Outcome.objects.exists()


def test_missing_fields_are_named_together(scored: Api) -> None:
    problem = scored.outcomes([{}, 5, outcome("a1")]).json()
    assert [error["field"] for error in problem["errors"]] == [
        "outcomes[0].transaction_id", "outcomes[0].status", "outcomes[0].occurred_at",
        "outcomes[1]",
    ]  # fmt: skip


@pytest.mark.parametrize("body", [[], "x", None, 5, b"{", b"\xff", [outcome("a1")] * 1_001])
def test_bodies_that_are_no_outcomes(scored: Api, body: Any) -> None:
    response = scored.outcomes(body)
    assert response.status_code == 400
    assert response.json()["errors"]
    assert not Outcome.objects.exists()


def test_a_thousand_at_once(api: Api) -> None:
    for at in range(100):
        api.score(request(transaction_id=f"t{at}", source_wallet_id=f"w{at}"))
    reports = [outcome(f"t{at % 100}") for at in range(1_000)]
    assert api.outcomes(reports).json() == {"recorded": 100, "repeated": 900}


def test_extra_keys_are_ignored_and_methods_and_types_refused(scored: Api) -> None:
    assert scored.outcomes(outcome("a1", note="x")).status_code == 200
    response = scored.post("/outcomes", outcome("a2"), **{"Content-Type": "text/plain"})
    assert response.status_code == 415
