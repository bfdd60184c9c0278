"""Checks calls against the descriptions of Google's APIs that its SDK brings along.

A program of its own, with the SDK's folder as argument: reads calls as JSON, writes one line for
each fault that it finds. Neither gcloud nor a network is used.
"""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

VERSIONS = {
    "serviceusage": "v1", "storage": "v1", "artifactregistry": "v1", "iam": "v1", "run": "v2",
    "secretmanager": "v1", "cloudresourcemanager": "v1", "cloudbuild": "v1", "compute": "v1",
    "sqladmin": "v1beta4", "redis": "v1", "cloudfunctions": "v2",
}  # fmt: skip


def main() -> None:
    sys.path[:0] = [f"{sys.argv[1]}/lib", f"{sys.argv[1]}/lib/third_party"]
    for call in json.load(sys.stdin):
        for fault in faults(**call):
            print(f"{call['method']} {call['path']}: {fault}")


def faults(method: str, api: str, path: str, body: Any) -> Iterator[str]:
    version = VERSIONS[api]
    name = f"googlecloudsdk.generated_clients.apis.{api}.{version}.{api}_{version}"
    client = importlib.import_module(f"{name}_client")
    messages = importlib.import_module(f"{name}_messages")
    place = urlsplit(path)
    fitting = [info for info in methods(client) if fits(info, method, place.path)]
    if not fitting:
        yield "the API has no such method"
        return
    info = fitting[0]
    for query, _ in parse_qsl(place.query):
        # Every method takes `fields`.
        if query.replace(".", "_") not in [*info.query_params, "fields"]:
            yield f"the method takes no {query}"
    if body is not None:
        yield from unknown(message_of(info, messages), body)


def methods(client: Any) -> Iterator[Any]:
    (main_class,) = [
        kind
        for name, kind in inspect.getmembers(client, inspect.isclass)
        if hasattr(kind, "BASE_URL")
    ]
    for _, service in inspect.getmembers(main_class, inspect.isclass):
        for _, function in inspect.getmembers(service, inspect.isfunction):
            if hasattr(function, "method_config"):
                yield function.method_config()


def fits(info: Any, method: str, path: str) -> bool:
    """Whether it is this method; storage's and Compute's paths are relative to theirs."""
    bare = re.sub(r"^(storage/v1|compute/v1)/", "", path)
    written = info.flat_path or info.relative_path
    pattern = "".join(
        r"[^/:]+" if part.startswith("{") else re.escape(part)
        for part in re.split(r"(\{[^}]+\})", written)
    )
    return info.http_method == method and re.fullmatch(pattern, bare) is not None


def message_of(info: Any, messages: Any) -> Any:
    request = getattr(messages, info.request_type_name)
    if info.request_field in ("", "<request>"):
        return request
    return request.field_by_name(info.request_field).type


def unknown(kind: Any, body: Any) -> Iterator[str]:
    """The fields of a body that its message does not have, at any depth."""
    from apitools.base.py import encoding

    def look(message: Any, at: str) -> Iterator[str]:
        for name in message.all_unrecognized_fields():
            yield f"{type(message).__name__} has no field {at}{name}"
        for field in message.all_fields():
            value = getattr(message, field.name)
            for item in value if isinstance(value, list) else [value]:
                if hasattr(item, "all_unrecognized_fields"):
                    yield from look(item, f"{at}{field.name}.")

    yield from look(encoding.JsonToMessage(kind, json.dumps(body)), "")


if __name__ == "__main__":
    main()
