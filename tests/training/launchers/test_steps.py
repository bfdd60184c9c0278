"""Runs at a place that outlives its workers: what each step does, and what goes wrong between."""

import os
import signal
import threading
from datetime import timedelta

import pytest
from django.utils import timezone

from deployments.gcp.errors import CloudError
from deployments.models import ModelVersion
from engine.errors import RunRefused, StoreUnavailable
from tests.bundles import seed_registry
from tests.training.launchers.conformance import processes, starts
from tests.training.launchers.detached import use_detached
from tests.training.launchers.support import (
    Post,
    assert_nothing_is_half,
    pass_time,
    prepared,
    timeline,
)
from tests.training.support import in_thread, make_run, wait_until
from training import after, execution, messages, registration, services, transitions
from training.execution import run_execute
from training.models import RunState, TrainingRun

pytestmark = pytest.mark.django_db(transaction=True)
SUCCESS = ["queued", "starting", "running", "succeeded"]
AWAY = CloudError("503 The service is currently unavailable.", is_transient=True)
REVOKED = CloudError("403 Permission 'run.executions.get' denied.", reason="permission")


@pytest.fixture(autouse=True)
def _registry(transactional_db, settings, tmp_path):
    seed_registry()
    settings.ARTIFACTS_DIR = str(tmp_path / "artifacts")
    settings.RUNS_DIR = str(tmp_path / "runs")


@pytest.fixture
def place(monkeypatch, tmp_path):
    launcher = use_detached(monkeypatch, tmp_path / "place")
    yield launcher
    launcher.close()


@pytest.fixture
def post(monkeypatch, place):
    return Post(monkeypatch)


@pytest.fixture
def whole(settings):
    """What every run of these tests leaves, checked at the test's end."""
    yield
    for run in TrainingRun.objects.all():
        assert_nothing_is_half(run, settings.ARTIFACTS_DIR)


def messages_of(run: TrainingRun) -> list[str]:
    return list(run.events.values_list("message", flat=True))


@pytest.mark.usefixtures("whole")
class TestEnds:
    def test_a_success_is_registered_and_settled(self, post):
        run = post.go_on(prepared("succeed", seconds=0.2))
        assert timeline(run) == SUCCESS
        assert run.model_version == ModelVersion.objects.get()
        assert run.handle == str(run.pk)
        assert run.rows == 700
        assert run.heartbeat_at is not None
        assert run.place_started_at < run.place_ended_at

    def test_a_failure_has_the_programs_words(self, post):
        run = post.go_on(prepared("fail"))
        assert timeline(run) == ["queued", "starting", "running", "failed"]
        assert (run.stage, run.error) == ("split", "The data set has no frauds.")

    def test_a_program_without_a_report(self, post):
        run = post.go_on(prepared("crash"))
        assert "ended without a report (exit status 139)" in run.error

    def test_a_machine_that_vanished(self, post, place):
        run = post.go_on(prepared("hang"), until="running")
        wait_until(lambda: starts(run.folder))
        place.kill_machine(run.handle)
        assert "its machine is gone" in post.go_on(run).error

    def test_cancelling_ends_the_program_before_the_run(self, post):
        run = post.go_on(prepared("stubborn"), until="running")
        wait_until(lambda: processes(run.folder))
        services.run_cancel(run, now=timezone.now(), by="ada")
        run = post.go_on(run, until="cancelled")
        assert processes(run.folder) == []
        assert run.events.filter(message="Cancelling was asked for.", by="ada").count() == 1
        post.go_on(run)


@pytest.mark.usefixtures("whole")
class TestWorkers:
    def test_of_two_that_pick_the_same_run_one_starts_it(self, post):
        run = prepared("succeed")
        barrier = threading.Barrier(4)

        def pick() -> None:
            barrier.wait()
            run_execute(str(run.pk), worker="some")

        threads = [threading.Thread(target=in_thread, args=(pick,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(starts(post.go_on(run).folder)) == 1
        assert timeline(run) == SUCCESS

    def test_a_dead_workers_run_goes_on_when_its_lease_has_passed(self, post, monkeypatch):
        run = prepared("succeed")
        with monkeypatch.context() as patch:
            # It dies as soon as the place has accepted: its answer never reaches the row.
            patch.setattr(execution.claims, "run_started", died)
            with pytest.raises(SystemExit):
                post.deliver("dead")
        wait_until(lambda: starts(run.folder))
        post.waiting.append((messages.STEP_RUN, str(run.pk)))
        post.deliver("two")
        assert TrainingRun.objects.get().claimed_by.startswith("dead:"), "it may still be at work"
        pass_time(run)
        run = post.go_on(run)
        assert timeline(run) == SUCCESS
        assert len(starts(run.folder)) == 1

    def test_what_is_started_after_the_end_is_ended(self, post, place):
        start, run = place.start, prepared("hang")

        def late(launch):
            transitions.move(
                run.pk, "starting", "cancelled", by="two", message="Meanwhile.", now=timezone.now()
            )
            post.deliver("two")
            handle = start(launch)
            wait_until(lambda: starts(run.folder))
            return handle

        place.start = late
        assert post.go_on(run).state == RunState.CANCELLED

    def test_a_lost_message_is_made_up_for(self, post):
        run = prepared("succeed")
        post.lose()
        assert timeline(post.go_on(run)) == SUCCESS

    def test_what_follows_an_end_is_made_up_for(self, post):
        run = post.go_on(prepared("fail"), until="failed")
        post.lose()
        services.runs_recover(now=timezone.now())
        assert post.waiting == []
        pass_time(run, seconds=61)
        services.runs_recover(now=timezone.now())
        assert post.waiting == [(messages.AFTER_RUN, str(run.pk))]
        assert post.go_on(run).settled_at

    def test_a_step_keeps_its_lease_as_long_as_it_takes(self, post, settings, monkeypatch):
        settings.TRAINING_LEASE_SECONDS = 1
        publish = registration.publish

        def slowly(*arguments):
            lease = TrainingRun.objects.get().lease_until
            wait_until(lambda: TrainingRun.objects.get().lease_until > lease, 10, "it is renewed")
            return publish(*arguments)

        monkeypatch.setattr(registration, "publish", slowly)
        assert timeline(post.go_on(prepared("succeed"))) == SUCCESS

    def test_a_fault_of_ours_is_tried_again(self, post, monkeypatch):
        run = post.go_on(prepared("succeed", seconds=0.3), until="running")
        heartbeat, faults = execution.claims.run_heartbeat, [ZeroDivisionError("by zero")]

        def broken(*arguments, **words):
            if faults:
                raise faults.pop()
            return heartbeat(*arguments, **words)

        monkeypatch.setattr(execution.claims, "run_heartbeat", broken)
        assert post.go_on(run).state == RunState.SUCCEEDED
        assert "The worker failed: ZeroDivisionError('by zero')." in messages_of(run)


@pytest.mark.usefixtures("whole")
class TestPlaceFaults:
    def test_what_passes_is_tried_again_and_told_once(self, post, place):
        place.faults["start"] = [AWAY, AWAY]
        run = post.go_on(prepared("hang"), until="running")
        place.faults["poll"] = [AWAY, REVOKED, AWAY]
        wait_until(lambda: next_step(post, run) and "It answers again." in messages_of(run))
        assert messages_of(run).count(str(AWAY)) == 2
        services.run_cancel(run, now=timezone.now())
        run = post.go_on(run)
        assert timeline(run) == ["queued", "starting", "running", "cancelled"]
        assert run.unreachable_since is None

    def test_a_start_that_is_refused_fails_at_once_in_their_words(self, post, place):
        (place.folder / "broken").touch()
        run = post.go_on(prepared("succeed"))
        assert timeline(run) == ["queued", "starting", "failed"]
        assert "could not be started: Quota exceeded for place_minutes" in run.error
        assert starts(run.folder) == []

    def test_an_accepted_start_whose_answer_is_lost_is_found(self, post, place):
        place.lost_answers = 1
        run = post.go_on(prepared("succeed"))
        assert timeline(run) == SUCCESS
        assert len(starts(run.folder)) == 1

    @pytest.mark.parametrize("verb", ["start", "poll"])
    def test_patience_ends(self, post, place, verb):
        run = prepared("hang")
        if verb == "poll":
            run = post.go_on(run, until="running")
        place.faults[verb] = [AWAY] * 100
        wait_until(lambda: post.deliver() or next_step(post, run).unreachable_since)
        pass_time(run, minutes=16)
        run = post.go_on(run)
        assert run.state == RunState.FAILED
        assert "currently unavailable. It was tried for 15 minutes" in run.error

    def test_a_report_decides_when_the_place_does_not_answer(self, post, place):
        run = post.go_on(prepared("succeed", seconds=0.2), until="running")
        place.faults["poll"] = [REVOKED] * 1000
        assert timeline(post.go_on(run)) == SUCCESS

    def test_a_busy_place_leaves_it_queued(self, post, place):
        (place.folder / "busy").touch()
        place.poll_seconds = 30
        run = prepared("succeed")
        post.deliver()
        run.refresh_from_db()
        assert (run.state, run.message) == (RunState.QUEUED, "Another run has the place.")
        (place.folder / "busy").unlink()
        place.poll_seconds = 0.05
        assert next_step(post, run).state == RunState.QUEUED
        run_execute(str(run.pk), worker="early")
        assert timeline(run) == ["queued", "starting", "queued"]
        pass_time(run)
        run = post.go_on(run)
        assert timeline(run) == ["queued", "starting", *SUCCESS]

    def test_how_long_a_place_was_away_is_counted_anew_after_the_queue(self, post, place):
        run = prepared("succeed")
        place.faults["start"] = [AWAY]
        post.deliver()
        (place.folder / "busy").touch()
        pass_time(run, minutes=10)
        assert next_step(post, run).state == RunState.QUEUED
        (place.folder / "busy").unlink()
        pass_time(run, minutes=10)
        place.faults["start"] = [AWAY]
        run = post.go_on(run)
        assert run.state == RunState.SUCCEEDED, run.error

    def test_what_waits_for_a_place_asks_again_when_a_run_there_has_ended(self, post, place):
        first = post.go_on(prepared("hang"), until="running")
        (place.folder / "busy").touch()
        second = prepared("fail", version="1.0.1")
        post.deliver()
        pass_time(second, hours=-1)
        (place.folder / "busy").unlink()
        services.run_cancel(first, now=timezone.now())
        post.go_on(first)
        assert post.go_on(second).state == RunState.FAILED

    def test_cancelling_what_waits_for_a_busy_place(self, post, place):
        (place.folder / "busy").touch()
        run = prepared("succeed")
        post.deliver()
        services.run_cancel(run, now=timezone.now())
        run = post.go_on(run)
        assert timeline(run) == ["queued", "starting", "queued", "cancelled"]
        assert starts(run.folder) == []

    def test_cancelling_is_tried_again(self, post, place):
        run = post.go_on(prepared("hang"), until="running")
        place.faults["cancel"] = [AWAY]
        services.run_cancel(run, now=timezone.now())
        assert post.go_on(run).state == RunState.CANCELLED

    def test_cancelling_ends_when_patience_does_and_says_what_is_left(self, post, place):
        run = post.go_on(prepared("hang"), until="running")
        place.faults["cancel"] = [REVOKED] * 3
        services.run_cancel(run, now=timezone.now())
        post.deliver()
        pass_time(run, minutes=16)
        run = post.go_on(run, until="cancelled")
        assert any("denied. It was tried for" in message for message in messages_of(run))
        post.deliver()
        assert f"Its place could not be cleared: {REVOKED}" in messages_of(run)
        assert settled_later(post, run).settled_at

    def test_a_bucket_that_does_not_answer_is_asked_again(self, post, monkeypatch):
        faults = [StoreUnavailable("The bucket can't be used.")] * 2
        publish = registration.publish

        def away(*arguments):
            if faults:
                raise faults.pop()
            return publish(*arguments)

        monkeypatch.setattr(registration, "publish", away)
        assert timeline(post.go_on(prepared("succeed"))) == SUCCESS

    def test_a_bucket_that_never_answers_fails_the_run(self, post, monkeypatch):
        def away(*_):
            raise StoreUnavailable("The bucket can't be used.")

        monkeypatch.setattr(registration, "publish", away)
        run = post.go_on(prepared("succeed"), until="running")
        wait_until(lambda: post.deliver() or next_step(post, run).unreachable_since)
        pass_time(run, minutes=16)
        assert "The bucket can't be used. It was tried for" in post.go_on(run).error


@pytest.mark.usefixtures("whole")
class TestSilence:
    def test_a_program_that_stops_beating_is_ended(self, post, settings):
        run = post.go_on(prepared("hang"), until="running")
        wait_until(lambda: next_step(post, run).heartbeat_at)
        os.kill(starts(run.folder)[0], signal.SIGSTOP)
        settings.TRAINING_SILENCE_SECONDS = 0.3
        run = post.go_on(run)
        assert run.state == RunState.FAILED
        assert "gave no sign of life since" in run.error

    def test_one_that_never_begins_is_given_longer(self, post, settings):
        settings.TRAINING_SILENCE_SECONDS = 0.0
        settings.TRAINING_FIRST_SIGN_SECONDS = 0.4
        run = post.go_on(prepared("silent"))
        assert run.state == RunState.FAILED
        assert run.finished_at - run.started_at > timedelta(seconds=0.4)

    @pytest.mark.parametrize("ahead", [3600.0, -3600.0])
    def test_a_machine_whose_clock_is_an_hour_off(self, post, settings, ahead):
        settings.TRAINING_SILENCE_SECONDS = settings.TRAINING_FIRST_SIGN_SECONDS = 20
        began = timezone.now()
        run = post.go_on(prepared("succeed", seconds=0.4, clock_ahead_s=ahead))
        assert timeline(run) == SUCCESS
        assert began < run.heartbeat_at < timezone.now()

    @pytest.mark.parametrize("ahead", [3600.0, -3600.0])
    def test_one_that_then_stops(self, post, settings, ahead):
        run = post.go_on(prepared("hang", clock_ahead_s=ahead), until="running")
        wait_until(lambda: next_step(post, run).heartbeat_at)
        os.kill(starts(run.folder)[0], signal.SIGSTOP)
        settings.TRAINING_SILENCE_SECONDS = 0.2
        assert "gave no sign of life" in post.go_on(run).error

    def test_a_silent_program_that_has_reported_is_believed(self, post, place, settings):
        run = post.go_on(prepared("succeed", seconds=0.1), until="running")
        wait_until(lambda: registration.read_report(run))
        place.poll = lambda handle: execution.claims.Seen()
        settings.TRAINING_SILENCE_SECONDS = settings.TRAINING_FIRST_SIGN_SECONDS = 0.4
        assert timeline(post.go_on(run)) == SUCCESS


@pytest.mark.usefixtures("whole")
class TestCancelAndSuccess:
    def test_cancelled_first(self, post, monkeypatch):
        run = prepared("succeed")
        verified = registration.version_verified

        def cancelled_meanwhile(**facts):
            services.run_cancel(run, now=timezone.now())
            return verified(**facts)

        monkeypatch.setattr(registration, "version_verified", cancelled_meanwhile)
        assert timeline(post.go_on(run))[-1] == "cancelled"

    def test_registered_first(self, post, monkeypatch):
        run = prepared("succeed")
        insert, refusals = registration.version_insert, []

        def cancel() -> None:
            try:
                services.run_cancel(run, now=timezone.now())
            except RunRefused as refusal:
                refusals.append(str(refusal))

        def cancelled_meanwhile(row):
            insert(row)
            cancelling = threading.Thread(target=in_thread, args=(cancel,))
            cancelling.start()
            cancelling.join(0.3)
            assert cancelling.is_alive(), "it waits for the end of the registration"
            threads.append(cancelling)

        threads: list[threading.Thread] = []
        monkeypatch.setattr(registration, "version_insert", cancelled_meanwhile)
        assert timeline(post.go_on(run)) == SUCCESS
        threads[0].join(10)
        assert refusals == ["This run has already ended: it has succeeded."]

    def test_at_the_same_time(self, post):
        run = post.go_on(prepared("succeed"), until="running")
        wait_until(lambda: not processes(run.folder) and starts(run.folder))
        barrier = threading.Barrier(2)

        def cancel() -> None:
            barrier.wait()
            try:
                services.run_cancel(run, now=timezone.now())
            except RunRefused:
                return

        cancelling = threading.Thread(target=in_thread, args=(cancel,))
        cancelling.start()
        barrier.wait()
        run = post.go_on(run)
        cancelling.join(10)
        assert run.state in (RunState.SUCCEEDED, RunState.CANCELLED)


class TestCancelling:
    def test_one_that_is_about_to_start_does_not(self, post, place):
        place.faults["start"] = [AWAY]
        run = prepared("hang")
        post.deliver()
        services.run_cancel(run, now=timezone.now())
        run = post.go_on(run)
        assert timeline(run) == ["queued", "starting", "cancelled"]
        assert messages_of(run)[-1] == "It was cancelled before it started."
        assert starts(run.folder) == []

    def test_what_may_have_been_started_is_ended(self, post, place):
        place.lost_answers = 1
        run = prepared("hang")
        post.deliver()
        wait_until(lambda: processes(run.folder))
        place.faults["find"] = [AWAY]
        services.run_cancel(run, now=timezone.now())
        run = post.go_on(run)
        assert timeline(run) == ["queued", "starting", "cancelled"]
        wait_until(lambda: not processes(run.folder), 5, "its program ends")


class TestAfter:
    def test_a_place_that_is_away_is_cleared_later_and_all_else_at_once(
        self, post, place, monkeypatch
    ):
        calls = []
        monkeypatch.setattr(after, "HOOKS", (lambda run, now: calls.append(run.pk),))
        place.faults["cancel"] = [AWAY, AWAY]
        run = post.go_on(prepared("succeed"), until="succeeded")
        post.deliver()
        assert (calls, settled(run)) == ([run.pk], False)
        services.runs_recover(now=timezone.now() + timedelta(seconds=59))
        assert post.waiting == []
        assert not settled_later(post, run).settled_at
        assert settled_later(post, run).settled_at
        assert (calls, place.faults["cancel"]) == ([run.pk] * 3, [])
        told = [message for message in messages_of(run) if "not be cleared" in message]
        assert told == [f"Its place could not be cleared: {AWAY}"]

    def test_after_a_day_what_is_left_is_told_and_the_run_settled(self, post, place, monkeypatch):
        def broken(run, now):
            raise ZeroDivisionError("by zero")

        monkeypatch.setattr(after, "HOOKS", (broken,))
        place.faults["cancel"] = [REVOKED] * 5
        run = post.go_on(prepared("succeed"), until="succeeded")
        post.lose()
        pass_time(run, days=1)
        services.runs_recover(now=timezone.now())
        post.deliver()
        assert settled(run)
        assert messages_of(run)[-2:] == [
            f"Its place could not be cleared: {REVOKED}",
            "What follows its end could not be done: ZeroDivisionError('by zero')",
        ]

    def test_what_was_started_for_a_run_that_failed_meanwhile_is_ended(self, post, place):
        run = prepared("hang")
        place.lost_answers = 1
        post.deliver()
        wait_until(lambda: processes(run.folder))
        place.faults["start"] = [REVOKED]
        place.faults["find"] = [AWAY]
        pass_time(run)
        run = post.go_on(run, until="failed") if next_step(post, run) else run
        post.deliver()
        assert (run.handle, settled(run)) == ("", False)
        assert settled_later(post, run).settled_at
        wait_until(lambda: not processes(run.folder), 5, "its program ends")

    def test_its_lease_is_kept_as_long_as_it_takes(self, post, settings, monkeypatch):
        settings.TRAINING_LEASE_SECONDS = 1

        def slowly(run, now):
            lease = TrainingRun.objects.get().lease_until
            wait_until(lambda: TrainingRun.objects.get().lease_until > lease, 10, "it is renewed")

        monkeypatch.setattr(after, "HOOKS", (slowly,))
        assert post.go_on(prepared("fail")).settled_at

    def test_a_worker_that_was_paused_settles_nothing_any_more(self, post, monkeypatch):
        run = post.go_on(prepared("fail"), until="failed")
        results = []

        def paused(run, now):
            monkeypatch.setattr(after, "HOOKS", ())
            later = now + timedelta(minutes=1)
            results.append(after.run_ended(str(run.pk), worker="two", now=later))

        monkeypatch.setattr(after, "HOOKS", (paused,))
        results.append(after.run_ended(str(run.pk), worker="one", now=timezone.now()))
        assert results == [True, False]

    def test_what_raises_is_called_again(self, post, monkeypatch):
        calls = []

        def hook(run, now):
            calls.append(run.state)
            if len(calls) == 1:
                raise ZeroDivisionError

        monkeypatch.setattr(after, "HOOKS", (hook,))
        run = post.go_on(prepared("fail"), until="failed")
        with pytest.raises(ZeroDivisionError):
            post.deliver()
        assert TrainingRun.objects.get().settled_at is None
        pass_time(run, seconds=61)
        services.runs_recover(now=timezone.now())
        post.go_on(run)
        assert calls == ["failed", "failed"]

    def test_it_is_done_once(self, post, monkeypatch):
        calls = []
        monkeypatch.setattr(after, "HOOKS", (lambda run, now: calls.append(run.pk),))
        run = post.go_on(prepared("fail"))
        assert not after.run_ended(str(run.pk), worker="late", now=timezone.now())
        assert calls == [run.pk]

    def test_a_local_run_is_settled_too(self, post):
        run = make_run()
        services.run_cancel(run, now=timezone.now())
        assert post.go_on(run).settled_at


class TestPlaces:
    def test_a_place_elsewhere_needs_the_bucket(self, settings):
        settings.GOOGLE_CLOUD_PROJECT = "test-project"
        with pytest.raises(RunRefused, match="DATA_DIR, RUNS_DIR, ARTIFACTS_DIR") as refusal:
            make_run(launcher="vm")
        assert [error.field for error in refusal.value.errors] == ["launcher"]

    def test_an_unknown_place(self):
        with pytest.raises(RunRefused, match="There is no launcher “moon”"):
            make_run(launcher="moon")

    def test_starting_again_keeps_the_place_and_what_it_gives(self, post):
        run = make_run(launcher="detached", resources={"cpu": 1})
        services.run_cancel(run, now=timezone.now())
        again = services.run_restart(run)
        assert (again.launcher, again.resources) == ("detached", {"cpu": 1})


def settled(run: TrainingRun) -> bool:
    return TrainingRun.objects.get(pk=run.pk).settled_at is not None


def settled_later(post: Post, run: TrainingRun) -> TrainingRun:
    """The run after beat has sent its end again."""
    pass_time(run, seconds=61)
    services.runs_recover(now=timezone.now())
    post.deliver()
    return TrainingRun.objects.get(pk=run.pk)


def next_step(post: Post, run: TrainingRun) -> TrainingRun:
    services.runs_step(now=timezone.now())
    post.deliver()
    return TrainingRun.objects.get(pk=run.pk)


def died(*_, **__):
    raise SystemExit
