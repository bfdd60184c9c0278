"""A third registered model takes one TOML file and no Python: registered, fed, trained, promoted,
asked, and trained again beside its champion, by commands and over HTTP alone."""

import json
from pathlib import Path
from random import Random

import pytest
from django.core.management import call_command
from django.test import Client

from deployments import selectors, services
from tests.bundles import seed_registry
from tests.training.launchers.support import Post
from training.models import RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)

CHURN = """
name = "churn"
target = "left"
description = "Which customers leave"

[answer]
prediction = "leaves"

[inputs.age]
type = "integer"
minimum = 18
maximum = 120

[inputs.monthly_fee]
type = "number"
minimum = 0
maximum = 1000
unit = "EUR"

[inputs.calls]
type = "integer"
minimum = 0
maximum = 100
default = 0

[inputs.plan]
type = "category"
values = ["basic", "plus", "family"]

[inputs.country]
type = "category"
values = ["FR", "DE", "ES"]
default = "FR"

[inputs.auto_pay]
type = "boolean"

[classes.stays]
action = "Nothing to do"

[classes.leaves]
action = "Call them"
"""
CUSTOMER = {"age": 30, "monthly_fee": 90.0, "calls": 9, "plan": "basic", "auto_pay": False}


@pytest.fixture
def folders(transactional_db, settings, tmp_path: Path) -> Path:
    seed_registry()
    for name in ("DATA_DIR", "RUNS_DIR", "ARTIFACTS_DIR"):
        setattr(settings, name, str(tmp_path / name.lower()))
    return tmp_path


def write_customers(path: Path, rows: int, seed: int) -> None:
    """Who calls often and does not pay by themselves leaves, as a rule."""
    random = Random(seed)
    lines = ["country,age,left,calls,plan,monthly_fee,auto_pay"]
    for _ in range(rows):
        calls, auto_pay = random.randint(0, 10), random.random() < 0.5
        leaves = (calls > 5 and not auto_pay) != (random.random() < 0.1)
        lines.append(
            f"{random.choice(['FR', 'DE', ''])},{random.randint(18, 80)},"
            f"{'leaves' if leaves else 'stays'},{calls},{random.choice(['basic', 'plus'])},"
            f"{random.uniform(5, 100):.2f},{str(auto_pay).lower()}"
        )
    path.write_text("\n".join(lines) + "\n")


def train(post: Post, version: str, **options: object) -> TrainingRun:
    call_command("train", model="churn", semver=version, trees=5, **options)
    run = post.go_on(TrainingRun.objects.latest("created_at"), seconds=60)
    assert run.state == RunState.SUCCEEDED, run.error
    return run


def test_a_third_model_takes_one_file(folders, monkeypatch):
    post = Post(monkeypatch)
    (folders / "churn.toml").write_text(CHURN)
    write_customers(folders / "customers.csv", 800, seed=1)
    call_command("register_model", str(folders / "churn.toml"))
    call_command("import_dataset", "customers", str(folders / "customers.csv"), model="churn")
    run = train(post, "1.0.0", dataset="customers")
    metrics = run.model_version.metrics
    assert metrics["accuracy"] > 0.8 > metrics["most_frequent_accuracy"]
    call_command("promote", "churn", "1.0.0")

    _, key = services.api_key_create(name="shop", scopes=["score", "read"], created_by="test")
    client = Client(headers={"Authorization": f"Api-Key {key}"})
    answer = client.post("/models/churn/predict", json.dumps(CUSTOMER), "application/json").json()
    assert (answer["leaves"], answer["action"]) == ("leaves", "Call them")
    assert answer["confidence"] > 0.5
    assert answer["context_used"] == {**CUSTOMER, "country": "FR"}
    refused = client.post("/models/churn/predict", '{"age": 3}', "application/json").json()
    assert {error["field"] for error in refused["errors"]} == {
        "age", "monthly_fee", "plan", "auto_pay",
    }  # fmt: skip
    assert "churn" in [model["name"] for model in client.get("/models").json()["results"]]

    # On more customers, beside its champion, and promoted by itself only if it is better.
    write_customers(folders / "more.csv", 900, seed=2)
    call_command("import_dataset", "more", str(folders / "more.csv"), model="churn")
    again = train(post, "1.1.0", dataset="more", then="promote")
    assert again.model_version.metrics["champion"]["version"] == "1.0.0"
    told = again.events.latest("pk").message
    better = told.startswith("Promoted. Better than the champion v1.0.0.")
    assert better or told.startswith("Proposed. Too close to the champion v1.0.0 to call.")
    champion = selectors.live_pointer("churn").version
    assert champion.version == ("1.1.0" if better else "1.0.0")
