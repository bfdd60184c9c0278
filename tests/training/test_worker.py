"""Training by a real Celery worker and the real training program, and what killing them leaves."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from celery import current_app
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from deployments.models import ModelVersion
from engine.fraud_bundle import load_bundle
from engine.store import open_store
from tests.bundles import seed_registry
from tests.training.support import database_url, is_alive, wait_until
from training import selectors, services
from training.datasets import dataset_import
from training.models import RunState, TrainingRun
from training.pipeline.simulate import simulate

pytestmark = pytest.mark.django_db(transaction=True)
ROWS = 60_000
QUEUES = ("sentinelle", "training")
COMMAND = (sys.executable, "-m", "celery", "--app", "sentinelle", "worker", "--concurrency", "1")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("simulated") / "sales.csv"
    simulate(file, ROWS, seed=3)
    return file


@pytest.fixture(autouse=True)
def dataset(transactional_db, simulated) -> Iterator[None]:
    seed_registry()
    redis.Redis.from_url(settings.REDIS_URL).flushall()
    made = dataset_import(name="sales", files=[simulated], preset="canonical")
    yield
    # A version that a test has registered is in the store, which outlives the tables.
    store = open_store(settings.ARTIFACTS_DIR)
    for name in store.list("fraud"):
        store.delete(name)
    for file in (Path(settings.DATA_DIR) / made.location).iterdir():
        file.unlink()


class Worker:
    """A Celery worker on the tests' database."""

    def __init__(self, log: Path, pool: str, queues: str) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "--pool", pool, "--hostname", f"{log.stem}@%h", "--queues", queues],
                env=os.environ | {"DATABASE_URL": database_url()},
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def end(self) -> None:
        """Kill whatever is left of it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()


@pytest.fixture
def start_worker(tmp_path):
    workers = []

    def start(pool: str = "prefork", queues: str = "sentinelle,training") -> Worker:
        workers.append(Worker(tmp_path / f"worker-{len(workers)}.log", pool, queues))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()
        print(worker.log.read_text())


def create(version: str = "1.0.0") -> TrainingRun:
    return services.run_create(dataset="sales", version=version)


def in_queue(name: str) -> list[dict[str, Any]]:
    """The messages that wait, the oldest first."""
    waiting = redis.Redis.from_url(settings.REDIS_URL).lrange(name, 0, -1)
    return [msgspec.json.decode(message) for message in reversed(waiting)]


def program_at_work(run: TrainingRun) -> int:
    """The process id of the run's program, once it has got somewhere."""

    def working() -> bool:
        run.refresh_from_db()
        assert run.is_active, run.error
        return run.stage in ("features", "supervised")

    wait_until(working, 60, "the program gets somewhere")
    pid: int = msgspec.json.decode(open_store(run.folder).read("claim.json"))["pid"]
    assert is_alive(pid)
    return pid


def ended(run: TrainingRun, seconds: float = 60) -> TrainingRun:
    def over() -> bool:
        run.refresh_from_db()
        return not run.is_active

    wait_until(over, seconds, "the run ends")
    return run


def assert_nothing_is_left(run: TrainingRun) -> None:
    """A run that failed has a stage, a reason and no version, and can be started again."""
    assert run.state == RunState.FAILED
    assert run.stage
    assert run.finished_at
    assert run.model_version is None
    assert not ModelVersion.objects.exists()
    assert open_store(settings.ARTIFACTS_DIR).list("fraud") == []


def test_from_the_command_to_a_version_that_loads(start_worker):
    start_worker()
    out, err = StringIO(), StringIO()
    call_command("train", dataset="sales", semver="1.0.0", wait=True, stdout=out, stderr=err)
    run = TrainingRun.objects.get()
    assert run.state == RunState.SUCCEEDED, run.error
    text = out.getvalue()
    assert "supervised\n" in text
    assert "average precision" in text
    assert "fraud v1.0.0 is registered" in text
    assert "manage.py promote fraud 1.0.0" in text
    version = ModelVersion.objects.get()
    assert version.deployable
    assert version.metrics == run.report["metrics"]
    bundle = load_bundle(
        open_store(settings.ARTIFACTS_DIR), version.location, version.manifest_sha256
    )
    assert bundle.manifest.rule_set_sha256 == run.rule_set.sha256
    assert "supervised: started" in selectors.run_log_tail(run)
    with pytest.raises(CommandError, match="already registered"):
        call_command("train", dataset="sales", semver="1.0.0")


def test_killing_the_program_fails_the_run_at_its_stage(start_worker):
    start_worker("solo")
    run = create()
    os.kill(program_at_work(run), signal.SIGKILL)
    assert_nothing_is_left(ended(run))
    assert "SIGKILL" in run.error


def test_a_worker_that_is_stopped_ends_its_run(start_worker):
    worker = start_worker()
    run = create()
    program = program_at_work(run)
    os.kill(worker.process.pid, signal.SIGQUIT)
    assert_nothing_is_left(ended(run))
    assert "worker was stopped" in run.error
    wait_until(lambda: not is_alive(program), 10, "the program ends")


def test_a_killed_worker_takes_its_program_along_and_the_run_starts_again(start_worker):
    worker = start_worker()
    run = create()
    program = program_at_work(run)
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    wait_until(lambda: not is_alive(program), 10, "the program ends")
    run.refresh_from_db()
    assert run.state == RunState.RUNNING

    services.runs_recover(now=timezone.now() + timedelta(minutes=1))
    run.refresh_from_db()
    assert_nothing_is_left(run)
    assert "stopped answering at" in run.error

    start_worker()
    again = ended(services.run_restart(run), 120)
    assert again.state == RunState.SUCCEEDED, again.error
    assert ModelVersion.objects.get().training_run_id == again.pk


def test_long_tasks_keep_no_short_one_waiting(start_worker):
    start_worker("solo", "training")
    start_worker("solo", "sentinelle")
    busy, left = create(), create("1.1.0")
    program = program_at_work(busy)
    past = timezone.now() - timedelta(minutes=1)
    TrainingRun.objects.filter(pk=left.pk).update(state=RunState.STARTING, lease_until=past)
    # What beat sends, while one run has the trainer and the message of another waits for it.
    current_app.send_task("training.tasks.fail_abandoned_runs")
    wait_until(lambda: ended(left, 10).settled_at, 10, "what follows its end is done too")
    assert is_alive(program)
    services.run_cancel(busy, now=timezone.now())
    ended(busy)


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("run_train", "training"),
        ("run_schedule", "training"),
        ("import_upload", "training"),
        ("step_run", "sentinelle"),
        ("after_run", "sentinelle"),
        ("guard_machines", "sentinelle"),
    ],
)
def test_each_kind_of_task_has_its_queue(task, queue):
    current_app.send_task(f"training.tasks.{task}")
    assert [name for name in QUEUES if in_queue(name)] == [queue]


def test_a_message_that_is_sent_again_expires_before_the_next():
    create()
    [first] = in_queue("training")
    assert first["headers"]["expires"] is None
    services.runs_recover(now=timezone.now() + timedelta(seconds=61))
    _, again = in_queue("training")
    assert again["headers"]["expires"] is not None


def test_a_run_whose_message_was_lost_is_sent_again(start_worker):
    run = create()
    redis.Redis.from_url(settings.REDIS_URL).flushall()
    start_worker("solo")
    services.runs_recover(now=timezone.now() + timedelta(seconds=61))
    program_at_work(run)
    services.run_cancel(run, now=timezone.now())
    assert ended(run).state == RunState.CANCELLED
