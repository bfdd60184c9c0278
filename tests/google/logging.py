"""Cloud Logging of the local Google: what the platform and its programs have written."""

import re
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

from google.cloud.logging_v2.types import ListLogEntriesRequest

from tests.google.server import Call, Refusal

COMPARISON = re.compile(
    r'((?:[\w.]|"(?:[^"\\]|\\.)*")+)\s*(>=|<=|!=|=~|=|>|<|:)\s*("(?:[^"\\]|\\.)*"|\S+)'
)


class LoggingApi:
    """`entries:list` with filters of comparisons joined by AND or by new lines."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self.routes = [("POST", r"/v2/entries:list", self._list)]

    def write(
        self,
        log: str,
        text: str,
        *,
        resource: dict[str, Any],
        labels: dict[str, str] | None = None,
        severity: str = "DEFAULT",
        at: datetime | None = None,
        request: dict[str, Any] | None = None,
    ) -> None:
        """Keep a line. `log` is its full name, `resource` has `type` and `labels`; `request` is
        what a line of a log of requests has instead of a text."""
        entry = {
            "logName": log,
            "resource": resource,
            "labels": labels or {},
            "severity": severity,
            "timestamp": (at or datetime.now(UTC)).isoformat().replace("+00:00", "Z"),
            "insertId": uuid.uuid4().hex,
            **({"httpRequest": request} if request else {"textPayload": text}),
        }
        with self._lock:
            self.entries.append(entry)

    def _list(self, call: Call) -> dict[str, Any]:
        request = ListLogEntriesRequest.from_json(call.body, ignore_unknown_fields=False)
        if not request.resource_names:
            raise Refusal("INVALID_ARGUMENT", "resource_names: required")
        wanted = _parse(request.filter)
        with self._lock:
            found = [
                entry
                for entry in self.entries
                if entry["logName"].startswith(tuple(f"{n}/" for n in request.resource_names))
                and all(_holds(entry, *comparison) for comparison in wanted)
            ]
        order = request.order_by or "timestamp asc"
        if order not in ("timestamp asc", "timestamp desc"):
            raise Refusal("INVALID_ARGUMENT", f"order_by: {order}")
        found.sort(key=lambda entry: _time(entry["timestamp"]), reverse=order.endswith("desc"))
        start = int(request.page_token or 0)
        size = min(request.page_size or 50, 1000)
        answer: dict[str, Any] = {"entries": found[start : start + size]}
        if start + size < len(found):
            answer["nextPageToken"] = str(start + size)
        return answer


def _parse(text: str) -> list[tuple[list[str], str, str]]:
    """The comparisons of a filter; a filter that has anything else is refused."""
    comparisons = []
    for match in COMPARISON.finditer(text):
        field, operator, value = match.groups()
        parts = [part.strip('"') for part in re.findall(r'"[^"]*"|[^."]+', field)]
        comparisons.append((parts, operator, re.sub(r"\\(.)", r"\1", value.strip('"'))))
    rest = re.sub(r"\bAND\b", "", COMPARISON.sub("", text)).strip()
    if rest:
        raise Refusal("INVALID_ARGUMENT", f"Unparseable filter: {rest}")
    return comparisons


SEVERITIES = ["DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL"]


def _holds(entry: dict[str, Any], parts: list[str], operator: str, value: str) -> bool:
    found: Any = entry
    for part in parts:
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    left: Any = str(found)
    right: Any = value
    if parts == ["timestamp"]:
        left, right = _time(left), _time(right)
    if parts == ["severity"]:
        left, right = SEVERITIES.index(left), SEVERITIES.index(right)
    compare = {
        "=": lambda: left == right,
        "!=": lambda: left != right,
        ">=": lambda: left >= right,
        "<=": lambda: left <= right,
        ">": lambda: left > right,
        "<": lambda: left < right,
        ":": lambda: str(right).lower() in str(left).lower(),
    }
    if operator not in compare:
        raise Refusal("UNIMPLEMENTED", f"operator {operator}")
    return bool(compare[operator]())


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
