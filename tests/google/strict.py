"""What Cloud Storage refuses and the emulator does not: the rules that are needed for it."""

import base64
import json
import re
from typing import Any, NamedTuple

import google_crc32c

from tests.google.server import HTTP


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    headers: dict[str, str]
    body: bytes


class Refusal(Exception):
    """An error as Google words it."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message

    def answer(self) -> Answer:
        code = HTTP[self.status]
        fault = {"code": code, "message": self.message, "errors": [{"reason": self.status.lower()}]}
        return json_answer(code, {"error": fault})


class Session:
    """A resumable upload that was begun through the proxy."""

    def __init__(self, path: str, name: str, generation: str | None, checksum: str | None) -> None:
        self.path, self.name = path, name
        self.generation, self.checksum = generation, checksum
        self.received = 0
        self.running = google_crc32c.Checksum()
        self.finished: Answer | None = None


def incomplete(session: Session) -> Answer:
    stored = {"Range": f"bytes=0-{session.received - 1}"} if session.received else {}
    return Answer(308, stored, b"")


def check_multipart(headers: dict[str, str], body: bytes) -> None:
    """Refuse a simple upload whose content is not what its checksum says."""
    boundary = re.search(r"boundary=\"?([^\";]+)", header(headers, "content-type") or "")
    assert boundary, "a multipart upload has a boundary"
    mark = b"--" + boundary[1].encode()
    facts, _, rest = body.partition(b"\r\n\r\n")[2].partition(b"\r\n" + mark)
    content = rest.partition(b"\r\n\r\n")[2].rpartition(b"\r\n" + mark)[0]
    checksum = google_crc32c.Checksum()
    checksum.update(content)
    compare(json.loads(facts).get("crc32c"), checksum)


def compare(told: str | None, found: Any) -> None:
    computed = base64.b64encode(found.digest()).decode()
    if told and told != computed:
        raise Refusal(
            "INVALID_ARGUMENT",
            f'Provided CRC32C "{told}" doesn\'t match calculated CRC32C "{computed}".',
        )


def hashes(header: str | None) -> dict[str, str]:
    return dict(part.strip().split("=", 1) for part in (header or "").split(",") if "=" in part)


def header(headers: dict[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)


def json_answer(code: int, body: Any) -> Answer:
    return Answer(code, {"Content-Type": "application/json"}, json.dumps(body).encode())


def damaged(data: bytes) -> bytes:
    """The same with one bit of the middle changed, which is in the content however it is sent."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if data else data
