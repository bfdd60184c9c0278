"""What Google has logged of an execution, a service or a machine. Everything raises CloudError."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from deployments.gcp import clients
from deployments.gcp.containers import short
from deployments.gcp.errors import translated
from deployments.gcp.executions import job_of
from deployments.gcp.services import ServiceName

LINES = 200
PAGE = 1000
# Unless told since when: as long as Cloud Logging keeps what it is not told to keep longer.
DAYS = 30


class Line(NamedTuple):
    """One line of a log."""

    at: datetime
    severity: str
    text: str
    is_of_platform: bool
    """Google's own word, not what the program printed."""

    def __str__(self) -> str:
        mark = " Cloud:" if self.is_of_platform else ""
        return f"{self.at:%Y-%m-%dT%H:%M:%S}Z{mark} {self.text}"


def execution_lines(
    execution: str,
    *,
    last: int | None = LINES,
    since: datetime | None = None,
    only_platform: bool = False,
) -> list[Line]:
    """What an execution logged, in order.

    Args:
        execution: its full name.
        last: only so many, the newest; None: all.
        since: only what came later.
        only_platform: not what the program printed.
    """
    name = job_of(execution)
    return _lines(
        name.project,
        {
            "resource.type": "cloud_run_job",
            "resource.labels.job_name": name.job,
            "resource.labels.location": name.region,
            'labels."run.googleapis.com/execution_name"': short(execution),
            **({"logName": _system_log(name.project)} if only_platform else {}),
        },
        last=last,
        since=since,
    )


def service_lines(
    name: ServiceName,
    *,
    revision: str = "",
    last: int | None = LINES,
    since: datetime | None = None,
) -> list[Line]:
    """What the revisions of a service, or one of them, logged, with the requests, in order."""
    return _lines(
        name.project,
        {
            "resource.type": "cloud_run_revision",
            "resource.labels.service_name": name.service,
            "resource.labels.location": name.region,
            **({"resource.labels.revision_name": revision} if revision else {}),
        },
        last=last,
        since=since,
    )


def machine_lines(
    project: str,
    instance_id: str,
    *,
    last: int | None = LINES,
    since: datetime | None = None,
) -> list[Line]:
    """What a machine with Google's logging agent logged, in order.

    Args:
        instance_id: the number that Google gave it, not its name.
    """
    wanted = {"resource.type": "gce_instance", "resource.labels.instance_id": instance_id}
    return _lines(project, wanted, last=last, since=since)


def _lines(
    project: str, wanted: dict[str, str], *, last: int | None, since: datetime | None
) -> list[Line]:
    after = since or datetime.now(UTC) - timedelta(days=DAYS)
    comparisons = [f'{field}="{_quoted(value)}"' for field, value in wanted.items()]
    comparisons.append(f'timestamp>"{after.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"')
    with translated("Reading the log", project=project):
        entries = clients.logging(project).list_entries(
            filter_=" AND ".join(comparisons),
            # The newest first, so that no page of the old ones is read for nothing.
            order_by="timestamp desc",
            max_results=last,
            page_size=min(last or PAGE, PAGE),
        )
        return sorted(_read(entries), key=lambda line: line.at)


def _read(entries: Any) -> Iterator[Line]:
    for entry in reversed(list(entries)):
        payload = entry.payload
        text = payload if isinstance(payload, str) else _words(payload)
        if not text and entry.http_request:
            text = _request(entry.http_request)
        log = entry.log_name.rsplit("/", 1)[-1]
        is_of_platform = "varlog" in log or "cloudaudit" in log
        if text:
            yield Line(entry.timestamp, entry.severity or "DEFAULT", text.rstrip(), is_of_platform)


def _request(request: dict[str, Any]) -> str:
    """A line of the log of requests."""
    path = urlsplit(str(request.get("requestUrl", ""))).path
    seconds = float(str(request.get("latency", "0")).removesuffix("s"))
    words = f"{request.get('requestMethod', '')} {path} {request.get('status', '')}"
    return f"{words} {1000 * seconds:,.0f} ms"


def _words(payload: Any) -> str:
    """The message of a structured entry."""
    if isinstance(payload, dict):
        status = payload.get("status")
        said = status.get("message") if isinstance(status, dict) else None
        return str(payload.get("message") or said or payload)
    return "" if payload is None else str(payload)


def _system_log(project: str) -> str:
    return f"projects/{project}/logs/run.googleapis.com%2Fvarlog%2Fsystem"


def _quoted(value: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", value)
