"""A real beat on the database's entries."""

import base64
import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from django.conf import settings
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import ModelEntry

from tests.scoring.server import database_url
from tests.training.schedules.support import make_schedule
from tests.training.support import wait_until
from training import schedules
from training.models import RetrainingSchedule

pytestmark = pytest.mark.django_db(transaction=True)
BEAT = (sys.executable, "-m", "celery", "--app", "sentinelle", "beat", "--pidfile=")


def sent() -> list[tuple[str, dict[str, object]]]:
    """The messages that wait for a worker: tasks and their arguments."""
    broker = redis.Redis.from_url(settings.REDIS_URL)
    waiting = [
        each for queue in settings.CELERY_TASK_QUEUES for each in broker.lrange(queue, 0, -1)
    ]
    messages = [json.loads(each) for each in waiting]
    return [
        (each["headers"]["task"], json.loads(base64.b64decode(each["body"]))[1])
        for each in messages
    ]


@pytest.fixture
def start_beat(tmp_path: Path):
    started = []

    def start() -> subprocess.Popen[bytes]:
        redis.Redis.from_url(settings.REDIS_URL).flushall()
        started.append(
            subprocess.Popen(
                [*BEAT, "--loglevel", "INFO"],
                env=os.environ | {"DATABASE_URL": database_url()},
                stdout=(tmp_path / f"beat-{len(started)}.log").open("wb"),
                stderr=subprocess.STDOUT,
            )
        )
        return started[-1]

    yield start
    for beat in started:
        beat.kill()
        beat.wait()


def test_beat_sends_a_missed_time_once_and_follows_changes(fraud, start_beat):
    schedule = make_schedule(crontab="* * * * *", now=timezone.now() - timedelta(days=3))
    PeriodicTask.objects.filter(pk=schedule.periodic_task_id).update(
        last_run_at=timezone.now() - timedelta(days=3)
    )
    PeriodicTask.objects.create(
        name="of-an-older-version", task="training.tasks.no_more",
        interval=ModelEntry.to_model_schedule(3600.0)[0],
    )  # fmt: skip
    asked = ("training.tasks.run_schedule", {"schedule_id": schedule.pk})
    beat = start_beat()
    wait_until(lambda: asked in sent(), 30, "beat sends what was missed")
    names = set(PeriodicTask.objects.values_list("name", flat=True))
    assert names == {*settings.CELERY_BEAT_SCHEDULE, "Retraining: nightly"}

    schedules.schedule_delete(RetrainingSchedule.objects.get(), by="ana", now=timezone.now())
    other = make_schedule("other", crontab="* * * * *", now=timezone.now())
    PeriodicTask.objects.filter(pk=other.periodic_task_id).update(
        last_run_at=timezone.now() - timedelta(days=1)
    )
    asked = ("training.tasks.run_schedule", {"schedule_id": other.pk})
    wait_until(lambda: asked in sent(), 30, "beat follows the change")
    beat.send_signal(signal.SIGTERM)
    assert beat.wait(20) == 0


def test_what_the_settings_send_uses_options_that_the_scheduler_keeps():
    kept = {"queue", "exchange", "routing_key", "priority", "headers", "expire_seconds"}
    for name, entry in settings.CELERY_BEAT_SCHEDULE.items():
        assert set(entry.get("options", {})) <= kept, name
        assert float(entry["schedule"]).is_integer(), name
