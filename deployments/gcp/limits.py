"""What Google allows Cloud Run jobs and services, and what its machine types have: limits.toml.

The figures carry the date of Google's pages. When Google allows more, the table is corrected; until
then what is beyond it is refused here, before a run waits for it in vain.
"""

import re
from datetime import date
from functools import cache
from importlib.resources import files

import msgspec

from engine.errors import FieldError, RunRefused

MEMORY = re.compile(r"(\d+)(Mi|Gi)?")


class JobSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The memory that goes with a number of processors."""

    cpu: int
    memory_min_mb: int
    memory_max_mb: int


class JobLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of Cloud Run jobs, in every region."""

    date: date
    sources: list[str]
    timeout_max_s: int
    retries_max: int
    jobs_max: int
    running_executions_max: int
    executions_kept: int
    sizes: list[JobSize]


class ServiceLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of Cloud Run services, in every region."""

    date: date
    sources: list[str]
    timeout_max_s: int
    concurrency_max: int
    instances_max: int
    sizes: list[JobSize]


class MachineType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A type of Compute Engine machine."""

    name: str
    vcpu: int
    memory_mb: int
    share: float | None = None
    """Of a shared-core type: the processors' worth of time that it has for good."""


class MachineTypes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The E2 types."""

    date: date
    sources: list[str]
    types: list[MachineType]


Limits = JobLimits | ServiceLimits


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cloud_run_job: JobLimits
    cloud_run_service: ServiceLimits
    machine_types: MachineTypes


def job_limits() -> JobLimits:
    """What Cloud Run allows a job."""
    return _table().cloud_run_job


def service_limits() -> ServiceLimits:
    """What Cloud Run allows a service."""
    return _table().cloud_run_service


def machine_types() -> dict[str, MachineType]:
    """The machine types that are known here, by name."""
    return {kind.name: kind for kind in _table().machine_types.types}


def check_job(
    *,
    cpu: int | None = None,
    memory_mb: int | None = None,
    timeout_s: int | None = None,
    retries: int | None = None,
) -> None:
    """Refuse what Cloud Run would refuse. None is as a job has it, which is not known here.

    Raises:
        RunRefused: `errors` has every field at fault: what was found and what is allowed.
    """
    limits = job_limits()
    faults = _wrong_size(limits, cpu, memory_mb)
    if timeout_s is not None and not 1 <= timeout_s <= limits.timeout_max_s:
        days = limits.timeout_max_s // 86_400
        faults.append(
            ("timeout_s", f"{timeout_s} s; allowed are 1 to {limits.timeout_max_s} ({days} days)")
        )
    if retries is not None and not 0 <= retries <= limits.retries_max:
        faults.append(("retries", f"{retries}; allowed are 0 to {limits.retries_max}"))
    _refuse(faults, limits)


def check_service(
    *,
    cpu: float | None = None,
    memory_mb: int | None = None,
    timeout_s: int | None = None,
    concurrency: int | None = None,
    min_instances: int | None = None,
    max_instances: int | None = None,
) -> None:
    """Refuse what Cloud Run would refuse. None is as a service has it, which is not known here.

    Raises:
        RunRefused: `errors` has every field at fault: what was found and what is allowed.
    """
    limits = service_limits()
    faults = _wrong_size(limits, cpu, memory_mb)
    ranges = (
        ("timeout_s", timeout_s, 1, limits.timeout_max_s),
        ("concurrency", concurrency, 1, limits.concurrency_max),
        ("min_instances", min_instances, 0, limits.instances_max),
        ("max_instances", max_instances, 1, limits.instances_max),
    )
    for field, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            faults.append((field, f"{value}; allowed are {low} to {high}"))
    if min_instances is not None and max_instances is not None and min_instances > max_instances:
        faults.append(("min_instances", f"{min_instances}; that is more than the most"))
    _refuse(faults, limits)


def parse_memory(text: str) -> int:
    """MiB from “16Gi”, “512Mi” or “16384”.

    Raises:
        RunRefused: it is none of these.
    """
    match = MEMORY.fullmatch(text.strip())
    if match is None:
        message = f"“{text}” is no amount of memory; write 16Gi, 512Mi, or 16384 for MiB"
        raise RunRefused(f"memory: {message}.", [FieldError("memory_mb", message)])
    return int(match[1]) * (1024 if match[2] == "Gi" else 1)


def format_memory(memory_mb: int) -> str:
    """“16Gi” or “1536Mi”."""
    return f"{memory_mb // 1024}Gi" if memory_mb % 1024 == 0 else f"{memory_mb}Mi"


def _wrong_size(limits: Limits, cpu: float | None, memory_mb: int | None) -> list[tuple[str, str]]:
    """The fields at fault among processors and memory."""
    sizes = {size.cpu: size for size in limits.sizes}
    if cpu is not None and cpu not in sizes:
        return [("cpu", f"{cpu:g} processors; Cloud Run has {_any_of(list(sizes))}")]
    size = None if cpu is None else sizes[int(cpu)]
    if memory_mb is not None and not _sizes_with(memory_mb, size, limits):
        return [("memory_mb", _wrong_memory(size or limits.sizes[-1], memory_mb, limits))]
    return []


def _refuse(faults: list[tuple[str, str]], limits: Limits) -> None:
    if faults:
        errors = [FieldError(field, message) for field, message in faults]
        told = "; ".join(f"{field}: {message}" for field, message in faults)
        raise RunRefused(f"{told}. ({limits.sources[0]}, {limits.date})", errors)


def _sizes_with(memory_mb: int, size: JobSize | None, limits: Limits) -> list[int]:
    """The numbers of processors that memory goes with: of `size`, or of all."""
    sizes = [size] if size else limits.sizes
    return [each.cpu for each in sizes if each.memory_min_mb <= memory_mb <= each.memory_max_mb]


def _wrong_memory(size: JobSize, memory_mb: int, limits: Limits) -> str:
    low, high = format_memory(size.memory_min_mb), format_memory(size.memory_max_mb)
    message = f"{format_memory(memory_mb)}; {size.cpu} processors may have {low} to {high}"
    if others := _sizes_with(memory_mb, None, limits):
        return f"{message}; {format_memory(memory_mb)} goes with {_any_of(others)}"
    return f"{message}; the most is {format_memory(limits.sizes[-1].memory_max_mb)}, with 8"


def _any_of(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


@cache
def _table() -> _Table:
    text = files("deployments.gcp").joinpath("limits.toml").read_bytes()
    return msgspec.toml.decode(text, type=_Table)
