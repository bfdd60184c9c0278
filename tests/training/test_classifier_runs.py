"""Classifiers through what everything calls: data sets, runs, their options, and schedules."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import selectors, services
from deployments.models import ModelVersion, RegisteredModel, RuleSet
from engine.errors import InvalidDataset, NotRegistered, RunRefused
from engine.store import open_store
from tests import bundles, classifiers
from tests.engine.classifiers import CHURN, SPONSOR
from tests.training.support import make_dataset
from training.claims import run_prepare
from training.classifier_data import rows_simulated
from training.models import Dataset, TrainingRun
from training.pipeline.spec import ClassifierOptions, ClassifierSpec, Options, decode_spec
from training.schedules import ScheduleRefused, schedule_create
from training.services import run_create, run_restart
from training.snapshots import snapshot_create

ROWS = """age,paid,plan,opened_mail,left
30,10.5,free,true,yes
41,0,paid,false,no
"""


@pytest.fixture
def churn(db, settings, tmp_path: Path) -> RegisteredModel:
    """The model “churn”, over empty folders."""
    bundles.seed_registry()
    for name in ("DATA_DIR", "RUNS_DIR", "ARTIFACTS_DIR"):
        setattr(settings, name, str(tmp_path / name.lower()))
    return classifiers.register_model(CHURN)


@pytest.fixture
def customers(churn, tmp_path) -> Dataset:
    """Its data set “customers”, of two rows."""
    (tmp_path / "customers.csv").write_text(ROWS)
    call_command("import_dataset", "customers", str(tmp_path / "customers.csv"), model="churn")
    return Dataset.objects.get(name="customers")


def make(version: str = "1.0.0", **changes: Any) -> TrainingRun:
    return run_create(**{"dataset": "customers", "model": "churn", "version": version, **changes})


# --- data sets ---


def test_rows_are_imported_by_the_definition(customers, churn, capsys, tmp_path):
    assert (customers.model, customers.rows, customers.frauds) == (churn, 2, 0)
    assert customers.summary["class_counts"] == {"yes": 1, "no": 1}
    assert customers.what == "2 rows"
    assert Path(customers.file).is_file()
    capsys.readouterr()
    call_command("import_dataset", "again", str(tmp_path / "customers.csv"), model="churn")
    told = capsys.readouterr().out.splitlines()
    assert told[-3:] == [
        f"“again”: 2 rows of churn, fingerprint {customers.fingerprint[:12]}.",
        "          1   50.0%  yes",
        "          1   50.0%  no",
    ]


def test_bad_rows_are_refused_or_left_out(churn, tmp_path, capsys):
    path = tmp_path / "customers.csv"
    path.write_text(ROWS + "17,0,paid,false,no\n")
    with pytest.raises(CommandError, match=r"1 bad row.*age"):
        call_command("import_dataset", "customers", str(path), model="churn")
    assert not Dataset.objects.exists()
    call_command("import_dataset", "customers", str(path), model="churn", on_bad_rows="skip")
    assert Dataset.objects.get().rejected == 1
    assert "1 rows were left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "words"), [("fraud", "is no classifier"), ("none", "There is no model “none”")]
)
def test_rows_of_what_is_no_classifier_are_refused(churn, tmp_path, model, words):
    (tmp_path / "rows.csv").write_text(ROWS)
    with pytest.raises(CommandError, match=words):
        call_command("import_dataset", "rows", str(tmp_path / "rows.csv"), model=model)


def test_rows_are_simulated_to_a_file(churn, tmp_path, capsys):
    call_command("register_model", "sponsor")
    call_command("simulate", str(tmp_path / "a.csv"), model="sponsor", rows=50, seed=1)
    call_command("simulate", str(tmp_path / "b.csv"), model="sponsor", rows=50, seed=1)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert "50 rows of sponsor." in capsys.readouterr().out
    with pytest.raises(CommandError, match="names no simulator"):
        call_command("simulate", str(tmp_path / "c.csv"), model="churn", rows=50)
    with pytest.raises(CommandError, match="--start and --days are of transactions"):
        call_command("simulate", str(tmp_path / "c.csv"), model="sponsor", rows=50, days=3)


def test_other_commands_refuse_rows_of_a_classifier(customers, tmp_path):
    with pytest.raises(CommandError, match="holds rows of the classifier “churn”"):
        call_command("backfill_history", "customers")
    bundles.register("1.0.0")
    bundles.promote("1.0.0")
    with pytest.raises(CommandError, match="holds rows of the classifier “churn”"):
        call_command("score", dataset="customers", out=tmp_path / "out.parquet")
    with pytest.raises(CommandError, match="“churn” is a classifier, and does not score"):
        call_command("score", str(tmp_path / "x.csv"), out=tmp_path / "out.parquet", model="churn")
    with pytest.raises(InvalidDataset, match="“churn” is a classifier: a snapshot is of the"):
        snapshot_create(name="traffic", as_of=timezone.now(), days=7, model="churn")


# --- runs ---


def test_a_run_of_a_classifier_has_no_rules_and_a_spec_of_its_kind(customers, churn):
    run = make(options=ClassifierOptions(trees=7), sample=2, seed=3)
    assert (run.rule_set, run.rules_name, run.options) == (None, "", {"trees": 7})
    run_prepare(run)
    spec = decode_spec(open_store(run.folder).read("spec.json"))
    assert isinstance(spec, ClassifierSpec)
    assert (spec.definition, spec.options.trees, spec.sample, spec.seed) == (CHURN, 7, 2, 3)
    assert spec.dataset == customers.file
    assert spec.champion is None


def test_the_champion_is_compared_with(customers, churn):
    version = classifiers.register("1.0.0", CHURN)
    classifiers.promote("1.0.0", "churn")
    run = make("1.1.0")
    run_prepare(run)
    champion = decode_spec(open_store(run.folder).read("spec.json")).champion
    assert champion is not None
    assert (champion.version, champion.manifest_sha256) == ("1.0.0", version.manifest_sha256)


def test_it_is_started_again_as_it_was(customers):
    run = make(options=ClassifierOptions(trees=7), seed=3)
    TrainingRun.objects.filter(pk=run.pk).update(state="failed")
    again = run_restart(run)
    assert (again.options, again.seed, again.rule_set) == ({"trees": 7}, 3, None)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"rules": "none"}, "rules", "“churn” is a classifier: it is trained without rules"),
        ({"options": Options()}, "options", "not the options of a classifier model"),
        ({"dataset": "sales"}, "dataset", "“sales” holds transactions, and “churn” is trained on"),
        ({"model": "fraud"}, "dataset", "“customers” holds rows of “churn”, and “fraud” is"),
        ({"model": "sponsor"}, "dataset", "“customers” holds rows of “churn”, and “sponsor” is"),
    ],
    ids=["rules", "options", "transactions", "fraud", "another classifier"],
)
def test_what_does_not_fit_together_is_refused(customers, changes, field, words):
    make_dataset("sales")
    classifiers.register_model(SPONSOR)
    with pytest.raises(RunRefused, match=words) as refusal:
        make(**changes)
    assert [error.field for error in refusal.value.errors] == [field]


def test_rows_of_an_earlier_definition_are_refused(customers):
    services.model_register(source=CHURN.replace("[classes.no]", "[classes.maybe]"), by="ana")
    with pytest.raises(RunRefused, match="had other inputs or classes: import the rows again"):
        make()


def test_new_words_about_a_class_need_no_new_import(customers):
    source = CHURN.replace("[classes.yes]", '[classes.yes]\ntext = "Call"')
    source = source.replace("[classes.no]", '[classes.no]\ntext = "Wait"')
    services.model_register(source=source, by="ana")
    assert make().state == "queued"


def test_the_next_version_of_a_classifier_is_the_next_patch(customers):
    from training.selectors import next_version

    assert next_version("churn") == "1.0.0"
    make("1.0.0")
    assert next_version("churn") == "1.0.1"


def test_options_of_the_other_kind_are_refused_by_name(customers):
    with pytest.raises(CommandError, match=r"--search, --block-rate: a classifier has no such"):
        call_command("train", model="churn", dataset="customers", search=3, block_rate=0.1)
    make_dataset("sales")
    with pytest.raises(CommandError, match=r"--trees: a fraud model has no such option; it has --"):
        call_command("train", dataset="sales", semver="1.0.0", trees=7)
    with pytest.raises(CommandError, match=r"--test-share: 2 is not a share above 0"):
        call_command("train", model="churn", dataset="customers", test_share=2)
    assert not TrainingRun.objects.exists()


def test_rows_are_made_up_once_for_a_run_without_a_data_set(churn, capsys):
    call_command("register_model", "sponsor")
    call_command("train", model="sponsor", rows=2000, test_share=0.3)
    call_command("train", model="sponsor", rows=2000)
    runs = TrainingRun.objects.order_by("created_at")
    assert [run.version for run in runs] == ["1.0.0", "1.0.1"]
    assert {run.dataset.name for run in runs} == {"sponsor-2000-0"}
    told = capsys.readouterr().out
    assert "sponsor v1.0.0 on “sponsor-2000-0” (2,000 rows)." in told
    assert "Test share: 0.3" in told
    definition = RegisteredModel.objects.get(name="sponsor").definition
    changed = definition.replace("maximum = 120", "maximum = 130")
    services.model_register(source=changed, by="ana")
    call_command("train", model="sponsor", rows=2000)
    assert TrainingRun.objects.latest("created_at").dataset.name.startswith("sponsor-2000-0-")


def test_rows_that_another_makes_up_meanwhile_are_taken(churn):
    call_command("register_model", "sponsor")
    others: list[Dataset] = []

    def meanwhile(step: str, _share: float) -> None:
        if step == "simulating" and not others:
            others.append(rows_simulated(model="sponsor", rows=500))

    assert [rows_simulated(model="sponsor", rows=500, progress=meanwhile)] == others


def test_what_can_not_be_made_up_is_asked_for(churn):
    with pytest.raises(CommandError, match="Give --dataset: the definition of “churn” names no"):
        call_command("train", model="churn")
    with pytest.raises(CommandError, match="--rows is how many rows are made up"):
        call_command("train", dataset="sales", semver="1.0.0", rows=100)
    with pytest.raises(CommandError, match="There is no model “chrun”"):
        call_command("train", model="chrun")


# --- the API and the pages ---


@pytest.fixture
def post(churn):
    _, key = services.api_key_create(name="data", scopes=["train"], created_by="test")
    client = Client(headers={"Authorization": f"Api-Key {key}"})
    return lambda body: client.post("/training-runs", json.dumps(body), "application/json")


def test_the_api_starts_a_run_of_a_classifier(customers, post):
    asked = {"dataset": "customers", "model": "churn", "version": "1.0.0"}
    answer = post({**asked, "options": {"trees": 7, "memory_limit": "400MB"}})
    assert answer.status_code == 201, answer.content
    assert TrainingRun.objects.get().options == {"trees": 7, "memory_limit_mb": 400}
    refused = post({**asked, "version": "1.1.0", "options": {"search": 3}}).json()
    assert refused["errors"][0]["field"] == "options.search"
    assert "a classifier has no such option" in refused["errors"][0]["message"]
    refused = post({**asked, "version": "1.1.0", "rules": "none"}).json()
    assert refused["errors"][0]["field"] == "rules"


def test_the_form_starts_a_run_of_a_classifier(customers, admin_client):
    address = reverse("admin:training_trainingrun_add")
    page = admin_client.get(address).content.decode()
    assert 'data-only-of="fraud"' in page
    assert "&quot;churn&quot;: &quot;classifier&quot;" in page
    asked = {"model": "churn", "dataset": "customers", "version": "1.0.0", "seed": 0}
    refused = admin_client.post(address, {**asked, "search": 3}).content.decode()
    assert "a classifier has no such option" in refused
    answer = admin_client.post(address, {**asked, "trees": 9})
    assert answer.status_code == 302
    run = TrainingRun.objects.get()
    assert (run.options, run.requested_by) == ({"trees": 9}, User.objects.get().username)
    shown = admin_client.get(answer["Location"]).content.decode()
    assert "churn v1.0.0" in shown
    expected = admin_client.get(
        reverse("admin:training_trainingrun_expected"), {**asked, "launcher": "local"}
    ).json()
    assert expected["words"].startswith("This machine: 2 rows take about")


def test_the_pages_of_a_data_set_take_its_rows(customers, admin_client):
    page = admin_client.get(reverse("admin:training_dataset_changelist")).content.decode()
    assert "customers" in page
    address = reverse("admin:training_dataset_change", args=[customers.pk])
    shown = admin_client.get(address)
    told = re.sub(r"<[^>]*>|\s+", " ", shown.content.decode())
    assert re.search(r" yes +1 +50.0 %", told)
    assert "fraud rate" not in shown.content.decode().lower()
    train = f"{reverse('admin:training_trainingrun_add')}?dataset=customers&model=churn"
    assert train.replace("&", "&amp;") in shown.content.decode()
    assert 'value="1.0.0"' in admin_client.get(train).content.decode()


# --- schedules ---


def schedule(**changes: Any) -> Any:
    facts = {
        "name": "weekly",
        "model": RegisteredModel.objects.get(name="churn"),
        "dataset": Dataset.objects.get(name="customers"),
        "crontab": "0 3 * * 1",
        "time_zone": "UTC",
        "options": {"trees": 7},
    }
    return schedule_create(by="ana", now=timezone.now(), **{**facts, **changes})


def test_a_schedule_trains_a_classifier_on_its_data_set(customers, settings):
    from training.schedule_runs import schedule_run_due
    from training.schedules import schedule_run_now

    made = schedule()
    assert schedule_run_now(made, by="ana", now=timezone.now())
    run = schedule_run_due(made.pk, now=timezone.now(), worker="one")
    assert run is not None
    assert (run.version, run.options, run.rule_set) == ("1.0.0", {"trees": 7}, None)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"dataset": None, "days": 30}, "days", "Recorded traffic is of transactions"),
        ({"rule_set": "none"}, "rules", "without rules"),
        ({"dataset": "sales"}, "dataset", "“sales” holds transactions"),
    ],
    ids=["traffic", "rules", "data"],
)
def test_what_a_schedule_of_a_classifier_can_not_have(customers, changes, field, words):
    make_dataset("sales")
    if isinstance(changes.get("dataset"), str):
        changes = changes | {"dataset": Dataset.objects.get(name=changes["dataset"])}
    if "rule_set" in changes:
        changes = changes | {"rule_set": RuleSet.objects.get(name=changes["rule_set"])}
    with pytest.raises(ScheduleRefused, match=words) as refusal:
        schedule(**changes)
    assert field in [error.field for error in refusal.value.errors]


# --- models ---


def test_models_are_registered_listed_and_shown_by_command(churn, tmp_path, capsys):
    call_command("register_model", "sponsor")
    call_command("register_model", "sponsor")
    (tmp_path / "churn.toml").write_text(CHURN.replace("minimum = 18", "minimum = 16"))
    call_command("register_model", str(tmp_path / "churn.toml"))
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("“sponsor” is registered: 6 inputs, 12 classes.")
    assert told[1] == "Train it on made-up rows: manage.py train --model sponsor --wait"
    assert told[2].startswith("“sponsor” was registered so already")
    assert told[4].startswith("“churn” has a new definition: 4 inputs, 2 classes.")
    classifiers.register("1.0.0", CHURN)
    classifiers.promote("1.0.0", "churn")
    capsys.readouterr()
    call_command("models", "list")
    listed = capsys.readouterr().out.splitlines()
    assert listed[1].split()[:4] == ["churn", "classifier", "v1.0.0", "1"]
    assert listed[2].split()[:4] == ["fraud", "fraud", "-", "0"]
    call_command("models", "show", "churn")
    shown = capsys.readouterr().out
    assert "Serves:       v1.0.0" in shown
    assert "plan         one of free, paid (default free)" in shown
    call_command("models", "show", "churn", toml=True)
    assert capsys.readouterr().out == CHURN


def test_what_is_no_definition_is_refused(churn, tmp_path):
    with pytest.raises(CommandError, match=r"There is no file sponsors, .* there is sponsor"):
        call_command("register_model", "sponsors")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(CommandError, match="The definition is not TOML"):
        call_command("register_model", str(tmp_path / "bad.toml"))
    other = CHURN.replace('"churn"', '"bad"') + '\n[training]\nsimulator = "nobody"\n'
    (tmp_path / "bad.toml").write_text(other)
    with pytest.raises(CommandError, match=r"training.simulator: there is no 'nobody'; .* sponsor"):
        call_command("register_model", str(tmp_path / "bad.toml"))
    with pytest.raises(NotRegistered):
        selectors.model_by_name("bad")
    assert ModelVersion.objects.count() == 0
