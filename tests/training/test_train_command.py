"""`manage.py train`: what it refuses, and what it tells while it waits."""

import threading
from functools import partial
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from tests.bundles import seed_registry
from tests.training.support import (
    claim_run,
    in_thread,
    make_dataset,
    make_run,
    use_fake_job,
    wait_until,
)
from training import claims, following, services
from training.execution import run_execute
from training.models import RunState, TrainingRun
from training.report import remedy

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _registry(transactional_db, settings, tmp_path):
    seed_registry()
    settings.RUNS_DIR = str(tmp_path / "runs")
    make_dataset()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Call:
    """The command in a thread, as another process would run it."""

    def __init__(self, *words, out=None, **options) -> None:
        self.out, self.err = out or StringIO(), StringIO()
        self.failure = ""
        call = partial(call_command, *(words or ("train",)), **options)
        self._thread = threading.Thread(target=in_thread, args=(lambda: self._call(call),))
        self._thread.start()

    def _call(self, call) -> None:
        try:
            call(stdout=self.out, stderr=self.err)
        except CommandError as error:
            self.failure = str(error)

    def join(self) -> str:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.out.getvalue()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "--dataset and --version"),
        ({"dataset": "sales"}, "--dataset and --version"),
        ({"dataset": "nowhere", "semver": "1.0.0"}, "no data set “nowhere”; there is sales"),
        ({"dataset": "sales", "semver": "1.0"}, "“1.0” is not a semantic version"),
        ({"dataset": "sales", "semver": "1.0.0", "rules": "strict"}, "there is default, none"),
        ({"dataset": "sales", "semver": "1.0.0", "sample": 0}, "sample"),
        ({"restart": "00000000-0000-4000-8000-000000000000"}, "There is no training run"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(CommandError, match=says):
        call_command("train", **options)
    assert not TrainingRun.objects.exists()


def test_the_version_option_is_the_version_to_train():
    call_command("train", "--dataset", "sales", "--version", "2.0.0", stdout=StringIO())
    assert TrainingRun.objects.get().version == "2.0.0"


def test_without_waiting_it_says_how_to_follow():
    out = StringIO()
    call_command("train", dataset="sales", semver="1.0.0", rules="none", seed=7, stdout=out)
    run = TrainingRun.objects.get()
    assert (run.state, run.rule_set.name, run.seed) == (RunState.QUEUED, "none", 7)
    assert f"runs watch {run.pk}" in out.getvalue()
    assert "2,000 transactions, 1.00% frauds" in out.getvalue()


def test_an_active_run_of_the_version_is_refused():
    make_run()
    with pytest.raises(CommandError, match=r"v1\.0\.0 is being trained: run .* is queued"):
        call_command("train", dataset="sales", semver="1.0.0")


def test_waiting_tells_that_no_worker_answers_and_then_how_it_ended(monkeypatch):
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.2)
    use_fake_job(monkeypatch, "fail")
    call = Call(dataset="sales", semver="1.0.0", wait=True)
    wait_until(lambda: "No worker has picked this run up" in call.err.getvalue())
    run = TrainingRun.objects.get()
    run_execute(str(run.pk), worker="test")
    assert "queued\n" in call.join()
    assert "failed at split: The data set has no frauds." in call.failure
    assert f"With the same options again: manage.py train --restart {run.pk}" in call.failure
    run.refresh_from_db()
    assert remedy(run.stage, run.error) in call.failure
    assert call.err.getvalue().count("No worker") == 1


def test_waiting_behind_another_run_is_told_apart(monkeypatch):
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.2)
    claim_run(make_run("0.9.0"))
    call = Call(dataset="sales", semver="1.0.0", wait=True)
    wait_until(lambda: "busy with 1 other run" in call.err.getvalue())
    services.run_cancel(TrainingRun.objects.get(version="1.0.0"), now=timezone.now())
    call.join()
    assert "cancelled" in call.failure


def test_a_terminal_shows_one_line_that_moves():
    call = Call(out=Terminal(), dataset="sales", semver="1.0.0", wait=True)
    run = wait_until(TrainingRun.objects.first)
    wait_until(lambda: "queued" in call.out.getvalue())
    claim_run(run)
    progress = {"stage": "features", "fraction": 0.5, "message": "1,000 rows"}
    claims.run_heartbeat(run.pk, worker="one", progress=progress, now=timezone.now())
    wait_until(lambda: "1,000 rows" in call.out.getvalue())
    claims.run_fail(run.pk, worker="one", error="Enough.", now=timezone.now())
    text = call.join()
    assert "\r" in text
    assert "█" * 12 + "░" * 12 in text
    assert "50%" in text


def test_a_run_whose_worker_died_ends_the_waiting_without_beat(settings):
    settings.TRAINING_LEASE_SECONDS = 1
    run = make_run()
    claim_run(run)
    call = Call("runs", "watch", str(run.pk))
    call.join()
    assert "stopped answering" in call.failure


def test_an_interrupt_leaves_the_run_alone(monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(following.time, "sleep", interrupt)
    out = StringIO()
    with pytest.raises(SystemExit) as exit_:
        call_command("train", dataset="sales", semver="1.0.0", wait=True, stdout=out)
    assert exit_.value.code == 130
    run = TrainingRun.objects.get()
    assert run.state == RunState.QUEUED
    assert run.cancel_requested_at is None
    assert f"The run goes on. Follow it: manage.py runs watch {run.pk}" in out.getvalue()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--seed", "0"), ("--version", "2.0.0"), ("--search", "4"), ("--without", "labels")],
)
def test_an_option_beside_a_run_that_exists_is_refused(option, value):
    run = make_run()
    with pytest.raises(CommandError, match=f"--restart .* without {option}.*start a new run"):
        call_command("train", "--restart", str(run.pk), option, value)
    assert TrainingRun.objects.count() == 1


def test_restart_makes_a_new_run(monkeypatch):
    use_fake_job(monkeypatch, "fail")
    run = make_run(sample=500)
    run_execute(str(run.pk), worker="test")
    call_command("train", restart=run.pk, stdout=StringIO())
    again = TrainingRun.objects.get(state=RunState.QUEUED)
    assert (again.version, again.sample) == ("1.0.0", 500)
    assert again.pk != run.pk
