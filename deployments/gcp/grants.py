"""Who may do what in the project: the accounts of Sentinelle and the fewest roles each needs.

A role is given on the one bucket, repository, secret, account or job it is for; on the project only
where Google has nothing smaller. What a policy has already stays.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from deployments.gcp.rest import Request

CONTROL, SERVING, TRAINING, BUILD = "control", "serving", "training", "build"
FUNCTION = "function"
ACCOUNTS = {
    CONTROL: "Sentinelle: web, worker and beat, which start training and register versions",
    SERVING: "Sentinelle: servers that only score",
    TRAINING: "Sentinelle: the training program, in a job or on a machine",
    BUILD: "Sentinelle: builds the image",
}
ALL_ACCOUNTS = {**ACCOUNTS, FUNCTION: "Sentinelle: functions, which read bundles"}
SECRET_KEY, DATABASE_PASSWORD = "sentinelle-secret-key", "sentinelle-db-password"
REDIS_ADDRESS = "sentinelle-redis-url"
SECRETS = {
    SECRET_KEY: "SECRET_KEY of the web servers, which signs sessions",
    DATABASE_PASSWORD: "password of the database's user, for you to give it",
}
CONTROL_PLANE_SECRETS = {
    **SECRETS,
    REDIS_ADDRESS: "REDIS_URL, the address of Memorystore with its password",
}
# The folders of the bucket, as the settings name them and builds use them.
DATA, RUNS, ARTIFACTS, BUILDS, SOURCE = "data", "runs", "artifacts", "builds", "source"
TITLE = "Sentinelle: "  # how the title of each of our conditions begins


class Names(NamedTuple):
    """What things are called in one project."""

    project: str
    region: str
    bucket: str
    job: str
    repository: str = "sentinelle"
    vm: str = ""
    """The machine's name, and its zone; empty without one."""
    zone: str = ""
    database: str = ""
    """The Cloud SQL instance of a control plane; empty without one."""
    function: str = ""
    """A function that serves a classifier; empty without one."""

    def account(self, role: str) -> str:
        return f"sentinelle-{role}@{self.project}.iam.gserviceaccount.com"

    @property
    def parent(self) -> str:
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def accounts(self) -> dict[str, str]:
        """Each account and who it is."""
        return ALL_ACCOUNTS if self.function else ACCOUNTS

    @property
    def secrets(self) -> dict[str, str]:
        """Each secret and what it is."""
        return CONTROL_PLANE_SECRETS if self.database else SECRETS

    @property
    def image(self) -> str:
        """The image without its tag."""
        return f"{self.region}-docker.pkg.dev/{self.project}/{self.repository}/sentinelle"


class Place(NamedTuple):
    """A thing that roles are given on, and how its policy is read and written."""

    title: str
    look: Request
    write: Request
    """Without its body."""
    bare: bool = False
    """The policy itself is the body, not its field `policy`."""


class Grant(NamedTuple):
    """One role of one account on one place."""

    account: str
    role: str
    on: str
    """A key of `places`."""
    why: str
    condition: str = ""


def grants(names: Names) -> list[Grant]:
    """Every role that is given."""
    bucket, repository, project = "bucket", "repository", "project"
    storage, registry = "roles/storage", "roles/artifactregistry"
    given = [
        Grant(CONTROL, f"{storage}.objectUser", bucket,
              "imports data sets, writes and reads run folders, registers bundles"),
        Grant(SERVING, f"{storage}.objectViewer", bucket,
              "loads bundles", _within(names, ARTIFACTS)),
        Grant(TRAINING, f"{storage}.objectViewer", bucket,
              "reads its data set, the champion, and the program on a machine without an image",
              _within(names, DATA, ARTIFACTS, SOURCE)),
        Grant(TRAINING, f"{storage}.objectUser", bucket,
              "writes its run folder, its bundle in it", _within(names, RUNS)),
        Grant(BUILD, f"{storage}.objectViewer", bucket,
              "reads the source", _within(names, BUILDS)),
        Grant(BUILD, f"{registry}.writer", repository, "pushes the image"),
        Grant(CONTROL, f"{registry}.reader", repository, "names the image in the job"),
        Grant(BUILD, "roles/logging.logWriter", project, "writes the build's log"),
        Grant(CONTROL, "roles/logging.viewer", project, "reads the logs of jobs and machines"),
        Grant(CONTROL, "roles/iam.serviceAccountUser", TRAINING,
              "starts jobs and machines that run as the training account"),
        Grant(CONTROL, "roles/run.developer", "job", "updates, runs, watches and cancels the job"),
        *(Grant(account, "roles/secretmanager.secretAccessor", secret, "reads its value")
          for secret in names.secrets for account in (CONTROL, SERVING)),
    ]  # fmt: skip
    if names.vm:
        given += [
            Grant(CONTROL, "roles/compute.instanceAdmin.v1", project,
                  "makes, starts, stops and deletes the one machine", _machine(names)),
            Grant(TRAINING, f"{registry}.reader", repository, "a machine pulls the image"),
        ]  # fmt: skip
    if names.database:
        given += _of_the_control_plane()
    if names.function:
        given += _of_a_function(names)
    return given


def _of_the_control_plane() -> list[Grant]:
    """What Sentinelle needs on Google to roll engines out by itself. Services that don't exist yet
    can be named by no smaller place than the project."""
    project, user = "project", "roles/iam.serviceAccountUser"
    return [
        Grant(CONTROL, "roles/cloudsql.client", project, "opens the database's socket"),
        Grant(SERVING, "roles/cloudsql.client", project, "opens the database's socket"),
        Grant(CONTROL, "roles/run.developer", project,
              "deploys services, moves their traffic, runs jobs that migrate"),
        Grant(CONTROL, "roles/run.invoker", project, "calls a new revision to see that it answers"),
        Grant(CONTROL, "roles/monitoring.viewer", project, "reads the metrics of services"),
        Grant(CONTROL, "roles/cloudbuild.builds.editor", project, "builds the image"),
        Grant(CONTROL, user, SERVING, "deploys services that run as the serving account"),
        Grant(CONTROL, user, BUILD, "starts builds that run as the build account"),
    ]  # fmt: skip


def _of_a_function(names: Names) -> list[Grant]:
    """What a function and its build need. Google copies the source into a bucket of its own, which
    is made by the first build."""
    copied = 'resource.name.startsWith("projects/_/buckets/gcf-v2-sources-")'
    viewer = "roles/storage.objectViewer"
    return [
        Grant(FUNCTION, viewer, "bucket", "reads which version serves, and its bundle",
              _within(names, ARTIFACTS)),
        Grant(BUILD, viewer, "project", "reads the source of functions", copied),
    ]  # fmt: skip


def places(names: Names) -> dict[str, Place]:
    """Where roles are given, in the order in which they exist."""
    version = "options.requestedPolicyVersion=3"
    bucket = f"storage/v1/b/{names.bucket}/iam"
    repository = f"v1/{names.parent}/repositories/{names.repository}"
    project = f"v1/projects/{names.project}"
    job = f"v2/{names.parent}/jobs/{names.job}"
    wanted = {"options": {"requestedPolicyVersion": 3}}
    return {
        "bucket": Place(
            f"the bucket {names.bucket}",
            Request("GET", "storage", f"{bucket}?optionsRequestedPolicyVersion=3"),
            Request("PUT", "storage", bucket),
            bare=True,
        ),
        "repository": Place(
            f"the repository {names.repository}",
            Request("GET", "artifactregistry", f"{repository}:getIamPolicy?{version}"),
            Request("POST", "artifactregistry", f"{repository}:setIamPolicy"),
        ),
        **{
            account: Place(
                f"the account {names.account(account)}",
                Request("POST", "iam", f"{address}:getIamPolicy?{version}"),
                Request("POST", "iam", f"{address}:setIamPolicy"),
            )
            for account in (TRAINING, SERVING, BUILD)
            for address in [f"{project}/serviceAccounts/{names.account(account)}"]
        },
        **{
            secret: Place(
                f"the secret {secret}",
                Request(
                    "GET", "secretmanager", f"{project}/secrets/{secret}:getIamPolicy?{version}"
                ),
                Request("POST", "secretmanager", f"{project}/secrets/{secret}:setIamPolicy"),
            )
            for secret in names.secrets
        },
        "project": Place(
            f"the project {names.project}",
            Request("POST", "cloudresourcemanager", f"{project}:getIamPolicy", wanted),
            Request("POST", "cloudresourcemanager", f"{project}:setIamPolicy"),
        ),
        "job": Place(
            f"the job {names.job}",
            Request("GET", "run", f"{job}:getIamPolicy?{version}"),
            Request("POST", "run", f"{job}:setIamPolicy"),
        ),
    }


def merged(policy: Mapping[str, Any], given: Iterable[Grant], names: Names) -> dict[str, Any]:
    """`policy` with what is missing of `given` and without what it replaces; the same when there is
    neither."""
    given = list(given)
    bindings = [_without_replaced(binding, given, names) for binding in policy.get("bindings", ())]
    bindings = [binding for binding in bindings if binding["members"]]
    for grant in given:
        member = f"serviceAccount:{names.account(grant.account)}"
        condition = _condition(grant)
        for binding in bindings:
            if binding["role"] == grant.role and _same(binding.get("condition"), condition):
                if member not in binding["members"]:
                    binding["members"] = [*binding["members"], member]
                break
        else:
            bindings.append(
                {"role": grant.role, "members": [member]}
                | ({"condition": condition} if condition else {})
            )
    if bindings == policy.get("bindings", []):
        return dict(policy)
    return {**policy, "version": 3, "bindings": bindings}


def _without_replaced(
    binding: Mapping[str, Any], given: Iterable[Grant], names: Names
) -> dict[str, Any]:
    """A binding without the accounts that it let into other folders than they are given now. Only
    what has our title: what somebody else gave stays."""
    condition = binding.get("condition")
    is_ours = condition and condition.get("title", "").startswith(TITLE)
    if not is_ours or not binding["role"].startswith("roles/storage."):
        return dict(binding)
    current = {
        f"serviceAccount:{names.account(grant.account)}"
        for grant in given
        if grant.role == binding["role"] and _same(condition, _condition(grant))
    }
    ours = {f"serviceAccount:{names.account(account)}" for account in ALL_ACCOUNTS}
    members = [each for each in binding["members"] if each in current or each not in ours]
    return {**binding, "members": members}


def _condition(grant: Grant) -> dict[str, str] | None:
    if not grant.condition:
        return None
    return {"title": f"{TITLE}{grant.why}"[:100], "expression": grant.condition}


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    return (one or {}).get("expression") == (other or {}).get("expression")


def _within(names: Names, *folders: str) -> str:
    """The objects of these folders of the bucket, and the list of names, which Google asks for the
    bucket as a whole."""
    objects = f"projects/_/buckets/{names.bucket}/objects"
    inside = [f'resource.name.startsWith("{objects}/{folder}/")' for folder in folders]
    return " || ".join(['resource.type != "storage.googleapis.com/Object"', *inside])


def _machine(names: Names) -> str:
    """The machine and its disk, and whatever is neither a machine nor a disk."""
    own = f'resource.name.endsWith("/zones/{names.zone}/%s/{names.vm}")'
    return (
        '(resource.type != "compute.googleapis.com/Instance" && '
        'resource.type != "compute.googleapis.com/Disk") || '
        f"{own % 'instances'} || {own % 'disks'}"
    )
