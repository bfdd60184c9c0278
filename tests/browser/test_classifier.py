"""The pages of a classifier in a real browser: from its definition to what it answers."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from deployments.models import RegisteredModel
from tests.engine.classifiers import CHURN, SPONSOR

pytestmark = pytest.mark.django_db(transaction=True)
MODELS = "/admin/deployments/registeredmodel/"


@pytest.fixture
def strict(operator: Page) -> Page:
    """The operator's page, whose console stays empty."""
    said: list[str] = []
    operator.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    yield operator
    assert said == []


def picture(page: Page, name: str) -> None:
    """Keep screenshots for people, light and dark, when SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            path = Path(folder) / f"{name}-{scheme}.png"
            page.screenshot(path=path, full_page=True, animations="disabled")


def cells(page: Page, region: str, row: str) -> list[str]:
    """The texts of the row that `row` begins, in the table of a region."""
    table = page.get_by_role("region", name=region)
    line = table.locator("tbody tr").filter(has=page.get_by_role("rowheader", name=row, exact=True))
    return line.locator("th, td").all_inner_texts()


def test_a_classifier_is_registered_and_its_definition_changed(strict: Page):
    page = strict
    page.goto(MODELS)
    expect(page.get_by_role("row", name="fraud")).to_contain_text("Fraud scoring")
    page.get_by_role("link", name="Register a classifier").click()

    page.get_by_label("Definition").fill(SPONSOR.replace("minimum = -30", 'minimum = "cold"'))
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".errorlist")).to_contain_text("inputs.temperature.minimum: ")
    page.get_by_label("Definition").fill(SPONSOR.replace("minimum = -30", "minimum = 60"))
    page.get_by_role("button", name="Register").click()
    expect(page.locator(".errorlist")).to_contain_text(
        "inputs.temperature: minimum must be below maximum"
    )
    picture(page, "model-fault")
    page.get_by_label("Definition").fill(SPONSOR.replace('name = "sponsor"', 'name = "fraud"'))
    page.get_by_role("button", name="Register").click()
    expect(page.locator(".errorlist")).to_contain_text("“fraud” is a model of another kind")
    assert not RegisteredModel.objects.filter(kind="classifier").exists()

    file = {"name": "sponsor.toml", "mimeType": "application/toml", "buffer": SPONSOR.encode()}
    page.get_by_label("TOML file").set_input_files(file)
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("nothing is registered yet")).to_be_visible()
    assert page.get_by_label("Definition").input_value().strip() == SPONSOR.strip()
    assert cells(page, "Inputs", "temperature") == [
        *("temperature", "number", "-30 to 50", "°C", "required")
    ]
    picture(page, "model-preview")
    assert not RegisteredModel.objects.filter(kind="classifier").exists()
    page.get_by_role("button", name="Register").click()

    expect(page.get_by_text("Sponsor is registered.")).to_be_visible()
    model = RegisteredModel.objects.get(name="sponsor")
    assert (model.kind, model.definition, model.defined_by) == ("classifier", SPONSOR, "ana")
    assert cells(page, "Inputs", "zone")[1:] == [
        *("category", "VIP North South East West", "–", "required")
    ]
    assert cells(page, "Inputs", "event")[-1] == "None"
    assert cells(page, "Classes", "Café 9") == ["Café 9", "Warm up", "drinks"]
    expect(page.get_by_text("No version serves yet: train one")).to_be_visible()
    picture(page, "model-new")

    page.get_by_role("link", name="Change the definition…").click()
    page.get_by_label("Definition").fill(CHURN)
    page.get_by_role("button", name="Preview").click()
    expect(page.locator(".errorlist")).to_contain_text("found “churn”, expected “sponsor”")
    page.get_by_label("Definition").fill(SPONSOR.replace("Warm up", "Wake up"))
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("pre .added")).to_contain_text('campaign_message = "Wake up"')
    picture(page, "model-change")
    page.get_by_role("button", name="Change the definition").click()
    assert cells(page, "Classes", "Café 9") == ["Café 9", "Wake up", "drinks"]
    page.goto(MODELS)
    expect(page.get_by_role("row", name="sponsor")).to_contain_text("Classifier")
    picture(page, "models")
