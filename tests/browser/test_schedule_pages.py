"""Someone makes, changes and deletes a retraining schedule in the admin."""

import pytest
from playwright.sync_api import Page, expect

from deployments.models import RegisteredModel
from tests.browser.test_registry import picture
from tests.training.support import make_dataset
from training import schedules
from training.models import RetrainingSchedule

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/training/retrainingschedule/"


def test_make_change_and_delete_a_schedule(strict: Page):
    page = strict
    make_dataset("sales")
    page.goto(LIST)
    page.get_by_role("link", name="Add a retraining schedule").click()
    expect(page.locator(".schedule-times .words")).to_have_text("At 03:00, only on Monday")
    expect(page.locator(".schedule-times li")).to_have_count(5)

    page.get_by_label("Name:").fill("nightly")
    page.get_by_label("Crontab:").fill("0 24 * * *")
    expect(page.locator(".schedule-times .words")).to_contain_text("The hour “24” can't be read")
    expect(page.locator(".schedule-times li")).to_have_count(0)
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".errorlist")).to_contain_text(
        ["The hour “24” can't be read", "Give a number of days of traffic"]
    )
    picture(page, "schedule-form-fault")

    page.get_by_label("Crontab:").fill("30 2 * * *")
    page.get_by_label("Time zone:").select_option("Europe/Paris")
    expect(page.locator(".schedule-times .words")).to_have_text("At 02:30")
    expect(page.locator(".schedule-times li").first).to_contain_text("02:30 CE")
    page.get_by_label("Days of traffic:").fill("30")
    page.get_by_label("Label delay:").fill("2d")
    picture(page, "schedule-form")
    page.get_by_role("button", name="Save").click()

    expect(page.get_by_text("The schedule nightly is saved.")).to_be_visible()
    expect(page.get_by_role("row", name="Label delay")).to_contain_text("2d")
    expect(page.get_by_role("row", name="Data Last 30 days of traffic")).to_be_visible()
    schedule = RetrainingSchedule.objects.get()
    assert (schedule.created_by, schedule.days, schedule.then) == ("ana", 30, "propose")
    picture(page, "schedule")

    page.get_by_role("link", name="Change", exact=True).click()
    expect(page.get_by_label("Label delay:")).to_have_value("2d")
    page.get_by_label("Data set:").select_option("sales")
    page.get_by_label("Days of traffic:").fill("")
    page.get_by_label("Then:").select_option("promote")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("row", name="Data Data set “sales”")).to_be_visible()
    page.get_by_role("button", name="Disable").click()
    expect(page.get_by_text("nightly is disabled.")).to_be_visible()
    schedule.refresh_from_db()
    assert not schedule.enabled
    assert not schedule.periodic_task.enabled

    page.goto(LIST)
    page.get_by_role("row", name="nightly").get_by_role("checkbox").check()
    page.get_by_label("Action:").select_option("enable_selected")
    page.get_by_role("button", name="Go", exact=True).click()
    expect(page.get_by_text("nightly is enabled.")).to_be_visible()
    picture(page, "schedules")

    page.get_by_role("link", name="nightly").click()
    page.get_by_role("link", name="Delete…").click()
    picture(page, "schedule-delete")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Its runs and versions stay.")).to_be_visible()
    expect(page.get_by_text("0 retraining schedules")).to_be_visible()


def test_the_pages_in_the_dark_and_on_a_telephone(strict: Page):
    from django.utils import timezone

    model = RegisteredModel.objects.get(name="fraud")
    schedule = schedules.schedule_create(
        by="ana", now=timezone.now(), name="nightly", model=model, days=30, crontab="0 3 * * 1-5",
        time_zone="Europe/Paris",
    )  # fmt: skip
    reason = "The last 30 days have 2 known frauds, of the 5 needed."
    RetrainingSchedule.objects.update(message=reason, message_at=timezone.now())
    page = strict
    page.emulate_media(color_scheme="dark")
    for name, address in (
        ("schedules", LIST), ("schedule", f"{LIST}{schedule.pk}/change/"),
        ("schedule-form", f"{LIST}{schedule.pk}/edit/"),
    ):  # fmt: skip
        page.goto(address)
        expect(page.locator("#content")).to_contain_text("nightly")
        picture(page, f"{name}-dark")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{LIST}{schedule.pk}/change/")
    expect(page.get_by_text("known frauds")).to_be_visible()
    picture(page, "schedule-narrow")
