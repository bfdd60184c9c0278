"""Every field of `/score` wrong in every way: named in a 4xx, nothing kept, never a 500."""

import copy
import json
from typing import Any

import pytest

from scoring.models import Attempt, ScoreRecord
from tests.scoring.conftest import Api
from tests.scoring.requests import request

MISSING = object()
IDENTIFIER = [
    MISSING,
    None,
    "",
    "x" * 65,
    5,
    1.5,
    True,
    [],
    {},
    ["a"],
    "a\u0000b",
    "a\nb",
    "\ud800",
]
OPTIONAL_IDENTIFIER = [value for value in IDENTIFIER if value not in (MISSING, None)]
NUMBER = ["", "12", "\ud800", True, [], {}, float("nan"), float("inf"), float("-inf"), 10**400]
TEXT = ["", 5, True, [], {}, "x" * 1000, "a\u0000b", "\ud800"]
WRONG: dict[str, list[Any]] = {
    "transaction": [MISSING, None, [], "x", 5, True],
    "transaction.transaction_id": IDENTIFIER,
    "transaction.source_wallet_id": IDENTIFIER,
    "transaction.destination_wallet_id": IDENTIFIER,
    "transaction.initiator_user_id": OPTIONAL_IDENTIFIER,
    "transaction.amount": [MISSING, None, *NUMBER, 1e9 + 1, -1e9 - 1, 1e300],
    "transaction.currency": [MISSING, None, *TEXT, "EU", "EURO", "E1R"],
    "transaction.transaction_type": [MISSING, None, *TEXT],
    "transaction.direction": [*TEXT, "sideways"],
    "transaction.country": [*TEXT, "F", "FRA", "F1"],
    "transaction.city": TEXT,
    "transaction.created_at": [
        MISSING, None, "", 5, 1.5, True, [], {}, "yesterday", "2026-01-23", "\ud800",
        "2026-13-01T00:00:00Z", "2026-01-32T00:00:00Z", "2026-01-23T25:00:00Z",
        "10000-01-01T00:00:00Z", "9999-12-31T23:59:59-05:00", "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+05:00",
    ],
    "context": [[], "x", 5, True, "\ud800"],
    "context.source_wallet": [[], "x", 5],
    "context.destination_wallet": [[], "x", 5],
    "context.user": [[], "x", 5],
    "context.source_wallet.balance": NUMBER,
    "context.source_wallet.status": TEXT,
    "context.source_wallet.account_age_minutes": [*NUMBER, -1],
    "context.destination_wallet.status": TEXT,
    "context.user.status": TEXT,
    "context.user.risk_level": TEXT,
    "features": [[], "x", 5],
    "features.historical": [[], "x", 5],
    "features.historical.tx_last_10min": ["x", "\ud800", [], {}, float("nan"), 1e300],
    "features.historical.user_country_history": ["FR", ["\ud800"], [5], ["FRA"], {}, 5],
    "transaction.features": [[], "x", 5],
    "transaction.features.historical": [[], "x", 5],
    "transaction.features.historical.avg_amount_30d": ["x", [], {}],
}  # fmt: skip
CASES = [(path, value) for path, values in WRONG.items() for value in values]


def spoiled(path: str, value: Any) -> dict[str, Any]:
    body = copy.deepcopy(request())
    *parents, last = path.split(".")
    target: Any = body
    for name in parents:
        target = target.setdefault(name, {})
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return body


def assert_refused(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert not Attempt.objects.exists()
    assert not ScoreRecord.objects.exists()
    return problem


def test_every_field_wrong_in_every_way(api: Api) -> None:
    for path, value in CASES:
        response = api.score(spoiled(path, value))
        problem = assert_refused(response, 400, "INVALID_REQUEST")
        fields = [error["field"] for error in problem["errors"]]
        assert fields == [path], (path, value)
        assert all(error["message"] for error in problem["errors"])


def test_lone_surrogate_in_a_name(api: Api) -> None:
    body = request() | {"features": {"historical": {"country_\ud800": "x"}}}
    problem = assert_refused(api.score(body), 400, "INVALID_REQUEST")
    assert [error["field"] for error in problem["errors"]] == [
        r"features.historical.country_\ud800"
    ]


def test_all_faults_at_once(api: Api) -> None:
    body = request(amount="much", currency="?", source_wallet_id="")
    del body["transaction"]["created_at"]
    body["context"]["user"]["risk_level"] = 5
    problem = assert_refused(api.score(body), 400, "INVALID_REQUEST")
    assert {error["field"] for error in problem["errors"]} == {
        "transaction.amount", "transaction.currency", "transaction.source_wallet_id",
        "transaction.created_at", "context.user.risk_level",
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b" ", b"{", b"nonsense", b"[]", b"[{}]", b"null", b"5", b'"x"', b"\xff\xfe", b"\x00",
        b'{"transaction": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000, b"{}" * 2,
        '{"transaction": {}}'.encode("utf-16"),
    ],
)  # fmt: skip
def test_bodies_that_are_no_request(api: Api, body: bytes) -> None:
    problem = assert_refused(api.post("/score", body), 400, "INVALID_REQUEST")
    assert problem["errors"]


def test_number_that_is_too_large_for_any_type(api: Api) -> None:
    body = json.dumps(request()).replace("20.0", "1" + "0" * 5_000)
    problem = assert_refused(api.post("/score", body.encode()), 400, "INVALID_REQUEST")
    assert problem["errors"][0]["field"] == "transaction.amount"


def test_body_of_10_mb(api: Api) -> None:
    body = request(city="x" * 10_000_000)
    assert_refused(api.score(body), 413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_body_that_is_not_declared_as_json(api: Api, content_type: str) -> None:
    response = api.post("/score", request(), **{"Content-Type": content_type})
    assert_refused(response, 415, "UNSUPPORTED_MEDIA_TYPE")


def test_json_with_a_charset_is_json(api: Api) -> None:
    response = api.post("/score", request(), **{"Content-Type": "application/json; charset=utf-8"})
    assert response.status_code == 200


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch"])
def test_other_methods(api: Api, method: str) -> None:
    headers = {"Authorization": f"Api-Key {api.key}"}
    response = getattr(api._client, method)("/score", headers=headers)
    assert_refused(response, 405, "METHOD_NOT_ALLOWED")
    assert "POST" in response["Allow"]


@pytest.mark.parametrize("path", ["/score/", "/scores", "/outcomes/", "/nothing"])
def test_other_paths(api: Api, path: str) -> None:
    assert_refused(api.post(path, request()), 404, "NOT_FOUND")


def test_unknown_keys_are_ignored(api: Api) -> None:
    body = request(new_field={"a": [1]}) | {"another": None}
    body["context"]["user"]["shoe_size"] = 43
    assert api.score(body).status_code == 200
