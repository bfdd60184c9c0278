"""A run's place, its messages and its workers, without Celery: each test says what arrives."""

import json
import tempfile
import time
import uuid
from datetime import timedelta
from functools import cache
from typing import Any

from django.utils import timezone

from deployments.models import ModelVersion, RuleSet
from engine.bundle import verify_bundle
from engine.store import open_store
from tests.engine.bundles import write_small_bundle
from tests.training.launchers.conformance import processes, starts, write_behaviour
from tests.training.support import make_run, wait_until
from training import after, messages, services
from training.execution import run_execute
from training.models import RunState, TrainingRun


class Post:
    """The broker: keeps messages until a worker takes them, or loses them."""

    def __init__(self, monkeypatch: Any) -> None:
        self.waiting: list[tuple[str, str]] = []
        monkeypatch.setattr(messages, "send", self.send)

    def send(self, task: str, run_id: uuid.UUID, **_: Any) -> None:
        self.waiting.append((task, str(run_id)))

    def lose(self) -> None:
        self.waiting.clear()

    def deliver(self, worker: str = "one") -> None:
        """Have a worker do what waits."""
        waiting, self.waiting = self.waiting, []
        for task, run_id in waiting:
            if task == messages.AFTER_RUN:
                after.run_ended(run_id, worker=worker, now=timezone.now())
            else:
                run_execute(run_id, worker=worker)

    def go_on(self, run: TrainingRun, until: str = "", seconds: float = 20) -> TrainingRun:
        """Beat and deliver until the run has ended and that is settled, or is in a state."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.deliver()
            run = TrainingRun.objects.get(pk=run.pk)
            if run.state == until or (run.settled_at is not None and not self.waiting):
                return run
            services.runs_step(now=timezone.now())
            time.sleep(0.01)
        raise AssertionError(f"after {seconds} s it is {run.state}: {run.message} {run.error}")


def pass_time(run: TrainingRun, **much: float) -> None:
    """Let leases pass and steps come due, as if so much time had gone by (30 s unless given)."""
    gone = timedelta(**(much or {"seconds": 31}))
    row = TrainingRun.objects.get(pk=run.pk)
    fields = ("lease_until", "next_step_at", "enqueued_at", "finished_at", "unreachable_since")
    earlier = {name: getattr(row, name) - gone for name in fields if getattr(row, name) is not None}
    TrainingRun.objects.filter(pk=run.pk).update(**earlier)


def prepared(does: str, launcher: str = "detached", version: str = "1.0.0", **more: Any) -> Any:
    """A queued run whose program will do this, with a bundle lying ready for a success."""
    run = make_run(version, launcher=launcher)
    prepare(run, does, **more)
    return run


def prepare(run: TrainingRun, does: str, **more: Any) -> None:
    folder = open_store(run.folder)
    write_behaviour(folder, does, **more)
    if does == "succeed":
        rules = RuleSet.objects.get(name="default").sha256
        for name, content in ready_files(rules, run.version).items():
            folder.write(f"ready/{name}", content)


@cache
def ready_files(rules_sha256: str, version: str) -> dict[str, bytes]:
    """The bundle and the report of a success."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        digest = write_small_bundle(store, "bundle", version=version, rule_set_sha256=rules_sha256)
        files = {name: store.read(name) for name in store.list()}
    report = {
        "status": "succeeded",
        "metrics": {"pr_auc": 0.5},
        "manifest_sha256": digest,
        "deployable": True,
    }
    return files | {"report.json": json.dumps(report).encode()}


def timeline(run: TrainingRun) -> list[str]:
    """The states that a run went through, each from the one before."""
    states = [""]
    for event in run.events.all():
        assert event.from_state in (states[-1], event.state)
        if event.state != states[-1]:
            states.append(event.state)
    assert states[-1] == TrainingRun.objects.get(pk=run.pk).state
    return states[1:]


def assert_nothing_is_half(run: TrainingRun, artifacts: str) -> None:
    """It has ended, nothing runs, and there is a whole version or none."""
    run = TrainingRun.objects.get(pk=run.pk)
    assert run.state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)
    assert run.finished_at is not None
    assert (run.lease_until, run.next_step_at) == (None, None)
    # What was killed may take a moment to go.
    wait_until(lambda: not processes(run.folder), 5, "its processes end")
    assert len(starts(run.folder)) <= 1
    timeline(run)
    versions = list(ModelVersion.objects.all())
    if run.state == RunState.SUCCEEDED:
        assert versions == [run.model_version]
        verify_bundle(open_store(artifacts), versions[0].location, versions[0].manifest_sha256)
    else:
        assert versions == []
