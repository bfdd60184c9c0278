"""What a control plane and its end call: Cloud SQL, Memorystore, networks, worker pools, and how
what a project has is deleted.

Cloud SQL keeps an instance that is protected. Worker pools are ready at once and run nothing.
"""

import base64
import re
import uuid
from typing import Any

from google.cloud import run_v2

from tests.google.messages import page_of, parsed, written
from tests.google.run import PLACE, RunApi
from tests.google.server import Call, Refusal
from tests.google.setup import MESSAGES, PROJECT, REGIONAL, ProjectApi, _add, _checked, _found

SQL = r"/sql/v1beta4/projects/(?P<project>[^/:]+)"
MESSAGES["bucket"]["softDeletePolicy"] = {"retentionDurationSeconds": str}
MESSAGES |= {
    "sql instance": {
        "name": str, "region": str, "databaseVersion": str,
        "settings": {
            "tier": str, "edition": str, "availabilityType": str, "dataDiskSizeGb": str,
            "dataDiskType": str, "deletionProtectionEnabled": bool, "storageAutoResize": bool,
            "userLabels": dict,
            "ipConfiguration": {
                "ipv4Enabled": bool, "sslMode": str, "authorizedNetworks": [{"value": str}],
            },
            "backupConfiguration": {
                "enabled": bool, "pointInTimeRecoveryEnabled": bool, "startTime": str,
            },
        },
    },
    "sql database": {"name": str, "instance": str, "project": str},
    "sql user": {"name": str, "password": str},
    "redis": {
        "tier": str, "memorySizeGb": int, "redisVersion": str, "authorizedNetwork": str,
        "authEnabled": bool, "redisConfigs": dict, "labels": dict,
    },
}  # fmt: skip


class ControlApi:
    """Beside a project: what its control plane has."""

    def __init__(self, project: ProjectApi, run: RunApi) -> None:
        self.project, self.run = project, run
        self.sql: dict[str, dict[str, Any]] = {}
        self.databases: dict[str, list[str]] = {}
        self.users: dict[str, dict[str, str]] = {}
        self.redis: dict[str, dict[str, Any]] = {}
        self.pools: dict[str, run_v2.WorkerPool] = {}
        self.functions: dict[str, dict[str, Any]] = {}
        self.has_network = True
        self._operations: dict[str, int] = {}
        sql, redis = SQL + r"/instances/(?P<name>[^/]+)", REGIONAL + r"/instances/(?P<name>[^/]+)"
        pool = rf"/v2/({PLACE}/workerPools/[^/:]+)"
        self.routes = [
            ("GET", r"/compute/v1/projects/[^/]+/regions/[^/]+/subnetworks/default", self._network),
            ("GET", SQL + "/instances", self._list_sql),
            ("GET", sql, lambda call: self._sql(call)),
            ("POST", SQL + "/instances", self._create_sql),
            ("PATCH", sql, self._patch_sql),
            ("DELETE", sql, self._delete_sql),
            ("GET", sql + "/databases/(?P<database>[^/]+)", self._database),
            ("POST", sql + "/databases", self._create_database),
            ("GET", sql + "/users", self._users),
            ("POST", sql + "/users", self._create_user),
            ("GET", SQL + "/operations/(?P<name>[^/]+)", self._sql_operation),
            ("GET", REGIONAL + "/instances", self._list_redis),
            ("GET", redis, lambda call: _found(self.redis, call.match["name"])),
            ("POST", REGIONAL + "/instances", self._create_redis),
            ("GET", redis + "/authString", self._password),
            ("DELETE", redis, self._delete_redis),
            ("GET", PROJECT + "/secrets/(?P<name>[^/:]+)/versions/latest:access", self._access),
            ("GET", pool, self._get_pool),
            ("POST", rf"/v2/({PLACE})/workerPools", self._create_pool),
            ("PATCH", pool, self._patch_pool),
            ("DELETE", pool, self._delete_pool),
            ("GET", rf"/v2/({PLACE})/workerPools", self._list_pools),
            ("GET", r"/v2/projects/[^/]+/locations/[^/]+/functions", self._list_functions),
            ("DELETE", r"/v2/(projects/.+/functions/[^/]+)", self._delete_function),
            *_deletions(project),
        ]  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Everything that costs, without what differs from one making to the next."""
        return {
            "sql": {name: found["settings"] for name, found in self.sql.items()},
            "databases": dict(self.databases),
            "users": sorted(self.users),
            "redis": sorted(self.redis),
            "pools": {name: written(pool)["template"] for name, pool in self.pools.items()},
            "functions": sorted(self.functions),
        }

    def _network(self, call: Call) -> Any:
        self.project._needs("compute")
        if not self.has_network:
            raise Refusal("NOT_FOUND", "The resource 'subnetworks/default' was not found")
        return {"name": "default", "selfLink": call.path}

    # --- Cloud SQL ------------------------------------------------------------------------

    def _sql(self, call: Call) -> dict[str, Any]:
        self.project._needs("sqladmin")
        if call.match["name"] not in self.sql:
            # As at Google, where it is no 404 for a caller without the permission to look.
            raise Refusal("NOT_FOUND", "The Cloud SQL instance does not exist.")
        return self.sql[call.match["name"]]

    def _list_sql(self, call: Call) -> Any:
        self.project._needs("sqladmin")
        return {"items": list(self.sql.values())}

    def _create_sql(self, call: Call) -> Any:
        self.project._needs("sqladmin")
        body = _checked("sql instance", call)
        if not re.fullmatch(r"db-(f1-micro|g1-small|custom-\d+-\d+)", body["settings"]["tier"]):
            raise Refusal("INVALID_ARGUMENT", "Invalid Tier for (POSTGRES_17) Enterprise edition.")
        settings = dict(body["settings"])
        # Google leaves empty lists out.
        settings["ipConfiguration"] = {
            name: value for name, value in settings["ipConfiguration"].items() if value != []
        }
        _add(self.sql, body["name"], {**body, "settings": settings, "state": "RUNNABLE"})
        self.databases[body["name"]] = ["postgres"]
        return self._sql_begin()

    def _patch_sql(self, call: Call) -> Any:
        found = self._sql(call)
        found["settings"].update(_checked("sql instance", call)["settings"])
        return self._sql_begin()

    def _delete_sql(self, call: Call) -> Any:
        found = self._sql(call)
        if found["settings"].get("deletionProtectionEnabled"):
            raise Refusal("FAILED_PRECONDITION", "The instance is protected. Please disable the "
                          "deletion protection and try again.")  # fmt: skip
        del self.sql[call.match["name"]]
        del self.databases[call.match["name"]]
        self.users.clear()
        return self._sql_begin()

    def _database(self, call: Call) -> Any:
        self._sql(call)
        if call.match["database"] not in self.databases[call.match["name"]]:
            raise Refusal("NOT_FOUND", "Not Found")
        return {"name": call.match["database"]}

    def _create_database(self, call: Call) -> Any:
        self._sql(call)
        self.databases[call.match["name"]].append(_checked("sql database", call)["name"])
        return self._sql_begin()

    def _users(self, call: Call) -> Any:
        self._sql(call)
        return {"items": [{"name": name} for name in ["postgres", *self.users]]}

    def _create_user(self, call: Call) -> Any:
        self._sql(call)
        user = _checked("sql user", call)
        self.users[user["name"]] = user["password"]
        return self._sql_begin()

    def _sql_begin(self) -> Any:
        name = str(uuid.uuid4())
        self._operations[name] = 1
        return {"kind": "sql#operation", "name": name, "status": "PENDING"}

    def _sql_operation(self, call: Call) -> Any:
        left = self._operations[call.match["name"]]
        self._operations[call.match["name"]] -= 1
        return {"name": call.match["name"], "status": "RUNNING" if left > 0 else "DONE"}

    # --- Memorystore ----------------------------------------------------------------------

    def _create_redis(self, call: Call) -> Any:
        self.project._needs("redis")
        found = {**_checked("redis", call), "state": "READY", "host": "10.20.30.4", "port": 6379}
        _add(self.redis, call.query["instanceId"], found)
        return self._begin(call, "instances")

    def _list_redis(self, call: Call) -> Any:
        self.project._needs("redis")
        parent = call.path.removeprefix("/v1/")
        return {"instances": [{"name": f"{parent}/{n}", **one} for n, one in self.redis.items()]}

    def _delete_redis(self, call: Call) -> Any:
        self.project._needs("redis")
        _found(self.redis, call.match["name"])
        del self.redis[call.match["name"]]
        return self._begin(call, "instances")

    def _password(self, call: Call) -> Any:
        _found(self.redis, call.match["name"])
        return {"authString": "p4ss-of-redis"}

    def _begin(self, call: Call, before: str) -> Any:
        parent = call.path.removeprefix("/v1/").partition(before)[0]
        return self.project._begin(parent, lambda: None)

    def _access(self, call: Call) -> Any:
        _found(self.project.secrets, call.match["name"])
        value = self.project.values[call.match["name"]][-1]
        return {"payload": {"data": base64.b64encode(value.encode()).decode()}}

    # --- Cloud Run ------------------------------------------------------------------------

    def _get_pool(self, call: Call) -> Any:
        return written(self._pool(call.match[1]))

    def _create_pool(self, call: Call) -> Any:
        pool, name = parsed(run_v2.WorkerPool, call), call.query["workerPoolId"]
        if not self.run.has_image(pool.template.containers[0].image):
            raise Refusal("INVALID_ARGUMENT", "Image not found.")
        pool.name = f"{call.match[1]}/workerPools/{name}"
        if pool.name in self.pools:
            raise Refusal("ALREADY_EXISTS", f"Resource '{name}' already exists.")
        self.pools[pool.name] = pool
        return self.run.begin(pool.name, pool, lambda: pool)

    def _patch_pool(self, call: Call) -> Any:
        pool, given = self._pool(call.match[1]), parsed(run_v2.WorkerPool, call)
        for path in call.query["updateMask"].split(","):
            setattr(pool, path, getattr(given, path))
        return self.run.begin(pool.name, pool, lambda: pool)

    def _delete_pool(self, call: Call) -> Any:
        pool = self._pool(call.match[1])
        del self.pools[pool.name]
        return self.run.begin(pool.name, pool, lambda: pool)

    def _list_pools(self, call: Call) -> Any:
        page, token = page_of(list(self.pools.values()), call)
        return written(run_v2.ListWorkerPoolsResponse(worker_pools=page, next_page_token=token))

    def _pool(self, name: str) -> run_v2.WorkerPool:
        if name not in self.pools:
            raise Refusal("NOT_FOUND", f"Resource '{name}' was not found.")
        return self.pools[name]

    # --- Functions ------------------------------------------------------------------------

    def _list_functions(self, call: Call) -> Any:
        self.project._needs("cloudfunctions")
        return {"functions": list(self.functions.values())}

    def _delete_function(self, call: Call) -> Any:
        _found(self.functions, call.match[1])
        del self.functions[call.match[1]]
        return self.run.begin(call.match[1], run_v2.Service(name=call.match[1]), run_v2.Service)


def _deletions(project: ProjectApi) -> list[tuple[str, str, Any]]:
    """How what a project has is listed and deleted."""

    def policies_of(place: str) -> None:
        project.policies.pop(place, None)

    def delete(things: dict[str, Any], operation: bool = False) -> Any:
        def answer(call: Call) -> Any:
            _found(things, call.match["name"])
            del things[call.match["name"]]
            policies_of(call.path)
            if not operation:
                return {}
            return project._begin(
                call.path.removeprefix("/v1/").partition("repositories")[0], lambda: None
            )

        return answer

    def objects(call: Call) -> Any:
        _found(project.buckets, call.match["name"])
        found = project.objects.get(call.match["name"], [])
        start = int(call.query.get("pageToken") or 0)
        page = {"items": found[start : start + 2]}
        return page | ({"nextPageToken": str(start + 2)} if start + 2 < len(found) else {})

    def delete_object(call: Call) -> Any:
        found = project.objects.get(call.match["name"], [])
        wanted = (call.match["object"], call.query.get("generation"))
        kept = [item for item in found if (item["name"], item["generation"]) != wanted]
        if len(kept) == len(found):
            raise Refusal("NOT_FOUND", f"No such object: {wanted[0]}")
        project.objects[call.match["name"]] = kept
        return ""

    def delete_bucket(call: Call) -> Any:
        if project.objects.get(call.match["name"]):
            raise Refusal("ABORTED", "The bucket you tried to delete is not empty.")
        _found(project.buckets, call.match["name"])
        del project.buckets[call.match["name"]]
        policies_of(f"{call.path}")
        return ""

    def secrets(call: Call) -> Any:
        project._needs("secretmanager")
        parent, found = call.path.removeprefix("/v1/"), sorted(project.secrets.items())
        page, token = page_of([{"name": f"{parent}/{name}", **one} for name, one in found], call)
        return {"secrets": page, "nextPageToken": token}

    def buckets(call: Call) -> Any:
        """Those of the project itself: one that says otherwise has another's number."""
        prefix = call.query.get("prefix", "")
        mine = [one for one in project.buckets.values() if "projectNumber" not in one]
        return {"items": [one for one in mine if one["name"].startswith(prefix)]}

    bucket = r"/storage/v1/b/(?P<name>[^/]+)"
    return [
        ("GET", "/storage/v1/b", buckets),
        ("GET", PROJECT + "/secrets", secrets),
        ("GET", bucket + "/o", objects),
        ("DELETE", bucket + r"/o/(?P<object>.+)", delete_object),
        ("DELETE", bucket, delete_bucket),
        ("DELETE", REGIONAL + "/repositories/(?P<name>[^/:]+)",
         delete(project.repositories, operation=True)),
        ("DELETE", PROJECT + "/serviceAccounts/(?P<name>[^/:]+)", delete(project.accounts)),
        ("DELETE", PROJECT + "/secrets/(?P<name>[^/:]+)", _delete_secret(project, delete)),
    ]  # fmt: skip


def _delete_secret(project: ProjectApi, delete: Any) -> Any:
    def answer(call: Call) -> Any:
        project.values.pop(call.match["name"], None)
        return delete(project.secrets)(call)

    return answer
