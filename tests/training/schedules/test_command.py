"""Schedules on a terminal."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tests.training.schedules.support import make_schedule
from training.models import RetrainingSchedule, ScheduleEvent

pytestmark = pytest.mark.django_db


def say(*arguments: str) -> str:
    out = StringIO()
    call_command("schedules", *arguments, stdout=out)
    return out.getvalue()


def test_list(fraud):
    assert "no schedule yet" in say("list")
    make_schedule("nightly", time_zone="Europe/Paris", then="promote")
    make_schedule("weekly", days=30, crontab="0 3 * * 0", enabled=False)
    told = say("list")
    assert "nightly: fraud, data set “sales”, on local, then promote" in told
    assert "At 03:00 (Europe/Paris); next 20" in told
    assert "weekly: fraud, last 30 days of traffic, on local, then propose" in told
    assert "only on Sunday (UTC); disabled" in told
    assert "2026-03-02 12:00 changed: Made." in told


def test_enable_disable_and_run(fraud):
    schedule = make_schedule()
    assert say("disable", "nightly") == "nightly is disabled.\n"
    schedule.refresh_from_db()
    assert not schedule.enabled
    assert say("enable", "nightly") == "nightly is enabled.\n"
    assert say("run", "nightly") == "A run is asked for: a worker makes it.\n"
    assert say("run", "nightly") == "A run is asked for already.\n"
    assert RetrainingSchedule.objects.get().requested_at
    assert [event.message for event in ScheduleEvent.objects.all()[:3]] == [
        "A run was asked for.", "Enabled.", "Disabled.",
    ]  # fmt: skip


def test_an_unknown_name_is_told_with_the_known_ones(fraud):
    make_schedule()
    with pytest.raises(CommandError, match="no schedule “weekly”; there is nightly"):
        say("run", "weekly")


def test_train_takes_what_is_done_then(fraud):
    from tests.training.support import make_dataset
    from training.models import TrainingRun

    make_dataset()
    call_command(
        "train", "--dataset", "sales", "--version", "1.0.0", "--then", "propose", stdout=StringIO()
    )
    assert TrainingRun.objects.get().then == "propose"
