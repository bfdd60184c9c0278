"""The page “Costs” in a real browser: a month, its plot and its file."""

import csv
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from tests.training.support import make_run
from training import launchers
from training.models import RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)


class NoPlace:
    """What is asked of a launcher when a run is made."""

    is_attached = False


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def months(fraud, settings, monkeypatch) -> None:
    """Runs of this month and of the five before."""
    for launcher in ("cloud-run", "vm"):
        monkeypatch.setitem(launchers._LAUNCHERS, launcher, NoPlace())
    settings.GOOGLE_CLOUD_PROJECT = "shop"
    for name in ("DATA_DIR", "RUNS_DIR", "ARTIFACTS_DIR"):
        setattr(settings, name, f"gs://shop/{name}")
    settings.BUDGET_WARN_USD, settings.BUDGET_REFUSE_USD = Decimal(2), Decimal(20)
    begin = timezone.now().astimezone(UTC).replace(day=1, hour=0, minute=0, second=1)
    for number in range(14):
        at = begin
        for _ in range(number // 3):
            at = (at - timedelta(days=20)).replace(day=1)
        _ended(f"1.{number}.0", ["cloud-run", "vm", "local"][number % 3], at)
    make_run("2.0.0", launcher="cloud-run")


def _ended(version: str, launcher: str, at: datetime) -> None:
    run = make_run(version, launcher=launcher)
    usd = {"cloud-run": Decimal("2.2896"), "vm": Decimal("0.6"), "local": Decimal(0)}[launcher]
    TrainingRun.objects.filter(pk=run.pk).update(
        state=RunState.FAILED,
        finished_at=at,
        started_at=at - timedelta(hours=3),
        place_started_at=at - timedelta(hours=3),
        place_ended_at=at,
        cost_usd=usd,
    )


def test_a_month_is_shown_drawn_and_taken_along(operator: Page, months, tmp_path: Path):
    page = operator
    page.goto("/admin/")
    page.get_by_role("link", name="What training costs").click()
    expect(page.locator(".report-tile strong").first).to_have_text("$2.90")
    expect(page.locator(".costs-budgets p").first).to_contain_text("$0.90 above")
    expect(page.locator(".costs-budgets p").last).to_contain_text("$17.10 left")
    expect(page.locator(".costs-runs tbody tr")).to_have_count(4)
    expect(page.locator(".costs-runs tbody tr").first).to_contain_text("queued")
    plot = page.locator('figure[data-plot="months"]')
    expect(plot.locator("svg.plot-svg .plot-series")).to_have_count(2)
    expect(plot.locator(".plot-tick")).to_contain_text([f"{timezone.now():%b %Y}"])
    picture(page, "costs-light")
    page.emulate_media(color_scheme="dark")
    picture(page, "costs-dark")
    page.get_by_text("Cloud Run", exact=True).click()
    expect(page.locator(".costs-prices").get_by_text("$0.000024")).to_be_visible()
    picture(page, "costs-prices-dark")

    page.get_by_role("link", name="The month before").click()
    expect(page.locator(".report-tile strong").first).to_have_text("$2.89")
    expect(page.locator(".costs-budgets")).to_have_count(0)
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    file = tmp_path / "costs.csv"
    download.value.save_as(file)
    assert download.value.suggested_filename.startswith("costs-20")
    rows = list(csv.DictReader(file.open()))
    assert sorted(row["actual_usd"] for row in rows) == ["0.0000", "0.6000", "2.2896"]


def test_it_is_found_beside_the_runs(operator: Page, fraud):
    operator.goto("/admin/training/trainingrun/")
    operator.get_by_role("link", name="Costs").click()
    expect(operator.get_by_text("No training run counts in")).to_be_visible()
    expect(operator.locator("figure")).to_have_count(0)
