"""What every launcher does, whatever its place: one suite that all of them pass.

To plug a launcher in, write a `Place` and subclass the suite in a test module of its own:

    class TestMine(LauncherConformance):
        @pytest.fixture
        def place(self, tmp_path):
            return MyPlace(...)

The place runs `program.py` (beside this file) instead of the training program: give it that command
as its container's or its start-up script's, with RUN_FOLDER in the environment or as its argument.
What the program does is in the run folder, and it leaves its process ids there, so the suite can
tell how often it was started and whether it still runs. Run folders may be local or in a bucket.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from engine.store import Store, open_store
from tests.training.support import is_alive, wait_until
from training.launchers import Launch, Launcher, Seen


class Place:
    """A launcher, and what the suite must be able to do around it.

    Args:
        launcher: on a place that is free and knows no run.
        runs: where run folders are made, a path or gs://bucket/prefix.
        resources: as the launcher takes them.
    """

    unknown_handle = "nobody-knows-it"
    """A handle of the launcher's own form that belongs to no run."""
    pause = 0.02
    """Between two looks, in seconds."""
    patience = 20.0
    """How long the suite waits for anything, in seconds."""

    def __init__(
        self, launcher: Launcher, runs: str, resources: Mapping[str, Any] | None = None
    ) -> None:
        self.launcher = launcher
        self.runs = runs
        self.resources = dict(resources or {})

    def another_launcher(self) -> Launcher:
        """The launcher as another worker has it, who knows nothing but the handle."""
        raise NotImplementedError

    def kill_machine(self, handle: str) -> None:
        """Make what runs the program vanish, as when a machine is deleted by hand."""
        raise NotImplementedError

    def launch(self, does: str, **more: Any) -> Launch:
        """A new run folder, for a program that does this (see program.py)."""
        run_id = str(uuid.uuid4())
        folder = f"{self.runs}/{run_id}"
        write_behaviour(open_store(folder), does, **more)
        return Launch(run_id, folder, "fraud", "1.0.0", self.resources)

    def ended(self, handle: str) -> Seen:
        """What the launcher says once the program has ended."""

        def over() -> Seen | None:
            seen = self.launcher.poll(handle)
            time.sleep(0 if seen.ended else self.pause)
            return seen if seen.ended else None

        seen: Seen = wait_until(over, self.patience, "the program ends")
        return seen

    def at_work(self, launch: Launch) -> None:
        """Wait until the program has started."""
        folder = open_store(launch.folder)
        wait_until(lambda: folder.exists("progress.json"), self.patience, "the program starts")


def write_behaviour(folder: Store, does: str, **more: Any) -> None:
    """Say what the stand-in does: succeed, fail, crash, hang, stubborn (ignores SIGTERM and has a
    child) or silent (hangs without a heartbeat); with `seconds` and `clock_ahead_s`."""
    folder.write("spec.json", b"{}")
    folder.write("behaviour.json", json.dumps({"does": does, **more}).encode())


def starts(location: str) -> list[int]:
    """The process ids of the programs that were started on a run folder."""
    folder = open_store(location)
    names = [name for name in folder.list("starts") if "program" in name]
    return [int(folder.read(name)) for name in names]


def processes(location: str) -> list[int]:
    """The processes of a run folder's programs that still run, children included."""
    folder = open_store(location)
    pids = [int(folder.read(name)) for name in folder.list("starts")]
    return [pid for pid in pids if is_alive(pid)]


class LauncherConformance:
    """Subclasses give the fixture `place`."""

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError

    def test_a_program_that_succeeds(self, place):
        launch = place.launch("succeed")
        handle = place.launcher.start(launch)
        assert isinstance(handle, str)
        assert 0 < len(handle) <= 500
        seen = place.ended(handle)
        assert report(launch)["status"] == "succeeded"
        assert seen.started_at is not None
        assert seen.ended_at is not None
        assert seen.started_at <= seen.ended_at
        assert place.launcher.poll(handle) == seen, "it stays as it ended"

    @pytest.mark.parametrize("does", ["fail", "crash"])
    def test_a_program_that_does_not(self, place, does):
        launch = place.launch(does)
        handle = place.launcher.start(launch)
        assert place.ended(handle).ended
        assert (report(launch) is None) == (does == "crash")
        assert len(starts(launch.folder)) >= 1

    def test_its_log_has_what_the_program_wrote_and_printed(self, place):
        launch = place.launch("crash")
        handle = place.launcher.start(launch)
        place.ended(handle)
        folder = open_store(launch.folder)
        wait_until(
            lambda: "Segmentation fault" in place.launcher.logs(handle, folder), place.patience
        )
        assert "the program has started\n" in place.launcher.logs(handle, folder)

    def test_its_progress_is_in_the_run_folder_while_it_runs(self, place):
        launch = place.launch("hang")
        handle = place.launcher.start(launch)
        place.at_work(launch)
        first = heartbeat(launch)
        wait_until(lambda: heartbeat(launch) != first, place.patience, "another heartbeat")
        assert place.launcher.poll(handle).ended is None
        place.launcher.cancel(handle)

    def test_what_was_started_is_found_not_started_again(self, place):
        launch = place.launch("hang")
        handle = place.launcher.start(launch)
        place.at_work(launch)
        assert place.launcher.start(launch) == handle
        if not place.launcher.is_attached:
            assert place.another_launcher().start(launch) == handle
        assert len(starts(launch.folder)) == 1
        place.launcher.cancel(handle)

    def test_what_was_started_is_told_and_starts_nothing(self, place):
        launch = place.launch("hang")
        assert place.launcher.find(launch) == ""
        handle = place.launcher.start(launch)
        place.at_work(launch)
        assert place.launcher.find(launch) == handle
        if not place.launcher.is_attached:
            assert place.another_launcher().find(launch) == handle
        assert place.launcher.find(place.launch("hang")) == ""
        assert len(starts(launch.folder)) == 1
        place.launcher.cancel(handle)

    def test_what_has_ended_is_found_too(self, place):
        launch = place.launch("succeed")
        handle = place.launcher.start(launch)
        place.ended(handle)
        assert place.launcher.start(launch) == handle
        assert place.ended(handle).ended
        assert len(starts(launch.folder)) == 1

    def test_of_two_starts_at_once_one_runs(self, place):
        launch = place.launch("hang")
        launchers: list[Launcher] = [place.launcher, place.launcher]
        if not place.launcher.is_attached:
            launchers[1] = place.another_launcher()
        handles = at_once([lambda one=one: one.start(launch) for one in launchers])
        assert handles[0] == handles[1]
        place.at_work(launch)
        assert len(starts(launch.folder)) == 1
        place.launcher.cancel(handles[0])

    @pytest.mark.parametrize("does", ["hang", "stubborn"])
    def test_cancelling_leaves_nothing_and_can_be_repeated(self, place, does):
        launch = place.launch(does)
        handle = place.launcher.start(launch)
        place.at_work(launch)
        place.launcher.cancel(handle)
        wait_until(lambda: not processes(launch.folder), place.patience, "its processes end")
        assert place.ended(handle).ended
        place.launcher.cancel(handle)
        assert len(starts(launch.folder)) == 1

    def test_cancelling_what_has_ended_changes_nothing(self, place):
        launch = place.launch("succeed")
        handle = place.launcher.start(launch)
        place.ended(handle)
        place.launcher.cancel(handle)
        place.launcher.cancel(handle)
        assert report(launch)["status"] == "succeeded"

    def test_a_machine_that_vanishes_has_ended(self, place):
        launch = place.launch("hang")
        handle = place.launcher.start(launch)
        place.at_work(launch)
        place.kill_machine(handle)
        assert place.ended(handle).ended
        place.launcher.cancel(handle)
        wait_until(lambda: not processes(launch.folder), place.patience, "its processes end")
        assert report(launch) is None

    def test_a_handle_that_nobody_knows_has_ended(self, place):
        assert place.launcher.poll(place.unknown_handle).ended
        place.launcher.cancel(place.unknown_handle)

    def test_another_worker_goes_on_with_the_handle(self, place):
        if place.launcher.is_attached:
            pytest.skip("the program ends with its worker")
        launch = place.launch("hang")
        handle = place.launcher.start(launch)
        place.at_work(launch)
        another = place.another_launcher()
        assert another.poll(handle).ended is None
        assert "has started" in another.logs(handle, open_store(launch.folder))
        another.cancel(handle)
        assert place.ended(handle).ended
        wait_until(lambda: not processes(launch.folder), place.patience, "its processes end")


def report(launch: Launch) -> dict[str, Any] | None:
    folder = open_store(launch.folder)
    return json.loads(folder.read("report.json")) if folder.exists("report.json") else None


def heartbeat(launch: Launch) -> str:
    text: str = json.loads(open_store(launch.folder).read("progress.json"))["heartbeat_at"]
    return text


def at_once(works: list[Callable[[], Any]]) -> list[Any]:
    """What each of them gives, all called at the same time."""
    results: list[Any] = [None] * len(works)
    barrier = threading.Barrier(len(works))

    def one(n: int) -> None:
        barrier.wait()
        results[n] = works[n]()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
