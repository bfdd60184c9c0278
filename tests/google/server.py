"""A local server that speaks Google's REST APIs.

Each API is an object with `routes`; bodies are parsed with the client libraries' own message
classes by the API itself, so an unknown field, a wrong type or a wrong name is a 400, as at Google.
The server itself gives tokens (as the metadata server of a machine does) and refuses a call without
one, counts calls, and answers wrongly when told to.
"""

import base64
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

HTTP = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "ABORTED": 409,
    "CONDITION_NOT_MET": 412, "RESOURCE_EXHAUSTED": 429, "INTERNAL": 500, "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}  # fmt: skip


class Refusal(Exception):
    """An answer that is an error, as Google writes it."""

    def __init__(self, status: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.more = status, message, more


class Call(NamedTuple):
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    match: re.Match[str]
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")


Handler = Callable[[Call], Any]
"""Gives a dict (sent as JSON), a text or bytes; raises Refusal."""


class Api(Protocol):
    """`routes`: method, regular expression of the whole path, handler."""

    routes: Sequence[tuple[str, str, Handler]]


class GoogleServer:
    """Serves some APIs on a free port of 127.0.0.1 until `close`.

    `calls` has “METHOD path” of every call but those to the metadata server.
    """

    def __init__(self, *apis: Api) -> None:
        self.calls: list[str] = []
        self.lock = threading.RLock()
        self.tokens: set[str] = set()
        self.identities: dict[str, tuple[str, str]] = {}
        """For each ID token, whose it is and for which address."""
        self.require_token = True
        self._faults: list[tuple[re.Pattern[str], str, str]] = []
        self._apis = apis
        self._routes = [route for api in apis for route in api.routes]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        # Looks often whether it shall close: a test waits for it.
        serve = partial(self._server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()

    def environment(self) -> dict[str, str]:
        """What a process needs to find this server in Google's place."""
        return {
            "GOOGLE_API_ENDPOINT": self.url,
            "GCE_METADATA_HOST": self.host,
            "GCE_METADATA_IP": self.host,
            "GOOGLE_CLOUD_PROJECT": "test-project",
        }

    def fault(self, pattern: str, what: str, message: str = "injected", times: int = 1) -> None:
        """Answer the next `times` calls whose “METHOD path” has `pattern` wrongly.

        `what` is a status of `HTTP`, or `half` (half a body, then the connection is closed),
        `drop` (no answer), `late` (the call is done and its answer never sent) or `slow` (3 s).
        """
        self._faults += [(re.compile(pattern), what, message)] * times

    def calm(self) -> None:
        """Forget the faults that were not met yet."""
        self._faults.clear()

    def add(self, api: Api) -> None:
        """Serve one more API."""
        self._apis = (*self._apis, api)
        self._routes += list(api.routes)

    def close(self) -> None:
        """Stop serving, and end what the APIs have started."""
        self._server.shutdown()
        self._server.server_close()
        for api in self._apis:
            if hasattr(api, "close"):
                api.close()

    def take_fault(self, call: str) -> tuple[str, str] | None:
        for at, (pattern, what, message) in enumerate(self._faults):
            if pattern.search(call):
                del self._faults[at]
                return what, message
        return None

    def metadata(self, path: str) -> str | dict[str, Any]:
        """What the metadata server of a machine answers; VMs have more of their own."""
        if path.endswith("/token"):
            token = f"token-{uuid.uuid4().hex}"
            self.tokens.add(token)
            return {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        if path.endswith("/project-id"):
            return "test-project"
        if path.endswith("/universe-domain"):
            return "googleapis.com"
        if "/service-accounts/" in path and not path.endswith("/email"):
            return {"aliases": ["default"], "email": "worker@test", "scopes": ["cloud-platform"]}
        return "worker@test" if path.endswith("/email") else "ok"

    def identity(self, audience: str, email: str = "worker@test") -> str:
        """An ID token, as the metadata server of a machine gives it."""
        now = int(time.time())
        facts = {"aud": audience, "email": email, "iat": now, "exp": now + 3600}
        facts["jti"] = uuid.uuid4().hex
        parts = ({"alg": "RS256", "typ": "JWT"}, facts, "signature")
        token = ".".join(_encoded(part) for part in parts)
        self.identities[token] = (email, audience)
        return token

    def answer(
        self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any
    ) -> Any:
        """Find the route and call it; raises Refusal."""
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if self.require_token and token not in self.tokens:
            raise Refusal("UNAUTHENTICATED", "Request had invalid authentication credentials.")
        for wanted, pattern, handler in self._routes:
            if wanted == method and (match := re.fullmatch(pattern, path)):
                with self.lock:
                    return handler(Call(method, path, query, body, match, headers))
        raise Refusal("UNIMPLEMENTED", f"no route {method} {path}")


def _encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def _handler_of(google: GoogleServer) -> type[BaseHTTPRequestHandler]:
    class Handle(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body are two writes: the second would wait 40 ms for the first one's receipt.
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if path.endswith("/identity") and "audience" in query:
                return self.send(200, google.identity(query["audience"]), text=True)
            if path == "/" or path.startswith("/computeMetadata/"):
                return self.send(200, google.metadata(path), text=True)
            name = f"{self.command} {path}"
            google.calls.append(name)
            what, message = google.take_fault(name) or ("", "")
            try:
                if what in HTTP:
                    raise Refusal(what, message)
                if what == "slow":
                    time.sleep(3)
                if what == "drop":
                    self.close_connection = True
                    return None
                answer = google.answer(self.command, path, query, body, self.headers)
                if what == "late":
                    self.close_connection = True
                    return None
                self.send(200, answer, half=what == "half")
            except Refusal as error:
                code = HTTP[error.status]
                fault = {"code": code, "message": error.message, "status": error.status}
                self.send(code, {"error": fault | error.more})
            except ConnectionError:  # the caller waits no longer
                self.close_connection = True
            except Exception as error:  # an unknown field, a wrong type
                fault = {"code": 400, "message": repr(error), "status": "INVALID_ARGUMENT"}
                self.send(400, {"error": fault})
            return None

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any

        def send(self, code: int, body: Any, half: bool = False, text: bool = False) -> None:
            # The metadata server answers with words, and google-auth goes by the type.
            kind = "application/text" if text and isinstance(body, str) else "application/json"
            if not isinstance(body, (str, bytes)):
                body = json.dumps(body)
            data = body.encode() if isinstance(body, str) else body
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if half else data)
            if half:
                self.close_connection = True

    return Handle
