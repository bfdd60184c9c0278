"""What a container of the local Google finds around it: its variables, secrets and databases."""

from collections.abc import Mapping
from typing import Any

from google.cloud import run_v2


class Missing(Exception):
    """What a container needs is not there, in Google's words."""


class World:
    """Secret Manager's values, and what stands for each Cloud SQL instance.

    Args:
        environment: what the platform gives each process, such as where the local storage is.
        secrets: the values of each secret, the newest last; a `ProjectApi` has such.
        databases: for a Cloud SQL instance, `project:region:name`, the folder of a socket or the
            host that takes the place of /cloudsql/INSTANCE in variables.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        secrets: dict[str, list[str]] | None = None,
        databases: dict[str, str] | None = None,
    ) -> None:
        self.environment = dict(environment or {})
        self.secrets = {} if secrets is None else secrets
        self.databases = {} if databases is None else databases
        self.denied: set[str] = set()
        """Secrets that the container's account may not read."""

    def variables(self, template: Any, project: str, runs_as: str = "") -> dict[str, str]:
        """What a container of a template has in its environment; raises Missing."""
        found = dict(self.environment)
        for item in template.containers[0].env:
            key = item.value_source.secret_key_ref
            found[item.name] = self._secret(key, project, runs_as) if key else item.value
        for instance in _instances(template):
            if instance not in self.databases:
                raise Missing(f"Cloud SQL instance {instance} not found.")
            for name, value in found.items():
                found[name] = value.replace(f"/cloudsql/{instance}", self.databases[instance])
        return found

    def _secret(self, key: run_v2.SecretKeySelector, project: str, runs_as: str) -> str:
        name = key.secret.rsplit("/", 1)[-1]
        full = f"projects/{project}/secrets/{name}/versions/{key.version}"
        if name in self.denied:
            raise Missing(
                f"Permission denied on secret: {full} for Revision service account {runs_as}. The "
                "service account used must be granted the 'Secret Manager Secret Accessor' role "
                "(roles/secretmanager.secretAccessor) at the secret, project or higher level."
            )
        values = self.secrets.get(name, [])
        at = len(values) if key.version == "latest" else int(key.version)
        if not 1 <= at <= len(values):
            raise Missing(f"Secret {full} was not found")
        return values[at - 1]


def _instances(template: Any) -> list[str]:
    """The Cloud SQL instances whose sockets the container has at /cloudsql."""
    mounted = {mount.name: mount.mount_path for mount in template.containers[0].volume_mounts}
    return [
        instance
        for volume in template.volumes
        if mounted.get(volume.name) == "/cloudsql"
        for instance in volume.cloud_sql_instance.instances
    ]
