"""Cloud Run functions (the Cloud Functions API, v2): a function that is deployed really runs.

Its archive is taken out of the bucket and unpacked, and what is in it served by the functions
framework, a process of its own that finds nothing else of this repository. In front of it stands
what stands before a function at Google: who shows no ID token of somebody who may call is refused.

There is no client library of this API here, so the fields that each message takes are written down
from Google's reference; an unknown one is refused, as at Google.
"""

import http.client
import io
import itertools
import re
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from engine.errors import SentinelleError
from engine.store import open_store
from tests.google.function_server import FunctionServer
from tests.google.server import Call, GoogleServer, Refusal
from tests.google.setup import MESSAGES, ProjectApi, _checked

PLACE = r"(?P<place>projects/[^/]+/locations/[^/]+)"
READS = 2
"""Reads of an operation until it has ended."""
ROLE = "roles/run.invoker"
MESSAGES["function"] = {
    "name": str, "description": str, "environment": str, "labels": dict,
    "buildConfig": {
        "runtime": str, "entryPoint": str, "serviceAccount": str, "dockerRepository": str,
        "source": {"storageSource": {"bucket": str, "object": str, "generation": str}},
        "environmentVariables": dict, "workerPool": str,
    },
    "serviceConfig": {
        "availableMemory": str, "availableCpu": str, "timeoutSeconds": int, "maxInstanceCount": int,
        "minInstanceCount": int, "maxInstanceRequestConcurrency": int, "serviceAccountEmail": str,
        "ingressSettings": str, "environmentVariables": dict, "allTrafficOnLatestRevision": bool,
    },
}  # fmt: skip


class FunctionsApi:
    """The functions of a project.

    Args:
        project: whose accounts there are, and which APIs are enabled.
        environment: what the platform gives each process, such as where the local storage is.
    """

    def __init__(self, project: ProjectApi, environment: Mapping[str, str]) -> None:
        self.project = project
        self.environment = dict(environment)
        self.functions: dict[str, dict[str, Any]] = {}
        self.servers: dict[str, FunctionServer] = {}
        self.policies: dict[str, dict[str, Any]] = {}
        self.google: GoogleServer
        self.build_fails = ""
        """What the build says instead of succeeding."""
        self._fronts: dict[str, Front] = {}
        self._operations: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._folder = tempfile.TemporaryDirectory(prefix="functions-")
        function = rf"/v2/(?P<name>{PLACE}/functions/[^/:]+)"
        service = r"/v2/(?P<name>projects/[^/]+/locations/[^/]+/services/[^/:]+)"
        self.routes: list[tuple[str, str, Callable[[Call], Any]]] = [
            ("POST", rf"/v2/{PLACE}/functions", self._create),
            ("GET", function, self._get),
            ("PATCH", function, self._patch),
            ("DELETE", function, self._delete),
            ("GET", rf"/v2/(?P<name>{PLACE}/operations/function\.\d+)", self._operation),
            ("GET", rf"{service}:getIamPolicy", self._policy),
            ("POST", rf"{service}:setIamPolicy", self._set_policy),
        ]

    def close(self) -> None:
        """End every function."""
        for front in self._fronts.values():
            front.close()
        for server in self.servers.values():
            server.close()

    def members(self, service: str) -> set[str]:
        """Who may call a service."""
        bindings = self.policies.get(service, {}).get("bindings", ())
        return {one for bind in bindings if bind["role"] == ROLE for one in bind["members"]}

    def is_let_in(self, service: str, token: str) -> bool:
        members = self.members(service)
        email, audience = self.google.identities.get(token, ("", ""))
        is_for_it = audience == self._fronts[service].url
        return "allUsers" in members or (is_for_it and f"serviceAccount:{email}" in members)

    def _create(self, call: Call) -> Any:
        self.project._needs("cloudfunctions")
        body = _checked("function", call)
        name = f"{call.match['place']}/functions/{call.query['functionId']}"
        if not re.fullmatch(r"[a-z][a-z0-9-]{2,61}[a-z0-9]", call.query["functionId"]):
            raise Refusal("INVALID_ARGUMENT", f"Invalid function ID {call.query['functionId']}.")
        if name in self.functions:
            raise Refusal("ALREADY_EXISTS", f"Function {name} already exists.")
        self.functions[name] = {**body, "name": name, "state": "DEPLOYING"}
        # Whoever makes it may call it, as an owner of the project may.
        member = {"role": ROLE, "members": ["serviceAccount:worker@test"]}
        self.policies[self._service(name)] = {"etag": "ACAB", "bindings": [member]}
        return self._begin(name)

    def _patch(self, call: Call) -> Any:
        found, body = self._found(call), _checked("function", call)
        given = {f"{section}.{field}" for section, each in body.items() for field in each}
        if given != set(call.query["updateMask"].split(",")):
            raise Refusal("INVALID_ARGUMENT", "The mask names other fields than the body has.")
        for section, fields in body.items():
            found[section] = {**found[section], **fields}
        found["state"] = "DEPLOYING"
        return self._begin(found["name"])

    def _get(self, call: Call) -> Any:
        return self._found(call)

    def _delete(self, call: Call) -> Any:
        name = self._found(call)["name"]
        del self.functions[name]
        self.servers.pop(name).close()
        return self._begin_operation(name, None)

    def _found(self, call: Call) -> dict[str, Any]:
        name = call.match["name"]
        if name not in self.functions:
            raise Refusal("NOT_FOUND", f"Resource '{name}' was not found")
        return self.functions[name]

    def _begin(self, name: str) -> dict[str, Any]:
        error = self._deploy(name)
        self.functions[name]["state"] = "FAILED" if error else "ACTIVE"
        return self._begin_operation(name, error)

    def _begin_operation(self, name: str, error: str | None) -> dict[str, Any]:
        place = name.partition("/functions/")[0]
        operation = f"{place}/operations/function.{next(self._numbers)}"
        ended = {"error": {"code": 3, "message": error}} if error else {"response": {}}
        self._operations[operation] = {"left": READS, "ended": ended}
        return {"name": operation}

    def _operation(self, call: Call) -> Any:
        found = self._operations[call.match["name"]]
        found["left"] -= 1
        name = {"name": call.match["name"]}
        return name if found["left"] > 0 else {**name, "done": True, **found["ended"]}

    # --- Building and running it -----------------------------------------------------------

    def _deploy(self, name: str) -> str | None:
        """Build and start it; why that failed."""
        function = self.functions[name]
        build, config = function["buildConfig"], function["serviceConfig"]
        if self.build_fails:
            return f"Build failed with status: FAILURE and message: {self.build_fails}"
        for email in (build["serviceAccount"].rpartition("/")[2], config["serviceAccountEmail"]):
            if email not in self.project.accounts:
                return f"Service account {email} does not exist."
        try:
            folder = self._unpacked(**build["source"]["storageSource"])
        except (SentinelleError, zipfile.BadZipFile) as error:
            return f"The source can't be read: {error}"
        if not (folder / "requirements.txt").is_file():
            return "Build failed: requirements.txt is missing."
        own = {**self.environment, **config["environmentVariables"], "K_SERVICE": name}
        try:
            server = FunctionServer(folder, own, target=build["entryPoint"])
        except RuntimeError as error:
            return f"Could not create or update Cloud Run service: {error}"
        service = self._service(name)
        if name in self.servers:
            self.servers[name].close()
        self.servers[name] = server
        if service not in self._fronts:
            self._fronts[service] = Front(partial(self.is_let_in, service))
        self._fronts[service].server = server
        config |= {"service": service, "uri": self._fronts[service].url}
        function["url"] = self._fronts[service].url
        return None

    def _unpacked(self, bucket: str, object: str) -> Path:
        data = open_store(f"gs://{bucket}").read(object)
        folder = Path(self._folder.name, uuid.uuid4().hex)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(folder)
        return folder

    def _service(self, name: str) -> str:
        return name.replace("/functions/", "/services/")

    # --- Who may call it -------------------------------------------------------------------

    def _policy(self, call: Call) -> Any:
        if call.match["name"] not in self.policies:
            raise Refusal("NOT_FOUND", f"Resource '{call.match['name']}' was not found")
        return self.policies[call.match["name"]]

    def _set_policy(self, call: Call) -> Any:
        policy = _checked("policy", call.json["policy"])
        if policy.get("etag") != self._policy(call)["etag"]:
            raise Refusal("ABORTED", "There were concurrent policy changes. Please retry.")
        self.policies[call.match["name"]] = policy
        return policy


class Front:
    """The address of a function."""

    server: FunctionServer

    def __init__(self, is_let_in: Callable[[str], bool]) -> None:
        front = self

        class Handle(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if not is_let_in(token):
                    self._send(403, {"Content-Type": "text/html"}, b"<h1>Error: Forbidden</h1>")
                    return
                at = http.client.HTTPConnection(front.server.url.removeprefix("http://"))
                at.request(self.command, self.path, body, dict(self.headers))
                answer = at.getresponse()
                self._send(answer.status, dict(answer.getheaders()), answer.read())
                at.close()

            do_GET = do_POST = do_OPTIONS = handle_any

            def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for header, value in headers.items():
                    if header.lower() not in ("connection", "content-length", "date", "server"):
                        self.send_header(header, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._front = ThreadingHTTPServer(("127.0.0.1", 0), Handle)
        self._front.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._front.server_port}"
        serve = partial(self._front.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        self._front.shutdown()
        self._front.server_close()
