"""Cloud Run jobs of the local Google: v2 REST, with executions that really run.

An execution is a thread that runs the container's command as a separate process, again after a
failure as often as the job allows, each time for as long as it allows, and writes what it prints to
the local Cloud Logging. What Google's API is known to do otherwise than one expects is done here
too: the operation of a cancelled execution ends without an error (apache/airflow issues 57791 and
67050), that of the cancellation with one; a list may lag behind.
"""

import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from google.cloud import run_v2
from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2

from tests.google.logging import LoggingApi
from tests.google.messages import last, now, packed, page_of, parsed, written
from tests.google.processes import Container
from tests.google.server import Call, GoogleServer, Handler, Refusal
from tests.google.world import Missing, World

PLACE = r"projects/[^/]+/locations/[^/]+"
State = run_v2.Condition.State
Reason = run_v2.Condition.ExecutionReason


class Task:
    """The one task of an execution: its attempts, one after the other."""

    def __init__(
        self,
        api: "RunApi",
        execution: run_v2.Execution,
    ) -> None:
        self.execution = execution
        self.cancelled = False
        self.exhausted = False
        self.container: Container | None = None
        self.attempts = 0
        self._api = api
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, join: bool = False) -> None:
        """Cancel it."""
        self.cancelled = True
        container = self.container
        if container is not None:
            threading.Thread(target=container.stop, args=(self._api.grace,), daemon=True).start()
        if join:
            self._thread.join(10)

    def _run(self) -> None:
        template = self.execution.template
        message = ""
        time.sleep(self._api.start_seconds)
        with self._api.lock:
            self.execution.running_count = 1
            self.execution.start_time = now()
        for attempt in range(template.max_retries + 1):
            if self.cancelled:
                break
            if attempt:
                with self._api.lock:
                    self.execution.retried_count = 1
            message = self._attempt(attempt)
            if not message:
                break
        self._api.finish(self.execution, self.cancelled, message)

    def _attempt(self, attempt: int) -> str:
        """Run the container once; why it failed, or an empty text."""
        template = self.execution.template
        box = template.containers[0]
        if not self._api.has_image(box.image):
            return f"Image '{box.image}' not found."
        project = self.execution.name.split("/")[1]
        try:
            own = self._api.world.variables(template, project, template.service_account)
        except Missing as error:
            return str(error)
        platform = {
            "CLOUD_RUN_JOB": last(self.execution.job),
            "CLOUD_RUN_EXECUTION": last(self.execution.name),
            "CLOUD_RUN_TASK_INDEX": "0",
            "CLOUD_RUN_TASK_COUNT": "1",
            "CLOUD_RUN_TASK_ATTEMPT": str(attempt),
        }
        self.attempts += 1
        with self._api.lock:
            if self.cancelled:
                return ""
            try:
                self.container = Container(
                    self._api.program or [*box.command, *box.args],
                    own | platform,
                    lambda line: self._api.log(self.execution, line, "stdout"),
                )
            except OSError as error:
                return f"The container failed to start: {error}."
        seconds = template.timeout.total_seconds()
        status = self.container.wait(seconds)
        task = f"Task {last(self.execution.name)}-task0 failed with"
        if status is None:
            self.container.stop(self._api.grace)
            words = f"Terminating task because it has reached the maximum timeout of {seconds:.0f}"
            self._api.log(self.execution, f"{words} seconds.", "varlog/system", "ERROR")
            return f"{task} message: The configured timeout was reached."
        if self.exhausted:
            status = 137
        if status:
            said = f"Container called exit({status})."
            self._api.log(self.execution, said, "varlog/system", "WARNING")
            return f"{task} exit code: {status} and message: The container exited with an error."
        return ""


class RunApi:
    """Jobs and executions.

    Args:
        logging: takes what executions print.
        environment: what the platform gives each process, such as where the local storage is.
        world: that, with secrets and databases.
    """

    def __init__(
        self,
        logging: LoggingApi,
        environment: Mapping[str, str] | None = None,
        world: World | None = None,
    ) -> None:
        self.logging = logging
        self.world = world or World(environment)
        self.jobs: dict[str, run_v2.Job] = {}
        self.executions: dict[str, run_v2.Execution] = {}
        self.tasks: dict[str, Task] = {}
        self.images: set[str] | None = None
        """The images that exist; None: all."""
        self.list_lag = 0
        """How often a list is read before it has a new execution."""
        self.program: list[str] = []
        """What runs instead of an image's command."""
        self.start_seconds = 0.0
        self.grace = 5.0
        self.google: GoogleServer | None = None
        """The server that has this API, once it has."""
        self.lock = threading.RLock()
        self.ready_reads = 1
        """How often a job is read until it is what was asked."""
        self._unready: dict[str, int] = {}
        self._conditions: dict[str, run_v2.Condition] = {}
        self._lags: dict[str, int] = {}
        self._operations: dict[str, tuple[Any, Callable[[], Any]]] = {}
        job, execution = rf"({PLACE}/jobs/[^/:]+)", rf"({PLACE}/jobs/[^/:]+/executions/[^/:]+)"
        routes = [
            ("POST", rf"/v2/({PLACE})/jobs", self._create),
            ("GET", rf"/v2/({PLACE})/jobs", self._list_jobs),
            ("GET", rf"/v2/{job}", self._get_job),
            ("PATCH", rf"/v2/{job}", self._update),
            ("DELETE", rf"/v2/{job}", self._delete),
            ("POST", rf"/v2/{job}:run", self._run),
            ("GET", rf"/v2/{job}/executions", self._list),
            ("GET", rf"/v2/{execution}", self._get),
            ("POST", rf"/v2/{execution}:cancel", self._cancel),
            ("DELETE", rf"/v2/{execution}", self._delete_execution),
            ("GET", rf"/v2/({PLACE}/operations/[^/:]+)", self._operation),
        ]
        self.routes = [(method, path, self._alone(handler)) for method, path, handler in routes]

    @property
    def environment(self) -> dict[str, str]:
        """What the platform gives each process."""
        return self.world.environment

    @environment.setter
    def environment(self, value: Mapping[str, str]) -> None:
        self.world.environment = dict(value)

    def _alone(self, handler: Handler) -> Handler:
        """No execution changes while a call is answered."""

        def answer(call: Call) -> Any:
            with self.lock:
                return handler(call)

        return answer

    def close(self) -> None:
        """End every process."""
        for task in self.tasks.values():
            task.stop(join=True)

    def wait(self, execution: str, seconds: float = 60) -> run_v2.Execution:
        """The execution once it has ended."""
        self.tasks[execution]._thread.join(seconds)
        return self.executions[execution]

    def exhaust_memory(self, execution: str) -> None:
        """Do as Cloud Run does when a container needs more memory than it has."""
        task = self.tasks[execution]
        limit = task.execution.template.containers[0].resources.limits["memory"]
        mib = int(limit.removesuffix("Mi"))
        self.log(
            task.execution,
            f"Memory limit of {mib} MiB exceeded with {mib + 112} MiB used. Consider increasing "
            "the memory limit, see https://cloud.google.com/run/docs/configuring/memory-limits",
            "varlog/system",
            "ERROR",
        )
        assert task.container is not None
        task.exhausted = True
        task.container.kill()

    def delete_by_hand(self, execution: str) -> None:
        """Make an execution vanish without a word to its program."""
        with self.lock:
            task = self.tasks[execution]
            task.cancelled = True
            del self.executions[execution]
        if task.container is not None:
            task.container.kill()

    def has_image(self, image: str) -> bool:
        return self.images is None or image in self.images

    def log(
        self, execution: run_v2.Execution, text: str, log: str, severity: str = "DEFAULT"
    ) -> None:
        _, project, _, location, _, job, _, name = execution.name.split("/")
        self.logging.write(
            f"projects/{project}/logs/run.googleapis.com%2F{log.replace('/', '%2F')}",
            text,
            resource={
                "type": "cloud_run_job",
                "labels": {"job_name": job, "location": location, "project_id": project},
            },
            labels={"run.googleapis.com/execution_name": name},
            severity=severity,
        )

    def finish(self, execution: run_v2.Execution, cancelled: bool, message: str) -> None:
        """Count how it ended."""
        name = last(execution.name)
        if cancelled:
            state, reason, message = State.CONDITION_FAILED, Reason.CANCELLED, "Execution cancelled"
        elif message:
            state, reason = State.CONDITION_FAILED, Reason.NON_ZERO_EXIT_CODE
            self.log(
                execution,
                f"Execution {name} has failed to complete, 0/1 tasks were a success.",
                "varlog/system",
                "ERROR",
            )
        else:
            state, reason = State.CONDITION_SUCCEEDED, None
        condition = run_v2.Condition(
            type_="Completed", state=state, message=message, last_transition_time=now()
        )
        if reason is not None:
            condition.execution_reason = reason
        with self.lock:
            execution.running_count = 0
            execution.cancelled_count = int(cancelled)
            execution.failed_count = int(bool(message) and not cancelled)
            execution.succeeded_count = int(not message and not cancelled)
            execution.conditions = [condition]
            execution.reconciling = False
            execution.completion_time = now()

    # --- Jobs ------------------------------------------------------------------------------

    def _create(self, call: Call) -> Any:
        job = parsed(run_v2.Job, call)
        name = f"{call.match[1]}/jobs/{call.query['jobId']}"
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,47}[a-z0-9])?", call.query["jobId"]):
            raise Refusal("INVALID_ARGUMENT", "metadata.name: must be a DNS label")
        if name in self.jobs:
            raise Refusal("ALREADY_EXISTS", f"Resource '{last(name)}' already exists.")
        job.name, job.uid, job.create_time = name, str(uuid.uuid4()), now()
        return self._deploy(job)

    def _update(self, call: Call) -> Any:
        name = call.match[1]
        known = self._job(name)
        job = parsed(run_v2.Job, call)
        if job.etag and job.etag != known.etag:
            raise Refusal("ABORTED", "Conflict for resource: version does not match.")
        for field in ("uid", "create_time", "execution_count", "latest_created_execution"):
            setattr(job, field, getattr(known, field))
        job.name, job.generation = name, known.generation
        return self._deploy(job)

    def _deploy(self, job: run_v2.Job) -> Any:
        _check(job)
        image = job.template.template.containers[0].image
        job.generation += 1
        job.reconciling = True
        self._unready[job.name] = self.ready_reads
        job.etag, job.update_time = f'"{uuid.uuid4().hex}"', now()
        found = self.has_image(image)
        message = "" if found else f"Image '{image}' not found."
        state = State.CONDITION_SUCCEEDED if found else State.CONDITION_FAILED
        self._conditions[job.name] = run_v2.Condition(type_="Ready", state=state, message=message)
        job.terminal_condition = run_v2.Condition(type_="Ready", state=State.CONDITION_RECONCILING)
        self.jobs[job.name] = job
        failed = status_pb2.Status(code=code_pb2.NOT_FOUND, message=message)
        return self.begin(job.name, job, lambda: self._settled(job) if found else failed)

    def _settled(self, job: run_v2.Job) -> run_v2.Job:
        """The job as it is when its operation has ended, or when it was read often enough."""
        job.reconciling = False
        job.terminal_condition = self._conditions[job.name]
        # Otherwise it stays that of what was made last.
        if job.terminal_condition.state == State.CONDITION_SUCCEEDED:
            job.observed_generation = job.generation
        return job

    def _list_jobs(self, call: Call) -> Any:
        inside = f"{call.match[1]}/jobs/"
        jobs = [job for name, job in sorted(self.jobs.items()) if name.startswith(inside)]
        page, token = page_of(jobs, call)
        return written(run_v2.ListJobsResponse(jobs=page, next_page_token=token))

    def _get_job(self, call: Call) -> Any:
        job = self._job(call.match[1])
        answer = written(job)
        self._unready[job.name] -= 1
        if self._unready[job.name] <= 0:
            self._settled(job)
        return answer

    def _delete(self, call: Call) -> Any:
        job = self._job(call.match[1])
        for name in [name for name in self.executions if name.startswith(f"{job.name}/")]:
            self.tasks[name].stop()
            del self.executions[name]
        del self.jobs[job.name]
        return self.begin(job.name, job, lambda: job)

    def _job(self, name: str) -> run_v2.Job:
        if name not in self.jobs:
            raise Refusal("NOT_FOUND", f"Resource '{last(name)}' of kind 'JOB' in region "
                          f"'{name.split('/')[3]}' in project '{name.split('/')[1]}' does not "
                          "exist.")  # fmt: skip
        return self.jobs[name]

    # --- Executions ------------------------------------------------------------------------

    def _run(self, call: Call) -> Any:
        request = parsed(run_v2.RunJobRequest, call)
        job = self._job(call.match[1])
        if request.etag and request.etag != job.etag:
            raise Refusal("ABORTED", "Conflict for resource: version does not match.")
        if job.terminal_condition.state != State.CONDITION_SUCCEEDED:
            raise Refusal("FAILED_PRECONDITION", f"Job is not ready: {job.name}")
        template = run_v2.TaskTemplate(job.template.template)
        overrides = request.overrides
        if "timeout" in overrides:
            template.timeout = overrides.timeout
        for changes in overrides.container_overrides:
            box = template.containers[0]
            if changes.name not in ("", box.name):
                raise Refusal("INVALID_ARGUMENT", f"no container {changes.name}")
            if changes.args or changes.clear_args:
                box.args = changes.args
            names = {item.name for item in changes.env}
            box.env = [item for item in box.env if item.name not in names] + list(changes.env)
        execution = run_v2.Execution(
            name=f"{job.name}/executions/{last(job.name)}-{uuid.uuid4().hex[:5]}",
            uid=str(uuid.uuid4()),
            job=job.name,
            labels=dict(job.labels),
            create_time=now(),
            task_count=1,
            reconciling=True,
            template=template,
            log_uri="https://console.cloud.google.com/logs/viewer",
            conditions=[run_v2.Condition(type_="Completed", state=State.CONDITION_RECONCILING)],
        )
        self.executions[execution.name] = execution
        self._lags[execution.name] = self.list_lag
        job.execution_count += 1
        job.latest_created_execution = run_v2.ExecutionReference(
            name=last(execution.name), create_time=execution.create_time
        )
        task = self.tasks[execution.name] = Task(self, execution)
        task.start()
        return self.begin(job.name, execution, lambda: self._outcome(execution))

    def _outcome(self, execution: run_v2.Execution) -> Any:
        if not execution.completion_time:
            return None
        return _failure(execution) if execution.failed_count else execution

    def _list(self, call: Call) -> Any:
        inside = f"{call.match[1]}/executions/"
        found = []
        for name, execution in self.executions.items():
            if not name.startswith(inside):
                continue
            if self._lags[name] > 0:
                self._lags[name] -= not call.query.get("pageToken")
                continue
            found.append(execution)
        page, token = page_of(found, call)
        return written(run_v2.ListExecutionsResponse(executions=page, next_page_token=token))

    def _get(self, call: Call) -> Any:
        return written(self._execution(call.match[1]))

    def _cancel(self, call: Call) -> Any:
        parsed(run_v2.CancelExecutionRequest, call)
        execution = self._execution(call.match[1])
        if execution.completion_time:
            raise Refusal("FAILED_PRECONDITION", "The execution is already completed.")
        self.tasks[execution.name].stop()

        def cancelled() -> Any:
            return _failure(execution) if execution.completion_time else None

        return self.begin(execution.name, execution, cancelled)

    def _delete_execution(self, call: Call) -> Any:
        execution = self._execution(call.match[1])
        self.tasks[execution.name].stop()
        del self.executions[execution.name]
        return self.begin(execution.name, execution, lambda: execution)

    def _execution(self, name: str) -> run_v2.Execution:
        if name not in self.executions:
            raise Refusal("NOT_FOUND", f"Execution {last(name)} was not found.")
        return self.executions[name]

    # --- Operations ------------------------------------------------------------------------

    def begin(self, near: str, metadata: Any, outcome: Callable[[], Any]) -> Any:
        name = f"{'/'.join(near.split('/')[:4])}/operations/{uuid.uuid4()}"
        self._operations[name] = (metadata, outcome)
        return self._written(name, False)

    def _operation(self, call: Call) -> Any:
        if call.match[1] not in self._operations:
            raise Refusal("NOT_FOUND", "The operation was not found.")
        return self._written(call.match[1], True)

    def _written(self, name: str, may_end: bool) -> Any:
        metadata, outcome = self._operations[name]
        operation = operations_pb2.Operation(name=name, metadata=packed(metadata))
        ended = outcome() if may_end else None
        if isinstance(ended, status_pb2.Status):
            operation.done = True
            operation.error.CopyFrom(ended)
        elif ended is not None:
            operation.done = True
            operation.response.CopyFrom(packed(ended))
        return json_format.MessageToJson(operation)


def _check(job: run_v2.Job) -> None:
    """Refuse what Cloud Run refuses (https://cloud.google.com/run/docs/configuring/jobs)."""
    template = job.template.template
    if len(template.containers) != 1 or not template.containers[0].image:
        raise Refusal("INVALID_ARGUMENT", "template.containers: one with an image is required")
    box = template.containers[0]
    cpu = box.resources.limits.get("cpu", "1")
    if cpu not in ("1", "2", "4", "6", "8"):
        raise Refusal(
            "INVALID_ARGUMENT",
            "template.template.containers[0].resources.limits.cpu: Invalid value specified for "
            "cpu. Maximum value is 8.",
        )
    if not 0 <= template.max_retries <= 10:
        raise Refusal("INVALID_ARGUMENT", "max_retries must be between 0 and 10")
    if template.timeout.total_seconds() > 168 * 3600:
        raise Refusal("INVALID_ARGUMENT", "timeout must not exceed 168 hours")


def _failure(execution: run_v2.Execution) -> status_pb2.Status:
    words = f"Execution {last(execution.name)} has failed to complete, 0/1 tasks were a success."
    return status_pb2.Status(code=code_pb2.UNKNOWN, message=words)
