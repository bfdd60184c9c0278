"""One run for each time, whatever beats, workers and people do, in any order and at once."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
from django.db import IntegrityError, InterfaceError, OperationalError, transaction
from django.utils import timezone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.errors import InvalidDataset
from tests.scoring.server import database_url
from tests.training.schedules.support import MONDAY, end_runs, make_schedule, run_due
from tests.training.support import in_thread, make_dataset, wait_until
from training import schedule_runs, schedules
from training.models import ACTIVE, Dataset, RetrainingSchedule, ScheduleEvent, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)
NIGHT = MONDAY.replace(day=3, hour=3)
ZONE = "Europe/Paris"
# Two days before its clocks are put forward.
BEGIN = MONDAY.replace(day=27)

minutes = st.sampled_from([0, 1, 7, 60, 61, 23 * 60, 24 * 60, 3 * 24 * 60])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), minutes),
        st.tuples(st.just("tick"), minutes),
        st.tuples(st.just("end"), minutes),
        st.tuples(st.sampled_from(["disable", "enable", "move"]), minutes),
    ),
    max_size=14,
)


@given(steps=steps, crontab=st.sampled_from(["30 2 * * *", "0 */6 * * *", "*/30 * * * *"]))
@example([("tick", 3 * 24 * 60), ("end", 0), ("tick", 0)], "30 2 * * *")
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_sequence_makes_one_run_for_what_is_due(fraud, steps, crontab):
    with transaction.atomic():
        _follow(steps, crontab)
        transaction.set_rollback(True)


def _follow(steps: list[tuple[str, int]], crontab: str) -> None:
    now = settled = BEGIN
    enabled, made = True, 0
    schedule = make_schedule(crontab=crontab, time_zone=ZONE, now=now)
    for verb, ahead in steps:
        now += timedelta(minutes=ahead)
        if verb == "tick":
            due = schedule.times.latest(now)
            expected = enabled and due > settled and not _active()
            runs = [run_due(schedule, now, worker) for worker in ("one", "two")]
            assert [run is not None for run in runs] == [expected, False]
            if expected:
                settled, made = due, made + 1
        elif verb == "end":
            end_runs()
        elif verb == "move":
            crontab = "15 4 * * *" if crontab != "15 4 * * *" else "45 5 * * *"
            schedule = schedules.schedule_update(schedule, by="ana", now=now, crontab=crontab)
            settled = now
        elif enabled is not (verb == "enable"):
            enabled = not enabled
            schedule = schedules.schedule_update(schedule, by="ana", now=now, enabled=enabled)
            settled = now if enabled else settled
    slots = list(
        ScheduleEvent.objects.filter(kind="started").order_by("id").values_list("slot", flat=True)
    )
    assert len(slots) == TrainingRun.objects.count() == made
    assert slots == sorted(set(slots))


def _active() -> int:
    return TrainingRun.objects.filter(state__in=ACTIVE).count()


def at_once(calls: list[partial[TrainingRun | None]]) -> list[TrainingRun | None]:
    """Make every call in a thread of its own, all starting together; their results."""
    barrier = Barrier(len(calls))

    def run(call: partial[TrainingRun | None]) -> TrainingRun | None:
        barrier.wait(20)
        return in_thread(call)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_several_workers_at_once_make_one_run(fraud):
    schedule = make_schedule()
    made = at_once([partial(run_due, schedule, NIGHT, str(worker)) for worker in range(4)])
    assert sum(run is not None for run in made) == 1
    assert TrainingRun.objects.count() == 1
    schedule.refresh_from_db()
    assert (schedule.last_slot, schedule.lease_until) == (NIGHT, None)


def test_two_schedules_at_once_train_one_model_one_after_the_other(fraud, monkeypatch):
    """Both have seen that no other run is active before either of them makes its own."""
    first, second = make_schedule("first"), make_schedule("second")
    look, both, looked = schedule_runs._wait_for_others, Barrier(2), []

    def look_together(schedule):
        look(schedule)
        if len(looked) < 2:
            looked.append(schedule.name)
            both.wait(20)

    monkeypatch.setattr(schedule_runs, "_wait_for_others", look_together)
    made = at_once([partial(run_due, each, NIGHT) for each in (first, second)])
    assert sorted(looked) == ["first", "second"]
    (run,) = [run for run in made if run is not None]
    assert TrainingRun.objects.count() == 1
    other = second if run.schedule == first else first
    other.refresh_from_db()
    assert f"It waits for v{run.version}" in other.message
    assert other.last_slot < NIGHT
    end_runs()
    assert run_due(other, NIGHT + timedelta(seconds=15)).schedule == other


def test_a_schedule_that_is_changed_while_its_data_is_read_starts_nothing(fraud, monkeypatch):
    schedule = make_schedule(days=30)

    def change_meanwhile(**_facts):
        schedules.schedule_update(schedule, by="ana", now=NIGHT, crontab="0 5 * * *")
        return make_dataset("slow")

    monkeypatch.setattr(schedule_runs, "snapshot_create", change_meanwhile)
    assert run_due(schedule, NIGHT) is None
    assert not TrainingRun.objects.exists()
    schedule.refresh_from_db()
    assert (schedule.crontab, schedule.lease_until) == ("0 5 * * *", None)


def test_a_snapshot_that_a_dead_worker_left_is_used(fraud, monkeypatch):
    schedule = make_schedule(days=30, options={"label_delay_us": 86_400_000_000})
    asked = []

    def die_after(**facts):
        asked.append(facts)
        make_dataset(facts["name"], preset="traffic")
        raise SystemExit

    monkeypatch.setattr(schedule_runs, "snapshot_create", die_after)
    with pytest.raises(SystemExit):
        run_due(schedule, NIGHT + timedelta(hours=4))
    assert not TrainingRun.objects.exists()
    run = run_due(schedule, NIGHT + timedelta(hours=5))
    assert run.dataset == Dataset.objects.get(name="nightly-30d-20260303-030000")
    assert asked == [
        {
            "name": "nightly-30d-20260303-030000",
            "days": 30,
            "as_of": NIGHT,
            "label_delay": 86_400_000_000,
            "model": "fraud",
        }
    ]


@pytest.mark.parametrize("error", [InvalidDataset("It is taken."), IntegrityError("UNIQUE")])
def test_a_snapshot_that_another_worker_finished_first_is_used(fraud, monkeypatch, error):
    schedule = make_schedule(days=30)

    def come_second(**facts):
        make_dataset(facts["name"], preset="traffic")
        raise error

    monkeypatch.setattr(schedule_runs, "snapshot_create", come_second)
    run = run_due(schedule, NIGHT)
    assert run.dataset.name == "nightly-30d-20260303-030000"
    schedule.refresh_from_db()
    assert schedule.message == ""


@pytest.mark.parametrize("error", [OperationalError("locked"), InterfaceError("closed")])
def test_a_lease_that_could_not_be_renewed_is_renewed_later(fraud, monkeypatch, settings, error):
    settings.TRAINING_LEASE_SECONDS = 0.15
    schedule, lease, failed = make_schedule(days=30), schedule_runs._lease, []
    me = threading.get_ident()

    def fail_once(now):
        if threading.get_ident() != me and not failed:
            failed.append(now)
            raise error
        return lease(now)

    def be_slow(**facts):
        row = RetrainingSchedule.objects.filter(pk=schedule.pk, lease_until__gt=timezone.now())
        wait_until(lambda: failed and row.exists(), 5)
        return make_dataset(facts["name"], preset="traffic")

    monkeypatch.setattr(schedule_runs, "_lease", fail_once)
    monkeypatch.setattr(schedule_runs, "snapshot_create", be_slow)
    assert run_due(schedule, NIGHT) is not None


SLOW = """
import sys, time
import django
django.setup()
from django.conf import settings
from django.utils import timezone
from training import schedule_runs, schedules
settings.TRAINING_LEASE_SECONDS = 4
def never(**facts):
    print("reading", flush=True)
    time.sleep(60)
schedule_runs.snapshot_create = never
schedule_runs.schedule_run_due(int(sys.argv[1]), now=timezone.now(), worker="slow")
"""


def test_a_worker_keeps_its_schedule_while_it_lives_and_no_longer(fraud, settings, monkeypatch):
    settings.TRAINING_LEASE_SECONDS = 4
    schedule = make_schedule(days=30, crontab="* * * * *", now=timezone.now() - timedelta(hours=1))
    worker = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(schedule.pk)],
        env=os.environ
        | {"DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "sentinelle.settings"},
        cwd=Path(__file__).resolve().parents[3],
        stdout=subprocess.PIPE,
    )
    try:
        assert worker.stdout.readline() == b"reading\n"
        monkeypatch.setattr(schedule_runs, "snapshot_create", lambda **facts: make_dataset("ours"))
        first = RetrainingSchedule.objects.get().lease_until

        def renewed() -> bool:
            assert run_due(schedule, timezone.now()) is None
            return RetrainingSchedule.objects.get().lease_until > first + timedelta(seconds=2)

        wait_until(renewed, 20, "the lease is renewed")
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
    run = wait_until(lambda: run_due(schedule, timezone.now()), 20, "the lease passes")
    assert run.dataset.name == "ours"
    assert TrainingRun.objects.count() == 1
