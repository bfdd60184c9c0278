"""Where a run executes: from what people write to what `services.run_create` takes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.conf import settings

from engine.errors import FieldError, RunRefused
from training.launchers.choose import AUTO
from training.launchers.resources import KINDS
from training.pipeline.durations import format_duration, parse_duration

LAUNCHERS = {
    "local": "This machine",
    "cloud-run": "A Cloud Run job",
    "vm": "A Compute Engine machine",
    AUTO: "The place that suits best",
}


class PlaceField(NamedTuple):
    """One wish about the place: the argument of the command and the field of the form."""

    name: str
    label: str
    metavar: str
    help: str
    resource: str
    """Its name in `launchers/resources.py`."""


PLACE_FIELDS = (
    PlaceField("cpu", "CPU", "N", "Cores of this machine, or vCPU of the job.", "cpu"),
    PlaceField(
        "memory",
        "Memory",
        "SIZE",
        "Such as 16Gi: what the job has, or what ends the program on this machine.",
        "memory_mb",
    ),
    PlaceField(
        "timeout",
        "Time limit",
        "DURATION",
        "Such as 2h: how long the job or the machine may take.",
        "timeout_s",
    ),
    PlaceField(
        "image", "Image", "IMAGE", "The container image, instead of the usual one.", "image"
    ),
    PlaceField(
        "machine_type", "Machine type", "TYPE", "Of the machine, such as e2-medium.", "machine_type"
    ),
)


def what_lacks(launcher: str) -> str:
    """The settings without which a launcher can't be chosen; empty when it has what it needs."""
    if launcher in ("local", AUTO):
        return ""
    folders = (settings.DATA_DIR, settings.RUNS_DIR, settings.ARTIFACTS_DIR)
    lacking = []
    if not settings.GOOGLE_CLOUD_PROJECT:
        lacking.append("GOOGLE_CLOUD_PROJECT")
    if not all(str(folder).startswith("gs://") for folder in folders):
        lacking.append("BUCKET_NAME")
    return " and ".join(lacking)


def read_place(launcher: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The `resources` of a run from values by the names of `PLACE_FIELDS`; None or an empty text is
    not given.

    Raises:
        RunRefused: a value is not one, or the launcher does not have it; `errors` names the field.
    """
    resources: dict[str, Any] = {}
    for field in PLACE_FIELDS:
        value = given.get(field.name)
        if value in (None, ""):
            continue
        name = "max_run_s" if (launcher, field.name) == ("vm", "timeout") else field.resource
        kind = KINDS.get(launcher)
        if kind is not None and name not in kind.__struct_fields__:
            raise _refusal(field.name, f"the launcher {launcher} does not have it.")
        resources[name] = _seconds(value) if field.name == "timeout" else value
    return resources


def written_place(resources: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `read_place` would read as these."""
    values = {
        field.name: resources[field.resource]
        for field in PLACE_FIELDS
        if field.resource in resources
    }
    seconds = resources.get("timeout_s", resources.get("max_run_s"))
    if seconds is not None:
        values["timeout"] = format_duration(seconds * 1_000_000)
    return values


def _seconds(text: Any) -> int:
    try:
        return parse_duration(str(text)) // 1_000_000
    except ValueError as error:
        raise _refusal("timeout", str(error)) from None


def _refusal(name: str, message: str) -> RunRefused:
    return RunRefused(f"--{name.replace('_', '-')}: {message}", [FieldError(name, message)])
