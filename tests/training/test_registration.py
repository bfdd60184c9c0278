"""From a run folder with a report to a registered version, or to none at all."""

import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from django.db import connection
from django.utils import timezone

from deployments.gates import gate
from deployments.models import ModelVersion, RuleSet
from engine.fraud_bundle import load_bundle
from engine.store import open_store
from tests.bundles import seed_registry
from tests.engine.bundles import write_small_bundle
from tests.training.support import claim_run, in_thread, make_run
from training import registration, services
from training.models import RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)
LATE = timezone.now() + timedelta(hours=1)


@pytest.fixture(autouse=True)
def _registry(transactional_db, settings, tmp_path):
    seed_registry()
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    settings.RUNS_DIR = str(tmp_path / "runs")


def trained(bundle=None, **report) -> TrainingRun:
    """A claimed run whose program has just succeeded."""
    run = make_run(requested_by="ada")
    claimed = claim_run(run)
    folder = open_store(run.folder)
    rules = RuleSet.objects.get(name="default").sha256
    digest = write_small_bundle(folder, "bundle", rule_set_sha256=rules, **(bundle or {}))
    facts = {
        "status": "succeeded",
        "metrics": {"pr_auc": 0.5},
        "manifest_sha256": digest,
        "deployable": True,
    }
    folder.write("report.json", msgspec.json.encode(facts | report))
    return claimed


def finish(run: TrainingRun) -> bool:
    return registration.run_finish(run.pk, worker="one", ended="exit status 0", now=timezone.now())


def artifacts() -> list[str]:
    return open_store(registration.settings.ARTIFACTS_DIR).list()


def test_a_success_registers_a_version_that_loads(settings):
    run = trained()
    assert finish(run)
    run.refresh_from_db()
    version = ModelVersion.objects.get()
    assert (run.state, run.model_version, run.fraction) == (RunState.SUCCEEDED, version, 1.0)
    assert (version.training_run_id, version.created_by) == (run.pk, "ada")
    assert version.metrics == {"pr_auc": 0.5}
    assert version.deployable
    loaded = load_bundle(
        open_store(settings.ARTIFACTS_DIR), version.location, version.manifest_sha256
    )
    assert loaded.manifest.version == "1.0.0"


def test_a_version_keeps_why_it_was_not_compared_with_the_champion():
    told = "The champion v0.9.0 can't be compared with: the bundle has no manifest."
    assert finish(trained(champion_error=told))
    assert gate(ModelVersion.objects.get(), ModelVersion(version="0.9.0")).reason == told


def test_a_run_on_a_sample_is_not_deployable():
    finish(trained(deployable=False))
    assert not ModelVersion.objects.get().deployable


def test_a_bundle_that_was_changed_is_not_published():
    run = trained()
    (Path(run.folder) / "bundle" / "supervised.treelite").write_bytes(b"something else")
    finish(run)
    run.refresh_from_db()
    assert (run.state, run.stage) == (RunState.FAILED, "registration")
    assert "supervised.treelite" in run.error
    assert not ModelVersion.objects.exists()
    assert artifacts() == []


@pytest.mark.parametrize("lost", ["abandoned", "cancelled"])
def test_a_run_that_was_taken_from_its_worker_publishes_nothing(lost):
    run = trained()
    if lost == "abandoned":
        services.runs_fail_abandoned(now=timezone.now() + timedelta(minutes=1))
        assert not finish(run)
    else:
        services.run_cancel(run, now=timezone.now())
        finish(run)
    run.refresh_from_db()
    assert run.state == (RunState.FAILED if lost == "abandoned" else RunState.CANCELLED)
    assert not ModelVersion.objects.exists()
    assert artifacts() == []


def test_a_failure_between_publishing_and_the_end_leaves_no_version(monkeypatch):
    first = trained()

    def fail_late(row):
        insert(row)
        raise OSError("No space left on device")

    insert = registration.version_insert
    with monkeypatch.context() as patch:
        patch.setattr(registration, "version_insert", fail_late)
        finish(first)
    first.refresh_from_db()
    assert (first.state, first.stage) == (RunState.FAILED, "registration")
    assert "No space left" in first.error
    assert not ModelVersion.objects.exists()

    # What it published is in the way of nobody.
    again = trained(bundle={"training": {"another": "bundle"}})
    assert finish(again)
    assert ModelVersion.objects.get().training_run_id == again.pk


@pytest.mark.parametrize("left", ["whole", "part"])
def test_what_another_attempt_has_left_stays_and_is_in_the_way_of_nobody(settings, left):
    """Who left it may only have been paused, and go on."""
    store = open_store(settings.ARTIFACTS_DIR)
    names = ["manifest.json", "supervised.treelite"] if left == "whole" else ["supervised.treelite"]
    for name in names:
        store.create_if_absent(f"fraud/v1.0.0/{name}", b"another's")
    assert finish(trained())
    version = ModelVersion.objects.get()
    assert version.location == f"fraud/v1.0.0-{version.training_run_id.hex[:8]}"
    load_bundle(store, version.location, version.manifest_sha256)
    assert all(store.read(f"fraud/v1.0.0/{name}") == b"another's" for name in names)


def test_the_rest_of_what_it_has_published_itself_follows(settings):
    run = trained()
    store, name = open_store(settings.ARTIFACTS_DIR), "supervised.treelite"
    store.create_if_absent(f"fraud/v1.0.0/{name}", open_store(run.folder).read(f"bundle/{name}"))
    assert finish(run)
    assert ModelVersion.objects.get().location == "fraud/v1.0.0"


def test_no_transaction_waits_for_the_bucket(monkeypatch):
    run = trained()
    store = open_store(registration.settings.ARTIFACTS_DIR)
    store.create_if_absent("fraud/v1.0.0/manifest.json", b"another's")
    asked = []
    for verb in ("list", "read", "exists", "delete", "create_if_absent"):
        method = getattr(type(store), verb)

        def watched(*arguments, method=method):
            asked.append(connection.in_atomic_block)
            return method(*arguments)

        monkeypatch.setattr(type(store), verb, watched)
    assert finish(run)
    assert asked
    assert not any(asked)


def test_nobody_ends_a_run_while_its_version_is_inserted(monkeypatch):
    run = trained()
    inserting, go_on = hold_up(monkeypatch, "version_insert")
    finishing = in_background(lambda: finish(run))
    assert inserting.wait(10)
    ended = []
    abandoning = in_background(lambda: ended.append(services.runs_fail_abandoned(now=LATE)))
    abandoning.join(0.5)
    go_on.set()
    finishing.join(20)
    abandoning.join(20)
    run.refresh_from_db()
    assert ended == [0]
    assert run.state == RunState.SUCCEEDED
    assert ModelVersion.objects.get() == run.model_version


def test_a_run_that_ends_while_its_bundle_is_published_has_no_version(monkeypatch):
    run = trained()
    publishing, go_on = hold_up(monkeypatch, "publish")
    finished = []
    finishing = in_background(lambda: finished.append(finish(run)))
    assert publishing.wait(10)
    # Publishing locks nothing: to a bucket it takes minutes.
    assert services.runs_fail_abandoned(now=LATE) == 1
    go_on.set()
    finishing.join(20)
    run.refresh_from_db()
    assert finished == [False]
    assert run.state == RunState.FAILED
    assert not ModelVersion.objects.exists()

    again = trained(bundle={"training": {"another": "bundle"}})
    assert finish(again)
    assert ModelVersion.objects.get().training_run_id == again.pk


def hold_up(monkeypatch, name: str) -> tuple[threading.Event, threading.Event]:
    """Make a function of the registration tell when it is called, and wait to be told to go on."""
    called, go_on = threading.Event(), threading.Event()
    function = getattr(registration, name)

    def slow(*arguments):
        called.set()
        go_on.wait(10)
        return function(*arguments)

    monkeypatch.setattr(registration, name, slow)
    return called, go_on


def in_background(work) -> threading.Thread:
    thread = threading.Thread(target=in_thread, args=(work,))
    thread.start()
    return thread
