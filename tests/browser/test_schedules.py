"""A schedule made in a browser runs by itself: web server, worker, beat and training program are
processes of their own, and what it trains on was scored and labelled over HTTP."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from django.utils import timezone
from playwright.sync_api import Page, expect

from deployments import selectors, services
from engine.policy import Policy
from scoring.models import ScoreRecord
from tests.browser.test_registry import picture
from tests.scoring.server import Server, database_url, gunicorn
from tests.training import live_traffic
from tests.training.snapshots.recorded import came_when_it_says
from training.models import Dataset, ScheduleEvent, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)
ROWS = 1_500
DAYS = 45
CELERY = (sys.executable, "-m", "celery", "--app", "sentinelle")
# The last transactions of a champion that was trained long ago: those of the test are news to it.
PARTS = {"train": {"last_at": "2025-01-01T00:00:00Z"}}
LONG_AGO = {"data": {"fingerprint": "0" * 64, "parts": PARTS}}

# Nothing is taken for legitimate that was blocked, so a champion that blocks much teaches little.
LENIENT = Policy(review=0.95, block=0.99)


def planted_traffic() -> list[dict[str, Any]]:
    """Transactions of the last forty days, whose frauds look alike in what no champion of the tests
    has learnt."""
    sent = live_traffic.traffic(ROWS, seed=4)
    rng = np.random.default_rng(4)
    first = timezone.now() - timedelta(days=41)
    for facts in sent:
        for name in ("created_at", "label_known_at"):
            moved = datetime.fromisoformat(facts[name]) - live_traffic.START + first
            facts[name] = moved.isoformat()
        facts |= {"country": "FR", "amount": round(float(rng.uniform(5, 60)), 2)}
        if facts["is_fraud"]:
            facts |= {"channel": "web", "is_vpn": True, "account_age_minutes": 3.0}
    return sent


def send(server: Server, sent: list[dict[str, Any]]) -> None:
    """Score everything and tell which were frauds, as if both had come in the last weeks."""
    client = server.connect()
    for begin in range(0, len(sent), 250):
        bodies = b",".join(live_traffic.body(facts) for facts in sent[begin : begin + 250])
        reply = server.ask(client, "POST", "/score/batch", b'{"transactions": [%s]}' % bodies)
        assert reply.status == 200, reply.body
        assert {each["status"] for each in reply.json()["results"]} == {200}
    labels = [
        {
            "transaction_id": facts["transaction_id"],
            "label": "fraud",
            "known_at": facts["created_at"],
            "source": "chargeback",
        }
        for facts in sent
        if facts["is_fraud"]
    ]
    reply = server.ask(client, "POST", "/labels", labels)
    assert reply.json()["recorded"] == len(labels)
    came_when_it_says()


@pytest.fixture
def processes(transactional_db, settings, tmp_path: Path, monkeypatch) -> Iterator[Server]:
    """The web server, a worker and beat, on the tests' database."""
    for name in ("ARTIFACTS_DIR", "RUNS_DIR", "DATA_DIR"):
        folder = str(tmp_path / name.lower())
        setattr(settings, name, folder)
        monkeypatch.setenv(name, folder)
    monkeypatch.setenv("DATABASE_URL", database_url())
    redis.Redis.from_url(settings.REDIS_URL).flushall()
    live_traffic.register_champion(training=LONG_AGO, policy=LENIENT)
    started, logs = [], []
    for name, words in (("worker", ("worker", "--concurrency", "2")), ("beat", ("beat",))):
        logs.append(tmp_path / f"{name}.log")
        extra = ("--pidfile=",) if name == "beat" else ()
        with logs[-1].open("wb") as output:
            started.append(
                subprocess.Popen(
                    [*CELERY, *words, *extra, "--loglevel", "INFO"],
                    env=os.environ,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            )
    try:
        with gunicorn(tmp_path, Path(settings.ARTIFACTS_DIR)) as server:
            _, server.key = services.api_key_create(
                name="test", scopes=["score", "labels"], created_by="test"
            )
            yield server
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for log in logs:
            print(log.read_text())


@pytest.fixture
def page(browser, processes, django_user_model) -> Iterator[Page]:
    """A page of the real web server after a superuser logged in."""
    django_user_model.objects.create_superuser("ana", password="a-long-password")
    context = browser.new_context(
        base_url=f"http://127.0.0.1:{processes.port}", viewport={"width": 1360, "height": 900}
    )
    opened = context.new_page()
    opened.set_default_timeout(15_000)
    opened.goto("/admin/")
    opened.get_by_label("Username").fill("ana")
    opened.get_by_label("Password").fill("a-long-password")
    opened.get_by_role("button", name="Log in").click()
    yield opened
    context.close()


def test_a_schedule_ends_as_a_proposed_version_with_its_words(page: Page, processes: Server):
    send(processes, planted_traffic())

    page.goto("/admin/training/retrainingschedule/add/")
    page.get_by_label("Name:").fill("minutely")
    page.get_by_label("Crontab:").fill("* * * * *")
    expect(page.locator(".schedule-times .words")).to_have_text("Every minute")
    page.get_by_label("Days of traffic:").fill(str(DAYS))
    page.get_by_label("Label delay:").fill("2d")
    page.get_by_label("Then:").select_option("propose")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The schedule minutely is saved.")).to_be_visible()

    # Nobody touches anything until its minute has come, and the page follows.
    history = page.locator(".schedule-history").last
    expect(history).to_contain_text("v1.1.0 on the data set “minutely-45d-", timeout=90_000)
    expect(history).to_contain_text(re.compile("v1.1.0(:| failed)"), timeout=90_000)
    picture(page, "schedule-ended")
    words = "Better than the champion v1.0.0. On the same"
    expect(history).to_contain_text(f"v1.1.0: Proposed. {words}")

    run = TrainingRun.objects.get(version="1.1.0")
    assert run.requested_by == "schedule minutely"
    assert run.dataset.preset == "traffic"
    assert run.dataset.frauds > 50
    assert ScoreRecord.objects.count() == ROWS
    started = ScheduleEvent.objects.get(run=run, kind="started")
    assert started.slot.second == 0

    page.goto("/admin/deployments/modelversion/")
    proposal = page.locator(".proposal")
    expect(proposal).to_contain_text("v1.1.0 is proposed by schedule minutely")
    expect(proposal).to_contain_text(words)
    expect(page.get_by_role("row", name="fraud v1.1.0")).to_contain_text("proposed")
    picture(page, "version-proposed")
    page.emulate_media(color_scheme="dark")
    picture(page, "version-proposed-dark")
    proposal.get_by_role("link", name="Promote v1.1.0…").click()
    expect(page.get_by_text("Better than the champion v1.0.0.")).to_be_visible()
    page.get_by_label("Reason").fill("As proposed")
    if page.get_by_label("Serve it with").count():
        page.get_by_label("Serve it with").first.check()
    page.get_by_role("button", name="Promote").click()
    expect(page.get_by_text("Fraud is served by v1.1.0.", exact=True)).to_be_visible()
    expect(page.locator(".proposal")).to_have_count(0)
    assert selectors.live_pointer("fraud").version.version == "1.1.0"
    assert Dataset.objects.filter(name__startswith="minutely-45d-").exists()
