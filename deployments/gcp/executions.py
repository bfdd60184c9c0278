"""Executions of Cloud Run jobs, through Google's client library over REST.

Every function raises CloudError. None waits for an execution: its name is known at once, and how it
is doing is asked by that name. How it ended is told by its counts; the long-running operation of an
execution that was cancelled ends as if it had succeeded, and that of its cancellation as if not.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from deployments.gcp import clients
from deployments.gcp.containers import short
from deployments.gcp.errors import CloudError, missing_accepted, translated
from deployments.gcp.run_jobs import (
    CALL_SECONDS,
    RUN_VARIABLE,
    JobName,
    job_describe,
    size_of,
)

PAGE = 100


class ExecutionInfo(NamedTuple):
    """An execution as it is."""

    name: str
    state: str
    """waiting, running, succeeded, failed or cancelled."""
    message: str
    """What Google says of it."""
    run_id: str
    """Of the training run it was started for, or empty."""
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    retried: bool
    size: dict[str, int]
    """cpu, memory_mb, timeout_s and retries."""

    @property
    def has_ended(self) -> bool:
        return self.ended_at is not None


def execution_find(name: JobName, run_id: str) -> ExecutionInfo | None:
    """The execution that was started for a training run, if any is known yet.

    A list may lag behind, so the newest execution that the job itself tells of is looked at too.
    """
    latest = _latest(name)
    if latest is not None and latest.run_id == run_id:
        return latest
    with missing_accepted():
        return next((found for found in execution_list(name) if found.run_id == run_id), None)
    return None


def execution_list(name: JobName) -> Iterator[ExecutionInfo]:
    """The job's executions, in Google's order."""
    with translated(
        f"Listing the executions of {name.job}", project=name.project, region=name.region
    ):
        request = {"parent": name.full, "page_size": PAGE}
        for found in clients.run_executions().list_executions(
            request=request, timeout=CALL_SECONDS
        ):
            yield _execution(found)


def execution_get(execution: str) -> ExecutionInfo:
    """An execution by its full name."""
    with translated(f"Looking at the execution {short(execution)}", **_place(execution)):
        return _execution(
            clients.run_executions().get_execution(name=execution, timeout=CALL_SECONDS)
        )


def execution_cancel(execution: str) -> bool:
    """Cancel an execution and don't wait for it; False when it had ended or is not there."""
    try:
        if execution_get(execution).has_ended:
            return False
        with translated(f"Cancelling the execution {short(execution)}", **_place(execution)):
            clients.run_executions().cancel_execution(name=execution, timeout=CALL_SECONDS)
    except CloudError as error:
        if error.reason == "not_found" or _ended_meanwhile(execution, error):
            return False
        raise
    return True


def job_of(execution: str) -> JobName:
    """The job of an execution's full name."""
    _, project, _, region, _, job, *_ = execution.split("/")
    return JobName(project, region, job)


def _ended_meanwhile(execution: str, error: CloudError) -> bool:
    if error.is_transient or error.reason == "permission":
        return False
    return execution_get(execution).has_ended


def _latest(name: JobName) -> ExecutionInfo | None:
    with missing_accepted():
        latest = job_describe(name).latest_execution
        return execution_get(latest) if latest else None
    return None


def _execution(found: Any) -> ExecutionInfo:
    env = {item.name: item.value for box in found.template.containers for item in box.env}
    return ExecutionInfo(
        name=found.name,
        state=_state(found),
        message=_message(found),
        run_id=env.get(RUN_VARIABLE, ""),
        created_at=found.create_time or None,
        started_at=found.start_time or None,
        ended_at=found.completion_time or None,
        retried=found.retried_count > 0,
        size=size_of(found.template),
    )


def _state(found: Any) -> str:
    if not found.completion_time:
        return "running" if found.running_count else "waiting"
    if found.cancelled_count:
        return "cancelled"
    if found.failed_count or found.succeeded_count < (found.task_count or 1):
        return "failed"
    return "succeeded"


def _message(found: Any) -> str:
    """What the conditions say: of the whole first, then of what is not there yet."""
    conditions = sorted(found.conditions, key=lambda condition: condition.type_ != "Completed")
    said = (condition.message.strip() for condition in conditions)
    return next((words for words in said if words), "")


def _place(execution: str) -> dict[str, str]:
    name = job_of(execution)
    return {"project": name.project, "region": name.region}
