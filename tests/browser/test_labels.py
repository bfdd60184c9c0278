"""Someone labels a transaction in the admin, and corrects a label."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from scoring import services
from scoring.labels import LabelReport, labels_record
from scoring.live_model import live_model
from scoring.models import ConfirmedFraud
from tests import bundles
from tests.browser.test_registry import picture
from tests.scoring.requests import request

pytestmark = pytest.mark.django_db(transaction=True)
KNOWN = datetime(2026, 2, 1, 8, 30, tzinfo=UTC)


@pytest.fixture
def traffic(operator: Page) -> Any:
    """A few decisions, and labels of some: one corrected, one of an unknown transaction."""
    live_model.forget()
    bundles.register("1.0.0")
    bundles.promote("1.0.0")
    for at in range(8):
        body = request(
            transaction_id=f"tx_{at}", source_wallet_id=f"wallet_{at % 3}", amount=15.0 + 70 * at
        )
        services.score(json.dumps(body).encode(), timezone.now())

    def label(name: str, verdict: str, source: str, note: str = "") -> LabelReport:
        return LabelReport(
            transaction_id=name, label=verdict, known_at=KNOWN, source=source, note=note
        )

    labels_record(
        [
            label("tx_1", "fraud", "chargeback", "Reason 10.4, fraud in a card-absent environment"),
            label("tx_2", "fraud", "customer", "Says that it was not them"),
            label("tx_4", "legitimate", "analyst"),
            label("tx_from_elsewhere", "fraud", "chargeback"),
        ],
        stated_by="case desk",
        now=timezone.now() - timedelta(days=1),
    )
    yield
    live_model.forget()


def test_label_a_transaction_and_correct_it(operator: Page, traffic: Any) -> None:
    page = operator
    page.goto("/admin/scoring/scorerecord/")
    expect(page.get_by_role("row", name="tx_1")).to_contain_text("fraud")
    picture(page, "records")
    page.get_by_role("link", name="tx_5").click()
    picture(page, "record-unlabelled")
    page.get_by_role("link", name="Label this transaction…").click()
    picture(page, "label-form")

    page.get_by_label("Fraud").check()
    page.locator("#id_known_at_0").fill("2026-01-22")
    page.get_by_role("button", name="Save the label").click()
    expect(page.locator(".errorlist")).to_contain_text("Before the transaction was made")
    picture(page, "label-fault")
    page.locator("#id_known_at_0").fill("2026-02-01")
    page.get_by_label("Source").fill("chargeback")
    page.get_by_label("Note").fill("Reported by the owner")
    page.get_by_role("button", name="Save the label").click()
    expect(page.get_by_text("The label of “tx_5” is kept.")).to_be_visible()
    history = page.locator(".field-label_history")
    expect(history.get_by_role("row")).to_have_count(2)
    expect(history).to_contain_text("Reported by the owner")
    assert ConfirmedFraud.objects.filter(attempt__transaction_id="tx_5").count() == 2

    page.get_by_role("link", name="Label this transaction…").click()
    picture(page, "label-again")
    page.get_by_label("Legitimate").check()
    page.get_by_role("button", name="Save the label").click()
    expect(history.get_by_role("row")).to_have_count(3)
    expect(history.get_by_role("row").nth(1)).to_contain_text("legitimate")
    expect(history.get_by_role("row").nth(2)).to_contain_text("fraud, replaced")
    picture(page, "record-labelled")
    assert ConfirmedFraud.objects.filter(attempt__transaction_id="tx_5").count() == 0


def test_find_labels(operator: Page, traffic: Any) -> None:
    page = operator
    page.goto("/admin/scoring/label/")
    rows = page.locator("#result_list tbody tr")
    expect(rows).to_have_count(4)
    expect(page.get_by_role("row", name="tx_from_elsewhere")).to_contain_text("unknown")
    picture(page, "labels")
    page.locator("#changelist-filter").get_by_role("link", name="chargeback").click()
    expect(rows).to_have_count(2)
    page.get_by_role("link", name="Unknown").click()
    expect(rows).to_have_count(1)
    picture(page, "labels-filtered")
    page.goto("/admin/scoring/label/?q=tx_2")
    expect(rows).to_have_count(1)
    rows.get_by_role("link").first.click()
    picture(page, "label")
    page.get_by_role("link", name="tx_2").first.click()
    expect(page.locator(".field-label_history")).to_contain_text("Says that it was not them")
