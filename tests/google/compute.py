"""A local Compute Engine whose machines really boot: a started one runs its start-up script.

Bodies are parsed and answers written with the client library's own message classes. A machine is a
process group of its own with a folder for its disk, a metadata server of its own, and commands of
a Debian machine in its PATH (`machine_commands.py`). Google's clock runs `speed` times as fast as
ours, and `ahead_s` ahead of it.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from google.cloud import compute_v1 as gce

from tests.google.machine import BootedMachine
from tests.google.server import Call, GoogleServer, Refusal

_ZONE = r"/compute/v1/projects/([^/]+)/zones/([^/]+)"
_INSTANCE = rf"{_ZONE}/instances/([^/]+)"
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_FAMILY = re.compile(r"projects/[^/]+/global/images/(family/)?[^/]+")
OFF = "TERMINATED"
PAGE = 1
Key = tuple[str, str, str]


class Compute:
    """The Compute API. Give it to a `GoogleServer`, then set `google` to that.

    Args:
        root: where the machines' disks are.
        world: what every machine finds around it, as environment variables: where storage is.
        speed: how many seconds of Google's pass in one of ours: a machine with a limit of 60 s is
            stopped after 60 / speed.
        delay_s: how long an operation takes.
    """

    def __init__(
        self,
        root: Path,
        *,
        world: dict[str, str] | None = None,
        speed: float = 1.0,
        ahead_s: float = 0.0,
        delay_s: float = 0.02,
    ) -> None:
        self.root, self.world = root, world or {}
        self.speed, self.ahead_s, self.delay_s = speed, ahead_s, delay_s
        self.google: GoogleServer
        self.images = {"sentinelle", "stand-in"}
        """Names of the container images that there are. The stand-in's program does what is in its
        run folder (tests/training/launchers/program.py)."""
        self.failing: set[str] = set()
        """Commands that fail on its machines: “mkswap”."""
        self.hidden: set[str] = set()
        """Attributes that its machines' metadata servers refuse."""
        self.can_shut_down = True
        """Whether `shutdown` on a machine does anything: guard 1 needs it."""
        self.keeps_limits = True
        """Whether Google stops machines that are on for too long: guard 2."""
        self.memory_mb = 1000
        """What its machines have."""
        self.grace_s = 2.0
        """How long a machine's processes have when it is stopped."""
        self.zone_types = {"e2-micro", "e2-small", "e2-medium", "e2-standard-4"}
        self._lock = threading.RLock()
        self._began = time.time()
        self._instances: dict[Key, gce.Instance] = {}
        self._booted: dict[Key, BootedMachine] = {}
        self._operations: dict[str, gce.Operation] = {}
        self._stockouts = 0
        self._hanging = 0
        self.routes: list[tuple[str, str, Callable[[Call], Any]]] = [
            ("POST", rf"{_ZONE}/instances", self._insert),
            ("GET", _INSTANCE, self._get),
            ("GET", r"/compute/v1/projects/([^/]+)/aggregated/instances", self._aggregated),
            ("POST", rf"{_INSTANCE}/start", self._start),
            ("POST", rf"{_INSTANCE}/stop", self._stop),
            ("DELETE", _INSTANCE, self._delete),
            ("POST", rf"{_INSTANCE}/setMetadata", self._set_metadata),
            ("POST", rf"{_INSTANCE}/setScheduling", self._set_scheduling),
            ("POST", rf"{_INSTANCE}/setMachineType", self._set_machine_type),
            ("POST", rf"{_INSTANCE}/setLabels", self._set_labels),
            ("GET", rf"{_INSTANCE}/serialPort", self._serial_port),
            ("GET", rf"{_ZONE}/operations/([^/]+)", self._operation),
            ("GET", rf"{_ZONE}/operations", self._operation_list),
        ]

    # --- What a test does -----------------------------------------------------------------

    def stockout(self, times: int = 1) -> None:
        """Let the next `times` starts find no capacity in the zone."""
        self._stockouts += times

    def hang(self, times: int = 1) -> None:
        """Let the next `times` operations never end."""
        self._hanging += times

    def add_foreign(self, name: str, zone: str = "us-central1-a") -> None:
        """A stopped machine that somebody made, without our label and our limit."""
        self._instances[("test-project", zone, name)] = gce.Instance(
            name=name,
            status=OFF,
            machine_type=f"zones/{zone}/machineTypes/e2-micro",
            metadata=gce.Metadata(fingerprint="first"),
            label_fingerprint="first",
            service_accounts=[gce.ServiceAccount(email="default", scopes=["cloud-platform"])],
        )

    def delete_by_hand(self, name: str) -> None:
        """As somebody in the console does."""
        key = self._key(name)
        self._end(key)
        with self._lock:
            del self._instances[key]

    def suspend(self, name: str) -> None:
        """As somebody in the console does: its processes stand still."""
        self.instance(name).status = "SUSPENDED"

    def reset(self, name: str) -> None:
        """Pull its plug and start it again, as a host that fails does."""
        key = self._key(name)
        self._booted[key].crash()
        self._end(key)
        self._instances[key].status = "STAGING"
        self._boot(key)

    def status(self, name: str) -> str:
        return str(self._instances[self._key(name)].status)

    def running(self) -> list[str]:
        """The machines that cost something."""
        return [name for (_, _, name), one in self._instances.items() if one.status != OFF]

    def metadata_of(self, name: str) -> dict[str, str]:
        items = self._instances[self._key(name)].metadata.items
        return {item.key: item.value for item in items}

    def instance(self, name: str) -> gce.Instance:
        return self._instances[self._key(name)]

    def machine(self, name: str) -> BootedMachine:
        """The machine as it was booted last."""
        return self._booted[self._key(name)]

    def disk(self, name: str) -> Path:
        """What its disk keeps between boots."""
        return self.root / name

    def now(self) -> datetime:
        """Google's clock."""
        elapsed = (time.time() - self._began) * self.speed
        return datetime.fromtimestamp(self._began, UTC) + timedelta(seconds=elapsed + self.ahead_s)

    def close(self) -> None:
        """End every machine."""
        for key in list(self._instances):
            self._end(key)

    # --- The API --------------------------------------------------------------------------

    def _insert(self, call: Call) -> Any:
        project, zone = call.match[1], call.match[2]
        instance = gce.Instance.from_json(call.body)
        key = (project, zone, instance.name)
        if not _NAME.fullmatch(instance.name):
            raise Refusal(
                "INVALID_ARGUMENT", f"Invalid value for field 'resource.name': '{key[2]}'."
            )
        if key in self._instances:
            path = f"projects/{project}/zones/{zone}/instances/{instance.name}"
            raise Refusal("ALREADY_EXISTS", f"The resource '{path}' already exists")
        self._check_type(zone, instance.machine_type)
        if not instance.disks or not instance.network_interfaces:
            raise Refusal("INVALID_ARGUMENT", "Invalid value for field 'resource': disks, networks")
        parameters = instance.disks[0].initialize_params
        if not _FAMILY.fullmatch(parameters.source_image):
            raise Refusal("INVALID_ARGUMENT", f"Invalid image '{parameters.source_image}'.")
        instance.disks[0].disk_size_gb = parameters.disk_size_gb
        _check_limit(instance.scheduling)
        instance.id = uuid.uuid4().int >> 70
        instance.status = "PROVISIONING"
        instance.label_fingerprint = instance.metadata.fingerprint = uuid.uuid4().hex[:12]
        self._instances[key] = instance

        def undo() -> None:
            self._instances.pop(key, None)

        return self._do(key, "insert", lambda: self._boot(key), needs_capacity=True, undo=undo)

    def _get(self, call: Call) -> Any:
        return _json(self._found(call))

    def _aggregated(self, call: Call) -> Any:
        wanted = re.fullmatch(r"labels\.(\w+)=(\w+)", call.query.get("filter", ""))
        if wanted is None:
            raise Refusal("INVALID_ARGUMENT", "Invalid value for field 'filter'.")
        parts: dict[str, gce.InstancesScopedList] = {
            "zones/empty-zone": gce.InstancesScopedList(
                warning=gce.Warning(code="NO_RESULTS_ON_PAGE")
            )
        }
        found = [
            (zone, instance)
            for (project, zone, _), instance in self._instances.items()
            if project == call.match[1] and instance.labels.get(wanted[1]) == wanted[2]
        ]
        begin = int(call.query.get("pageToken", "0"))
        for zone, instance in found[begin : begin + PAGE]:
            part = parts.setdefault(f"zones/{zone}", gce.InstancesScopedList())
            part.instances.append(instance)
        following = str(begin + PAGE) if begin + PAGE < len(found) else None
        return _json(gce.InstanceAggregatedList(items=parts, next_page_token=following))

    def _start(self, call: Call) -> Any:
        instance, key = self._found(call), self._key_of(call)
        if instance.status in ("PROVISIONING", "STAGING", "RUNNING"):
            return self._do(key, "start", lambda: None)
        if instance.status != OFF:
            raise Refusal("INVALID_ARGUMENT", f"The resource '{key[2]}' is not ready")
        instance.status = "PROVISIONING"

        def undo() -> None:
            instance.status = OFF

        return self._do(key, "start", lambda: self._boot(key), needs_capacity=True, undo=undo)

    def _stop(self, call: Call) -> Any:
        instance, key = self._found(call), self._key_of(call)
        if instance.status != OFF:
            instance.status = "STOPPING"
        return self._do(key, "stop", lambda: self._end(key))

    def _delete(self, call: Call) -> Any:
        self._found(call)
        key = self._key_of(call)

        def gone() -> None:
            self._end(key)
            self._instances.pop(key, None)

        return self._do(key, "delete", gone)

    def _set_metadata(self, call: Call) -> Any:
        instance, given = self._found(call), gce.Metadata.from_json(call.body)
        if given.fingerprint != instance.metadata.fingerprint:
            raise Refusal(
                "CONDITION_NOT_MET",
                "Supplied fingerprint does not match current metadata fingerprint.",
            )
        given.fingerprint = uuid.uuid4().hex[:12]
        instance.metadata = given
        return self._do(self._key_of(call), "setMetadata", lambda: None)

    def _set_scheduling(self, call: Call) -> Any:
        instance, given = self._found(call), gce.Scheduling.from_json(call.body)
        self._must_be_off(instance)
        _check_limit(given)
        instance.scheduling = given
        return self._do(self._key_of(call), "setScheduling", lambda: None)

    def _set_machine_type(self, call: Call) -> Any:
        instance = self._found(call)
        given = gce.InstancesSetMachineTypeRequest.from_json(call.body)
        self._must_be_off(instance)
        self._check_type(call.match[2], given.machine_type)
        instance.machine_type = given.machine_type
        return self._do(self._key_of(call), "setMachineType", lambda: None)

    def _set_labels(self, call: Call) -> Any:
        instance, given = self._found(call), gce.InstancesSetLabelsRequest.from_json(call.body)
        if given.label_fingerprint != instance.label_fingerprint:
            raise Refusal("CONDITION_NOT_MET", "Labels fingerprint either invalid or outdated")
        instance.labels = given.labels
        instance.label_fingerprint = uuid.uuid4().hex[:12]
        return self._do(self._key_of(call), "setLabels", lambda: None)

    def _serial_port(self, call: Call) -> Any:
        instance, key = self._found(call), self._key_of(call)
        if instance.status == OFF or key not in self._booted:
            raise Refusal("INVALID_ARGUMENT", f"The resource '{key[2]}' is not ready")
        text = self._booted[key].printed()
        start = int(call.query.get("start", "0"))
        return _json(gce.SerialPortOutput(contents=text[start:], start=start, next_=len(text)))

    def _operation(self, call: Call) -> Any:
        found = self._operations.get(call.match[3])
        if found is None:
            raise Refusal("NOT_FOUND", f"The resource '{call.path}' was not found")
        return _json(found)

    def _operation_list(self, call: Call) -> Any:
        asked = call.query.get("filter", "")
        kinds = re.findall(r'\(operationType="(\w+)"\)', asked)
        if asked != " OR ".join(f'(operationType="{kind}")' for kind in kinds):
            raise Refusal("INVALID_ARGUMENT", f"Invalid value for field 'filter': '{asked}'.")
        if call.query.get("orderBy") != "creationTimestamp desc":
            raise Refusal("INVALID_ARGUMENT", "Invalid value for field 'orderBy'.")
        zone = f"/{call.match[1]}/zones/{call.match[2]}/"
        found = [
            one
            for one in reversed(self._operations.values())
            if one.operation_type in kinds and zone in one.target_link
        ]
        return _json(gce.OperationList(items=found[: int(call.query["maxResults"])]))

    # --- What happens behind it -----------------------------------------------------------

    def _do(
        self,
        key: Key,
        kind: str,
        work: Callable[[], None],
        *,
        needs_capacity: bool = False,
        undo: Callable[[], None] = lambda: None,
    ) -> Any:
        """An operation that does `work` in a thread of its own."""
        operation = gce.Operation(
            name=f"operation-{uuid.uuid4().hex}",
            operation_type=kind,
            status=gce.Operation.Status.RUNNING,
            target_link=f"https://www.googleapis.com/compute/v1/projects/{key[0]}/zones/{key[1]}"
            f"/instances/{key[2]}",
        )
        self._operations[operation.name] = operation
        if self._hanging:
            self._hanging -= 1
            return _json(operation)
        has_stockout = needs_capacity and self._stockouts > 0
        self._stockouts -= has_stockout

        def run() -> None:
            time.sleep(self.delay_s)
            if has_stockout:
                undo()
                operation.error = _stockout_error(key[1])
            else:
                work()
            operation.status = gce.Operation.Status.DONE

        threading.Thread(target=run, daemon=True).start()
        return _json(operation)

    def _boot(self, key: Key) -> None:
        with self._lock:
            instance = self._instances.get(key)
            if instance is None or instance.status not in ("PROVISIONING", "STAGING"):
                return  # stopped or deleted meanwhile
            now = self.now()
            instance.status = "RUNNING"
            instance.last_start_timestamp = now.isoformat()
            limit = instance.scheduling.max_run_duration.seconds
            if limit:
                stop_at = (now + timedelta(seconds=limit)).isoformat()
                instance.resource_status.scheduling.termination_timestamp = stop_at
            machine = BootedMachine(
                self,
                name=key[2],
                place=key,
                attributes=lambda: {i.key: i.value for i in instance.metadata.items},
                shut_down=lambda: self._shut_down(key, machine),
            )
            self._booted[key] = machine
            machine.boot()
        if limit and self.keeps_limits:
            timer = threading.Timer(limit / self.speed, lambda: self._end(key, machine))
            timer.daemon = True
            timer.start()

    def _shut_down(self, key: Key, machine: BootedMachine) -> None:
        if self.can_shut_down:
            threading.Thread(target=self._end, args=(key, machine), daemon=True).start()

    def _end(self, key: Key, machine: BootedMachine | None = None) -> None:
        """Switch a machine off, whatever it does; only while it is still booted as `machine`."""
        booted = self._booted.get(key)
        if machine is not None and booted is not machine:
            return
        instance = self._instances.get(key)
        if booted is not None and booted.is_on:
            if instance is not None:
                instance.status = "STOPPING"
            booted.power_off()
            if instance is not None:
                instance.last_stop_timestamp = self.now().isoformat()
        if instance is not None:
            instance.status = OFF
            instance.resource_status = gce.ResourceStatus()

    # --- Helpers --------------------------------------------------------------------------

    def _key(self, name: str) -> Key:
        return next(key for key in self._instances if key[2] == name)

    def _key_of(self, call: Call) -> Key:
        return (call.match[1], call.match[2], call.match[3])

    def _found(self, call: Call) -> gce.Instance:
        instance = self._instances.get(self._key_of(call))
        if instance is None:
            path = call.path.removeprefix("/compute/v1/").rsplit("/", 0)[0]
            raise Refusal("NOT_FOUND", f"The resource '{path}' was not found")
        return instance

    def _must_be_off(self, instance: gce.Instance) -> None:
        if instance.status != OFF:
            raise Refusal(
                "INVALID_ARGUMENT",
                f"Instance '{instance.name}' must be stopped before this change.",
            )

    def _check_type(self, zone: str, path: str) -> None:
        match = re.fullmatch(r"zones/([^/]+)/machineTypes/([^/]+)", path)
        if match is None or match[1] != zone or match[2] not in self.zone_types:
            raise Refusal("INVALID_ARGUMENT", f"Invalid value for field 'machineType': '{path}'.")


def _check_limit(scheduling: gce.Scheduling) -> None:
    limit, action = scheduling.max_run_duration.seconds, scheduling.instance_termination_action
    if limit and not 30 <= limit <= 120 * 86_400:
        raise Refusal("INVALID_ARGUMENT", "maxRunDuration must be between 30 s and 120 days.")
    if limit and action not in ("STOP", "DELETE"):
        raise Refusal("INVALID_ARGUMENT", "maxRunDuration needs an instanceTerminationAction.")


def _stockout_error(zone: str) -> gce.Error:
    message = (
        f"The zone 'projects/test-project/zones/{zone}' does not have enough resources available "
        "to fulfill the request. Try a different zone, or try again later."
    )
    return gce.Error(errors=[gce.Errors(code="ZONE_RESOURCE_POOL_EXHAUSTED", message=message)])


def _json(message: Any) -> Any:
    return json.loads(
        type(message).to_json(
            message, use_integers_for_enums=False, always_print_fields_with_no_presence=False
        )
    )
