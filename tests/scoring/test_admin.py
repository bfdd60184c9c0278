"""Decisions as people see them: found, filtered, explained, and never changed."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from scoring.admin.base import CappedPaginator
from scoring.models import ScoreRecord
from tests import bundles
from tests.scoring.conftest import Api
from tests.scoring.requests import request

LIST = "/admin/scoring/scorerecord/"


@pytest.fixture
def browser(api: Api) -> Client:
    """Someone who may see everything."""
    client = Client()
    client.force_login(User.objects.create_superuser("ana"))
    return client


@pytest.fixture
def decisions(api: Api) -> Api:
    """An approved transfer of alice, one of carol, and two blocked ones."""
    body = request(transaction_id="ok")
    body["features"] = {"historical": {"avg_amount_30d": 12.5}}
    api.score(body)
    api.score(request(transaction_id="other", source_wallet_id="carol"))
    api.score(request(transaction_id="large", amount=400.0))
    api.score(request(transaction_id="self", source_wallet_id="dan", destination_wallet_id="dan"))
    return api


def listed(browser: Client, query: str = "") -> set[str]:
    """The transactions that a list shows."""
    response = browser.get(f"{LIST}?{query}")
    assert response.status_code == 200, query
    return {record.attempt.transaction_id for record in response.context["cl"].result_list}


def test_list_shows_the_latest_first(browser: Client, decisions: Api) -> None:
    response = browser.get(LIST)
    shown = [record.attempt.transaction_id for record in response.context["cl"].result_list]
    assert shown == ["self", "large", "other", "ok"]
    assert "dan → dan" in response.content.decode()


@pytest.mark.parametrize(("query", "expected"), [
    ("decision__exact=BLOCK", {"large", "self"}),
    ("decision__exact=APPROVE", {"ok", "other"}),
    ("reason=RULE_SELF_TRANSFER", {"self"}),
    ("reason=RULE_MAX_AMOUNT", {"large"}),
    ("reason=MODEL_ANOMALY_HIGH", set()),
    ("scored_at__gte=2020-01-01T00:00:00Z", {"ok", "other", "large", "self"}),
    ("scored_at__lt=2020-01-01T00:00:00Z", set()),
    ("q=large", {"large"}),
    ("q=alice", {"ok", "large"}),
    ("q=carol", {"other"}),
    ("q=bob", {"ok", "other", "large"}),
    ("q=+dan+", {"self"}),
    ("q=ali", set()),
    ("q=alice&decision__exact=BLOCK", {"large"}),
    ("q=%00", {"ok", "other", "large", "self"}),  # refused with a message, by Django
    ("q=%27%3B--%25s", set()),
])  # fmt: skip
def test_filters_and_search(
    browser: Client, decisions: Api, query: str, expected: set[str]
) -> None:
    assert listed(browser, query) == expected


def test_filter_by_version(browser: Client, decisions: Api, settings: Any) -> None:
    settings.LIVE_REFRESH_SECONDS = 0
    second = bundles.register("1.1.0")
    bundles.promote("1.1.0")
    decisions.score(request(transaction_id="newer"))
    assert listed(browser, f"model_version__id__exact={second.pk}") == {"newer"}


def test_list_takes_the_same_queries_for_any_number_of_rows(
    browser: Client, decisions: Api, django_assert_max_num_queries: Any
) -> None:
    for n in range(20):
        decisions.score(request(transaction_id=f"t{n}"))
    with django_assert_max_num_queries(8):
        browser.get(LIST)


def test_page_of_a_decision_explains_it(browser: Client, decisions: Api) -> None:
    record = ScoreRecord.objects.get(attempt__transaction_id="ok")
    decisions.outcomes(
        {"transaction_id": "ok", "status": "FAILED", "occurred_at": "2026-01-23T12:00:05Z"}
    )
    page = browser.get(f"{LIST}{record.pk}/change/").content.decode()
    for text in (
        "APPROVE", str(record.risk_score), str(record.supervised_score), "fraud v1.0.0",
        "default", "alice", "source_wallet.balance", "FAILED, received", "src_tx_count_out_5m",
    ):  # fmt: skip
        assert text in page, text
    sent = page.split("avg_amount_30d")[1].split("</tr>")[0]
    assert "12.5" in sent
    assert "sent" in sent
    assert "unknown" in page.split("is_new_beneficiary")[1].split("</tr>")[0]
    assert "computed" in page.split("src_tx_count_out_5m")[1].split("</tr>")[0]


def test_page_of_a_blocked_one_names_its_rules(browser: Client, decisions: Api) -> None:
    record = ScoreRecord.objects.get(attempt__transaction_id="large")
    page = browser.get(f"{LIST}{record.pk}/change/").content.decode()
    assert "RULE_MAX_AMOUNT" in page
    assert "R1" in record.rules_fired
    assert ", ".join(record.rules_fired) in page


def test_hostile_texts_are_shown_as_text(browser: Client, decisions: Api) -> None:
    script = "<script>alert(1)</script>"
    decisions.score(request(transaction_id=script, source_wallet_id=script, city=script))
    record = ScoreRecord.objects.get(attempt__transaction_id=script)
    for address in (LIST, f"{LIST}{record.pk}/change/"):
        assert script not in browser.get(address).content.decode()


def test_nothing_can_be_added_changed_or_deleted(browser: Client, decisions: Api) -> None:
    record = ScoreRecord.objects.get(attempt__transaction_id="ok")
    before = ScoreRecord.objects.filter(pk=record.pk).values().get()
    page = f"{LIST}{record.pk}/"
    assert browser.get(f"{LIST}add/").status_code == 403
    assert browser.post(f"{page}change/", {"decision": "BLOCK"}).status_code == 403
    assert browser.post(f"{page}delete/", {"post": "yes"}).status_code == 403
    action = {"action": "delete_selected", "_selected_action": record.pk}
    browser.post(LIST, action)
    assert ScoreRecord.objects.filter(pk=record.pk).values().get() == before


def test_counting_stops(decisions: Api, monkeypatch: Any) -> None:
    monkeypatch.setattr("scoring.admin.base._COUNTED", 3)
    assert CappedPaginator(ScoreRecord.objects.all(), 2).count == 3
