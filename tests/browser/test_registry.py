"""An operator compares, promotes and rolls back in the admin."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from deployments import selectors
from tests import bundles

pytestmark = pytest.mark.django_db(transaction=True)
BETTER = bundles.METRICS | {"pr_auc": 0.68, "roc_auc": 0.961, "recall_at_1_percent": 0.81}
VERSIONS = "/admin/deployments/modelversion/"


def picture(page: Page, name: str) -> None:
    """Keep a screenshot for people when SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def promote_from_list(page: Page, version: str) -> None:
    page.goto(VERSIONS)
    page.get_by_role("row", name=f"fraud v{version}").get_by_role("checkbox").check()
    page.get_by_label("Action:").select_option("promote_selected")
    page.get_by_role("button", name="Go", exact=True).click()


def test_compare_promote_and_roll_back(operator: Page):
    bundles.register("1.0.0")
    bundles.register("1.1.0", metrics=BETTER, rules="none", review=0.41, block=0.77)
    page = operator

    page.goto(VERSIONS)
    expect(page.get_by_text("No version of fraud serves yet")).to_be_visible()
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)

    promote_from_list(page, "1.0.0")
    page.get_by_label("Reason").fill("The first one")
    page.get_by_role("button", name="Promote").click()
    expect(page.get_by_text("Fraud is served by v1.0.0.", exact=True)).to_be_visible()
    expect(page.get_by_role("row", name="fraud v1.0.0")).to_contain_text("champion")

    row = page.get_by_role("row", name="fraud v1.1.0")
    expect(row).to_contain_text("0.680 +0.070")
    expect(row).to_contain_text("0.961 -0.011")
    picture(page, "versions")

    page.get_by_role("link", name="fraud v1.1.0").click()
    picture(page, "version")
    page.get_by_role("link", name="Promote…").click()
    expect(page.get_by_role("row", name="Average precision Area")).to_contain_text("+0.070")
    expect(page.get_by_text("Its thresholds were tuned with the rule set “none”")).to_be_visible()
    picture(page, "promote")
    expect(page.get_by_text("Not comparable with the champion.")).to_be_visible()
    page.get_by_label("Reason").fill("Catches more")
    page.get_by_label("Promote it although it is not known to be better").check()
    page.get_by_label("“none”, the rule set that its thresholds").check()
    page.get_by_role("button", name="Promote").click()

    expect(page.get_by_role("row", name="fraud v1.1.0")).to_contain_text("champion")
    assert selectors.live_pointer("fraud").version.version == "1.1.0"
    assert selectors.live_pointer("fraud").rule_set.name == "none"
    picture(page, "promoted")

    page.get_by_role("button", name="Roll back to v1.0.0 and rules “default”").click()
    expect(page.get_by_text("Fraud is served by v1.0.0 again.")).to_be_visible()
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
    assert selectors.live_pointer("fraud").rule_set.name == "default"

    page.get_by_role("link", name="History of promotions").click()
    rows = page.locator("#result_list tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("Rollback")
    expect(rows.nth(1)).to_contain_text("Catches more")
    expect(rows.nth(1)).to_contain_text("ana")
    picture(page, "history")


def test_a_promotion_without_a_reason_stays_on_the_page(operator: Page):
    bundles.register("1.0.0")
    promote_from_list(operator, "1.0.0")
    # The browser itself asks for the field, so take its check away to see the server's.
    operator.eval_on_selector("form.promote", "form => form.noValidate = true")
    operator.get_by_role("button", name="Promote").click()
    expect(operator.get_by_text("This field is required.")).to_be_visible()
    assert selectors.live_pointer("fraud").version is None


def test_a_broken_bundle_is_refused_on_the_page(operator: Page, settings):
    bundles.register("1.0.0")
    (Path(settings.ARTIFACTS_DIR) / "fraud/v1.0.0/supervised.treelite").write_bytes(b"other")
    promote_from_list(operator, "1.0.0")
    operator.get_by_label("Reason").fill("why not")
    operator.get_by_role("button", name="Promote").click()
    expect(operator.locator(".errorlist")).to_contain_text("supervised.treelite")
    expect(operator.get_by_label("Reason")).to_have_value("why not")
    assert selectors.live_pointer("fraud").version is None


def test_correct_a_rule_and_go_back(operator: Page):
    page = operator
    page.goto("/admin/deployments/ruleset/")
    picture(page, "rule-sets")
    page.get_by_role("link", name="default").last.click()
    picture(page, "rule-set")
    page.get_by_role("link", name="New rule set from this one").click()
    source = page.get_by_label("Source")
    corrected = source.input_value().replace("amount > 300.0", "amount > 500.0")
    page.get_by_label("Name").fill("cap-500")
    source.fill(corrected.replace("amount > 500.0", "amuont > 500.0"))
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".errorlist")).to_contain_text("R1")
    picture(page, "rule-set-fault")
    page.get_by_label("Source").fill(corrected)
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("link", name="Serve with it…").click()
    expect(page.locator("pre .added")).to_contain_text("amount > 500.0")
    picture(page, "rule-set-promote")
    page.get_by_label("Reason").fill("The cap was raised")
    page.get_by_role("button", name="Serve with it").click()
    expect(page.get_by_role("row", name="cap-500")).to_contain_text("fraud")
    page.get_by_role("button", name="Roll back to “default”").click()
    expect(page.get_by_text("Fraud is served with “default” again.")).to_be_visible()


def test_an_api_key_is_shown_once_and_revoked(operator: Page):
    page = operator
    page.goto("/admin/deployments/apikey/add/")
    page.get_by_label("Name").fill("wallet backend")
    page.get_by_label("Read records and versions").check()
    page.get_by_role("button", name="Save", exact=True).click()
    key = page.locator("code.shown-once").inner_text()
    picture(page, "key")
    assert selectors.api_key_find(key).scopes == ["score", "read"]

    page.reload()  # leads to the list: it neither shows the key again nor makes another one
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    assert key not in page.content()
    page.get_by_role("link", name="wallet backend").click()
    picture(page, "key-page")
    assert key not in page.content()
    assert selectors.api_key_find(key).sha256 not in page.content()
    page.get_by_role("button", name="Revoke this key").click()
    expect(page.locator(".badge", has_text="revoked")).to_be_visible()
    assert selectors.api_key_find(key) is None
