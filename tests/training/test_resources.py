"""What a run is given: what people write, what is refused, and how it is shown."""

import pytest

from engine.errors import RunRefused
from training.launchers.resources import (
    CloudRunResources,
    LocalResources,
    VmResources,
    about_time,
    describe_resources,
    resources_for,
)


@pytest.fixture(autouse=True)
def _project(settings):
    settings.GOOGLE_CLOUD_PROJECT = "shop"


def test_the_settings_are_the_defaults(settings):
    assert resources_for("cloud-run") == CloudRunResources(
        project="shop", region="europe-west1", job="sentinelle-training",
        cpu=8, memory_mb=8192, timeout_s=7200, retries=1,
    )  # fmt: skip
    settings.TRAINING_VM_TYPE = "e2-small"
    vm = resources_for("vm", {"disk_gb": 50, "machine_type": None})
    assert (vm.machine_type, vm.disk_gb, vm.zone) == ("e2-small", 50, "us-central1-a")


def test_too_little_memory_to_train_with_is_refused_with_the_figure():
    assert resources_for("local", {"memory_mb": "256Mi"}).memory_mb == 256
    with pytest.raises(RunRefused, match=r"10 MB is too little .* 256 MB or more") as refused:
        resources_for("local", {"memory_mb": "10Mi"})
    assert refused.value.errors[0].field == "memory_mb"


def test_memory_may_be_given_as_a_text():
    assert resources_for("cloud-run", {"memory_mb": "16Gi"}).memory_mb == 16_384


@pytest.mark.parametrize(
    ("launcher", "values", "said"),
    [
        ("cloud-run", {"cpu": 0}, "cpu"),
        ("cloud-run", {"memory_mb": "16 bananas"}, "16 bananas"),
        ("cloud-run", {"retries": 11}, "retries"),
        ("cloud-run", {"cpu": 3}, "Cloud Run has 1, 2, 4, 6 or 8"),
        ("cloud-run", {"cpu": 2, "memory_mb": "16Gi"}, "2 processors may have 512Mi to 8Gi"),
        ("cloud-run", {"timeout_s": 700_000}, "allowed are 1 to 604800"),
        ("vm", {"cpu": 4}, "cpu"),
        ("vm", {"max_run_s": 10}, "max_run_s"),
        ("local", {"disk_gb": 4}, "no disk_gb here; there is cpu, memory_mb."),
        ("pigeon", {}, "there is local, cloud-run, vm"),
    ],
    ids=[
        "cpu",
        "memory",
        "retries",
        "3-cpu",
        "too-much",
        "too-long",
        "not-of-vm",
        "too-short",
        "not-of-local",
        "launcher",
    ],
)
def test_what_a_place_can_not_give_is_refused_by_name(launcher, values, said):
    with pytest.raises(RunRefused) as refusal:
        resources_for(launcher, values)
    assert said in refusal.value.detail


def test_a_cloud_needs_a_project(settings):
    settings.GOOGLE_CLOUD_PROJECT = ""
    with pytest.raises(RunRefused, match="needs GOOGLE_CLOUD_PROJECT"):
        resources_for("vm")


def test_in_words():
    assert describe_resources(resources_for("cloud-run")) == (
        "8 vCPU, 8Gi, at most 2 h, 1 retry; job sentinelle-training in europe-west1"
    )
    assert describe_resources(
        VmResources(project="shop", zone="us-central1-a", machine="ml-training-vm")
    ) == ("e2-micro, 30 GB disk, at most 6 h; machine ml-training-vm in us-central1-a")
    assert describe_resources(LocalResources()) == "all cores, no limit of memory; this machine"
    assert describe_resources(LocalResources(cpu=4, memory_mb=6_144)) == (
        "4 cores, at most 6Gi; this machine"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "1 s"), (45.2, "45 s"), (125, "2 min"), (3600, "1 h"), (4_800, "1 h 20 min")],
)
def test_times_in_words(seconds, words):
    assert about_time(seconds) == words
