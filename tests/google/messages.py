"""Google's own messages, as they come and go on the wire."""

import json
from datetime import UTC, datetime
from typing import Any

from google.protobuf import any_pb2

from tests.google.server import Call

PAGE = 2


def parsed(kind: Any, call: Call) -> Any:
    return kind.from_json(call.body or b"{}", ignore_unknown_fields=False)


def written(message: Any) -> Any:
    return json.loads(type(message).to_json(message, use_integers_for_enums=False))


def packed(message: Any) -> any_pb2.Any:
    found = any_pb2.Any()
    found.Pack(type(message).pb(message))
    return found


def page_of(items: list[Any], call: Call) -> tuple[list[Any], str]:
    """Pages are small, so that a caller who reads the first alone is found out."""
    start = int(call.query.get("pageToken") or 0)
    size = min(int(call.query.get("pageSize") or PAGE), PAGE)
    more = start + size < len(items)
    return items[start : start + size], str(start + size) if more else ""


def last(name: str) -> str:
    return name.rsplit("/", 1)[1]


def now() -> datetime:
    return datetime.now(UTC)
