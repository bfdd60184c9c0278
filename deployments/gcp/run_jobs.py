"""Cloud Run jobs, through Google's client library over REST. Every function raises CloudError."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from deployments.gcp import clients, containers
from deployments.gcp.containers import Change, Network, Secret, short
from deployments.gcp.errors import CloudError, cloud_error, missing_accepted, translated
from deployments.gcp.limits import check_job, format_memory
from deployments.gcp.waiting import Patience

TRAINING = "training"
LABELS = {"sentinelle": TRAINING}
COMMAND = ("python", "-m", "training.pipeline.job")
RUN_VARIABLE = "SENTINELLE_RUN"
CALL_SECONDS = 30.0
# A job is there in seconds; what takes longer is looked at again by the next step.
READY_SECONDS = 60.0
READY_POLL_SECONDS = 0.5


class JobName(NamedTuple):
    """Where a job is."""

    project: str
    region: str
    job: str

    @property
    def parent(self) -> str:
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def full(self) -> str:
        return f"{self.parent}/jobs/{self.job}"


class JobSpec(NamedTuple):
    """What a job is made of. None: as it is, or as Cloud Run makes a new one."""

    image: str | None = None
    cpu: int | None = None
    memory_mb: int | None = None
    timeout_s: int | None = None
    retries: int | None = None
    service_account: str | None = None
    env: Mapping[str, str] = {}
    """Variables to have; others that the job has stay."""
    secrets: Mapping[str, Secret] = {}
    """Variables that have a secret's value."""
    databases: tuple[str, ...] | None = None
    """Cloud SQL instances, `project:region:name`, whose sockets are in /cloudsql."""
    network: Network | None = None
    command: tuple[str, ...] | None = None
    """Instead of the training program."""
    purpose: str = TRAINING
    """Its label; `job_list` has those that train."""

    def over(self, other: "JobSpec") -> "JobSpec":
        """This, with what `other` says where this says nothing."""
        said = {name: value for name, value in self._asdict().items() if value is not None}
        return other._replace(**said)


NEW_JOB = JobSpec(cpu=8, memory_mb=8192, timeout_s=7200, retries=1)


class JobInfo(NamedTuple):
    """A job as it is."""

    name: str
    image: str
    command: str
    cpu: int
    memory_mb: int
    timeout_s: int
    retries: int
    service_account: str
    env: dict[str, str]
    secrets: dict[str, Secret]
    databases: tuple[str, ...]
    network: Network | None
    labels: dict[str, str]
    problem: str
    """Why it can't be executed, in Google's words, or empty."""
    latest_execution: str
    """Full name of the newest one, or empty."""
    execution_count: int
    etag: str


# --- Jobs ----------------------------------------------------------------------------------


def job_describe(name: JobName) -> JobInfo:
    """The job `name`."""
    return _info(_job(name))


def job_list(project: str, region: str) -> list[JobInfo]:
    """Our jobs of a project in a region."""
    with translated("Listing the jobs", project=project, region=region):
        parent = JobName(project, region, "").parent
        jobs = clients.run_jobs().list_jobs(parent=parent, timeout=CALL_SECONDS)
        return [_info(job) for job in jobs if LABELS.items() <= dict(job.labels).items()]


def job_ensure(
    name: JobName, spec: JobSpec, new: JobSpec | None = None
) -> tuple[JobInfo, list[Change]]:
    """Create the job, or change what differs from `spec`; what changed.

    Args:
        new: what a job that is not there is made of, if not of `spec`.

    Raises:
        CloudError: with the reason `image` when there is no image to make it of.
        RunRefused: beyond the limits.
    """
    try:
        return job_update(name, spec)
    except CloudError as error:
        if error.reason != "not_found":
            raise
    try:
        return job_create(name, new or spec), [Change("job", "none", name.job)]
    except CloudError as error:
        if error.reason != "exists":
            raise
    # Another worker made it meanwhile.
    return job_update(name, spec)


def job_create(name: JobName, spec: JobSpec) -> JobInfo:
    """Create the job and wait until it can be executed. Raises RunRefused beyond the limits."""
    if not spec.image:
        raise CloudError(
            f"The job {name.job} needs an image: set TRAINING_IMAGE or give --image.",
            reason="image",
        )
    job = job_message(spec)
    what = f"Creating the job {name.job}"
    with translated(what, project=name.project, region=name.region):
        operation = clients.run_jobs().create_job(
            parent=name.parent, job=job, job_id=name.job, timeout=CALL_SECONDS
        )
        generation = operation.metadata.generation
    return _wait(what, name, generation)


def job_update(name: JobName, spec: JobSpec) -> tuple[JobInfo, list[Change]]:
    """Change what differs from `spec`, if anything does, and wait until it holds.

    Raises RunRefused beyond the limits; what `spec` alone shows before Google is asked.
    """
    check_job(
        cpu=spec.cpu,
        memory_mb=spec.memory_mb,
        timeout_s=spec.timeout_s,
        retries=spec.retries,
    )
    job = _job(name)
    before = _info(job)
    changes = job_adjust(job, spec)
    what = f"Updating the job {name.job}"
    # A job that could not be made ready is sent again: its image may be there by now.
    if not changes and not before.problem:
        # Another may have changed it just now.
        return (_wait(what, name, job.generation) if job.reconciling else before), []
    with translated(what, project=name.project, region=name.region):
        operation = clients.run_jobs().update_job(job=job, timeout=CALL_SECONDS)
        generation = operation.metadata.generation
    return _wait(what, name, generation), changes


def job_message(spec: JobSpec) -> Any:
    """Google's message of a new job. Raises RunRefused beyond the limits."""
    from google.cloud import run_v2

    job = run_v2.Job(
        template={"task_count": 1, "template": {"containers": [{}]}},
    )
    _apply(job, spec)
    _check(job)
    return job


def job_adjust(job: Any, spec: JobSpec) -> list[Change]:
    """Write `spec` into the message of a job; what changed. Raises RunRefused beyond the limits."""
    before = _info(job)
    _apply(job, spec)
    changes = containers.differences(before, _info(job), SHOWN)
    if changes:
        _check(job)
    return changes


def job_delete(name: JobName) -> None:
    """Delete the job with its executions; those that run are cancelled."""
    what = f"Deleting the job {name.job}"
    with translated(what, project=name.project, region=name.region):
        clients.run_jobs().delete_job(name=name.full, timeout=CALL_SECONDS)
    patience = Patience(what, READY_SECONDS, READY_POLL_SECONDS)
    with missing_accepted():
        while True:
            _job(name)
            patience.pause()


def job_run(
    name: JobName,
    *,
    run_id: str,
    env: Mapping[str, str],
    timeout_s: int | None = None,
    etag: str = "",
) -> str:
    """Start an execution for a training run; its full name.

    Args:
        env: variables of this execution, over those of the job.
        timeout_s: of each attempt, instead of the job's.
        etag: of the job as it was looked at; another one is refused as a conflict.
    """
    from google.cloud import run_v2

    variables = {**env, RUN_VARIABLE: run_id}
    overrides: dict[str, Any] = {
        "container_overrides": [
            {"env": [{"name": name, "value": value} for name, value in variables.items()]}
        ]
    }
    if timeout_s is not None:
        overrides["timeout"] = timedelta(seconds=timeout_s)
    request = run_v2.RunJobRequest(name=name.full, overrides=overrides, etag=etag)
    with translated(f"Starting the job {name.job}", project=name.project, region=name.region):
        operation = clients.run_jobs().run_job(request=request, timeout=CALL_SECONDS)
        return str(operation.metadata.name)


# --- Reading and writing Google's messages ---------------------------------------------------


def _job(name: JobName) -> Any:
    with translated(f"Looking at the job {name.job}", project=name.project, region=name.region):
        return clients.run_jobs().get_job(name=name.full, timeout=CALL_SECONDS)


def _apply(job: Any, spec: JobSpec) -> None:
    """Write `spec` into Google's message."""
    task = job.template.template
    box = task.containers[0]
    box.command, box.args = list(spec.command or COMMAND), []
    if spec.image:
        box.image = spec.image
    containers.write_size(box, spec.cpu, spec.memory_mb)
    containers.write_env(box, spec.env, spec.secrets)
    containers.write_databases(task, spec.databases)
    containers.write_network(task, spec.network)
    if spec.timeout_s is not None:
        task.timeout = timedelta(seconds=spec.timeout_s)
    if spec.retries is not None:
        task.max_retries = spec.retries
    if spec.service_account:
        task.service_account = spec.service_account
    job.labels = {**job.labels, "sentinelle": spec.purpose}


def _check(job: Any) -> None:
    """Raises RunRefused for what Cloud Run does not allow, before it is asked."""
    info = _info(job)
    check_job(
        cpu=info.cpu, memory_mb=info.memory_mb, timeout_s=info.timeout_s, retries=info.retries
    )


def _info(job: Any) -> JobInfo:
    from google.cloud import run_v2

    task = job.template.template
    box = task.containers[0]
    condition = job.terminal_condition
    failed = condition.state == run_v2.Condition.State.CONDITION_FAILED
    latest = job.latest_created_execution.name
    return JobInfo(
        name=short(job.name),
        image=box.image,
        command=" ".join([*box.command, *box.args]),
        **size_of(task),
        service_account=task.service_account,
        env=containers.env_of(box),
        secrets=containers.secrets_of(box),
        databases=containers.databases_of(task),
        network=containers.network_of(task),
        labels=dict(job.labels),
        problem=(condition.message or "it is not ready") if failed else "",
        latest_execution=f"{job.name}/executions/{short(latest)}" if latest else "",
        execution_count=job.execution_count,
        etag=job.etag,
    )


SHOWN: containers.Shown = (
    ("image", "image", str),
    ("command", "command", str),
    ("cpu", "cpu", str),
    ("memory", "memory_mb", format_memory),
    ("timeout", "timeout_s", "{} s".format),
    ("retries", "retries", str),
    ("service account", "service_account", str),
    ("databases", "databases", lambda found: ", ".join(found) or "none"),
    ("network", "network", lambda network: str(network or "none")),
)
"""What people are told of a job."""


def size_of(task: Any) -> dict[str, int]:
    """cpu, memory_mb, timeout_s and retries of Google's template of a task."""
    return {
        **containers.size_of(task.containers[0]),
        "timeout_s": int(task.timeout.total_seconds()),
        "retries": task.max_retries,
    }


def _wait(what: str, name: JobName, generation: int) -> JobInfo:
    """The job once Cloud Run has made it what was asked, which takes seconds.

    The job itself tells; to ask for its operation takes a right in the whole project.
    """
    patience = Patience(what, READY_SECONDS, READY_POLL_SECONDS)
    while True:
        job = _job(name)
        # `observed_generation` stays behind when it can't be made ready.
        if not job.reconciling and job.generation >= generation:
            break
        patience.pause()
    info = _info(job)
    if info.problem:
        raise cloud_error(what, info.problem, project=name.project, region=name.region)
    return info
