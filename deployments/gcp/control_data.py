"""Where a control plane on Google Cloud keeps things, as steps of the plan: PostgreSQL on Cloud
SQL, Redis on Memorystore, and the secret with the address of the latter.

https://cloud.google.com/sql/docs/postgres/admin-api/rest/v1beta4/instances
https://cloud.google.com/memorystore/docs/redis/reference/rest/v1/projects.locations.instances
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.gcp.errors import CloudError
from deployments.gcp.grants import DATABASE_PASSWORD, REDIS_ADDRESS, Names
from deployments.gcp.rest import Body, Hidden, Request
from deployments.gcp.setup import LABELS, Change, Step, patched, secret_value, value_step
from deployments.standing import Size

DATABASE = "sentinelle"
"""The database and its user; by default also the instance."""
REDIS = "sentinelle"
NETWORK = "default"
"""The network, and its subnet in each region, that a new project has."""
POSTGRESQL = "POSTGRES_17"
SQL = "sql/v1beta4"
SQL_SECONDS, REDIS_SECONDS = 1800.0, 1200.0


def data_steps(names: Names, size: Size) -> list[Step]:
    """The database and the broker."""
    return [
        _network(names),
        _instance(names, size),
        _database(names),
        _user(names),
        _redis(names, size),
        _redis_address(names),
    ]


def _network(names: Names) -> Step:
    path = f"compute/v1/projects/{names.project}/regions/{names.region}/subnetworks/{NETWORK}"

    def fix(found: Body | None) -> Change | None:
        if found is None:
            raise CloudError(
                f"The project has no network “{NETWORK}” with a subnet in {names.region}, where "
                "Redis has its address. Make it, then start this command again: gcloud compute "
                f"networks create {NETWORK} --subnet-mode=auto --project={names.project}"
            )
        return None

    why = "every project has it unless its organisation forbids; it costs nothing"
    look = Request("GET", "compute", path)
    return Step(f"network {NETWORK}", why, look, fix, {"name": NETWORK})


def _instance(names: Names, size: Size) -> Step:
    path = f"{SQL}/projects/{names.project}/instances"
    wanted = {
        # No network is let in: a connection takes the role cloudsql.client and comes over TLS.
        "ipConfiguration": {
            "ipv4Enabled": True,
            "authorizedNetworks": [],
            "sslMode": "ENCRYPTED_ONLY",
        },
        "backupConfiguration": {
            "enabled": True,
            "pointInTimeRecoveryEnabled": True,
            "startTime": "03:00",
        },
        "deletionProtectionEnabled": True,
        "storageAutoResize": True,
        "userLabels": LABELS,
    }
    new = {
        "tier": size.tier,
        # The default of new versions is Enterprise Plus, which has no small machines.
        "edition": "ENTERPRISE",
        "availabilityType": "ZONAL",
        "dataDiskSizeGb": str(size.disk_gb),
        "dataDiskType": "PD_SSD",
    }

    def fix(found: Body | None) -> Change | None:
        if found is None:
            body = {
                "name": names.database,
                "region": names.region,
                "databaseVersion": POSTGRESQL,
                "settings": {**new, **wanted},
            }
            return Change("created", _sql(names, "POST", path, body))
        if found.get("region") != names.region:
            raise CloudError(
                f"The Cloud SQL instance {names.database} is in {found.get('region')}, not in "
                f"{names.region}. Give another name with --database."
            )
        if found.get("state") not in (None, "RUNNABLE"):
            raise CloudError(
                f"The Cloud SQL instance {names.database} is {found.get('state')}; start this "
                "command again when it is RUNNABLE.",
                reason="conflict",
            )

        def change(settings: dict[str, Any]) -> Request:
            return _sql(names, "PATCH", f"{path}/{names.database}", {"settings": settings})

        # Google leaves empty lists out of its answers.
        before = _with_empty(found.get("settings", {}))
        return patched(before, wanted, change, "userLabels")

    what = f"{POSTGRESQL.replace('_', ' ')} on {size.tier}, {size.disk_gb} GB, daily backups"
    look = Request("GET", "sqladmin", f"{path}/{names.database}")
    return Step(f"Cloud SQL instance {names.database}", what, look, fix)


def _with_empty(settings: Mapping[str, Any]) -> dict[str, Any]:
    addresses = {"authorizedNetworks": [], **settings.get("ipConfiguration", {})}
    return {**settings, "ipConfiguration": addresses}


def _database(names: Names) -> Step:
    path = f"{SQL}/projects/{names.project}/instances/{names.database}/databases"

    def fix(found: Body | None) -> Change | None:
        if found is not None:
            return None
        body = {"name": DATABASE, "instance": names.database, "project": names.project}
        return Change("created", _sql(names, "POST", path, body))

    look = Request("GET", "sqladmin", f"{path}/{DATABASE}")
    return Step(f"database {DATABASE}", "Sentinelle's tables", look, fix)


def _user(names: Names) -> Step:
    """PostgreSQL's user, with the password that the secret has."""
    path = f"{SQL}/projects/{names.project}/instances/{names.database}/users"
    secret = f"v1/projects/{names.project}/secrets/{DATABASE_PASSWORD}/versions/latest:access"

    def complete(request: Request, answers: Sequence[Body]) -> Request:
        password = base64.b64decode(answers[0]["payload"]["data"]).decode()
        body = {"name": DATABASE, "password": Hidden(password, f"(of {DATABASE_PASSWORD})")}
        return request._replace(body=body)

    def fix(found: Body | None) -> Change | None:
        if any(user.get("name") == DATABASE for user in (found or {}).get("items", ())):
            return None
        body = {"name": DATABASE, "password": Hidden("", f"(of {DATABASE_PASSWORD})")}
        access = Request("GET", "secretmanager", secret)
        return Change("created", _sql(names, "POST", path, body), (access,), complete)

    look = Request("GET", "sqladmin", path)
    why = f"with the password of the secret {DATABASE_PASSWORD}"
    return Step(f"database user {DATABASE}", why, look, fix, {"items": []})


def _redis(names: Names, size: Size) -> Step:
    path = f"v1/{names.parent}/instances"
    network = f"projects/{names.project}/global/networks/{NETWORK}"

    def fix(found: Body | None) -> Change | None:
        if found is None:
            body = {
                "tier": "BASIC",
                "memorySizeGb": size.redis_gb,
                "redisVersion": "REDIS_7_2",
                "authorizedNetwork": network,
                "authEnabled": True,
                # A message must not make room for another.
                "redisConfigs": {"maxmemory-policy": "noeviction"},
                "labels": LABELS,
            }
            request = Request(
                "POST", "redis", f"{path}?instanceId={REDIS}", body, "v1", REDIS_SECONDS
            )
            return Change("created", request)
        if found.get("state") not in (None, "READY"):
            raise CloudError(
                f"The Memorystore instance {REDIS} is {found.get('state')}; start this command "
                "again when it is READY.",
                reason="conflict",
            )
        if not found.get("authEnabled"):
            request = Request(
                "PATCH", "redis", f"{path}/{REDIS}?updateMask=authEnabled",
                {"authEnabled": True}, "v1", REDIS_SECONDS,
            )  # fmt: skip
            return Change("changed: authEnabled", request)
        return None

    what = f"{size.redis_gb} GB, basic tier: the broker, which may be emptied at any time"
    return Step(
        f"Memorystore instance {REDIS}", what, Request("GET", "redis", f"{path}/{REDIS}"), fix
    )


def _redis_address(names: Names) -> Step:
    """REDIS_URL: known once the instance is there."""
    instance = f"v1/{names.parent}/instances/{REDIS}"
    shown = "(redis://:PASSWORD@ADDRESS:6379/0, not shown)"

    def complete(request: Request, answers: Sequence[Body]) -> Request:
        found, password = answers[0], answers[1]["authString"]
        url = f"redis://:{password}@{found['host']}:{found.get('port', 6379)}/0"
        return request._replace(body=secret_value(url, shown))

    def change(request: Request) -> Change:
        reads = (
            Request("GET", "redis", instance),
            Request("GET", "redis", f"{instance}/authString"),
        )
        filled = request._replace(body=secret_value("", shown))
        return Change("given the address and the password", filled, reads, complete)

    return value_step(names, REDIS_ADDRESS, "the address and the password of Memorystore", change)


def _sql(names: Names, method: str, path: str, body: Body) -> Request:
    operations = f"{SQL}/projects/{names.project}/operations"
    return Request(method, "sqladmin", path, body, operations, SQL_SECONDS)
