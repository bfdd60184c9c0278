"""The one door to stored files: a local folder, or a Google Cloud Storage bucket.

Names are relative and use `/`. Every write is whole or not at all. `create_if_absent` is the
only arbiter between two writers.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from engine.errors import ObjectMissing, StoreUnavailable

_TEMPORARY = ".partial-"
_RETRY_SECONDS = 30.0


class Store(Protocol):
    """The verbs of a store. Names are checked: no `..`, no empty part, no leading `/`."""

    def read(self, name: str) -> bytes:
        """Return the content of `name`; raises ObjectMissing."""

    def write(self, name: str, data: bytes) -> None:
        """Write `name`, replacing what was there; readers see the old or the new content."""

    def create_if_absent(self, name: str, data: bytes) -> bool:
        """Write `name` unless it exists; return whether this call wrote it."""

    def exists(self, name: str) -> bool:
        """Say whether `name` exists."""

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted names below the folder `prefix`, at any depth."""

    def delete(self, name: str) -> None:
        """Delete `name`; nothing happens when it is not there."""


def open_store(location: str | os.PathLike[str]) -> Store:
    """Return the store at a local path or at `gs://bucket/prefix`."""
    text = os.fspath(location)
    if text.startswith("gs://"):
        bucket, _, prefix = text.removeprefix("gs://").partition("/")
        return BucketStore(bucket, prefix)
    return LocalStore(Path(text))


def _checked(name: str) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name:
        raise ValueError(f"not a store name: {name!r}")
    if any(part.startswith(_TEMPORARY) for part in parts):
        raise ValueError(f"names starting with {_TEMPORARY} are reserved: {name!r}")
    return name


class LocalStore:
    """A folder. Content is on the disk (fsync of file and folder) when a write returns."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Return where `name` is on this machine."""
        return self.root / _checked(name)

    def read(self, name: str) -> bytes:
        """Return the content of `name`; raises ObjectMissing."""
        try:
            return self.path(name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectMissing(f"There is no {name}.") from None

    def write(self, name: str, data: bytes) -> None:
        """Write `name` by renaming a synced temporary file over it."""
        path = self.path(name)
        with self._staged(path, data) as staged:
            staged.replace(path)

    def create_if_absent(self, name: str, data: bytes) -> bool:
        """Write `name` by linking a synced temporary file to it, which fails if it exists."""
        path = self.path(name)
        with self._staged(path, data) as staged:
            try:
                path.hardlink_to(staged)
            except FileExistsError:
                return False
        return True

    def exists(self, name: str) -> bool:
        """Say whether `name` exists."""
        return self.path(name).is_file()

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted names below the folder `prefix`, at any depth."""
        folder = self.path(prefix) if prefix else self.root
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(_TEMPORARY)
        )

    def delete(self, name: str) -> None:
        """Delete `name`; nothing happens when it is not there."""
        self.path(name).unlink(missing_ok=True)

    @contextmanager
    def _staged(self, path: Path, data: bytes) -> Iterator[Path]:
        """Give a synced temporary file beside `path`; sync the folder after the body moved it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, staged_name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
        staged = Path(staged_name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            staged.chmod(0o644)
            yield staged
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            with suppress(FileNotFoundError):
                staged.unlink()


class BucketStore:
    """A prefix of a Google Cloud Storage bucket, with the application's default credentials.

    Every request is checked by CRC32C and retried for at most 30 s; then StoreUnavailable. The
    client is made at the first use, so that a process that never touches the bucket does not pay
    for it, and a forked worker makes its own.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        if not bucket:
            raise ValueError("a bucket location is gs://bucket/prefix")
        self.prefix = f"{_checked(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self._bucket_name = bucket
        self._client: tuple[int, Any] | None = None

    def read(self, name: str) -> bytes:
        """Return the content of `name`; raises ObjectMissing or StoreUnavailable."""
        with _translated(name):
            data: bytes = self._blob(name).download_as_bytes(checksum="crc32c", retry=_retry())
            return data

    def write(self, name: str, data: bytes) -> None:
        """Write `name`, replacing what was there. Writing the same again is safe to retry."""
        with _translated(name):
            self._blob(name).upload_from_string(
                data, content_type="application/octet-stream", checksum="crc32c", retry=_retry()
            )

    def create_if_absent(self, name: str, data: bytes) -> bool:
        """Write `name` under the precondition that it has no generation.

        A retry after a lost answer meets the object it made itself; a random mark in the metadata
        tells that apart from another writer's.
        """
        from google.api_core.exceptions import PreconditionFailed

        mark = uuid.uuid4().hex
        blob = self._blob(name)
        blob.metadata = {"writer": mark}
        with _translated(name):
            try:
                blob.upload_from_string(
                    data,
                    content_type="application/octet-stream",
                    checksum="crc32c",
                    if_generation_match=0,
                    retry=_retry(),
                )
            except PreconditionFailed:
                existing = self._blob(name)
                existing.reload(retry=_retry())
                return bool((existing.metadata or {}).get("writer") == mark)
        return True

    def exists(self, name: str) -> bool:
        """Say whether `name` exists."""
        with _translated(name):
            return bool(self._blob(name).exists(retry=_retry()))

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted names below the folder `prefix`, at any depth."""
        folder = self.prefix + (f"{_checked(prefix)}/" if prefix else "")
        with _translated(prefix):
            blobs = self._bucket().list_blobs(prefix=folder, retry=_retry())
            return sorted(blob.name.removeprefix(self.prefix) for blob in blobs)

    def delete(self, name: str) -> None:
        """Delete `name`; nothing happens when it is not there."""
        with suppress(ObjectMissing), _translated(name):
            self._blob(name).delete(retry=_retry())

    def _blob(self, name: str) -> Any:
        return self._bucket().blob(self.prefix + _checked(name))

    def _bucket(self) -> Any:
        import google.cloud.storage as storage

        if self._client is None or self._client[0] != os.getpid():
            self._client = (os.getpid(), storage.Client())
        return self._client[1].bucket(self._bucket_name)


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_RETRY_SECONDS)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn the client library's errors into ours."""
    import requests
    from google.api_core.exceptions import GoogleAPICallError, NotFound, RetryError
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except NotFound:
        raise ObjectMissing(f"There is no {name}.") from None
    except (GoogleAPICallError, RetryError, GoogleAuthError, requests.RequestException) as error:
        raise StoreUnavailable(f"The bucket can't be used for {name}: {error}") from error
