"""The Cloud Run launcher: the training program as an execution of a job.

The job is made, or made right, when a run starts; what belongs to the run (its folder and its
version) is given to its execution alone. Which execution is whose is written in the execution
itself, so any worker finds it again, whatever the one before it died of.
"""

import math
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from deployments.gcp.containers import short
from deployments.gcp.errors import CloudError, advice_of, fault_of, quoted
from deployments.gcp.executions import (
    ExecutionInfo,
    execution_cancel,
    execution_find,
    execution_get,
    job_of,
)
from deployments.gcp.logs import execution_lines
from deployments.gcp.run_jobs import JobName, JobSpec, job_ensure, job_run
from engine.errors import ObjectMissing
from engine.store import Store, open_store
from training.launchers.base import Launch, Seen, program_log
from training.launchers.resources import JOB_SIZE, CloudRunResources, read_resources
from training.pipeline.run_folder import REPORT

# When Google was last asked to start the run, while its answer is not known.
ASKED = "asked.txt"
# A started execution is in Google's lists within this time.
SETTLED = timedelta(seconds=60)
LOOKS = 5
RAN_OUT = "Memory limit|maximum timeout"
GONE = "its execution is not at Cloud Run any more: someone has deleted it, or its job"


class CloudRunLauncher:
    """Executes a Cloud Run job, one execution a run."""

    is_attached = False
    poll_seconds = 10.0
    look_seconds = 1.0
    """Between two looks for an execution whose name was not learnt."""
    log_seconds = 10.0
    """Between two looks into Google's log, which may be asked 60 times a minute by all together
    (https://cloud.google.com/logging/quotas), while a page asks us every few seconds."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, str]] = {}

    def start(self, launch: Launch) -> str:
        """Start an execution, or find the one there is; its full name.

        Who asks leaves a note in the run folder first. While it is fresh, nobody else asks: the
        execution may be there and in no list yet. Then it is looked for, and a transient CloudError
        says that it was not found yet.
        """
        resources, name = _job(launch)
        found = execution_find(name, launch.run_id)
        if found is not None:
            return found.name
        job, _ = job_ensure(name, *_specs(resources))
        folder = open_store(launch.folder)
        if not _may_ask(folder):
            return self._found_later(name, launch.run_id)
        try:
            return job_run(
                name,
                run_id=launch.run_id,
                env={"RUN_FOLDER": launch.folder, "VERSION": launch.version},
                etag=job.etag,
            )
        except CloudError as error:
            if error.reason != "network":
                # Refused: there is nothing to look for.
                folder.delete(ASKED)
            raise

    def _found_later(self, name: JobName, run_id: str) -> str:
        for _ in range(LOOKS):
            found = execution_find(name, run_id)
            if found is not None:
                return found.name
            time.sleep(self.look_seconds)
        raise _not_found_yet()

    def find(self, launch: Launch) -> str:
        """The run's execution. One that was asked for a moment ago may be in no list yet."""
        _, name = _job(launch)
        found = execution_find(name, launch.run_id)
        if found is not None:
            return found.name
        if _was_just_asked(open_store(launch.folder), datetime.now(UTC)):
            raise _not_found_yet()
        return ""

    def poll(self, handle: str) -> Seen:
        """See how the execution is doing: by its counts, in Google's words."""
        try:
            found = execution_get(handle)
        except CloudError as error:
            if error.reason == "not_found":
                return Seen(ended=GONE)
            raise
        waits = "Cloud Run prepares the container" if found.state == "waiting" else ""
        return Seen(
            ended=_end(found) if found.has_ended else None,
            message=found.message or waits,
            started_at=found.started_at,
            ended_at=found.ended_at,
            resources=found.size,
        )

    def cancel(self, handle: str) -> None:
        """Cancel the execution; nothing happens when it has ended or is gone."""
        if handle:
            execution_cancel(handle)

    def logs(self, handle: str, folder: Store) -> str:
        """Return what the program logged; if it left nothing or ended without a report, also what
        it printed and what Cloud Run says."""
        written = program_log(folder)
        if not handle or (written and folder.exists(REPORT)):
            return written
        now = time.monotonic()
        asked_at, told = self._told.get(handle, (-math.inf, ""))
        if now - asked_at >= self.log_seconds:
            told = _told_by_cloud_run(handle, unless_running=bool(written))
            # Only what somebody looks at now is worth keeping.
            self._told = {handle: (now, told)}
        return written + told


def _told_by_cloud_run(handle: str, *, unless_running: bool) -> str:
    """What the execution printed and Cloud Run says of it."""
    try:
        if unless_running and not execution_get(handle).has_ended:
            return ""
        return "".join(f"{line}\n" for line in execution_lines(handle))
    except CloudError as error:
        return f"{error}\n"


def _specs(resources: CloudRunResources) -> tuple[JobSpec, JobSpec]:
    """What a job has to have, and what a new one is made of: one that is there keeps the size that
    someone gave it (`manage.py jobs update`) but for what was asked for this run."""
    new = JobSpec(
        image=resources.image,
        service_account=settings.TRAINING_SERVICE_ACCOUNT,
        env={
            "DATA_DIR": settings.DATA_DIR,
            "ARTIFACTS_DIR": settings.ARTIFACTS_DIR,
            "BUCKET_NAME": settings.BUCKET_NAME,
        },
        **{name: getattr(resources, name) for name in JOB_SIZE},
    )
    kept: dict[str, Any] = {name: None for name in JOB_SIZE if name not in resources.asked}
    return new._replace(**kept), new


def _job(launch: Launch) -> tuple[CloudRunResources, JobName]:
    """What a run gets, and of which job."""
    resources = read_resources("cloud-run", launch.resources)
    assert isinstance(resources, CloudRunResources)
    return resources, JobName(resources.project, resources.region, resources.job)


def _not_found_yet() -> CloudError:
    return CloudError(
        "Cloud Run was asked for an execution, and its answer was lost. The execution is "
        f"looked for during {SETTLED.total_seconds():.0f} s before another is started.",
        is_transient=True,
        reason="network",
    )


def _was_just_asked(folder: Store, now: datetime) -> bool:
    """Whether Google was asked for an execution so lately that no list may have it yet."""
    try:
        asked_at = datetime.fromisoformat(folder.read(ASKED).decode())
    except ObjectMissing:
        return False
    return now < asked_at + SETTLED


def _may_ask(folder: Store) -> bool:
    """Note that Google is asked for an execution now; False while an earlier note is fresh."""
    now = datetime.now(UTC)
    if folder.create_if_absent(ASKED, now.isoformat().encode()):
        return True
    if _was_just_asked(folder, now):
        return False
    folder.write(ASKED, now.isoformat().encode())
    return True


def _end(found: ExecutionInfo) -> str:
    """How an execution ended, in words, with what to do about it."""
    if found.state == "succeeded":
        return "the execution succeeded"
    if found.state == "cancelled":
        return "the execution was cancelled at Cloud Run"
    words = " ".join(filter(None, [found.message, _reason_in_log(found)]))
    fault = fault_of(words)
    again = ", also when it was tried again" if found.retried else ""
    name = job_of(found.name)
    advice = "" if fault is None else advice_of(fault, words, name.project, name.region)
    told = f"the execution {short(found.name)} failed{again}: Google says {quoted(words)}"
    return f"{told} {advice}".rstrip()


def _reason_in_log(found: ExecutionInfo) -> str:
    """Cloud Run's last word on memory or time that ran out. The execution itself does not tell of
    memory, nor of what its first attempt ran out of when the last one ended otherwise."""
    try:
        lines = execution_lines(found.name, last=20, only_platform=True)
    except CloudError:
        return ""
    reasons = [line.text for line in lines if re.search(RAN_OUT, line.text)]
    return reasons[-1] if reasons and reasons[-1] not in found.message else ""
