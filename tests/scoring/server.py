"""gunicorn as a real process on the tests' database, and callers that ask it in parallel."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection

ROOT = Path(__file__).resolve().parents[2]


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running gunicorn and a key for it."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, log: Path, artifacts: Path
    ) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.artifacts = artifacts
        self.key = ""
        self._clients: list[http.client.HTTPConnection] = []

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is kept alive until `hang_up`."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self._clients.append(client)
        return client

    def hang_up(self) -> None:
        """Close every connection."""
        while self._clients:
            self._clients.pop().close()

    def ask(
        self,
        client: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any = None,
        **headers: str,
    ) -> Reply:
        """Send a request and read its answer; bytes are sent as they are, the rest as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {
            "Content-Type": "application/json", "Authorization": f"Api-Key {self.key}",
        } | headers  # fmt: skip
        client.request(method, path, data, headers)
        response = client.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, names, response.read())

    def score(self, body: Any) -> Reply:
        """POST /score on a connection of its own."""
        return self._ask_once("POST", "/score", body)

    def health(self) -> Reply:
        """GET /health."""
        return self._ask_once("GET", "/health")

    def _ask_once(self, method: str, path: str, body: Any = None) -> Reply:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            return self.ask(client, method, path, body)
        finally:
            client.close()

    def worker_pids(self) -> list[int]:
        """The processes that answer."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def database_url() -> str:
    """The tests' database, for another process."""
    name = settings.DATABASES["default"]["NAME"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    url = urlsplit(os.environ["DATABASE_URL"])
    return f"{url.scheme}://{url.netloc}/{name}?{url.query}"


@contextmanager
def gunicorn(folder: Path, artifacts: Path, **environment: str) -> Iterator[Server]:
    """Start gunicorn with 2 workers on a free port; wait until it answers at all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    log = folder / "gunicorn.log"
    changes = {
        "DATABASE_URL": database_url(), "ARTIFACTS_DIR": str(artifacts), "PORT": str(port),
    }  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "sentinelle.wsgi"],
            cwd=ROOT,
            env=os.environ | changes | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, port, log, artifacts)
    try:
        _wait_until_it_answers(server)
        yield server
    finally:
        server.hang_up()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _wait_until_it_answers(server: Server) -> None:
    for _ in range(600):
        assert server.process.poll() is None, server.log.read_text()
        with suppress(OSError, http.client.HTTPException):
            server.health()
            return
        time.sleep(0.1)
    raise AssertionError(server.log.read_text())


def in_parallel(callers: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(0)`, `work(1)`, … at the same time, each in a thread; their results in order."""
    results: list[Any] = [None] * callers
    barrier = threading.Barrier(callers)

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def statuses(replies: Sequence[Reply]) -> list[int]:
    """The status of each, sorted."""
    return sorted(reply.status for reply in replies)
