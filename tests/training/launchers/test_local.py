"""The local launcher: the conformance suite, and the limits it gives."""

import os
import signal
from pathlib import Path

import pytest

from engine.store import open_store
from tests.training.launchers.conformance import LauncherConformance, Place, processes, starts
from tests.training.launchers.detached import PROGRAM
from training.launchers.local import LocalLauncher


class LocalPlace(Place):
    def kill_machine(self, handle):
        os.killpg(int(handle.split(":")[1]), signal.SIGKILL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("training.launchers.local.GRACE_SECONDS", 0.3)
    return LocalPlace(LocalLauncher(program=(str(PROGRAM),)), str(tmp_path))


class TestLocal(LauncherConformance):
    @pytest.fixture
    def place(self, place):
        return place


def test_it_uses_no_more_cores_than_it_was_given(place):
    place.resources = {"cpu": 1}
    launch = place.launch("hang")
    handle = place.launcher.start(launch)
    place.at_work(launch)
    [pid] = starts(launch.folder)
    assert len(os.sched_getaffinity(pid)) == 1
    environment = Path(f"/proc/{pid}/environ").read_text()
    assert "OMP_NUM_THREADS=1\0" in environment
    assert "NUMBA_NUM_THREADS=1\0" in environment
    place.launcher.cancel(handle)


def test_it_is_ended_above_its_memory_in_words(place):
    place.resources = {"memory_mb": 5}
    launch = place.launch("stubborn")
    handle = place.launcher.start(launch)
    seen = place.ended(handle)
    assert "MB of memory, and its limit is 5 MB" in seen.ended
    place.launcher.cancel(handle)
    assert processes(launch.folder) == []
    assert not open_store(launch.folder).exists("report.json")
