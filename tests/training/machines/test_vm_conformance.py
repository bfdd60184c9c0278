"""The vm launcher passes the suite of every launcher."""

import pytest

from tests.training.launchers.conformance import LauncherConformance, Place
from tests.training.machines.conftest import MACHINE, PROJECT, RESOURCES, ZONE
from training.launchers.vm import VmLauncher


class MachinePlace(Place):
    """A local Compute Engine without a machine; the first start makes it."""

    unknown_handle = f"projects/{PROJECT}/zones/{ZONE}/instances/nobody?run=none&folder=gs://b/none"

    def __init__(self, compute, bucket):
        super().__init__(_launcher(), f"gs://{bucket}/runs", RESOURCES)
        self.compute = compute

    def another_launcher(self):
        return _launcher()

    def kill_machine(self, handle):
        assert MACHINE in handle
        self.compute.delete_by_hand(MACHINE)


def _launcher():
    return VmLauncher(wait_seconds=5.0, every=0.01)


class TestVm(LauncherConformance):
    @pytest.fixture
    def place(self, compute, cloud_folders):
        compute.grace_s = 0.5
        return MachinePlace(compute, cloud_folders)
