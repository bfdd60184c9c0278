"""The engine on Cloud Run in a real browser: deploy, look, promote, roll back."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from deployments.models import CloudService, Deployment
from deployments.rollouts import transitions
from tests import bundles
from tests.deployments.rollouts.support import make_deployment, make_service
from tests.google.monitoring import Usage
from tests.google.serving import Served

pytestmark = pytest.mark.django_db(transaction=True)
REVISION = "engine-v1-0-0-aaaaaa"


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def engine(fraud, google_services) -> CloudService:
    """A service with a version that serves, a canary, and one that failed."""
    google_services.serving.is_open = True
    versions = [bundles.register(number) for number in ("1.0.0", "1.1.0", "1.2.0")]
    service = make_service("engine", url="https://engine-abcdefgh12-ew.a.run.app", wishes={})
    rows = [
        make_deployment(service, versions[0], "serving", percent=90, revision=REVISION),
        make_deployment(service, versions[2], "failed", error="It did not start.\nIts last lines:"),
        make_deployment(service, versions[1], "canary", percent=10, revision="engine-v1-1-0-b"),
    ]
    now = timezone.now()
    Deployment.objects.filter(pk=rows[0].pk).update(
        billed_seconds=123_456,
        billed_at=now,
        requested_by="ana",
        created_at=now - timedelta(days=9),
    )
    transitions.note(rows[2].pk, "The database is migrated.", by="worker@host", now=now)
    for minute in range(4, 50):
        at = now - timedelta(minutes=minute)
        google_services.monitoring.used.append(
            Usage(at, "engine", REVISION, 0.2 + minute % 7 / 20, 0.4, 1 + minute % 3)
        )
        for number in range(minute % 9):
            status, seconds = (500 if number == 7 else 200), 0.02 + number / 100
            google_services.serving.served.append(Served(at, "engine", REVISION, status, seconds))
    return service


def test_a_service_is_looked_at_and_its_form_is_filled(engine, strict: Page) -> None:
    strict.goto("/admin/deployments/cloudservice/")
    expect(strict.get_by_text("v1.0.0 90 %, v1.1.0 10 %")).to_be_visible()
    picture(strict, "services")
    strict.get_by_role("link", name="engine", exact=True).click()
    expect(strict.get_by_text("requests in the last 1 h")).to_be_visible()
    expect(strict.locator("figure[data-plot] svg")).to_have_count(5)
    expect(strict.get_by_role("button", name="Promote v1.1.0")).to_be_visible()
    picture(strict, "service")
    strict.get_by_role("button", name="7 days").click()
    expect(strict.get_by_text("requests in the last 168 h")).to_be_visible()


def test_google_that_does_not_answer_is_one_line(engine, google_services, operator: Page) -> None:
    google_services.google.fault("timeSeries", "PERMISSION_DENIED", times=99)
    operator.goto(f"/admin/deployments/cloudservice/{engine.pk}/change/")
    expect(operator.locator("[data-said].warning")).to_contain_text("Google says")
    expect(operator.locator("figure[data-plot] svg")).to_have_count(0)


def test_a_version_is_deployed_by_the_form(engine, strict: Page) -> None:
    Deployment.objects.filter(state="canary").update(state="rolled_back", percent=0)
    strict.goto(f"/admin/deployments/deployment/add/?service={engine.pk}")
    strict.get_by_label("Version").select_option("1.1.0")
    strict.get_by_label("Memory").fill("99Gi")
    picture(strict, "deploy")
    strict.get_by_role("button", name="Deploy").click()
    expect(strict.get_by_text("99Gi; 2 processors may have 512Mi to 8Gi")).to_be_visible()
    strict.get_by_label("Memory").fill("4Gi")
    strict.get_by_label("Canary").fill("10")
    strict.get_by_role("button", name="Deploy").click()
    expect(strict.get_by_role("heading", name="v1.1.0 on engine")).to_be_visible()
    made = Deployment.objects.get(state="queued")
    assert (made.wishes["memory_mb"], made.canary, made.requested_by) == (4096, 10, "ana")
    assert made.next_step_at is not None
    picture(strict, "queued")
    strict.get_by_role("button", name="Cancel this rollout").click()
    expect(strict.get_by_text("It was cancelled by ana").first).to_be_visible()
    strict.goto("/admin/deployments/deployment/")
    expect(strict.get_by_role("link", name="v1.0.0")).to_be_visible()
    picture(strict, "deployments")


def test_the_page_of_one_that_failed_says_why(engine, operator: Page) -> None:
    operator.emulate_media(color_scheme="dark")
    row = Deployment.objects.get(state="failed")
    operator.goto(f"/admin/deployments/deployment/{row.pk}/change/")
    expect(operator.locator(".run-error")).to_contain_text("It did not start.")
    picture(operator, "failed")
