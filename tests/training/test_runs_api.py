"""Training runs over HTTP."""

import json
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from deployments import services as registry
from scoring.authentication import key_cache
from tests.bundles import seed_registry
from tests.training.support import make_dataset, make_run
from training import services
from training.models import RunEvent, RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _data(transactional_db):
    key_cache.clear()
    seed_registry()
    make_dataset()


def client(*scopes: str) -> Client:
    _, key = registry.api_key_create(name="pipeline", scopes=list(scopes), created_by="test")
    return Client(headers={"Authorization": f"Api-Key {key}"}, raise_request_exception=False)


@pytest.fixture
def api() -> Client:
    return client("train")


def post(api: Client, **body: Any) -> Any:
    body = {"dataset": "sales", "version": "1.0.0"} | body
    return api.post("/training-runs", json.dumps(body), content_type="application/json")


def test_a_run_is_started_and_found_at_its_address(api):
    response = post(
        api, sample=500, seed=3, rules="none", options={"label_delay": "2d", "search": 4}
    )
    assert response.status_code == 201
    run = TrainingRun.objects.get()
    assert (run.seed, run.sample, run.rule_set.name) == (3, 500, "none")
    assert run.options == {
        "label_delay_us": 172_800_000_000,
        "search": {"configurations": 4, "minutes": 30.0},
    }
    assert run.requested_by == "pipeline"
    found = api.get(response["Location"]).json()
    assert (found["id"], found["state"], found["launcher"]) == (str(run.pk), "queued", "local")
    assert [event["state"] for event in found["events"]] == ["queued"]
    assert found["metrics"] is None


def test_dates_are_moments_with_a_zone(api):
    options = {"train_until": "2026-02-01T00:00:00+01:00", "validate_until": "2026-02-10T00:00:00Z"}
    assert post(api, options=options).status_code == 201
    periods = TrainingRun.objects.get().options["periods"]
    assert periods["train_until"].startswith("2026-02-01T00:00:00")
    refused = post(api, version="1.1.0", options={"cut_off": "2026-02-01"})
    assert refused.json()["errors"][0]["field"] == "options.cut_off"


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"dataset": 5}, "dataset", "Expected `str`"),
        ({"dataset": "nowhere"}, "dataset", "sales"),
        ({"version": "1"}, "version", "semantic version"),
        ({"sample": 0}, "sample", ">= 1"),
        ({"launcher": "moon"}, "launcher", "there is"),
        ({"epochs": 3}, "epochs", "unknown"),
        ({"options": {"epochs": 3}}, "options.epochs", "label_delay"),
        ({"options": {"label_delay": "soon"}}, "options.label_delay", "soon"),
        ({"options": {"search": "many"}}, "options.search", "number of configurations"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_field_is_named(api, body, field, says):
    response = post(api, **body)
    assert response.status_code == 400, response.content
    assert response["Content-Type"] == "application/problem+json"
    [error] = response.json()["errors"]
    assert error["field"] == field
    assert says in error["message"]
    assert not TrainingRun.objects.exists()


def test_every_wrong_field_is_named_at_once_by_where_it_was_sent(api):
    response = post(
        api,
        resources={"memory": "lots", "machine_type": "big", "disks": 3},
        options={"search": "many", "label_delay": "soon", "cut_off": "then", "cost_review": 1},
    )
    assert response.status_code == 400
    errors = {error["field"]: error["message"] for error in response.json()["errors"]}
    assert errors.keys() >= {
        "resources.machine_type", "resources.disks", "options.search", "options.label_delay",
        "options.cut_off", "options.cost_block_legit",
    }  # fmt: skip
    assert "--" not in response.json()["detail"] + "".join(errors.values())


def test_a_version_that_is_being_trained_is_a_conflict(api):
    assert post(api).status_code == 201
    response = post(api)
    assert (response.status_code, response.json()["code"]) == (409, "RUN_CONFLICT")
    assert TrainingRun.objects.count() == 1


def test_pages_and_filters(api):
    runs = [make_run(f"1.{n}.0") for n in range(5)]
    services.run_cancel(runs[0], by="test", now=timezone.now())
    first = api.get("/training-runs?limit=2&state=queued").json()
    assert [run["version"] for run in first["results"]] == ["1.4.0", "1.3.0"]
    second = api.get(first["next"]).json()
    assert [run["version"] for run in second["results"]] == ["1.2.0", "1.1.0"]
    assert second["next"] is None
    assert api.get("/training-runs?state=asleep").json()["errors"][0]["field"] == "state"
    assert api.get("/training-runs?limit=0").json()["errors"][0]["field"] == "limit"
    assert api.get("/training-runs?model=other").json()["results"] == []
    assert len(api.get("/training-runs?launcher=local").json()["results"]) == 5
    assert api.get("/training-runs?launcher=vm").json()["results"] == []
    assert api.get("/training-runs?launcher=moon").json()["errors"][0]["field"] == "launcher"


def test_unknown_parameters_of_the_list_are_named(api):
    refused = api.get("/training-runs?states=queued&limit=2&page=3")
    assert (refused.status_code, refused["Content-Type"]) == (400, "application/problem+json")
    assert [error["field"] for error in refused.json()["errors"]] == ["page", "states"]


def test_cancelling_and_then_again(api):
    run = make_run()
    address = f"/training-runs/{run.pk}/cancel"
    response = api.post(address, content_type="application/json")
    assert (response.status_code, response.json()["state"]) == (202, RunState.CANCELLED)
    assert RunEvent.objects.filter(run=run).last().by == "pipeline"
    again = api.post(address, content_type="application/json")
    assert (again.status_code, again.json()["code"]) == (409, "RUN_CONFLICT")


def test_a_run_that_is_not_there(api):
    nowhere = "/training-runs/00000000-0000-0000-0000-000000000000"
    for path in (nowhere, f"{nowhere}/log", f"/training-runs?before={nowhere[-36:]}"):
        response = api.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "UNKNOWN_RUN")


def test_the_log_before_there_is_one(api):
    assert api.get(f"/training-runs/{make_run().pk}/log").json() == {"lines": []}


def test_a_run_that_promotes_takes_a_key_that_may_promote(api):
    assert post(api, then="propose").json()["then"] == "propose"
    refused = post(api, version="1.1.0", then="promote")
    assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")
    assert "promote" in refused.json()["detail"]
    wrong = post(api, version="1.1.0", then="deploy")
    assert wrong.json()["errors"][0]["field"] == "then"
    assert TrainingRun.objects.count() == 1
    assert post(client("train", "promote"), version="1.1.0", then="promote").status_code == 201
    assert TrainingRun.objects.get(version="1.1.0").then == "promote"


def test_only_a_key_that_may_train():
    for scopes, status in ((["score", "read", "promote"], 403), (["train"], 201)):
        assert post(client(*scopes)).status_code == status
    anyone = Client(raise_request_exception=False)
    assert anyone.get("/training-runs").status_code == 401
