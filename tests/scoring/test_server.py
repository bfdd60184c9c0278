"""Under gunicorn, as a real process: parallel callers, promotions under load, sudden deaths."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connection

from deployments import services
from deployments.models import Alias, ApiKey, RegisteredModel
from engine.features.kernel import COUNT, INCOMING_COUNT, TIME
from engine.features.live import decode_events, decode_incoming
from scoring.models import Attempt, Outcome, PredictionRecord, ScoreRecord
from tests import bundles
from tests.engine.classifiers import INPUTS
from tests.scoring import classifiers
from tests.scoring.requests import request
from tests.scoring.server import ROOT, Server, database_url, gunicorn, in_parallel, statuses

# For longer, by hand: LOAD_SECONDS=30 python -m pytest tests/scoring/test_server.py -k load
LOAD_SECONDS = float(os.environ.get("LOAD_SECONDS", "8"))
SHOP = "https://shop.example.com"


@pytest.fixture(scope="module")
def process(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: Any
) -> Iterator[Server]:
    """One gunicorn for the whole module: starting it takes seconds. Tests empty its tables."""
    folder = tmp_path_factory.mktemp("server")
    origins = {"CORS_ALLOWED_ORIGINS": f"{SHOP},http://localhost:3000"}
    artifacts = folder / "artifacts"
    with django_db_blocker.unblock(), gunicorn(folder, artifacts, **origins) as running:
        yield running


@pytest.fixture
def artifacts(process: Server) -> Path:
    """The store of the running server, emptied."""
    shutil.rmtree(process.artifacts, ignore_errors=True)
    return process.artifacts


@pytest.fixture
def server(process: Server, champion: Any) -> Iterator[Server]:
    """gunicorn with a champion and a key."""
    _, process.key = services.api_key_create(name="s", scopes=["score"], created_by="test")
    time.sleep(2 * settings.LIVE_REFRESH_SECONDS + 0.3)  # it may still serve the last test's
    assert process.health().status == 200, process.log.read_text()
    yield process
    process.hang_up()


def assert_tables_are_consistent() -> None:
    """Every attempt has its record, and each wallet counts 1, 2, 3, … in time's order, as a source
    and as a destination."""
    attempts = list(Attempt.objects.order_by("id"))
    records = ScoreRecord.objects.values_list("attempt_id", flat=True)
    assert sorted(records) == [attempt.pk for attempt in attempts]
    counts: Counter[tuple[str, str]] = Counter()
    times: dict[tuple[str, str], int] = {}
    for attempt in attempts:
        source = decode_events(bytes(attempt.source_event))
        destination = decode_incoming(bytes(attempt.destination_event))
        for side, number, event_time in (
            ("source", source[0, COUNT], source[0, TIME]),
            ("destination", destination[0, INCOMING_COUNT], destination[0, TIME]),
        ):
            timeline = side, getattr(attempt, f"{side}_wallet_id")
            counts[timeline] += 1
            assert number == counts[timeline]
            assert event_time == getattr(attempt, f"{side}_time") >= times.get(timeline, 0)
            times[timeline] = event_time


def test_parallel_requests_of_one_wallet_see_all_before_them(server: Server) -> None:
    bodies = [request(destination_wallet_id=f"shop_{n}") for n in range(50)]
    assert statuses(in_parallel(50, lambda n: server.score(bodies[n]))) == [200] * 50
    records = list(ScoreRecord.objects.order_by("attempt"))
    for name in ("tx_last_10min", "src_tx_count_out_5m", "src_tx_count_out_30d"):
        assert [record.features[name] for record in records] == list(range(50))
    for before, record in enumerate(records):
        assert ("R9" in record.rules_fired) == (before >= 10)
        assert record.rule_score == (0.3 if before >= 20 else 0.2 if before >= 10 else 0.0)


def test_parallel_requests_to_one_wallet_see_all_before_them(server: Server) -> None:
    bodies = [request(source_wallet_id=f"payer_{n}") for n in range(50)]
    assert statuses(in_parallel(50, lambda n: server.score(bodies[n]))) == [200] * 50
    records = list(ScoreRecord.objects.order_by("attempt"))
    for window in ("1h", "24h", "7d", "30d"):
        for name in (f"dst_tx_count_in_{window}", f"dst_unique_sources_{window}"):
            assert [record.features[name] for record in records] == list(range(50))
    assert_tables_are_consistent()


def test_opposite_transfers_never_wait_for_each_other(server: Server) -> None:
    def work(caller: int) -> list[int]:
        client = server.connect()
        wallets = ("alice", "bob") if caller % 2 else ("bob", "alice")
        names = ("source_wallet_id", "destination_wallet_id")
        changes = dict(zip(names, wallets, strict=True))
        return [server.ask(client, "POST", "/score", request(**changes)).status for _ in range(25)]

    started = time.monotonic()
    assert in_parallel(8, work) == [[200] * 25] * 8
    assert time.monotonic() - started < 15
    assert_tables_are_consistent()


def test_same_transaction_in_parallel_is_decided_once(server: Server) -> None:
    body = request(transaction_id="once")
    replies = in_parallel(16, lambda _: server.score(body))
    assert statuses(replies) == [200] * 16
    assert len({reply.body for reply in replies}) == 1
    assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1
    assert Attempt.objects.count() == 1


def test_same_id_of_other_wallets_in_parallel_is_given_once(server: Server) -> None:
    for attempt in range(5):
        bodies = [
            request(
                transaction_id=f"id{attempt}",
                source_wallet_id=f"a{n}",
                destination_wallet_id=f"b{n}",
            )
            for n in range(16)
        ]
        replies = in_parallel(16, lambda n, bodies=bodies: server.score(bodies[n]))
        assert statuses(replies) == [200] + [409] * 15
    assert_tables_are_consistent()


def test_outcomes_and_scores_in_parallel_keep_the_failures_in_order(server: Server) -> None:
    for n in range(16):
        server.score(request(transaction_id=f"t{n}", created_at=f"2026-01-23T12:00:{n:02}Z"))

    def work(caller: int) -> int:
        if caller % 2:
            return server.score(request(created_at="2026-01-23T13:00:00Z")).status
        ended = {"status": "FAILED", "occurred_at": "2026-01-23T12:30:00Z"}
        reports = [
            {"transaction_id": f"t{15 - caller}"} | ended,
            {"transaction_id": f"t{caller}"} | ended,
        ]
        client = server.connect()
        return server.ask(client, "POST", "/outcomes", reports).status

    assert in_parallel(16, work) == [200] * 16
    told = list(Outcome.objects.order_by("id").values_list("failure_time", "failure_count"))
    assert [count for _, count in told] == list(range(1, len(told) + 1))
    assert all(before <= after for (before, _), (after, _) in pairwise(told))


class Champions:
    """When which version was champion."""

    def __init__(self, version: str) -> None:
        self.moves = [(version, 0.0, 0.0)]

    def move(self, change: Any) -> None:
        started = time.monotonic()
        event = change()
        self.moves.append((f"v{event.to_version.version}", started, time.monotonic()))

    def has_been(self, version: str, since: float, until: float) -> bool:
        """Whether it may have been champion at some time between the two. While a promotion is
        being made, both are."""
        ends = [ended for _, _, ended in self.moves[1:]] + [float("inf")]
        return any(
            name == version and started <= until and end >= since
            for (name, started, _), end in zip(self.moves, ends, strict=True)
        )


def test_load_across_two_promotions_and_a_rollback(server: Server) -> None:
    for number in ("1.1.0", "1.2.0"):
        bundles.register(number)
    model = RegisteredModel.objects.get(name="fraud")
    move = {"model": model, "actor": "test", "reason": "for a test"}
    champions = Champions("v1.0.0")
    ends = time.monotonic() + LOAD_SECONDS
    replies: list[tuple[float, int, str]] = []

    def load(caller: int) -> None:
        client = server.connect()
        while time.monotonic() < ends:
            body = request(source_wallet_id=f"w{caller}", destination_wallet_id=f"s{caller}")
            reply = server.ask(client, "POST", "/score", body)
            version = reply.json().get("model_version", "")
            replies.append((time.monotonic(), reply.status, version))

    threads = [threading.Thread(target=load, args=(caller,)) for caller in range(8)]
    for thread in threads:
        thread.start()
    for change in (
        lambda: services.promote(version="1.1.0", **move),
        lambda: services.promote(version="1.2.0", **move),
        lambda: services.rollback(**move),
    ):
        time.sleep(LOAD_SECONDS / 4)
        champions.move(change)
    for thread in threads:
        thread.join()
    assert Counter(status for _, status, _ in replies) == {200: len(replies)}
    assert {version for _, _, version in replies} == {"v1.0.0", "v1.1.0", "v1.2.0"}
    for at, _, version in replies:
        assert champions.has_been(version, at - 2.0, at), (version, at, champions.moves)
    assert replies[-1][2] == "v1.1.0"
    assert len(replies) > 20 * LOAD_SECONDS


def test_worker_killed_in_mid_work_leaves_whole_decisions(server: Server) -> None:
    answered: dict[str, bytes] = {}
    unanswered: list[dict[str, Any]] = []
    ends = time.monotonic() + 4

    def load(caller: int) -> None:
        client = server.connect()
        while time.monotonic() < ends:
            body = request(source_wallet_id=f"w{caller % 3}", destination_wallet_id="shop")
            try:
                reply = server.ask(client, "POST", "/score", body)
                assert reply.status == 200
                answered[body["transaction"]["transaction_id"]] = reply.body
            except (OSError, HTTPException):
                unanswered.append(body)
                client = server.connect()

    threads = [threading.Thread(target=load, args=(caller,)) for caller in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.8)
        os.kill(server.worker_pids()[0], signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert unanswered
    assert_tables_are_consistent()
    kept = set(Attempt.objects.values_list("transaction_id", flat=True))
    assert kept >= answered.keys()
    for body in unanswered:
        assert server.score(body).status == 200
    again = Attempt.objects.count()
    assert again == len(answered) + len(unanswered)
    assert_tables_are_consistent()


def test_revoked_key_ends_in_every_worker_within_two_seconds(server: Server) -> None:
    client = server.connect()
    assert server.ask(client, "POST", "/score", request()).status == 200
    services.api_key_revoke(key=ApiKey.objects.get())
    time.sleep(2.1)
    assert [server.score(request()).status for _ in range(10)] == [401] * 10


def test_bundle_spoiled_after_its_promotion_never_serves(server: Server) -> None:
    row = bundles.register("1.1.0")
    path = Path(settings.ARTIFACTS_DIR, row.location, "supervised.treelite")
    alias = Alias.objects.get()
    path.write_bytes(path.read_bytes()[:-1])
    Alias.objects.filter(pk=alias.pk).update(version=row)  # promote() would refuse it
    time.sleep(2)
    assert {server.score(request()).json()["model_version"] for _ in range(10)} == {"v1.0.0"}
    lines = server.log.read_text().splitlines()
    refusals = [line for line in lines if "Refused fraud v1.1.0" in line]
    assert len(refusals) == 2  # one line in each of the two workers
    assert all("v1.0.0 keeps serving" in line for line in refusals)
    assert server.health().status == 200


@pytest.fixture
def classifier(champion: Any) -> None:
    """A champion of the classifier “sponsor”."""
    classifiers.register()
    classifiers.promote()


@pytest.fixture
def kiosk(classifier: None, server: Server) -> Server:
    """gunicorn after it has seen the classifier, too."""
    return server


def predict(server: Server, client: Any, inputs: Any = INPUTS, **headers: str) -> Any:
    """POST /models/sponsor/predict."""
    return server.ask(client, "POST", "/models/sponsor/predict", inputs, **headers)


def test_one_key_in_parallel_is_answered_once(kiosk: Server) -> None:
    key = {"Idempotency-Key": "once"}
    replies = in_parallel(16, lambda _: predict(kiosk, kiosk.connect(), **key))
    assert statuses(replies) == [200] * 16
    assert len({reply.body for reply in replies}) == 1
    assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1
    assert PredictionRecord.objects.get().answer.encode() == replies[0].body


def test_one_key_for_different_inputs_in_parallel_is_given_to_one(kiosk: Server) -> None:
    def work(number: int) -> Any:
        inputs = INPUTS | {"match_minute": number}
        return predict(kiosk, kiosk.connect(), inputs, **{"Idempotency-Key": "once"})

    assert statuses(in_parallel(16, work)) == [200] + [409] * 15
    assert PredictionRecord.objects.count() == 1


def test_every_worker_follows_the_classifiers_without_a_failed_request(kiosk: Server) -> None:
    classifiers.register("1.1.0", seed=1)
    client = kiosk.connect()
    first = predict(kiosk, client)
    assert (first.status, first.json()["model_version"]) == (200, "v1.0.0"), first.body
    classifiers.promote("1.1.0")
    promoted = time.monotonic()
    versions = []
    while time.monotonic() - promoted < 2.5:
        reply = predict(kiosk, client if len(versions) % 2 else kiosk.connect())
        assert reply.status == 200
        versions.append((time.monotonic() - promoted, reply.json()["model_version"]))
    assert {version for at, version in versions if at > 2} == {"v1.1.0"}
    assert PredictionRecord.objects.count() == len(versions) + 1


class TestOtherOrigins:
    def ask(self, server: Server, method: str, path: str, origin: str) -> Any:
        names = {"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
        return server.ask(server.connect(), method, path, request(), Origin=origin, **names)

    @pytest.mark.parametrize("path", [
        "/score", "/score/batch", "/outcomes", "/labels", "/models/sponsor/predict",
        "/training-runs", "/health",
    ])  # fmt: skip
    def test_preflight(self, process: Server, path: str) -> None:
        reply = self.ask(process, "OPTIONS", path, SHOP)
        assert (reply.status, reply.body) == (200, b"")
        sent = {
            name.removeprefix("access-control-"): value
            for name, value in reply.headers.items()
            if name.startswith("access-control-")
        }
        assert sent == {
            "allow-origin": SHOP, "allow-methods": "GET, POST", "max-age": "600",
            "allow-headers": "authorization, content-type, idempotency-key",
            "expose-headers": "Idempotent-Replayed, Dry-Run, Location, Retry-After",
        }  # fmt: skip
        assert "origin" in reply.headers["vary"].lower()

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", f"{SHOP}.evil.example", f"{SHOP}:8443", "http://shop.example.com",
         "null", "http://[x"],
        ids=range(6),
    )  # fmt: skip
    def test_foreign_ones_are_told_nothing(self, process: Server, origin: str) -> None:
        for method in ("OPTIONS", "POST"):
            headers = self.ask(process, method, "/score", origin).headers
            assert not [name for name in headers if name.startswith("access-control")]

    def test_answers_and_refusals_can_be_read(self, server: Server) -> None:
        reply = self.ask(server, "POST", "/score", "http://localhost:3000")
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (
            200, "http://localhost:3000",
        )  # fmt: skip
        server.key = "sk_wrong"
        reply = self.ask(server, "POST", "/score", SHOP)
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (401, SHOP)

    def test_the_admin_is_not_for_them(self, process: Server) -> None:
        for path in ("/admin/", "/admin/login/", "/", "/scores"):
            headers = self.ask(process, "OPTIONS", path, SHOP).headers
            assert not [name for name in headers if name.startswith("access-control")]


class TestOverTheWire:
    def send(self, server: Server, head: str, body: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            lines = [
                "POST /score HTTP/1.1", "Host: localhost", f"Authorization: Api-Key {server.key}",
                "Content-Type: application/json", "Connection: close", head, "", "",
            ]  # fmt: skip
            client.sendall("\r\n".join(lines).encode())
            try:
                client.sendall(body)
                client.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass
            answer = b""
            while chunk := client.recv(65_536):
                answer += chunk
        return answer

    def test_bodies_of_every_shape(self, server: Server) -> None:
        whole = json.dumps(request()).encode()
        large = json.dumps(request(city="x" * 10_000_000)).encode()
        chunk = f"{len(whole):x}\r\n".encode() + whole + b"\r\n0\r\n\r\n"
        chunks = f"{len(large):x}\r\n".encode() + large + b"\r\n0\r\n\r\n"
        for head, body, status in (
            (f"Content-Length: {len(whole)}", whole, 200),
            ("Transfer-Encoding: chunked", chunk, 200),
            ("Transfer-Encoding: chunked", chunks, 413),
            (f"Content-Length: {len(large)}", large, 413),
            ("Content-Length: 0", b"", 400),
            (f"Content-Length: {len(whole)}", whole[:-10], 400),
            ("Transfer-Encoding: chunked", b"zz\r\n", 400),
            ("Transfer-Encoding: chunked", chunk[:40], 400),
            ("Transfer-Encoding: chunked", b"2\r\n{}XX0\r\n\r\n", 400),
        ):
            answer = self.send(server, head, body)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (head, answer[:300])
            if status != 200:
                assert b"application/problem+json" in answer
        assert Attempt.objects.count() == 1

    def test_other_host_is_refused_as_a_problem(self, server: Server) -> None:
        client = server.connect()
        reply = server.ask(client, "POST", "/score", request(), Host="evil.example")
        assert reply.status == 400
        assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.skipif("sqlite" in os.environ["DATABASE_URL"], reason="SQLite has no server to lose")
def test_database_out_of_reach_is_503_and_comes_back(server: Server) -> None:
    assert server.score(request()).status == 200
    name = connection.settings_dict["NAME"]
    connection.close()
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            for _ in range(6):
                reply = server.score(request())
                assert reply.status == 503
                assert reply.json()["code"] == "DATABASE_UNAVAILABLE"
            time.sleep(4)
            reply = server.health()
            assert (reply.status, reply.json()["status"]) == (503, "unhealthy")
            assert reply.json()["model_version"] == "v1.0.0"
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    time.sleep(1)
    assert [server.score(request()).status for _ in range(10)] == [200] * 10
    assert server.health().status == 200


WEB_PROCESS = """
import io, json, sys
from sentinelle.wsgi import application
from scoring.live_model import live_model
live_model.start()
body = sys.stdin.buffer.read()
environ = {
    "REQUEST_METHOD": "POST", "PATH_INFO": "/score", "CONTENT_TYPE": "application/json",
    "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body), "SERVER_NAME": "localhost",
    "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr,
    "HTTP_AUTHORIZATION": "Api-Key " + sys.argv[1], "REMOTE_ADDR": "127.0.0.1",
}
status = []
application(environ, lambda line, headers: status.append(line))
live_model.stop()
print(json.dumps([status[0], sorted(sys.modules)]))
"""


def test_web_process_imports_nothing_of_training(champion: Any) -> None:
    _, key = services.api_key_create(name="s", scopes=["score"], created_by="test")
    process = subprocess.run(
        [sys.executable, "-c", WEB_PROCESS, key],
        input=json.dumps(request()).encode(),
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": database_url(), "ARTIFACTS_DIR": settings.ARTIFACTS_DIR},
    )
    assert process.returncode == 0, process.stderr.decode()
    status, modules = json.loads(process.stdout)
    assert status.startswith("200")
    # Every client of Google’s loads google.auth; `google` and `google.cloud` alone are names that
    # a package of the tests makes at every start.
    heavy = {"sklearn", "pandas", "duckdb", "joblib", "pyarrow", "shap", "google.auth"}
    assert not heavy & set(modules)
