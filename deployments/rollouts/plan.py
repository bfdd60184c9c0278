"""What a rollout would do, without doing any of it: Google is not asked."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from deployments.gcp.builds import image_name, source
from deployments.gcp.limits import format_memory
from deployments.models import CloudService, Deployment
from deployments.rollouts import specs
from deployments.rollouts.services import (
    deployment_serving,
    new_tag,
    rollout_checked,
)
from deployments.rollouts.steps import check_settings
from deployments.rollouts.wishes import differences, read_wishes


def lines(
    *,
    project: str,
    service: str,
    region: str,
    version: str,
    image: str = "",
    canary: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Each step with what it would ask for. Raises what a rollout is refused with."""
    row, wanted, wishes = rollout_checked(
        service=service,
        project=project,
        region=region,
        version=version,
        requested_by="",
        canary=canary,
        changes=changes,
    )
    deployment = Deployment(
        service=row,
        version=wanted,
        wishes=msgspec.to_builtins(wishes),
        canary=canary,
        image=image,
        tag=new_tag(service, wanted.version),
    )
    database = check_settings(deployment)
    if not image:
        deployment.image = image_name(specs.names_of(row), source())
    yield f"checking   the bundle {wanted.location} in the bucket; the database {database}"
    yield f"building   {deployment.image}{', given' if image else ', unless it is there'}"
    yield from _migration(row, deployment)
    yield from _service(row, deployment, is_new=deployment_serving(row) is None)
    for change in differences(read_wishes(row.wishes), wishes):
        yield f"           changed: {change}"
    yield f"probing    /health and a decision that is not kept, at the address of {deployment.tag}"
    share = f"a canary with {canary} % of the traffic" if canary else "serving all of the traffic"
    yield f"then       {share}; {wishes.access}"


def _migration(row: CloudService, deployment: Deployment) -> Iterator[str]:
    spec, job = specs.migration_spec(deployment), specs.migration_job(row)
    size = f"{spec.cpu} vCPU, {format_memory(spec.memory_mb or 0)}"
    yield f"migrating  the job {job.job} ({size}): {' '.join(spec.command or ())}"


def _service(row: CloudService, deployment: Deployment, *, is_new: bool) -> Iterator[str]:
    spec, wishes = specs.service_spec(deployment, None), read_wishes(deployment.wishes)
    made = "the new service" if is_new else "a revision without traffic of the service"
    yield f"deploying  {made} {row.name} in {row.project}, {row.region}: {wishes.size}"
    yield f"           as {spec.service_account}"
    for database in spec.databases or ():
        yield f"           with the socket of {database}"
    for name, value in spec.env.items():
        yield f"           {name}={value}"
    for name, secret in spec.secrets.items():
        yield f"           {name} from the secret {secret}"
