"""`POST /models/NAME/predict`: the answer, what is kept of it, and asking twice."""

import json
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import DatabaseError

from deployments import services
from engine.classifier.bundle import load_classifier
from engine.store import open_store
from scoring.models import PredictionRecord
from tests.engine.classifiers import CHURN, INPUTS
from tests.scoring import classifiers
from tests.scoring.conftest import Api


def error(response: Any) -> tuple[int, str]:
    """The status and the code of a problem."""
    assert response["Content-Type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


def test_answer_is_the_bundles_and_is_kept(sponsor: Api) -> None:
    response = sponsor.predict(INPUTS | {"event": None, "unknown": [1]})
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
    assert "Idempotent-Replayed" not in response
    kept = PredictionRecord.objects.get()
    version = kept.model_version
    store = open_store(django_settings.ARTIFACTS_DIR)
    bundle = load_classifier(store, version.location, version.manifest_sha256)
    answer = response.json()
    assert list(answer) == [
        "recommended_sponsor", "confidence", "campaign_message", "category", "context_used",
        "model_version",
    ]  # fmt: skip
    assert answer == bundle.predict(INPUTS | {"event": "None"})
    assert list(answer["context_used"]) == list(INPUTS)
    assert (kept.prediction, kept.confidence) == (
        answer["recommended_sponsor"], answer["confidence"],
    )  # fmt: skip
    assert kept.inputs == INPUTS | {"event": "None"}
    assert kept.answer.encode() == response.content
    assert (kept.model.name, kept.caller, kept.request_id) == ("sponsor", "kiosk", None)


def test_another_classifier_with_other_types_and_no_facts(sponsor: Api) -> None:
    classifiers.register(name="churn", definition=CHURN)
    classifiers.promote(name="churn")
    response = sponsor.predict({"age": 40, "paid": 9.5, "opened_mail": True}, "churn")
    assert response.status_code == 200, response.content
    assert response.json()["context_used"] == {
        "age": 40, "paid": 9.5, "plan": "free", "opened_mail": True,
    }  # fmt: skip
    assert sponsor.predict(INPUTS).status_code == 200


def test_every_faulty_input_is_named(sponsor: Api) -> None:
    response = sponsor.predict({"match_minute": 999, "zone": "Moon", "score_diff": "1"})
    assert error(response) == (400, "INVALID_REQUEST")
    fields = [each["field"] for each in response.json()["errors"]]
    assert fields == ["match_minute", "score_diff", "temperature", "crowd_density", "zone"]
    assert not PredictionRecord.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        b" ", b"{", b"[]", b"7", b'"x"', b"null", b'{"match_minute": NaN}', b"\xff",
        b'{"a":' * 100_000, b'{"\\ud800": 1}', b'{"match_minute": 1e999}',
        b'{"x":' * 900 + b"1" + b"}" * 900, b'{"match_minute": ' + b"9" * 5000 + b"}",
    ],
    ids=range(13),
)  # fmt: skip
def test_bodies_that_are_none(sponsor: Api, body: bytes) -> None:
    for headers in ({}, {"Idempotency-Key": "k"}):
        response = sponsor.predict(body, **headers)
        assert error(response) == (400, "INVALID_REQUEST")
        assert response.json()["errors"]
    assert not PredictionRecord.objects.exists()


def test_inputs_are_not_wrapped(sponsor: Api) -> None:
    assert error(sponsor.predict({"inputs": INPUTS})) == (400, "INVALID_REQUEST")


def test_models_that_can_not_be_asked(sponsor: Api) -> None:
    assert error(sponsor.predict(INPUTS, "nobody")) == (404, "UNKNOWN_MODEL")
    response = sponsor.predict(INPUTS, "fraud")
    assert error(response) == (404, "UNKNOWN_MODEL")
    assert "/score" in response.json()["detail"]
    classifiers.register(name="new")
    assert error(sponsor.predict(INPUTS, "new")) == (503, "NO_MODEL")
    for name in ("a/b", "%00", "%C3%A9", ""):
        assert error(sponsor.predict(INPUTS, name)) == (404, "NOT_FOUND")


def test_who_may_ask(sponsor: Api) -> None:
    assert Api("sk_wrong").predict(INPUTS).status_code == 401
    _, key = services.api_key_create(name="r", scopes=["read", "train"], created_by="test")
    assert error(Api(key).predict(INPUTS)) == (403, "FORBIDDEN")
    response = sponsor._client.post(
        "/models/sponsor/predict", "x=1", content_type="text/plain",
        headers={"Authorization": f"Api-Key {sponsor.key}"},
    )  # fmt: skip
    assert error(response) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert response.json()["detail"] == "The body is text/plain; expected application/json."
    assert error(sponsor.get("/models/sponsor/predict")) == (405, "METHOD_NOT_ALLOWED")
    assert error(sponsor.predict(b" " * 1_000_001)) == (413, "BODY_TOO_LARGE")


def test_rate_limit(sponsor: Api, settings: Any) -> None:
    settings.RATE_LIMIT = "2/h"
    assert [sponsor.predict(INPUTS).status_code for _ in range(3)] == [200, 200, 429]


class TestIdempotencyKey:
    def test_the_same_request_gets_the_same_bytes(self, sponsor: Api) -> None:
        first = sponsor.predict(INPUTS, **{"Idempotency-Key": "k-1"})
        backwards = dict(reversed(INPUTS.items()))
        again = sponsor.predict(backwards, **{"Idempotency-Key": "k-1"})
        assert again["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in first
        assert again.content == first.content
        assert PredictionRecord.objects.get().request_id == "k-1"

    def test_other_inputs_are_a_conflict(self, sponsor: Api) -> None:
        key = {"Idempotency-Key": "k-1"}
        sponsor.predict(INPUTS, **key)
        response = sponsor.predict(INPUTS | {"zone": "East"}, **key)
        assert error(response) == (409, "PREDICTION_CONFLICT")
        assert response.json()["errors"][0]["field"] == "Idempotency-Key"
        assert PredictionRecord.objects.count() == 1

    def test_it_belongs_to_one_model(self, sponsor: Api) -> None:
        classifiers.register(name="other")
        classifiers.promote(name="other")
        key = {"Idempotency-Key": "k-1"}
        assert sponsor.predict(INPUTS, **key).status_code == 200
        response = sponsor.predict(INPUTS, "other", **key)
        assert "Idempotent-Replayed" not in response
        assert PredictionRecord.objects.count() == 2

    def test_what_was_answered_outlives_the_version_and_its_inputs(
        self, sponsor: Api, settings: Any
    ) -> None:
        settings.LIVE_REFRESH_SECONDS = 0
        key = {"Idempotency-Key": "k-1"}
        first = sponsor.predict(INPUTS, **key)
        source = CHURN.replace('"churn"', '"sponsor"')
        classifiers.register("2.0.0", definition=source)
        classifiers.promote("2.0.0")
        assert sponsor.predict(INPUTS).status_code == 400
        assert sponsor.predict(INPUTS, **key).content == first.content

    def test_a_refused_request_does_not_use_it_up(self, sponsor: Api) -> None:
        key = {"Idempotency-Key": "k-1"}
        assert sponsor.predict({}, **key).status_code == 400
        assert sponsor.predict(INPUTS, **key).status_code == 200

    @pytest.mark.parametrize("key", ["", "x" * 65, "é", "a\tb"], ids=range(4))
    def test_keys_that_are_none(self, sponsor: Api, key: str) -> None:
        response = sponsor.predict(INPUTS, **{"Idempotency-Key": key})
        assert error(response) == (400, "INVALID_REQUEST")
        assert response.json()["errors"][0]["field"] == "Idempotency-Key"


def test_nothing_is_answered_that_could_not_be_kept(sponsor: Api, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise DatabaseError("disk full")

    monkeypatch.setattr(PredictionRecord, "save", fail)
    assert error(sponsor.predict(INPUTS)) == (503, "DATABASE_UNAVAILABLE")


class TestModels:
    def test_list(self, sponsor: Api) -> None:
        classifiers.register(name="new")
        results = sponsor.get("/models").json()["results"]
        assert [(each["name"], each["kind"], each["version"]) for each in results] == [
            ("fraud", "fraud", None), ("new", "classifier", None),
            ("sponsor", "classifier", "v1.0.0"),
        ]  # fmt: skip

    def test_a_classifier_says_how_it_is_asked(self, sponsor: Api) -> None:
        found = sponsor.get("/models/sponsor").json()
        assert found["version"] == "v1.0.0"
        assert list(found["inputs"]) == list(INPUTS)
        assert found["inputs"]["match_minute"] == {
            "required": True, "type": "integer", "minimum": 0, "maximum": 120, "default": None,
            "unit": "min", "description": "",
        }  # fmt: skip
        assert found["inputs"]["event"]["required"] is False
        assert found["classes"]["Café 9"] == {
            "campaign_message": "Warm up", "category": "drinks",
        }  # fmt: skip
        assert found["answer"]["prediction"] == "recommended_sponsor"

    def test_one_without_a_version_says_why(self, sponsor: Api) -> None:
        classifiers.register(name="new")
        found = sponsor.get("/models/new").json()
        assert found["version"] is None
        assert "promote one" in found["reason"]
        assert "zone" in found["inputs"]

    def test_fraud_and_unknown(self, sponsor: Api) -> None:
        assert sponsor.get("/models/fraud").json()["kind"] == "fraud"
        assert "inputs" not in sponsor.get("/models/fraud").json()
        assert error(sponsor.get("/models/nobody")) == (404, "UNKNOWN_MODEL")

    def test_it_takes_the_scope_read(self, sponsor: Api) -> None:
        _, key = services.api_key_create(name="s", scopes=["score"], created_by="test")
        for path in ("/models", "/models/sponsor"):
            assert error(Api(key).get(path)) == (403, "FORBIDDEN")
        assert json.loads(sponsor.get("/models").content)["results"]
