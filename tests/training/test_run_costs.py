"""A run's expected and actual cost, and the budgets of a month."""

import io
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from engine.errors import RunRefused
from sentinelle.env import env_amount
from tests.bundles import seed_registry
from tests.training.support import in_thread, make_dataset, make_run
from training import after, budgets, launchers, services
from training.facts import run_facts
from training.launchers import Launch, Seen
from training.models import RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)

MILLION = 1_000_000
NOVEMBER = datetime(2026, 11, 15, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _site(transactional_db, settings, monkeypatch):
    for launcher in ("cloud-run", "vm"):
        place_says(monkeypatch, launcher)
    settings.GOOGLE_CLOUD_PROJECT = "shop"
    for name in ("DATA_DIR", "RUNS_DIR", "ARTIFACTS_DIR"):
        setattr(settings, name, f"gs://shop/{name}")
    seed_registry()


def cloud_run(version: str, **changes: Any) -> TrainingRun:
    """On 2,000 rows, which are expected to take 60 s and a little on 8 vCPU and 8 GiB."""
    return make_run(version, launcher="cloud-run", **changes)


EXPECTED = Decimal("0.0131")


def ended(run: TrainingRun, **changes: Any) -> TrainingRun:
    """The run after it has ended, and after what follows that."""
    now = timezone.now()
    defaults = {"state": RunState.FAILED, "started_at": now, "finished_at": now}
    TrainingRun.objects.filter(pk=run.pk).update(**defaults | changes)
    assert after.run_ended(str(run.pk), worker="one", now=now)
    run.refresh_from_db()
    return run


class Place:
    """A launcher that says what it is told to."""

    is_attached = False
    poll_seconds = 1.0

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def find(self, launch: Launch) -> str:
        return ""

    def poll(self, handle: str) -> Seen:
        return self.seen

    def cancel(self, handle: str) -> None:
        """It has ended."""


def place_says(monkeypatch: Any, launcher: str, **seen: Any) -> None:
    monkeypatch.setitem(launchers._LAUNCHERS, launcher, Place(Seen(**seen)))


# --- expected ---


def test_a_run_is_made_with_what_it_will_cost():
    run = cloud_run("1.0.0")
    assert run.estimated_cost_usd == EXPECTED
    run.refresh_from_db()
    assert run.estimated_cost_usd == EXPECTED
    assert run.cost_usd is None
    (event,) = run.events.all()
    assert event.message == (
        "2,000 rows take about 62 s and 527 MB of memory, by what was measured on 2 cores; "
        "it costs about $0.0131."
    )


def test_what_is_not_in_the_table_is_unknown(settings):
    settings.TRAINING_VM_ZONE = "mars-north1-a"
    run = make_run("1.0.0", launcher="vm")
    assert run.estimated_cost_usd is None
    assert "what it costs is not known" in run.events.get().message


def test_this_machine_costs_nothing():
    assert make_run("1.0.0").estimated_cost_usd == 0


def test_too_little_memory_is_said_in_the_timeline_and_refuses_nothing(settings):
    make_dataset("large", rows=MILLION)
    run = make_run("1.0.0", dataset="large", launcher="vm")
    assert "It needs about 1.8 GB of memory and has 774 MB on e2-micro" in run.events.get().message
    assert run.message.startswith("It needs about 1.8 GB")


def test_auto_chooses_says_why_and_keeps_it():
    run = make_run("1.0.0", launcher="auto", resources={"cpu": 4, "memory_mb": 4096, "retries": 0})
    assert (run.launcher, run.resources["cpu"]) == ("cloud-run", 4)
    assert run.launcher_reason.startswith("cloud-run: 2,000 rows take about")
    assert "Not local: local: There is no retries here" in run.launcher_reason
    assert run.launcher_reason in run.events.get().message
    TrainingRun.objects.update(state=RunState.FAILED)
    assert services.run_restart(run).launcher == "cloud-run"


def test_the_command_says_what_to_expect_and_the_admin_what_to_mind(client, settings):
    make_dataset("large", rows=MILLION)
    out = io.StringIO()
    call_command("train", "--dataset", "large", "--version", "1.0.0", "--launcher", "vm",
                 stdout=out)  # fmt: skip
    said = out.getvalue()
    assert "  Expected: 1,000,000 rows take about" in said
    assert "It needs about 1.8 GB of memory" in said
    client.force_login(User.objects.create_superuser("ada"))
    values = {"model": "fraud", "dataset": "large", "version": "1.1.0", "seed": "0"}
    page = client.post(
        reverse("admin:training_trainingrun_add"), values | {"launcher": "vm"}, follow=True
    )
    assert b'<li class="warning">It needs about 1.8 GB' in page.content


@pytest.mark.parametrize(
    ("state", "estimate", "cost", "said"),
    [
        (RunState.QUEUED, "0.5724", None, "about $0.57"),
        (RunState.QUEUED, None, None, "unknown"),
        (RunState.FAILED, "0.5724", "0.6", "$0.60, expected about $0.57"),
        (RunState.FAILED, "0.5724", None, "unknown, expected about $0.57"),
    ],
    ids=["waits", "waits-unknown", "ended", "ended-unknown"],
)
def test_a_runs_page_says_what_it_cost(state, estimate, cost, said):
    run = cloud_run("1.0.0")
    run.state = state
    run.estimated_cost_usd = estimate and Decimal(estimate)
    run.cost_usd = cost and Decimal(cost)
    assert dict(run_facts(run, timezone.now()))["Cost"] == said


# --- actual ---


def test_the_cost_is_booked_by_the_clock_of_the_place():
    start = timezone.now() - timedelta(hours=3)
    times = {"place_started_at": start, "place_ended_at": start + timedelta(seconds=2700)}
    run = ended(cloud_run("1.0.0"), handle="execution-1", **times)
    assert run.cost_usd == Decimal("0.5724")


def test_a_place_that_said_no_end_is_asked_again(monkeypatch):
    start = timezone.now() - timedelta(hours=3)
    finish = start + timedelta(seconds=2700)
    place_says(monkeypatch, "cloud-run", ended="failed", started_at=start, ended_at=finish)
    run = ended(cloud_run("1.0.0"), handle="execution-1")
    assert (run.cost_usd, run.place_ended_at) == (Decimal("0.5724"), finish)


def test_a_machine_that_was_just_stopped_is_counted_to_our_own_end(monkeypatch):
    place_says(monkeypatch, "vm", ended="somebody took it")
    now = timezone.now()
    times = {
        "started_at": now - timedelta(seconds=3610),
        "place_started_at": now - timedelta(seconds=3600),
        "finished_at": now,
    }
    run = ended(make_run("1.0.0", launcher="vm"), handle="machine", **times)
    assert run.cost_usd == Decimal("0.0150")
    assert run.place_ended_at is None, "that is not said"


def test_not_when_the_clocks_disagree(monkeypatch):
    place_says(monkeypatch, "vm", ended="somebody took it")
    now = timezone.now()
    times = {"started_at": now - timedelta(seconds=3610), "finished_at": now}
    run = ended(
        make_run("1.0.0", launcher="vm"),
        handle="machine",
        place_started_at=now - timedelta(hours=3),
        **times,
    )
    assert run.cost_usd is None


def test_a_cost_that_can_not_be_known_stays_unknown(monkeypatch):
    place_says(monkeypatch, "cloud-run", ended="it is gone")
    assert ended(cloud_run("1.0.0"), handle="execution-1").cost_usd is None
    assert ended(cloud_run("1.1.0")).cost_usd is None, "perhaps it was started"


def test_a_run_that_nobody_took_cost_nothing():
    assert ended(cloud_run("1.0.0"), started_at=None, state=RunState.CANCELLED).cost_usd == 0


def test_this_machine_cost_nothing():
    assert ended(make_run("1.0.0")).cost_usd == 0


def test_a_table_that_can_not_be_read_fails_no_run(settings, tmp_path):
    run = cloud_run("1.0.0")
    settings.PRICES_FILE = str(tmp_path / "none.toml")
    assert ended(run).cost_usd is None
    with pytest.raises(ImproperlyConfigured):
        cloud_run("1.1.0")


# --- a month ---


def booked(version: str, usd: str | None, at: datetime, **changes: Any) -> TrainingRun:
    run = cloud_run(version)
    cost = None if usd is None else Decimal(usd)
    TrainingRun.objects.filter(pk=run.pk).update(
        **{"state": RunState.FAILED, "finished_at": at, "cost_usd": cost} | changes
    )
    return run


def test_a_month_has_what_ended_in_it_and_this_one_what_is_active():
    now = timezone.now()
    month = budgets.month_of(now)
    begin, end = budgets.bounds(month)
    booked("1.0.0", "1", begin)
    booked("1.1.0", "2", end - timedelta(seconds=1))
    booked("1.2.0", "4", begin - timedelta(seconds=1))
    booked("1.3.0", "8", end)
    booked("1.4.0", None, begin)
    booked("1.5.0", None, begin, estimated_cost_usd=None)
    cloud_run("1.6.0")
    assert budgets.spent(month, now) == (3 + EXPECTED, EXPECTED, 1)
    before = budgets.month_of(begin - timedelta(days=1))
    assert budgets.spent(before, now) == (4, 0, 0)


def test_a_month_begins_where_the_installation_is(settings):
    settings.TIME_ZONE = "Europe/Paris"
    with timezone.override("Europe/Paris"):
        assert budgets.month_of(datetime(2026, 10, 31, 23, 30, tzinfo=UTC)).month == 11
        begin, end = budgets.bounds(budgets.month_of(NOVEMBER))
    assert begin == datetime(2026, 10, 31, 23, tzinfo=UTC)
    assert end == datetime(2026, 11, 30, 23, tzinfo=UTC)


# --- budgets ---


def test_a_budget_warns_with_figures(settings):
    settings.BUDGET_WARN_USD = Decimal("0.50")
    assert "BUDGET" not in cloud_run("1.0.0").events.get().message
    booked("1.1.0", "0.4800", timezone.now())
    message = cloud_run("1.2.0").events.get().message
    month = f"{timezone.now():%B %Y}"
    assert message.endswith(
        f"Training in {month} has cost $0.48 for runs that have ended and $0.0131 expected of "
        "those that have not; with about $0.0131 for this run it comes to $0.51, above $0.50 "
        "(BUDGET_WARN_USD)."
    )


def test_a_budget_refuses_with_figures_and_nothing_is_made(settings):
    settings.BUDGET_REFUSE_USD = Decimal("0.50")
    booked("1.0.0", "0.4900", timezone.now())
    with pytest.raises(RunRefused) as refusal:
        cloud_run("1.1.0")
    said = refusal.value.detail
    assert "has cost $0.49 for runs that have ended; with about $0.0131 for this run" in said
    assert "above the budget of $0.50 (BUDGET_REFUSE_USD)" in said
    assert refusal.value.errors[0].field == "launcher"
    assert TrainingRun.objects.count() == 1
    assert make_run("1.1.0").estimated_cost_usd == 0, "what costs nothing is never refused"


def test_a_budget_is_met_by_what_just_fits(settings):
    settings.BUDGET_REFUSE_USD = 2 * EXPECTED
    cloud_run("1.0.0")
    cloud_run("1.1.0")
    with pytest.raises(RunRefused):
        cloud_run("1.2.0")


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("TRAINING_VM_ZONE", "mars-north1-a", "no price for e2-micro in mars-north1"),
        ("TRAINING_VM_TYPE", "a3-highgpu-8g", "no price for a3-highgpu-8g in us-central1"),
    ],
)
def test_what_has_no_price_is_never_let_past_a_refusing_budget(settings, setting, value, told):
    setattr(settings, setting, value)
    settings.BUDGET_WARN_USD = Decimal(1)
    make_run("1.0.0", launcher="vm")
    settings.BUDGET_REFUSE_USD = Decimal(100)
    with pytest.raises(RunRefused, match=told) as refusal:
        make_run("1.1.0", launcher="vm")
    assert "the budget of $100.00 (BUDGET_REFUSE_USD)" in refusal.value.detail
    assert "PRICES_FILE" in refusal.value.detail
    assert TrainingRun.objects.count() == 1


def test_two_at_the_same_time_can_not_both_take_what_is_left(settings):
    settings.BUDGET_REFUSE_USD = EXPECTED
    make_run("0.1.0")  # the data set
    barrier, made, said = threading.Barrier(4), [], []

    def work(number: int) -> None:
        barrier.wait()
        try:
            made.append(cloud_run(f"1.{number}.0"))
        except RunRefused as refusal:
            said.append(refusal.detail)

    threads = [
        threading.Thread(target=in_thread, args=(lambda number=number: work(number),))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert ["BUDGET_REFUSE_USD" in each for each in said] == [True] * 3


@pytest.mark.parametrize(
    ("written", "amount"), [("", None), ("50", Decimal(50)), ("12.50", Decimal("12.5")), ("0", 0)]
)
def test_a_budget_is_an_amount(monkeypatch, written, amount):
    monkeypatch.setenv("BUDGET", written)
    assert env_amount("BUDGET") == amount


@pytest.mark.parametrize("written", ["-1", "$5", "1,5", "nan", "inf"])
def test_what_is_no_amount_stops_the_start(monkeypatch, written):
    monkeypatch.setenv("BUDGET", written)
    with pytest.raises(ImproperlyConfigured, match=r"expected an amount such as 50 or 12\.50"):
        env_amount("BUDGET")
