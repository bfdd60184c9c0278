"""Everything of Sentinelle in a project and a region, and how it is deleted.

Ours is what has our label, or for what can have none our name. What has neither stays, and so does
the project with its APIs. Each thing is deleted in an order in which nothing makes it anew and
nothing holds it; what is gone already is passed over, so that a second time finishes the first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from deployments.gcp.buckets import bucket_delete, bucket_size
from deployments.gcp.errors import CloudError
from deployments.gcp.grants import ALL_ACCOUNTS, Names
from deployments.gcp.machines import labelled
from deployments.gcp.rest import Body, Request, Tell, Waits, send, send_and_wait

SQL = "sql/v1beta4"
LABEL_FIELDS = ("labels", "userLabels")
BY_FUNCTIONS = "goog-managed-by"
"""The label of the service that a function is run by: it goes with the function."""
RETRIED = ("conflict", "exists")


class Thing(NamedTuple):
    """One thing of ours."""

    kind: str
    name: str
    note: str
    costs: bool
    """Whether it costs something while nobody uses it."""
    delete: Callable[[Waits, Tell], None]


class Left(NamedTuple):
    """What is not deleted, and why."""

    what: str
    why: str


class Survey(NamedTuple):
    """What a project has."""

    things: list[Thing]
    """Ours, in the order in which it is deleted."""
    others: list[Left]


def survey(names: Names, *, keep_bucket: bool) -> Survey:
    """Look at everything. Raises CloudError."""
    others: list[Left] = []
    things = [
        # First what would make the rest anew, or hold it open.
        *_cloud_run(names, "workerPools", "worker pool", others, costs=True),
        *_functions(names, others),
        *_cloud_run(names, "services", "service", others, costs=False),
        *_cloud_run(names, "jobs", "job", others, costs=False),
        *_machines(names),
        *_databases(names, others),
        *_redis(names, others),
        *_repository(names),
        *_secrets(names),
        *_bindings(names),
        *_accounts(names),
    ]
    bucket = _bucket(names, others, keep_bucket)
    others += [
        Left(f"the project {names.project} and its APIs", "they cost nothing"),
        Left("logs and metrics", "Google deletes logs after 30 days"),
    ]
    return Survey([*things, *bucket], others)


def is_ours(thing: Mapping[str, Any]) -> bool:
    """Whether a thing has one of our labels."""
    labels: Mapping[str, str] = next((thing[f] for f in LABEL_FIELDS if thing.get(f)), {})
    return labels.get("app") == "sentinelle" or "sentinelle" in labels


# --- What there is ---------------------------------------------------------------------------


def _cloud_run(
    names: Names, kind: str, words: str, others: list[Left], *, costs: bool
) -> Iterator[Thing]:
    for found in _listed("run", f"v2/{names.parent}/{kind}", kind, f"Looking for {words}s"):
        name = found["name"].rpartition("/")[2]
        if BY_FUNCTIONS in found.get("labels", {}):
            continue
        if not is_ours(found):
            others.append(Left(f"Cloud Run {words} {name}", "it has no label of ours"))
            continue
        request = Request("DELETE", "run", f"v2/{found['name']}", operations="v2")
        yield _thing(f"Cloud Run {words}", name, _shape(found), costs, request)


def _shape(found: Body) -> str:
    """The address of a service, or how many instances a worker pool has."""
    instances = found.get("scaling", {}).get("manualInstanceCount")
    return str(found.get("uri") or (f"{instances} instance" if instances else ""))


def _functions(names: Names, others: list[Left]) -> Iterator[Thing]:
    listed = _listed(
        "cloudfunctions", f"v2/{names.parent}/functions", "functions", "Looking for functions"
    )
    for found in listed:
        name = found["name"].rpartition("/")[2]
        if not is_ours(found):
            others.append(Left(f"function {name}", "it has no label of ours"))
            continue
        request = Request("DELETE", "cloudfunctions", f"v2/{found['name']}", operations="v2")
        yield _thing("function", name, "", False, request)


def _machines(names: Names) -> Iterator[Thing]:
    try:
        found = labelled(names.project)
    except CloudError as error:
        if error.reason != "api":
            raise
        return
    for machine in found:
        place = machine.place
        zone = f"compute/v1/projects/{place.project}/zones/{place.zone}"
        path = f"{zone}/instances/{place.name}"
        request = Request("DELETE", "compute", path, operations=f"{zone}/operations")
        yield _thing("machine", place.name, f"in {place.zone}, with its disk", True, request)


def _databases(names: Names, others: list[Left]) -> Iterator[Thing]:
    path = f"{SQL}/projects/{names.project}/instances"
    for found in _listed("sqladmin", path, "items", "Looking for databases"):
        name, settings = found["name"], found.get("settings", {})
        if not is_ours(settings) or found.get("region") != names.region:
            where = f"it is in {found.get('region')}" if is_ours(settings) else "no label of ours"
            others.append(Left(f"Cloud SQL instance {name}", where))
            continue
        note = f"{settings.get('tier')}, with its databases and automatic backups"
        yield Thing("Cloud SQL instance", name, note, True, _database_delete(names, found))


def _database_delete(names: Names, found: Body) -> Callable[[Waits, Tell], None]:
    """Take its protection away, then delete it."""
    path = f"{SQL}/projects/{names.project}/instances/{found['name']}"
    operations = f"{SQL}/projects/{names.project}/operations"
    open_ = {"settings": {"deletionProtectionEnabled": False}}
    requests = [Request("DELETE", "sqladmin", path, None, operations, 1800.0)]
    if found["settings"].get("deletionProtectionEnabled"):
        requests.insert(0, Request("PATCH", "sqladmin", path, open_, operations, 900.0))
    return _deleting(f"Cloud SQL instance {found['name']}", requests)


def _redis(names: Names, others: list[Left]) -> Iterator[Thing]:
    listed = _listed("redis", f"v1/{names.parent}/instances", "instances", "Looking for Redis")
    for found in listed:
        name = found["name"].rpartition("/")[2]
        if not is_ours(found):
            others.append(Left(f"Memorystore instance {name}", "it has no label of ours"))
            continue
        request = Request("DELETE", "redis", f"v1/{found['name']}", None, "v1", 1200.0)
        note = f"{found.get('memorySizeGb')} GB"
        yield _thing("Memorystore instance", name, note, True, request)


def _repository(names: Names) -> Iterator[Thing]:
    path = f"v1/{names.parent}/repositories/{names.repository}"
    found = _one("artifactregistry", path, "Looking for the image repository")
    if found is not None and is_ours(found):
        size = int(found.get("sizeBytes", 0))
        note = f"with its images, {size / 1e9:,.1f} GB"
        request = Request("DELETE", "artifactregistry", path, operations="v1")
        yield _thing("image repository", names.repository, note, True, request)


def _secrets(names: Names) -> Iterator[Thing]:
    path = f"v1/projects/{names.project}/secrets"
    for found in _listed("secretmanager", path, "secrets", "Looking for secrets"):
        name = found["name"].rpartition("/")[2]
        if is_ours(found):
            request = Request("DELETE", "secretmanager", f"{path}/{name}")
            yield _thing("secret", name, "", True, request)


def _bindings(names: Names) -> Iterator[Thing]:
    """The roles that our accounts have on the project itself; the others go with their places."""
    count = sum(len(binding["members"]) - len(kept) for binding, kept in _without_ours(names)[1])
    if count:
        note = f"{count} roles of our accounts"
        yield Thing("role bindings", f"project {names.project}", note, False, _unbind(names))


def _without_ours(names: Names) -> tuple[Body, list[tuple[Mapping[str, Any], list[str]]]]:
    """The project's policy, and each binding with the members that stay."""
    path = f"v1/projects/{names.project}:getIamPolicy"
    body = {"options": {"requestedPolicyVersion": 3}}
    policy = send(
        Request("POST", "cloudresourcemanager", path, body), "Reading the project's roles"
    )
    emails = [names.account(account) for account in ALL_ACCOUNTS]

    def stays(member: str) -> bool:
        # An account that was deleted first is still a member: deleted:serviceAccount:EMAIL?uid=N.
        return member.split("serviceAccount:")[-1].partition("?")[0] not in emails

    return policy, [
        (binding, [member for member in binding["members"] if stays(member)])
        for binding in policy.get("bindings", ())
    ]


def _unbind(names: Names) -> Callable[[Waits, Tell], None]:
    def once() -> None:
        policy, kept = _without_ours(names)
        bindings = [{**binding, "members": members} for binding, members in kept if members]
        body = {"policy": {**policy, "version": 3, "bindings": bindings}}
        path = f"v1/projects/{names.project}:setIamPolicy"
        send(Request("POST", "cloudresourcemanager", path, body), "Taking roles back")

    return lambda waits, tell: _persist(once, waits, tell)


def _accounts(names: Names) -> Iterator[Thing]:
    for account in ALL_ACCOUNTS:
        email = names.account(account)
        path = f"v1/projects/{names.project}/serviceAccounts/{email}"
        if _one("iam", path, f"Looking for the account {email}") is not None:
            yield _thing("service account", email, "", False, Request("DELETE", "iam", path))


def _bucket(names: Names, others: list[Left], keep: bool) -> list[Thing]:
    path = f"storage/v1/b/{names.bucket}"
    found = _one("storage", path, f"Looking for the bucket {names.bucket}")
    if found is None:
        return []
    # Names of buckets are everybody's: the same name and label may be another project's.
    listed = f"storage/v1/b?project={names.project}&prefix={names.bucket}"
    own = _one("storage", listed, f"Looking whose the bucket {names.bucket} is") or {}
    if names.bucket not in [item["name"] for item in own.get("items", ())]:
        others.append(Left(f"bucket gs://{names.bucket}", "it is another project's"))
        return []
    size = bucket_size(names.bucket)
    note = f"{size.objects:,} objects, old versions included, {size.bytes / 1e9:,.2f} GB"
    if keep:
        others.append(
            Left(f"bucket gs://{names.bucket} ({note})", "--keep-bucket: it goes on costing")
        )
        return []
    if not is_ours(found):
        others.append(Left(f"bucket gs://{names.bucket}", "it has no label of ours"))
        return []
    what = f"bucket gs://{names.bucket}"

    def delete(waits: Waits, tell: Tell) -> None:
        _persist(lambda: bucket_delete(names.bucket, tell), waits, tell)

    return [Thing("bucket", what.partition(" ")[2], note, True, delete)]


# --- How it is looked at and deleted ---------------------------------------------------------


def _listed(api: str, path: str, field: str, what: str) -> Iterator[Mapping[str, Any]]:
    """Each item of a list, page after page; nothing where the API was never used."""
    token = ""
    while True:
        page = _one(api, f"{path}?pageToken={quote(token)}" if token else path, what)
        if page is None:
            return
        yield from page.get(field, ())
        token = page.get("nextPageToken", "")
        if not token:
            return


def _one(api: str, path: str, what: str) -> Body | None:
    """What is at an address; None when nothing is, or where the API was never used."""
    try:
        return send(Request("GET", api, path), what)
    except CloudError as error:
        if error.reason in ("not_found", "api"):
            return None
        raise


def _thing(kind: str, name: str, note: str, costs: bool, request: Request) -> Thing:
    return Thing(kind, name, note, costs, _deleting(f"{kind} {name}", [request]))


def _deleting(what: str, requests: Iterable[Request]) -> Callable[[Waits, Tell], None]:
    requests = list(requests)

    def delete(waits: Waits, tell: Tell) -> None:
        for request in requests:
            _persist(partial(send_and_wait, request, what, waits, tell), waits, tell)

    return delete


def _persist(call: Callable[[], Any], waits: Waits, tell: Tell) -> None:
    """Make the call until it is done or nothing is there any more. Raises CloudError."""
    pauses = waits.pauses(waits.retry_for)
    while True:
        try:
            call()
            return
        except CloudError as error:
            if error.reason == "not_found":
                return
            may_pass = error.is_transient or error.reason in RETRIED
            if not may_pass or not pauses.pause():
                raise
            tell(f"trying again: {error.detail}")
