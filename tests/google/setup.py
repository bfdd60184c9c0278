"""What setting a project up calls: Service Usage, buckets (their settings, not their objects),
Artifact Registry, IAM, Resource Manager, Secret Manager and Cloud Build.

There is no client library of these here, so the fields that each message takes are written down
from Google's reference; an unknown one is refused, as at Google. Policies have etags.
"""

import base64
import copy
import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

from tests.google.server import Call, Refusal

PROJECT = r"/v1/projects/(?P<project>[^/:]+)"
REGIONAL = PROJECT + r"/locations/(?P<region>[^/]+)"
ENABLED = {"serviceusage.googleapis.com"}
OPERATIONS_TAKE = 2
"""Reads of an operation until it has ended."""
MESSAGES: dict[str, dict[str, Any]] = {
    "bucket": {
        "name": str, "location": str, "labels": dict, "versioning": {"enabled": bool},
        "iamConfiguration": {
            "uniformBucketLevelAccess": {"enabled": bool}, "publicAccessPrevention": str,
        },
        "lifecycle": {"rule": [{
            "action": {"type": str, "storageClass": str},
            "condition": {"age": int, "daysSinceNoncurrentTime": int, "numNewerVersions": int,
                          "matchesPrefix": [str], "isLive": bool},
        }]},
    },
    "repository": {
        "format": str, "description": str, "labels": dict, "cleanupPolicies": dict,
        "cleanupPolicyDryRun": bool,
    },
    "account": {
        "accountId": str, "serviceAccount": {"displayName": str, "description": str},
    },
    "secret": {
        "labels": dict,
        "replication": {"automatic": {}, "userManaged": {"replicas": [{"location": str}]}},
    },
    "version": {"payload": {"data": str, "dataCrc32c": str}},
    "services": {"serviceIds": [str]},
    "policy": {
        "version": int, "etag": str, "kind": str, "resourceId": str,
        "bindings": [{"role": str, "members": [str],
                      "condition": {"title": str, "description": str, "expression": str}}],
    },
    "get policy": {"options": {"requestedPolicyVersion": int}},
    "build": {
        "source": {"storageSource": {"bucket": str, "object": str, "generation": str}},
        "steps": [{"name": str, "args": [str], "entrypoint": str, "env": [str]}],
        "images": [str], "timeout": str, "serviceAccount": str, "tags": [str],
        "options": {"logging": str, "machineType": str, "diskSizeGb": str},
    },
}  # fmt: skip


class ProjectApi:
    """One project, empty at first."""

    def __init__(self) -> None:
        self.apis = set(ENABLED)
        self.buckets: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, list[dict[str, str]]] = {}
        """Of each bucket: every generation of every object, with `name`, `generation`, `size`."""
        self.repositories: dict[str, dict[str, Any]] = {}
        self.accounts: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, dict[str, Any]] = {}
        self.values: dict[str, list[str]] = {}
        self.policies: dict[str, dict[str, Any]] = {}
        self.builds: list[dict[str, Any]] = []
        self.build_fails = ""
        """What Cloud Build says instead of building."""
        self._tags: set[str] = set()
        self._ended: dict[str, dict[str, str]] = {}
        self._looks: dict[str, int] = {}
        self._followed: dict[str, str] = {}
        """The build of each operation that is one."""
        self._operations: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        repository = REGIONAL + r"/repositories/(?P<name>[^/:]+)"
        account = PROJECT + r"/serviceAccounts/(?P<name>[^/:]+)"
        secret = PROJECT + r"/secrets/(?P<name>[^/:]+)"
        bucket = r"/storage/v1/b/(?P<name>[^/]+)"
        self.routes = [
            ("GET", PROJECT + "/services:batchGet", self._services),
            ("POST", PROJECT + "/services:batchEnable", self._enable),
            ("GET", "/v1/(?P<name>operations/.+)", self._operation),
            ("GET", "/v1/(?P<name>projects/.+/operations/.+)", self._operation),
            ("GET", bucket, self._get(self.buckets)),
            ("POST", "/storage/v1/b", self._create_bucket),
            ("PATCH", bucket, self._patch_bucket),
            ("GET", bucket + "/iam", self._policy),
            ("PUT", bucket + "/iam", self._set_policy),
            ("GET", repository, self._get(self.repositories)),
            ("POST", REGIONAL + "/repositories", self._create_repository),
            ("PATCH", repository, self._patch_repository),
            ("GET", account, self._get(self.accounts)),
            ("POST", PROJECT + "/serviceAccounts", self._create_account),
            ("GET", secret, self._get(self.secrets)),
            ("POST", PROJECT + "/secrets", self._create_secret),
            ("GET", secret + "/versions", self._versions),
            ("POST", secret + ":addVersion", self._add_version),
            ("GET", repository + ":getIamPolicy", self._policy),
            ("GET", secret + ":getIamPolicy", self._policy),
            ("POST", account + ":getIamPolicy", self._policy),
            ("POST", PROJECT + ":getIamPolicy", self._policy),
            ("POST", REGIONAL + "/builds", self._build),
            ("GET", REGIONAL + "/builds", self._list_builds),
            ("GET", REGIONAL + "/builds/(?P<id>[^/]+)", self._get_build),
            ("GET", repository + "/packages/[^/]+/tags/(?P<tag>[^/]+)", self._tag),
            *(("POST", place + ":setIamPolicy", self._set_policy)
              for place in (repository, secret, account, PROJECT)),
            ("GET", r"/v2/.+/jobs/[^/:]+:getIamPolicy", self._policy),
            ("POST", r"/v2/.+/jobs/[^/:]+:setIamPolicy", self._set_policy),
        ]  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Everything that there is, without what differs from one making to the next."""
        policies = {
            place: [{**binding, "members": sorted(binding["members"])} for binding in found]
            for place, policy in self.policies.items()
            if (found := policy.get("bindings"))
        }
        return copy.deepcopy({
            "apis": sorted(self.apis), "buckets": self.buckets, "repositories": self.repositories,
            "accounts": self.accounts, "secrets": self.secrets, "policies": policies,
            "values": {name: len(values) for name, values in self.values.items()},
        })  # fmt: skip

    def members(self, place: str, role: str) -> list[str]:
        """Who has a role on a place whose address ends so."""
        return [
            member
            for address, policy in self.policies.items()
            if address.endswith(place)
            for binding in policy.get("bindings", ())
            if binding["role"] == role
            for member in binding["members"]
        ]

    # --- APIs and operations --------------------------------------------------------------

    def _services(self, call: Call) -> Any:
        # `names` is repeated in the address and comes as its last value: all are answered.
        names = sorted(self.apis)
        parent = f"projects/{call.match['project']}/services"
        return {"services": [{"name": f"{parent}/{n}", "state": "ENABLED"} for n in names]}

    def _enable(self, call: Call) -> Any:
        services = _checked("services", call)["serviceIds"]
        if len(services) > 20:
            raise Refusal("INVALID_ARGUMENT", "At most 20 services at once.")
        return self._begin("", lambda: self.apis.update(services))

    def _begin(self, parent: str, finish: Callable[[], Any], error: Any = None) -> dict[str, Any]:
        name = f"{parent}operations/op.{next(self._numbers)}"
        finish()
        self._operations[name] = {"left": OPERATIONS_TAKE, "error": error}
        return {"name": name}

    def _operation(self, call: Call) -> Any:
        found = self._operations.get(call.match["name"])
        if found is None:
            raise Refusal("NOT_FOUND", f"Operation not found: {call.match['name']}")
        found["left"] -= 1
        if found["left"] > 0:
            return {"name": call.match["name"]}
        built = self._followed.get(call.match["name"])
        if built and not found["error"]:
            self._push(self.builds[int(built.removeprefix("build-")) - 1])
        ended = {"error": found["error"]} if found["error"] else {"response": {}}
        return {"name": call.match["name"], "done": True, **ended}

    def _needs(self, api: str) -> None:
        service = f"{api}.googleapis.com"
        if service not in self.apis:
            raise Refusal(
                "PERMISSION_DENIED",
                f"{service} has not been used in project 1 before or it is disabled. Enable it by "
                f"visiting https://console.developers.google.com/apis/api/{service}/overview",
                details=[{
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "SERVICE_DISABLED", "domain": "googleapis.com",
                    "metadata": {"service": service},
                }],
            )  # fmt: skip

    def _get(self, things: dict[str, dict[str, Any]]) -> Callable[[Call], Any]:
        def get(call: Call) -> Any:
            return _found(things, call.match["name"])

        return get

    # --- Buckets --------------------------------------------------------------------------

    def _create_bucket(self, call: Call) -> Any:
        bucket = _checked("bucket", call)
        if not call.query.get("project"):
            raise Refusal("INVALID_ARGUMENT", "Required parameter: project")
        _add(self.buckets, bucket["name"], bucket)
        return bucket

    def _patch_bucket(self, call: Call) -> Any:
        bucket = _found(self.buckets, call.match["name"])
        bucket.update(_checked("bucket", call))
        return bucket

    # --- Artifact Registry ----------------------------------------------------------------

    def _create_repository(self, call: Call) -> Any:
        self._needs("artifactregistry")
        repository = _checked("repository", call)
        parent = call.match.group(0).removeprefix("/v1/").removesuffix("repositories")
        _add(self.repositories, call.query["repositoryId"], repository)
        return self._begin(parent, lambda: None)

    def _patch_repository(self, call: Call) -> Any:
        repository = _found(self.repositories, call.match["name"])
        changed = _checked("repository", call)
        assert call.query["updateMask"].split(",") == list(changed)
        repository.update(changed)
        return repository

    # --- Accounts and secrets -------------------------------------------------------------

    def _create_account(self, call: Call) -> Any:
        self._needs("iam")
        body = _checked("account", call)
        if not re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", body["accountId"]):
            raise Refusal("INVALID_ARGUMENT", f"Invalid account ID {body['accountId']}")
        email = f"{body['accountId']}@{call.match['project']}.iam.gserviceaccount.com"
        _add(self.accounts, email, {"email": email, **body["serviceAccount"]})
        return self.accounts[email]

    def _create_secret(self, call: Call) -> Any:
        self._needs("secretmanager")
        _add(self.secrets, call.query["secretId"], _checked("secret", call))
        return self.secrets[call.query["secretId"]]

    def _versions(self, call: Call) -> Any:
        _found(self.secrets, call.match["name"])
        values = self.values.get(call.match["name"], [])
        parent = call.path.removeprefix("/v1/")
        return {"versions": [{"name": f"{parent}/{at + 1}"} for at in range(len(values))]}

    def _add_version(self, call: Call) -> Any:
        _found(self.secrets, call.match["name"])
        value = base64.b64decode(_checked("version", call)["payload"]["data"], validate=True)
        self.values.setdefault(call.match["name"], []).append(value.decode())
        return {"name": f"{call.path.removeprefix('/v1/')}/versions/1"}

    # --- Policies -------------------------------------------------------------------------

    def _policy(self, call: Call) -> Any:
        if call.method == "POST":
            _checked("get policy", call)
        return self._policy_of(call)

    def _policy_of(self, call: Call) -> dict[str, Any]:
        place = re.sub(r"(:[gs]etIamPolicy|/iam)$", "", call.path)
        self._exists(call)
        return self.policies.setdefault(place, {"etag": "etag-0"})

    def _set_policy(self, call: Call) -> Any:
        bare = call.method == "PUT"
        policy = _checked("policy", call.json if bare else call.json["policy"])
        before = self._policy_of(call)
        if policy.get("etag") != before["etag"]:
            status = "CONDITION_NOT_MET" if bare else "ABORTED"
            raise Refusal(status, "There were concurrent policy changes. Please retry.")
        for binding in policy["bindings"]:
            if "condition" in binding and policy.get("version") != 3:
                raise Refusal("INVALID_ARGUMENT", "Conditions need policy version 3.")
            for member in binding["members"]:
                email = member.partition(":")[2]
                if email.startswith("sentinelle-") and email not in self.accounts:
                    raise Refusal("INVALID_ARGUMENT", f"Service account {email} does not exist.")
        before.clear()
        before.update(policy, etag=f"etag-{next(self._numbers)}")
        return before

    def _exists(self, call: Call) -> None:
        for start, things in (
            ("/storage/", self.buckets), ("/repositories/", self.repositories),
            ("/serviceAccounts/", self.accounts), ("/secrets/", self.secrets),
        ):  # fmt: skip
            if start in call.path:
                _found(things, call.match["name"])

    def _tag(self, call: Call) -> Any:
        if call.match["tag"] not in self._tags:
            raise Refusal("NOT_FOUND", "Requested entity was not found.")
        return {"name": call.path.removeprefix("/v1/")}

    # --- Cloud Build ----------------------------------------------------------------------

    def _build(self, call: Call) -> Any:
        self._needs("cloudbuild")
        build = _checked("build", call)
        self.builds.append(build)
        error = {"code": 9, "message": self.build_fails} if self.build_fails else None
        parent = call.match.group(0).removeprefix("/v1/").removesuffix("builds")
        operation = self._begin(parent, lambda: None, error)
        end = {"status": "FAILURE", "statusDetail": self.build_fails}
        self._ended[f"build-{len(self.builds)}"] = end if error else {"status": "SUCCESS"}
        self._followed[operation["name"]] = f"build-{len(self.builds)}"
        return operation | {"metadata": {"build": {"id": f"build-{len(self.builds)}"}}}

    def _list_builds(self, call: Call) -> Any:
        return {"builds": [self._shown(f"build-{at + 1}") for at in range(len(self.builds))][::-1]}

    def _get_build(self, call: Call) -> Any:
        name = call.match["id"]
        if name not in self._ended:
            raise Refusal("NOT_FOUND", "Requested entity was not found.")
        self._looks[name] = self._looks.get(name, 0) + 1
        return self._shown(name)

    def forget_images(self) -> None:
        """As if no image had ever been pushed."""
        self._tags.clear()

    def _push(self, build: dict[str, Any]) -> None:
        """Its image is there from then on."""
        self._tags |= {image.rpartition(":")[2] for image in build["images"]}

    def _shown(self, name: str) -> dict[str, Any]:
        has_ended = self._looks.get(name, 0) >= OPERATIONS_TAKE
        now = self._ended[name] if has_ended else {"status": "WORKING"}
        build = self.builds[int(name.removeprefix("build-")) - 1]
        if now["status"] == "SUCCESS":
            self._push(build)
        return {"id": name, "tags": build.get("tags", []), "images": build["images"], **now}


def _add(things: dict[str, dict[str, Any]], name: str, thing: dict[str, Any]) -> None:
    if name in things:
        raise Refusal("ALREADY_EXISTS", f"{name} already exists.")
    things[name] = thing


def _found(things: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name not in things:
        raise Refusal("NOT_FOUND", f"{name} was not found.")
    return things[name]


def _checked(message: str, call: Any) -> Any:
    """The body, if it has only fields of the message and each of its type."""
    body = call.json if isinstance(call, Call) else call
    for fault in _faults(MESSAGES[message], body, ""):
        raise Refusal("INVALID_ARGUMENT", f"Invalid JSON payload received. {fault}")
    return body


def _faults(expected: Any, found: Any, at: str) -> Iterable[str]:
    if isinstance(expected, list):
        if not isinstance(found, list):
            yield f"{at}: expected a list"
        else:
            for item in found:
                yield from _faults(expected[0], item, at)
    elif isinstance(expected, dict):
        for name, value in found.items() if isinstance(found, dict) else ():
            if name not in expected:
                yield f'Unknown name "{name}" at "{at}": Cannot find field.'
            else:
                yield from _faults(expected[name], value, f"{at}.{name}")
        if not isinstance(found, dict):
            yield f"{at}: expected an object"
    elif not isinstance(found, expected):
        yield f"{at}: expected {expected.__name__}, found {found!r}"
