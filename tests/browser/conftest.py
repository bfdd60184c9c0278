"""A real browser on a real server."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests import bundles

# What a careful installation would send; the tests send it with every page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
)


def _chromium() -> str | None:
    candidates = [os.environ.get("CHROME"), "/usr/bin/chromium", "/usr/bin/chromium-browser"]
    candidates += ["/usr/bin/google-chrome", "/opt/google/chrome/chrome"]
    return next((path for path in candidates if path and Path(path).exists()), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = _chromium()
    if executable is None:
        pytest.skip("no browser: install chromium, or name one with the variable CHROME")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright keeps an event loop in this thread, which Django takes for asynchronous code.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        opened = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture
def fraud(transactional_db, settings, tmp_path: Path) -> None:
    """The registry as an installation begins, over an empty artefact store."""
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    bundles.seed_registry()


@pytest.fixture
def page(browser: Browser, live_server, fraud) -> Iterator[Page]:
    """A page whose addresses are relative to the server. An error in its scripts, or what the
    content policy of the pages forbids, fails the test."""
    context = browser.new_context(
        base_url=live_server.url, viewport={"width": 1360, "height": 900}, locale="en-GB"
    )
    opened = context.new_page()
    opened.set_default_timeout(15_000)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on(
        "console",
        lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None,
    )
    yield opened
    context.close()
    assert errors == []


@pytest.fixture
def operator(page: Page, django_user_model) -> Page:
    """The page after a superuser logged in through the form."""
    django_user_model.objects.create_superuser("ana", password="a-long-password")
    page.goto("/admin/")
    page.get_by_label("Username").fill("ana")
    page.get_by_label("Password").fill("a-long-password")
    page.get_by_role("button", name="Log in").click()
    return page


@pytest.fixture
def strict(operator: Page) -> Page:
    """The operator's page under a strict content security policy; its console stays empty."""
    said: list[str] = []
    operator.on("console", lambda message: said.append(f"{message.type}: {message.text}"))

    def add_policy(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(
            response=answer, headers={**answer.headers, "content-security-policy": POLICY}
        )

    operator.route("**/admin/**", add_policy)
    yield operator
    # A page that asks again and again may be asking now: its answer would fail the next test.
    operator.unroute_all(behavior="ignoreErrors")
    assert said == []
