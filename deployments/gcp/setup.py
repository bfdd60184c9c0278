"""What Sentinelle needs in a Google Cloud project: a list of steps, and how they are carried out.

Each step looks first and changes only what is not as it should be, so an interrupted or repeated
plan goes on where it was. The same list is printed by a dry run.
"""

import base64
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from deployments.gcp.errors import CloudError
from deployments.gcp.grants import (
    SECRETS,
    Grant,
    Names,
    Place,
    grants,
    merged,
    places,
)
from deployments.gcp.rest import Body, Hidden, Request, Tell, Waits, send, send_and_wait
from deployments.gcp.run_jobs import JobSpec, job_adjust, job_message

APIS = (
    "run", "compute", "storage", "artifactregistry", "cloudbuild", "secretmanager", "iam",
    "cloudresourcemanager", "logging",
)  # fmt: skip
CONTROL_PLANE_APIS = ("sqladmin", "redis", "monitoring")
LABELS = {"app": "sentinelle"}
DAY = 86_400


class Change(NamedTuple):
    """What a step has to do, in words and as a call."""

    words: str
    request: Request
    reads: tuple[Request, ...] = ()
    """Calls whose answers the body is made of."""
    complete: Callable[[Request, Sequence[Body]], Request] | None = None
    """The call, from itself and those answers."""


class Step(NamedTuple):
    """One thing that must be there."""

    title: str
    why: str
    look: Request
    """How to tell whether it is there; an answer of 404 says that it is not."""
    fix: Callable[[Body | None], Change | None]
    """What to do, given the answer (None: not there); None when all is as it should be. Raises
    CloudError for what can't be made so."""
    fresh: Body | None = None
    """What `look` gives in an empty project."""


class Done(NamedTuple):
    """How a step ended."""

    step: Step
    change: Change | None
    """None: it was there already."""


# --- The plan -------------------------------------------------------------------------------


def plan(names: Names) -> list[Step]:
    """Every step for an empty project but the job, in order."""
    return [
        _apis(names),
        _bucket(names),
        _repository(names),
        *(_account(names, account, words) for account, words in names.accounts.items()),
        *(
            step
            for secret, words in names.secrets.items()
            for step in _secret(names, secret, words, is_random=secret in SECRETS)
        ),
        *policies(names, [key for key in places(names) if key != "job"]),
    ]


def _apis(names: Names) -> Step:
    parent = f"projects/{names.project}"
    apis = [*APIS, *(CONTROL_PLANE_APIS if names.database else ())]
    apis += ["cloudfunctions"] if names.function else []
    services = [f"{api}.googleapis.com" for api in apis]
    listed = "&".join(f"names={parent}/services/{service}" for service in services)

    def fix(found: Body | None) -> Change | None:
        states = (found or {}).get("services", ())
        enabled = {
            service["name"].rpartition("/")[2]
            for service in states
            if service.get("state") == "ENABLED"
        }
        missing = [service for service in services if service not in enabled]
        if not missing:
            return None
        path = f"v1/{parent}/services:batchEnable"
        request = Request("POST", "serviceusage", path, {"serviceIds": missing}, operations="v1")
        return Change(f"enabled {len(missing)}", request)

    look = Request("GET", "serviceusage", f"v1/{parent}/services:batchGet?{listed}")
    return Step(
        f"{len(services)} APIs",
        "what the other steps and training call",
        look,
        fix,
        {"services": []},
    )


def _bucket(names: Names) -> Step:
    wanted = {
        "iamConfiguration": {
            "uniformBucketLevelAccess": {"enabled": True},
            "publicAccessPrevention": "enforced",
        },
        "versioning": {"enabled": True},
        "lifecycle": {"rule": _lifecycle()},
        "labels": LABELS,
    }

    def fix(found: Body | None) -> Change | None:
        if found is None:
            body = {"name": names.bucket, "location": names.region.upper(), **wanted}
            path = f"storage/v1/b?project={names.project}"
            return Change("created", Request("POST", "storage", path, body))
        if found.get("location", "").lower() != names.region.lower():
            raise CloudError(
                f"The bucket {names.bucket} is in {found.get('location')} and can't be moved to "
                f"{names.region}. Choose another with --bucket, or that region with --region."
            )
        path = f"storage/v1/b/{names.bucket}"
        return patched(found, wanted, lambda body: Request("PATCH", "storage", path, body))

    return Step(
        f"bucket gs://{names.bucket}",
        "data sets, run folders and bundles; closed to the public, old contents kept for 30 days",
        Request("GET", "storage", f"storage/v1/b/{names.bucket}"),
        fix,
    )


def _lifecycle() -> list[dict[str, Any]]:
    """Old contents are kept for a month; of run folders, whose progress is written again every few
    seconds, for a day. Parts of uploads that never ended go after a week."""
    delete, abort = {"type": "Delete"}, {"type": "AbortIncompleteMultipartUpload"}
    return [
        {"action": delete, "condition": {"daysSinceNoncurrentTime": 1, "matchesPrefix": ["runs/"]}},
        {"action": delete, "condition": {"daysSinceNoncurrentTime": 30}},
        {"action": abort, "condition": {"age": 7}},
    ]


def _repository(names: Names) -> Step:
    untagged = {
        "id": "untagged",
        "action": "DELETE",
        "condition": {"tagState": "UNTAGGED", "olderThan": f"{30 * DAY}s"},
    }
    wanted = {"cleanupPolicies": {"untagged": untagged}, "labels": LABELS}
    path = f"v1/{names.parent}/repositories"

    def fix(found: Body | None) -> Change | None:
        if found is None:
            body = {"format": "DOCKER", "description": "Images of Sentinelle", **wanted}
            query = f"?repositoryId={names.repository}"
            request = Request("POST", "artifactregistry", path + query, body, operations="v1")
            return Change("created", request)
        if found.get("format") != "DOCKER":
            raise CloudError(
                f"The repository {names.repository} holds {found.get('format')}, not DOCKER. "
                "Delete it or choose another region."
            )
        return patched(
            found,
            wanted,
            lambda body: Request(
                "PATCH",
                "artifactregistry",
                f"{path}/{names.repository}?updateMask={','.join(body)}",
                body,
            ),
        )

    return Step(
        f"image repository {names.repository}",
        "the image; what lost its tag is deleted after 30 days",
        Request("GET", "artifactregistry", f"{path}/{names.repository}"),
        fix,
    )


def _account(names: Names, account: str, words: str) -> Step:
    parent = f"v1/projects/{names.project}/serviceAccounts"
    email = names.account(account)

    def fix(found: Body | None) -> Change | None:
        if found is None:
            body = {
                "accountId": email.partition("@")[0],
                "serviceAccount": {"displayName": f"Sentinelle {account}", "description": words},
            }
            return Change("created", Request("POST", "iam", parent, body))
        if found.get("disabled"):
            raise CloudError(
                f"The account {email} is disabled. Enable it again: gcloud iam service-accounts "
                f"enable {email} --project={names.project}"
            )
        return None

    look = Request("GET", "iam", f"{parent}/{email}")
    return Step(f"service account {email}", words.removeprefix("Sentinelle: "), look, fix)


def _secret(names: Names, secret: str, words: str, *, is_random: bool) -> Iterator[Step]:
    """The secret, then its first value, unless it has one or something else gives it one."""
    parent = f"v1/projects/{names.project}/secrets"

    def fix(found: Body | None) -> Change | None:
        if found is not None:
            return None
        replicas = {"userManaged": {"replicas": [{"location": names.region}]}}
        body = {"replication": replicas, "labels": LABELS}
        return Change(
            "created", Request("POST", "secretmanager", f"{parent}?secretId={secret}", body)
        )

    yield Step(
        f"secret {secret}", words, Request("GET", "secretmanager", f"{parent}/{secret}"), fix
    )
    if is_random:
        yield value_step(names, secret, "random, made here and sent once", _random)


def value_step(names: Names, secret: str, why: str, change: Callable[[Request], Change]) -> Step:
    """The first value of a secret, unless it has one; `change` completes the call that adds it."""
    path = f"v1/projects/{names.project}/secrets/{secret}"

    def fix(found: Body | None) -> Change | None:
        if found and found.get("versions"):
            return None
        return change(Request("POST", "secretmanager", f"{path}:addVersion"))

    look = Request("GET", "secretmanager", f"{path}/versions?filter=state:ENABLED")
    return Step(f"value of {secret}", why, look, fix, {})


def secret_value(value: str, shown: str) -> Body:
    """The body that adds a value, which is sent and not shown."""
    return {"payload": {"data": Hidden(base64.b64encode(value.encode()).decode(), shown)}}


def _random(request: Request) -> Change:
    body = secret_value(secrets.token_urlsafe(50), "(random, not shown)")
    return Change("given a random value", request._replace(body=body))


def policies(names: Names, keys: Iterable[str]) -> Iterator[Step]:
    everywhere, given = places(names), grants(names)
    for key in keys:
        here = [grant for grant in given if grant.on == key]
        if here:
            yield _policy(names, everywhere[key], here)


def _policy(names: Names, place: Place, given: Sequence[Grant]) -> Step:
    def fix(found: Body | None) -> Change | None:
        policy = found or {}
        wanted = merged(policy, given, names)
        if wanted == policy:
            return None
        body = wanted if place.bare else {"policy": wanted}
        return Change("roles given", place.write._replace(body=body))

    roles = "; ".join(
        f"{grant.account}: {grant.role.removeprefix('roles/')}, {grant.why}" for grant in given
    )
    return Step(f"roles on {place.title}", roles, place.look, fix, {"etag": "(as it is read)"})


def patched(
    found: Body,
    wanted: Mapping[str, Any],
    request: Callable[[dict[str, Any]], Request],
    labels_field: str = "labels",
) -> Change | None:
    """The call that changes the fields of `found` that are not as `wanted`; what `wanted` does not
    name stays, other labels too."""
    differs = {name: value for name, value in wanted.items() if not covers(found.get(name), value)}
    if not differs:
        return None
    labels = differs.get(labels_field)
    if labels:
        differs[labels_field] = {**found.get(labels_field, {}), **labels}
    return Change(f"changed: {', '.join(differs)}", request(differs))


def covers(found: Any, wanted: Any) -> bool:
    """Whether `found` has everything of `wanted`; Google adds fields of its own."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            covers(found.get(name), value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(covers(*pair) for pair in zip(found, wanted, strict=True))
        )
    return bool(found == wanted)


def job_steps(names: Names, spec: JobSpec, new: JobSpec) -> list[Step]:
    """The Cloud Run job and its roles: `spec` is what it has to have, `new` what it is made of when
    there is none."""
    from google.cloud import run_v2

    path = f"v2/{names.parent}/jobs"

    def fix(found: Body | None) -> Change | None:
        if found is None:
            body = as_json(job_message(new))
            request = Request("POST", "run", f"{path}?jobId={names.job}", body, operations="v2")
            return Change("created", request)
        job = run_v2.Job.from_json(json.dumps(found), ignore_unknown_fields=True)
        changes = job_adjust(job, spec)
        if not changes:
            return None
        words = ", ".join(f"{change.field} {change.after}" for change in changes)
        request = Request("PATCH", "run", f"{path}/{names.job}", as_json(job), operations="v2")
        return Change(f"changed: {words}", request)

    look = Request("GET", "run", f"{path}/{names.job}")
    job = Step(f"Cloud Run job {names.job}", f"trains, as {new.service_account}", look, fix)
    return [job, *policies(names, ["job"])]


def as_json(message: Any) -> dict[str, Any]:
    """A message of a client library as it is sent."""
    written: dict[str, Any] = json.loads(
        type(message).to_json(
            message, use_integers_for_enums=False, always_print_fields_with_no_presence=False
        )
    )
    return written


# --- Carrying it out ------------------------------------------------------------------------


def calls(steps: Iterable[Step]) -> Iterator[tuple[Step, Request]]:
    """Every call that an empty project takes, without making any."""
    for step in steps:
        yield step, step.look
        change = step.fix(step.fresh)
        if change is not None:
            for request in (*change.reads, change.request):
                yield step, request


def apply(steps: Iterable[Step], tell: Callable[[Step, str], None], waits: Waits) -> Iterator[Done]:
    """Carry the steps out one after the other.

    A step that fails for the moment is looked at anew and tried again. Raises CloudError.
    """
    for step in steps:
        yield Done(step, _carry_out(step, partial(tell, step), waits))


def _carry_out(step: Step, tell: Tell, waits: Waits) -> Change | None:
    pauses = waits.pauses(waits.retry_for)
    done: Change | None = None
    is_taken = False
    while True:
        found: Body | None = {}
        try:
            found = _seen(step)
            change = step.fix(found)
            if change is None:
                return done
            done = change
            send_and_wait(_complete(step, change), step.title, waits, tell)
            return change
        except CloudError as error:
            # Not there for us, and yet it can't be made: its name is somebody else's.
            was_taken, is_taken = is_taken, found is None and error.reason in ("exists", "conflict")
            if (was_taken and is_taken) or not _may_pass(error) or not pauses.pause():
                raise
            tell(f"trying again: {error.detail}")


def _complete(step: Step, change: Change) -> Request:
    if change.complete is None:
        return change.request
    answers = [send(request, step.title) for request in change.reads]
    return change.complete(change.request, answers)


def _seen(step: Step) -> Body | None:
    try:
        return send(step.look, step.title)
    except CloudError as error:
        if error.reason == "not_found":
            return None
        raise


def _may_pass(error: CloudError) -> bool:
    """Whether the step may succeed when it is looked at anew: someone else changed it meanwhile, or
    what was just made is not known everywhere yet."""
    return (
        error.is_transient
        or error.reason in ("exists", "conflict", "api")
        or ("does not exist" in error.detail and "iam.gserviceaccount.com" in error.detail)
    )
