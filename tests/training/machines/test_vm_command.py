"""`manage.py vm`."""

import io

import pytest
from django.core.management import CommandError, call_command

from tests.training.machines.conftest import MACHINE, until
from training import machines as services
from training.launchers.vm import SCRIPT


@pytest.fixture(autouse=True)
def quick(compute, monkeypatch, db):
    monkeypatch.setattr(services, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(services, "FOLLOW_SECONDS", 0.01)


def vm(*arguments):
    output = io.StringIO()
    call_command("vm", *arguments, stdout=output)
    return output.getvalue()


def off(compute):
    return until(lambda: not compute.running())


def test_a_machine_is_made_as_told_and_switches_itself_off(compute):
    shown = vm(
        "create", "--zone", "europe-west1-b", "--machine-type", "e2-standard-4",
        "--disk", "50", "--max-run", "7200", "--image", "projects/p/global/images/mine",
        "--no-external-address",
    )  # fmt: skip
    assert "ml-training-vm (europe-west1-b, project test-project)" in shown
    assert "e2-standard-4, 50 GB disk" in shown
    assert "Google stops it 2:00:00 after each start" in shown
    instance = compute.instance(MACHINE)
    assert instance.disks[0].initialize_params.source_image == "projects/p/global/images/mine"
    assert not instance.network_interfaces[0].access_configs
    assert compute.metadata_of(MACHINE)["startup-script"] == SCRIPT.read_text()
    assert off(compute)


def test_a_machine_is_kept_on_for_people_and_stopped(compute):
    vm("create")
    assert off(compute)
    shown = vm("start", "--keep", "--max-run", "3600")
    assert "State:               RUNNING, until " in shown
    assert "Kept on:             yes, until its time limit" in shown
    until(lambda: "The machine stays on" in vm("logs"))
    shown = vm("stop")
    assert "State:               TERMINATED" in shown
    assert "Kept on:             no" in shown
    vm("start")
    assert off(compute)


def test_a_machine_is_described_with_its_guards_and_its_cost(compute):
    compute.add_foreign(MACHINE)
    shown = vm("describe")
    assert "no: it lacks the label sentinelle=training" in shown
    assert "no: it has no start-up script" in shown
    assert "none: the next run sets one" in shown
    assert "an hour" in shown
    assert "console.cloud.google.com" in shown
    vm("start")
    shown = vm("describe")
    assert "yes: it has the label" in shown
    assert "Google stops it 6:00:00 after each start" in shown


def test_a_machine_that_has_a_run_is_not_stopped_by_accident(compute, launcher, stand_in):
    run = stand_in("hang")
    launcher.start(run)
    for action in ("start", "stop"):
        with pytest.raises(CommandError, match=run.run_id):
            vm(action)
    assert run.run_id in vm("describe")
    assert "TERMINATED" in vm("stop", "--yes")


def test_the_console_is_followed_until_the_machine_is_off(compute, launcher, stand_in):
    run = stand_in("succeed")
    launcher.start(run)
    assert f"sentinelle: Run {run.run_id}" in vm("logs", "--follow")
    with pytest.raises(CommandError, match="is off, and Google"):
        vm("logs")


def test_a_machine_is_deleted_when_its_name_is_typed(compute, monkeypatch):
    compute.add_foreign(MACHINE)
    monkeypatch.setattr("builtins.input", lambda question: "no")
    with pytest.raises(CommandError, match=r"Nothing was deleted\."):
        vm("delete")
    monkeypatch.setattr("builtins.input", lambda question: MACHINE)
    assert "are deleted" in vm("delete")
    with pytest.raises(CommandError, match="was not found"):
        vm("describe")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["start", "--max-run", "5"], ">= 30"),
        (["create", "--machine-type", "e9-huge"], "machineType"),
        (["delete", "--yes"], "was not found"),
    ],
    ids=["limit", "type", "absent"],
)
def test_what_can_not_be_is_told(arguments, words):
    with pytest.raises(CommandError, match=words):
        vm(*arguments)


def test_without_a_project_nothing_is_called(compute, settings):
    settings.GOOGLE_CLOUD_PROJECT = ""
    with pytest.raises(CommandError, match="GOOGLE_CLOUD_PROJECT"):
        vm("describe")
    assert compute.google.calls == []
