"""The life of a training run: who may change it, and what each end leaves behind."""

import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import IntegrityError, OperationalError, transaction
from django.utils import timezone

from deployments.models import ModelVersion
from engine.errors import InvalidDataset, RunRefused
from tests.bundles import seed_registry
from tests.training.support import (
    in_thread,
    is_alive,
    make_dataset,
    make_run,
    use_fake_job,
    wait_until,
)
from training import claims, messages, services
from training.claims import Claim
from training.datasets import dataset_delete
from training.execution import run_execute
from training.models import Dataset, RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)
NOW = timezone.now()


@pytest.fixture(autouse=True)
def _registry(transactional_db):
    seed_registry()


def claim(run: TrainingRun, worker: str = "one", now=None) -> TrainingRun | None:
    return claims.run_claim(str(run.pk), worker=worker, now=now or timezone.now())


def execute(run: TrainingRun) -> TrainingRun:
    run_execute(str(run.pk), worker="test")
    run.refresh_from_db()
    return run


class TestCreate:
    def test_takes_the_rules_that_serve(self):
        run = make_run()
        assert run.state == RunState.QUEUED
        assert run.rule_set.name == "default"
        assert make_run("1.0.1", rules="none").rule_set.name == "none"

    @pytest.mark.parametrize(
        ("change", "field", "says"),
        [
            ({"dataset": "nowhere"}, "dataset", "sales, shops"),
            ({"version": "1.0"}, "version", "semantic version"),
            ({"version": "v1.0.0"}, "version", "no leading v"),
            ({"version": ""}, "version", "blank"),
            ({"rules": "strict"}, "rules", "default, none"),
            ({"model": "credit"}, "model", "fraud"),
            ({"sample": 0}, "sample", "greater than or equal to 1"),
            ({"seed": -1}, "seed", "greater than or equal to 0"),
        ],
    )
    def test_refuses_by_field(self, change, field, says):
        make_dataset("sales")
        make_dataset("shops")
        with pytest.raises(RunRefused) as refusal:
            services.run_create(**({"dataset": "sales", "version": "1.0.0"} | change))
        assert [error.field for error in refusal.value.errors] == [field]
        assert says in refusal.value.detail
        assert not TrainingRun.objects.exists()

    def test_refuses_a_version_that_is_being_trained(self):
        first = make_run()
        with pytest.raises(RunRefused, match=str(first.pk)):
            make_run()

    def test_refuses_a_registered_version(self):
        run = make_run()
        claim(run)
        version = ModelVersion.objects.create(
            model=run.model,
            version="1.0.0",
            location="fraud/v1.0.0",
            manifest_sha256="a" * 64,
            rule_set=run.rule_set,
            **registry_facts(),
        )
        TrainingRun.objects.update(state=RunState.SUCCEEDED, model_version=version)
        with pytest.raises(RunRefused, match="already registered"):
            make_run()

    def test_an_abandoned_run_does_not_hold_its_version(self):
        abandoned = make_run()
        claim(abandoned, now=timezone.now() - timedelta(minutes=5))
        again = make_run()
        abandoned.refresh_from_db()
        assert abandoned.state == RunState.FAILED
        assert again.state == RunState.QUEUED

    def test_the_table_itself_allows_one_active_run_for_a_version(self):
        run = make_run()
        run.pk = None
        with pytest.raises(IntegrityError), transaction.atomic():
            run.save(force_insert=True)

    def test_only_a_success_may_have_a_version(self):
        run = make_run()
        version = ModelVersion.objects.create(
            model=run.model,
            version="1.0.0",
            location="fraud/v1.0.0",
            manifest_sha256="a" * 64,
            rule_set=run.rule_set,
            **registry_facts(),
        )
        with pytest.raises(IntegrityError), transaction.atomic():
            TrainingRun.objects.update(model_version=version)

    def test_two_at_once_make_one(self):
        make_dataset()
        results = in_threads(4, lambda _: outcome(make_run))
        assert sorted(results) == ["RunConflict"] * 3 + ["TrainingRun"]
        assert TrainingRun.objects.count() == 1

    def test_a_broker_that_is_down_leaves_the_run_queued(self, monkeypatch, caplog):
        from sentinelle.celery import app

        monkeypatch.setattr(app.conf, "broker_url", "redis://127.0.0.1:1/0")
        with app.connection("redis://127.0.0.1:1/0") as dead:
            monkeypatch.setattr(app, "connection_for_write", lambda *a, **k: dead)
            monkeypatch.setattr(app.amqp, "_producer_pool", None)
            run = make_run()
        assert TrainingRun.objects.get().state == RunState.QUEUED
        assert f"{run.pk} could not be sent yet" in caplog.text


class TestClaim:
    def test_of_two_at_once_one_wins(self):
        run = make_run()
        results = in_threads(8, lambda n: claim(run, f"worker-{n}"))
        winners = [result for result in results if result is not None]
        assert len(winners) == 1
        run.refresh_from_db()
        assert run.claimed_by == winners[0].claimed_by
        assert run.state == RunState.STARTING

    def test_a_run_that_does_not_exist_or_has_ended_is_not_claimed(self):
        run = make_run()
        services.run_cancel(run, now=timezone.now())
        assert claim(run) is None
        assert claims.run_claim("00000000-0000-4000-8000-000000000000", worker="x", now=NOW) is None

    def test_a_heartbeat_renews_the_lease_and_copies_the_progress(self, settings):
        run = claim(make_run())
        later = timezone.now() + timedelta(seconds=20)
        progress = {"stage": "features", "fraction": 0.25, "message": "x" * 500}
        assert heartbeat(run, later, progress) is Claim.HELD
        run.refresh_from_db()
        assert run.lease_until == later + timedelta(seconds=settings.TRAINING_LEASE_SECONDS)
        assert (run.stage, run.fraction, len(run.message)) == ("features", 0.25, 300)

    def test_who_lost_the_claim_writes_nothing(self):
        run = claim(make_run())
        services.runs_fail_abandoned(now=timezone.now() + timedelta(minutes=1))
        before = TrainingRun.objects.values().get()
        assert heartbeat(run, timezone.now()) is Claim.LOST
        assert not claims.run_fail(run.pk, worker="one", error="late", now=timezone.now())
        assert not claims.run_end_cancelled(run.pk, worker="one", now=timezone.now())
        assert TrainingRun.objects.values().get() == before

    def test_another_worker_is_not_believed(self):
        run = claim(make_run())
        assert heartbeat(run, timezone.now(), worker="two") is Claim.LOST


class TestRecovery:
    def test_a_run_past_its_lease_fails_with_its_stage_and_the_last_sign_of_life(self, settings):
        run = claim(make_run())
        seen = timezone.now()
        heartbeat(run, seen, {"stage": "supervised"})
        lease = timedelta(seconds=settings.TRAINING_LEASE_SECONDS)
        assert services.runs_fail_abandoned(now=seen + lease) == 0
        assert services.runs_fail_abandoned(now=seen + lease + timedelta(seconds=1)) == 1
        run.refresh_from_db()
        assert (run.state, run.stage) == (RunState.FAILED, "supervised")
        assert f"stopped answering at {seen:%Y-%m-%d %H:%M:%S} UTC" in run.error

    def test_one_whose_cancelling_was_asked_for_ends_cancelled(self):
        run = claim(make_run())
        services.run_cancel(run, now=timezone.now())
        services.runs_fail_abandoned(now=timezone.now() + timedelta(minutes=1))
        run.refresh_from_db()
        assert run.state == RunState.CANCELLED

    def test_a_lost_message_is_sent_again_once_a_minute(self, monkeypatch):
        sent = []
        monkeypatch.setattr(messages, "send", lambda task, pk, **_: sent.append((task, pk)))
        run = make_run()
        sent.clear()
        soon, later = NOW + timedelta(seconds=50), timezone.now() + timedelta(seconds=61)
        services.runs_recover(now=soon)
        assert sent == []
        services.runs_recover(now=later)
        services.runs_recover(now=later + timedelta(seconds=1))
        assert sent == [(messages.RUN_TRAIN, run.pk)]

    def test_a_run_sent_twice_is_executed_once(self, monkeypatch):
        use_fake_job(monkeypatch, "fail")
        run = execute(make_run())
        ended = run.finished_at
        assert execute(run).finished_at == ended


class TestExecute:
    @pytest.mark.parametrize(
        ("behaviour", "stage", "says"),
        [
            ("fail", "split", "The data set has no frauds."),
            ("crash", "features", "(exit status 139: Segmentation fault in a library)"),
            ("silent", "features", "ended without a report (exit status 0)"),
        ],
    )
    def test_a_program_that_fails(self, monkeypatch, behaviour, stage, says):
        use_fake_job(monkeypatch, behaviour)
        run = execute(make_run())
        assert (run.state, run.stage) == (RunState.FAILED, stage)
        assert says in run.error
        assert run.finished_at
        assert run.lease_until is None
        assert not ModelVersion.objects.exists()

    def test_what_the_program_printed_is_in_the_log(self, monkeypatch):
        from training import selectors

        use_fake_job(monkeypatch, "crash")
        assert "Segmentation fault" in selectors.run_log_tail(execute(make_run()))

    def test_a_program_that_cannot_start(self, monkeypatch, settings, tmp_path):
        (tmp_path / "file").touch()
        settings.RUNS_DIR = str(tmp_path / "file")
        run = execute(make_run())
        assert run.state == RunState.FAILED
        assert "could not be started" in run.error

    @pytest.mark.parametrize("behaviour", ["hang", "stubborn"])
    def test_cancelling_ends_the_program_before_the_run(self, monkeypatch, behaviour):
        use_fake_job(monkeypatch, behaviour)
        monkeypatch.setattr("training.launchers.local.GRACE_SECONDS", 0.5)
        run = make_run()
        worker = threading.Thread(target=in_thread, args=(lambda: execute(run),))
        worker.start()
        pid = program_pid(run)
        services.run_cancel(TrainingRun.objects.get(), now=timezone.now())
        wait_until(lambda: TrainingRun.objects.get().state == RunState.CANCELLED)
        assert not is_alive(pid)
        worker.join(10)

    def test_a_lost_claim_ends_the_program(self, monkeypatch):
        use_fake_job(monkeypatch, "hang")
        run = make_run()
        worker = threading.Thread(target=in_thread, args=(lambda: execute(run),))
        worker.start()
        pid = program_pid(run)
        services.runs_fail_abandoned(now=timezone.now() + timedelta(minutes=1))
        wait_until(lambda: not is_alive(pid), what="the program ends")
        worker.join(10)
        assert "stopped answering" in TrainingRun.objects.get().error

    def test_a_killed_program(self, monkeypatch):
        use_fake_job(monkeypatch, "hang")
        run = make_run()
        worker = threading.Thread(target=in_thread, args=(lambda: execute(run),))
        worker.start()
        os.kill(program_pid(run), 9)
        worker.join(10)
        run.refresh_from_db()
        assert (run.state, run.stage) == (RunState.FAILED, "features")
        assert "SIGKILL" in run.error
        assert "memory" in run.error

    def test_the_program_is_told_no_secret(self, monkeypatch):
        secret = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "PGPASSWORD", "SOME_TOKEN")
        for name in secret:
            monkeypatch.setitem(os.environ, name, os.environ.get(name, "in-the-environment"))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
        use_fake_job(monkeypatch, "hang")
        run = make_run()
        worker = threading.Thread(target=in_thread, args=(lambda: execute(run),))
        worker.start()
        pid = program_pid(run)
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
        services.run_cancel(run, now=timezone.now())
        worker.join(10)
        assert "PYTHONPATH=" in environment
        assert "STORAGE_EMULATOR_HOST=" in environment
        for name in secret:
            assert f"{name}=" not in environment

    def test_a_database_that_is_away_for_a_while_costs_no_run(self, monkeypatch):
        use_fake_job(monkeypatch, "fail")
        monkeypatch.setattr("training.execution.DATABASE_RETRY_SECONDS", 0.05)
        away = [OperationalError("the server closed the connection")] * 3

        def heartbeat_or_not(*args, **kwargs):
            if away:
                raise away.pop()
            return beat(*args, **kwargs)

        beat = claims.run_heartbeat
        monkeypatch.setattr(claims, "run_heartbeat", heartbeat_or_not)
        assert execute(make_run()).error == "The data set has no frauds."
        assert away == []

    def test_a_fault_of_ours_fails_the_run_and_ends_the_program(self, monkeypatch):
        use_fake_job(monkeypatch, "hang")
        run = make_run()

        def broken(*args, **kwargs):
            wait_until((Path(run.folder) / "pid").exists)
            raise ZeroDivisionError("division by zero")

        monkeypatch.setattr(claims, "run_heartbeat", broken)
        with pytest.raises(ZeroDivisionError):
            execute(run)
        run.refresh_from_db()
        assert run.state == RunState.FAILED
        assert "division by zero" in run.error
        assert not is_alive(int((Path(run.folder) / "pid").read_text()))


class TestCancelAndRestart:
    def test_a_queued_run_is_cancelled_at_once(self):
        run = make_run()
        services.run_cancel(run, now=timezone.now())
        run.refresh_from_db()
        assert run.state == RunState.CANCELLED
        assert run.finished_at

    def test_an_ended_run_is_not_cancelled(self):
        run = make_run()
        services.run_cancel(run, now=timezone.now())
        with pytest.raises(RunRefused, match="already ended: it was cancelled"):
            services.run_cancel(run, now=timezone.now())

    def test_starting_again_makes_a_new_run_with_the_same_parameters(self):
        earlier = make_run(rules="none", sample=900, seed=5)
        services.run_cancel(earlier, now=timezone.now())
        again = services.run_restart(earlier, requested_by="ada")
        assert again.pk != earlier.pk
        assert again.requested_by == "ada"
        same = ["model", "version", "dataset", "rule_set", "sample", "seed"]
        assert [getattr(again, name) for name in same] == [getattr(earlier, name) for name in same]

    def test_an_active_run_is_not_started_again(self):
        with pytest.raises(RunRefused, match="this one is queued"):
            services.run_restart(make_run())

    def test_not_while_another_run_makes_the_version(self):
        earlier = make_run()
        services.run_cancel(earlier, now=timezone.now())
        make_run()
        with pytest.raises(RunRefused, match="is being trained"):
            services.run_restart(earlier)


class TestDatasets:
    def test_a_used_data_set_is_not_deleted(self):
        run = make_run()
        with pytest.raises(InvalidDataset, match="used by training runs"):
            dataset_delete(run.dataset)
        assert Dataset.objects.exists()

    def test_an_unused_one_goes_with_its_files(self, settings, tmp_path):
        settings.DATA_DIR = str(tmp_path)
        (tmp_path / "sales-0").mkdir()
        dataset_delete(make_dataset())
        assert not Dataset.objects.exists()
        assert list(tmp_path.iterdir()) == []


def heartbeat(run, now, progress=None, worker="one") -> Claim:
    return claims.run_heartbeat(run.pk, worker=worker, progress=progress or {}, now=now)


def program_pid(run) -> int:
    """The process id of the run's program, once its progress has reached the row."""
    wait_until(lambda: TrainingRun.objects.get(pk=run.pk).stage == "features")
    return int((Path(run.folder) / "pid").read_text())


def in_threads(count, work):
    results = [None] * count
    barrier = threading.Barrier(count)

    def one(n):
        barrier.wait()
        results[n] = in_thread(lambda: work(n))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def outcome(work) -> str:
    try:
        return type(work()).__name__
    except RunRefused as refusal:
        return type(refusal).__name__


def registry_facts() -> dict:
    return {"size_bytes": 1, "thresholds": {"review": 0.5, "block": 0.9}}
