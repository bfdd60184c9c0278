"""The end of a bucket: every version of every object, then the bucket."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import quote

from deployments.gcp.errors import missing_accepted
from deployments.gcp.rest import Request, Tell, send

AT_A_TIME = 16
FIELDS = "items(name,generation,size),nextPageToken"


class BucketSize(NamedTuple):
    """What a bucket holds, old versions included."""

    objects: int
    bytes: int


def bucket_size(bucket: str) -> BucketSize:
    """Count what a bucket holds; a thousand objects a call. Raises CloudError."""
    objects = size = 0
    for page in _pages(bucket):
        objects += len(page)
        size += sum(int(item.get("size", 0)) for item in page)
    return BucketSize(objects, size)


def bucket_delete(bucket: str, tell: Tell) -> None:
    """Delete all that a bucket holds, then the bucket. Raises CloudError.

    What is deleted is not kept: by default a bucket would be charged for another week of it.
    """
    path = f"storage/v1/b/{bucket}"
    body = {"softDeletePolicy": {"retentionDurationSeconds": "0"}}
    send(Request("PATCH", "storage", path, body), f"Bucket {bucket}")
    done = 0
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        # From the beginning each time: what a page token pointed at is gone.
        while page := next(_pages(bucket), ()):
            list(threads.map(lambda item: _delete(bucket, item), page))
            done += len(page)
            tell(f"{done:,} objects deleted")
    with missing_accepted():
        send(Request("DELETE", "storage", path), f"Bucket {bucket}")


def _pages(bucket: str) -> Iterator[Sequence[Mapping[str, Any]]]:
    token = ""
    while True:
        query = f"versions=true&fields={quote(FIELDS)}" + (f"&pageToken={token}" if token else "")
        path = f"storage/v1/b/{bucket}/o?{query}"
        page = send(Request("GET", "storage", path), f"Looking into the bucket {bucket}")
        yield page.get("items", [])
        token = page.get("nextPageToken", "")
        if not token:
            return


def _delete(bucket: str, item: Mapping[str, Any]) -> None:
    name, generation = quote(item["name"], safe=""), item["generation"]
    path = f"storage/v1/b/{bucket}/o/{name}?generation={generation}"
    with missing_accepted():
        send(Request("DELETE", "storage", path), f"Object {item['name']}")
