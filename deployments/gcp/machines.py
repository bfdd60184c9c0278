"""Compute Engine machines that train: made, started, stopped, described, read.

What changes a machine is an operation at Google that goes on after the call; each function gives
its name, to be looked at with `operation_done` or waited for, for a bounded time, with `wait`.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.conf import settings

from deployments.gcp import clients
from deployments.gcp.errors import CloudError, cloud_error, translated

LABEL, LABEL_VALUE = "sentinelle", "training"
DEBIAN = "projects/debian-cloud/global/images/family/debian-12"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# The library would repeat a call for ten minutes. Who calls us tries again, and tells meanwhile.
_ONCE: dict[str, Any] = {"retry": None, "timeout": 20.0}
ENDED = frozenset({"TERMINATED", "SUSPENDED"})
"""States in which a machine costs nothing but its disk."""


class OperationFailed(CloudError):
    """Google accepted a call, and could not do then what it asked."""


class StillGoesOn(CloudError):
    """Google has not done in time what was asked, and goes on with it."""


class Place(NamedTuple):
    """Which machine: the three words that Google's addresses have."""

    project: str
    zone: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.zone}, project {self.project})"

    @property
    def path(self) -> str:
        return f"projects/{self.project}/zones/{self.zone}/instances/{self.name}"


class Machine(NamedTuple):
    """What Google says of a machine. Times are by Google's clock."""

    place: Place
    status: str
    """PROVISIONING, STAGING, RUNNING, STOPPING, TERMINATED, …
    (https://cloud.google.com/compute/docs/instances/instance-lifecycle)"""
    machine_type: str
    disk_gb: int
    service_account: str
    labels: Mapping[str, str]
    metadata: Mapping[str, str]
    started_at: datetime | None
    stopped_at: datetime | None
    stops_at: datetime | None
    """When Google will stop it, while it runs."""
    max_run_s: int
    """0: no limit."""
    termination_action: str
    instance: Any
    """The `compute_v1.Instance`: its fingerprints are needed to change it."""

    @property
    def is_on(self) -> bool:
        """Whether it costs something by the second, or is about to."""
        return self.status not in ENDED


class Listed(NamedTuple):
    """What a list says of a machine."""

    place: Place
    status: str
    metadata: Mapping[str, str]
    started_at: str
    """By Google's clock, as it writes it; empty before the first start."""


def describe(place: Place) -> Machine:
    """Raises CloudError; its reason is `not_found` when there is no such machine."""
    with _translated("Looking at", place):
        instance = clients.instances().get(
            project=place.project, zone=place.zone, instance=place.name, **_ONCE
        )
    return _machine(place, instance)


def find(place: Place) -> Machine | None:
    """The machine, or None when there is none. Raises CloudError."""
    try:
        return describe(place)
    except CloudError as error:
        if error.reason == "not_found":
            return None
        raise


def labelled(project: str) -> list[Listed]:
    """Every machine of the project that has our label, in any zone. Raises CloudError.

    This is asked every minute by each worker process in turn, so it does without the client
    library, which takes 100 MB.
    """
    from google.api_core.exceptions import from_http_response

    endpoint = settings.GOOGLE_API_ENDPOINT or "https://compute.googleapis.com"
    address = f"{endpoint}/compute/v1/projects/{project}/aggregated/instances"
    query = {"filter": f"labels.{LABEL}={LABEL_VALUE}"}
    found: list[Listed] = []
    with translated("Listing the training machines", project=project):
        while True:
            response = clients.session().get(address, params=query, timeout=_ONCE["timeout"])
            if not response.ok:
                raise from_http_response(response)  # type: ignore[no-untyped-call]
            page = response.json()
            for zone, part in page.get("items", {}).items():
                place = Place(project, zone.removeprefix("zones/"), "")
                found += [_listed(place, instance) for instance in part.get("instances", [])]
            if not page.get("nextPageToken"):
                return found
            query["pageToken"] = page["nextPageToken"]


def create(
    place: Place,
    *,
    machine_type: str,
    disk_gb: int,
    max_run_s: int,
    metadata: Mapping[str, str],
    image: str = DEBIAN,
    service_account: str = "",
    external_address: bool = True,
) -> str:
    """Make a machine, which starts it. It carries our label and its own time limit.

    Args:
        image: of the disk, as `projects/P/global/images/family/F`.
        service_account: its identity; the project's default one if empty.
        external_address: without one it needs Cloud NAT to install anything.

    Raises:
        CloudError: reason `exists` when there is one of that name.
    """
    instance = new_instance(
        place,
        machine_type=machine_type,
        disk_gb=disk_gb,
        max_run_s=max_run_s,
        metadata=metadata,
        image=image,
        service_account=service_account,
        external_address=external_address,
    )
    with _translated("Creating", place):
        operation = clients.instances().insert_unary(
            project=place.project,
            zone=place.zone,
            instance_resource=instance,
            **_ONCE,
        )
    return str(operation.name)


def new_instance(
    place: Place,
    *,
    machine_type: str,
    disk_gb: int,
    max_run_s: int,
    metadata: Mapping[str, str],
    image: str = DEBIAN,
    service_account: str = "",
    external_address: bool = True,
) -> Any:
    """Google's message of the machine that `create` makes."""
    from google.cloud import compute_v1 as gce

    access = [gce.AccessConfig(name="External NAT", type_="ONE_TO_ONE_NAT")]
    return gce.Instance(
        name=place.name,
        machine_type=f"zones/{place.zone}/machineTypes/{machine_type}",
        labels={LABEL: LABEL_VALUE},
        disks=[
            gce.AttachedDisk(
                boot=True,
                auto_delete=True,
                initialize_params=gce.AttachedDiskInitializeParams(
                    source_image=image,
                    disk_size_gb=disk_gb,
                    disk_type=f"zones/{place.zone}/diskTypes/pd-standard",
                ),
            )
        ],
        network_interfaces=[
            gce.NetworkInterface(
                network="global/networks/default",
                access_configs=access if external_address else [],
            )
        ],
        service_accounts=[gce.ServiceAccount(email=service_account or "default", scopes=[SCOPE])],
        shielded_instance_config=gce.ShieldedInstanceConfig(
            enable_secure_boot=True, enable_vtpm=True, enable_integrity_monitoring=True
        ),
        scheduling=_limited(gce.Scheduling(), max_run_s),
        metadata=_metadata(metadata, ""),
    )


def start(place: Place) -> str:
    """Start a machine that is stopped. Raises CloudError."""
    return _call(place, "Starting", "start_unary")


def stop(place: Place) -> str:
    """Stop a machine; its disk stays. Nothing happens to one that is stopped. Raises CloudError."""
    return _call(place, "Stopping", "stop_unary")


def delete(place: Place) -> str:
    """Delete a machine and its disk. Raises CloudError."""
    return _call(place, "Deleting", "delete_unary")


def set_metadata(machine: Machine, changes: Mapping[str, str | None]) -> str:
    """Change some of a machine's attributes; None removes one.

    Raises:
        CloudError: reason `conflict` when somebody has changed one since `machine` was described.
    """
    values = {k: v for k, v in {**machine.metadata, **changes}.items() if v is not None}
    fingerprint = machine.instance.metadata.fingerprint
    return _call(
        machine.place,
        "Changing the metadata of",
        "set_metadata_unary",
        metadata_resource=_metadata(values, fingerprint),
    )


def set_time_limit(machine: Machine, max_run_s: int) -> str:
    """Let Google stop the machine that long after each start. Only while it is stopped.

    https://cloud.google.com/compute/docs/instances/limit-vm-runtime: 30 s to 120 days, and up to
    30 s late; counted anew from each start. Raises CloudError.
    """
    return _call(
        machine.place,
        "Setting the time limit of",
        "set_scheduling_unary",
        scheduling_resource=_limited(machine.instance.scheduling, max_run_s),
    )


def set_machine_type(machine: Machine, machine_type: str) -> str:
    """Give a stopped machine other cores and memory. Raises CloudError."""
    from google.cloud import compute_v1 as gce

    path = f"zones/{machine.place.zone}/machineTypes/{machine_type}"
    return _call(
        machine.place,
        "Changing the type of",
        "set_machine_type_unary",
        instances_set_machine_type_request_resource=gce.InstancesSetMachineTypeRequest(
            machine_type=path
        ),
    )


def set_label(machine: Machine) -> str:
    """Give a machine that somebody made otherwise our label, by which the guards find it."""
    from google.cloud import compute_v1 as gce

    return _call(
        machine.place,
        "Labelling",
        "set_labels_unary",
        instances_set_labels_request_resource=gce.InstancesSetLabelsRequest(
            labels={**machine.labels, LABEL: LABEL_VALUE},
            label_fingerprint=machine.instance.label_fingerprint,
        ),
    )


def console(place: Place, start: int = 0) -> tuple[str, int]:
    """What the machine has written to its serial port from the byte `start` on, and where the next
    part begins. Google keeps the last megabyte, and gives it while the machine is on.

    Raises CloudError.
    """
    from google.cloud import compute_v1 as gce

    request = gce.GetSerialPortOutputInstanceRequest(
        project=place.project, zone=place.zone, instance=place.name, port=1, start=start
    )
    with _translated("Reading the serial port of", place):
        output = clients.instances().get_serial_port_output(request=request, **_ONCE)
    return str(output.contents), int(output.next_)


def operation_done(place: Place, operation: str) -> bool:
    """Whether an operation has ended well.

    Raises:
        OperationFailed: in Google's words and with what to do.
        CloudError: it can't be looked at.
    """
    with _translated("Looking at an operation on", place):
        found = clients.zone_operations().get(
            project=place.project, zone=place.zone, operation=operation, **_ONCE
        )
    return _is_done(place, found)


def last_start_done(place: Place) -> bool:
    """Whether the last operation that made or started a machine has ended well; True when Google
    knows of none, as some days later.

    Raises:
        OperationFailed: in Google's words and with what to do.
        CloudError: it can't be looked at.
    """
    from google.cloud import compute_v1 as gce

    request = gce.ListZoneOperationsRequest(
        project=place.project,
        zone=place.zone,
        filter='(operationType="insert") OR (operationType="start")',
        order_by="creationTimestamp desc",
        max_results=100,
    )
    with _translated("Looking at the operations on", place):
        page = next(clients.zone_operations().list(request=request, **_ONCE).pages)
    ours = (found for found in page.items if found.target_link.endswith(f"/{place.path}"))
    last = next(ours, None)
    return last is None or _is_done(place, last)


def wait(place: Place, operation: str, seconds: float = 60.0, every: float = 1.0) -> None:
    """Wait until an operation has ended well, for a bounded time.

    Raises:
        OperationFailed: in Google's words and with what to do.
        StillGoesOn: it has not ended in time.
    """
    give_up = time.monotonic() + seconds
    while not operation_done(place, operation):
        if time.monotonic() > give_up:
            raise StillGoesOn(
                f"Google has not finished with the machine {place} after {seconds:.0f} s "
                f"(operation {operation}). It goes on there; look again in a minute.",
                is_transient=True,
            )
        time.sleep(every)


def console_address(place: Place) -> str:
    """Google's page of the machine."""
    return (
        "https://console.cloud.google.com/compute/instancesDetail/zones/"
        f"{place.zone}/instances/{place.name}?project={place.project}"
    )


def default_place() -> Place:
    """The machine of the settings."""
    return Place(settings.GOOGLE_CLOUD_PROJECT, settings.TRAINING_VM_ZONE, settings.TRAINING_VM)


def _call(place: Place, verb: str, method: str, **more: Any) -> str:
    with _translated(verb, place):
        operation = getattr(clients.instances(), method)(
            project=place.project,
            zone=place.zone,
            instance=place.name,
            **_ONCE,
            **more,
        )
    return str(operation.name)


def _translated(verb: str, place: Place) -> AbstractContextManager[None]:
    return translated(f"{verb} the machine {place}", project=place.project)


def _is_done(place: Place, operation: Any) -> bool:
    from google.cloud import compute_v1 as gce

    if operation.status != gce.Operation.Status.DONE:
        return False
    if operation.error.errors:
        raise _operation_fault(place, operation)
    return True


def _operation_fault(place: Place, operation: Any) -> OperationFailed:
    errors = operation.error.errors
    fault = cloud_error(
        f"{operation.operation_type} of the machine {place}",
        " ".join(error.message for error in errors),
        codes=" ".join(error.code for error in errors),
        project=place.project,
    )
    return OperationFailed(fault.detail, is_transient=fault.is_transient, reason=fault.reason)


def _machine(place: Place, instance: Any) -> Machine:
    scheduling = instance.scheduling
    return Machine(
        place=place,
        status=instance.status,
        machine_type=instance.machine_type.rsplit("/", 1)[-1],
        disk_gb=sum(disk.disk_size_gb for disk in instance.disks),
        service_account=next((account.email for account in instance.service_accounts), ""),
        labels=dict(instance.labels),
        metadata={item.key: item.value for item in instance.metadata.items},
        started_at=_time(instance.last_start_timestamp),
        stopped_at=_time(instance.last_stop_timestamp),
        stops_at=_time(instance.resource_status.scheduling.termination_timestamp),
        max_run_s=scheduling.max_run_duration.seconds,
        termination_action=scheduling.instance_termination_action,
        instance=instance,
    )


def _listed(place: Place, instance: Mapping[str, Any]) -> Listed:
    items = instance.get("metadata", {}).get("items", [])
    return Listed(
        place=place._replace(name=instance["name"]),
        status=instance["status"],
        metadata={item["key"]: item.get("value", "") for item in items},
        started_at=instance.get("lastStartTimestamp", ""),
    )


def _limited(scheduling: Any, max_run_s: int) -> Any:
    """The scheduling with a time limit. A machine that crashes stays off: whoever waits for the
    run is told, and starts it anew."""
    from google.cloud import compute_v1 as gce

    scheduling.max_run_duration = gce.Duration(seconds=max_run_s)
    scheduling.instance_termination_action = "STOP"
    scheduling.automatic_restart = False
    return scheduling


def _metadata(values: Mapping[str, str], fingerprint: str) -> Any:
    from google.cloud import compute_v1 as gce

    items = [gce.Items(key=key, value=value) for key, value in sorted(values.items())]
    return gce.Metadata(items=items, fingerprint=fingerprint or None)


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
