"""The forms that train a model show what its kind has."""

from pathlib import Path

import pytest
from django.core.management import call_command
from playwright.sync_api import Page, expect

from tests.browser.test_classifier import picture
from tests.classifiers import register_model
from tests.engine.classifiers import CHURN
from tests.training.support import make_dataset
from training.models import RetrainingSchedule, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def customers(fraud, settings, tmp_path: Path) -> None:
    """A data set of transactions and one of the classifier “churn”."""
    settings.DATA_DIR = str(tmp_path / "data")
    make_dataset("sales")
    register_model(CHURN)
    (tmp_path / "rows.csv").write_text("age,paid,plan,opened_mail,left\n30,1,,,yes\n41,2,,,no\n")
    call_command("import_dataset", "customers", str(tmp_path / "rows.csv"), model="churn")


def test_the_train_form_has_what_the_models_kind_has(customers, operator: Page):
    page = operator
    page.goto("/admin/training/trainingrun/add/")
    search, trees = page.locator("#id_search"), page.locator("#id_trees")
    expect(search).to_be_visible()
    expect(trees).to_be_hidden()
    search.fill("3")
    page.locator("#id_dataset").select_option("sales")
    page.locator("#id_model").select_option("churn")
    for name in ("rules", "search", "review_rate", "label_delay", "without"):
        expect(page.locator(f"#id_{name}")).to_be_hidden()
    expect(page.get_by_role("heading", name="Thresholds")).to_be_hidden()
    expect(page.locator("#id_dataset")).to_have_value("")
    expect(page.locator("#id_version")).to_have_value("1.0.0")
    trees.fill("9")
    page.locator("#id_dataset").select_option("customers")
    expect(page.locator("[data-expected] .words")).to_contain_text("2 rows take about")
    picture(page, "train-classifier")
    page.get_by_role("button", name="Train").click()
    expect(page.get_by_role("heading", name="churn v1.0.0")).to_be_visible()
    run = TrainingRun.objects.get()
    assert (run.model.name, run.options, run.rule_set) == ("churn", {"trees": 9}, None)


def test_a_schedule_of_a_classifier_is_made(customers, operator: Page):
    page = operator
    page.goto("/admin/training/retrainingschedule/add/")
    page.locator("#id_name").fill("weekly")
    page.locator("#id_model").select_option("churn")
    expect(page.locator("#id_days")).to_be_hidden()
    expect(page.locator("#id_rules")).to_be_hidden()
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".errorlist").first).to_be_visible()
    expect(page.locator("#id_rules")).to_be_hidden()
    page.locator("#id_dataset").select_option("customers")
    page.locator("#id_trees").fill("7")
    picture(page, "schedule-classifier")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="weekly")).to_be_visible()
    picture(page, "schedule-classifier-made")
    schedule = RetrainingSchedule.objects.get()
    assert (schedule.model.name, schedule.days, schedule.options) == ("churn", None, {"trees": 7})
