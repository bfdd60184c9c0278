"""A store in a Google Cloud Storage bucket."""

import io
import os
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from engine.errors import ObjectDamaged, ObjectMissing, StoreUnavailable
from engine.store.google_errors import DAMAGE_ATTEMPTS, damaged, translated
from engine.store.names import Facts, Progress, checked, silent, staged
from engine.store.resumable import FIRST_DELAY, LONGEST_DELAY, Patience, SessionLost, send

CALL_SECONDS = 30.0
"""How long a small call is tried again before StoreUnavailable."""

TRANSFER_SECONDS = 120.0
"""How long the transfer of a file waits for the bucket while nothing moves."""

CHUNK_BYTES = 8 << 20
"""What a resumable upload sends, and a download asks for, at once."""

TIMEOUT = (10.0, 60.0)
"""Seconds for one attempt to connect, and for it to wait for the next byte."""

_TYPE = "application/octet-stream"
T = TypeVar("T")


class BucketStore:
    """A prefix of a bucket, with the application's default credentials.

    Every request is tried again for at most `call_seconds`, and the transfer of a file until
    nothing has moved for `transfer_seconds`; then StoreUnavailable. What was written is compared
    with the checksum (CRC32C) that the bucket computed, and what was read with it too.

    Args:
        bucket: its name.
        prefix: the folder in it that is the store.
        chunk_bytes: a file larger than this is sent in chunks of it; a multiple of 256 KiB.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        call_seconds: float = CALL_SECONDS,
        transfer_seconds: float = TRANSFER_SECONDS,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        if not bucket:
            raise ValueError("a bucket location is gs://bucket/prefix")
        if chunk_bytes <= 0 or chunk_bytes % (256 << 10):
            raise ValueError("chunk_bytes is a multiple of 256 KiB")
        self.prefix = f"{checked(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self._bucket_name = bucket
        self._call_seconds = call_seconds
        self._transfer_seconds = transfer_seconds
        self._chunk_bytes = chunk_bytes

    @property
    def location(self) -> str:
        """`gs://bucket/prefix`."""
        return f"gs://{self._bucket_name}/{self.prefix}".rstrip("/")

    def read(self, name: str) -> bytes:
        """Return the content of `name`; raises ObjectMissing."""

        def attempt() -> bytes:
            data: bytes = self._blob(name).download_as_bytes(
                checksum="crc32c", **_tries(self._call_seconds)
            )
            return data

        return self._undamaged(name, attempt)

    def write(self, name: str, data: bytes) -> None:
        """Write `name`, replacing what was there. Writing the same again is safe to retry."""
        self._write(name, data, if_absent=False)

    def create_if_absent(self, name: str, data: bytes) -> bool:
        """Write `name` under the precondition that it has no generation."""
        return self._write(name, data, if_absent=True)

    def change(self, name: str, make: Callable[[bytes | None], bytes | None]) -> bool:
        """Replace `name` by what `make` makes of it, under the precondition that it still is of the
        generation that was read."""
        while True:
            old, generation = self._read_generation(name)
            new = make(old)
            if new is None:
                return False
            if self._put(name, new, self._call_seconds, generation):
                return True

    def upload(
        self, name: str, path: Path, *, progress: Progress | None = None, if_absent: bool = False
    ) -> bool:
        """Write `name` from a file, in chunks that are sent again from where the bucket has it."""
        progress = progress or silent
        with path.open("rb") as file:
            size, checksum = _measure(file)
            if size > self._chunk_bytes:
                return self._put_chunks(name, file, size, checksum, progress, if_absent)
            file.seek(0)
            done = self._put(name, file.read(), self._transfer_seconds, 0 if if_absent else None)
        progress(size, size)
        return done

    def download(self, name: str, path: Path, *, progress: Progress | None = None) -> None:
        """Write `name` to `path`, range by range of one generation; raises ObjectMissing."""
        progress = progress or silent
        self._undamaged(name, lambda: self._download(name, path, progress))

    def exists(self, name: str) -> bool:
        """Say whether `name` exists."""
        with self._translated(name):
            return bool(self._blob(name).exists(**_tries(self._call_seconds)))

    def describe(self, name: str) -> Facts:
        """Return what the bucket knows of `name`; raises ObjectMissing."""
        with self._translated(name):
            return _facts(self._loaded(name))

    def holds(self, name: str, path: Path) -> bool:
        """Say whether the bucket's size and checksum of `name` are those of the file `path`."""
        try:
            facts = self.describe(name)
        except ObjectMissing:
            return False
        with path.open("rb") as file:
            return _measure(file) == (facts.size, facts.crc32c)

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted names below the folder `prefix`, at any depth."""
        return [*self.describe_all(prefix)]

    def describe_all(self, prefix: str = "") -> dict[str, Facts]:
        """Return what `list` lists, with what the bucket knows of each."""
        folder = self.prefix + (f"{checked(prefix)}/" if prefix else "")
        with self._translated(prefix or self.prefix):
            blobs = self._bucket().list_blobs(prefix=folder, **_tries(self._call_seconds))
            # A name that ends in a slash is what the console makes for an empty folder.
            found = {
                blob.name.removeprefix(self.prefix): _facts(blob)
                for blob in blobs
                if not blob.name.endswith("/")
            }
        return dict(sorted(found.items()))

    def delete(self, name: str) -> None:
        """Delete `name`; nothing happens when it is not there."""
        with suppress(ObjectMissing), self._translated(name):
            self._blob(name).delete(**_tries(self._call_seconds))

    def _write(self, name: str, data: bytes, *, if_absent: bool) -> bool:
        if len(data) <= self._chunk_bytes:
            return self._put(name, data, self._call_seconds, 0 if if_absent else None)
        file, checksum = io.BytesIO(data), _crc32c(data)
        return self._put_chunks(name, file, len(data), checksum, silent, if_absent)

    def _read_generation(self, name: str) -> tuple[bytes | None, int]:
        """The content of `name` and its generation; none and 0 when it is not there."""

        def attempt() -> tuple[bytes, int]:
            while True:
                blob = self._loaded(name)
                try:
                    data = blob.download_as_bytes(
                        if_generation_match=blob.generation,
                        checksum="crc32c",
                        **_tries(self._call_seconds),
                    )
                except _precondition_failed():
                    continue
                return data, blob.generation

        try:
            return self._undamaged(name, attempt)
        except ObjectMissing:
            return None, 0

    def _put(self, name: str, data: bytes, seconds: float, generation: int | None) -> bool:
        """Write `name` where it is of this generation: 0, where it is not there; None, always."""

        def attempt() -> bool:
            blob, mark = self._marked(name)
            try:
                blob.upload_from_string(
                    data,
                    content_type=_TYPE,
                    checksum="crc32c",
                    if_generation_match=generation,
                    **_tries(seconds),
                )
            except _precondition_failed():
                return self._is_mine(name, mark)
            self._check(blob, _crc32c(data))
            return True

        return self._undamaged(name, attempt, missing=self._no_bucket())

    def _put_chunks(
        self,
        name: str,
        file: BinaryIO,
        size: int,
        checksum: str,
        progress: Progress,
        if_absent: bool,
    ) -> bool:
        patience = Patience(self._transfer_seconds)

        def attempt() -> bool:
            while True:
                blob, mark = self._marked(name)
                try:
                    url = blob.create_resumable_upload_session(
                        content_type=_TYPE,
                        size=size,
                        if_generation_match=0 if if_absent else None,
                        **_tries(self._transfer_seconds),
                    )
                    send(url, file, size, checksum, self._chunk_bytes, patience, progress)
                except _precondition_failed():
                    return self._is_mine(name, mark)
                except SessionLost as lost:
                    if not self._is_mine(name, mark):
                        patience.wait(lost)
                        continue
                stored = self._loaded(name)
                # Unless somebody wrote over it already.
                if _writer(stored) == mark:
                    self._check(stored, checksum)
                return True

        return self._undamaged(name, attempt, missing=self._no_bucket())

    def _download(self, name: str, path: Path, progress: Progress) -> None:
        blob = self._loaded(name)
        done, checksum = 0, _checksum()
        with staged(path) as (file, temporary):
            while done < blob.size:
                block = blob.download_as_bytes(
                    start=done,
                    end=min(done + self._chunk_bytes, blob.size) - 1,
                    if_generation_match=blob.generation,
                    checksum=None,
                    **_tries(self._transfer_seconds),
                )
                file.write(block)
                checksum.update(block)
                done += len(block)
                progress(done, blob.size)
            file.close()
            if (done, _base64(checksum)) != (blob.size, blob.crc32c):
                raise damaged(name, "What arrived is not what the bucket has.")
            temporary.chmod(0o644)
            temporary.replace(path)

    def _marked(self, name: str) -> tuple[Any, str]:
        """An object to write and its random mark: a retry after a lost answer meets the object that
        it made itself, and the mark tells that apart from another writer's."""
        blob, mark = self._blob(name), uuid.uuid4().hex
        blob.metadata = {"writer": mark}
        return blob, mark

    def _is_mine(self, name: str, mark: str) -> bool:
        from google.api_core.exceptions import NotFound

        try:
            return _writer(self._loaded(name)) == mark
        except NotFound:
            return False

    def _check(self, blob: Any, checksum: str) -> None:
        """Compare what the bucket stored with what was sent, and delete it if that differs."""
        if blob.crc32c != checksum:
            blob.delete(
                if_generation_match=blob.generation,
                **_tries(self._call_seconds),
            )
            raise damaged(blob.name, "What the bucket stored is not what was sent.")

    def _undamaged(
        self, name: str, attempt: Callable[[], T], missing: Exception | None = None
    ) -> T:
        """Call `attempt`, again when what was transferred arrived damaged."""
        for left in range(DAMAGE_ATTEMPTS - 1, -1, -1):
            try:
                with self._translated(name, missing):
                    return attempt()
            except ObjectDamaged:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def _loaded(self, name: str) -> Any:
        blob = self._blob(name)
        blob.reload(**_tries(self._call_seconds))
        return blob

    def _blob(self, name: str) -> Any:
        return self._bucket().blob(self.prefix + checked(name))

    def _bucket(self) -> Any:
        client = _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""))
        return client.bucket(self._bucket_name)

    def _no_bucket(self) -> Exception:
        return StoreUnavailable(
            f"There is no bucket {self._bucket_name}, or this account may not know of it."
        )

    def _translated(
        self, name: str, missing: Exception | None = None
    ) -> AbstractContextManager[None]:
        where = f"gs://{self._bucket_name}/{self.prefix}{name}"
        return translated(where, missing or ObjectMissing(f"There is no {name}."))


@lru_cache(maxsize=4)
def _client(_pid: int, _emulator: str) -> Any:
    """The client of this process: made at the first use, so that a process that never touches a
    bucket does not pay for it, and anew in a forked worker."""
    # Otherwise it asks about the bucket itself, for traces that nobody collects, which takes a
    # permission that reading and writing objects does not.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    import google.cloud.storage as storage

    # Objects belong to a bucket; the project is only asked for by the client.
    return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or "unused")


def _tries(seconds: float) -> dict[str, Any]:
    """The arguments of a call that is tried for so long, each attempt not much longer than that."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    retry = DEFAULT_RETRY.with_timeout(seconds).with_delay(
        initial=FIRST_DELAY, maximum=LONGEST_DELAY, multiplier=2.0
    )
    connect, read = TIMEOUT
    timeout = (min(connect, max(seconds, 1.0)), min(read, max(seconds, 5.0)))
    return {"retry": retry, "timeout": timeout}


def _precondition_failed() -> type[Exception]:
    from google.api_core.exceptions import PreconditionFailed

    return PreconditionFailed


def _writer(blob: Any) -> str | None:
    return (blob.metadata or {}).get("writer")


def _facts(blob: Any) -> Facts:
    return Facts(blob.size, blob.updated, blob.crc32c, blob.generation)


def _measure(file: BinaryIO) -> tuple[int, str]:
    """The bytes of an open file and their checksum."""
    size, checksum = 0, _checksum()
    while block := file.read(1 << 20):
        size += len(block)
        checksum.update(block)
    return size, _base64(checksum)


def _crc32c(data: bytes) -> str:
    checksum = _checksum()
    checksum.update(data)
    return _base64(checksum)


def _checksum() -> Any:
    import google_crc32c

    return google_crc32c.Checksum()  # type: ignore[no-untyped-call]


def _base64(checksum: Any) -> str:
    import base64

    return base64.b64encode(checksum.digest()).decode()
