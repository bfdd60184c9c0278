"""A resumable upload: a file sent in chunks, which goes on from what the bucket has of it.

The client library has one too; it gives each chunk a time limit of its own and does not ask how
far the bucket is after a chunk that half arrived. The protocol is described at
https://cloud.google.com/storage/docs/performing-resumable-uploads
"""

import random
import re
import time
from typing import Any, BinaryIO

from engine.errors import StoreUnavailable
from engine.store.google_errors import told
from engine.store.names import Progress

TIMEOUT = (10.0, 60.0)
FIRST_DELAY, LONGEST_DELAY = 0.25, 8.0
_INCOMPLETE = 308
_AGAIN = (408, 429, 500, 502, 503, 504)
_GONE = (404, 410)


class SessionLost(Exception):
    """The bucket knows the upload no more: it is over, or it must begin anew."""


class Patience:
    """Waits between attempts, longer each time, until nothing has moved for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.moved()

    def moved(self) -> None:
        """Something moved: the time begins anew."""
        self._give_up_at = time.monotonic() + self._seconds
        self._delay = FIRST_DELAY

    def wait(self, reason: object) -> None:
        """Sleep before the next attempt; raises StoreUnavailable when there is no time for it."""
        delay = self._delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        if time.monotonic() + delay > self._give_up_at:
            raise StoreUnavailable(
                f"The bucket took nothing for {self._seconds:g} s in the middle of an upload: "
                f"{reason}"
            )
        time.sleep(delay)
        self._delay = min(2 * self._delay, LONGEST_DELAY)


def send(
    url: str,
    file: BinaryIO,
    size: int,
    checksum: str,
    chunk_bytes: int,
    patience: Patience,
    progress: Progress,
) -> None:
    """Send a file of `size` bytes, more than none, to the session at `url`.

    Args:
        checksum: CRC32C of the whole, which the bucket is asked to refuse anything else by.

    Raises:
        SessionLost: the session is over or was never there.
        GoogleAPICallError: the bucket refused the upload.
        StoreUnavailable: it took nothing for as long as `patience` lasts.
    """
    import requests

    at: int | None = 0
    """Where to go on; None: the bucket has to be asked."""
    best = 0
    progress(0, size)
    with requests.Session() as session:
        while True:
            lost = ""
            try:
                if at is None:
                    answer = _ask(session, url, size)
                else:
                    answer = _put(session, url, file, at, size, checksum, chunk_bytes)
            except requests.RequestException as error:
                lost = f"{type(error).__name__}: {told(error)}"
            if lost:  # waited for out here: the error itself has the session's address
                patience.wait(lost)
                at = None
                continue
            if answer.ok and answer.status_code != _INCOMPLETE:
                progress(size, size)
                return
            if answer.status_code == _INCOMPLETE:
                stored = _stored(answer)
                if stored > best:
                    best = stored
                    patience.moved()
                    progress(stored, size)
                elif at is not None:
                    patience.wait("it answers, and keeps nothing of what is sent")
                at = stored
            elif answer.status_code in _AGAIN:
                patience.wait(f"{answer.status_code} {told(answer.text)[:200]}")
                at = None
            else:
                raise _refusal(answer)


def _put(
    session: Any, url: str, file: BinaryIO, at: int, size: int, checksum: str, chunk_bytes: int
) -> Any:
    file.seek(at)
    data = file.read(min(chunk_bytes, size - at))
    headers = {"Content-Range": f"bytes {at}-{at + len(data) - 1}/{size}"}
    if at + len(data) == size:
        headers["X-Goog-Hash"] = f"crc32c={checksum}"
    return session.put(url, data=data, headers=headers, timeout=TIMEOUT, allow_redirects=False)


def _ask(session: Any, url: str, size: int) -> Any:
    headers = {"Content-Range": f"bytes */{size}"}
    return session.put(url, headers=headers, timeout=TIMEOUT, allow_redirects=False)


def _stored(answer: Any) -> int:
    """The bytes that the bucket has, from “Range: bytes=0-last”; none without it."""
    match = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
    return int(match[1]) + 1 if match else 0


def _refusal(answer: Any) -> Exception:
    from google.api_core.exceptions import from_http_response

    if answer.status_code in _GONE:
        return SessionLost(f"{answer.status_code} {told(answer.text)[:200]}")
    answer.request.url = told(answer.request.url)  # which the error tells
    error: Exception = from_http_response(answer)  # type: ignore[no-untyped-call]
    return error
