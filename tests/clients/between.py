"""A server between a client and the engine: passes requests on, or does to them what networks and
overloaded servers do."""

import http.client
import json
import ssl
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Seen(NamedTuple):
    """One request that arrived."""

    method: str
    path: str
    headers: Any
    body: Any


class Problem(NamedTuple):
    """An answer that is not the engine's."""

    status: int
    headers: dict[str, str]
    body: Any = None


class Between:
    """Serves on a free port until `close`; `upstream` is the engine's port.

    `then` lists what happens to the next requests, in order, before they are passed on again: a
    Problem is answered; `hang` never answers, `drip` sends a byte now and then, `drop` closes the
    connection, `late` closes it after the engine has answered.
    """

    def __init__(self, upstream: int | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.upstream = upstream
        self.seen: list[Seen] = []
        self.connections = 0
        self.then: list[Problem | str] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.waiting = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://localhost:{self._server.server_port}"
        serve = partial(self._server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        """Let go of whoever waits, and stop."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def settle(self) -> None:
        """Wait until the engine has answered all that was passed on, also what nobody waits for."""
        while self.waiting:
            time.sleep(0.01)

    def next(self) -> Problem | str:
        with self.lock:
            return self.then.pop(0) if self.then else "pass"


def _handler_of(between: Between) -> type[BaseHTTPRequestHandler]:
    class Handle(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def setup(self) -> None:
            super().setup()
            with between.lock:
                between.connections += 1

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen = Seen(self.command, self.path, self.headers, json.loads(body or b"null"))
            with between.lock:
                between.seen.append(seen)
            what = between.next()
            if isinstance(what, Problem):
                self.reply(what.status, what.headers, json.dumps(what.body).encode())
            elif what == "hang":
                between.closing.wait(30)
                self.close_connection = True
            elif what == "drip":
                self.drip()
            elif what == "drop":
                self.close_connection = True
            else:
                self.pass_on(body, is_lost=what == "late")

        do_GET = do_POST = handle_any

        def pass_on(self, body: bytes, is_lost: bool) -> None:
            with between.lock:
                between.waiting += 1
            try:
                answer = self.answer_of_the_engine(body)
                if not is_lost:
                    return self.reply(*answer)
            except (OSError, http.client.HTTPException):  # one of the two has gone
                pass
            finally:
                with between.lock:
                    between.waiting -= 1
            self.close_connection = True
            return None

        def answer_of_the_engine(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            assert between.upstream is not None
            engine = http.client.HTTPConnection("127.0.0.1", between.upstream, timeout=30)
            try:
                engine.request(self.command, self.path, body or None, dict(self.headers))
                answer = engine.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                engine.close()

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            kept = {"content-type", "retry-after", "idempotent-replayed", "location", "connection"}
            for name, value in headers.items():
                if name.lower() in kept:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def drip(self) -> None:
            self.close_connection = True
            try:
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + b" " * 400:
                    self.wfile.write(bytes([byte]))
                    if between.closing.wait(0.02):
                        return
            except ConnectionError:
                pass

    return Handle
