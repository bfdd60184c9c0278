"""What each place gives a run: the defaults of the settings, with what a person asked for."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from django.conf import settings
from msgspec import Meta

from deployments.gcp.limits import check_job, format_memory, parse_memory
from engine.errors import FieldError, RunRefused

Positive = Annotated[int, Meta(ge=1)]
# The program takes about this much before it has read a row.
LEAST_MEMORY_MB = 256


class LocalResources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A child process of the worker."""

    launcher: ClassVar[str] = "local"
    cpu: Positive | None = None
    """Cores; None: all."""
    memory_mb: Positive | None = None
    """The program is ended above this; None: no limit."""


class CloudRunResources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A Cloud Run job. One that is there keeps its own size but for what was asked."""

    launcher: ClassVar[str] = "cloud-run"
    project: str
    region: str
    job: str
    image: str = ""
    cpu: Positive = 8
    memory_mb: Positive = 8192
    timeout_s: Positive = 7200
    retries: Annotated[int, Meta(ge=0, le=10)] = 1
    asked: tuple[str, ...] = ()
    """Which of the four above someone has given."""


JOB_SIZE = ("cpu", "memory_mb", "timeout_s", "retries")


class VmResources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A Compute Engine machine."""

    launcher: ClassVar[str] = "vm"
    project: str
    zone: str
    machine: str
    machine_type: str = "e2-micro"
    disk_gb: Positive = 30
    image: str = ""
    """A container image; empty: the program's source from the bucket."""
    max_run_s: Annotated[int, Meta(ge=30, le=120 * 86_400)] = 6 * 3600
    """Google stops the machine after this, whatever happens to us."""


Resources = LocalResources | CloudRunResources | VmResources
KINDS: dict[str, type[Resources]] = {
    kind.launcher: kind for kind in (LocalResources, CloudRunResources, VmResources)
}


def resources_for(launcher: str, given: Mapping[str, Any] | None = None) -> Resources:
    """What a run gets: `given` over the settings.

    Raises:
        RunRefused: no such launcher, a value out of range, a field that the place does not have,
            or no project; `errors` names the field.
    """
    if launcher not in KINDS:
        message = f"There is no launcher “{launcher}”; there is {', '.join(KINDS)}."
        raise RunRefused(message, [FieldError("launcher", message)])
    values = {**_defaults(launcher), **{k: v for k, v in (given or {}).items() if v is not None}}
    if launcher == "cloud-run":
        values.setdefault(
            "asked", [name for name in JOB_SIZE if (given or {}).get(name) is not None]
        )
    resources = read_resources(launcher, values)
    if getattr(resources, "project", "-") == "":
        message = f"The launcher “{launcher}” needs GOOGLE_CLOUD_PROJECT."
        raise RunRefused(message, [FieldError("launcher", message)])
    if isinstance(resources, LocalResources):
        _check_memory(resources.memory_mb)
    if isinstance(resources, CloudRunResources):
        check_job(
            cpu=resources.cpu,
            memory_mb=resources.memory_mb,
            timeout_s=resources.timeout_s,
            retries=resources.retries,
        )
    return resources


def _check_memory(memory_mb: int | None) -> None:
    if memory_mb is not None and memory_mb < LEAST_MEMORY_MB:
        message = (
            f"{memory_mb} MB is too little to train with; expected {LEAST_MEMORY_MB} MB or more."
        )
        raise RunRefused(f"memory: {message}", [FieldError("memory_mb", message)])


def read_resources(launcher: str, values: Mapping[str, Any]) -> Resources:
    """The resources in `values`, as a run keeps them. Memory may be a text such as 16Gi.

    Raises RunRefused.
    """
    fields = KINDS[launcher].__struct_fields__
    if unknown := sorted(set(values) - set(fields)):
        message = f"There is no {unknown[0]} here; there is {', '.join(fields)}."
        raise RunRefused(f"{launcher}: {message}", [FieldError("resources", message)])
    if isinstance(values.get("memory_mb"), str):
        values = {**values, "memory_mb": parse_memory(values["memory_mb"])}
    try:
        return msgspec.convert(values, KINDS[launcher])
    except msgspec.ValidationError as error:
        raise RunRefused(f"{launcher}: {error}", [FieldError("resources", str(error))]) from None


def describe_resources(resources: Resources) -> str:
    """For people: what the run has, for how long at most, and where."""
    if isinstance(resources, CloudRunResources):
        retries = "1 retry" if resources.retries == 1 else f"{resources.retries} retries"
        return (
            f"{resources.cpu} vCPU, {format_memory(resources.memory_mb)}, at most "
            f"{about_time(resources.timeout_s)}, {retries}; job {resources.job} in "
            f"{resources.region}"
        )
    if isinstance(resources, VmResources):
        return (
            f"{resources.machine_type}, {resources.disk_gb} GB disk, at most "
            f"{about_time(resources.max_run_s)}; machine {resources.machine} in {resources.zone}"
        )
    cores = "all cores" if resources.cpu is None else f"{resources.cpu} cores"
    memory = resources.memory_mb
    limit = "no limit of memory" if memory is None else f"at most {format_memory(memory)}"
    return f"{cores}, {limit}; this machine"


def about_time(seconds: float) -> str:
    """A duration in words, to two figures: “45 s”, “12 min”, “1 h 20 min”."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes} min"
    return f"{hours} h" if rest == 0 else f"{hours} h {rest} min"


def _defaults(launcher: str) -> dict[str, Any]:
    if launcher == "cloud-run":
        return {
            "project": settings.GOOGLE_CLOUD_PROJECT,
            "region": settings.GOOGLE_CLOUD_REGION,
            "job": settings.TRAINING_JOB,
            "image": settings.TRAINING_IMAGE,
        }
    if launcher == "vm":
        return {
            "project": settings.GOOGLE_CLOUD_PROJECT,
            "zone": settings.TRAINING_VM_ZONE,
            "machine": settings.TRAINING_VM,
            "machine_type": settings.TRAINING_VM_TYPE,
            "image": settings.TRAINING_IMAGE,
        }
    return {}
