"""The tests' own detached launcher passes the suite that it is a reference for."""

import pytest

from tests.training.launchers.conformance import LauncherConformance, Place
from tests.training.launchers.detached import DetachedLauncher


class DetachedPlace(Place):
    def another_launcher(self):
        return DetachedLauncher(self.launcher.folder)

    def kill_machine(self, handle):
        self.launcher.kill_machine(handle)


class TestDetached(LauncherConformance):
    @pytest.fixture
    def place(self, tmp_path):
        (tmp_path / "place").mkdir()
        launcher = DetachedLauncher(tmp_path / "place")
        yield DetachedPlace(launcher, str(tmp_path / "runs"))
        launcher.close()
