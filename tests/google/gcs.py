"""Cloud Storage for the tests: fake-gcs-server behind a proxy that is as strict as Google.

Fixtures (every test may ask for them):

`gcs`            the server of this test process, a `CloudStorage`: faults, calls, bytes.
`bucket`         the name of a new, empty bucket on it. STORAGE_EMULATOR_HOST, GOOGLE_CLOUD_PROJECT
                 and BUCKET_NAME are in `os.environ` while the test runs, so Google's client and
                 `open_store(f"gs://{bucket}/…")` find it, here and in child processes, which
                 inherit the environment. For a child with an environment of its own:
                 `env=gcs.environment(bucket)`.
`cloud_folders`  `bucket`, and Django's BUCKET_NAME, DATA_DIR, RUNS_DIR and ARTIFACTS_DIR in it, in
                 the settings as in the environment.

What the emulator does not enforce, the proxy does: preconditions on resumable uploads, downloads,
deletes and copies, and the client's checksum. All calls to the storage pass through it, so
`gcs.fault("PUT .*upload", "UNAVAILABLE")` and its like are met by Google's client too.
"""

import contextlib
import http.client
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import pytest

from tests.google.emulator import start_emulator
from tests.google.server import HTTP
from tests.google.strict import (
    Answer,
    Refusal,
    Session,
    check_multipart,
    compare,
    damaged,
    hashes,
    header,
    incomplete,
)

BLOCK = 1 << 16
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
QUANTUM = 256 << 10


class CloudStorage:
    """The emulator and the proxy in front of it, on free ports of 127.0.0.1, until `close`.

    `calls` has “METHOD path?query” of every call, unquoted; `sent` and `received` the bytes of
    bodies from and to clients.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sent = self.received = 0
        self.lock = threading.RLock()
        self._faults: list[tuple[re.Pattern[str], str, float]] = []
        self._down_until = 0.0
        self._sessions: dict[str, Session] = {}
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._proxy.daemon_threads = True
        self.host = f"127.0.0.1:{self._proxy.server_port}"
        self.url = f"http://{self.host}"
        self._process, self._port = start_emulator(self.host)
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    def environment(self, bucket: str = "") -> dict[str, str]:
        """What a process needs to find this server in Google's place."""
        found = {"STORAGE_EMULATOR_HOST": self.url, "GOOGLE_CLOUD_PROJECT": "test-project"}
        return {**found, "BUCKET_NAME": bucket} if bucket else found

    def create_bucket(self, name: str) -> None:
        body = json.dumps({"name": name}).encode()
        answer = self.forward("POST", "/storage/v1/b?project=test-project", {}, body)
        assert answer.status == 200, f"no bucket {name}: {answer}"

    def fault(self, pattern: str, what: str, times: int = 1, seconds: float = 1.0) -> None:
        """Answer the next `times` calls whose “METHOD path?query” has `pattern` wrongly.

        `what` is a status of `tests.google.server.HTTP` (UNAVAILABLE, PERMISSION_DENIED…), or

        drop         no answer, nothing done
        late         done, and no answer
        half         done, and half of the answer's body
        slow         done after `seconds`
        cut          of an uploaded chunk, only the first half arrives; no answer
        damage       a byte of the body is changed on its way, unnoticed by the server
        unreachable  nothing answers any call for `seconds` from then on
        """
        known = {*HTTP, "drop", "late", "half", "slow", "cut", "damage", "unreachable"}
        assert what in known, what
        with self.lock:
            self._faults += [(re.compile(pattern), what, seconds)] * times

    def unreachable(self, seconds: float) -> None:
        """Answer nothing from now on."""
        self._down_until = time.monotonic() + seconds

    def revoke(self, pattern: str = "") -> None:
        """Refuse the calls that have `pattern` with 403, until `calm`."""
        self.fault(pattern, "PERMISSION_DENIED", times=10_000)

    def calm(self) -> None:
        """Forget all faults."""
        with self.lock:
            self._faults.clear()
        self._down_until = 0.0

    def close(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._process.kill()
        self._process.wait()

    @property
    def is_down(self) -> bool:
        return time.monotonic() < self._down_until

    def take_fault(self, call: str) -> tuple[str, float]:
        with self.lock:
            for at, (pattern, what, seconds) in enumerate(self._faults):
                if pattern.search(call):
                    del self._faults[at]
                    return what, seconds
        return "", 0.0

    def forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Ask the emulator."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, target, body or None, headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes, trusted: bool
    ) -> Answer:
        """Enforce what Google does, then forward; raises Refusal. `trusted`: the body's checksum is
        not looked at."""
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if query.get("upload_id"):
            return self._chunk(query["upload_id"], target, headers, body, trusted)
        upload = re.fullmatch(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o", parts.path)
        if method == "POST" and upload:
            kind = query.get("uploadType", "")
            if kind == "resumable":
                return self._begin(upload[1], target, query, headers, body)
            if kind == "multipart" and not trusted:
                check_multipart(headers, body)
            with self.lock:
                return self.forward(method, target, headers, body)
        stored = re.fullmatch(r"(?:/download)?(/storage/v1/b/[^/]+/o/[^/]+)", parts.path)
        if stored and method in ("GET", "DELETE", "PATCH"):
            with self.lock if method != "GET" else contextlib.nullcontext():
                self._require(stored[1], query)
                for name in ("ifGenerationMatch", "ifMetagenerationMatch"):
                    query.pop(name, None)
                return self.forward(method, f"{parts.path}?{urlencode(query)}", headers, body)
        copy = re.search(r"(/b/[^/]+/o/[^/]+)$", parts.path)
        if method == "POST" and copy and "ifGenerationMatch" in query:
            with self.lock:
                self._require(f"/storage/v1{copy[1]}", query)
                return self.forward(method, target, headers, body)
        return self.forward(method, target, headers, body)

    def _require(self, path: str, query: dict[str, str]) -> None:
        for name, field in (
            ("ifGenerationMatch", "generation"), ("ifMetagenerationMatch", "metageneration"),
        ):  # fmt: skip
            if name not in query:
                continue
            found = self.forward("GET", path, {}, b"")
            current = json.loads(found.body)[field] if found.status == 200 else "0"
            if current != query[name]:
                raise Refusal(
                    "CONDITION_NOT_MET",
                    "At least one of the pre-conditions you specified did not hold.",
                )

    def _begin(
        self, bucket: str, target: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> Answer:
        facts = json.loads(body or b"{}")
        name = query.get("name") or facts["name"]
        path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        self._require(path, query)
        answer = self.forward("POST", target, headers, body)
        location = next((v for k, v in answer.headers.items() if k.lower() == "location"), "")
        if found := re.search(r"upload_id=([^&]+)", location):
            session = Session(path, name, query.get("ifGenerationMatch"), facts.get("crc32c"))
            self._sessions[found[1]] = session
        return answer

    def _chunk(
        self, upload: str, target: str, headers: dict[str, str], body: bytes, trusted: bool
    ) -> Answer:
        session = self._sessions.get(upload)
        if session is None:
            raise Refusal("NOT_FOUND", "There is no such upload.")
        if session.finished is not None:
            return session.finished
        span = re.fullmatch(
            r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", header(headers, "content-range") or ""
        )
        assert span, f"malformed Content-Range: {headers}"
        if span[1] is None and span[3] != "0":
            return incomplete(session)
        start, total = int(span[1] or 0), span[3]
        if start > session.received:
            raise Refusal("INVALID_ARGUMENT", "Invalid request: a chunk is missing.")
        fresh = body[session.received - start :]
        end = session.received + len(fresh)
        is_last = total != "*" and end == int(total)
        assert is_last or len(body) % QUANTUM == 0, "a chunk is a multiple of 256 KiB"
        checksum = session.running.copy()
        checksum.update(fresh)
        if is_last and not trusted:
            told = hashes(header(headers, "x-goog-hash")).get("crc32c") or session.checksum
            compare(told, checksum)
        with self.lock:
            if is_last and session.generation is not None:
                try:
                    self._require(session.path, {"ifGenerationMatch": session.generation})
                except Refusal:
                    del self._sessions[upload]
                    raise
            span_text = f"bytes {session.received}-{end - 1}/{total}" if fresh else "bytes */0"
            plain = {k: v for k, v in headers.items() if k.lower() != "content-range"}
            answer = self.forward("PUT", target, {**plain, "Content-Range": span_text}, fresh)
            if answer.status in (200, 308):
                session.received, session.running = end, checksum
            if is_last:
                session.finished = answer
                return answer
        return incomplete(session)


def _handler_of(gcs: CloudStorage) -> type[BaseHTTPRequestHandler]:
    class Handle(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body are two writes: the second would wait 40 ms for the first one's receipt.
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def handle_any(self) -> None:
            call = f"{self.command} {unquote(self.path)}"
            gcs.calls.append(call)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            gcs.received += len(body)
            what, seconds = ("drop", 0.0) if gcs.is_down else gcs.take_fault(call)
            if what == "unreachable":
                gcs.unreachable(seconds)
            if what in ("drop", "unreachable"):
                self.close_connection = True
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
            if what == "cut":
                self._cut(headers, body)
                return
            try:
                if what in HTTP:
                    raise Refusal(what, "injected")
                if what == "slow":
                    time.sleep(seconds)
                uploads = what == "damage" and self.command != "GET"
                sent = damaged(body) if uploads else body
                answer = gcs.answer(self.command, self.path, headers, sent, trusted=uploads)
            except Refusal as refusal:
                answer = refusal.answer()
            if what == "late":
                self.close_connection = True
                return
            if what == "damage" and not uploads:
                answer = answer._replace(body=damaged(answer.body))
            self.send(answer, half=what == "half")

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

        def _cut(self, headers: dict[str, str], body: bytes) -> None:
            span = re.fullmatch(r"bytes (\d+)-\d+/(.+)", header(headers, "content-range") or "")
            self.close_connection = True
            kept = len(body) // 2 // QUANTUM * QUANTUM
            if span is None or not kept:
                return
            plain = {
                k: v
                for k, v in headers.items()
                if k.lower() not in ("content-range", "x-goog-hash")
            }
            start = int(span[1])
            plain["Content-Range"] = f"bytes {start}-{start + kept - 1}/{span[2]}"
            gcs.answer(self.command, self.path, plain, body[:kept], trusted=True)

        def send(self, answer: Answer, half: bool = False) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP | {"date", "server"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            view = memoryview(answer.body)
            if half:
                self.close_connection = True
                view = view[: len(view) // 2]
            for at in range(0, len(view), BLOCK):
                self.wfile.write(view[at : at + BLOCK])
            gcs.sent += len(view)

    return Handle


_names = iter(range(1_000_000))


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[CloudStorage]:
    """One emulator a test process; `gcs` is it without faults of other tests."""
    server = CloudStorage()
    yield server
    server.close()


@pytest.fixture
def gcs(gcs_server: CloudStorage) -> Iterator[CloudStorage]:
    """The server, with its faults and calls forgotten before and after the test."""
    gcs_server.calm()
    gcs_server.calls.clear()
    yield gcs_server
    gcs_server.calm()


@pytest.fixture
def bucket(gcs: CloudStorage, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new bucket, which this process and its children find."""
    name = f"bucket-{next(_names)}"
    gcs.create_bucket(name)
    for variable, value in gcs.environment(name).items():
        monkeypatch.setenv(variable, value)
    return name


@pytest.fixture
def cloud_folders(bucket: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """`bucket`, with everything that Sentinelle stores in it."""
    settings.BUCKET_NAME = bucket
    for folder in ("data", "runs", "artifacts"):
        name = f"{folder.upper()}_DIR"
        setattr(settings, name, f"gs://{bucket}/{folder}")
        monkeypatch.setenv(name, f"gs://{bucket}/{folder}")
    return bucket
