"""The vm launcher on machines that really boot: one run, from its start to the machine's off."""

import json
import threading

import pytest

from deployments.gcp import machines
from deployments.gcp.errors import CloudError
from engine.store import open_store
from tests.training.machines.conftest import MACHINE, PROJECT, ZONE, ended, until
from training.launchers.base import PlaceBusy
from training.launchers.resources import VmResources
from training.launchers.vm import VmLauncher
from training.machines import machine_create


def folder_of(run):
    return open_store(run.folder)


def starts(compute):
    """How often a machine was made or started."""
    ends = ("/instances", "/start")
    return sum(call.startswith("POST") and call.endswith(ends) for call in compute.google.calls)


def at_work(run):
    return until(lambda: folder_of(run).exists("progress.json"))


@pytest.mark.parametrize("image", ["sentinelle", ""], ids=["container", "program"])
def test_a_run_trains_and_the_machine_is_off(compute, launcher, launch, image):
    run = launch(image)
    handle = launcher.start(run)
    assert compute.metadata_of(MACHINE)["sentinelle-run"] == run.run_id
    seen = ended(launcher, handle)
    log = launcher.logs(handle, folder_of(run))
    assert json.loads(folder_of(run).read("report.json"))["status"] == "succeeded", log
    assert seen.ended.startswith("exit status 0")
    assert seen.started_at < seen.ended_at
    assert compute.running() == []
    assert "succeeded" in log
    launcher.cancel(handle)
    assert "sentinelle-run" not in compute.metadata_of(MACHINE)
    assert folder_of(run).exists("bundle/manifest.json")


def test_the_program_and_its_libraries_stay_on_the_disk(compute, launcher, launch):
    first, second = launch(""), launch("")
    told = []
    for run in (first, second):
        folder_of(run).delete("spec.json")  # it has nothing to train
        handle = launcher.start(run)
        assert "There is no spec.json" in ended(launcher, handle).ended
        launcher.cancel(handle)
        told.append(" | ".join(compute.machine(MACHINE).commands))
    assert "pip install" in told[0]
    assert "--only-binary=:all:" in told[0]
    assert "mkswap" in told[0]  # it has 1 GB
    assert "pip install" not in told[1]
    assert "mkswap" not in told[1]
    assert "swapon" in told[1]


def test_swap_that_could_not_be_made_is_made_at_the_next_boot(compute, launcher, stand_in):
    compute.failing = {"mkswap"}
    handle = launcher.start(stand_in("succeed"))
    assert ended(launcher, handle).ended.startswith("exit status 0")
    assert "There is no swap." in compute.machine(MACHINE).printed()
    compute.failing = set()
    launcher.cancel(handle)
    ended(launcher, launcher.start(stand_in("succeed")))
    told = " | ".join(compute.machine(MACHINE).commands)
    assert "mkswap" in told
    assert "swapon" in told


def test_the_images_of_other_releases_leave_the_disk_before_one_is_fetched(
    compute, launcher, stand_in
):
    compute.images.add("newer")
    told = []
    for image in ("sentinelle", "newer", "newer"):
        run = stand_in("succeed", image=image)
        handle = launcher.start(run)
        ended(launcher, handle)
        launcher.cancel(handle)
        commands = compute.machine(MACHINE).commands
        told.append([one for one in commands if one.startswith(("docker image prune", "docker p"))])
    everything, dangling = "docker image prune --all --force", "docker image prune --force"
    assert told[1:] == [
        [everything, "docker pull newer", dangling],
        ["docker pull newer", dangling],
    ]


@pytest.mark.parametrize("name", ["sentinelle-run", "sentinelle-env"])
def test_an_attribute_that_cannot_be_read_is_not_taken_for_absent(
    compute, launcher, stand_in, name
):
    compute.hidden = {name}
    run = stand_in("succeed")
    assert ended(launcher, launcher.start(run)).ended
    printed = compute.machine(MACHINE).printed()
    assert f"The machine's attribute {name} can't be read: HTTP status 403." in printed
    assert "There is no run" not in printed
    assert "exit status 1" in printed
    assert not folder_of(run).exists("progress.json")


def test_the_image_is_fetched_with_the_machines_own_token(compute, launcher, launch):
    image = "europe-west1-docker.pkg.dev/test-project/sentinelle/app"
    compute.images.add(image)
    run = launch(image)
    folder_of(run).delete("spec.json")  # it has nothing to train
    ended(launcher, launcher.start(run))
    told = " | ".join(compute.machine(MACHINE).commands)
    assert "docker login --username oauth2accesstoken" in told
    assert "https://europe-west1-docker.pkg.dev" in told
    assert "--memory 800m" in told


def test_a_second_start_finds_the_first(compute, launcher, stand_in):
    run = stand_in("hang")
    handle = launcher.start(run)
    at_work(run)
    again = VmLauncher(every=0.01).start(run)
    assert starts(compute) == 1
    assert launcher.poll(again).ended is None
    launcher.cancel(again)
    assert launcher.poll(handle).ended is not None


@pytest.mark.parametrize("exists", [False, True], ids=["new-machine", "old-machine"])
def test_a_start_whose_answer_is_lost_is_found_again(compute, launcher, stand_in, exists):
    if exists:
        compute.add_foreign(MACHINE)
    run = stand_in("succeed")
    compute.delay_s = 0.3
    compute.google.fault(r"POST .*/start$" if exists else r"POST .*/instances$", "late")
    with pytest.raises(CloudError) as lost:
        launcher.start(run)
    assert lost.value.is_transient
    assert compute.status(MACHINE) == "PROVISIONING"
    handle = launcher.start(run)
    assert starts(compute) == 1
    assert ended(launcher, handle).ended.startswith("exit status 0")
    # Also when the run is over by the time that somebody asks again.
    assert launcher.poll(launcher.start(run)).ended.startswith("exit status 0")
    assert starts(compute) == 1


def test_a_run_waits_for_the_machine_of_another(compute, launcher, stand_in):
    first, second = stand_in("hang"), stand_in("succeed")
    held = launcher.start(first)
    with pytest.raises(PlaceBusy, match=first.run_id):
        launcher.start(second)
    launcher.cancel(held)
    until(lambda: compute.status(MACHINE) == "TERMINATED")
    handle = launcher.start(second)
    launcher.cancel(held)  # which must not touch what is another's now
    assert ended(launcher, handle).ended.startswith("exit status 0")


def test_of_runs_that_want_the_machine_at_once_one_gets_it(compute, stand_in):
    compute.add_foreign(MACHINE)
    runs = [stand_in("hang") for _ in range(4)]
    got: list[str] = []
    refused: list[Exception] = []
    gate = threading.Barrier(len(runs))

    def start(run):
        gate.wait()
        try:
            got.append(VmLauncher(every=0.01).start(run))
        except (PlaceBusy, CloudError) as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1, (got, refused)
    assert all(isinstance(error, PlaceBusy) for error in refused)
    assert compute.metadata_of(MACHINE)["sentinelle-run"] in got[0]


def test_a_run_waits_until_a_machine_that_somebody_uses_is_off(compute, launcher, stand_in):
    machine_create(VmResources(project=PROJECT, zone=ZONE, machine=MACHINE), keep=True)
    with pytest.raises(PlaceBusy, match=r"is RUNNING for no run \(manage.py vm stop\)"):
        launcher.start(stand_in("succeed"))


@pytest.mark.parametrize("is_let_go", [False, True], ids=["taken", "free"])
def test_a_run_that_waits_for_a_suspended_machine_says_what_to_do(
    compute, launcher, stand_in, is_let_go
):
    run = stand_in("hang")
    held = launcher.start(run)
    at_work(run)
    compute.suspend(MACHINE)
    assert "somebody suspended the machine" in launcher.poll(held).ended
    if is_let_go:
        launcher.cancel(held)
    with pytest.raises(PlaceBusy, match="resume it and stop it, or delete it"):
        launcher.start(stand_in("succeed"))


def test_a_run_that_is_over_keeps_no_machine(compute, launcher, stand_in):
    first, second = stand_in("succeed"), stand_in("succeed")
    ended(launcher, launcher.start(first))  # and nobody cancels
    assert ended(launcher, launcher.start(second)).ended.startswith("exit status 0")


def test_a_machine_made_otherwise_gets_label_limit_and_type(compute, launcher, stand_in):
    compute.add_foreign(MACHINE)
    ended(launcher, launcher.start(stand_in("succeed", machine_type="e2-small")))
    instance = compute.instance(MACHINE)
    assert dict(instance.labels) == {"sentinelle": "training"}
    assert instance.scheduling.max_run_duration.seconds == 3600
    assert instance.scheduling.instance_termination_action == "STOP"
    assert instance.machine_type.endswith("/e2-small")


def test_a_machine_is_taken_only_once_the_guard_can_see_it(compute, launcher, stand_in):
    compute.add_foreign(MACHINE)
    words = "Required 'compute.instances.setLabels' permission for 'projects/test-project'"
    compute.google.fault("/setLabels", "PERMISSION_DENIED", words)
    with pytest.raises(CloudError, match="setLabels"):
        launcher.start(stand_in("succeed"))
    assert "sentinelle-run" not in compute.metadata_of(MACHINE)


def test_a_machine_that_restarts_goes_on_with_its_run(compute, launcher, stand_in):
    run = stand_in("hang")
    handle = launcher.start(run)
    at_work(run)
    folder_of(run).delete("progress.json")
    compute.reset(MACHINE)
    at_work(run)
    assert launcher.poll(handle).ended is None
    assert "the program has started" in launcher.logs(handle, folder_of(run))
    assert f"sentinelle: Run {run.run_id}" in launcher.logs(handle, folder_of(run))
    launcher.cancel(handle)
    until(lambda: not compute.running())


# --- Faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "image", "words"),
    [
        ("crash", "stand-in", "exit status 139: Segmentation fault in a library"),
        ("succeed", "not-built", "manifest unknown"),
    ],
    ids=["crash", "no-image"],
)
def test_an_end_is_told_in_words(compute, launcher, stand_in, does, image, words):
    run = stand_in(does, image=image)
    handle = launcher.start(run)
    assert words in ended(launcher, handle).ended
    assert compute.running() == []
    assert words.rpartition(": ")[2] in launcher.logs(handle, folder_of(run))


def test_a_machine_deleted_by_hand_is_told(compute, launcher, stand_in):
    run = stand_in("hang")
    handle = launcher.start(run)
    at_work(run)
    compute.delete_by_hand(MACHINE)
    assert "somebody deleted it" in launcher.poll(handle).ended
    launcher.cancel(handle)


def test_a_program_that_hangs_is_ended_by_google(compute, launcher, stand_in):
    compute.speed, compute.grace_s = 600.0, 0.1
    run = stand_in("stubborn", max_run_s=1800)
    handle = launcher.start(run)
    seen = ended(launcher, handle)
    assert "after its longest run of 0:30:00" in seen.ended
    assert compute.running() == []


def test_a_cancel_ends_the_program_and_can_be_repeated(compute, launcher, stand_in):
    run = stand_in("hang")
    handle = launcher.start(run)
    at_work(run)
    launcher.cancel(handle)
    launcher.cancel(handle)
    until(lambda: not compute.running())
    heartbeat = folder_of(run).read("progress.json")
    assert "sentinelle-run" not in compute.metadata_of(MACHINE)
    assert folder_of(run).read("progress.json") == heartbeat


def test_no_capacity_is_told_and_a_later_start_works(compute, launcher, stand_in):
    compute.stockout(2)
    run = stand_in("succeed")
    with pytest.raises(CloudError, match="another zone") as error:
        launcher.start(run)
    assert (error.value.reason, error.value.is_transient) == ("capacity", True)
    compute.add_foreign(MACHINE)
    with pytest.raises(CloudError, match="another zone"):
        launcher.start(run)
    assert ended(launcher, launcher.start(run)).ended.startswith("exit status 0")


def test_no_capacity_that_is_known_late_ends_the_run(compute, stand_in):
    compute.delay_s = 0.5
    compute.stockout()
    launcher = VmLauncher(wait_seconds=0.0, every=0.01)
    handle = launcher.start(stand_in("succeed"))
    assert launcher.poll(handle).message == f"Starting the machine {MACHINE}"
    assert "does not have enough resources" in ended(launcher, handle).ended


def test_a_permission_that_is_revoked_in_mid_run_is_told(compute, launcher, stand_in):
    run = stand_in("hang")
    handle = launcher.start(run)
    at_work(run)
    words = "Required 'compute.instances.get' permission for 'projects/test-project'"
    compute.google.fault("GET .*/instances/", "PERMISSION_DENIED", words)
    with pytest.raises(CloudError) as error:
        launcher.poll(handle)
    assert (error.value.reason, error.value.is_transient) == ("permission", False)
    assert words in error.value.detail
    assert "roles/compute.instanceAdmin.v1" in error.value.detail
    launcher.cancel(handle)


@pytest.mark.parametrize("fault", ["RESOURCE_EXHAUSTED", "INTERNAL", "slow", "half", "drop"])
def test_an_answer_that_goes_wrong_is_no_end(compute, launcher, stand_in, monkeypatch, fault):
    run = stand_in("hang")
    handle = launcher.start(run)
    at_work(run)
    monkeypatch.setitem(machines._ONCE, "timeout", 0.3)
    compute.google.fault("GET .*/instances/", fault)
    with pytest.raises(CloudError) as refused:
        launcher.poll(handle)
    assert refused.value.is_transient
    assert launcher.poll(handle).ended is None
    launcher.cancel(handle)
    assert ended(launcher, handle).ended


def test_a_clock_that_is_an_hour_off_changes_nothing(compute, launcher, stand_in):
    compute.ahead_s = 3600.0
    run = stand_in("succeed", clock_ahead_s=-3600.0)
    seen = ended(launcher, launcher.start(run))
    assert seen.ended.startswith("exit status 0")
    assert 0 < (seen.ended_at - seen.started_at).total_seconds() < 60
