"""The three guards of a training machine, each alone: whatever happens, no machine stays on."""

import logging
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.db import DatabaseError
from django.utils import timezone

from engine.store import open_store
from tests.bundles import seed_registry
from tests.training.launchers.conformance import write_behaviour
from tests.training.machines.conftest import MACHINE, PROJECT, RESOURCES, ended, until
from tests.training.support import make_run
from training import guards
from training import machines as by_hand
from training.guards import GRACE_SECONDS, machines_guard
from training.launchers import Launch
from training.launchers.resources import VmResources
from training.models import RunState, TrainingRun

GRACE = timedelta(seconds=GRACE_SECONDS)


@pytest.fixture(autouse=True)
def no_sightings():
    cache.clear()


@pytest.fixture
def registered(transactional_db, monkeypatch):
    """Models and rules, to make runs of."""
    seed_registry()
    monkeypatch.setattr(by_hand, "EVERY_SECONDS", 0.01)


@pytest.fixture
def running(compute, launcher, registered, cloud_folders):
    """Make a run and start its machine, with a program that does this, as its worker does."""

    def make(does: str) -> TrainingRun:
        run = make_run(launcher="vm", resources=RESOURCES)
        write_behaviour(open_store(run.folder), does)
        handle = launcher.start(Launch(str(run.pk), run.folder, "fraud", "1.0.0", RESOURCES))
        now = timezone.now()
        TrainingRun.objects.filter(pk=run.pk).update(
            state=RunState.RUNNING, handle=handle, started_at=now, heartbeat_at=now
        )
        until(lambda: open_store(run.folder).exists("progress.json"))
        run.refresh_from_db()
        return run

    return make


def events(run):
    return [event.message for event in run.events.all()]


def off(compute):
    until(lambda: not compute.running())
    return True


# --- Guard 1: the machine itself ------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "image"),
    [("succeed", "stand-in"), ("fail", "stand-in"), ("crash", "stand-in"), ("succeed", "missing")],
    ids=["success", "failure", "crash", "script"],
)
def test_the_machine_switches_itself_off(compute, launcher, stand_in, does, image):
    compute.keeps_limits = False
    handle = launcher.start(stand_in(does, image=image))
    assert ended(launcher, handle).ended
    assert compute.running() == []


def test_a_fuse_is_lit_before_anything_else(compute, launcher, stand_in):
    launcher.start(stand_in("hang", max_run_s=5400))
    until(lambda: compute.machine(MACHINE).commands)
    assert compute.machine(MACHINE).commands[0] == "shutdown -h +90"


def test_a_machine_that_is_started_by_hand_finds_no_run_and_is_off(compute, registered):
    compute.keeps_limits = False
    by_hand.machine_create(VmResources(project=PROJECT, zone="us-central1-a", machine=MACHINE))
    assert off(compute)
    by_hand.machine_start(VmResources(project=PROJECT, zone="us-central1-a", machine=MACHINE))
    assert off(compute)


# --- Guard 2: Google ------------------------------------------------------------------------


@pytest.mark.parametrize("does", ["succeed", "stubborn"])
def test_google_switches_it_off_at_its_limit(compute, launcher, stand_in, does):
    compute.can_shut_down = False
    compute.speed, compute.grace_s = 1800.0, 0.1
    launcher.start(stand_in(does))
    assert compute.running() == [MACHINE]
    assert off(compute)


def test_google_switches_off_a_machine_whose_kernel_is_gone(compute, launcher, stand_in):
    compute.speed = 1800.0
    launcher.start(stand_in("hang"))
    compute.machine(MACHINE).crash()
    assert off(compute)


# --- Guard 3: our control plane -------------------------------------------------------------


@pytest.fixture
def only_us(compute):
    compute.can_shut_down = compute.keeps_limits = False
    return compute


@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED])
def test_a_machine_whose_run_is_over_is_stopped(only_us, running, state):
    run = running("succeed")
    TrainingRun.objects.filter(pk=run.pk).update(state=state)
    assert machines_guard(now=timezone.now()) == 1
    assert off(only_us)
    assert any(f"its run is over ({state})" in message for message in events(run))
    # And it is free for the next.
    assert machines_guard(now=timezone.now()) == 0
    assert "sentinelle-run" not in only_us.metadata_of(MACHINE)


def test_a_machine_whose_run_goes_on_is_left_alone(only_us, running):
    running("hang")
    assert machines_guard(now=timezone.now() + timedelta(seconds=900)) == 0
    assert only_us.running() == [MACHINE]


def test_a_machine_of_a_database_that_is_lost_is_stopped_after_a_grace(only_us, running):
    run = running("hang")
    run.events.all()._raw_delete("default")
    TrainingRun.objects.filter(pk=run.pk).delete()
    now = timezone.now()
    assert machines_guard(now=now) == 0
    assert machines_guard(now=now + GRACE - timedelta(seconds=1)) == 0
    assert machines_guard(now=now + GRACE) == 1
    assert off(only_us)


def test_a_machine_that_is_on_for_nobody_is_stopped_after_a_grace(only_us, registered):
    by_hand.machine_create(VmResources(project=PROJECT, zone="us-central1-a", machine=MACHINE))
    now = timezone.now()
    assert machines_guard(now=now) == 0
    assert machines_guard(now=now + GRACE) == 1
    assert off(only_us)


def test_a_machine_that_is_kept_on_for_people_stays_until_its_limit(compute, registered):
    compute.speed = 2400.0
    resources = VmResources(project=PROJECT, zone="us-central1-a", machine=MACHINE, max_run_s=7200)
    by_hand.machine_create(resources, keep=True)
    now = timezone.now()
    assert machines_guard(now=now) == machines_guard(now=now + GRACE) == 0
    until(lambda: "The machine stays on" in compute.machine(MACHINE).printed())
    assert compute.running() == [MACHINE]
    assert off(compute)  # by Google


def test_a_machine_whose_heartbeat_stopped_is_stopped(only_us, running, settings):
    run = running("silent")
    later = timezone.now() + timedelta(seconds=2 * settings.TRAINING_SILENCE_SECONDS + 1)
    assert machines_guard(now=later) == 1
    assert off(only_us)
    assert any("gave no sign of life since" in message for message in events(run))


def test_a_heartbeat_that_nobody_copied_is_a_sign_of_life(only_us, running, settings):
    """Also by a clock that is an hour off: it is compared with itself alone."""
    running("hang")
    later = timezone.now() + timedelta(seconds=2 * settings.TRAINING_SILENCE_SECONDS + 1)
    assert machines_guard(now=later) == 0


def test_a_stop_that_google_refuses_is_told_and_tried_again(only_us, running, caplog):
    run = running("succeed")
    TrainingRun.objects.filter(pk=run.pk).update(state=RunState.FAILED)
    words = "Required 'compute.instances.stop' permission for 'projects/test-project'"
    only_us.google.fault("POST .*/stop", "PERMISSION_DENIED", words)
    with caplog.at_level(logging.ERROR):
        assert machines_guard(now=timezone.now()) == 0
    assert words in caplog.text
    assert "should be off because its run is over (failed)" in caplog.text
    assert machines_guard(now=timezone.now()) == 1
    assert off(only_us)


def test_a_machine_that_cannot_be_guarded_keeps_no_other_on(only_us, running, settings, caplog):
    """Whether the first was seen before is asked of a cache that does not answer."""
    by_hand.machine_create(VmResources(project=PROJECT, zone="us-central1-a", machine="another"))
    run = running("succeed")
    TrainingRun.objects.filter(pk=run.pk).update(state=RunState.FAILED)
    nobody = {"BACKEND": "django.core.cache.backends.redis.RedisCache"}
    settings.CACHES = {"default": nobody | {"LOCATION": "redis://127.0.0.1:1"}}
    assert machines_guard(now=timezone.now()) == 1
    until(lambda: only_us.running() == ["another"])
    assert "The machine another (us-central1-a, project test-project) can't be" in caplog.text


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"a": "\xff"}'], ids=["half", "other", "no-text"]
)
def test_progress_that_cannot_be_read_is_no_silence(only_us, running, settings, content, caplog):
    run = running("silent")
    only_us.machine(MACHINE).crash()  # so that its program writes no more
    open_store(run.folder).write("progress.json", content)
    later = timezone.now() + timedelta(seconds=2 * settings.TRAINING_SILENCE_SECONDS + 1)
    assert machines_guard(now=later) == 0
    assert f"The progress of the run {run.pk} can't be read" in caplog.text
    assert only_us.running() == [MACHINE]


def test_a_machine_is_stopped_also_when_its_timeline_cannot_be_written(
    only_us, running, monkeypatch, caplog
):
    run = running("succeed")
    TrainingRun.objects.filter(pk=run.pk).update(state=RunState.FAILED)

    def refuse(*_):
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(guards, "note", refuse)
    assert machines_guard(now=timezone.now()) == 1
    assert off(only_us)
    assert "the disk is full" in caplog.text


@pytest.mark.parametrize(("hours", "stopped"), [(24, 1), (26, 0)])
def test_a_project_of_runs_that_ended_is_looked_after_for_a_day(
    only_us, running, settings, hours, stopped
):
    """A day more than their machines' limit, which is an hour."""
    run = running("succeed")
    settings.GOOGLE_CLOUD_PROJECT = "another-project"
    now = timezone.now()
    ended_at = now - timedelta(hours=hours)
    TrainingRun.objects.filter(pk=run.pk).update(state=RunState.FAILED, finished_at=ended_at)
    assert machines_guard(now=now) == stopped


def test_a_list_that_google_refuses_is_told(only_us, running, caplog):
    running("succeed")
    words = "Required 'compute.instances.list' permission for 'projects/test-project'"
    only_us.google.fault("aggregated", "PERMISSION_DENIED", words)
    with caplog.at_level(logging.ERROR):
        assert machines_guard(now=timezone.now()) == 0
    assert words in caplog.text


def test_a_machine_that_is_off_is_freed_of_a_run_that_is_over(compute, running):
    run = running("crash")
    assert off(compute)
    TrainingRun.objects.filter(pk=run.pk).update(state=RunState.FAILED)
    assert machines_guard(now=timezone.now()) == 0
    assert "sentinelle-run" not in compute.metadata_of(MACHINE)


def test_nothing_is_asked_without_a_project(compute, settings, db):
    settings.GOOGLE_CLOUD_PROJECT = ""
    assert machines_guard(now=timezone.now()) == 0
    assert compute.google.calls == []
