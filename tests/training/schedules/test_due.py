"""A schedule makes one run for each of its times, or one for all that were missed."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError
from django_celery_beat.models import PeriodicTask

from engine.errors import InvalidDataset, StoreUnavailable
from tests.training.schedules.support import MONDAY, end_runs, make_schedule, run_due
from training import schedule_runs, schedules
from training.models import RetrainingSchedule, ScheduleEvent, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)
NIGHT = datetime(2026, 3, 3, 3, tzinfo=UTC)
DAY = timedelta(days=1)


def test_it_makes_a_run_at_its_time_and_not_before(fraud):
    schedule = make_schedule(then="propose")
    assert run_due(schedule, NIGHT - timedelta(seconds=1)) is None
    run = run_due(schedule, NIGHT)
    assert run.schedule == schedule
    assert run.version == "1.0.0"
    assert run.then == "propose"
    assert run.requested_by == "schedule nightly"
    schedule.refresh_from_db()
    assert schedule.last_slot == NIGHT
    assert schedule.lease_until is None
    event = ScheduleEvent.objects.filter(kind="started").get()
    assert (event.run, event.slot) == (run, NIGHT)


def test_a_second_beat_makes_no_second_run(fraud):
    schedule = make_schedule()
    assert run_due(schedule, NIGHT)
    end_runs()
    assert run_due(schedule, NIGHT) is None
    assert run_due(schedule, NIGHT + timedelta(hours=5)) is None
    assert TrainingRun.objects.count() == 1


def test_what_was_missed_is_caught_up_once(fraud):
    schedule = make_schedule()
    late = NIGHT + 5 * DAY + timedelta(hours=2)
    assert [due.pk for due in schedule_runs.schedules_due(now=late)] == [schedule.pk]
    assert run_due(schedule, late)
    end_runs()
    assert run_due(schedule, late) is None
    assert schedule_runs.schedules_due(now=late) == []
    schedule.refresh_from_db()
    assert schedule.last_slot == NIGHT + 5 * DAY
    assert run_due(schedule, NIGHT + 6 * DAY)
    assert TrainingRun.objects.count() == 2


def test_other_times_and_enabling_begin_anew(fraud):
    schedule = make_schedule()
    later = NIGHT + timedelta(hours=1)
    schedule = schedules.schedule_update(schedule, by="ana", now=later, crontab="0 2 * * *")
    assert run_due(schedule, later) is None
    schedule = schedules.schedule_update(schedule, by="ana", now=later, enabled=False)
    assert run_due(schedule, later + 3 * DAY) is None
    schedule = schedules.schedule_update(schedule, by="ana", now=later + 3 * DAY, enabled=True)
    assert run_due(schedule, later + 3 * DAY) is None
    assert run_due(schedule, datetime(2026, 3, 7, 2, tzinfo=UTC))


def test_another_name_loses_no_time(fraud):
    schedule = make_schedule()
    later = NIGHT + timedelta(hours=1)
    schedule = schedules.schedule_update(schedule, by="ana", now=later, name="weekly")
    assert run_due(schedule, later)


def test_two_schedules_never_train_one_model_at_once(fraud):
    first, second = make_schedule("first"), make_schedule("second")
    run = run_due(first, NIGHT)
    assert run_due(second, NIGHT) is None
    assert run_due(second, NIGHT + timedelta(seconds=15)) is None
    second.refresh_from_db()
    assert f"v{run.version}" in second.message
    assert "“first”" in second.message
    assert ScheduleEvent.objects.filter(schedule=second, kind="waiting").count() == 1
    end_runs()
    assert run_due(second, NIGHT + timedelta(seconds=30)).version == "1.1.0"
    second.refresh_from_db()
    assert second.message == ""


def test_a_run_by_hand_does_not_make_a_schedule_wait(fraud):
    from tests.training.support import make_run

    make_run("3.0.0")
    assert run_due(make_schedule(), NIGHT).version == "3.1.0"


def test_what_is_refused_is_recorded_and_not_tried_again_before_the_next_time(fraud):
    schedule = make_schedule()
    from deployments.models import RuleSetAlias

    RuleSetAlias.objects.all().delete()
    assert run_due(schedule, NIGHT) is None
    schedule.refresh_from_db()
    assert "No rule set serves" in schedule.message
    assert schedule.message_at == NIGHT
    assert run_due(schedule, NIGHT + timedelta(minutes=1)) is None
    assert ScheduleEvent.objects.filter(kind="failed").count() == 1
    assert not TrainingRun.objects.exists()
    assert run_due(schedule, NIGHT + DAY) is None
    assert ScheduleEvent.objects.filter(kind="failed").count() == 2


def test_a_run_out_of_turn(fraud):
    schedule = make_schedule(enabled=False)
    assert schedules.schedule_run_now(schedule, by="bob", now=MONDAY)
    assert not schedules.schedule_run_now(schedule, by="bob", now=MONDAY)
    run = run_due(schedule, MONDAY)
    assert run.requested_by == "bob"
    end_runs()
    assert run_due(schedule, MONDAY) is None


def test_a_dead_worker_keeps_it_no_longer_than_its_lease(fraud, settings):
    schedule = make_schedule()
    RetrainingSchedule.objects.filter(pk=schedule.pk).update(
        claimed_by="dead", lease_until=NIGHT + timedelta(seconds=30)
    )
    assert schedule_runs.schedules_due(now=NIGHT) == []
    assert run_due(schedule, NIGHT) is None
    assert run_due(schedule, NIGHT + timedelta(seconds=31))


def test_beat_has_an_entry_as_long_as_there_is_a_schedule(fraud):
    schedule = make_schedule(time_zone="Europe/Paris")
    entry = PeriodicTask.objects.get()
    assert entry.task == "training.tasks.run_schedule"
    assert entry.kwargs == f'{{"schedule_id": {schedule.pk}}}'
    assert str(entry.crontab.timezone) == "Europe/Paris"
    schedule = schedules.schedule_update(
        schedule, by="ana", now=MONDAY, name="weekly", crontab="5 4 * * 0", enabled=False
    )
    entry = PeriodicTask.objects.get()
    assert entry.name == "Retraining: weekly"
    assert entry.crontab.day_of_week == "0"
    assert not entry.enabled
    schedules.schedule_delete(schedule, by="ana", now=MONDAY)
    assert not PeriodicTask.objects.exists()
    assert make_schedule("weekly", now=MONDAY)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"crontab": "0 3 * *"}, "crontab", "five are needed"),
        ({"crontab": "0 3 30 2 *"}, "crontab", "No day of the next eight years"),
        ({"time_zone": "Mars"}, "time_zone", "no time zone “Mars”"),
        ({"name": "Nightly run"}, "name", "lower-case"),
        ({"launcher": "moon"}, "launcher", "no launcher “moon”"),
        ({"dataset": None}, "days", "or choose a data set"),
        ({"days": 0, "dataset": None}, "days", "greater than or equal to 1"),
        ({"then": "burn"}, "then", "not a valid choice"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_a_field_that_cannot_be_is_named(fraud, changes, field, words):
    with pytest.raises(schedules.ScheduleRefused) as refused:
        make_schedule(**changes)
    assert [error.field for error in refused.value.errors] == [field]
    assert words in refused.value.detail
    assert not RetrainingSchedule.objects.exists()
    assert not PeriodicTask.objects.exists()


def test_a_name_is_taken_once(fraud):
    make_schedule()
    with pytest.raises(schedules.ScheduleRefused, match="already a schedule of this name"):
        make_schedule()


@pytest.mark.parametrize(
    ("error", "message", "is_due"),
    [
        (StoreUnavailable("The bucket does not answer."), "The bucket does not answer.", True),
        (InvalidDataset("No decision in the period."), "No decision in the period.", False),
        (OperationalError("database is locked"), "", True),
        (ZeroDivisionError("oops"), "The worker failed: ZeroDivisionError('oops').", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_may_pass_is_tried_again_and_the_rest_is_told(
    fraud, monkeypatch, error, message, is_due
):
    schedule = make_schedule(days=30)

    def fail(**_facts):
        raise error

    monkeypatch.setattr(schedule_runs, "snapshot_create", fail)
    for _ in range(2):
        with suppress(OperationalError, ZeroDivisionError):
            assert run_due(schedule, NIGHT) is None
    schedule.refresh_from_db()
    assert schedule.message == message
    assert bool(schedule_runs.schedules_due(now=NIGHT)) is is_due
    told = ScheduleEvent.objects.exclude(kind="changed").values_list("kind", "message")
    kind = "waiting" if is_due else "failed"
    assert list(told) == ([(kind, message)] if message else [])
