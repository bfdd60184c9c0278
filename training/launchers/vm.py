"""The launcher of a Compute Engine machine: started for one run, off again when it ends.

The machine's metadata says which run has it, and Google's fingerprint of the metadata decides
between two runs that want it. What the machine does is in startup.sh; who else switches it off, in
docs/machines.md.
"""

import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import parse_qs, urlencode

import msgspec
from django.conf import settings

from deployments.gcp import machines
from deployments.gcp.errors import CloudError
from deployments.gcp.machines import Machine, OperationFailed, Place
from engine.errors import ObjectMissing, StoreUnavailable
from engine.store import Store, open_store
from training.launchers.base import Launch, PlaceBusy, Seen, program_log
from training.launchers.resources import VmResources
from training.launchers.source import source_upload

logger = logging.getLogger(__name__)
SCRIPT = Path(__file__).with_name("startup.sh")
OUTPUT = "log/output.txt"
CONSOLE_LIMIT = 20_000
# Attributes of the machine's metadata.
RUN, FOLDER, ENV = "sentinelle-run", "sentinelle-folder", "sentinelle-env"
IMAGE, SOURCE = "sentinelle-image", "sentinelle-source"
MAX_RUN, KEEP = "sentinelle-max-run", "sentinelle-keep"
BEFORE = "sentinelle-before"  # the machine's last start before it was given to the run
ATTEMPTS = 3
COMING = ("PROVISIONING", "STAGING")


class Handle(NamedTuple):
    """A run on a machine, as one text."""

    place: Place
    run: str
    folder: str

    def __str__(self) -> str:
        more = {"run": self.run, "folder": self.folder}
        return f"{self.place.path}?{urlencode(more, safe='/:')}"

    @classmethod
    def parse(cls, text: str) -> Self:
        path, _, query = text.partition("?")
        _, project, _, zone, _, name = path.split("/")
        values = {key: found[0] for key, found in parse_qs(query).items()}
        place = Place(project, zone, name)
        return cls(place, values["run"], values["folder"])


class VmLauncher:
    """Starts the machine, or makes it, and looks at it.

    Args:
        wait_seconds: how long a worker waits for an operation of Google's before it lets go; the
            operation goes on, and the next step finds what it did.
        every: seconds between two looks at an operation.
    """

    is_attached = False
    poll_seconds = 15.0

    def __init__(self, wait_seconds: float = 30.0, every: float = 1.0) -> None:
        self._wait_seconds, self._every = wait_seconds, every

    def start(self, launch: Launch) -> str:
        """Start the machine for the run, or find it started for it.

        Raises:
            PlaceBusy: another run has the machine, or it is on for another reason.
            CloudError: Google refused; `capacity` when the zone has no such machine free.
        """
        resources, place = _wanted(launch)
        for attempt in range(1, ATTEMPTS + 1):
            machine = machines.find(place)
            try:
                if machine is None:
                    self._create(place, launch, resources)
                elif not _was_started_for(machine, launch.run_id):
                    self._take(machine, launch, resources)
                return str(Handle(place, launch.run_id, launch.folder))
            except CloudError as error:
                # Somebody made or changed the machine since we looked: look again.
                if error.reason not in ("exists", "conflict") or attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def find(self, launch: Launch) -> str:
        """The machine, if it has the run's name: it is on for the run, or was about to be."""
        _, place = _wanted(launch)
        machine = machines.find(place)
        if machine is None or machine.metadata.get(RUN) != launch.run_id:
            return ""
        return str(Handle(place, launch.run_id, launch.folder))

    def poll(self, handle: str) -> Seen:
        """See whether the machine is on for the run, or how it went off."""
        held = Handle.parse(handle)
        machine = machines.find(held.place)
        if machine is None or not _was_started_for(machine, held.run):
            try:
                if not machines.last_start_done(held.place):
                    return Seen(message=f"Starting the machine {held.place.name}")
            except OperationFailed as fault:
                return Seen(ended=fault.detail)
            # What was seen may be of before the operation's end.
            machine = machines.find(held.place)
        if machine is None:
            return Seen(
                ended=f"the machine {held.place} is not there any more: somebody deleted it"
            )
        if machine.metadata.get(RUN) != held.run:
            return Seen(ended=f"the machine {held.place} is not the run's any more")
        return _seen(machine, held)

    def cancel(self, handle: str) -> None:
        """Stop the machine and let go of it. Nothing happens when it is not there, or when it is
        another run's by now."""
        if not handle:
            return
        held = Handle.parse(handle)
        machine = machines.find(held.place)
        if machine is None or machine.metadata.get(RUN) != held.run:
            return
        if machine.is_on and machine.status != "STOPPING":
            machines.stop(held.place)
        try:
            release(machine, held.run)
        except CloudError as error:
            # It is off, and the guard lets go of it later.
            logger.warning("Run %s is over and keeps its machine: %s", held.run, error)

    def logs(self, handle: str, folder: Store) -> str:
        """Return the program's log, and while the machine is on what it wrote to its console."""
        return program_log(folder) + (_console(Handle.parse(handle)) if handle else "")

    def _create(self, place: Place, launch: Launch, resources: VmResources) -> None:
        operation = machines.create(
            place,
            machine_type=resources.machine_type,
            disk_gb=resources.disk_gb,
            max_run_s=resources.max_run_s,
            metadata=_attributes(launch, resources),
            service_account=settings.TRAINING_SERVICE_ACCOUNT,
        )
        self._come_up(place, operation)

    def _take(self, machine: Machine, launch: Launch, resources: VmResources) -> None:
        """Start a machine that is off, once it is ours."""
        place = machine.place
        _refuse_taken(machine, launch.run_id)
        # Labelled first: whatever fails from here on, the guard sees the machine and lets go of it.
        if machine.labels.get(machines.LABEL) != machines.LABEL_VALUE:
            self._wait(place, machines.set_label(machine))
        changes: dict[str, str | None] = {IMAGE: None, SOURCE: None, KEEP: None}
        changes[BEFORE] = machine.instance.last_start_timestamp or None
        self._wait(place, machines.set_metadata(machine, changes | _attributes(launch, resources)))
        if machine.machine_type != resources.machine_type:
            self._wait(place, machines.set_machine_type(machine, resources.machine_type))
        self._wait(place, machines.set_time_limit(machine, resources.max_run_s))
        self._come_up(place, machines.start(place))

    def _wait(self, place: Place, operation: str) -> None:
        machines.wait(place, operation, self._wait_seconds, self._every)

    def _come_up(self, place: Place, operation: str) -> None:
        """Wait a moment for a start, which says after seconds that there is no capacity."""
        try:
            self._wait(place, operation)
        except machines.StillGoesOn:
            logger.info("The machine %s takes its time to start", place)


def release(machine: Machine, run: str) -> None:
    """Take a run's name off a machine, so that another can have it. Nothing happens when the
    machine is another run's.

    Raises CloudError.
    """
    for attempt in range(1, ATTEMPTS + 1):
        if machine.metadata.get(RUN) != run:
            return
        try:
            machines.set_metadata(machine, dict.fromkeys((RUN, FOLDER, ENV, IMAGE, SOURCE, BEFORE)))
            return
        except CloudError as error:
            if error.reason != "conflict" or attempt == ATTEMPTS:
                raise
        machine = machines.describe(machine.place)


def _wanted(launch: Launch) -> tuple[VmResources, Place]:
    """What a run gets, and on which machine."""
    resources = msgspec.convert(launch.resources, VmResources)
    return resources, Place(resources.project, resources.zone, resources.machine)


def _was_started_for(machine: Machine, run: str) -> bool:
    """Whether the machine is on for this run, or was: then nothing is started again."""
    if machine.metadata.get(RUN) != run:
        return False
    if machine.status in (*COMING, "RUNNING"):
        return True
    return bool(machine.instance.last_start_timestamp != machine.metadata.get(BEFORE, ""))


def _refuse_taken(machine: Machine, run: str) -> None:
    if machine.status in ("SUSPENDING", "SUSPENDED"):
        raise PlaceBusy(
            f"Somebody suspended the machine {machine.place}, and the run waits until it is off: "
            "resume it and stop it, or delete it, and another is made."
        )
    holder = machine.metadata.get(RUN)
    if holder and holder != run and not _has_report(machine.metadata):
        raise PlaceBusy(
            f"The machine {machine.place} has the run {holder}; this one waits until it is free."
        )
    if machine.status != "TERMINATED":
        by_hand = " for no run (manage.py vm stop)" if machine.status == "RUNNING" else ""
        raise PlaceBusy(
            f"The machine {machine.place} is {machine.status}{by_hand}; the run waits until it is "
            "off."
        )


def _has_report(metadata: Mapping[str, str]) -> bool:
    """Whether the run that the machine is said to have is over."""
    folder = metadata.get(FOLDER, "")
    try:
        return bool(folder) and open_store(folder).exists("report.json")
    except StoreUnavailable:
        return False


def _attributes(launch: Launch, resources: VmResources) -> dict[str, str]:
    """The metadata that startup.sh reads."""
    environment = {
        "DATA_DIR": settings.DATA_DIR,
        "ARTIFACTS_DIR": settings.ARTIFACTS_DIR,
        "BUCKET_NAME": settings.BUCKET_NAME,
        "VERSION": launch.version,
    }
    program = (
        {IMAGE: resources.image} if resources.image else {SOURCE: source_upload(launch.folder)}
    )
    return program | {
        "startup-script": SCRIPT.read_text(),
        RUN: launch.run_id,
        FOLDER: launch.folder,
        ENV: "".join(f"{name}={value}\n" for name, value in environment.items()),
        MAX_RUN: str(resources.max_run_s),
    }


def _seen(machine: Machine, held: Handle) -> Seen:
    name = machine.place.name
    has = {"machine_type": machine.machine_type, "disk_gb": machine.disk_gb}
    if machine.status == "TERMINATED":
        return Seen(
            ended=_end_in_words(machine, held),
            started_at=machine.started_at,
            ended_at=machine.stopped_at,
            resources=has,
        )
    if machine.status in ("SUSPENDING", "SUSPENDED"):
        return Seen(ended=f"somebody suspended the machine {machine.place}")
    if machine.status in COMING:
        return Seen(message=f"Starting the machine {name}")
    if machine.status == "RUNNING":
        return Seen(started_at=machine.started_at, resources=has)
    return Seen(message=f"The machine {name} is {machine.status}", started_at=machine.started_at)


def _end_in_words(machine: Machine, held: Handle) -> str:
    if machine.started_at and machine.stopped_at and machine.max_run_s:
        limit = timedelta(seconds=machine.max_run_s)
        if machine.stopped_at - machine.started_at >= limit:
            return f"Google stopped the machine {machine.place} after its longest run of {limit}"
    words = _last_words(open_store(held.folder))
    if words:
        return words
    return (
        f"the machine {machine.place} went off and its program said nothing: somebody stopped it, "
        f"or it crashed. Google's log of it: {machines.console_address(machine.place)}"
    )


def _last_words(folder: Store) -> str:
    """How the start-up script says that the program ended, “exit status 1: what was printed last”;
    empty if it had no time to."""
    try:
        lines = folder.read(OUTPUT).decode(errors="replace").split("\n")
    except ObjectMissing:
        return ""
    lines = [line.removeprefix("sentinelle: ") for line in lines if line.strip()]
    if not lines or not lines[-1].startswith("exit status "):
        return ""
    return ": ".join(lines[:-3:-1])


def _console(held: Handle) -> str:
    """What the machine printed since it began with the run."""
    try:
        machine = machines.find(held.place)
        if machine is None or machine.status != "RUNNING" or machine.metadata.get(RUN) != held.run:
            return ""
        text, _ = machines.console(held.place)
    except CloudError as error:
        return f"\nThe console of the machine can't be read: {error}\n"
    _, mark, printed = text.rpartition(f"sentinelle: Run {held.run}")
    return f"\nOn the console of {held.place.name}:\n{(mark + printed)[-CONSOLE_LIMIT:]}"
