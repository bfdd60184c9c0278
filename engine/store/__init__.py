"""The one door to stored files: a local folder, or a Google Cloud Storage bucket.

Names are relative and use `/`. Every write is whole or not at all. `create_if_absent`,
`change`, and `upload` with `if_absent`, are the only arbiters between two writers.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from engine.store.bucket import BucketStore
from engine.store.local import LocalStore
from engine.store.names import Facts, Progress

__all__ = [
    "PAGE_SECONDS",
    "PATIENT_SECONDS",
    "BucketStore",
    "Facts",
    "LocalStore",
    "Progress",
    "Store",
    "is_bucket",
    "open_store",
]

PAGE_SECONDS = 5.0
"""For `open_store`, where a person waits for a page."""

PATIENT_SECONDS = 120.0
"""For `open_store`, where giving up costs more than waiting: no page, and work that is done."""


class Store(Protocol):
    """The verbs of a store. Names are checked: no `..`, no empty part, no leading `/`.

    A bucket raises StoreUnavailable from every verb when it does not answer in time or refuses,
    and ObjectDamaged when what arrived is not what was sent.
    """

    @property
    def location(self) -> str:
        """What `open_store` opens it by."""

    def read(self, name: str) -> bytes:
        """Return the content of `name`; raises ObjectMissing."""

    def write(self, name: str, data: bytes) -> None:
        """Write `name`, replacing what was there; readers see the old or the new content."""

    def create_if_absent(self, name: str, data: bytes) -> bool:
        """Write `name` unless it exists; return whether this call wrote it."""

    def change(self, name: str, make: Callable[[bytes | None], bytes | None]) -> bool:
        """Replace the content of `name` (None: it is not there) by what `make` makes of it, unless
        that is None; return whether it was written. `make` is called again when another writer was
        quicker, so nothing that it did not see is replaced."""

    def upload(
        self, name: str, path: Path, *, progress: Progress | None = None, if_absent: bool = False
    ) -> bool:
        """Write `name` from a file of any size; return whether this call wrote it, which is always
        so without `if_absent`."""

    def download(self, name: str, path: Path, *, progress: Progress | None = None) -> None:
        """Write the content of `name` to the file `path`, which has all of it or is as it was;
        raises ObjectMissing."""

    def exists(self, name: str) -> bool:
        """Say whether `name` exists."""

    def describe(self, name: str) -> Facts:
        """Return what is known of `name` without reading it; raises ObjectMissing."""

    def holds(self, name: str, path: Path) -> bool:
        """Say whether the content of `name` is that of the file `path`; False without a `name`."""

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted names below the folder `prefix`, at any depth."""

    def describe_all(self, prefix: str = "") -> dict[str, Facts]:
        """Return what `list` lists, with what is known of each."""

    def delete(self, name: str) -> None:
        """Delete `name`; nothing happens when it is not there."""


def is_bucket(location: str | os.PathLike[str]) -> bool:
    """Say whether a location is in a bucket."""
    return os.fspath(location).startswith("gs://")


def open_store(location: str | os.PathLike[str], *, seconds: float | None = None) -> Store:
    """Return the store at a local path or at `gs://bucket/prefix`.

    `seconds`: how long a bucket is tried for each call, and a file's transfer while nothing moves,
    instead of 30 and 120.
    """
    if not is_bucket(location):
        return LocalStore(Path(location))
    bucket, _, prefix = os.fspath(location).removeprefix("gs://").partition("/")
    if seconds is None:
        return BucketStore(bucket, prefix)
    return BucketStore(bucket, prefix, call_seconds=seconds, transfer_seconds=seconds)
