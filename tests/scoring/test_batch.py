"""`POST /score/batch`: what `/score` would have answered to each, one after the other."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import OperationalError

import deployments.services
from scoring import history
from scoring.api import ScoreBatchView
from scoring.models import Attempt, ScoreRecord
from tests.scoring.conftest import Api
from tests.scoring.requests import request

START = datetime(2026, 1, 1, tzinfo=UTC)


def batch(api: Api, items: list[Any]) -> list[Any]:
    """The results of a batch that is answered."""
    response = api.post("/score/batch", {"transactions": items})
    assert response.status_code == 200, response.content
    results: list[Any] = response.json()["results"]
    return results


def one_by_one(api: Api, items: list[Any]) -> list[Any]:
    """What `/score` answers to each, as a batch would say it."""
    results = []
    for item in items:
        response = api.score(item)
        key = "answer" if response.status_code == 200 else "error"
        result = {"status": response.status_code, key: response.json()}
        if "Idempotent-Replayed" in response:
            result["replayed"] = True
        results.append(result)
    return results


def traffic(seed: int, name: str) -> list[Any]:
    """A few wallets that pay each other, in bursts and late; some of it is repeated or wrong."""
    pick = random.Random(seed)
    items: list[Any] = []
    time = START
    for number in range(70):
        time += timedelta(seconds=pick.choice([0, 0, 1, 60, 7_200, 90_000]))
        late = timedelta(seconds=pick.choice([0, 0, 0, 30, 100_000]))
        wallets = [f"{name}_{pick.randrange(4)}" for _ in range(2)]
        item: Any = request(
            transaction_id=f"{name}_t{number}",
            source_wallet_id=wallets[0],
            destination_wallet_id=wallets[1],
            amount=pick.choice([0.1, 20.0, 99.9999, 400.0]),
            country=pick.choice(["FR", "DE", None]),
            created_at=(time - late).isoformat(),
        )
        kind = pick.randrange(9)
        if kind == 0 and items:
            item = pick.choice(items)  # again, also of what was refused
        elif kind == 1:
            item["transaction"]["transaction_id"] = f"{name}_t{pick.randrange(number + 1)}"
        elif kind == 2:
            item["transaction"]["created_at"] = "2090-01-01T00:00:00Z"
        elif kind == 3:
            item["transaction"]["amount"] = None
            del item["transaction"]["currency"]
        elif kind == 4:
            item = pick.choice([7, [], "x", {}])
        items.append(item)
    return items


def features_of(name: str) -> list[Any]:
    records = ScoreRecord.objects.filter(attempt__transaction_id__startswith=f"{name}_")
    return [record.features for record in records.order_by("attempt")]


@pytest.mark.parametrize("seed", range(4))
def test_batch_is_the_same_as_its_transactions_one_by_one(api: Api, seed: int) -> None:
    expected = one_by_one(api, traffic(seed, "a"))
    found = batch(api, traffic(seed, "b"))
    assert [each["status"] for each in found] == [each["status"] for each in expected]
    for each, other in zip(found, expected, strict=True):
        if "later than" not in json.dumps(other):  # the server's time
            assert json.loads(json.dumps(each).replace("b_", "a_")) == other
    assert {200, 400, 409} <= {each["status"] for each in found}
    assert features_of("b") == features_of("a")


def test_transactions_of_one_wallet_see_those_before_them(api: Api) -> None:
    results = batch(api, [request(transaction_id=f"t{n}") for n in range(45)])
    assert [result["answer"]["transaction_id"] for result in results] == [
        f"t{n}" for n in range(45)
    ]
    records = ScoreRecord.objects.order_by("attempt")
    for name in ("src_tx_count_out_5m", "dst_tx_count_in_1h"):
        assert [record.features[name] for record in records] == list(range(45))


def test_asking_again_replays_every_answer(api: Api) -> None:
    items = [request(transaction_id=f"t{n}", amount=n) for n in range(30)]
    first = batch(api, items)
    again = batch(api, [*items[:10], request(transaction_id="new"), *items[10:]])
    assert [each for each in again if each.get("replayed")] == [
        each | {"replayed": True} for each in first
    ]
    assert "replayed" not in again[10]
    assert Attempt.objects.count() == 31


def test_one_flush_of_the_disk_serves_several(api: Api, monkeypatch: Any) -> None:
    turns = []
    opened = history.open_turn

    def counted(subjects: Any) -> Any:
        turns.append(len(subjects))
        return opened(subjects)

    monkeypatch.setattr(history, "open_turn", counted)
    batch(api, [request() for _ in range(50)])
    assert turns == [20, 20, 10]


@pytest.mark.parametrize("field", ["amount", "created_at", "country", "city"])
def test_lone_surrogate_spoils_its_item_alone(api: Api, field: str) -> None:
    spoiled, fine = batch(api, [request(**{field: "\ud800"}), request()])
    assert [error["field"] for error in spoiled["error"]["errors"]] == [f"transaction.{field}"]
    assert fine["status"] == 200


def test_only_what_may_be_decided_waits_for_wallets(api: Api, monkeypatch: Any) -> None:
    turns = []
    opened = history.open_turn

    def noted(subjects: Any) -> Any:
        turns.append([subject.transaction_id for subject in subjects])
        return opened(subjects)

    monkeypatch.setattr(history, "open_turn", noted)
    future = request(created_at="2090-01-01T00:00:00Z")
    statuses = [each["status"] for each in batch(api, [future] * 10 + [{}] * 10)]
    assert (statuses, turns) == ([400] * 20, [])
    results = batch(api, [{}, request(transaction_id="t1"), future, request(transaction_id="t2")])
    assert [each["status"] for each in results] == [400, 200, 400, 200]
    assert turns == [["t1", "t2"]]


@pytest.mark.parametrize("body", [
    {}, {"transactions": []}, {"transactions": {}}, {"transactions": [1] * 1001}, [], b"{",
    b'{"transactions": [{}, ' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
])  # fmt: skip
def test_body_that_is_no_batch_is_refused(api: Api, body: Any) -> None:
    response = api.post("/score/batch", body)
    assert response.status_code == 400
    assert response.json()["code"] == "INVALID_REQUEST"


def test_thousand_requests_of_two_kilobytes_fit(api: Api) -> None:
    item = request(city="x" * 100)
    item["note"] = "x" * 1_500
    items = [item | {"transaction": item["transaction"] | {"amount": "?"}}] * 999 + [item]
    assert [each["status"] for each in batch(api, items)] == [400] * 999 + [200]


def test_more_bytes_than_any_batch_needs_are_refused(api: Api) -> None:
    response = api.post("/score/batch", {"transactions": [request()], "x": "x" * 4_000_000})
    assert response.status_code == 413
    assert response.json()["code"] == "BODY_TOO_LARGE"
    assert "4,000,000" in response.json()["detail"]


def test_without_a_model_nothing_is_answered(registry: None) -> None:
    _, key = deployments.services.api_key_create(name="test", scopes=["score"], created_by="test")
    response = Api(key).post("/score/batch", {"transactions": [request()]})
    assert response.status_code == 503
    assert response.json()["code"] == "NO_MODEL"


def test_key_needs_the_scope(champion: Any) -> None:
    _, key = deployments.services.api_key_create(name="test", scopes=["labels"], created_by="test")
    assert Api(key).post("/score/batch", {"transactions": [request()]}).status_code == 403


def test_batch_counts_as_its_transactions_for_the_rate_limit(api: Api, settings: Any) -> None:
    cache.clear()
    settings.RATE_LIMIT = "30/d"
    batch(api, [request() for _ in range(10)])
    batch(api, [request() for _ in range(25)])  # it began within the limit
    response = api.post("/score/batch", {"transactions": [request()]})
    assert response.status_code == 429
    assert Attempt.objects.count() == 35


def test_batches_that_come_at_once_do_not_all_begin(
    api: Api, settings: Any, monkeypatch: Any
) -> None:
    """Also when each was let through before any of them was counted whole."""
    cache.clear()
    settings.RATE_LIMIT = "20/d"
    body = {"transactions": [request() for _ in range(25)]}
    read = ScoreBatchView.body

    def read_while_another_comes(view: Any, received: Any) -> bytes:
        monkeypatch.setattr(ScoreBatchView, "body", read)
        assert api.post("/score/batch", body).status_code == 200
        return read(view, received)

    monkeypatch.setattr(ScoreBatchView, "body", read_while_another_comes)
    response = api.post("/score/batch", body)
    assert (response.status_code, response.json()["code"]) == (429, "RATE_LIMITED")
    assert int(response["Retry-After"]) > 0


def test_batch_that_the_database_fails_counts_for_the_rate_limit(
    api: Api, settings: Any, monkeypatch: Any
) -> None:
    def fail(subjects: Any) -> Any:
        raise OperationalError("out of reach")

    cache.clear()
    settings.RATE_LIMIT = "20/d"
    monkeypatch.setattr(history, "open_turn", fail)
    body = {"transactions": [request() for _ in range(20)]}
    statuses = [api.post("/score/batch", body).status_code for _ in range(2)]
    assert statuses == [503, 429]
