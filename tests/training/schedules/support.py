"""Schedules, and what ends the runs that they make."""

from datetime import UTC, datetime
from typing import Any

from deployments.models import RegisteredModel
from tests.training.support import make_dataset
from training import schedule_runs, schedules
from training.models import Dataset, RetrainingSchedule, RunState, TrainingRun

MONDAY = datetime(2026, 3, 2, 12, tzinfo=UTC)


def make_schedule(name: str = "nightly", *, now: datetime = MONDAY, **changes: Any):
    """A schedule of every night at 03:00 UTC on the data set “sales”, unless told otherwise."""
    if "days" not in changes and "dataset" not in changes:
        found = Dataset.objects.filter(name="sales").first()
        changes["dataset"] = found or make_dataset("sales")
    facts = {
        "name": name,
        "model": RegisteredModel.objects.get(name="fraud"),
        "crontab": "0 3 * * *",
        "time_zone": "UTC",
    }
    return schedules.schedule_create(by="ana", now=now, **(facts | changes))


def run_due(schedule: RetrainingSchedule, now: datetime, worker: str = "one") -> TrainingRun | None:
    return schedule_runs.schedule_run_due(schedule.pk, now=now, worker=worker)


def end_runs(state: str = RunState.FAILED) -> None:
    """As if their programs had ended."""
    TrainingRun.objects.filter(state=RunState.QUEUED).update(state=state)
