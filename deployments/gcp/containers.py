"""What jobs and services of Cloud Run have in common: the container in Google's messages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from deployments.gcp.limits import parse_memory

SQL_FOLDER = "/cloudsql"
"""Where Cloud SQL's sockets are in a container."""
SQL_VOLUME = "cloudsql"


class Secret(NamedTuple):
    """A version of a secret in Secret Manager, which a variable has the value of."""

    name: str
    version: str = "latest"

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


class Network(NamedTuple):
    """A network that a container reaches by Direct VPC egress; only private addresses go there."""

    network: str
    subnet: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, self))


class Change(NamedTuple):
    """One field of a job or a service, before and after."""

    field: str
    before: str
    after: str


Shown = Sequence[tuple[str, str, Callable[[Any], str]]]
"""What people are told of it: the name, the field, how it is written."""


def short(name: str) -> str:
    """The last part of a full name."""
    return name.rsplit("/", 1)[-1]


def differences(before: Any, after: Any, shown: Shown) -> list[Change]:
    """What differs between two that have the fields of `shown`, `env`, `secrets` and `labels`."""
    changes = []
    for name, field, written in shown:
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            changes.append(Change(name, written(old) or "none", written(new) or "none"))
    # A value may come to be a secret's, and the other way round.
    old, new = _variables(before), _variables(after)
    for name in [*new, *(name for name in old if name not in new)]:
        if old.get(name) != new.get(name):
            changes.append(Change(f"env {name}", old.get(name, "none"), new.get(name, "none")))
    if before.labels != after.labels:
        changes.append(Change("labels", str(before.labels), str(after.labels)))
    return changes


# --- Reading --------------------------------------------------------------------------------


def size_of(box: Any) -> dict[str, Any]:
    """cpu and memory_mb of a container."""
    limits = dict(box.resources.limits)
    return {"cpu": cpus(limits.get("cpu", "1")), "memory_mb": mib(limits.get("memory", "512Mi"))}


def env_of(box: Any) -> dict[str, str]:
    """The variables that have a value of their own."""
    return {item.name: item.value for item in box.env if not item.value_source.secret_key_ref}


def secrets_of(box: Any) -> dict[str, Secret]:
    """The variables that have a secret's value."""
    found = ((item.name, item.value_source.secret_key_ref) for item in box.env)
    return {name: Secret(key.secret, key.version) for name, key in found if key}


def databases_of(template: Any) -> tuple[str, ...]:
    """The Cloud SQL instances (`project:region:name`) that have a socket."""
    return tuple(one for volume in template.volumes for one in volume.cloud_sql_instance.instances)


def network_of(template: Any) -> Network | None:
    for interface in template.vpc_access.network_interfaces:
        return Network(interface.network, interface.subnetwork)
    return None


def cpus(text: str) -> int | float:
    """Processors, of “2” or “500m”."""
    number = int(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)
    return int(number) if number == int(number) else number


def mib(text: str) -> int:
    """MiB of what a container has, which another tool may have written as 2G or 512M."""
    if text.endswith(("G", "M")):
        return int(text[:-1]) * (1000**3 if text.endswith("G") else 1000**2) // 2**20
    return parse_memory(text)


# --- Writing --------------------------------------------------------------------------------


def write_size(box: Any, cpu: int | None, memory_mb: int | None) -> None:
    """Give a container so much; None: as it is."""
    limits = dict(box.resources.limits)
    if cpu is not None:
        limits["cpu"] = str(cpu)
    if memory_mb is not None:
        limits["memory"] = f"{memory_mb}Mi"
    box.resources.limits = limits


def write_env(
    box: Any, env: Mapping[str, str | None], secrets: Mapping[str, Secret | tuple[str, str]]
) -> None:
    """Give a container these variables; others that it has stay, those that are None go."""
    told = env.keys() | secrets.keys()
    items: list[Any] = [item for item in box.env if item.name not in told]
    items += [{"name": name, "value": value} for name, value in env.items() if value is not None]
    for name, (secret, version) in secrets.items():
        key = {"secret": secret, "version": version}
        items.append({"name": name, "value_source": {"secret_key_ref": key}})
    box.env = items


def write_databases(template: Any, instances: Iterable[str] | None) -> None:
    """Give the container of a template the sockets of Cloud SQL; None: as it is."""
    if instances is None:
        return
    wanted, box = list(instances), template.containers[0]
    others = [volume for volume in template.volumes if not volume.cloud_sql_instance]
    mounts = [mount for mount in box.volume_mounts if mount.mount_path != SQL_FOLDER]
    if wanted:
        others.append({"name": SQL_VOLUME, "cloud_sql_instance": {"instances": wanted}})
        mounts.append({"name": SQL_VOLUME, "mount_path": SQL_FOLDER})
    template.volumes, box.volume_mounts = others, mounts


def write_network(template: Any, network: Network | None) -> None:
    """Let a template reach a network; None: as it is."""
    if network is not None:
        template.vpc_access = {
            "egress": "PRIVATE_RANGES_ONLY",
            "network_interfaces": [{"network": network.network, "subnetwork": network.subnet}],
        }


def _variables(info: Any) -> dict[str, str]:
    return {**info.env, **{name: f"secret {secret}" for name, secret in info.secrets.items()}}
