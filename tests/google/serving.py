"""Where the local Google's services answer: an address for each and for each of its tags.

An address is a port of 127.0.0.1. A request is let in if the service is public or if it shows an
ID token for the service by someone who may call it; it goes to a revision by the shares of traffic,
so evenly that a hundred requests are shared exactly; what it arrives as is told by Cloud Run's own
headers. A revision is a process of the image's program, which is started when it is deployed,
stopped when it has neither traffic nor a tag, and started again when it is asked.
"""

import http.client
import json
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

from google.cloud import run_v2

from tests.google.messages import last, now
from tests.google.processes import Container

if TYPE_CHECKING:
    from tests.google.services import ServicesApi

PROGRAM = ["gunicorn", "--config", "gunicorn.conf.py", "sentinelle.wsgi"]
"""What the Dockerfile's image runs."""
DROPPED = {"host", "connection", "x-serverless-authorization", "content-length"}


class Answer(NamedTuple):
    """What a revision says to a request."""

    status: int
    headers: dict[str, str]
    body: bytes


class Asked(NamedTuple):
    """A request as a revision gets it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Served(NamedTuple):
    """A request that was answered, for metrics."""

    at: Any
    service: str
    revision: str
    status: int
    seconds: float


def stand_in(asked: Asked, env: dict[str, str]) -> Answer:
    """What answers when no process is wanted: who it is."""
    version = env.get("MODEL_VERSION", "")
    path = asked.path.partition("?")[0]
    found: dict[str, Any] | None = {
        "/health": {"status": "healthy", "model_version": f"v{version.removeprefix('v')}"},
        "/score": {"decision": "APPROVE", "risk_score": 0.1, "model_version": f"v{version}"},
    }.get(path)
    headers = {"Content-Type": "application/json"}
    if "dry_run=true" in asked.path:
        headers["Dry-Run"] = "true"
    body = json.dumps(found or {"detail": "Not found"}).encode()
    return Answer(200 if found else 404, headers, body)


class Instance:
    """A revision's one process."""

    def __init__(self, command: list[str], env: dict[str, str], log: Callable[[str], None]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        own = {"PORT": str(self.port), "HOST": "127.0.0.1", "WEB_CONCURRENCY": "1"}
        self.container = Container(command or PROGRAM, env | own, log)

    def ended(self) -> str | None:
        """An empty text once it listens, why it never will, None while that is open."""
        if self.container.process.poll() is not None:
            return f"The container exited with an error: {self.container.process.returncode}."
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return "" if probe.connect_ex(("127.0.0.1", self.port)) == 0 else None

    def ask(self, asked: Asked) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(asked.method, asked.path, asked.body, asked.headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return Answer(answer.status, dict(answer.getheaders()), body)


class Serving:
    """The addresses of services and the processes behind them."""

    def __init__(self, api: "ServicesApi", *, runs_program: bool) -> None:
        self.runs_program = runs_program
        self.start_seconds = 120.0
        """How long a container may take until it listens."""
        self.program: Callable[[Asked, dict[str, str]], Answer] = stand_in
        """What answers when no process is wanted."""
        self.served: list[Served] = []
        self.is_open = False
        """Let everybody in, whatever the policies say."""
        self._api = api
        self._instances: dict[str, Instance] = {}
        self._began: dict[str, float] = {}
        self._fronts: dict[tuple[str, str], ThreadingHTTPServer] = {}
        self._owed: dict[str, Counter[str]] = {}
        self._lock = threading.RLock()

    # --- Processes -------------------------------------------------------------------------

    def start(self, revision: run_v2.Revision) -> None:
        """Start a revision's process; raises Missing for a secret that is not there."""
        env = self.environment(revision)
        self._began[revision.name] = time.monotonic()
        if self.runs_program:
            box = revision.containers[0]
            log = partial(self.log, revision)
            self._instances[revision.name] = Instance([*box.command, *box.args], env, log)

    def ended(self, revision: run_v2.Revision) -> str | None:
        """How starting it ended: an empty text when it listens, None while that is open."""
        if not self.runs_program:
            return ""
        from tests.google.services import NOT_STARTED

        found = self._instances[revision.name].ended()
        late = time.monotonic() - self._began[revision.name] > self.start_seconds
        if found or (found is None and late):
            self.log(revision, found or "Startup probe timed out.", "varlog/system", "ERROR")
            self.stop(revision.name)
            return NOT_STARTED
        return found

    def environment(self, revision: run_v2.Revision) -> dict[str, str]:
        """A container's variables."""
        service = last(revision.name.split("/revisions/")[0])
        found = self._api.run.world.variables(
            revision, revision.name.split("/")[1], revision.service_account
        )
        own = {"K_SERVICE": service, "K_REVISION": last(revision.name), "K_CONFIGURATION": service}
        return found | own

    def keep(self, service: str, revisions: set[str]) -> None:
        """Stop what has neither traffic nor a tag."""
        for name in list(self._instances):
            newest = self._api.services[service].latest_created_revision
            if name.startswith(f"{service}/") and name not in revisions and name != newest:
                self.stop(name)

    def process(self, revision: str) -> subprocess.Popen[str]:
        """The process of a revision that runs."""
        return self._instances[revision].container.process

    def stop(self, revision: str) -> None:
        with self._lock:
            instance = self._instances.pop(revision, None)
        if instance is not None:
            threading.Thread(target=instance.container.stop, args=(5.0,), daemon=True).start()

    def forget(self, service: str) -> None:
        """A service that is deleted."""
        for place in [place for place in self._fronts if place[0] == service]:
            front = self._fronts.pop(place)
            threading.Thread(target=_shut, args=(front,), daemon=True).start()
        for name in [name for name in self._instances if name.startswith(f"{service}/")]:
            self.stop(name)

    def close(self) -> None:
        for front in self._fronts.values():
            _shut(front)
        for instance in self._instances.values():
            instance.container.stop(5.0)

    def log(
        self,
        revision: run_v2.Revision,
        text: str,
        log: str = "stderr",
        severity: str = "DEFAULT",
        request: dict[str, Any] | None = None,
    ) -> None:
        _, project, _, location, _, service, _, name = revision.name.split("/")
        self._api.run.logging.write(
            f"projects/{project}/logs/run.googleapis.com%2F{log.replace('/', '%2F')}",
            text,
            resource={
                "type": "cloud_run_revision",
                "labels": {
                    "service_name": service, "revision_name": name, "location": location,
                    "project_id": project, "configuration_name": service,
                },
            },
            severity=severity,
            request=request,
        )  # fmt: skip

    # --- Requests --------------------------------------------------------------------------

    def open(self, service: str, tag: str = "") -> str:
        """The address of a service or of a tag of it."""
        place = (service, tag)
        if place not in self._fronts:
            front = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self, service, tag))
            front.daemon_threads = True
            self._fronts[place] = front
            serve = partial(front.serve_forever, poll_interval=0.02)
            threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{self._fronts[place].server_port}"

    def answered(self, service: str) -> Counter[str]:
        """How many requests each revision has answered, by its last name."""
        return Counter(one.revision for one in self.served if one.service == last(service))

    def answer(self, service: str, tag: str, asked: Asked) -> Answer:
        """Let a request in and have a revision answer it."""
        if not (self.is_open or self._is_let_in(service, asked.headers)):
            return _refused(403, "Your client does not have permission to get the requested URL.")
        with self._api.lock:
            name = self._revision(service, tag)
            if name is None:
                return _refused(404, "The requested URL was not found on this server.")
            revision = self._api.revisions[name]
        began = time.monotonic()
        answer = self._ask(revision, self._arrived(service, tag, asked))
        seconds = time.monotonic() - began
        self.served.append(Served(now(), last(service), last(name), answer.status, seconds))
        request = {
            "requestMethod": asked.method, "status": answer.status, "latency": f"{seconds:.6f}s",
            "requestUrl": self.open(service, tag) + asked.path,
        }  # fmt: skip
        self.log(revision, "", "requests", "INFO", request)
        return answer

    def _is_let_in(self, service: str, headers: dict[str, str]) -> bool:
        if self._api.may_call(service, "allUsers"):
            return True
        told = headers.get("x-serverless-authorization") or headers.get("authorization", "")
        known = self._api.google.identities
        email, audience = known.get(told.removeprefix("Bearer "), ("", ""))
        is_for_it = audience == self._api.services[service].uri
        return is_for_it and self._api.may_call(service, f"serviceAccount:{email}")

    def _revision(self, service: str, tag: str) -> str | None:
        """The revision whose turn it is."""
        found = self._api.services.get(service)
        statuses = [] if found is None else list(found.traffic_statuses)
        if tag:
            shares = {one.revision: 1 for one in statuses if one.tag == tag}
        else:
            shares = Counter[str]()
            for one in statuses:
                shares[one.revision] += one.percent
        shares = {name: share for name, share in shares.items() if share}
        if not shares or found is None:
            return None
        # Smooth weighted round robin: of any hundred in a row each has as many as its percents.
        owed = self._owed.setdefault(f"{service}#{tag}", Counter())
        for name in set(owed) - set(shares):
            del owed[name]
        for name, share in shares.items():
            owed[name] += share
        chosen = max(shares, key=lambda name: owed[name])
        owed[chosen] -= sum(shares.values())
        return f"{service}/revisions/{chosen}" if chosen else str(found.latest_ready_revision)

    def _arrived(self, service: str, tag: str, asked: Asked) -> Asked:
        """The request as Cloud Run passes it on."""
        kept = {name: value for name, value in asked.headers.items() if name not in DROPPED}
        host = f"{f'{tag}---' if tag else ''}{last(service)}-abcdefgh12-ew.a.run.app"
        own = {"Host": host, "X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1"}
        return asked._replace(headers=kept | own)

    def _ask(self, revision: run_v2.Revision, asked: Asked) -> Answer:
        if not self.runs_program:
            return self.program(asked, self.environment(revision))
        with self._lock:
            if revision.name not in self._instances:
                self.start(revision)
            instance = self._instances[revision.name]
        while (found := instance.ended()) is None:
            time.sleep(0.05)
        if found:
            return _refused(503, "Service Unavailable")
        try:
            return instance.ask(asked)
        except (OSError, http.client.HTTPException):
            return _refused(502, "The request failed because the instance was lost.")


def _refused(status: int, words: str) -> Answer:
    page = f"<html><body><h1>Error: {words}</h1></body></html>"
    return Answer(status, {"Content-Type": "text/html"}, page.encode())


def _shut(front: ThreadingHTTPServer) -> None:
    front.shutdown()
    front.server_close()


def _handler_of(serving: Serving, service: str, tag: str) -> type[BaseHTTPRequestHandler]:
    class Handle(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, body)
            answer = serving.answer(service, tag, asked)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_OPTIONS = do_HEAD = handle_any

    return Handle
