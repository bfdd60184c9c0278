"""Cloud Run services, through Google's client library over REST. Every function raises CloudError.

A new revision gets a name and a tag of its own and no traffic: what serves goes on serving until
`traffic_set` says otherwise. Only the first revision of a service has all of its traffic from the
start, because Cloud Run makes no service without.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from deployments.gcp import clients, containers
from deployments.gcp.containers import Change, short
from deployments.gcp.errors import CloudError, cloud_error, missing_accepted, translated
from deployments.gcp.services import (
    LABELS,
    SHOWN,
    RevisionInfo,
    ServiceInfo,
    ServiceName,
    ServiceSpec,
    Traffic,
    check,
    info_of,
    kept,
    revision_of,
    targets_of,
    write,
)
from deployments.gcp.waiting import Patience

CALL_SECONDS = 30.0
# Starting a revision takes seconds; Cloud Run itself gives up after 4 minutes.
READY_SECONDS = 300.0
READY_POLL_SECONDS = 1.0
SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,47}[a-z0-9])?")
TAG = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# Of a service's name and a tag together, which begin a host name.
ADDRESS_MAX = 46


class Deployed(NamedTuple):
    """A revision that was begun."""

    revision: str
    is_first: bool
    """It is the service's first, and has all of its traffic."""
    changes: list[Change]
    """Empty when it had been begun before."""


# --- Looking --------------------------------------------------------------------------------


def service_describe(name: ServiceName) -> ServiceInfo:
    """The service `name`."""
    return info_of(_service(name))


def service_list(project: str, region: str) -> list[ServiceInfo]:
    """Our services of a project in a region."""
    with translated("Listing the services", project=project, region=region):
        parent = ServiceName(project, region, "").parent
        found = clients.run_services().list_services(parent=parent, timeout=CALL_SECONDS)
        return [info_of(one) for one in found if LABELS.items() <= dict(one.labels).items()]


def revision_describe(name: ServiceName, revision: str) -> RevisionInfo:
    """One revision of a service."""
    with _translated(f"Looking at the revision {revision}", name):
        full = f"{name.full}/revisions/{revision}"
        found = clients.run_revisions().get_revision(name=full, timeout=CALL_SECONDS)
        return revision_of(found)


def revisions_list(name: ServiceName) -> list[RevisionInfo]:
    """The revisions of a service, the newest first."""
    with _translated(f"Listing the revisions of {name.service}", name):
        found = clients.run_revisions().list_revisions(parent=name.full, timeout=CALL_SECONDS)
        revisions = sorted(found, key=lambda one: one.create_time, reverse=True)
        return [revision_of(one) for one in revisions]


# --- Deploying ------------------------------------------------------------------------------


def service_ensure(
    name: ServiceName,
    spec: ServiceSpec,
    *,
    tag: str,
    new: ServiceSpec | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[ServiceInfo, Deployed]:
    """Deploy a revision, as `service_deploy` does, and wait until it is ready.

    Args:
        tell: called with what is being waited for.

    Raises:
        CloudError: also when the revision does not become ready, with why.
    """
    deployed = service_deploy(name, spec, tag=tag, new=new)
    return revision_wait(name, deployed.revision, tell=tell), deployed


def service_deploy(
    name: ServiceName, spec: ServiceSpec, *, tag: str, new: ServiceSpec | None = None
) -> Deployed:
    """Begin a revision with `tag` and no traffic, in a service that is made if it is not there.

    Done again with the same tag it finds what it began and changes nothing.

    Args:
        new: what a service that is not there is made of, if not of `spec`.

    Raises:
        RunRefused: beyond Cloud Run's limits.
        CloudError: with the reason `conflict` when another changes the service at the same time.
    """
    check_address(name, tag)
    try:
        service = _service(name)
    except CloudError as error:
        if error.reason != "not_found":
            raise
        return _create(name, new or spec, tag)
    check_ours(name, service.labels)
    wanted = name.revision(tag)
    if service.template.revision == wanted or _revision_if_there(name, wanted):
        return Deployed(wanted, _is_only(service, wanted), [])
    before = info_of(service)
    write(service, spec)
    service.template.revision = wanted
    service.traffic = targets_of([*kept(before), Traffic(wanted, 0, tag)])
    after = info_of(service)
    check(after)
    with _translated(f"Deploying the revision {wanted}", name):
        clients.run_services().update_service(service=service, timeout=CALL_SECONDS)
    return Deployed(wanted, False, containers.differences(before, after, SHOWN))


def revision_wait(
    name: ServiceName,
    revision: str,
    *,
    within: float | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> ServiceInfo:
    """The service once a revision is ready; raises CloudError when that can't be."""
    what = f"Deploying the revision {revision}"
    within = READY_SECONDS if within is None else within
    patience = Patience(what, within, READY_POLL_SECONDS)
    while (service := revision_look(name, revision)) is None:
        tell(f"waiting for {revision}, {patience.waited_s:.0f} s")
        patience.pause()
    return service


def revision_look(name: ServiceName, revision: str) -> ServiceInfo | None:
    """The service when a revision is ready, None while it may still become so.

    Raises:
        CloudError: it will not: Google's words and what to do.
    """
    service = service_describe(name)
    found = _revision_if_there(name, revision)
    if found is None:
        has_failed = bool(service.problem) and not service.is_changing
    else:
        has_failed = found.state == "failed"
    if has_failed:
        words = (found.message if found else "") or service.problem or "it is not ready"
        raise cloud_error(
            f"The revision {revision} did not start", words,
            project=name.project, region=name.region, service=name.service,
        )  # fmt: skip
    # Its address is told by the service, a moment later.
    is_ready = found is not None and found.state != "waiting" and not service.is_changing
    return service if is_ready else None


# --- Traffic --------------------------------------------------------------------------------


def traffic_set(
    name: ServiceName,
    targets: Sequence[Traffic],
    *,
    min_instances: int | None = None,
    etag: str = "",
) -> ServiceInfo:
    """Share a service's requests among revisions, and wait until it is so.

    A revision that is not named gets nothing and loses its tag.

    Args:
        targets: their percents are 100 together.
        min_instances: of the service from then on; None: as it is.
        etag: of the service as it was looked at; refused as a conflict when it has changed since.
    """
    if sum(target.percent for target in targets) != 100:
        shares = ", ".join(f"{target.revision} {target.percent} %" for target in targets)
        raise CloudError(f"Traffic must be 100 % together; found {shares}.", reason="limit")
    what = f"Sharing the traffic of {name.service}"
    service = _service(name)
    wanted = [target._replace(url="") for target in targets]
    before = info_of(service)
    least = before.min_instances if min_instances is None else min_instances
    if (list(before.wanted), before.min_instances) == (wanted, least) and not etag:
        return _traffic_wait(name, what, wanted, service.generation)
    service.traffic = targets_of(wanted)
    service.scaling.min_instance_count = least
    service.etag = etag or service.etag
    with _translated(what, name):
        operation = clients.run_services().update_service(
            request={"service": service, "update_mask": {"paths": ["traffic", "scaling"]}},
            timeout=CALL_SECONDS,
        )
        generation = operation.metadata.generation
    return _traffic_wait(name, what, wanted, generation)


def _traffic_wait(
    name: ServiceName, what: str, wanted: Sequence[Traffic], generation: int
) -> ServiceInfo:
    patience = Patience(what, READY_SECONDS, READY_POLL_SECONDS)
    while True:
        service = _service(name)
        if not service.reconciling and service.generation >= generation:
            break
        patience.pause()
    info = info_of(service)
    # The newest revision's fault is not the traffic's: what was shared out is what counts.
    if _told(info.traffic) != _told(wanted):
        words = info.problem or "the traffic is not as it was asked"
        raise cloud_error(
            what, words, project=name.project, region=name.region, service=name.service
        )
    return info


def _told(shares: Sequence[Traffic]) -> list[Traffic]:
    """What can be compared: Google leaves out what has neither a share nor a tag."""
    return sorted(one._replace(url="") for one in shares if one.percent or one.tag)


# --- Deleting -------------------------------------------------------------------------------


def service_delete(name: ServiceName) -> None:
    """Delete the service with its revisions, and wait until it is gone."""
    what = f"Deleting the service {name.service}"
    with _translated(what, name):
        clients.run_services().delete_service(name=name.full, timeout=CALL_SECONDS)
    patience = Patience(what, READY_SECONDS, READY_POLL_SECONDS)
    with missing_accepted():
        while True:
            _service(name)
            patience.pause()


def revision_delete(name: ServiceName, revision: str) -> None:
    """Delete a revision that has neither traffic nor a tag and is not the newest."""
    with _translated(f"Deleting the revision {revision}", name):
        full = f"{name.full}/revisions/{revision}"
        clients.run_revisions().delete_revision(name=full, timeout=CALL_SECONDS)


def check_address(name: ServiceName, tag: str) -> None:
    """Refuse a name and a tag that Cloud Run would refuse. Raises CloudError, reason `limit`."""
    if not SERVICE.fullmatch(name.service):
        raise CloudError(
            f"“{name.service}” is no name of a service: a small letter, then small letters, digits "
            "and hyphens, at most 49 together.",
            reason="limit",
        )
    if not TAG.fullmatch(tag) or len(name.service) + len(tag) > ADDRESS_MAX:
        raise CloudError(
            f"“{tag}” is no tag of {name.service}: small letters, digits and hyphens, which with "
            f"the service's name are {ADDRESS_MAX} characters or fewer (they are "
            f"{len(name.service) + len(tag)}). Give the service a shorter name.",
            reason="limit",
        )


def check_ours(name: ServiceName, labels: Mapping[str, str]) -> None:
    """Leave alone what somebody else serves under that name: it has not our label. Raises
    CloudError, reason `exists`."""
    if not LABELS.items() <= dict(labels).items():
        raise CloudError(
            f"The service {name.service} is not Sentinelle's: it has no label sentinelle=serving. "
            "Choose another name, or, to have Sentinelle deploy there: gcloud run services update "
            f"{name.service} --update-labels sentinelle=serving --region {name.region} --project "
            f"{name.project}.",
            reason="exists",
        )


# --- Google's messages ----------------------------------------------------------------------


def _service(name: ServiceName) -> Any:
    with _translated(f"Looking at the service {name.service}", name):
        return clients.run_services().get_service(name=name.full, timeout=CALL_SECONDS)


def _translated(what: str, name: ServiceName) -> Any:
    return translated(what, project=name.project, region=name.region, service=name.service)


def _create(name: ServiceName, spec: ServiceSpec, tag: str) -> Deployed:
    from google.cloud import run_v2

    if not spec.image:
        raise CloudError(f"The service {name.service} needs an image.", reason="image")
    service: Any = run_v2.Service(template={"containers": [{}]})
    write(service, spec)
    wanted = name.revision(tag)
    service.template.revision = wanted
    service.traffic = targets_of([Traffic(wanted, 100, tag)])
    check(info_of(service))
    with _translated(f"Creating the service {name.service}", name):
        clients.run_services().create_service(
            parent=name.parent, service=service, service_id=name.service, timeout=CALL_SECONDS
        )
    return Deployed(wanted, True, [Change("service", "none", name.service)])


def _revision_if_there(name: ServiceName, revision: str) -> RevisionInfo | None:
    with missing_accepted():
        return revision_describe(name, revision)
    return None


def _is_only(service: Any, revision: str) -> bool:
    return all(short(one.revision) == revision for one in service.traffic)
