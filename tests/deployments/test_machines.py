"""Machines of a local Compute Engine, by Google's own client."""

import pytest

from deployments.gcp import machines
from deployments.gcp.errors import CloudError
from deployments.gcp.machines import Place
from tests.google.compute import Compute
from tests.google.local import talking_to
from tests.google.server import GoogleServer

PLACE = Place("test-project", "us-central1-a", "ml-training-vm")


@pytest.fixture
def compute(tmp_path, settings):
    api = Compute(tmp_path)
    google = api.google = GoogleServer(api)
    settings.GOOGLE_API_ENDPOINT = google.url
    settings.GOOGLE_CLOUD_PROJECT = "test-project"
    with talking_to(google):
        yield api
    google.close()
    api.close()


def create(place=PLACE, **changes):
    values = {
        "machine_type": "e2-micro",
        "disk_gb": 30,
        "max_run_s": 3600,
        "metadata": {"startup-script": "echo hello; sleep 60"},
    }
    operation = machines.create(place, **(values | changes))
    machines.wait(place, operation, every=0.01)


def console_has(place, text):
    for _ in range(500):
        printed, _ = machines.console(place)
        if text in printed:
            return printed
    raise AssertionError(f"“{text}” is not in {printed!r}")


def test_a_machine_is_made_with_its_label_its_limit_and_its_script(compute):
    create(service_account="trainer@test-project.iam.gserviceaccount.com")
    machine = machines.describe(PLACE)
    assert (machine.status, machine.machine_type, machine.disk_gb) == ("RUNNING", "e2-micro", 30)
    assert machine.labels == {"sentinelle": "training"}
    assert (machine.max_run_s, machine.termination_action) == (3600, "STOP")
    assert machine.service_account == "trainer@test-project.iam.gserviceaccount.com"
    assert (machine.stops_at - machine.started_at).total_seconds() == 3600
    assert not machine.instance.scheduling.automatic_restart
    assert machine.instance.disks[0].initialize_params.source_image.endswith("family/debian-12")
    console_has(PLACE, "hello")


def test_a_machine_is_stopped_started_again_and_deleted(compute):
    create()
    machines.wait(PLACE, machines.stop(PLACE), every=0.01)
    stopped = machines.describe(PLACE)
    assert (stopped.status, stopped.is_on, stopped.stops_at) == ("TERMINATED", False, None)
    machines.wait(PLACE, machines.stop(PLACE), every=0.01)  # nothing to do
    machines.wait(PLACE, machines.set_time_limit(stopped, 60), every=0.01)
    machines.wait(PLACE, machines.set_machine_type(stopped, "e2-small"), every=0.01)
    machines.wait(PLACE, machines.start(PLACE), every=0.01)
    again = machines.describe(PLACE)
    assert (again.status, again.max_run_s, again.machine_type) == ("RUNNING", 60, "e2-small")
    assert again.started_at > stopped.started_at
    machines.wait(PLACE, machines.delete(PLACE), every=0.01)
    assert machines.find(PLACE) is None


def test_of_two_who_change_the_metadata_one_is_refused(compute):
    create(metadata={"ssh-keys": "mine"})
    seen = machines.describe(PLACE)
    machines.wait(PLACE, machines.set_metadata(seen, {"sentinelle-run": "a"}), every=0.01)
    with pytest.raises(CloudError) as refused:
        machines.set_metadata(seen, {"sentinelle-run": "b"})
    assert (refused.value.reason, refused.value.is_transient) == ("conflict", True)
    now = machines.describe(PLACE)
    assert now.metadata == {"ssh-keys": "mine", "sentinelle-run": "a"}
    machines.set_metadata(now, {"sentinelle-run": None})
    assert machines.describe(PLACE).metadata == {"ssh-keys": "mine"}


def test_the_machines_with_our_label_are_found_in_every_zone(compute):
    create()
    create(Place("test-project", "europe-west1-b", "another"))
    compute.add_foreign("not-ours")
    found = {str(machine.place) for machine in machines.labelled("test-project")}
    assert found == {
        "ml-training-vm (us-central1-a, project test-project)",
        "another (europe-west1-b, project test-project)",
    }
    place = Place("test-project", "us-central1-a", "not-ours")
    machines.set_label(machines.describe(place))
    assert place in [machine.place for machine in machines.labelled("test-project")]


def test_google_stops_a_machine_at_its_limit(compute):
    compute.speed, compute.grace_s = 600.0, 0.1
    create(max_run_s=60, metadata={"startup-script": "trap '' TERM; sleep 600"})
    for _ in range(500):
        machine = machines.describe(PLACE)
        if not machine.is_on:
            break
    assert machine.status == "TERMINATED"
    assert (machine.stopped_at - machine.started_at).total_seconds() >= 60


def test_no_capacity_is_told_in_googles_words_and_what_to_do(compute):
    compute.stockout()
    with pytest.raises(CloudError) as error:
        create()
    assert (error.value.reason, error.value.is_transient) == ("capacity", True)
    assert "does not have enough resources available" in error.value.detail
    assert "another zone" in error.value.detail
    assert machines.find(PLACE) is None


@pytest.mark.parametrize(
    ("status", "reason", "is_transient"),
    [
        ("PERMISSION_DENIED", "permission", False),
        ("UNAVAILABLE", "network", True),
        ("RESOURCE_EXHAUSTED", "quota", True),
    ],
)
def test_a_refusal_has_googles_words(compute, status, reason, is_transient):
    message = "Required 'compute.instances.get' permission for 'projects/test-project'"
    compute.google.fault("GET .*instances", status, message, times=20)
    with pytest.raises(CloudError) as error:
        machines.describe(PLACE)
    assert (error.value.reason, error.value.is_transient) == (reason, is_transient)
    assert message in error.value.detail


@pytest.mark.parametrize("fault", ["half", "drop"])
def test_a_lost_answer_is_transient(compute, fault):
    create()
    compute.google.fault("GET .*instances", fault, times=20)
    with pytest.raises(CloudError) as error:
        machines.describe(PLACE)
    assert (error.value.reason, error.value.is_transient) == ("network", True)


def test_what_changes_a_running_machine_is_refused(compute):
    create()
    with pytest.raises(CloudError, match="must be stopped"):
        machines.set_time_limit(machines.describe(PLACE), 60)


def test_an_operation_that_does_not_end_is_waited_for_a_bounded_time(compute):
    create()
    compute.hang()
    with pytest.raises(CloudError, match="has not finished") as error:
        machines.wait(PLACE, machines.stop(PLACE), seconds=0.05, every=0.01)
    assert error.value.is_transient
