"""What people do with a training machine by hand: `manage.py vm`."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from django.conf import settings

from deployments import costs
from deployments.gcp import machines
from deployments.gcp.errors import CloudError
from deployments.gcp.machines import DEBIAN, Machine, Place
from training.launchers.base import PlaceBusy
from training.launchers.resources import VmResources
from training.launchers.vm import KEEP, MAX_RUN, RUN, SCRIPT

# People wait longer than a worker does, and look more often.
WAIT_SECONDS = 180.0
EVERY_SECONDS = 1.0
FOLLOW_SECONDS = 2.0
HOUR = 3600


def place_of(resources: VmResources) -> Place:
    return Place(resources.project, resources.zone, resources.machine)


def machine_create(
    resources: VmResources,
    *,
    image: str = DEBIAN,
    external_address: bool = True,
    keep: bool = False,
) -> Machine:
    """Make the machine. It boots once and, unless it is to be kept on, switches itself off.

    Raises:
        CloudError: reason `exists` when there is one of that name.
    """
    place = place_of(resources)
    operation = machines.create(
        place,
        machine_type=resources.machine_type,
        disk_gb=resources.disk_gb,
        max_run_s=resources.max_run_s,
        metadata=attributes(resources.max_run_s, keep),
        image=image,
        service_account=settings.TRAINING_SERVICE_ACCOUNT,
        external_address=external_address,
    )
    return _when_done(place, operation)


def machine_start(resources: VmResources, *, keep: bool = False) -> Machine:
    """Start the machine without a run, with its time limit.

    Raises:
        PlaceBusy: a run has it, or it is not off.
    """
    place = place_of(resources)
    machine = machines.describe(place)
    _refuse_with_run(machine, "cancel the run first")
    if machine.status != "TERMINATED":
        raise PlaceBusy(
            f"The machine {place} is {machine.status}: it can be started when it is off."
        )
    changes: dict[str, str | None] = {KEEP: None}
    _when_done(
        place, machines.set_metadata(machine, changes | attributes(resources.max_run_s, keep))
    )
    if machine.labels.get(machines.LABEL) != machines.LABEL_VALUE:
        _when_done(place, machines.set_label(machine))
    _when_done(place, machines.set_time_limit(machine, resources.max_run_s))
    return _when_done(place, machines.start(place))


def machine_stop(place: Place, *, even_with_run: bool = False) -> Machine:
    """Stop the machine; it is not kept on any more.

    Raises:
        PlaceBusy: a run has it, unless `even_with_run`.
    """
    machine = machines.describe(place)
    if not even_with_run and machine.is_on:
        _refuse_with_run(machine, "cancel the run, or say --yes to stop it in mid-run")
    if KEEP in machine.metadata:
        # Else whoever starts it next, at Google, would keep it on without knowing.
        _when_done(place, machines.set_metadata(machine, {KEEP: None}))
    return _when_done(place, machines.stop(place))


def machine_delete(place: Place, *, even_with_run: bool = False) -> None:
    """Delete the machine and its disk.

    Raises:
        PlaceBusy: a run has it, unless `even_with_run`.
    """
    machine = machines.describe(place)
    if not even_with_run:
        _refuse_with_run(machine, "cancel the run, or say --yes to delete it in mid-run")
    machines.wait(place, machines.delete(place), WAIT_SECONDS, EVERY_SECONDS)


def console_parts(place: Place, *, follow: bool) -> Iterator[str]:
    """What the machine writes to its console, until now or until it is off."""
    start = 0
    while True:
        try:
            text, start = machines.console(place, start)
        except CloudError:
            if machines.describe(place).is_on:
                raise
            if start:
                return
            raise CloudError(
                f"The machine {place} is off, and Google shows its console while it is on. What a "
                "run printed is in the run's own log."
            ) from None
        yield text
        if not follow:
            return
        time.sleep(FOLLOW_SECONDS)


def machine_facts(machine: Machine) -> list[tuple[str, str]]:
    """What there is to say of a machine, as names and texts."""
    resources = {
        "machine_type": machine.machine_type,
        "zone": machine.place.zone,
        "disk_gb": machine.disk_gb,
    }
    return [
        ("Machine", str(machine.place)),
        ("State", _state_in_words(machine)),
        ("Type", f"{machine.machine_type}, {machine.disk_gb} GB disk"),
        ("Identity", machine.service_account or "none: it can't read the bucket"),
        ("Run", machine.metadata.get(RUN) or "none"),
        ("Kept on", "yes, until its time limit" if _is_kept(machine) else "no"),
        ("Last start", _time(machine.started_at)),
        ("Last stop", _time(machine.stopped_at)),
        ("Time limit", _limit_in_words(machine)),
        ("Watched", _watch_in_words(machine)),
        ("Switches itself off", _script_in_words(machine)),
        ("Cost", _cost_in_words(resources)),
        ("At Google", machines.console_address(machine.place)),
    ]


def attributes(max_run_s: int, keep: bool = False) -> dict[str, str]:
    """The metadata of a machine that has no run."""
    found = {"startup-script": SCRIPT.read_text(), MAX_RUN: str(max_run_s)}
    return found | {KEEP: "true"} if keep else found


def _when_done(place: Place, operation: str) -> Machine:
    machines.wait(place, operation, WAIT_SECONDS, EVERY_SECONDS)
    return machines.describe(place)


def _refuse_with_run(machine: Machine, advice: str) -> None:
    if run := machine.metadata.get(RUN):
        raise PlaceBusy(f"The machine {machine.place} has the run {run}: {advice}.")


def _is_kept(machine: Machine) -> bool:
    return machine.metadata.get(KEEP) == "true" and not machine.metadata.get(RUN)


def _state_in_words(machine: Machine) -> str:
    until = f", until {_time(machine.stops_at)} at the latest" if machine.stops_at else ""
    return f"{machine.status}{until}"


def _limit_in_words(machine: Machine) -> str:
    if not machine.max_run_s:
        return "none: the next run sets one; so does manage.py vm start"
    limit = timedelta(seconds=machine.max_run_s)
    does = "deletes" if machine.termination_action == "DELETE" else "stops"
    return f"Google {does} it {limit} after each start"


def _watch_in_words(machine: Machine) -> str:
    if machine.labels.get(machines.LABEL) == machines.LABEL_VALUE:
        return f"yes: it has the label {machines.LABEL}={machines.LABEL_VALUE}"
    return (
        f"no: it lacks the label {machines.LABEL}={machines.LABEL_VALUE}, which the next run sets"
    )


def _script_in_words(machine: Machine) -> str:
    script = machine.metadata.get("startup-script")
    if script is None:
        return "no: it has no start-up script; the next run sets it"
    return (
        "yes" if script == SCRIPT.read_text() else "by another start-up script than this version's"
    )


def _cost_in_words(resources: dict[str, object]) -> str:
    cost = costs.estimate("vm", resources, Decimal(HOUR))
    return f"{costs.dollars(cost.usd)} ({costs.euros(cost.usd)}) an hour. {cost.note}".rstrip()


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC by Google's clock" if moment else "-"
