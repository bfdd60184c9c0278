"""What a Cloud Run service is made of, read from Google's messages and written into them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from deployments.gcp import containers
from deployments.gcp.containers import Network, Secret, short
from deployments.gcp.limits import check_service, format_memory

LABELS = {"sentinelle": "serving"}
INGRESS = {
    "all": "INGRESS_TRAFFIC_ALL",
    "internal": "INGRESS_TRAFFIC_INTERNAL_ONLY",
    "internal-and-load-balancer": "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
}
LATEST = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
REVISION = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"


class ServiceName(NamedTuple):
    """Where a service is."""

    project: str
    region: str
    service: str

    @property
    def parent(self) -> str:
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def full(self) -> str:
        return f"{self.parent}/services/{self.service}"

    def revision(self, tag: str) -> str:
        """The name of the revision that is deployed with a tag."""
        return f"{self.service}-{tag}"


class ServiceSpec(NamedTuple):
    """What a service is made of. None: as it is, or as Cloud Run makes a new one."""

    image: str | None = None
    cpu: int | None = None
    memory_mb: int | None = None
    timeout_s: int | None = None
    """Of one request."""
    concurrency: int | None = None
    """Requests at once of one instance."""
    min_instances: int | None = None
    """Of the service, shared among what has traffic."""
    max_instances: int | None = None
    """Of each revision."""
    env: Mapping[str, str | None] = {}
    """Variables to have, None: not to have; others that the service has stay."""
    secrets: Mapping[str, Secret] = {}
    """Variables that have a secret's value."""
    databases: tuple[str, ...] | None = None
    """Cloud SQL instances, `project:region:name`, whose sockets are in /cloudsql."""
    network: Network | None = None
    service_account: str | None = None
    command: tuple[str, ...] | None = None
    """Instead of the image's own; empty: the image's own."""
    args: tuple[str, ...] | None = None
    ingress: str | None = None
    """A key of INGRESS: who reaches it at all."""
    port: int | None = None
    """What the container listens on, which it is told as PORT."""


NEW_SERVICE = ServiceSpec(
    cpu=2, memory_mb=2048, timeout_s=300, concurrency=80, min_instances=0, max_instances=10,
    ingress="all",
)  # fmt: skip


class Traffic(NamedTuple):
    """What a revision gets of a service's requests."""

    revision: str
    percent: int
    tag: str = ""
    url: str = ""
    """Where this revision alone answers, if it has a tag."""


class ServiceInfo(NamedTuple):
    """A service as it is; its newest revision's size and variables."""

    name: str
    url: str
    image: str
    command: str
    cpu: int | float
    memory_mb: int
    timeout_s: int
    concurrency: int
    min_instances: int
    max_instances: int
    service_account: str
    env: dict[str, str]
    secrets: dict[str, Secret]
    databases: tuple[str, ...]
    network: Network | None
    ingress: str
    labels: dict[str, str]
    traffic: tuple[Traffic, ...]
    """As it is; while the service is being changed, as it was."""
    wanted: tuple[Traffic, ...]
    """As it was asked for."""
    latest_created: str
    latest_ready: str
    is_changing: bool
    problem: str
    """Why it is not what was asked, in Google's words, or empty."""
    etag: str
    updated_at: datetime | None

    def of(self, revision: str) -> Traffic:
        """What a revision gets."""
        mine = [one for one in self.traffic if one.revision == revision]
        tagged = next((one for one in mine if one.tag), Traffic(revision, 0))
        return tagged._replace(percent=sum(one.percent for one in mine))


class RevisionInfo(NamedTuple):
    """A revision as it is."""

    name: str
    state: str
    """waiting, ready, failed or retired (was ready, has neither traffic nor instances)."""
    message: str
    """What Google says of it, if it is not ready."""
    image: str
    cpu: int | float
    memory_mb: int
    env: dict[str, str]
    created_at: datetime | None
    log_url: str


# --- Writing --------------------------------------------------------------------------------


def write(service: Any, spec: ServiceSpec) -> None:
    """Write `spec` into Google's message."""
    template = service.template
    box = template.containers[0]
    if spec.image:
        box.image = spec.image
    if spec.command is not None:
        box.command = list(spec.command)
    if spec.args is not None:
        box.args = list(spec.args)
    if spec.port is not None:
        box.ports = [{"container_port": spec.port}]
    containers.write_size(box, spec.cpu, spec.memory_mb)
    # Paid for while it answers, and with more processors while it starts: both are off when the
    # message has resources and does not say so.
    box.resources.cpu_idle = box.resources.startup_cpu_boost = True
    containers.write_env(box, spec.env, spec.secrets)
    containers.write_databases(template, spec.databases)
    containers.write_network(template, spec.network)
    if spec.timeout_s is not None:
        template.timeout = timedelta(seconds=spec.timeout_s)
    if spec.concurrency is not None:
        template.max_instance_request_concurrency = spec.concurrency
    if spec.max_instances is not None:
        template.scaling.max_instance_count = spec.max_instances
    # Of the service: those of a revision run also for a tag without any traffic.
    if spec.min_instances is not None:
        service.scaling.min_instance_count = spec.min_instances
    if spec.service_account:
        template.service_account = spec.service_account
    if spec.ingress:
        service.ingress = INGRESS[spec.ingress]
    service.labels = {**service.labels, **LABELS}
    template.labels = {**template.labels, **LABELS}


def check(info: ServiceInfo) -> None:
    check_service(
        cpu=info.cpu,
        memory_mb=info.memory_mb,
        timeout_s=info.timeout_s or None,
        concurrency=info.concurrency or None,
        min_instances=info.min_instances,
        max_instances=info.max_instances or None,
    )


def info_of(service: Any) -> ServiceInfo:
    from google.cloud import run_v2

    template = service.template
    box = template.containers[0]
    condition = service.terminal_condition
    failed = condition.state == run_v2.Condition.State.CONDITION_FAILED
    ingress = run_v2.IngressTraffic(service.ingress).name
    newest = short(service.latest_created_revision)
    ready = short(service.latest_ready_revision)
    return ServiceInfo(
        name=short(service.name),
        url=service.uri,
        image=box.image,
        command=" ".join([*box.command, *box.args]),
        **containers.size_of(box),
        timeout_s=int(template.timeout.total_seconds()),
        concurrency=template.max_instance_request_concurrency,
        min_instances=service.scaling.min_instance_count,
        max_instances=template.scaling.max_instance_count,
        service_account=template.service_account,
        env=containers.env_of(box),
        secrets=containers.secrets_of(box),
        databases=containers.databases_of(template),
        network=containers.network_of(template),
        ingress=next((key for key, name in INGRESS.items() if name == ingress), ingress),
        labels=dict(service.labels),
        traffic=tuple(_read(one, ready) for one in service.traffic_statuses),
        wanted=tuple(_read(one, ready) for one in service.traffic),
        latest_created=newest,
        latest_ready=ready,
        is_changing=service.reconciling,
        problem=(condition.message or "it is not ready") if failed else "",
        etag=service.etag,
        updated_at=service.update_time or None,
    )


def _read(target: Any, latest: str) -> Traffic:
    """One share; what follows the newest revision is told as the one that it is now."""
    revision = latest if target.type_.name == LATEST else short(target.revision)
    return Traffic(revision, target.percent, target.tag, getattr(target, "uri", ""))


def kept(service: ServiceInfo) -> list[Traffic]:
    """What serves, tied to revisions: a new one would take what follows the newest. The tags of
    revisions that get nothing are left behind."""
    shares = {(one.revision, one.tag): 0 for one in service.wanted}
    for one in service.wanted:
        shares[one.revision, one.tag] += one.percent
    return [Traffic(revision, n, tag) for (revision, tag), n in shares.items() if n]


def targets_of(targets: Sequence[Traffic]) -> list[dict[str, Any]]:
    return [
        {"type_": REVISION, "revision": one.revision, "percent": one.percent, "tag": one.tag}
        for one in targets
    ]


def revision_of(found: Any) -> RevisionInfo:
    box = found.containers[0]
    state, message = _state(found)
    return RevisionInfo(
        name=short(found.name),
        state=state,
        message=message,
        image=box.image,
        **containers.size_of(box),
        env=containers.env_of(box),
        created_at=found.create_time or None,
        log_url=found.log_uri,
    )


def _state(found: Any) -> tuple[str, str]:
    """How a revision is, and what Google says of it."""
    from google.cloud import run_v2

    State, Reason = run_v2.Condition.State, run_v2.Condition.RevisionReason
    ready = next((one for one in found.conditions if one.type_ == "Ready"), None)
    if ready is None or ready.state in (State.CONDITION_PENDING, State.CONDITION_RECONCILING):
        return "waiting", ready.message if ready else ""
    if ready.state == State.CONDITION_FAILED:
        return "failed", ready.message or "it is not ready"
    if any(one.revision_reason in (Reason.RETIRED, Reason.RETIRING) for one in found.conditions):
        return "retired", ""
    return "ready", ""


SHOWN: containers.Shown = (
    ("image", "image", str),
    ("command", "command", str),
    ("cpu", "cpu", str),
    ("memory", "memory_mb", format_memory),
    ("timeout", "timeout_s", "{} s".format),
    ("requests at once", "concurrency", str),
    ("instances at least", "min_instances", str),
    ("instances at most", "max_instances", str),
    ("service account", "service_account", str),
    ("databases", "databases", lambda found: ", ".join(found) or "none"),
    ("network", "network", lambda network: str(network or "none")),
    ("ingress", "ingress", str),
)
"""What people are told of a service."""
