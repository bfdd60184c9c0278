"""Who may call what, and for how long."""

import time
from typing import Any

import pytest
from django.db import DatabaseError

from deployments import services
from deployments.models import ApiKey
from scoring import authentication
from scoring.authentication import key_cache
from scoring.models import Attempt
from tests.scoring.conftest import Api
from tests.scoring.requests import request


def test_without_a_key(api: Api) -> None:
    response = api._client.post("/score", request(), content_type="application/json")
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Api-Key"
    assert response["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "header",
    [
        "Api-Key",
        "Api-Key ",
        "Api-Key sk_x",
        "Bearer x",
        "Basic dTpw",
        "sk_x",
        "Api-Key é",
        "x" * 99,
    ],
)
def test_credentials_that_are_none(api: Api, header: str) -> None:
    response = api.post("/score", request(), Authorization=header)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Api-Key"
    assert not Attempt.objects.exists()


def test_key_without_the_scope(champion: Any) -> None:
    _, key = services.api_key_create(name="r", scopes=["read", "train"], created_by="test")
    for path, scope in (("/score", "score"), ("/outcomes", "score"), ("/labels", "labels")):
        response = Api(key).post(path, request())
        assert response.status_code == 403
        assert response.json()["code"] == "FORBIDDEN"
        assert f"“{scope}”" in response.json()["detail"]


def test_keyword_in_any_case(api: Api) -> None:
    assert api.post("/score", request(), Authorization=f"api-key {api.key}").status_code == 200


def test_revoked_key_ends_within_two_seconds(api: Api) -> None:
    assert api.score(request()).status_code == 200
    services.api_key_revoke(key=ApiKey.objects.get())
    deadline = time.monotonic() + 2.1
    while api.score(request()).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert api.score(request()).status_code == 401


def test_new_key_works_at_once_even_when_it_was_tried_before(api: Api, monkeypatch: Any) -> None:
    monkeypatch.setattr(ApiKey, "generate", staticmethod(lambda: "sk_of_tomorrow"))
    early = Api("sk_of_tomorrow")
    assert early.score(request()).status_code == 401
    services.api_key_create(name="t", scopes=["score"], created_by="test")
    assert early.score(request()).status_code == 200


def test_known_key_costs_no_query(api: Api, django_assert_num_queries: Any) -> None:
    key_cache.clear()
    for queries in (1, 0):
        with django_assert_num_queries(queries):
            caller = authentication._caller(api.key, authentication._caller_of_key)
            assert caller.scopes == {"score", "labels"}


def test_cache_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(authentication, "_CACHE_LIMIT", 10)
    cache = authentication.KeyCache()
    for number in range(1_000):
        cache.put(str(number), authentication.DEMO_CALLER, time.monotonic())
    assert len(cache._entries) <= 10


def test_database_out_of_reach_is_503_not_401(api: Api, monkeypatch: Any) -> None:
    def fail(key: str) -> None:
        raise DatabaseError("connection refused at 10.0.0.1")

    key_cache.clear()
    monkeypatch.setattr(authentication, "api_key_find", fail)
    response = api.score(request())
    assert response.status_code == 503
    assert response.json()["code"] == "DATABASE_UNAVAILABLE"
    assert "10.0.0.1" not in response.content.decode()


class TestDemoHome:
    @pytest.fixture(autouse=True)
    def demo(self, settings: Any, champion: Any) -> None:
        settings.DEMO = True

    def post(self, **extra: str) -> int:
        client = Api("")._client
        body = request()
        status: int = client.post(
            "/score", body, content_type="application/json", **extra
        ).status_code
        return status

    def test_it_is_open_on_loopback(self) -> None:
        assert self.post() == 200
        assert self.post(REMOTE_ADDR="::1") == 200

    @pytest.mark.parametrize("address", ["10.0.0.5", "192.168.1.1", "", "2001:db8::1"])
    def test_and_nowhere_else(self, address: str) -> None:
        assert self.post(REMOTE_ADDR=address) == 401

    def test_nor_through_a_proxy_on_the_same_machine(self) -> None:
        assert self.post(HTTP_X_FORWARDED_FOR="10.0.0.5") == 401

    def test_a_wrong_key_is_still_wrong(self) -> None:
        assert self.post(HTTP_AUTHORIZATION="Api-Key sk_unknown") == 401


class TestRateLimit:
    @pytest.fixture(autouse=True)
    def limit(self, settings: Any) -> None:
        settings.RATE_LIMIT = "3/h"

    def test_each_key_has_its_own(self, api: Api) -> None:
        statuses = [api.score(request()).status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        _, other = services.api_key_create(name="o", scopes=["score"], created_by="test")
        assert Api(other).score(request()).status_code == 200

    def test_refusal_says_when_to_come_back(self, api: Api) -> None:
        for _ in range(3):
            api.score(request())
        response = api.score(request())
        assert response.json()["code"] == "RATE_LIMITED"
        assert 1 <= int(response["Retry-After"]) <= 3_601
        assert Attempt.objects.count() == 3

    def test_health_has_none(self, api: Api) -> None:
        assert [api.health().status_code for _ in range(5)] == [200] * 5

    def test_decisions_go_on_without_the_cache(self, api: Api, settings: Any) -> None:
        settings.CACHES = {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": "unix:///nonexistent.sock",
            }
        }
        assert [api.score(request()).status_code for _ in range(5)] == [200] * 5
