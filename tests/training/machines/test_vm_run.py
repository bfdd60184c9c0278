"""A training run on a machine, from its request to its registered version."""

import time

import pytest

from deployments.models import ModelVersion
from engine.store import open_store
from tests.bundles import seed_registry
from tests.training.machines.conftest import MACHINE
from tests.training.pipeline_support import QUICK
from tests.training.support import make_dataset
from training import guards, launchers, services
from training.after import run_ended
from training.execution import run_execute
from training.launchers.vm import VmLauncher
from training.models import RunState
from training.pipeline.spec import decode_options


@pytest.fixture
def quick(monkeypatch):
    """The launcher of the workers, which looks more often."""

    def fresh():
        launcher = VmLauncher(wait_seconds=5.0, every=0.01)
        launcher.poll_seconds = 0.05
        monkeypatch.setitem(launchers._LAUNCHERS, "vm", launcher)

    fresh()
    return fresh


@pytest.fixture
def run(compute, quick, transactional_db, cloud_folders, small_dataset):
    seed_registry()
    open_store(f"gs://{cloud_folders}/data/small").write("data.parquet", small_dataset)
    make_dataset("small", location="small", rows=3_000, frauds=90)
    return services.run_create(
        dataset="small",
        version="1.0.0",
        launcher="vm",
        resources={"image": "sentinelle"},
        options=decode_options({"hyperparameters": QUICK}),
    )


def take_steps(run, until, seconds=60.0):
    """Each step by another worker, as tasks are."""
    give_up = time.monotonic() + seconds
    step = 0
    while not until():
        assert time.monotonic() < give_up, f"{run.state}: {run.message} {run.error}"
        step += 1
        run_execute(str(run.pk), worker=f"worker-{step}")
        time.sleep(0.05)
        run.refresh_from_db()


def ended(run):
    take_steps(run, lambda: not run.is_active)
    run_ended(run.pk, worker="after", now=run.finished_at)
    return run


def test_a_version_is_registered_and_the_machine_is_off(compute, run):
    ended(run)
    assert run.state == RunState.SUCCEEDED, run.error
    assert ModelVersion.objects.get(version="1.0.0") == run.model_version
    assert run.handle.startswith("projects/test-project/zones/us-central1-a/instances/")
    assert run.heartbeat_at is not None
    assert run.place_started_at < run.place_ended_at
    assert compute.running() == []
    assert "sentinelle-run" not in compute.metadata_of(MACHINE)


def test_the_next_worker_goes_on_when_one_dies(compute, run, quick):
    take_steps(run, lambda: run.state == RunState.RUNNING)
    quick()  # which knows nothing of what was started
    assert ended(run).state == RunState.SUCCEEDED, run.error
    assert compute.running() == []


def test_a_cancelled_run_leaves_no_machine_on(compute, run):
    take_steps(run, lambda: run.state == RunState.RUNNING and run.heartbeat_at)
    services.run_cancel(run, now=run.started_at)
    assert ended(run).state == RunState.CANCELLED
    deadline = time.monotonic() + 10
    while compute.running():
        assert time.monotonic() < deadline
    assert not ModelVersion.objects.exists()


def test_a_machine_that_is_deleted_by_hand_fails_the_run_in_words(compute, run):
    take_steps(run, lambda: run.state == RunState.RUNNING and run.heartbeat_at)
    compute.machine(MACHINE).crash()  # its program has no time for a report
    compute.delete_by_hand(MACHINE)
    assert ended(run).state == RunState.FAILED
    assert "somebody deleted it" in run.error
    assert not ModelVersion.objects.exists()


def test_a_permission_that_is_revoked_in_mid_run_fails_it_and_the_guard_finishes(
    compute, run, settings
):
    settings.TRAINING_PATIENCE_SECONDS = 0.2
    compute.can_shut_down = False
    take_steps(run, lambda: run.state == RunState.RUNNING and run.heartbeat_at)
    words = "Required 'compute.instances.get' permission for 'projects/test-project'"
    open_store(run.folder).write("claim.json", b'{"token": "another"}')  # no report comes
    compute.google.fault("/instances/", "PERMISSION_DENIED", words, times=10_000)
    assert ended(run).state == RunState.FAILED
    assert words in run.error
    assert compute.running() == [MACHINE]
    compute.google.calm()
    assert guards.machines_guard(now=run.finished_at) == 1
    deadline = time.monotonic() + 10
    while compute.running():
        assert time.monotonic() < deadline
    assert not ModelVersion.objects.exists()
