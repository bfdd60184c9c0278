"""What each place gives a run: the defaults of the settings, with what a person asked for."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from django.conf import settings
from msgspec import Meta

from engine.errors import FieldError, RunRefused

Positive = Annotated[int, Meta(ge=1)]


class LocalResources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A child process of the worker."""

    launcher: ClassVar[str] = "local"
    cpu: Positive | None = None
    """Cores; None: all."""
    memory_mb: Positive | None = None
    """The program is ended above this; None: no limit."""


class CloudRunResources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A Cloud Run job. Its own settings hold for what is None."""

    launcher: ClassVar[str] = "cloud-run"
    project: str
    region: str
    job: str
    image: str = ""
    cpu: Positive = 8
    memory_mb: Positive = 8192
    timeout_s: Positive = 7200
    retries: Annotated[int, Meta(ge=0, le=10)] = 1


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
        raise RunRefused(f"There is no launcher “{launcher}”; there is {', '.join(KINDS)}.")
    values = {**_defaults(launcher), **{k: v for k, v in (given or {}).items() if v is not None}}
    try:
        resources = msgspec.convert(values, KINDS[launcher])
    except msgspec.ValidationError as error:
        raise RunRefused(f"{launcher}: {error}", [FieldError("resources", str(error))]) from None
    if getattr(resources, "project", "-") == "":
        message = f"The launcher “{launcher}” needs GOOGLE_CLOUD_PROJECT."
        raise RunRefused(message, [FieldError("launcher", message)])
    return resources


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
