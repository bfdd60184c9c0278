"""Predictions as people see them: found, filtered, and never changed."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from scoring.models import PredictionRecord
from tests.engine.classifiers import CHURN, INPUTS
from tests.scoring import classifiers
from tests.scoring.conftest import Api

LIST = "/admin/scoring/predictionrecord/"


@pytest.fixture
def browser(sponsor: Api) -> Client:
    """Someone who may see everything, after two predictions of one model and one of another."""
    classifiers.register(name="churn", definition=CHURN)
    classifiers.promote(name="churn")
    sponsor.predict(INPUTS | {"match_minute": 1}, **{"Idempotency-Key": "first"})
    sponsor.predict(INPUTS | {"match_minute": 119})
    sponsor.predict({"age": 20, "paid": 1}, "churn", **{"Idempotency-Key": "last"})
    client = Client()
    client.force_login(User.objects.create_superuser("ana"))
    return client


def listed(browser: Client, query: str = "") -> list[str]:
    """The predictions that a list shows, by their first input."""
    response = browser.get(f"{LIST}?{query}")
    assert response.status_code == 200, query
    rows = response.context["cl"].result_list
    return [str(row.inputs.get("match_minute", row.inputs.get("age"))) for row in rows]


@pytest.mark.parametrize(("query", "expected"), [
    ("", ["20", "119", "1"]),
    ("model=sponsor", ["119", "1"]),
    ("model=sponsor&prediction=Glace", ["1"]),
    ("model=sponsor&prediction=Caf%C3%A9+9", ["119"]),
    ("model=nobody", []),
    ("q=first", ["1"]),
    ("q=+last+", ["20"]),
    ("q=fir", []),
    ("at__gte=2020-01-01T00:00:00Z", ["20", "119", "1"]),
    ("at__lt=2020-01-01T00:00:00Z", []),
])  # fmt: skip
def test_filters_and_search(browser: Client, query: str, expected: list[str]) -> None:
    assert listed(browser, query) == expected


def test_filters_offer_what_can_be_found(browser: Client) -> None:
    page = browser.get(f"{LIST}?model=sponsor").content.decode()
    for text in ("By model", "By prediction", "Café 9", "By version", "churn v1.0.0"):
        assert text in page, text
    version = PredictionRecord.objects.get(model__name="churn").model_version_id
    assert listed(browser, f"model_version__id__exact={version}") == ["20"]


def test_page_shows_the_inputs_and_the_answer(browser: Client) -> None:
    record = PredictionRecord.objects.get(request_id="first")
    page = browser.get(f"{LIST}{record.pk}/change/").content.decode()
    for text in (
        "sponsor", "v1.0.0", "Glace", f"{100 * record.confidence:.1f} %", "first", "kiosk",
        "crowd_density", "0.8", "campaign_message", "Cool down",
    ):  # fmt: skip
        assert text in page, text
    at = [page.index(f'<th scope="row">{name}</th>') for name in INPUTS]
    assert at == sorted(at)  # in the order of the definition


def test_list_takes_the_same_queries_for_any_number_of_rows(
    browser: Client, sponsor: Api, django_assert_max_num_queries: Any
) -> None:
    for _ in range(10):
        sponsor.predict(INPUTS)
    with django_assert_max_num_queries(10):
        browser.get(LIST)


def test_nothing_can_be_added_changed_or_deleted(browser: Client) -> None:
    page = f"{LIST}{PredictionRecord.objects.get(request_id='first').pk}/"
    assert browser.get(f"{LIST}add/").status_code == 403
    assert browser.post(f"{page}change/", {"prediction": "x"}).status_code == 403
    assert browser.post(f"{page}delete/", {"post": "yes"}).status_code == 403
    assert PredictionRecord.objects.count() == 3
